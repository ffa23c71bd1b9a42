"""Linear layers: as Flax has them, with logical axis names and a two-dimensional product."""

from __future__ import annotations

from collections.abc import Callable

import jax
from flax import nnx
from jaxtyping import Array, Float

Initializer = Callable[..., jax.Array]

# Logical axes of parameters; avjax.training.sharding.Rules maps them to mesh axes.
EMBED, HEADS, HIDDEN, CLASSES, PATCH, TOKEN = "embed", "heads", "hidden", "classes", "patch", "token"


def named(initializer: Initializer, *axes: str | None) -> Initializer:
    """``initializer`` whose parameter remembers the logical name of each of its axes."""
    return nnx.with_metadata(initializer, axes=axes)


class Dense(nnx.Linear):
    """y = x W + b over the last axis.

    The leading axes are flattened first: XLA's CPU backend runs the backward of a product with several batch
    axes at about half the speed of the same product in two dimensions, and other backends do not care.

    Args:
      inputs, outputs: widths.
      axes: logical names of the kernel's two axes.
      kernel_init: Xavier uniform unless told, as in ViT.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        axes: tuple[str, str],
        kernel_init: Initializer | None = None,
        bias: bool = True,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            inputs,
            outputs,
            use_bias=bias,
            kernel_init=named(kernel_init or nnx.initializers.xavier_uniform(), *axes),
            bias_init=named(nnx.initializers.zeros_init(), axes[1]),
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "*batch Cin"]) -> Float[Array, "*batch Cout"]:
        flat = super().__call__(x.reshape(-1, x.shape[-1]))
        return flat.reshape(*x.shape[:-1], -1)


def layer_norm(width: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Layer normalisation with ViT's epsilon; statistics in float32 whatever the input is."""
    return nnx.LayerNorm(
        width,
        epsilon=1e-6,
        scale_init=named(nnx.initializers.ones_init(), EMBED),
        bias_init=named(nnx.initializers.zeros_init(), EMBED),
        rngs=rngs,
    )


def learned_tokens(count: int, width: int, rngs: nnx.Rngs, deviation: float = 0.02) -> nnx.Param:
    """A learned [count, width] table (positions, bottlenecks, class tokens), normal at first."""
    return nnx.Param(nnx.initializers.normal(deviation)(rngs.params(), (count, width)), axes=(TOKEN, EMBED))
