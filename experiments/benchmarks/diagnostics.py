"""What a diagnosis costs, beside what it is measured against.

    python experiments/benchmarks/diagnostics.py runs/demo_mbt                              # without the tiers: minutes
    python experiments/benchmarks/diagnostics.py runs/demo_mbt --tiers smoke standard --json

Four parts. Tiers: `avjax diagnose` from start to end in a process of its own.

MM-SHAP: our engine, which takes all clips of a batch through a walk at once, encodes no modality twice for the same of
its players and cuts hidden tokens out (avjax/diagnostics/coalitions.py), against the permutation explainer of the shap
package, on the same model, clips and players with as many evaluations. shap explains clip by clip. It is measured as
the release of the MM-SHAP paper calls it, where the model sees one coalition at a time; with ten a call, which is what
shap passes on unless told otherwise; and with as many a call as our batch has rows. In all three it is handed the
coalitions themselves, so that no clip is copied, and the model is compiled for the rows that it is given; compiling
counts for neither side.

Attention: the pass that reports what contribution is computed from (mass, products of outputs, entropy), against a
plain forward pass; the two take turns. Memory: what the compiler plans for that pass beside its arguments, of the
quickstart's model on clips of growing length; nothing runs there.

The shap package is no dependency: without it its part is left out, and the program says so.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from step_common import batch, step

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.compiled import compiled
from avjax.diagnostics.contribution.shapley import sampled
from avjax.diagnostics.players import Baseline, Players, raw_players, token_players
from avjax.diagnostics.probe import ModelProbe, reader_of
from avjax.diagnostics.protocol.explanation import STATISTICS
from avjax.models import mbt
from avjax.nn.encoders import Patches
from avjax.nn.transformer import Size
from avjax.objectives.classification import Classification
from avjax.progress import progress
from avjax.training.on_mesh import abstract_state
from avjax.training.optimizer import SGD
from avjax.training.sharding import MeshShape
from avjax.training.trained import Trained
from kernels.attention import using

# What the quickstart's model may cost: seconds of a tier on two cores, and ratios.
BOUNDS = {"smoke": 60.0, "standard": 600.0, "shapley": 5.0, "attention": 1.2}
SMALLEST_MEMORY_STEPS = 2
# Coalitions that shap's model is given at once.
CALLED = {"shap, one by one as MM-SHAP's release": 1, "shap, ten a call": 10}
WHOLE = "shap, whole batches"


@dataclasses.dataclass(frozen=True)
class Options:
    """Times a diagnosis: its tiers, MM-SHAP against the shap package, attention contribution, and its memory.

    Attributes:
      run: a trained run, such as the quickstart's demo_mbt.
      tiers: those that are timed end to end, each in a fresh process; none unless told.
      split: of the clips.
      clips: that shap explains, one after the other; ours takes a whole batch, and both are shown for one clip.
      permutations: of Shapley values, a multiple of four.
      rounds: in which the attention pass and the plain one take turns.
      memory_steps: lengths of clips, each twice the last, from 96 tokens on; 0 leaves memory out.
      json: prints JSON and nothing else.
    """

    run: tyro.conf.Positional[Path]
    tiers: tuple[str, ...] = ()
    split: str = "test"
    clips: int = 4
    permutations: int = 32
    rounds: int = 15
    memory_steps: int = 6
    json: bool = False


def tier(run: Path, name: str, split: str) -> dict[str, Any]:
    """Seconds of ``avjax diagnose`` in a process of its own, of its CPU time, and of its stages."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["diagnose", str(run), "--tier", name, "--split", split, "--out", folder, "--quiet", "--json"]
        before, begin = os.times(), time.monotonic()
        done = subprocess.run([sys.executable, "-m", "avjax.cli", *words], capture_output=True, text=True, check=False)
        seconds, after = time.monotonic() - begin, os.times()
        if done.returncode:
            raise SystemExit(f"avjax {' '.join(words)} failed:\n{done.stderr}")
        protocol = json.loads((Path(folder) / "report.json").read_text(encoding="utf-8"))["protocol"]
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    stages = {one["name"]: one["seconds"] for one in protocol["stages"] if one["seconds"] is not None}
    return {"seconds": seconds, "cpu": cpu, "bound": BOUNDS.get(name), "samples": protocol["samples"], "stages": stages}


def ours(probe: ModelProbe, clips: Clips, players: Players, baseline: Baseline | None, permutations: int) -> int:
    """MM-SHAP of all clips at once; coalitions that were evaluated of each."""
    target, count = probe.logits(clips).argmax(axis=1), 0

    def value(kept: np.ndarray) -> np.ndarray:
        nonlocal count
        count += len(kept)
        return probe.coalitions(clips, kept, players, baseline)[:, np.arange(len(clips)), target]

    options = {"seed": 0, "permutations": permutations, "most": permutations}
    sampled(value, players.groups, probe.modalities, **options)
    return count


def model_of_coalitions(
    probe: ModelProbe, players: Players, baseline: Baseline | None
) -> Callable[[Clips, int], Callable[[np.ndarray], np.ndarray]]:
    """From a clip and a class to a function as shap takes it: coalitions [S, n] to logits [S].

    The clip goes through front end and model in as many rows as there are coalitions, compiled for that number.
    """
    state = probe.state

    @jax.jit
    def logits(streams: Any, kept: jax.Array) -> jax.Array:
        rows = kept.shape[0]
        repeated = jax.tree.map(lambda x: jax.numpy.repeat(x, rows, axis=0), streams)
        if not players.raw:
            return probe.program.func(state, repeated, {m: kept[:, where] for m, where in players.where.items()})
        for modality, where in players.where.items():
            values = repeated[modality].values
            there = kept[:, where].reshape(rows, *where.shape, *[1] * (values.ndim - 1 - where.ndim))
            filled = jax.numpy.where(there, values, baseline[modality])
            repeated[modality] = repeated[modality].replace(values=filled)
        return probe.program.func(state, repeated)

    def of(clip: Clips, target: int) -> Callable[[np.ndarray], np.ndarray]:
        streams = jax.device_put(dict(clip.streams))
        return lambda kept: np.asarray(logits(streams, np.asarray(kept, bool)))[:, target]

    return of


def theirs(
    probe: ModelProbe, clips: Clips, players: Players, baseline: Baseline | None, permutations: int, rows: int
) -> tuple[float, int]:
    """Seconds of the shap package, and coalitions that it evaluated, both of one clip.

    Args:
      permutations: as ours; shap counts each together with its reverse.
      rows: coalitions that the model is given at once.
    """
    import shap

    target, count = probe.logits(clips).argmax(axis=1), 0
    of = model_of_coalitions(probe, players, baseline)
    n = len(players)
    options = {"max_evals": permutations // 2 * (2 * n + 1), "batch_size": rows, "silent": True}

    def explain(row: int) -> None:
        nonlocal count
        function = of(clips.take([row]), int(target[row]))

        def counted(kept: np.ndarray) -> np.ndarray:
            nonlocal count
            count += len(kept)
            return function(kept)

        # Absent is 0 and present is 1: what is explained is the coalition of all.
        explainer = shap.PermutationExplainer(counted, np.zeros((1, n)), seed=0)
        explainer(np.ones((1, n)), **options)

    # Compiles whatever numbers of rows it asks for.
    explain(0)
    count, begin = 0, time.monotonic()
    for row in range(len(clips)):
        explain(row)
    return (time.monotonic() - begin) / len(clips), count // len(clips)


def shapley(probe: ModelProbe, clips: Clips, options: Options) -> dict[str, Any]:
    """Players -> seconds a clip of ours and of shap's, with ratios; or why there is none of shap's."""
    means = {m: np.asarray(s.values[np.asarray(s.valid)].mean(axis=0), np.float32) for m, s in clips.streams.items()}
    ways = {"tokens, hidden": (token_players(probe.grids), None), "windows and cells, at the mean": (
        raw_players(clips.streams), means)}  # fmt: skip
    found = {}
    for name, (players, baseline) in ways.items():
        arguments = players, baseline, options.permutations
        ours(probe, clips, *arguments)
        begin = time.monotonic()
        count = ours(probe, clips, *arguments)
        own = (time.monotonic() - begin) / len(clips)
        found[name] = {"players": len(players), "avjax": {"seconds": own, "evaluations": count}, "left_out": None}
        try:
            for kind, rows in (*CALLED.items(), (WHOLE, probe.batch)):
                some = clips.take(range(min(options.clips, len(clips))))
                seconds, count = theirs(probe, some, *arguments, rows)
                found[name][kind] = {"seconds": seconds, "evaluations": count, "ratio": seconds / own}
        except ImportError as error:
            found[name]["left_out"] = f"the shap package cannot be imported ({error}); `pip install shap` beside avjax"
    return found


def attention(probe: ModelProbe, clips: Clips, rounds: int) -> dict[str, Any]:
    """Seconds of the pass that reports attention and of a plain one, of a batch, and the median of their ratios."""
    some = clips.take(np.resize(np.arange(len(clips)), probe.batch))
    streams = jax.device_put(dict(some.streams), probe.sharding)
    programs = {"plain": compiled(probe.program.func), "attention": probe.attending(STATISTICS)}
    times: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(-2, rounds):
        # Who is first takes turns too.
        for name in sorted(programs, reverse=bool(number % 2)):
            begin = time.perf_counter()
            jax.block_until_ready(programs[name](probe.state, streams))
            if number >= 0:
                times[name].append(time.perf_counter() - begin)
    ratios = [own / plain for own, plain in zip(times["attention"], times["plain"], strict=True)]
    return {
        **{name: statistics.median(of) for name, of in times.items()},
        "ratio": statistics.median(times["attention"]) / statistics.median(times["plain"]),
        "ratios": np.quantile(ratios, [0.25, 0.75]).tolist(), "bound": BOUNDS["attention"], "statistics": STATISTICS,
    }  # fmt: skip


def lowered(times: int, implementation: str) -> tuple[int, jax.stages.Lowered]:
    """Tokens of the quickstart's model on clips so many times as long, and its attention pass for one; nothing runs."""
    modalities = (
        Patches("audio", shape=(128 * times, 64), patch=(16, 16)),
        Patches("video", shape=(8 * times, 64, 64, 3), patch=(2, 16, 16)),
    )
    model = mbt.Config(modalities, {"emotion": 8}, Size(64, 4, 2), fusion_layer=2, bottlenecks=4)
    made = step(model, Classification(), SGD(), 1)
    functions, state = abstract_state(made, MeshShape().build(jax.devices()[:1]))

    def report(state: Any, features: Any) -> Any:
        return functions.output(state, features, None, STATISTICS).aux["attention"]

    with using(implementation):
        program = jax.jit(report).lower(state, jax.eval_shape(lambda: batch(made)))
    return sum(patches.tokens for patches in modalities), program


def memory(lengths: Sequence[int]) -> list[dict[str, float]]:
    """Bytes that the compiler plans for the attention pass beside its arguments, by the number of tokens of a clip.

    Args:
      lengths: of the clips, as multiples of the quickstart's.
    """
    found = []
    for times in lengths:
        tokens, program = lowered(times, "blockwise")
        analysis = program.compile().memory_analysis()
        found.append({"tokens": tokens, "bytes": analysis.temp_size_in_bytes, "output": analysis.output_size_in_bytes})
    return found


def growth(found: Sequence[Mapping[str, float]]) -> float | None:
    """Exponent of memory over tokens between the two longest clips: at most 1 of O(N), 2 of O(N^2).

    Short clips are one tile of the kernel, and their memory grows as its area.
    """
    if len(found) < SMALLEST_MEMORY_STEPS:
        return None
    one, other = found[-2:]
    return math.log(other["bytes"] / one["bytes"]) / math.log(other["tokens"] / one["tokens"])


def show(found: Mapping[str, Any]) -> None:
    """Tables of what was measured."""
    console = Console()
    facts = found["machine"]
    console.print(
        f"{facts['cores']} cores, {facts['platform']}, jax {facts['jax']}; load average {facts['load'][0]:.1f} at the"
        f" start, {facts['load'][1]:.1f} at the end"
    )
    if found["tiers"]:
        table = Table("tier", "wall s", "CPU s", "bound s", "slowest stages", title="avjax diagnose, a fresh process")
        for name, one in found["tiers"].items():
            slow = sorted(one["stages"].items(), key=lambda item: -item[1])[:4]
            table.add_row(name, f"{one['seconds']:.1f}", f"{one['cpu']:.1f}", f"{one['bound'] or '':}",
                          ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in slow))  # fmt: skip
        console.print(table)
        for name, one in found["tiers"].items():
            sizes = ", ".join(f"{what} {size}" for what, size in one["samples"].items())
            console.print(f"clips of {name}: {sizes}", highlight=False)
    table = Table("players", "", "s a clip", "evaluations", "ratio", title=f"MM-SHAP, bound {BOUNDS['shapley']:g}")
    for name, one in found["shapley"].items():
        for kind in ("avjax", *CALLED, WHOLE):
            if kind in one:
                own = one[kind]
                ratio = "1" if kind == "avjax" else f"{own['ratio']:.2f}"
                table.add_row(name, kind, f"{own['seconds']:.3f}", str(own["evaluations"]), ratio)
        if one["left_out"]:
            table.add_row(name, f"left out: {one['left_out']}")
    console.print(table)
    one = found["attention"]
    console.print(
        f"attention contribution {one['attention'] * 1e3:.1f} ms, plain forward pass {one['plain'] * 1e3:.1f} ms a"
        f" batch: ratio {one['ratio']:.3f} (quartiles {one['ratios'][0]:.3f} to {one['ratios'][1]:.3f}), bound"
        f" {one['bound']:g}"
    )
    if found["memory"]["planned"]:
        table = Table("tokens", "MiB", "KiB a token", title="Memory of attention contribution, planned by the compiler")
        for line in found["memory"]["planned"]:
            table.add_row(str(line["tokens"]), f"{line['bytes'] / 2**20:.2f}",
                          f"{line['bytes'] / 2**10 / line['tokens']:.2f}")  # fmt: skip
        console.print(table)
        if found["memory"]["exponent"] is not None:
            console.print(f"grows with tokens to the power {found['memory']['exponent']:.2f}")


def main(options: Options) -> dict[str, Any]:
    load = [os.getloadavg()[0]]
    parts = len(options.tiers) + 3
    with progress("bench diagnostics", parts, quiet=options.json) as advance:
        tiers = {}
        for number, name in enumerate(options.tiers):
            advance(number, f"tier {name}")
            tiers[name] = tier(options.run, name, options.split)
        trained = Trained.load(options.run)
        probe = ModelProbe.of(trained)
        reader = reader_of(trained, probe.head, options.split)
        clips = reader.read(reader.choose(probe.batch))
        advance(parts - 3, "attention")
        by_attention = attention(probe, clips, options.rounds)
        advance(parts - 2, "MM-SHAP")
        by_shapley = shapley(probe, clips, options)
        advance(parts - 1, "memory")
        planned = memory([2**number for number in range(options.memory_steps)])
        advance(parts)
    load.append(os.getloadavg()[0])
    return {
        "machine": {"cores": os.cpu_count(), "platform": jax.default_backend(), "jax": jax.__version__, "load": load},
        "tiers": tiers, "shapley": by_shapley, "attention": by_attention,
        "memory": {"planned": planned, "exponent": growth(planned)},
    }  # fmt: skip


if __name__ == "__main__":
    chosen = tyro.cli(Options)
    made = main(chosen)
    if chosen.json:
        json.dump(made, sys.stdout, indent=2)
    else:
        show(made)
