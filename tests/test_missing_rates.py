"""experiments/missing_rates.py: what it asks of a model, and how it is shown."""

from __future__ import annotations

import numpy as np
import pytest

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.probe import FunctionProbe
from avjax.streams import Stream


@pytest.fixture
def program(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "experiments")
    import missing_rates

    return missing_rates


def test_a_listener_lacks_its_sound_alone(program, rng):
    """Loud or quiet: silence is quiet. Whatever pictures lack, it is right; of sound, where the quiet ones are."""
    number = 40
    label = np.arange(number) % 2
    values = {
        "audio": (rng.uniform(0.5, 1, (number, 50)) * np.where(label, 1, 0.01)[:, None]).astype(np.float32),
        "video": rng.uniform(size=(number, 4, 8, 8, 3)).astype(np.float32),
    }
    streams = {m: Stream(x, np.ones(x.shape[:2], bool), np.zeros(number), 4.0) for m, x in values.items()}
    clips = Clips(streams, label, tuple(map(str, range(number))), np.arange(number))

    def loudness(clips: Clips) -> np.ndarray:
        loud = np.where(clips.streams["audio"].valid, clips.streams["audio"].values, 0).mean(axis=1)
        return np.stack([0.2 - loud, loud - 0.2], axis=1)

    probe = FunctionProbe(("audio", "video"), "loud", ("quiet", "loud"), 16, loudness)
    options = program.Options(test_rates=(0.0, 0.5, 1.0), fills=("drop", "mean"))
    found = program.right_at(probe, clips, options)
    assert len(found) == 2 * 3 * 3
    for fill in ("drop", "mean"):
        for rate in ("0", "0.5", "1"):
            assert found[f"{fill},pictures,{rate}"].all()
        for pattern in program.PATTERNS:
            assert found[f"{fill},{pattern},0"].all()
    # Dropped sound is silence, and its mean is loud.
    np.testing.assert_array_equal(found["drop,sound,1"], label == 0)
    np.testing.assert_array_equal(found["mean,sound,1"], label == 1)
    assert label.mean() < found["drop,sound,0.5"].mean() < 1
    assert found["drop,either,1"].sum() > found["drop,sound,1"].sum()


def test_tables_and_figures_have_every_cell(program, tmp_path):
    train, test = (0.5, 0.0), (0.0, 0.25, 1.0)
    cells = [
        {"fill": fill, "lacking": pattern, "train_rate": one, "test_rate": other,
         "accuracy": one / 2 + other / 4, "low": 0.0, "high": 1.0}
        for fill in ("drop", "zero") for pattern in program.PATTERNS for one in train for other in test
    ]  # fmt: skip
    found = {"synthetic": True, "seeds": (0,), "clips": 8, "cells": cells}
    rows, columns, accuracy = program.matrix(found, "zero", "either")
    assert (rows, columns) == ([0, 0.5], [0, 0.25, 1])
    np.testing.assert_array_equal(accuracy, [[0, 0.0625, 0.25], [0.25, 0.3125, 0.5]])
    lines = program.table(found)
    assert len(lines) == 2 + 2 * 3 * 2
    assert "synthetic" in lines[0]
    assert lines[-1] == "| zero | either | 0.5 | 0.250 | 0.312 | 0.500 |"
    program.plot(found, tmp_path / "rates.svg")
    drawn = (tmp_path / "rates.svg").read_text()
    assert "SYNTHETIC" in drawn
    assert drawn.count("without sound") == 2
