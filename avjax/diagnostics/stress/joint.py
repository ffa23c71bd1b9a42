"""Corruptions that come in sound and picture at once, of one cause and one severity, as in AVRobustBench (2025).

Its fifteen names, with halves of our own: digital (gaussian, impulse, shot, speckle, compression), environmental (snow,
frost, spatter, wind, rain, underwater) and human-caused (concert, smoke, crowd, interference). Halves share their
clip's key, so what they draw by one name is one: the gusts that are heard shake the camera, the lights flash to the
music, sound and picture fail together.

Corrected against its released code: noise has the SNR of its level, where the code passes the severity's number as
dB; the first cut-off lies below Nyquist; interference leaves its input as it was; snow takes the size of the frame; and
every level of frost has the same texture.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from avjax.diagnostics.stress import ambience, channel, picture, rows, scenes, sound, weather
from avjax.diagnostics.stress.rows import Corruption, Key, Level, Row
from avjax.streams import Stream


@rows.sound("crackle", "dB SNR", sound.AMBIENT, "clip")
def crackle(stream: Stream, level: Level, key: Key) -> Stream:
    """Synthetic crackle, of fire or of ice."""
    return sound.at_snr(stream, ambience.crackle(stream, key), level)


# Water lets little through of what was spoken above it.
MUFFLED = dataclasses.replace(channel.low_pass, levels=(3000, 2000, 1400, 1000, 700), least_rate=6001.0)


def joint(name: str, seen: Corruption, heard: Corruption) -> Corruption:
    """Both halves at once; a level is the numbers of the picture's and then those of the sound's."""
    numbers = np.size(seen.levels[0])

    def function(row: Row, level: Level, key: Key) -> Row:
        shape = np.shape(seen.levels[0])
        return heard.function(seen.function(row, level[:numbers].reshape(shape), key), level[numbers], key)

    return Corruption(
        name=f"joint/{name}",
        modalities=("audio", "video"),
        unit=f"video: {seen.unit}, audio: {heard.unit}",
        levels=tuple(
            (*np.atleast_1d(one).tolist(), other) for one, other in zip(seen.levels, heard.levels, strict=True)
        ),
        what=f"Seen: {seen.what} Heard: {heard.what}",
        drawn=heard.drawn if seen.drawn == "nothing" else seen.drawn,
        function=function,
        least_rate=heard.least_rate,
    )


JOINT = (
    joint("gaussian", picture.gaussian_noise, sound.white_noise),
    joint("impulse", picture.impulse_noise, sound.impulse_noise),
    joint("shot", picture.shot_noise, sound.shot_noise),
    joint("speckle", picture.speckle_noise, sound.speckle_noise),
    joint("compression", picture.jpeg, channel.low_pass),
    joint("snow", weather.snow, sound.wind),
    joint("frost", weather.frost, crackle),
    joint("spatter", weather.spatter, sound.rain),
    joint("wind", scenes.shaking, sound.wind),
    joint("rain", weather.rain, sound.rain),
    joint("underwater", weather.underwater, MUFFLED),
    joint("concert", scenes.lights, sound.music),
    joint("smoke", weather.smoke, crackle),
    joint("crowd", scenes.heads, sound.babble),
    joint("interference", scenes.blackout, channel.dropout),
)
