"""The loop: resumes bit for bit, gives the same losses on any mesh, stops at what is not a number."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c

from avjax.data.pipeline import training_batches
from avjax.experiment import load
from avjax.run import Run
from avjax.training.checkpoint import Checkpoints, named_leaves
from avjax.training.interruption import NonFiniteLoss
from avjax.training.loop import train
from avjax.training.on_mesh import DeviceBatches, build_state, jit_train
from avjax.training.sharding import MeshShape, Rules
from avjax.training.tracking import Stopwatch, Tracker, speed
from tests.fixtures.records import write_experiment, write_records


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """An experiment file on tiny records."""
    folder = tmp_path_factory.mktemp("tiny")
    return write_experiment(folder / "experiments", write_records(folder / "records"))


def start(tiny, path, *words):
    experiment, source = load(tiny, words)
    return experiment, Run.create(path, experiment, source)


def losses(run: Run) -> dict[int, float]:
    return {line["step"]: line["train/loss"] for line in run.metrics() if "train/loss" in line}


def parameters(run: Run) -> dict[str, np.ndarray]:
    """Every array of the newest checkpoint: parameters, moments, step."""
    experiment = run.experiment()
    _, _, abstract = build_state(experiment, experiment.training.mesh.build())
    checkpoints = Checkpoints(run.checkpoints)
    state, _ = checkpoints.load(checkpoints.newest(), abstract)
    return {name: np.asarray(value) for name, value in named_leaves(state).items()}


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """A run of 20 steps on all 8 host devices, rows over data."""
    experiment, run = start(tiny, tmp_path_factory.mktemp("runs") / "whole")
    train(experiment, run, quiet=True)
    return run


@pytest.mark.slow
def test_a_run_holds_what_the_design_says(whole):
    assert {path.name for path in whole.path.iterdir()} >= {
        "experiment", "command.json", "config.json", "dataset.json", "metrics.jsonl", "events", "checkpoints",
        "predictions", "results.json",
    }  # fmt: skip
    assert {path.name for path in (whole.path / "experiment").glob("*.py")} == {"tiny.py", "tiny_parts.py"}
    results = whole.results()
    assert results["steps"] == 20
    for split in ("validation", "test"):
        accuracy = results[split]["metrics"]["label"]["accuracy"]
        assert 0 <= accuracy["low"] <= accuracy["value"] <= accuracy["high"] <= 1
        assert accuracy["count"] == 10
    lines = [line for line in whole.metrics() if "train/loss" in line]
    assert [line["step"] for line in lines] == [5, 10, 15, 20]
    assert {"speed/clips_per_second", "speed/step_seconds_p95", "speed/data_share"} <= lines[-1].keys()
    assert lines[-1]["train/loss"] < lines[0]["train/loss"]
    assert all(0 <= line["speed/data_share"] <= 1 for line in lines if "speed/data_share" in line)
    assert results["synthetic"] is True


@pytest.mark.parametrize("mesh", [None, ("fsdp", 8), ("data", 2, "fsdp", 4)])
@pytest.mark.slow
@pytest.mark.long
def test_losses_are_the_same_on_any_mesh(tiny, whole, tmp_path, mesh):
    """None is one device: steps alone, since a run takes all devices there are."""
    if mesh is None:
        expected = losses(whole)
        found = _losses_on_one_device(tiny)
        np.testing.assert_allclose([np.mean(found[at - 5 : at]) for at in expected], list(expected.values()), rtol=1e-4)
        return
    words = ("--training.mesh.data", "1") if "data" not in mesh else ()
    for axis, extent in zip(mesh[::2], mesh[1::2], strict=True):
        words += (f"--training.mesh.{axis}", str(extent))
    experiment, run = start(tiny, tmp_path / "run", *words)
    train(experiment, run, quiet=True)
    found, expected = losses(run), losses(whole)
    assert found.keys() == expected.keys()
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-4)


def _losses_on_one_device(tiny) -> list[float]:
    experiment, _ = load(tiny)
    mesh = MeshShape().build(jax.devices()[:1])
    steps, create, _ = build_state(experiment, mesh)
    on_device, state = DeviceBatches(mesh, Rules(), 8), create()
    step, found = jax.jit(steps.train), []
    for batch in training_batches(experiment.data, seed=0, start=0, steps=20):
        state, metrics = step(state, on_device(batch), jax.random.key(0))
        found.append(float(metrics["loss"]))
    return found


def test_the_stopwatch_counts_what_it_says(monkeypatch):
    """Two steps of a second, half of it waiting; the first step and what comes after a pause count nowhere."""
    clock = iter([0.0, 5.0, 6.0, 6.0, 6.5, 7.0, 7.0, 7.5, 8.0, 8.0, 9.0, 10.0])
    monkeypatch.setattr("avjax.training.tracking.time.perf_counter", lambda: next(clock))
    stopwatch = Stopwatch()
    for _ in range(3):
        with stopwatch.waiting():
            pass
        stopwatch.step_done()
    stopwatch.pause()
    with stopwatch.waiting():
        pass
    stopwatch.step_done()
    assert (stopwatch.steps, stopwatch.waits) == ([1.0, 1.0], [0.5, 0.5])
    assert stopwatch.latest() == (stopwatch.steps, stopwatch.waits)
    assert stopwatch.latest() == ([], [])
    found = speed(stopwatch.steps, stopwatch.waits, 8)
    assert found["speed/data_share"] == 0.5
    assert found["speed/clips_per_second"] == 8


def test_a_torn_line_does_not_spoil_the_next(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "tr')
    (tmp_path / "command.json").write_text("{}")
    tracker = Tracker(tmp_path, start=1)
    tracker.write(2, loss=0.5)
    tracker.close()
    assert [line["step"] for line in Run(tmp_path).metrics()] == [1, 2]


@pytest.mark.slow
def test_events_are_what_tensorboard_reads(whole):
    """Records of the TFRecord format, checksums and all: (step, name, value) as in metrics.jsonl."""
    found = {}
    for file in (whole.path / "events").iterdir():
        content, at = file.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack("<Q", content[at : at + 8])
            event = event_pb2.Event.FromString(content[at + 12 : at + 12 + length])
            assert struct.pack("<I", masked_crc32c(content[at : at + 8])) == content[at + 8 : at + 12]
            found |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
            at += 16 + length
    for line in whole.metrics():
        step = line.pop("step")
        del line["time"]
        for name, value in line.items():
            assert found[step, name] == pytest.approx(value, rel=1e-6)


@pytest.mark.slow
def test_killed_and_resumed_ends_bit_for_bit_where_the_whole_run_did(tiny, whole, tmp_path):
    command = [sys.executable, "-m", "avjax.cli", "train", str(tiny), "--out", str(tmp_path / "killed"), "--quiet"]
    child = subprocess.Popen(command, cwd=tmp_path, env=os.environ, stdout=subprocess.DEVNULL)
    run = Run(tmp_path / "killed")
    deadline = time.monotonic() + 240
    # Between the first checkpoint and the end of the run, whenever that is: often inside the next checkpoint.
    while not (run.checkpoints / "6").is_dir():
        assert child.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "no checkpoint in time"
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert run.results() == {}

    subprocess.run(command, cwd=tmp_path, env=os.environ, check=True, stdout=subprocess.DEVNULL, timeout=300)
    expected, found = parameters(whole), parameters(run)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.slow
def test_the_last_step_is_always_kept(whole):
    assert sorted(path.name for path in whole.checkpoints.iterdir()) == ["18", "20"]


@pytest.mark.slow
def test_the_step_compiles_once(tiny):
    experiment, _ = load(tiny)
    mesh = experiment.training.mesh.build()
    steps, create, abstract = build_state(experiment, mesh)
    step, state, on_devices = jit_train(steps, abstract), create(), DeviceBatches(mesh, Rules(), 8)
    for batch in training_batches(experiment.data, seed=0, start=0, steps=3):
        state, _ = step(state, on_devices(batch), jax.random.key(0))
    assert step._cache_size() == 1


@pytest.mark.slow
def test_a_finished_run_is_left_as_it_is(tiny, whole):
    before = parameters(whole)
    experiment, run = start(tiny, whole.path)
    results = train(experiment, run, quiet=True)
    assert results["steps"] == 20
    for name, value in parameters(run).items():
        np.testing.assert_array_equal(before[name], value)


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_and_names_the_records(tiny, tmp_path):
    experiment, run = start(tiny, tmp_path / "run", "--optimizer.learning-rate", "1e30", "--optimizer.clip", "0")
    with pytest.raises(NonFiniteLoss, match=r"step \d+: loss .* records \["):
        train(experiment, run, quiet=True)


@pytest.mark.slow
def test_changed_records_are_not_gone_on_with(tiny, whole, tmp_path):
    shutil.copytree(whole.path, tmp_path / "run")
    other = write_records(tmp_path / "records", train=30)
    experiment, _ = load(tiny, ("--data.records", str(other)))
    with pytest.raises(ValueError, match="the records have changed since"):
        train(experiment, Run.open(tmp_path / "run"), quiet=True)


def test_a_batch_that_does_not_divide_over_the_devices_is_refused(tiny, tmp_path):
    experiment, run = start(tiny, tmp_path / "run", "--data.batch", "6")
    with pytest.raises(ValueError, match="6 rows cannot be divided over 8 devices"):
        train(experiment, run, quiet=True)


@pytest.mark.slow
@pytest.mark.long
def test_profile_writes_a_trace(tiny, tmp_path):
    experiment, run = start(tiny, tmp_path / "run")
    train(experiment, run, quiet=True, profile=True)
    assert list((run.path / "profile").rglob("*.xplane.pb"))


@pytest.mark.slow
def test_workers_microbatches_and_average_train_too(tiny, whole, tmp_path):
    words = "--data.workers 1 --training.accumulate 2 --training.average 0.9 --training.remat full"
    experiment, run = start(tiny, tmp_path / "run", *words.split())
    train(experiment, run, quiet=True)
    # Microbatches change rounding alone.
    np.testing.assert_allclose(list(losses(run).values()), list(losses(whole).values()), rtol=1e-3)


@pytest.mark.long
def test_bfloat16_trains_too(tiny, whole, tmp_path):
    experiment, run = start(tiny, tmp_path / "half", "--training.precision", "bfloat16")
    train(experiment, run, quiet=True)
    np.testing.assert_allclose(list(losses(run).values()), list(losses(whole).values()), rtol=0.05)
    assert all(value.dtype != jax.numpy.bfloat16 for value in parameters(run).values())
    assert json.loads((run.path / "config.json").read_text())["training"]["precision"] == "bfloat16"
