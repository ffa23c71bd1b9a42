"""Transformer blocks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from avjax.nn.attention import attend
from avjax.nn.dense import EMBED, HEADS, HIDDEN, Dense, layer_norm
from avjax.nn.placement import BATCH, SEQUENCE, constrain
from kernels.attention import Mask


@dataclasses.dataclass(frozen=True)
class Size:
    """Width, depth and heads of a transformer.

    Attributes:
      width: token width.
      depth: number of layers.
      heads: attention heads; divides the width.
      hidden: width of the feed-forward layer as a multiple of ``width``.
    """

    width: int
    depth: int
    heads: int
    hidden: int = 4

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}; choose one that is")


# The names of the ViT family (Dosovitskiy et al. 2021, table 1; Ti from Touvron et al. 2021).
SIZES = {"Ti": Size(192, 12, 3), "S": Size(384, 12, 6), "B": Size(768, 12, 12), "L": Size(1024, 24, 16)}


Activation = Callable[[jax.Array], jax.Array]


class Constant(nnx.Variable):
    """A number of the model's configuration that its layers differ in; an array, so that they may share a program."""


class StochasticDepth(nnx.Module):
    """Drops a residual branch of an example with probability ``rate`` while training.

    Huang et al. 2016 as MBT's release has it: one draw per example and branch, and what is kept is not
    rescaled by 1 / (1 - rate) unless ``rescale`` says so, as PyTorch's image models do.
    """

    def __init__(self, rate: float, *, rescale: bool = False, rngs: nnx.Rngs):
        self.rate = nnx.data(Constant(jnp.float32(rate)) if rate else None)
        self.rescale = rescale
        self.deterministic = False
        self.rngs = rngs["dropout"].fork()

    def __call__(self, x: Float[Array, "B N C"]) -> Float[Array, "B N C"]:
        if self.rate is None or self.deterministic:
            return x
        keep = 1.0 - self.rate[...]
        kept = jax.random.bernoulli(self.rngs(), keep, (x.shape[0], 1, 1))
        return x * (kept / keep if self.rescale else kept).astype(x.dtype)

    def set_view(self, deterministic: bool | None = None) -> None:
        """Called by ``nnx.view``.

        Args:
          deterministic: if True, nothing is dropped.
        """
        if deterministic is not None:
            self.deterministic = deterministic


class FeedForward(nnx.Module):
    """W2 f(W1 x), f = gelu unless told."""

    def __init__(self, size: Size, *, dropout: float, activation: Activation = nnx.gelu, rngs: nnx.Rngs):
        self.activation = activation
        self.up = Dense(size.width, size.hidden * size.width, axes=(EMBED, HIDDEN), rngs=rngs)
        self.down = Dense(size.hidden * size.width, size.width, axes=(HIDDEN, EMBED), rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, x: Float[Array, "B N C"]) -> Float[Array, "B N C"]:
        # In two dimensions throughout: XLA on CPU multiplies and adds the bias so at a better rate. Of the activation,
        # which is cheap, the backward pass keeps the input alone.
        rows = x.reshape(-1, x.shape[-1])
        hidden = jax.checkpoint(self.activation)(self.up(rows))
        hidden = constrain(hidden.reshape(*x.shape[:-1], -1), BATCH, SEQUENCE, HIDDEN)
        hidden = self.dropout(hidden).reshape(rows.shape[0], -1)
        return self.dropout(self.down(hidden).reshape(x.shape))


class MultiHeadAttention(nnx.Module):
    """MHA(x, y) = concat_h softmax(x Wq_h (y Wk_h)^T / sqrt(D)) y Wv_h Wo (Vaswani et al. 2017), y = x unless given.

    ``project`` and ``merge`` are its two halves around the attention, for whoever attends in another way.
    """

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        self.heads = heads
        self.query = Dense(width, width, axes=(EMBED, HEADS), rngs=rngs)
        self.key = Dense(width, width, axes=(EMBED, HEADS), rngs=rngs)
        self.value = Dense(width, width, axes=(EMBED, HEADS), rngs=rngs)
        self.out = Dense(width, width, axes=(HEADS, EMBED), rngs=rngs)

    def project(
        self, x: Float[Array, "B N C"], y: Float[Array, "B M C"] | None = None
    ) -> tuple[Float[Array, "B N H D"], Float[Array, "B M H D"], Float[Array, "B M H D"]]:
        """Queries of x, keys and values of y (of x where there is no y)."""
        y = x if y is None else y
        return tuple(
            projected.reshape(*projected.shape[:2], self.heads, -1)
            for projected in (self.query(x), self.key(y), self.value(y))
        )

    def merge(self, attended: Float[Array, "B N H D"]) -> Float[Array, "B N C"]:
        """The heads side by side through Wo."""
        return self.out(attended.reshape(*attended.shape[:2], -1))

    def value_norms(self, value: Float[Array, "B N H D"]) -> Float[Array, "B N H"]:
        """||V_j W_O,h||_2: how far a value can move the output through its head's part of Wo."""
        kernel = self.out.kernel.get_value().reshape(self.heads, value.shape[-1], -1)
        wide = jnp.promote_types(kernel.dtype, jnp.float32)
        value, kernel = value.astype(wide), kernel.astype(wide)
        # Through Wo Wo^T, so that nothing is made that is as wide as the output for every head.
        between = jnp.einsum("hdc,hec->hde", kernel, kernel)
        return jnp.sqrt(jnp.maximum(jnp.einsum("bnhd,hde,bnhe->bnh", value, between, value), 0))

    def attend(
        self,
        x: Float[Array, "B N C"],
        mask: Mask | None = None,
        y: Float[Array, "B M C"] | None = None,
        *,
        site: str | None = None,
    ) -> Float[Array, "B N H D"]:
        """What is between ``project`` and ``merge``."""
        return attend(*self.project(x, y), mask=mask, site=site, value_norms=self.value_norms)

    def __call__(
        self,
        x: Float[Array, "B N C"],
        mask: Mask | None = None,
        y: Float[Array, "B M C"] | None = None,
        *,
        site: str | None = None,
    ) -> Float[Array, "B N C"]:
        """A query that sees no key is given the bias of Wo alone; ``site`` as in ``attend``."""
        return self.merge(self.attend(x, mask, y, site=site))


class Block(MultiHeadAttention):
    """Pre-norm transformer block (Vaswani et al. 2017; pre-norm as in ViT).

    x <- x + DP(MHA(LN x, LN y)), x <- x + DP(FFN(LN x)), with y = x unless given.

    ``project`` and ``residuals`` are its two halves around the attention, so that a fusion layer can run the
    attention of several blocks as one call. Causal order and windows are the mask's.

    Args:
      activation: of the feed-forward layer.
      stochastic_depth, rescale: see ``StochasticDepth``.
    """

    def __init__(
        self,
        size: Size,
        *,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        rescale: bool = False,
        activation: Activation = nnx.gelu,
        rngs: nnx.Rngs,
    ):
        self.norm_attention = layer_norm(size.width, rngs)
        super().__init__(size.width, size.heads, rngs=rngs)
        self.norm_feed_forward = layer_norm(size.width, rngs)
        self.feed_forward = FeedForward(size, dropout=dropout, activation=activation, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.stochastic_depth = StochasticDepth(stochastic_depth, rescale=rescale, rngs=rngs)

    def project(
        self, x: Float[Array, "B N C"], y: Float[Array, "B M C"] | None = None
    ) -> tuple[Float[Array, "B N H D"], Float[Array, "B M H D"], Float[Array, "B M H D"]]:
        """Queries of x, keys and values of y (of x where there is no y), normalised first."""
        return super().project(self.norm_attention(x), None if y is None else self.norm_attention(y))

    def residuals(self, x: Float[Array, "B N C"], attended: Float[Array, "B N H D"]) -> Float[Array, "B N C"]:
        """Adds what was attended to, then the feed-forward layer."""
        x = x + self.stochastic_depth(self.dropout(self.merge(attended)))
        x = x + self.stochastic_depth(self.feed_forward(self.norm_feed_forward(x)))
        return constrain(x, BATCH, SEQUENCE, None)

    def __call__(
        self,
        x: Float[Array, "B N C"],
        mask: Mask | None = None,
        y: Float[Array, "B M C"] | None = None,
        *,
        site: str | None = None,
    ) -> Float[Array, "B N C"]:
        return self.residuals(x, self.attend(x, mask, y, site=site))


class PostNormBlock(Block):
    """Post-norm transformer block (Vaswani et al. 2017, figure 1), with the parts of ``Block``.

    x <- LN(x + DP(MHA(x, y))), x <- LN(x + DP(FFN(x))), with y = x unless given.
    """

    def project(
        self, x: Float[Array, "B N C"], y: Float[Array, "B M C"] | None = None
    ) -> tuple[Float[Array, "B N H D"], Float[Array, "B M H D"], Float[Array, "B M H D"]]:
        """Queries of x, keys and values of y (of x where there is no y), as they are."""
        return MultiHeadAttention.project(self, x, y)

    def residuals(self, x: Float[Array, "B N C"], attended: Float[Array, "B N H D"]) -> Float[Array, "B N C"]:
        """Adds what was attended to and normalises, then the same with the feed-forward layer."""
        x = self.norm_attention(x + self.stochastic_depth(self.dropout(self.merge(attended))))
        x = self.norm_feed_forward(x + self.stochastic_depth(self.feed_forward(x)))
        return constrain(x, BATCH, SEQUENCE, None)


def stochastic_depth_rates(rate: float, depth: int) -> list[float]:
    """Rates that rise linearly from 0 in the first layer to ``rate`` in the last: p_l = rate l / (L - 1)."""
    return [rate * layer / max(depth - 1, 1) for layer in range(depth)]
