"""Patches of a spectrogram or a video, and what goes with them: positions, class tokens, hidden tokens."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from avjax.nn.dense import EMBED, PATCH, Dense, Initializer, learned_tokens
from avjax.nn.placement import BATCH, SEQUENCE, constrain
from avjax.streams import Stream


@dataclasses.dataclass(frozen=True)
class Patches:
    """How a modality is cut into tokens: non-overlapping patches of a spectrogram, tubelets of a video.

    Attributes:
      modality: name of the stream.
      shape: of one example's features: (T, F) spectrogram, (T, height, width, C) video, (T, C) features.
      patch: extent of a patch along the leading axes of ``shape``: (16, 16) for a spectrogram,
        (2, 16, 16) for tubelets over two frames, (1,) for one token a time step.
      central_frame: start the embedding of a tubelet from its central frame alone (MBT's release), so that
        weights of an image model fit.
    """

    modality: str
    shape: tuple[int, ...]
    patch: tuple[int, ...]
    central_frame: bool = False

    def __post_init__(self) -> None:
        if len(self.patch) > len(self.shape):
            raise ValueError(f"{self.modality}: patch {self.patch} has more axes than shape {self.shape}")
        for axis, (extent, step) in enumerate(zip(self.shape, self.patch, strict=False)):
            if extent % step:
                raise ValueError(
                    f"{self.modality}: axis {axis} of shape {self.shape} is not a multiple of its patch {self.patch};"
                    " change the crop in the experiment's data or the patch"
                )

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of patches along each cut axis."""
        return tuple(extent // step for extent, step in zip(self.shape, self.patch, strict=False))

    @property
    def tokens(self) -> int:
        return math.prod(self.grid)

    @property
    def width(self) -> int:
        """Number of values in a patch."""
        return math.prod(self.shape) // self.tokens

    def build(self, width: int, *, rngs: nnx.Rngs) -> PatchEmbedding:
        return PatchEmbedding(self, width, rngs=rngs)

    def cut(self, values: Float[Array, "B T ..."]) -> Float[Array, "B N P"]:
        """Patches in time-major order, each flattened."""
        batch, rest = values.shape[0], self.shape[len(self.patch) :]
        if values.shape[1:] != self.shape:
            raise ValueError(
                f"{self.modality}: the model was built for features of shape {self.shape} and was given"
                f" {values.shape[1:]}; make the experiment's sampling, front end and model agree"
            )
        split = [extent for pair in zip(self.grid, self.patch, strict=True) for extent in pair]
        values = values.reshape(batch, *split, *rest)
        count = len(self.patch)
        grid_first = [0, *range(1, 2 * count, 2), *range(2, 2 * count + 1, 2), *range(2 * count + 1, values.ndim)]
        return values.transpose(grid_first).reshape(batch, self.tokens, self.width)

    def valid(self, valid: Bool[Array, "B T"]) -> Bool[Array, "B N"]:
        """A patch counts where any of its time steps does."""
        steps = valid.reshape(valid.shape[0], self.grid[0], self.patch[0]).any(axis=2)
        return jnp.repeat(steps, self.tokens // self.grid[0], axis=1)


class PatchEmbedding(nnx.Module):
    """Linear embedding of patches with learned absolute positions (ViT; MBT section 3.1)."""

    def __init__(self, patches: Patches, width: int, *, rngs: nnx.Rngs):
        self.patches = patches
        kernel_init = _central_frame(patches) if patches.central_frame else None
        self.embed = Dense(patches.width, width, axes=(PATCH, EMBED), kernel_init=kernel_init, rngs=rngs)
        self.positions = learned_tokens(patches.tokens, width, rngs)

    def __call__(self, stream: Stream, keep: Bool[Array, "B N"] | None = None) -> Stream:
        """Tokens [B, N, C] in time-major order; ``keep`` hides some of them."""
        valid = self.patches.valid(stream.valid)
        values = self.embed(self.patches.cut(stream.values)) + self.positions[...].astype(stream.values.dtype)
        return Stream(
            values=constrain(values, BATCH, SEQUENCE, None),
            valid=valid if keep is None else valid & keep,
            start=stream.start,
            rate=stream.rate * self.patches.tokens / self.patches.shape[0],
        )


def append_class_token(tokens: Stream, class_token: Float[Array, "1 C"]) -> Stream:
    """Appends the class token; a row without the modality has none."""
    batch = tokens.values.shape[0]
    token = jnp.broadcast_to(class_token.astype(tokens.values.dtype), (batch, *class_token.shape))
    return tokens.replace(
        values=jnp.concatenate([tokens.values, token], axis=1),
        valid=jnp.concatenate([tokens.valid, tokens.valid.any(axis=1, keepdims=True)], axis=1),
    )


def hide(tokens: Stream, keep: Bool[Array, "B _"] | None) -> Stream:
    """``keep`` over the patches; a class token behind them stays while any patch does."""
    if keep is None:
        return tokens
    patches = keep.shape[1]
    valid = tokens.valid[:, :patches] & keep
    rest = tokens.valid[:, patches:] & valid.any(axis=1, keepdims=True)
    return tokens.replace(valid=jnp.concatenate([valid, rest], axis=1))


def _central_frame(patches: Patches) -> Initializer:
    """Xavier-uniform on the central time step of a patch, zero on the others."""

    def initialize(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        steps = patches.patch[0]
        inner = nnx.initializers.xavier_uniform()(key, (shape[0] // steps, shape[1]), dtype)
        kernel = jnp.zeros((steps, *inner.shape), dtype).at[steps // 2].set(inner)
        return kernel.reshape(shape)

    return initialize
