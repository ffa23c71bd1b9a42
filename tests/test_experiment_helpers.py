"""What the programs of experiments/ share: results that are kept, and commands that end them where they fail."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def helpers(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "experiments")
    import commands
    import kept

    return commands, kept


def test_arrays_are_made_once_and_whole(helpers, tmp_path):
    _, kept = helpers
    path, calls = tmp_path / "measured" / "a_0.25.npz", []

    def fails():
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        kept.kept_arrays(path, fails)
    assert not path.parent.exists()

    def make():
        calls.append(1)
        return {"drop,sound,0.5": np.arange(3)}

    for _ in range(2):
        found = kept.kept_arrays(path, make)
        np.testing.assert_array_equal(found["drop,sound,0.5"], [0, 1, 2])
    assert len(calls) == 1
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_command_that_fails_ends_the_program(helpers, capsys, tmp_path):
    commands, _ = helpers
    commands.avjax("--version")
    with pytest.raises(SystemExit) as ended:
        commands.avjax("eval", str(tmp_path / "nothing"))
    assert ended.value.code
    assert f"avjax eval {tmp_path / 'nothing'}" in capsys.readouterr().out


def test_a_run_that_was_stopped_is_not_gone_on_from(helpers, tmp_path, monkeypatch):
    """A signal ends a training with status 0, before its results are there."""
    commands, _ = helpers
    run, said = tmp_path / "run", []

    def main(words):
        said.append(words)
        return 0

    monkeypatch.setattr(commands, "main", main)
    with pytest.raises(SystemExit, match="interrupted"):
        commands.train_run("tiny.py", run, tmp_path, "--seed", "1", steps=2)
    run.mkdir()
    (run / "results.json").write_text("{}")
    commands.train_run("tiny.py", run, tmp_path)
    common = ("train", "tiny.py", "--out", str(run), "--data.records", str(tmp_path))
    assert said == [(*common, "--training.steps", "2", "--seed", "1"), common]
