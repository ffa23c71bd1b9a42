"""Layers of transformers in which modalities meet.

Every fusion layer maps (tokens of each modality, bottleneck) to the same; a layer without a bottleneck passes
None on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from avjax.nn.attention import attend, cross_mask, self_mask, towers_mask
from avjax.nn.pooling import mean_of_present
from avjax.nn.statistics import replay, returning_records
from avjax.nn.transformer import Block
from avjax.streams import Stream
from kernels.attention import Layout

Tokens = Mapping[str, Stream]
Bottleneck = Float[Array, "B M C"] | None

# Name -> what the backward pass may keep of a layer; None is nothing but its inputs.
REMAT_POLICIES = {"full": None, "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}


def present(tokens: Tokens) -> dict[str, Array]:
    """Which rows have each modality: modality -> [B] bool."""
    return {modality: stream.valid.any(axis=1) for modality, stream in tokens.items()}


class Layer(nnx.Module):
    """A layer of a stack: every subclass says in ``mix`` what it does to (tokens, bottleneck).

    ``remat``, set from outside with ``nnx.view(model, remat=...)``, names what the backward pass computes again
    instead of keeping, layer by layer: "none", "full" (all but the layer's inputs), or "dots" (all but the products
    with weights). What autodiff keeps then falls to every layer's inputs. Whether memory follows is up to XLA: on CPU
    it does with jax 0.12, while jax 0.10.2 computes all layers again at once.
    """

    remat = "none"

    def __call__(self, tokens: Tokens, bottleneck: Bottleneck = None) -> tuple[dict[str, Stream], Bottleneck]:
        mix = type(self).mix
        if self.remat == "none":
            return mix(self, dict(tokens), bottleneck)
        mix = nnx.remat(returning_records(mix), policy=REMAT_POLICIES[self.remat])
        result, records = mix(self, dict(tokens), bottleneck)
        replay(records)
        return result

    def set_view(self, remat: str | None = None) -> None:
        """Called by ``nnx.view``.

        Args:
          remat: what the backward pass computes again; see ``Layer``.
        """
        if remat is not None:
            self.remat = remat


class BottleneckFusion(Layer):
    """Attention bottlenecks (Nagrani et al. 2021, equations 8 and 9, figure 2).

    [X_m | Z_m] <- Block_m([X_m | Z]) for every modality m from the same Z, then Z <- mean over m of Z_m.

    With ``sequential`` the second modality starts from the Z that the first has left, and so on; the result then
    depends on the order of the modalities. The mean is over the modalities that a row has (ours: the paper
    has no missing modality); without any, Z passes through.

    Args:
      blocks: modality -> its own transformer block.
      modalities: their order.
    """

    def __init__(self, blocks: Mapping[str, Block], modalities: Sequence[str], *, sequential: bool = False):
        self.blocks = nnx.Dict(blocks)
        self.modalities = tuple(modalities)
        self.sequential = sequential

    def mix(self, tokens: Tokens, bottleneck: Bottleneck) -> tuple[dict[str, Stream], Bottleneck]:
        return self._in_turn(tokens, bottleneck) if self.sequential else self._at_once(tokens, bottleneck)

    def _at_once(self, tokens: Tokens, bottleneck: Bottleneck) -> tuple[dict[str, Stream], Bottleneck]:
        joined = {m: _append(tokens[m], bottleneck) for m in self.modalities}
        projected = [self.blocks[m].project(joined[m].values) for m in self.modalities]
        ends = [sum(joined[m].values.shape[1] for m in self.modalities[: i + 1]) for i in range(len(joined) - 1)]

        def value_norms(value: Float[Array, "B N H D"]) -> Float[Array, "B N H"]:
            parts = zip(self.modalities, jnp.split(value, ends, axis=1), strict=True)
            return jnp.concatenate([self.blocks[m].value_norms(part) for m, part in parts], axis=1)

        # One call for all modalities: the mask is a list of towers, and a kernel launches once.
        attended = attend(
            *(jnp.concatenate(part, axis=1) for part in zip(*projected, strict=True)),
            mask=towers_mask(
                [_with_bottleneck(m, tokens[m], bottleneck) for m in self.modalities],
                [joined[m].valid for m in self.modalities],
            ),
            site="",
            value_norms=value_norms,
        )
        fused, updates = {}, {}
        for m, part in zip(self.modalities, jnp.split(attended, ends, axis=1), strict=True):
            values = self.blocks[m].residuals(joined[m].values, part)
            fused[m], updates[m] = _part(tokens[m], values)
        return fused, self.meet(updates, present(tokens), bottleneck)

    def _in_turn(self, tokens: Tokens, bottleneck: Bottleneck) -> tuple[dict[str, Stream], Bottleneck]:
        fused, there = {}, present(tokens)
        for m in self.modalities:
            fused[m], update = self.alone(m, tokens[m], bottleneck)
            bottleneck = jnp.where(there[m][:, None, None], update, bottleneck)
        return fused, bottleneck

    def alone(self, modality: str, tokens: Stream, bottleneck: jax.Array) -> tuple[Stream, Float[Array, "B M C"]]:
        """[X_m | Z_m], which looks at no other modality."""
        joined = _append(tokens, bottleneck)
        values = self.blocks[modality](
            joined.values, self_mask(joined.valid, _with_bottleneck(modality, tokens, bottleneck))
        )
        return _part(tokens, values)

    def class_token(self, modality: str, tokens: Stream, bottleneck: jax.Array) -> Float[Array, "B C"]:
        """The last token of X_m, for whoever needs no other: nothing but it asks."""
        joined = _append(tokens, bottleneck)
        keys = _with_bottleneck(modality, tokens, bottleneck)
        mask = cross_mask(Layout((modality,), (1,)), keys, joined.valid)
        return self.blocks[modality](tokens.values[:, -1:], mask, joined.values)[:, 0]

    def meet(
        self, updates: Mapping[str, Float[Array, "B M C"]], there: Mapping[str, Bool[Array, " B"]],
        bottleneck: Float[Array, "B M C"],
    ) -> Float[Array, "B M C"]:  # fmt: skip
        """Z <- the mean of Z_m over the modalities that a row has."""
        anything = jnp.stack(list(there.values())).any(axis=0)[:, None, None]
        return jnp.where(anything, mean_of_present(updates, there), bottleneck)


class CrossAttentionFusion(Layer):
    """Vanilla cross-attention (MBT, equation 6): X_m <- Block_m([X_m | X_others]), own part kept.

    Only the own part asks; keys and values are the union.
    """

    def __init__(self, blocks: Mapping[str, Block], modalities: Sequence[str]):
        self.blocks = nnx.Dict(blocks)
        self.modalities = tuple(modalities)

    def mix(self, tokens: Tokens, bottleneck: Bottleneck) -> tuple[dict[str, Stream], Bottleneck]:
        union = jnp.concatenate([tokens[m].values for m in self.modalities], axis=1)
        valid = jnp.concatenate([tokens[m].valid for m in self.modalities], axis=1)
        return {
            m: tokens[m].replace(
                values=self.blocks[m](
                    tokens[m].values, cross_mask(_layout([m], tokens), _layout(self.modalities, tokens), valid), union
                )
            )
            for m in self.modalities
        }, bottleneck


class MergedFusion(Layer):
    """Merged attention with one set of weights (MBT, equation 5): X <- Block([X_a | X_v])."""

    def __init__(self, block: Block, modalities: Sequence[str]):
        self.block = block
        self.modalities = tuple(modalities)

    def mix(self, tokens: Tokens, bottleneck: Bottleneck) -> tuple[dict[str, Stream], Bottleneck]:
        union = jnp.concatenate([tokens[m].values for m in self.modalities], axis=1)
        valid = jnp.concatenate([tokens[m].valid for m in self.modalities], axis=1)
        values = self.block(union, self_mask(valid, _layout(self.modalities, tokens)))
        fused, begin = {}, 0
        for m in self.modalities:
            end = begin + tokens[m].values.shape[1]
            fused[m] = tokens[m].replace(values=values[:, begin:end])
            begin = end
        return fused, bottleneck


class UnimodalLayer(Layer):
    """X_m <- Block_m(X_m): a layer before the modalities meet."""

    def __init__(self, blocks: Mapping[str, Block], modalities: Sequence[str]):
        self.blocks = nnx.Dict(blocks)
        self.modalities = tuple(modalities)

    def mix(self, tokens: Tokens, bottleneck: Bottleneck) -> tuple[dict[str, Stream], Bottleneck]:
        return {
            m: tokens[m].replace(
                values=self.blocks[m](tokens[m].values, self_mask(tokens[m].valid, _layout([m], tokens)))
            )
            for m in self.modalities
        }, bottleneck


class CausalLayer(Layer):
    """X_m <- Block(X_m) of one modality, in which a token sees itself and those before it."""

    def __init__(self, block: Block, modality: str):
        self.block = block
        self.modality = modality

    def mix(self, tokens: Tokens, bottleneck: Bottleneck) -> tuple[dict[str, Stream], Bottleneck]:
        stream = tokens[self.modality]
        mask = self_mask(stream.valid, _layout([self.modality], tokens)).replace(causal=True)
        return {**tokens, self.modality: stream.replace(values=self.block(stream.values, mask))}, bottleneck


def _layout(modalities: Sequence[str], tokens: Tokens) -> Layout:
    """Groups of tokens side by side."""
    return Layout(tuple(modalities), tuple(tokens[m].values.shape[1] for m in modalities))


def _with_bottleneck(modality: str, tokens: Stream, bottleneck: jax.Array) -> Layout:
    """Groups of [X | Z]."""
    return Layout((modality, f"bottleneck_{modality}"), (tokens.values.shape[1], bottleneck.shape[1]))


def _append(tokens: Stream, bottleneck: jax.Array) -> Stream:
    """[X | Z]; bottleneck tokens are always valid."""
    return tokens.replace(
        values=jnp.concatenate([tokens.values, bottleneck], axis=1),
        valid=jnp.concatenate([tokens.valid, jnp.ones(bottleneck.shape[:2], bool)], axis=1),
    )


def _part(tokens: Stream, values: jax.Array) -> tuple[Stream, jax.Array]:
    """The two parts of [X | Z]."""
    count = tokens.values.shape[1]
    return tokens.replace(values=values[:, :count]), values[:, count:]
