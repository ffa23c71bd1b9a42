"""How a modality is made absent: the fills, one meaning each for everything that asks for one.

    drop       valid nowhere: hidden from every layer, as a modality that was never recorded
    learned    the same clips; the name of a model's number where it was trained with a token for what is missing
    zero       there, and zero: silence, black frames
    mean       there, and the mean over clips and time, of each pixel and channel
    noise      there, and Gaussian of that mean and standard deviation
    marginal   there, and that of another clip

Results under two fills are two numbers, and the fill is in the name of each. What a clip lacks already it lacks under
any fill. What is drawn follows from the seed and the record's number, never from the row.
"""

from __future__ import annotations

import dataclasses
import zlib
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.contribution.performance import derangement
from avjax.diagnostics.measured import Undefined
from avjax.streams import Stream, beside

Fill = Literal["drop", "zero", "mean", "noise", "marginal", "learned"]
FILLS: tuple[Fill, ...] = get_args(Fill)

Steps = Bool[np.ndarray, "B T"]


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """Of one modality over clips and valid steps: of waveforms one number, of frames one a pixel and channel.

    Attributes:
      mean: [...].
      deviation: [...], standard.
    """

    mean: Float[np.ndarray, "*shape"]
    deviation: Float[np.ndarray, "*shape"]


def moments(clips: Clips, modality: str) -> Moments:
    """Mean and standard deviation over the clips' valid steps, in float64."""
    stream = clips.streams[modality]
    count = int(np.asarray(stream.valid).sum())
    if not count:
        raise Undefined(f"no clip has {modality}: it has no mean")
    # Row by row: all clips at once in float64 would be several times their size.
    shape = stream.values.shape[2:]
    mean, square = np.zeros(shape), np.zeros(shape)
    for values, valid in zip(stream.values, stream.valid, strict=True):
        mean += values[valid].sum(axis=0, dtype=np.float64)
    mean /= count
    for values, valid in zip(stream.values, stream.valid, strict=True):
        square += ((values[valid] - mean) ** 2).sum(axis=0)
    return Moments(mean, np.asarray(np.sqrt(square / count)))


def absent(
    clips: Clips, modality: str, fill: Fill, *, seed: int = 0, of: Moments | None = None, steps: Steps | None = None
) -> Clips:
    """The clips without a modality, or without some of its steps.

    Args:
      fill: how; see above.
      seed: of noise, and of whose modality it is.
      of: the data set's, for mean and noise; these clips' own unless told.
      steps: which steps go; all unless told.
    """
    stream = clips.streams[modality]
    if fill == "marginal":
        return _exchanged(clips, modality, others(clips, modality, seed=seed), steps)
    gone = np.asarray(stream.valid) if steps is None else np.asarray(stream.valid) & steps
    if fill in ("drop", "learned"):
        kept = np.where(beside(gone, stream.values), 0, stream.values).astype(stream.values.dtype)
        return clips.replace({modality: stream.replace(values=kept, valid=stream.valid & ~gone)})
    if fill == "zero":
        values = np.zeros_like(stream.values)
    elif fill in ("mean", "noise"):
        known = moments(clips, modality) if of is None else of
        values = np.broadcast_to(known.mean.astype(stream.values.dtype), stream.values.shape)
        if fill == "noise":
            values = _noise(stream, known, clips.index, f"{modality} noise", seed)
    else:
        raise ValueError(f"{fill!r} is no fill; there are {', '.join(FILLS)}")
    filled = np.where(beside(gone, stream.values), values, stream.values)
    return clips.replace({modality: stream.replace(values=filled)})


def others(clips: Clips, modality: str, *, seed: int = 0) -> Int[np.ndarray, " B"]:
    """Row whose modality each clip gets: of another clip that has it, each taken once; its own where it has none.

    Pitfall: rows of one source video may get each other's.
    """
    has = np.asarray(clips.streams[modality].valid).any(axis=1)
    # By number of the record, so that the order of rows does not matter.
    rows = np.flatnonzero(has)
    rows = rows[np.argsort(clips.index[rows], kind="stable")]
    order = np.arange(len(clips))
    if len(rows):
        order[rows] = rows[derangement(len(rows), np.random.default_rng((seed, _number(modality))))]
    return order


def draws(clips: Clips, name: str, *, seed: int = 0) -> Float[np.ndarray, " B"]:
    """One number uniform in [0, 1) for each clip, of the draw ``name``."""
    return np.array([generator(seed, index, name).random() for index in clips.index])


def generator(seed: int, index: int | np.integer, name: str) -> np.random.Generator:
    """Of one clip and one draw."""
    return np.random.default_rng((seed, int(index), _number(name)))


def with_others(clips: Clips, modality: str, order: Int[np.ndarray, " B"]) -> Clips:
    """The clips with the modality of the rows ``order``: values, and which of them are there."""
    stream = clips.streams[modality]
    return clips.replace({modality: stream.replace(values=stream.values[order], valid=stream.valid[order])})


def _exchanged(clips: Clips, modality: str, order: Int[np.ndarray, " B"], steps: Steps | None) -> Clips:
    """The steps that go are those of another row, there or not as they are there; so is the length of the whole."""
    if steps is None:
        return with_others(clips, modality, order)
    stream = clips.streams[modality]
    values = np.where(beside(steps, stream.values), stream.values[order], stream.values)
    valid = np.where(steps, stream.valid[order], stream.valid)
    return clips.replace({modality: stream.replace(values=values, valid=valid)})


def _noise(
    stream: Stream, of: Moments, index: Int[np.ndarray, " B"], name: str, seed: int
) -> Num[np.ndarray, "B T *shape"]:
    """Within the range of sound and of pictures: what is beyond full scale could not be recorded."""
    found = np.empty_like(stream.values)
    for row, number in enumerate(index):
        drawn = generator(seed, number, name).standard_normal(stream.values.shape[1:], np.float32)
        found[row] = drawn * of.deviation + of.mean
    low, high = {2: (-1, 1), 5: (0, 1)}.get(stream.values.ndim, (-np.inf, np.inf))
    return np.clip(found, low, high)


def _number(name: str) -> int:
    return zlib.crc32(name.encode())
