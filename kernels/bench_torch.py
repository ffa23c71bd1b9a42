"""PyTorch's attention as a peer of the benchmark: run by a Python that has torch, and asked by kernels/bench.py.

    python bench_torch.py '{"kind": "sdpa", "shapes": {"query": [8, 512, 12, 64], ...}, ...}'

Answers with one line of JSON when it is ready, and one for every line it is given. It imports nothing of ``kernels``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import torch


def growth(run: Callable[[], None]) -> int | None:
    """Bytes that the process grows by at the peak of a run; None where the system does not tell."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # The peak starts anew from what is used now.
        before = status("VmRSS")
        run()
        return status("VmHWM") - before
    except OSError:
        return None


def status(name: str) -> int:
    """A size in bytes from what Linux says of this process."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(f"{name}:"))


def main() -> None:
    asked = json.loads(sys.argv[1])
    torch.manual_seed(0)
    dtype = getattr(torch, asked["dtype"])
    # Heads before tokens, as PyTorch has it; made so once, outside the time.
    made = {
        name: torch.randn(shape, dtype=dtype).transpose(1, 2).contiguous() for name, shape in asked["shapes"].items()
    }
    query, key, value = made["query"], made["key"], made["value"]
    grouped = query.shape[1] != key.shape[1]
    both = asked["direction"] == "both"
    for array in (query, key, value):
        array.requires_grad_(both)

    def attend() -> torch.Tensor:
        outputs = []
        for (begin, end), keys in asked["pairs"]:
            own = [torch.cat([array[:, :, first:last] for first, last in keys], 2) if len(keys) > 1
                   else array[:, :, keys[0][0] : keys[0][1]] for array in (key, value)]  # fmt: skip
            outputs.append(
                torch.nn.functional.scaled_dot_product_attention(
                    query[:, :, begin:end], *own, is_causal=asked["causal"], enable_gqa=grouped
                )
            )
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 2)

    function = torch.compile(attend) if asked["kind"] == "compile" else attend

    def run() -> None:
        if both:
            output = function()
            torch.autograd.grad(output, (query, key, value), output.detach())
        else:
            with torch.no_grad():
                function()

    run()
    memory = growth(run)
    print(json.dumps({"memory": memory, "version": torch.__version__}), flush=True)
    for _ in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        run()
        print(json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}), flush=True)


if __name__ == "__main__":
    main()
