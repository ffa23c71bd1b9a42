"""Linear layers: as Flax has them, with logical axis names and a two-dimensional product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

Initializer = Callable[..., jax.Array]

# Logical axes of parameters; avjax.training.sharding.Rules maps them to mesh axes.
EMBED, HEADS, HIDDEN, CLASSES, PATCH, TOKEN = "embed", "heads", "hidden", "classes", "patch", "token"


def widened(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """In float32 at least, as sums, probabilities and losses are."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


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


class SingularVector(nnx.Variable):
    """A direction that a power iteration goes on from at every step; kept beside the parameters."""


class SpectralDense(Dense):
    """y = x W / s(W) + b, s the largest singular value (spectral normalisation, Miyato et al. 2018).

    s = v W u, of v <- W u / ||W u||, u <- v W / ||v W||: one power iteration a call, from the u of the call before. No
    gradient flows into u and v. Nothing is kept where running averages are used.

    Args:
      inputs, outputs, rngs, options: as of ``Dense``.
    """

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs, **options: Any):
        super().__init__(inputs, outputs, rngs=rngs, **options)
        self.direction = SingularVector(_unit(jax.random.normal(rngs.params(), (outputs,))))
        self.use_running_average = False

    def __call__(self, x: Float[Array, "*batch Cin"]) -> Float[Array, "*batch Cout"]:
        return super().__call__(x / self.singular_value().astype(x.dtype))

    def singular_value(self) -> Float[Array, ""]:
        """s, at least 1e-12."""
        kernel = widened(self.kernel[...])
        left = _unit(kernel @ self.direction[...])
        right = _unit(left @ kernel)
        left, right = jax.lax.stop_gradient((left, right))
        if not self.use_running_average:
            self.direction[...] = right.astype(self.direction.dtype)
        return jnp.maximum(left @ kernel @ right, 1e-12)

    def set_view(self, use_running_average: bool | None = None) -> None:
        """Called by ``nnx.view``.

        Args:
          use_running_average: if True, u stays as it is.
        """
        if use_running_average is not None:
            self.use_running_average = use_running_average


def _unit(x: Float[Array, " C"]) -> Float[Array, " C"]:
    return x / jnp.maximum(jnp.linalg.norm(x), 1e-12)


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
