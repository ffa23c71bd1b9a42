"""Compiles jobs for TPUs that are not there: a line of JSON for a line. Started by compiler.py, which sets what libtpu
reads from the environment before JAX is imported; one process serves one target.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from kernels.aot import bundles, jobs
from kernels.attention.mosaic_tpu import target

# What libtpu says of a fusion that it has no estimate of is larger.
NO_ESTIMATE = 2**60
# The smallest topology of each target.
TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2", "tpu7x": "tpu7x:2x2x1"}


def main() -> None:
    folder = Path(sys.argv[1])
    # What libraries print must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            answer = {"found": compiled(jobs.Job.of(json.loads(line)), folder)}
        except Exception as error:  # Whatever the compiler says of a job is the answer to it.
            first = str(error).strip().splitlines()
            answer = {"error": f"{type(error).__name__}: {first[0] if first else ''}"[:500]}
        print(json.dumps(answer), file=answers, flush=True)


def compiled(job: jobs.Job, folder: Path) -> dict[str, Any]:
    """Figures of one job; ``folder`` is where libtpu writes its dumps, empty before and after."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    device = topologies.get_topology_desc(TOPOLOGIES[job.target], "tpu").devices[0]
    sharding = jax.sharding.SingleDeviceSharding(device)
    arguments = [jax.ShapeDtypeStruct(one.shape, one.dtype, sharding=sharding) for one in jobs.arguments(job)]
    begin = time.monotonic()
    with target.compiling_for(job.target_for()):
        program = jax.jit(jobs.function(job)).lower(*arguments).compile()
    seconds = time.monotonic() - begin
    memory = program.memory_analysis()
    kernels = {
        name: [
            {"bundles": body.bundles, "spills": body.spills, "fills": body.fills, "slots": body.slots} for body in found
        ]
        for name, found in bundles.read(folder).items()
    }
    # libtpu's own estimate of everything that XLA makes itself; of kernels it knows nothing.
    cycles = [int(found) for found in re.findall(r'"estimated_cycles":"(\d+)"', program.as_text())]
    known = max(cycles, default=0) < NO_ESTIMATE
    return {
        "seconds": seconds, "kernels": kernels, "xla_cycles": sum(cycles) if known else None,
        "memory": {
            "temporary": memory.temp_size_in_bytes, "arguments": memory.argument_size_in_bytes,
            "outputs": memory.output_size_in_bytes,
        },
    }  # fmt: skip


if __name__ == "__main__":
    main()
