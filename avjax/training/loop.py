"""The training loop: reads from top to bottom.

Devices, data, model, checkpoint, step, loop, last evaluation. What a step computes stands in step.py, how arrays lie
on devices in sharding.py, what is read in data/pipeline.py.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import difflib
import logging
import os
import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import avjax
from avjax.data.pipeline import training_batches
from avjax.data.records import Records
from avjax.experiment import Experiment
from avjax.progress import progress
from avjax.run import Run, write_json
from avjax.streams import Batch
from avjax.training.checkpoint import Checkpoints
from avjax.training.distributed import everywhere, is_first, together
from avjax.training.evaluate import EvaluateStep, Predictions, is_multi_label, keep, predict, require_one_class
from avjax.training.interruption import Interrupted, NonFinite, Stop, Verdict
from avjax.training.reader import Reader, StalledInput
from avjax.training.sharding import batch_sharding, state_sharding
from avjax.training.step import Steps, TrainState, split_model
from avjax.training.tracking import Stopwatch, Tracker
from avjax.watchdog import doing, watched

log = logging.getLogger(__name__)


def train(
    experiment: Experiment, run: Run, *, quiet: bool = False, profile: bool = False, measure: bool = False
) -> dict[str, Any]:
    """Trains ``experiment`` in the directory of ``run``, or goes on where it was left.

    Args:
      quiet: shows no progress.
      profile: writes an xprof trace of ten steps to ``run/profile``.
      measure: after training, times the bare step, and says by how much the loop is slower.

    Returns:
      What ``run/results.json`` holds: metrics of validation and test split, throughput, seconds.

    Raises:
      Interrupted: on SIGTERM or SIGINT, when everything is saved.
      NonFiniteLoss: names the step and the records of its batch.
      StalledInput: names what the pipeline waits for.
      CheckpointError: a checkpoint could not be written, or none can be read.
      ValueError: if the batch does not fit the mesh.
    """
    training, data = experiment.training, experiment.data
    quiet = quiet or not is_first()

    # ---------------------------------------------------------------- devices
    mesh = training.mesh.build()
    on_devices = DeviceBatches(mesh, training.rules, data.batch)

    # ---------------------------------------------------------------- model and optimizer, born sharded
    steps, create, abstract = build_state(experiment, mesh)

    # ---------------------------------------------------------------- checkpoint: this run's newest, or a fresh start
    checkpoints = Checkpoints(run.checkpoints, training.keep_last)
    records = Records(data.records)
    fingerprint = records.fingerprint
    spent = 0.0

    def last_state() -> TrainState:
        newest = checkpoints.newest(repair=True)
        if newest is None:
            return create()
        nonlocal spent
        state, position = checkpoints.load(newest, abstract)
        require_same_records(position, fingerprint, run)
        spent = position["seconds"]
        return state

    state = last_state()
    start = number = int(state.step)
    if start:
        log.info("going on from step %d", start)
    if profile and start == training.steps:
        log.warning("the run has ended: there is no step left to profile")

    # ---------------------------------------------------------------- steps, compiled once
    train_step = jit_train(steps, abstract)
    evaluate_step = jit_evaluate(steps, mesh)
    schedule = experiment.optimizer.schedule.build(training.steps)
    seed = jax.random.key(experiment.seed)

    # ---------------------------------------------------------------- data, from any step on
    def read_from(step: int) -> Reader:
        rows = training_batches(
            data,
            seed=experiment.seed,
            start=step,
            steps=training.steps,
            process=jax.process_index(),
            processes=jax.process_count(),
        )
        return Reader(rows, on_devices, start=step, limit=training.stall_limit)

    # ---------------------------------------------------------------- loop
    if is_first():
        # Beside the weights, so that the run can be used where the records are not.
        write_json(run.path / "dataset.json", dataclasses.asdict(records.description))
    tracker = Tracker(run.path, start=start, first=is_first())
    stopwatch, window = Stopwatch(), []
    stop, non_finite = Stop(mesh), NonFinite(training.non_finite)
    begin = time.perf_counter() - spent
    looks = training.evaluate_every and records.description.counts.get("validation")
    best_before = checkpoints.best()
    best = None if best_before is None else checkpoints.score(best_before)
    # Ten steps, once the first ones have compiled; fewer where fewer are left.
    trace = range(min(start + 6, training.steps), min(start + 15, training.steps) + 1)

    def finish(step: Dispatched) -> Verdict:
        """Reads the metrics of a step that has been dispatched before; judges and logs them."""
        with doing(f"waiting for the devices, step {step.number}"):
            numbers = {name: float(value) for name, value in jax.device_get(step.metrics).items()}
        stopwatch.step_done()
        verdict: Verdict = "fine"
        if not np.isfinite(numbers["loss"]) or not np.isfinite(numbers["gradient_norm"]):
            held = sorted(everywhere(step.records).tolist())
            verdict = non_finite.judge(step.number, numbers["loss"], numbers["gradient_norm"], held)
            tracker.write(step.number, **{f"non_finite/{verdict}": 1})
        else:
            window.append(numbers)
            if training.non_finite == "skip":
                non_finite.good()
        advance(step.number, f"loss {numbers['loss']:.3f}")
        if window and (step.number % training.log_every == 0 or step.number == training.steps):
            means = {f"train/{name}": np.mean([n[name] for n in window]) for name in numbers}
            means["train/learning_rate"] = float(schedule(step.number - 1))
            window.clear()
            tracker.write(step.number, **means, **speed(*stopwatch.latest(), data.batch))
        return verdict

    def save(score: dict[str, Any] | None = None) -> None:
        spent = time.perf_counter() - begin
        position = {"step": number, "seed": experiment.seed, "records": fingerprint, "seconds": spent}
        with doing(f"saving checkpoint {number}"):
            checkpoints.save(state, position | ({"score": score} if score else {}))
        non_finite.good()

    with contextlib.ExitStack() as stack:
        stack.enter_context(watched(training.stall_limit / 10))
        stack.callback(tracker.close)
        stack.callback(checkpoints.close)
        stack.enter_context(stop.listening())
        batches = read_from(start)
        stack.callback(lambda: batches.close())
        shown = stack.enter_context(contextlib.ExitStack())
        advance = shown.enter_context(progress(f"train {run.name}", training.steps, start=start, quiet=quiet))
        dispatched: collections.deque[Dispatched] = collections.deque()
        stopping = False
        while number < training.steps and not stopping:
            with stopwatch.waiting():
                try:
                    local, batch = batches.next()
                except StalledInput:
                    # What has been computed is whole; where other processes wait in the next step, it cannot be saved.
                    if jax.process_count() == 1 and all(finish(step) == "fine" for step in dispatched):
                        save()
                    raise
            number += 1
            require_one_class(experiment, local.target, local.weight)
            if profile and number == trace[0]:
                tracing = stack.enter_context(contextlib.ExitStack())
                tracing.enter_context(jax.profiler.trace(str(run.path / "profile")))
            state, metrics = train_step(state, batch, seed)
            dispatched.append(Dispatched(number, metrics, local.index, stop.vote()))
            if profile and number == trace[-1]:
                jax.block_until_ready(metrics)
                tracing.close()

            # The next step is dispatched before the last one's metrics are read: the device never waits for us.
            look = looks and number % training.evaluate_every == 0 and number < training.steps
            due = look or number % training.checkpoint_every == 0 or number == training.steps
            verdict: Verdict = "fine"
            while dispatched and verdict != "rewind" and (due or stopping or len(dispatched) > 1):
                step = dispatched.popleft()
                stopping = stopping or stop.asked(step.vote)
                verdict = finish(step)
            if verdict == "rewind":
                checkpoints.wait()
                number = step.number
                state = at_step(last_state(), number)
                dispatched.clear()
                batches.close()
                batches = read_from(number)
                stopwatch.pause()
                if number < training.steps:
                    continue
            checkpoints.check()
            score = None
            if look:
                stopwatch.pause()
                with doing(f"evaluating on validation, after step {number}"):
                    seen = predict(evaluate_step, state, experiment, "validation", on_devices)
                numbers = flatten("validation", seen, is_multi_label(experiment))
                tracker.write(number, **numbers)
                score = score_of(training.best_by, numbers)
            better = score is not None and (best is None or better_than(score, best))
            best = score if better else best
            if better or stopping or number % training.checkpoint_every == 0 or number == training.steps:
                stopwatch.pause()
                save(score)
        if stopping:
            checkpoints.wait()
            together("stopped")
            raise Interrupted(stop.name, number)
        shown.close()

        # ------------------------------------------------------------ last evaluation
        spent = time.perf_counter() - begin if start < training.steps else spent
        results: dict[str, Any] = {"steps": training.steps, "seed": experiment.seed, "seconds": round(spent, 2)}
        results |= {"synthetic": records.description.synthetic}
        results |= {"environment": environment()} if start < training.steps else {}
        results |= {"speed": speed(stopwatch.steps, stopwatch.waits, data.batch)} if stopwatch.steps else {}
        for split in [name for name, count in records.description.counts.items() if count and name != "train"]:
            title = "" if quiet else f"evaluate {run.name} on {split}"
            with doing(f"evaluating on {split}"):
                seen = predict(evaluate_step, state, experiment, split, on_devices, title)
            results[split] = keep(run.path, split, seen, multi_label=is_multi_label(experiment))
            tracker.write(training.steps, **flatten(split, seen, is_multi_label(experiment)))
        if measure and stopwatch.steps:
            results["speed"] |= overhead(train_step, state, batch, seed, results["speed"])
        checkpoints.wait()
        if is_first():
            run.add_results(**results)
        together("trained")
    return run.results()


class Dispatched(NamedTuple):
    """A step that the devices are at.

    Attributes:
      number: of the step.
      metrics: not read yet.
      records: this process's.
      vote: whether some process is to stop; see ``Stop``.
    """

    number: int
    metrics: dict[str, jax.Array]
    records: np.ndarray
    vote: jax.Array | None


class DeviceBatches:
    """From the rows of this process to the global batch on the devices.

    Raises:
      ValueError: where the batch does not divide over the devices.
    """

    def __init__(self, mesh: jax.sharding.Mesh, rules: Any, rows: int):
        self.sharding = batch_sharding(mesh, rules)
        parts = int(np.prod([mesh.shape[axis] for axis in rules.batch]))
        if rows % parts:
            raise ValueError(
                f"a batch of {rows} rows cannot be divided over {parts} devices; set --data.batch to a multiple of"
                f" {parts}, or --training.mesh to fewer"
            )

    def __call__(self, local: Batch) -> Batch:
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(self.sharding, np.asarray(x)), local)


def build_state(experiment: Experiment, mesh: jax.sharding.Mesh) -> tuple[Steps, Callable[[], TrainState], TrainState]:
    """Step functions, a function that makes the first state, and the abstract state with its shardings.

    No array exists unsharded at any time: initial values are computed by one jitted function straight into place.
    """
    steps, abstract = abstract_state(experiment, mesh)

    def initialise() -> TrainState:
        _, params, buffers, _ = split_model(experiment.build_model())
        return steps.create(params, buffers)

    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    return steps, jax.jit(initialise, out_shardings=shardings), abstract


def abstract_state(
    experiment: Experiment, mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh
) -> tuple[Steps, TrainState]:
    """Step functions for a mesh, and the shapes and shardings of the state on it."""
    steps, params, buffers = experiment.steps(mesh)
    abstract = jax.eval_shape(steps.create, params, buffers)
    shardings = state_sharding(mesh, experiment.training.rules, abstract)
    return steps, jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract, shardings
    )


def jit_train(steps: Steps, abstract: TrainState) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """The training step. The state comes back laid out as it was given, or the second step would compile anew."""
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    # Metrics lie whole on every device, so that every process can read them.
    whole = NamedSharding(abstract.step.sharding.mesh, PartitionSpec())
    return jax.jit(steps.train, donate_argnums=0, out_shardings=(shardings, whole))


def jit_evaluate(steps: Steps, mesh: jax.sharding.Mesh) -> EvaluateStep:
    """The evaluation step; its results lie whole on every device, so that every process can read them."""
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.jit(steps.evaluate, out_shardings=whole)


def at_step(state: TrainState, number: int) -> TrainState:
    """The state with another number of steps taken."""
    return dataclasses.replace(state, step=jax.device_put(np.int32(number), state.step.sharding))


def require_same_records(position: dict[str, Any], fingerprint: str, run: Run) -> None:
    """A run goes on with the clips that it began with, or not at all."""
    if position["records"] != fingerprint:
        raise ValueError(
            f"the records have changed since {run.path} was started: going on would mix two data sets; choose another"
            " --out, or bring the old records back"
        )


def speed(steps: Sequence[float], waits: Sequence[float], rows: int) -> dict[str, float]:
    """Throughput, step-time percentiles (seconds), and the share of time in which the loop waited for data.

    Args:
      steps: seconds of each step.
      waits: how much of them was waiting for data.
      rows: of a batch.
    """
    if not steps:
        return {}
    middle, tail = np.percentile(steps, [50, 95])
    return {
        "speed/clips_per_second": rows / float(np.mean(steps)),
        "speed/step_seconds_p50": float(middle),
        "speed/step_seconds_p95": float(tail),
        "speed/data_share": sum(waits) / sum(steps),
    }


def overhead(
    train_step: Callable[..., Any],
    state: TrainState,
    batch: Batch,
    seed: jax.Array,
    measured: dict[str, float],
    repeats: int = 30,
) -> dict[str, float]:
    """Times the bare step on one batch, which uses up the state, and says how the loop compares."""
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        state, metrics = train_step(state, batch, seed)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - begin)
    bare, loop = float(np.median(seconds)), measured["speed/step_seconds_p50"]
    log.info(
        "median step of the loop %.4f s, %.3f times the bare step (%.4f s); waiting for data %.1f %% of the time",
        loop, loop / bare, bare, 100 * measured["speed/data_share"],
    )  # fmt: skip
    return {"speed/bare_step_seconds_p50": bare, "speed/loop_overhead": loop / bare}


def score_of(name: str, numbers: dict[str, float]) -> dict[str, Any] | None:
    """What a checkpoint remembers of the validation split, to be compared by; None where it is no number.

    Raises:
      ValueError: if the split has no number of this name.
    """
    value = numbers.get(f"validation/{name}")
    if value is None:
        names = sorted(known.removeprefix("validation/") for known in numbers)
        near = difflib.get_close_matches(name, names, n=1)
        raise ValueError(
            f"--training.best-by {name}: the validation split has no such number"
            + (f"; did you mean {near[0]}?" if near else f"; it has {', '.join(names)}")
        )
    last = name.rpartition("/")[2]
    return {"name": name, "value": value, "higher_is_better": last != "loss"} if np.isfinite(value) else None


def better_than(score: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether a score is better than an earlier one of the same name."""
    return score["value"] > other["value"] if score["higher_is_better"] else score["value"] < other["value"]


def environment() -> dict[str, Any]:
    """What the run was trained on: versions and devices."""
    versions = {name: version(name) for name in ("jax", "flax", "optax", "numpy")}
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        "avjax": avjax.__version__,
        **versions,
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "cores": os.cpu_count(),
    }


def flatten(split: str, seen: Predictions, multi_label: bool) -> dict[str, float]:
    """Metrics of a split as flat numbers for the log, without intervals."""
    numbers = {f"{split}/{name}": value for name, value in seen.losses.items()}
    for head, estimates in seen.metrics(multi_label=multi_label, samples=1).items():
        numbers |= {f"{split}/{head}/{name}": estimate.value for name, estimate in estimates.items()}
    return numbers
