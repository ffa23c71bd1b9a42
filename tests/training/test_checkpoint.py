"""Checkpoints: whole or not there, checked when read, the newest and the best of them kept."""

from __future__ import annotations

import json
import logging
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import nnx

from avjax.nn.transformer import Size
from avjax.training.checkpoint import (
    CheckpointError,
    Checkpoints,
    better_than,
    named_leaves,
    problem_of,
    score_of,
    silence_closed_loops,
)
from avjax.training.on_mesh import at_step
from avjax.training.sharding import MeshShape, Rules, state_sharding
from tests.models import tiny

CLASSES = {"emotion": 4}


@pytest.fixture(scope="module")
def state():
    """A small state on eight devices."""
    model = tiny.config(size=Size(16, 1, 2), fusion_layer=0, classes=CLASSES).build(nnx.Rngs(0))
    made, params, buffers = tiny.steps(model, average=0.9)
    state = made.create(params, buffers)
    return jax.device_put(state, state_sharding(MeshShape(data=2, fsdp=4).build(), Rules(), state))


def target(state, shape=MeshShape()):
    """The same state, abstract, on another mesh."""
    shardings = state_sharding(shape.build(), Rules(), state)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings)


def written(path, state, *steps, keep=9, scores=()):
    checkpoints = Checkpoints(path, keep, best_by="loss")
    for step, score in zip(steps, [*scores, *[None] * len(steps)], strict=False):
        entry = {} if score is None else {"score": {"name": "loss", "value": score, "higher_is_better": False}}
        checkpoints.save(at_step(state, step), {"step": step} | entry)
    checkpoints.close()
    return Checkpoints(path, keep, best_by="loss")


@pytest.mark.parametrize("shape", [MeshShape(8), MeshShape(1, 4, 2), MeshShape(2, 2, 1, 2)])
@pytest.mark.slow
def test_what_was_written_is_read_onto_any_mesh(shape, state, tmp_path):
    checkpoints = written(tmp_path, state, 3)
    loaded, position = checkpoints.load(checkpoints.newest(), target(state, shape))
    assert position == {"step": 3}
    expected = named_leaves(at_step(state, 3))
    for name, value in named_leaves(loaded).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    for value, wanted in zip(jax.tree.leaves(loaded), jax.tree.leaves(target(state, shape)), strict=True):
        assert value.sharding.is_equivalent_to(wanted.sharding, value.ndim)


@pytest.mark.slow
def test_the_newest_and_the_best_stay(state, tmp_path):
    checkpoints = written(tmp_path, state, 1, 2, 3, 4, 5, keep=2, scores=(0.9, 0.4, 0.6, 0.4, 0.7))
    # Of equal scores the earlier.
    assert checkpoints.finished() == [2, 4, 5]
    assert checkpoints.best() == 2
    assert checkpoints.newest() == 5
    assert checkpoints.score(5)["value"] == 0.7
    assert written(tmp_path / "none", state, 1, 2, 3, keep=1).finished() == [3]
    assert Checkpoints(tmp_path / "none").best() is None


def test_trouble_with_an_old_one_does_not_touch_the_new(state, tmp_path, monkeypatch, caplog):
    checkpoints = written(tmp_path, state, 1, 2, keep=2, scores=(0.5, 0.6))
    (tmp_path / "1" / "position.json").write_text("{ not json")
    checkpoints.save(at_step(state, 3), {"step": 3})
    checkpoints.wait()
    assert checkpoints.newest() == 3
    assert checkpoints.best() == 2

    def refuse(path, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("avjax.training.checkpoint.shutil.rmtree", refuse)
    for step in (4, 5):
        checkpoints.save(at_step(state, step), {"step": step})
        checkpoints.wait()
    assert checkpoints.newest() == 5
    assert "could not be removed" in caplog.text


def test_what_was_read_is_not_written_over(state, tmp_path):
    checkpoints = written(tmp_path, state, 1)
    loaded, _ = checkpoints.load(1, target(state))
    checkpoints.save(loaded, {"step": 1})
    checkpoints.close()
    assert Checkpoints(tmp_path).newest() == 1


def test_scores_of_another_name_do_not_count(state, tmp_path):
    written(tmp_path, state, 1, scores=(0.5,))
    assert Checkpoints(tmp_path, best_by="loss").best() == 1
    assert Checkpoints(tmp_path, best_by="emotion/accuracy").best() is None


def test_nothing_is_nothing(tmp_path):
    assert Checkpoints(tmp_path / "absent").newest(repair=True) is None
    assert Checkpoints(tmp_path / "absent").best() is None


def arrays(folder):
    """The largest file of a checkpoint."""
    return max((file for file in folder.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)


@pytest.mark.parametrize("damage", ["cut", "flip", "missing", "checksums", "position"])
def test_damage_is_seen(damage, state, tmp_path, caplog, rng):
    caplog.set_level(logging.WARNING)
    checkpoints = written(tmp_path, state, 1, 2)
    folder = tmp_path / "2"
    file = {"checksums": folder / "checksums.json", "position": folder / "position.json"}.get(damage, arrays(folder))
    content = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(content[:-1])
    else:
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        file.write_bytes(content)
    assert checkpoints.newest() == 1
    assert len(caplog.records) == 1
    message = caplog.records[0].getMessage()
    assert "checkpoint 2: " in message
    assert "using the one of step 1" in message
    # Only who goes on from there clears away.
    assert folder.is_dir()
    assert checkpoints.newest(repair=True) == 1
    assert not folder.exists()
    assert (tmp_path / "damaged-2").is_dir()
    assert checkpoints.finished() == [1]


def test_whole_checkpoints_have_no_problem(state, tmp_path):
    written(tmp_path, state, 1)
    assert problem_of(tmp_path / "1") is None


def test_an_unfinished_checkpoint_is_not_there(state, tmp_path, caplog):
    checkpoints = written(tmp_path, state, 1, 2)
    (tmp_path / "2" / "checksums.json").unlink()
    assert checkpoints.newest() == 1
    assert not caplog.records
    assert checkpoints.newest(repair=True) == 1
    assert not (tmp_path / "2").exists()
    # And can be written again.
    assert written(tmp_path, state, 2).newest() == 2


def test_where_all_are_damaged_nothing_is_touched(state, tmp_path):
    checkpoints = written(tmp_path, state, 1, 2)
    for step in "12":
        (tmp_path / step / "position.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"every checkpoint in .* is damaged .*delete the folder to start over"):
        checkpoints.newest(repair=True)
    assert checkpoints.finished() == [1, 2]


def test_another_model_is_told(state, tmp_path):
    checkpoints = written(tmp_path, state, 1)
    other = tiny.config(size=Size(16, 2, 2), fusion_layer=0, classes=CLASSES).build(nnx.Rngs(0))
    made, params, buffers = tiny.steps(other, average=0.9)
    with pytest.raises(CheckpointError, match="does not hold what the experiment has"):
        checkpoints.load(1, target(made.create(params, buffers)))


def test_a_write_that_fails_is_told_and_leaves_nothing(state, tmp_path, monkeypatch):
    checkpoints = written(tmp_path, state, 1)

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("avjax.training.checkpoint.checksums", fail)
    checkpoints.save(at_step(state, 2), {"step": 2})
    with pytest.raises(CheckpointError, match=r"No space left on device.*goes on from step 1"):
        checkpoints.wait()
    assert not (tmp_path / "2").exists()
    monkeypatch.undo()
    assert checkpoints.newest() == 1


def test_of_what_cannot_be_raised_only_closed_loops_are_silent(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(unraisable.exc_value))
    silence_closed_loops.__wrapped__()
    closed, other = RuntimeError("Event loop is closed"), RuntimeError("something else")
    for error in (closed, other, ValueError("Event loop is closed"), None):
        sys.unraisablehook(SimpleNamespace(exc_value=error))
    assert closed not in told
    assert len(told) == 3
    assert told[0] is other


def test_a_full_disk_is_seen_before_it_is_written_to(state, tmp_path, monkeypatch):
    checkpoints = written(tmp_path, state, 1)
    monkeypatch.setattr("avjax.training.checkpoint.OVERHEAD_BYTES", 2**60)
    with pytest.raises(CheckpointError, match=r"No space left: .* MB are needed, .* MB are free"):
        checkpoints.save(at_step(state, 2), {"step": 2})
    assert checkpoints.finished() == [1]
    assert not (tmp_path / "2").exists()


def test_the_checksums_are_of_every_file(state, tmp_path):
    written(tmp_path, state, 1)
    named = json.loads((tmp_path / "1" / "checksums.json").read_text())
    files = {f.relative_to(tmp_path / "1").as_posix() for f in (tmp_path / "1").rglob("*") if f.is_file()}
    assert named.keys() == files - {"checksums.json"}
    assert any(name.startswith("arrays/") for name in named)


def test_scores():
    numbers = {"validation/loss": 0.5, "validation/emotion/accuracy": 0.7}
    loss, accuracy = (score_of(name, numbers, "accuracy") for name in ("loss", "emotion/accuracy"))
    assert (loss["higher_is_better"], accuracy["higher_is_better"]) == (False, True)
    assert better_than(loss, loss | {"value": 0.6})
    assert not better_than(loss, loss)
    assert better_than(accuracy, accuracy | {"value": 0.6})
    assert score_of("loss", {"validation/loss": float("nan")}, "accuracy") is None
    assert score_of("primary", numbers, "accuracy") == accuracy | {"name": "primary"}
    assert score_of("primary", numbers, "ccc") == loss | {"name": "primary"}
    errors = {"validation/text/audio/wer": 0.1, "validation/text/wer": 0.4, "validation/loss/text": 2.0}
    assert score_of("primary", errors, "wer") == {"name": "primary", "value": 0.4, "higher_is_better": False}
    assert not score_of("loss/text", errors, "wer")["higher_is_better"]
    with pytest.raises(ValueError, match="did you mean emotion/accuracy"):
        score_of("emotion/acuracy", numbers, "accuracy")
