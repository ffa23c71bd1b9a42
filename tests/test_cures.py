"""experiments/cures.py: what it measures of made predictions, and of a function that only listens."""

from __future__ import annotations

import numpy as np
import pytest

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.probe import FunctionProbe
from avjax.streams import Stream


@pytest.fixture
def program(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "experiments")
    import cures

    return cures


@pytest.fixture
def arrays():
    """Eight clips of two classes; sound is right in six and sure of it, pictures in four, both in seven."""
    label = np.array([0, 0, 0, 0, 1, 1, 1, 1])

    def predicted(wrong, sure):
        chosen = np.where(np.isin(np.arange(8), wrong), 1 - label, label)
        return np.where(np.arange(2) == chosen[:, None], sure, 1 - sure)

    return {
        "target:emotion": np.eye(2)[label],
        "predicted:emotion": predicted([7], 0.9),
        "predicted:emotion/audio": predicted([6, 7], 0.8),
        "predicted:emotion/video": predicted([0, 1, 6, 7], 0.6),
    }


EVERY = np.arange(8)


def test_statistics(program, arrays):
    assert program.accuracy(arrays, EVERY) == pytest.approx(7 / 8)
    assert program.own_accuracy(arrays, EVERY) == pytest.approx(4 / 8)
    assert program.worst_class(arrays, EVERY) == pytest.approx(3 / 4)
    assert program.class_gap(arrays, EVERY) == pytest.approx(1 / 4)
    # A class that no row has counts for nothing.
    assert program.worst_class(arrays, EVERY[:4]) == 1
    assert program.class_gap(arrays, EVERY[:4]) == 0
    audio, video = (6 * 0.8 + 2 * 0.2) / 8, 0.5
    assert program.own_ratio(arrays, EVERY) == pytest.approx(np.log10(audio / video), abs=1e-6)
    shares = {"audio_share": np.array([[0.9, 0.1], [0.7, 0.1]])}
    # 0.3 above in one layer and 0.4 below in the other: they do not cancel.
    assert program.uneven_attention(shares, np.arange(2)) == pytest.approx(0.35)


def test_differences_are_paired_and_say_their_way(program):
    """Where the remedy rights the same two of eight clips in both seeds, no draw of clips can make it worse."""
    wrong = np.array([True] * 4 + [False] * 4)
    pair = [{"right": ~wrong}, {"right": ~wrong | (EVERY < 2)}]
    cure = program.Cure("accuracy", "higher", None, program.mean_right)
    found = program.difference([pair, pair], cure)
    assert (found["without"], found["with"], found["difference"]) == (0.5, 0.75, 0.25)
    assert 0 <= found["low"] <= 0.25 <= found["high"]
    same = program.difference([[pair[0]] * 2], cure)
    assert (same["low"], same["high"], same["said"]) == (0, 0, "not told apart")
    for better, said in (("higher", "better"), ("lower", "worse")):
        sure = [{"right": np.zeros(8)}, {"right": np.ones(8)}]
        assert program.difference([sure], program.Cure("x", better, None, program.mean_right))["said"] == said


def test_every_remedy_has_a_measure(program):
    import remedies

    assert set(program.CURES) == set(remedies.PAIRS)
    found = {"synthetic": True, "seeds": (0,), "rows": [
        {"remedy": "late_groups", "measure": "accuracy", "better": "higher", "without": 0.5, "with": 0.75,
         "difference": 0.25, "low": -0.125, "high": 0.5, "said": "not told apart"}]}  # fmt: skip
    row = program.table(found).splitlines()[2]
    assert row == "| late_groups | accuracy (higher) | 0.500 | 0.750 | +0.250 | -0.125 to +0.500 | not told apart |"


@pytest.mark.slow
def test_a_listener_needs_its_sound_alone(program, rng):
    """Loud or quiet: right without pictures and in their noise; without sound one class is told for all."""
    label = np.arange(8) % 2
    sound = rng.uniform(0.5, 1, (8, 4000)) * rng.choice([-1, 1], (8, 4000)) * np.where(label, 0.4, 0.001)[:, None]

    def loudness(clips: Clips) -> np.ndarray:
        loud = np.where(clips.streams["audio"].valid, clips.streams["audio"].values, 0).std(axis=1)
        return np.stack([0.05 - loud, loud - 0.05], axis=1)

    valid = {"audio": np.ones((8, 4000), bool), "video": np.ones((8, 4), bool)}
    frames = rng.uniform(size=(8, 4, 32, 32, 3)).astype(np.float32)
    streams = {
        "audio": Stream(sound.astype(np.float32), valid["audio"], np.zeros(8), 16000.0),
        "video": Stream(frames, valid["video"], np.zeros(8), 16.0),
    }
    clips = Clips(streams, label, tuple(map(str, range(8))), np.arange(8))
    looked = program.Looked(FunctionProbe(("audio", "video"), "loud", ("quiet", "loud"), 8, loudness), clips)
    found = looked.without()
    assert found["without_video"].all()
    np.testing.assert_array_equal(found["without_audio"], label == 0)
    assert looked.corrupted()["video/gaussian_noise"].all()
