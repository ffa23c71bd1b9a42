"""The training loop: reads from top to bottom.

Devices, data, model, checkpoint, step, loop, last evaluation. What a step computes stands in step.py, how arrays lie
on devices in sharding.py, what is read in data/pipeline.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

import avjax
from avjax.data.pipeline import training_batches
from avjax.data.records import Records
from avjax.experiment import Experiment
from avjax.progress import progress
from avjax.run import Run, write_json
from avjax.streams import Batch
from avjax.training.checkpoint import Checkpoints
from avjax.training.evaluate import EvaluateStep, Predictions, is_multi_label, keep, predict, require_one_class
from avjax.training.sharding import batch_sharding, state_sharding
from avjax.training.step import Steps, TrainState, split_model
from avjax.training.tracking import Stopwatch, Tracker

log = logging.getLogger(__name__)


class NonFiniteLoss(Exception):
    """The loss is not a number any more; training stopped, and the last checkpoint is from before it."""


def train(experiment: Experiment, run: Run, *, quiet: bool = False, profile: bool = False) -> dict[str, Any]:
    """Trains ``experiment`` in the directory of ``run``, or goes on where it was left.

    Args:
      quiet: shows no progress.
      profile: writes an xprof trace of ten steps to ``run/profile``.

    Returns:
      What ``run/results.json`` holds: metrics of validation and test split, throughput, seconds.

    Raises:
      NonFiniteLoss: names the step and the records of its batch.
      ValueError: if the batch does not fit the mesh.
    """
    training, data = experiment.training, experiment.data

    # ---------------------------------------------------------------- devices
    mesh = training.mesh.build()
    on_devices = DeviceBatches(mesh, training.rules, data.batch)

    # ---------------------------------------------------------------- model and optimizer, born sharded
    steps, create, abstract = build_state(experiment, mesh)

    # ---------------------------------------------------------------- checkpoint: this run's newest, or a fresh start
    checkpoints = Checkpoints(run.checkpoints)
    records = Records(data.records)
    fingerprint = records.fingerprint
    spent = 0.0
    if checkpoints.latest() is None:
        state = create()
    else:
        state, position = checkpoints.load(abstract)
        require_same_records(position, fingerprint, run)
        spent = position["seconds"]
        log.info("going on from step %d", int(state.step))
    start = int(state.step)
    if profile and start == training.steps:
        log.warning("the run has ended: there is no step left to profile")

    # ---------------------------------------------------------------- steps, compiled once
    train_step = jit_train(steps, abstract)
    evaluate_step = jit_evaluate(steps, mesh)
    schedule = experiment.optimizer.schedule.build(training.steps)
    seed = jax.random.key(experiment.seed)

    # ---------------------------------------------------------------- data, from this very step on
    batches = training_batches(
        data,
        seed=experiment.seed,
        start=start,
        steps=training.steps,
        process=jax.process_index(),
        processes=jax.process_count(),
    )

    # ---------------------------------------------------------------- loop
    if jax.process_index() == 0:
        # Beside the weights, so that the run can be used where the records are not.
        write_json(run.path / "dataset.json", dataclasses.asdict(records.description))
    tracker = Tracker(run.path, start=start, first=jax.process_index() == 0)
    stopwatch, window = Stopwatch(), []
    looks = training.evaluate_every and records.description.counts.get("validation")
    begin = time.perf_counter() - spent
    # Ten steps, once the first ones have compiled; fewer where fewer are left.
    trace = range(min(start + 6, training.steps), min(start + 15, training.steps) + 1)

    def finish(pending: tuple[int, dict[str, jax.Array], np.ndarray]) -> None:
        """Reads the metrics of a step that has been dispatched before; checks and logs them."""
        number, metrics, records = pending
        numbers = {name: float(value) for name, value in jax.device_get(metrics).items()}
        stopwatch.step_done()
        if not np.isfinite(numbers["loss"]) or not np.isfinite(numbers["gradient_norm"]):
            raise NonFiniteLoss(
                f"step {number}: loss {numbers['loss']}, gradient norm {numbers['gradient_norm']}; the batch held the"
                f" records {sorted(records.tolist())}. Lower --optimizer.learning-rate, or look at these clips"
            )
        window.append(numbers)
        advance(number, f"loss {numbers['loss']:.3f}")
        if number % training.log_every == 0 or number == training.steps:
            means = {f"train/{name}": np.mean([n[name] for n in window]) for name in numbers}
            means["train/learning_rate"] = float(schedule(number - 1))
            window.clear()
            tracker.write(number, **means, **speed(*stopwatch.latest(), data.batch))

    with contextlib.ExitStack() as stack:
        stack.callback(batches.close)
        stack.callback(tracker.close)
        stack.callback(checkpoints.close)
        shown = stack.enter_context(contextlib.ExitStack())
        advance = shown.enter_context(progress(f"train {run.name}", training.steps, start=start, quiet=quiet))
        pending = None
        for number in range(start + 1, training.steps + 1):
            with stopwatch.waiting():
                local = next(batches)
                batch = on_devices(local)
            require_one_class(experiment, local.target, local.weight)
            if profile and number == trace[0]:
                tracing = stack.enter_context(contextlib.ExitStack())
                tracing.enter_context(jax.profiler.trace(str(run.path / "profile")))
            # The next step is dispatched before the last one's metrics are read: the device never waits for us.
            state, metrics = train_step(state, batch, seed)
            if pending is not None:
                finish(pending)
            pending = (number, metrics, local.index)
            if profile and number == trace[-1]:
                jax.block_until_ready(metrics)
                tracing.close()
            look = looks and number % training.evaluate_every == 0 and number < training.steps
            save = number % training.checkpoint_every == 0 or number == training.steps
            if look or save:
                finish(pending)
                pending = None
                stopwatch.pause()
            if save:
                spent = time.perf_counter() - begin
                position = {"step": number, "seed": experiment.seed, "records": fingerprint, "seconds": spent}
                checkpoints.save(state, position)
            if look:
                seen = predict(evaluate_step, state, experiment, "validation", on_devices)
                tracker.write(number, **flatten("validation", seen, is_multi_label(experiment)))

        shown.close()

        # ------------------------------------------------------------ last evaluation
        results: dict[str, Any] = {"steps": training.steps, "seed": experiment.seed, "seconds": round(spent, 2)}
        results |= {"synthetic": records.description.synthetic}
        results |= {"environment": environment()} if start < training.steps else {}
        results |= {"speed": speed(stopwatch.steps, stopwatch.waits, data.batch)} if stopwatch.steps else {}
        for split in [name for name, count in records.description.counts.items() if count and name != "train"]:
            title = "" if quiet else f"evaluate {run.name} on {split}"
            seen = predict(evaluate_step, state, experiment, split, on_devices, title)
            results[split] = keep(run.path, split, seen, multi_label=is_multi_label(experiment))
            tracker.write(training.steps, **flatten(split, seen, is_multi_label(experiment)))
        if jax.process_index() == 0:
            run.add_results(**results)
    return run.results()


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
    steps, params, buffers = experiment.steps()
    abstract = jax.eval_shape(steps.create, params, buffers)
    shardings = state_sharding(mesh, experiment.training.rules, abstract)

    def initialise() -> TrainState:
        _, params, buffers, _ = split_model(experiment.build_model())
        return steps.create(params, buffers)

    target = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract, shardings
    )
    return steps, jax.jit(initialise, out_shardings=shardings), target


def jit_train(steps: Steps, abstract: TrainState) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """The training step. The state comes back laid out as it was given, or the second step would compile anew."""
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    return jax.jit(steps.train, donate_argnums=0, out_shardings=(shardings, None))


def jit_evaluate(steps: Steps, mesh: jax.sharding.Mesh) -> EvaluateStep:
    """The evaluation step; its results lie whole on every device, so that every process can read them."""
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.jit(steps.evaluate, out_shardings=whole)


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
