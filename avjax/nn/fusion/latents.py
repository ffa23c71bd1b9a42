"""Fusion through latent tokens: adapters between frozen encoders, queries that read a sequence."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from avjax.nn.attention import attend, cross_mask, self_mask
from avjax.nn.convolution import BatchNorm, Conv, masked
from avjax.nn.dense import learned_tokens
from avjax.nn.transformer import Block, Size
from kernels.attention import Layout, Mask


class LatentAdapter(nnx.Module):
    """Lets tokens x of one modality hear another, y, through a few latent tokens l.

    LAVISH (Lin et al. 2023), from its release:

        l <- l + softmax(l y^T) y
        x' = x + g softmax(x l^T) l
        x <- x + h up(relu(BN(down(x'))))

    with the gates g and h 0 at first, so that the frozen encoder around it starts undisturbed. ``down`` and ``up`` are
    grouped convolutions of one token. A row without y has x' = x (ours).

    Args:
      width: of x, y and l.
      latents: number of latent tokens.
      reduction: width over the width between down and up.
      groups: of the two convolutions.
    """

    def __init__(self, width: int, *, latents: int = 2, reduction: int = 8, groups: int = 2, rngs: nnx.Rngs):
        hidden = width // reduction
        if hidden < 1 or hidden % groups or width % groups:
            raise ValueError(f"an adapter of width {width} / {reduction} has no {groups} equal groups of channels")
        self.latents = learned_tokens(latents, width, rngs)
        self.gate = nnx.Param(jnp.zeros(1), axes=(None,))
        self.down = Conv(width, hidden, (1,), groups=groups, bias=False, rngs=rngs)
        self.norm = BatchNorm(hidden, rngs=rngs)
        self.up = Conv(hidden, width, (1,), groups=groups, bias=False, rngs=rngs)
        self.out_gate = nnx.Param(jnp.zeros(1), axes=(None,))

    def __call__(
        self,
        x: Float[Array, "B N C"],
        y: Float[Array, "B M C"],
        x_valid: Bool[Array, "B N"],
        y_valid: Bool[Array, "B M"],
    ) -> Float[Array, "B N C"]:
        """x with what was adapted; 0 where it is not valid."""
        x, y = masked(x, x_valid), masked(y, y_valid)
        latents = jnp.broadcast_to(self.latents[...].astype(x.dtype), (x.shape[0], *self.latents.shape))
        layout = Layout.of(latents=latents.shape[1])
        others = cross_mask(layout, Layout.of(others=y.shape[1]), y_valid)
        latents = latents + _unscaled(latents, y, others, "latents")
        own = Mask(Layout.of(tokens=x.shape[1]), layout, query_valid=x_valid)
        heard = _unscaled(x, latents, own, "adapted")
        heard = x + self.gate[...].astype(x.dtype) * masked(heard, y_valid.any(1))
        adapted = self.up(nnx.relu(self.norm(self.down(heard), x_valid)))
        return masked(x + self.out_gate[...].astype(x.dtype) * adapted, x_valid)


class PerceiverResampler(nnx.Module):
    """Learned queries q that read a sequence x of any length: q <- Block(q, [x | q]), layer by layer.

    Alayrac et al. 2022 (Flamingo, appendix A.1.1): keys and values are the sequence and the queries themselves.

    Args:
      size: of the blocks.
      queries: number of output tokens.
    """

    def __init__(self, size: Size, queries: int, *, dropout: float = 0.0, rngs: nnx.Rngs):
        self.queries = learned_tokens(queries, size.width, rngs)
        self.blocks = nnx.List([Block(size, dropout=dropout, rngs=rngs) for _ in range(size.depth)])

    def __call__(self, x: Float[Array, "B N C"], valid: Bool[Array, "B N"]) -> Float[Array, "B Q C"]:
        """A row with nothing valid gives 0."""
        x = masked(x, valid)
        queries = _repeated(self.queries, x)
        asking = Layout.of(queries=queries.shape[1])
        keys = Layout(("tokens", *asking.names), (x.shape[1], *asking.lengths))
        mask = cross_mask(asking, keys, jnp.concatenate([valid, jnp.ones(queries.shape[:2], bool)], axis=1))
        for block in self.blocks:
            queries = block(queries, mask, jnp.concatenate([x, queries], axis=1))
        return masked(queries, valid.any(1))


class QFormer(nnx.Module):
    """Learned queries q that talk to each other and read a sequence x: q <- Block(q), q <- Block(q, x), layer by layer.

    Q-Former (Li et al. 2023, BLIP-2). Ours: every attention is a pre-norm block with a feed-forward layer of its own.

    Args:
      size: of the blocks; ``depth`` counts pairs of self- and cross-attention.
      queries: number of output tokens.
    """

    def __init__(self, size: Size, queries: int, *, dropout: float = 0.0, rngs: nnx.Rngs):
        self.queries = learned_tokens(queries, size.width, rngs)
        self.among = nnx.List([Block(size, dropout=dropout, rngs=rngs) for _ in range(size.depth)])
        self.read = nnx.List([Block(size, dropout=dropout, rngs=rngs) for _ in range(size.depth)])

    def __call__(self, x: Float[Array, "B N C"], valid: Bool[Array, "B N"]) -> Float[Array, "B Q C"]:
        """A row with nothing valid gives 0."""
        x = masked(x, valid)
        queries = _repeated(self.queries, x)
        layout = Layout.of(queries=queries.shape[1])
        mask = cross_mask(layout, Layout.of(tokens=x.shape[1]), valid)
        for among, read in zip(self.among, self.read, strict=True):
            queries = among(queries, Mask(layout, layout), site="queries")
            queries = read(queries, mask, x, site="tokens")
        return masked(queries, valid.any(1))


class CausalQFormer(nnx.Module):
    """A Q-Former over windows of frames, before which frames hear those before them.

    Sun et al. 2023 (FAVOR): x <- Block(x) with block-causal order, in which a token sees the tokens of its own frame
    and of all earlier ones, then QFormer(x_w) for every window w of frames. So a window's output depends on nothing
    after its last frame. (The release's mask is the other way round: a token sees its own and later frames.)

    Args:
      size: of all blocks.
      queries: output tokens of a window.
      frames: number of frames.
      window: frames of a window, a divisor of ``frames``; windows do not overlap.
      depth: number of block-causal layers.
    """

    def __init__(
        self,
        size: Size,
        queries: int,
        *,
        frames: int,
        window: int,
        depth: int = 1,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        if frames % window:
            raise ValueError(
                f"{frames} frames are not a multiple of a window of {window}; choose one that divides them"
            )
        self.frames = frames
        self.window = window
        self.causal = nnx.List([Block(size, dropout=dropout, rngs=rngs) for _ in range(depth)])
        self.former = QFormer(size, queries, dropout=dropout, rngs=rngs)

    def __call__(self, x: Float[Array, "B N C"], valid: Bool[Array, "B N"]) -> Float[Array, "B W Q C"]:
        """N tokens in time-major order, N / frames a frame; a window with nothing valid gives 0."""
        if x.shape[1] % self.frames:
            raise ValueError(f"{x.shape[1]} tokens are no equal parts of {self.frames} frames")
        x = masked(x, valid)
        mask = block_causal_mask(valid, self.frames)
        for block in self.causal:
            x = block(x, mask, site="frames")
        windows = self.frames // self.window
        x = x.reshape(x.shape[0] * windows, -1, x.shape[-1])
        found = self.former(x, valid.reshape(x.shape[0], -1))
        return found.reshape(valid.shape[0], windows, *found.shape[1:])


def block_causal_mask(valid: Bool[Array, "B N"], frames: int) -> Mask:
    """Tokens of frame i see the valid tokens of the frames j <= i; N / frames tokens a frame."""
    names = tuple(f"frame{i}" for i in range(frames))
    layout = Layout(names, (valid.shape[1] // frames,) * frames)
    sees = tuple((names[i], names[j]) for i in range(frames) for j in range(i + 1))
    return self_mask(valid, layout).replace(sees=sees)


def _unscaled(
    query: Float[Array, "B N C"], memory: Float[Array, "B M C"], mask: Mask, site: str
) -> Float[Array, "B N C"]:
    """softmax(Q Y^T) Y: the kernels divide scores by sqrt(C)."""
    scaled = query * jnp.sqrt(query.shape[-1]).astype(query.dtype)
    return attend(scaled[:, :, None], memory[:, :, None], memory[:, :, None], mask, site=site)[:, :, 0]


def _repeated(queries: nnx.Param, like: Float[Array, "B N C"]) -> Float[Array, "B Q C"]:
    """The same queries in every row."""
    return jnp.broadcast_to(queries[...].astype(like.dtype), (like.shape[0], *queries.shape))
