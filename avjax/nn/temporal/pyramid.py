"""A pyramid of time scales."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from avjax.nn.attention import self_mask
from avjax.nn.convolution import masked
from avjax.nn.gates import AttentionPool
from avjax.nn.transformer import Block, Size
from kernels.attention import Layout


class TemporalPyramid(nnx.Module):
    """Attention within windows of several sizes, weighed step by step.

        h^s_n = Block_s(x)_n, where step n sees the steps within window s around it
        y_n   = sum_s softmax_s(w . tanh(W h^s_n)) h^s_n

    After the pyramid units and selective fusion of MM-Pyramid (Yu, Cheng, Zhao, Feng, Zhang 2022), whose units also
    hold dilated convolutions and stand one behind the other. Ours: the windows side by side, and this weighing.

    Args:
      size: of the blocks; its depth does not matter.
      windows: how many steps each window spans, an odd number.
    """

    def __init__(self, size: Size, *, windows: Sequence[int] = (3, 7, 15), dropout: float = 0.0, rngs: nnx.Rngs):
        if not windows or any(window < 1 or window % 2 == 0 for window in windows):
            raise ValueError(f"windows {tuple(windows)}: a window around a step spans an odd number of steps")
        self.windows = tuple(windows)
        self.blocks = nnx.List([Block(size, dropout=dropout, rngs=rngs) for _ in windows])
        self.pool = AttentionPool(size.width, size.width, rngs=rngs)

    def __call__(self, x: Float[Array, "B N C"], valid: Bool[Array, "B N"]) -> Float[Array, "B N C"]:
        x = masked(x, valid)
        scales = []
        for window, block in zip(self.windows, self.blocks, strict=True):
            mask = self_mask(valid, Layout.of(**{f"window_{window}": x.shape[1]}))
            scales.append(block(x, mask.replace(window=window // 2)))
        # Every step has its own softmax: [B N, S, C].
        scales = jnp.stack(scales, axis=2).reshape(-1, len(self.windows), x.shape[-1])
        return masked(self.pool(scales).reshape(x.shape), valid)
