"""A transformer over the steps of one modality."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from avjax.nn.convolution import masked
from avjax.nn.dense import layer_norm, learned_tokens
from avjax.nn.fusion import UnimodalLayer
from avjax.nn.stack import Stack
from avjax.nn.transformer import Block, Size, stochastic_depth_rates
from avjax.streams import Stream


class TemporalTransformer(nnx.Module):
    """Transformer encoder over time (Vaswani et al. 2017, pre-norm): LN(Block_L(... Block_1(x + P))).

    P is a learned table of positions.

    Args:
      size: width, depth and heads.
      steps: N, how many steps a sequence has.
      name: of the stack, and so of its site of statistics (statistics.py).
    """

    def __init__(
        self,
        size: Size,
        steps: int,
        *,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        name: str = "temporal",
        rngs: nnx.Rngs,
    ):
        self.positions = learned_tokens(steps, size.width, rngs)
        rates = stochastic_depth_rates(stochastic_depth, size.depth)
        blocks = [Block(size, dropout=dropout, stochastic_depth=rate, rngs=rngs) for rate in rates]
        self.stack = Stack(name, [UnimodalLayer({"steps": block}, ("steps",)) for block in blocks])
        self.norm = layer_norm(size.width, rngs)

    def __call__(self, x: Float[Array, "B N C"], valid: Bool[Array, "B N"]) -> Float[Array, "B N C"]:
        values = masked(x, valid) + self.positions[...].astype(x.dtype)
        # The stack's tokens are streams; it asks for no time.
        tokens = {"steps": Stream(values, valid, start=jnp.zeros(x.shape[0]), rate=1.0)}
        tokens, _ = self.stack(tokens)
        return masked(self.norm(tokens["steps"].values), valid)
