"""What every corruption of the suite must do, and the golden numbers of all of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from avjax.diagnostics.measured import Undefined
from avjax.diagnostics.stress import corruption
from avjax.diagnostics.stress.corruption import SUITE, corrupted, unchanged
from avjax.diagnostics.stress.rows import RANGE
from avjax.streams import Stream
from tests.diagnostics.stress.clips import ROWS, clips, corrupt_rows, scatter, stream

GOLDEN = Path(__file__).with_name("golden.json")
# One of each kind whose program compiles fast; the others are slow.
QUICK = {"audio/gain", "audio/quantisation", "audio/white_noise", "video/contrast", "video/freeze", "video/jpeg"}
ENTRIES = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.long if place % 4 else pytest.mark.slow)
    for place, name in enumerate(SUITE)
]
CUT, MISSING, SILENT = 1, 2, 3


@pytest.fixture(autouse=True)
def unoptimised(monkeypatch):
    monkeypatch.setattr(corruption, "_rows", corrupt_rows)


def with_gaps() -> dict[str, Stream]:
    """Clips of which one ends early, one is missing and one is silent; NaN where nothing is valid."""
    made = {}
    for modality, whole in clips().items():
        values, valid = whole.values.copy(), whole.valid.copy()
        valid[CUT, -(valid.shape[1] // 4) :] = False
        valid[MISSING] = False
        values[~valid] = np.nan
        if modality == "audio":
            values[SILENT] = 0
        made[modality] = whole.replace(values=values, valid=valid)
    return made


def bands(wave: np.ndarray) -> np.ndarray:
    """Logarithms of energies in third octaves, every 50 ms."""
    frames = wave.reshape(len(wave), -1, 800) * np.hanning(800)
    power = np.abs(np.fft.rfft(frames)) ** 2
    number = np.floor(3 * np.log2(np.maximum(np.fft.rfftfreq(800, 1 / 16_000), 1) / 60)).astype(int)
    return np.stack([np.log(power[..., number == n].sum(-1) + 1e-3) for n in range(21) if (number == n).any()], -1)


def distortion(name: str, before: Stream, after: Stream) -> float:
    """Mean square error over clips; of energies where a waveform of another pitch or speed is as far as any other."""
    one, other = (np.where(_beside(side), side.values, 0).astype(np.float64) for side in (before, after))
    if name in ("audio/pitch", "audio/speed"):
        one, other = bands(one), bands(other)
    return float(np.square(one - other).mean())


def _beside(side: Stream) -> np.ndarray:
    return side.valid.reshape(side.valid.shape + (1,) * (side.values.ndim - 2))


@pytest.mark.parametrize("name", ENTRIES)
def test_contract(name):
    """Severity 0 is the clip; the others keep range, type, shape and what is not valid, follow from seed and number of
    the clip alone, and distort more and more."""
    entry, before, index = SUITE[name], with_gaps(), np.arange(ROWS)
    touched = entry.modalities
    for severity in (0, 1, 5):
        after = corrupted(before, name, severity, seed=7, index=index)
        for modality, stream_before in before.items():
            found = after[modality]
            assert isinstance(found.values, np.ndarray)
            assert (found.values.shape, found.values.dtype) == (stream_before.values.shape, np.float32)
            assert found.valid.dtype == bool
            assert found.rate == stream_before.rate
            # What is not valid is untouched, and stays so.
            outside = ~stream_before.valid
            np.testing.assert_array_equal(found.values[outside], stream_before.values[outside])
            assert not (found.valid & outside).any()
            inside = found.values[stream_before.valid]
            low, high = RANGE[modality]
            assert ((inside >= low) & (inside <= high)).all()
            if severity == 0 or modality not in touched:
                np.testing.assert_array_equal(found.values, stream_before.values)
                np.testing.assert_array_equal(found.valid, stream_before.valid)
        for modality, same in unchanged(before, after).items():
            assert same[MISSING]
            assert same.all() or (severity and modality in touched)
            assert same[SILENT] or modality == "video" or "SNR" not in entry.unit

    # Other clips beside it, in another order.
    order = np.roll(index, 5)
    strangers = index % 2 == 1
    other = {
        modality: part.replace(
            values=np.where(strangers.reshape(-1, *[1] * (part.values.ndim - 1)), 0.25, part.values[order]).astype(
                np.float32
            ),
            valid=part.valid[order],
        )
        for modality, part in before.items()
    }
    moved = corrupted(other, name, 5, seed=7, index=np.where(strangers, 1000, order))
    again = corrupted(before, name, 5, seed=8, index=index)
    for modality in touched:
        np.testing.assert_array_equal(moved[modality].values[~strangers], after[modality].values[order[~strangers]])
        np.testing.assert_array_equal(moved[modality].valid[~strangers], after[modality].valid[order[~strangers]])
    same = [unchanged(after, again)[modality].all() for modality in touched]
    assert all(same) == (entry.drawn == "nothing")

    whole = clips()
    levels = [corrupted(whole, name, severity, seed=0, index=index) for severity in range(1, 6)]
    for modality in touched:
        found = [distortion(name, whole[modality], level[modality]) for level in levels]
        assert found[0] > 0
        assert (np.diff(found) > 0).all(), f"{modality}: {found}"
    golden = json.loads(GOLDEN.read_text())[name]
    assert golden.keys() == set(touched)
    for modality, expected in golden.items():
        number, unit = checksum(levels[2][modality])
        # JAX 0.10.2 and 0.12 differ by 2 in a million; other draws would differ by as much as the unit.
        assert abs(number - expected) < 1e-4 * unit


def checksum(found: Stream) -> tuple[float, float]:
    """Sum of the first clips' values with scattered weights, and how large such a sum is."""
    values = np.where(_beside(found), found.values, 0)[:4].astype(np.float64).reshape(-1)
    return float(values @ scatter(len(values))), float(np.sqrt(np.square(values).sum() / 3))


def test_the_golden_numbers_are_of_this_suite():
    assert list(json.loads(GOLDEN.read_text())) == list(SUITE)


def test_the_suite_says_what_it_is():
    for name, entry in SUITE.items():
        assert entry.name == name
        assert re.fullmatch(r"(audio|video|joint)/[a-z_]+", name)
        kind = name.split("/")[0]
        assert entry.modalities == (("audio", "video") if kind == "joint" else (kind,))
        assert entry.unit
        assert entry.what.endswith(".")
        numbers = {np.size(level) for level in entry.levels}
        assert len(numbers) == 1
        assert len(set(entry.levels)) == 5
    assert len({entry.what for entry in SUITE.values()}) == len(SUITE)


def test_arrays_of_jax_stay_so():
    before = jax.tree.map(jax.numpy.asarray, clips())
    index = jax.numpy.arange(ROWS)
    outside = corrupted(before, "audio/white_noise", 2, seed=1, index=index)
    assert isinstance(outside["audio"].values, jax.Array)
    assert outside["video"] is before["video"]


def test_what_cannot_be_corrupted_says_why():
    index = np.arange(2)
    features = {"video": stream(np.zeros((2, 5, 8), np.float32), 5.0)}
    with pytest.raises(Undefined, match="holds features"):
        corrupted(features, "video/fog", 1, seed=0, index=index)
    with pytest.raises(Undefined, match="the clips have video"):
        corrupted(features, "joint/rain", 1, seed=0, index=index)
    telephone = {"audio": stream(np.zeros((2, 800), np.float32), 8000.0)}
    with pytest.raises(Undefined, match="changes nothing in sound of 8000 Hz"):
        corrupted(telephone, "audio/low_pass", 1, seed=0, index=index)
    with pytest.raises(ValueError, match="severity 6"):
        corrupted(telephone, "audio/gain", 6, seed=0, index=index)
    with pytest.raises(KeyError):
        corrupted(telephone, "audio/whispers", 1, seed=0, index=index)
