"""Convolutions and batch normalisation: as Flax has them, with logical axis names, and without what is not valid."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from avjax.nn.dense import EMBED, Initializer, named
from avjax.streams import beside


class Conv(nnx.Conv):
    """A convolution over the axes between batch and channels: [B, ..., Cin] to [B, ..., Cout].

    What is not valid must be 0 before it (``masked``), or it reaches its neighbours.

    Args:
      size: of the kernel, one number an axis.
      stride, dilation: one number, or one an axis.
      padding: SAME, VALID, CAUSAL (one axis), or a pair an axis.
      groups: of channels that do not see each other; ``inputs`` for a depthwise convolution.
      kernel_init: He normal unless told.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: Sequence[int],
        *,
        stride: int | Sequence[int] = 1,
        padding: str | Sequence[tuple[int, int]] = "SAME",
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        kernel_init: Initializer | None = None,
        rngs: nnx.Rngs,
    ):
        axes = (*(None for _ in size), None, EMBED)
        super().__init__(
            inputs,
            outputs,
            tuple(size),
            strides=stride,
            padding=padding,
            kernel_dilation=dilation,
            feature_group_count=groups,
            use_bias=bias,
            kernel_init=named(kernel_init or nnx.initializers.he_normal(), *axes),
            bias_init=named(nnx.initializers.zeros_init(), EMBED),
            rngs=rngs,
        )


class BatchNorm(nnx.BatchNorm):
    """Batch normalisation whose statistics are those of what is valid, in float32.

    Where nothing of a batch is valid its values are 0, and so are mean and variance.

    Args:
      momentum: share of the moving averages that stays at every step.
    """

    def __init__(self, width: int, *, momentum: float = 0.9, epsilon: float = 1e-5, rngs: nnx.Rngs):
        super().__init__(
            width,
            momentum=momentum,
            epsilon=epsilon,
            use_fast_variance=False,
            scale_init=named(nnx.initializers.ones_init(), EMBED),
            bias_init=named(nnx.initializers.zeros_init(), EMBED),
            rngs=rngs,
        )

    def __call__(
        self, x: Float[Array, "B ... C"], valid: Bool[Array, "B ..."] | None = None
    ) -> Float[Array, "B ... C"]:
        """``valid`` has the leading axes of x, as many as it needs; the result is 0 where it is False."""
        if valid is None:
            return super().__call__(x).astype(x.dtype)
        x = masked(x, valid)
        mask = jnp.broadcast_to(beside(valid, x), x.shape)
        normed = super().__call__(x, mask=mask | ~mask.any())
        return masked(normed, valid).astype(x.dtype)


def masked(x: Float[Array, "B ..."], valid: Bool[Array, "B ..."]) -> Float[Array, "B ..."]:
    """x, 0 where it is not valid, whatever it holds there; ``valid`` has the leading axes of x."""
    return jnp.where(beside(valid, x), x, 0)
