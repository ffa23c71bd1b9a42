"""Memory of a training step of MBT-B at its AudioSet shape, dense attention against ours: the compiler's own plan.

    python experiments/benchmarks/train_memory.py [--batch 4] [--precision bfloat16] [--remat full] [--json]

1,974 tokens: 401 of sound (8 s, with a class token), 1,569 of video (8 frames, with a class token) and 4 bottleneck
tokens that both see. Nothing runs, and no weight is allocated; the plan is that of this process's default device. A
static estimate, not measured. Takes a minute or two, all of it compilation.
"""

from __future__ import annotations

import argparse
import json
import sys

import jax
from rich.console import Console
from rich.table import Table
from step_common import batch, step

from avjax.models import mbt
from avjax.nn.encoders import Patches
from avjax.nn.transformer import SIZES
from avjax.objectives.classification import Classification
from avjax.progress import progress
from avjax.training.on_mesh import abstract_state, jit_train
from avjax.training.optimizer import SGD
from kernels.attention import using

CLASSES = 527
MODALITIES = (
    Patches("audio", shape=(800, 128), patch=(16, 16)),
    Patches("video", shape=(8, 224, 224, 3), patch=(1, 16, 16)),
)
# Name in the table -> implementations of attention.
WAYS = {"dense": ("reference",), "blockwise": ("blockwise",)}


def plan(arguments: argparse.Namespace, implementations: tuple[str, ...]) -> dict[str, int]:
    """Bytes of one step: its arguments (weights, optimizer, batch), and what it needs beside them at the peak."""
    # As it was trained on AudioSet, as far as memory is concerned.
    model = mbt.Config(MODALITIES, classes={"event": CLASSES}, size=SIZES[arguments.size])
    made = step(
        model, Classification("sigmoid"), SGD(), arguments.batch, precision=arguments.precision, remat=arguments.remat
    )
    steps, state = abstract_state(made, made.training.mesh.build(jax.devices()[:1]))
    features, seed = jax.eval_shape(lambda: (batch(made), jax.random.key(0)))
    with using(*implementations):
        compiled = jit_train(steps, state).lower(state, features, seed).compile()
    analysis = compiled.memory_analysis()
    return {"arguments": analysis.argument_size_in_bytes, "beside": analysis.temp_size_in_bytes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", default="B", choices=SIZES)
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--remat", default="none", choices=["none", "full", "dots"])
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    arguments = parser.parse_args()
    found = {}
    with progress("plan", len(WAYS), quiet=arguments.json) as advance:
        for number, (name, implementations) in enumerate(WAYS.items(), 1):
            found[name] = plan(arguments, implementations)
            advance(number)
    if arguments.json:
        facts = {"kind": "static estimate, not measured", "platform": jax.default_backend(), "jax": jax.__version__}
        json.dump({**facts, "plans": found}, sys.stdout, indent=2)
        return
    title = (
        f"MBT-{arguments.size}, 1,974 tokens, batch {arguments.batch}, {arguments.precision}, remat {arguments.remat},"
        f" on {jax.default_backend()}: static estimate, not measured"
    )
    table = Table("attention", "weights, optimizer, batch: MiB", "beside them: MiB", "ratio", title=title)
    for name, bytes_ in found.items():
        ratio = bytes_["beside"] / found["dense"]["beside"]
        table.add_row(name, f"{bytes_['arguments'] / 2**20:.0f}", f"{bytes_['beside'] / 2**20:.0f}", f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
