"""Time and memory of a whole training step of MBT, against the same step in PyTorch.

    python experiments/benchmarks/train_step.py [--torch-python PYTHON] [--rounds 9] [--json]

MBT of ViT-S width, 12 layers, the last 4 fused through 4 bottleneck tokens; 392 tokens of video and 48 of sound;
float32, AdamW with the gradient clipped. Every contestant is a process of its own and they take turns: ours as
`avjax train` runs it; PyTorch eager, and compiled, both with its scaled_dot_product_attention; and each once more with
memory in huge pages, which glibc takes where GLIBC_TUNABLES says so. Memory is all of a process at the peak of its
steps. PyTorch runs on the CPU, so compare on a machine without an accelerator.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import sys
from pathlib import Path

import jax
from rich.console import Console
from rich.table import Table
from step_common import batch, step

from avjax.experiment import Experiment
from avjax.models import mbt
from avjax.nn.encoders import Patches
from avjax.nn.transformer import SIZES, Size
from avjax.objectives.classification import Classification
from avjax.progress import progress
from avjax.training import memory
from avjax.training.on_mesh import DeviceBatches, build_state, jit_train
from avjax.training.optimizer import AdamW
from kernels.bench import Measured, Program, compete
from kernels.peers.line import answer

CLASSES = 309
PEER = Path(__file__).with_name("torch_train_step.py")
# What is appended to the name of a contestant, and the environment that it then has.
PAGES = {"": {}, ", huge pages": {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}}


def experiment(rows: int, size: Size) -> Experiment:
    """The step that is measured."""
    modalities = (
        Patches("video", shape=(2, 224, 224, 3), patch=(1, 16, 16)),
        Patches("audio", shape=(128, 96), patch=(16, 16)),
    )
    fusion_layer = size.depth - size.depth // 3
    model = mbt.Config(modalities, classes={"class": CLASSES}, size=size, fusion_layer=fusion_layer)
    return step(model, Classification(), AdamW(), rows)


def serve(arguments: argparse.Namespace) -> None:
    """Our own step, in this process, once for every line of standard input."""
    made = experiment(arguments.batch, size_of(arguments.size))
    mesh = made.training.mesh.build()
    steps, initialise, abstract = build_state(made, mesh)
    features = DeviceBatches(mesh, made.training.rules, made.data.batch)(batch(made))
    state, train, seed = initialise(), jit_train(steps, abstract), jax.random.key(0)

    def run() -> None:
        nonlocal state
        state, metrics = train(state, features, seed)
        jax.block_until_ready((state, metrics))

    # As the training loop does once it has compiled.
    run()
    memory.give_back()
    answer(run, version=jax.__version__)


def size_of(words: str) -> Size:
    """A name of SIZES, or width,depth,heads."""
    return SIZES[words] if words in SIZES else Size(*map(int, words.split(",")))


def measure(arguments: argparse.Namespace) -> tuple[list[Measured], dict[str, str]]:
    """Every contestant, and whom it had to do without: name -> why."""
    size = size_of(arguments.size)
    own = [sys.executable, __file__, "--batch", str(arguments.batch), "--size", arguments.size, "--serve"]
    commands = {"avjax": own}
    if arguments.torch_python:
        shapes = {p.modality: [p.shape, p.patch] for p in experiment(arguments.batch, size).model.modalities}
        asked = {
            "modalities": shapes, "batch": arguments.batch, "width": size.width, "depth": size.depth,
            "heads": size.heads, "fused": size.depth // 3, "classes": CLASSES,
        }  # fmt: skip
        for kind in ("eager", "compile"):
            commands[f"torch {kind}"] = [arguments.torch_python, str(PEER), json.dumps({**asked, "kind": kind})]
    programs, left_out = [], {}
    try:
        for (name, command), (pages, variables) in itertools.product(commands.items(), PAGES.items()):
            try:
                programs.append(Program(name + pages, command, whole=True, variables=variables))
            except (OSError, RuntimeError) as error:
                left_out[name + pages] = str(error)
        if not programs:
            raise SystemExit("\n".join(left_out.values()))
        with progress("bench train step", arguments.rounds, quiet=arguments.json) as advance:
            return compete(programs, arguments.rounds, advance), left_out
    finally:
        for program in programs:
            program.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="in which every contestant takes one counted step")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", default="S", help=f"{', '.join(SIZES)}, or WIDTH,DEPTH,HEADS")
    parser.add_argument("--torch-python", help="a Python with PyTorch; `make bench-peers` makes one")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve(arguments)
    measured, left_out = measure(arguments)
    results = [one.plain(first=measured[0]) for one in measured]
    if arguments.json:
        facts = {"jax": jax.__version__, "processor": platform.processor() or platform.machine()}
        json.dump({**facts, "size": arguments.size, "batch": arguments.batch, "rounds": arguments.rounds,
                   "contestants": results, "left_out": left_out}, sys.stdout, indent=2)  # fmt: skip
        return None
    table = Table("", "wall ms", "±", "ratio", "CPU ms", "ratio", "MiB at the peak", title="A training step, medians")
    for one in results:
        wall, cpu, memory = one["wall"], one["cpu"], one["memory"]
        numbers = (
            f"{wall['median'] * 1e3:.0f}", f"{(wall['high'] - wall['low']) / 2 * 1e3:.0f}", f"{wall['ratio']:.3f}",
            f"{cpu['median'] * 1e3:.0f}", f"{cpu['ratio']:.3f}", "" if memory is None else f"{memory / 2**20:.0f}",
        )  # fmt: skip
        table.add_row(one["name"], *numbers)
    Console().print(table)
    for name, why in left_out.items():
        print(f"left out: {name}: {why}", file=sys.stderr)
    return None


if __name__ == "__main__":
    main()
