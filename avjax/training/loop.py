"""The training loop: reads from top to bottom.

Devices, model, checkpoint, steps, data, loop, last evaluation. What a step computes stands in step.py, how it is laid
over devices in on_mesh.py and sharding.py, what is read in data/pipeline.py.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import logging
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from avjax.data.pipeline import training_batches
from avjax.data.records import Description, Records
from avjax.experiment import Experiment
from avjax.progress import progress
from avjax.run import Run, write_json
from avjax.training import memory
from avjax.training.checkpoint import Checkpoints, better_than, score_of
from avjax.training.distributed import everywhere, is_first, together
from avjax.training.evaluate import Predictions, keep, predict, require_one_class, task_of
from avjax.training.interruption import Interrupted, NonFinite, Stop, Verdict
from avjax.training.metrics.tasks import Task
from avjax.training.on_mesh import DeviceBatches, at_step, build_state, jit_evaluate, jit_train
from avjax.training.reader import Reader, StalledInput
from avjax.training.step import TrainState
from avjax.training.tracking import BareStep, Stopwatch, Tracker, environment, speed
from avjax.watchdog import doing, watched

log = logging.getLogger(__name__)


def train(
    experiment: Experiment, run: Run, *, quiet: bool = False, profile: bool = False, measure: bool = False
) -> dict[str, Any]:
    """Trains ``experiment`` in the directory of ``run``, or goes on where it was left.

    Args:
      quiet: shows no progress.
      profile: writes an xprof trace of ten steps to ``run/profile``.
      measure: times the bare step too, now and then, and says by how much the loop is slower.

    Returns:
      What ``run/results.json`` holds: metrics of validation and test split, throughput, seconds.

    Raises:
      Interrupted: on SIGTERM or SIGINT, when everything is saved.
      NonFiniteLoss: names the step and the records of its batch.
      StalledInput: names what the pipeline waits for.
      CheckpointError: a checkpoint could not be written, or none can be read.
      ValueError: if the batch does not fit the mesh.
    """
    training, data, task = experiment.training, experiment.data, task_of(experiment)
    quiet = quiet or not is_first()

    # ---------------------------------------------------------------- devices
    mesh = training.mesh.build()
    on_devices = DeviceBatches(mesh, training.rules, data.batch)
    stop = Stop(mesh)

    with contextlib.ExitStack() as stack:
        # From here on, so that a signal while the step compiles is not lost.
        stack.enter_context(stop.listening())
        stack.enter_context(watched(training.stall_limit / 10))

        # ------------------------------------------------------------ model and optimizer, born sharded
        steps, create, abstract = build_state(experiment, mesh)

        # ------------------------------------------------------------ checkpoint: this run's newest, or a fresh start
        checkpoints = Checkpoints(run.checkpoints, training.keep_last, training.best_by)
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

        # ------------------------------------------------------------ steps, compiled once
        train_step = jit_train(steps, abstract)
        evaluate_step = jit_evaluate(steps, mesh)
        schedule = experiment.optimizer.schedule.build(training.steps)
        seed = jax.random.key(experiment.seed)

        # ------------------------------------------------------------ data, from any step on
        def read_from(step: int) -> Reader:
            rows = training_batches(data, seed=experiment.seed, start=step, steps=training.steps, own=on_devices.own)
            return Reader(rows, on_devices, start=step, limit=training.stall_limit, give_up=stop.asked_alone)

        # ------------------------------------------------------------ loop
        if is_first():
            # Beside the weights, so that the run can be used where the records are not.
            write_json(run.path / "dataset.json", dataclasses.asdict(records.description))
        tracker = Tracker(run.path, start=start, first=is_first())
        stopwatch, bare, window = Stopwatch(), BareStep(), []
        non_finite = NonFinite(training.non_finite)
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
                held = sorted(set(everywhere(step.records).tolist()))
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
            if training.non_finite == "rewind":
                non_finite.good()

        stack.callback(tracker.close)
        stack.callback(checkpoints.close)
        batches = read_from(start)
        stack.callback(lambda: batches.close())
        shown = stack.enter_context(contextlib.ExitStack())
        advance = shown.enter_context(progress(f"train {run.name}", training.steps, start=start, quiet=quiet))
        dispatched: collections.deque[Dispatched] = collections.deque()
        stopping, tracing = False, None
        while number < training.steps and not stopping:
            with stopwatch.waiting():
                try:
                    read = batches.next()
                except StalledInput:
                    # What has been computed is whole; where other processes wait in the next step, it cannot be saved.
                    if jax.process_count() == 1 and all(finish(step) != "rewind" for step in dispatched):
                        save()
                    raise
            if read is None:
                # Asked to stop while waiting.
                stopping = True
                if all(finish(step) != "rewind" for step in dispatched):
                    save()
                break
            local, batch = read
            number += 1
            require_one_class(experiment, local.target, local.weight)
            if profile and number == trace[0] and tracing is None:
                tracing = stack.enter_context(contextlib.ExitStack())
                tracing.enter_context(jax.profiler.trace(str(run.path / "profile")))
            state, metrics = train_step(state, batch, seed)
            if number == start + 1:
                memory.give_back()
            dispatched.append(Dispatched(number, metrics, local.index, stop.vote()))
            if tracing is not None and number == trace[-1]:
                jax.block_until_ready(metrics)
                tracing.close()
                tracing = None

            # The next step is dispatched before the last one's metrics are read: the device never waits for us.
            look = looks and number % training.evaluate_every == 0 and number < training.steps
            timing = measure and bare.due(number)
            due = look or timing or number % training.checkpoint_every == 0 or number == training.steps
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
            if timing:
                stopwatch.pause()
                bare.measure(train_step, state, batch, seed)
            score = None
            if look and not stopping:
                stopwatch.pause()
                with doing(f"evaluating on validation, after step {number}"):
                    seen = predict(evaluate_step, state, experiment, "validation", on_devices)
                numbers = flatten("validation", seen, task, records.description)
                tracker.write(number, **numbers)
                score = score_of(training.best_by, numbers, task.primary)
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
        results |= {"synthetic": records.description.synthetic, "task": experiment.objective.task}
        results |= {"environment": environment()} if start < training.steps else {}
        results |= {"speed": speed(stopwatch.steps, stopwatch.waits, data.batch)} if stopwatch.steps else {}
        for split in [name for name, count in records.description.counts.items() if count and name != "train"]:
            title = "" if quiet else f"evaluate {run.name} on {split}"
            with doing(f"evaluating on {split}"):
                seen = predict(evaluate_step, state, experiment, split, on_devices, title)
            results[split] = keep(run.path, split, seen, task, records.description)
            tracker.write(training.steps, **flatten(split, seen, task, records.description))
        if measure:
            results["speed"] = results.get("speed", {}) | bare.compared(results.get("speed", {}))
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


def require_same_records(position: dict[str, Any], fingerprint: str, run: Run) -> None:
    """A run goes on with the clips that it began with, or not at all."""
    if position["records"] != fingerprint:
        raise ValueError(
            f"the records have changed since {run.path} was started: going on would mix two data sets; choose another"
            " --out, or bring the old records back"
        )


def flatten(split: str, seen: Predictions, task: Task, description: Description) -> dict[str, float]:
    """Metrics of a split as flat numbers for the log, without intervals."""
    numbers = {f"{split}/{name}": value for name, value in seen.losses.items()}
    for name, measure in seen.measures(task, description).items():
        numbers[f"{split}/{name}"] = measure.estimate(samples=0).value
    return numbers
