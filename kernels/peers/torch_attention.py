"""PyTorch's attention as a peer of the benchmark: run by a Python that has torch, and asked by kernels/bench.py.

The first argument says what: '{"kind": "sdpa", "shapes": {"query": [8, 512, 12, 64], ...}, ...}'.
"""

from __future__ import annotations

import json
import sys

import torch
from line import answer


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

    answer(run, version=torch.__version__)


if __name__ == "__main__":
    main()
