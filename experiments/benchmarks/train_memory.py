"""Memory of a training step of MBT-B at its AudioSet shape, dense attention against ours: the compiler's own plan.

    python experiments/benchmarks/train_memory.py [--batch 4] [--precision bfloat16] [--remat full] [--json]
    python experiments/benchmarks/train_memory.py --topology v5e:4x4 --precision bfloat16 --batch 64

1,974 tokens: 401 of sound (8 s, with a class token), 1,569 of video (8 frames, with a class token) and 4 bottleneck
tokens that both see. Nothing runs, and no weight is allocated; the plan is that of this process's default device, or of
one of the chips of a TPU topology that is not here (needs libtpu: `pip install 'avjax[tpu]'`), weights and optimizer
cut over all of them. A static estimate, not measured. Takes a minute or two, all of it compilation.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time

import jax
from jax.experimental import topologies
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
from avjax.training.sharding import MeshShape
from kernels.attention import using
from kernels.attention.mosaic_tpu import target

CLASSES = 527
MODALITIES = (
    Patches("audio", shape=(800, 128), patch=(16, 16)),
    Patches("video", shape=(8, 224, 224, 3), patch=(1, 16, 16)),
)
# Name in the table -> implementations of attention.
WAYS = {"dense": ("reference",), "blockwise": ("blockwise",)}
ON_TPU = {"dense": ("reference",), "mosaic_tpu": ("mosaic_tpu",)}


def plan(arguments: argparse.Namespace, implementations: tuple[str, ...]) -> dict[str, int]:
    """Bytes of one step: its arguments (weights, optimizer, batch), and what it needs beside them at the peak."""
    # As it was trained on AudioSet, as far as memory is concerned.
    model = mbt.Config(MODALITIES, classes={"event": CLASSES}, size=SIZES[arguments.size])
    made = step(
        model,
        Classification("sigmoid"),
        SGD(),
        arguments.batch,
        precision=arguments.precision,
        remat=arguments.remat,
        scan=bool(arguments.topology),
    )
    devices, kernels_for = jax.devices()[:1], contextlib.nullcontext()
    if arguments.topology:
        devices = topologies.get_topology_desc(arguments.topology, "tpu").devices
        kernels_for = target.compiling_for(target.Target(arguments.topology.partition(":")[0]))
    steps, state = abstract_state(made, MeshShape(data=1, fsdp=len(devices)).build(devices))
    features, seed = jax.eval_shape(lambda: (batch(made), jax.random.key(0)))
    begin = time.monotonic()
    with using(*implementations), kernels_for:
        compiled = jit_train(steps, state).lower(state, features, seed).compile()
    analysis = compiled.memory_analysis()
    return {
        "arguments": analysis.argument_size_in_bytes, "beside": analysis.temp_size_in_bytes,
        "kernels": compiled.as_text().count("tpu_custom_call"), "seconds": time.monotonic() - begin,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", default="B", choices=SIZES)
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--remat", default="none", choices=["none", "full", "dots"])
    parser.add_argument("--topology", help="of TPUs, for example v5e:4x4: the plan of one of its chips")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    arguments = parser.parse_args()
    if arguments.topology:
        jax.config.update("jax_platforms", "cpu")
    found, ways = {}, ON_TPU if arguments.topology else WAYS
    with progress("plan", len(ways), quiet=arguments.json) as advance:
        for number, (name, implementations) in enumerate(ways.items(), 1):
            found[name] = plan(arguments, implementations)
            advance(number)
    if arguments.json:
        facts = {
            "kind": "static estimate, not measured",
            "platform": arguments.topology or jax.default_backend(),
            "jax": jax.__version__,
        }
        json.dump({**facts, "plans": found}, sys.stdout, indent=2)
        return
    title = (
        f"MBT-{arguments.size}, 1,974 tokens, batch {arguments.batch}, {arguments.precision}, remat {arguments.remat},"
        f" on {arguments.topology or jax.default_backend()}: static estimate, not measured"
    )
    table = Table(
        "attention", "weights, optimizer, batch: MiB", "beside them: MiB", "ratio", "kernels", "s", title=title
    )  # fmt: skip
    for name, bytes_ in found.items():
        ratio = bytes_["beside"] / found["dense"]["beside"]
        table.add_row(
            name, f"{bytes_['arguments'] / 2**20:.0f}", f"{bytes_['beside'] / 2**20:.0f}", f"{ratio:.2f}",
            str(bytes_["kernels"]), f"{bytes_['seconds']:.0f}",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
