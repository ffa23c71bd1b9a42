"""The training step of train_step.py, which asks this and says what to build, as one writes it in PyTorch.

Differs from avjax's model where PyTorch's users do it otherwise, for speed: queries, keys and values are one product.
"""

from __future__ import annotations

import json
import math
import sys

import torch
from line import answer
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width, eps=1e-6)
        self.project = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_feed_forward = nn.LayerNorm(width, eps=1e-6)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        projected = self.project(self.norm_attention(x)).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(*projected.unbind(0))
        x = x + self.out(attended.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.feed_forward(self.norm_feed_forward(x))


class MBT(nn.Module):
    """The multimodal bottleneck transformer of avjax/models/mbt.py; class tokens last, logits averaged."""

    def __init__(self, asked: dict):
        super().__init__()
        width, depth, heads = asked["width"], asked["depth"], asked["heads"]
        self.patches = {name: patch for name, (_, patch) in asked["modalities"].items()}
        self.unfused = depth - asked["fused"]
        self.embed, self.positions, self.token, self.blocks = (
            nn.ModuleDict(), nn.ParameterDict(), nn.ParameterDict(), nn.ModuleDict()
        )  # fmt: skip
        for name, (shape, patch) in asked["modalities"].items():
            tokens = math.prod(extent // step for extent, step in zip(shape, patch, strict=False))
            self.embed[name] = nn.Linear(math.prod(shape) // tokens, width)
            self.positions[name] = nn.Parameter(0.02 * torch.randn(tokens, width))
            self.token[name] = nn.Parameter(torch.zeros(1, width))
            self.blocks[name] = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.bottleneck = nn.Parameter(0.02 * torch.randn(4, width))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.classify = nn.Linear(width, asked["classes"])

    def cut(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """Patches in time-major order, each flattened."""
        patch, batch = self.patches[name], values.shape[0]
        grid = [extent // step for extent, step in zip(values.shape[1:], patch, strict=False)]
        rest = values.shape[1 + len(patch) :]
        values = values.reshape(batch, *(x for pair in zip(grid, patch, strict=True) for x in pair), *rest)
        count = len(patch)
        order = [0, *range(1, 2 * count, 2), *range(2, 2 * count + 1, 2), *range(2 * count + 1, values.dim())]
        return values.permute(order).reshape(batch, math.prod(grid), -1)

    def forward(self, streams: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        tokens = {}
        for name, values in streams.items():
            x = self.embed[name](self.cut(name, values)) + self.positions[name]
            x = torch.cat([x, self.token[name].expand(len(x), 1, -1)], 1)
            for block in self.blocks[name][: self.unfused]:
                x = block(x)
            tokens[name] = x
        bottleneck = self.bottleneck.expand(len(x), -1, -1)
        for layer in range(self.unfused, len(self.blocks[name])):
            updates = []
            for name, x in tokens.items():
                joined = self.blocks[name][layer](torch.cat([x, bottleneck], 1))
                tokens[name] = joined[:, : x.shape[1]]
                updates.append(joined[:, x.shape[1] :])
            bottleneck = torch.stack(updates).mean(0)
        return [self.classify(self.norm(x)[:, -1]) for x in tokens.values()]


def main() -> None:
    asked = json.loads(sys.argv[1])
    torch.manual_seed(0)
    model = MBT(asked)
    streams = {name: torch.randn(asked["batch"], *shape) for name, (shape, _) in asked["modalities"].items()}
    target = torch.randint(asked["classes"], (asked["batch"],))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, fused=True)

    def loss_of(streams: dict[str, torch.Tensor]) -> torch.Tensor:
        return sum(functional.cross_entropy(logits, target) for logits in model(streams)) / len(streams)

    loss_of = torch.compile(loss_of) if asked["kind"] == "compile" else loss_of

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss_of(streams).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    answer(run, version=torch.__version__)


if __name__ == "__main__":
    main()
