"""Fusion of vectors, one of each modality: concatenation, sum, mean, gates, FiLM, MMTM.

Every fusion here and in bilinear.py is built from (modalities, widths, outputs) and maps modality -> [..., C_m] to
[..., outputs], so that a system can take any of them; ``present``, modality -> [...] bool, says which there are. The
vector of a missing modality may hold anything and contributes nothing; without any modality the result is 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from avjax.nn.convolution import masked
from avjax.nn.dense import EMBED, HIDDEN, Dense
from avjax.nn.pooling import mean_pool

Vectors = Mapping[str, Float[Array, "*batch _"]]
Present = Mapping[str, Bool[Array, "*batch"]]


class VectorFusion(nnx.Module):
    """What all fusions of vectors share.

    Every subclass says in ``mix`` what becomes of (vectors [..., C_m], 0 where missing; there [..., 1] bool), two lists
    in the order of the modalities.

    Args:
      modalities: names and order.
      widths: of their vectors, in that order.
      outputs: width of the result.
    """

    def __init__(self, modalities: Sequence[str], widths: Sequence[int], outputs: int):
        if len(modalities) != len(widths) or not modalities:
            raise ValueError(f"{len(widths)} widths for the modalities {tuple(modalities)}; give each one width")
        self.modalities = tuple(modalities)
        self.widths = tuple(widths)
        self.outputs = outputs

    def __call__(self, vectors: Vectors, present: Present | None = None) -> Float[Array, "*batch _"]:
        batch = vectors[self.modalities[0]].shape[:-1]
        everywhere = jnp.ones(batch, bool)
        there = [(everywhere if present is None else present[m])[..., None] for m in self.modalities]
        clean = [jnp.where(known, vectors[m], 0) for m, known in zip(self.modalities, there, strict=True)]
        fused = self.mix(clean, there)
        return jnp.where(jnp.stack(there).any(0), fused, 0)


def pair(kind: type, modalities: Sequence[str]) -> None:
    """Refuses any other number of modalities than two."""
    if len(modalities) != 2:
        raise ValueError(f"{kind.__name__} is of two modalities and was given {tuple(modalities)}")


class Concatenation(VectorFusion):
    """z = [x_1; ...; x_M], and z = W [x_1; ...; x_M] + b where ``outputs`` are asked for; a missing x_m is 0."""

    def __init__(self, modalities: Sequence[str], widths: Sequence[int], outputs: int | None = None, *, rngs: nnx.Rngs):
        total = sum(widths)
        super().__init__(modalities, widths, total if outputs is None else outputs)
        project = None if outputs is None else Dense(total, outputs, axes=(HIDDEN, EMBED), rngs=rngs)
        self.project = nnx.data(project)

    def mix(self, vectors: list[Array], there: list[Array]) -> Array:
        joined = jnp.concatenate(vectors, axis=-1)
        return joined if self.project is None else self.project(joined)


class Sum(VectorFusion):
    """z = sum over the modalities present of W_m x_m + b_m."""

    def __init__(self, modalities: Sequence[str], widths: Sequence[int], outputs: int, *, rngs: nnx.Rngs):
        super().__init__(modalities, widths, outputs)
        self.project = nnx.List([Dense(width, outputs, axes=(HIDDEN, EMBED), rngs=rngs) for width in widths])

    def mix(self, vectors: list[Array], there: list[Array]) -> Array:
        parts = zip(self.project, vectors, there, strict=True)
        return sum(jnp.where(known, project(vector), 0) for project, vector, known in parts)


class Mean(Sum):
    """z = mean over the modalities present of W_m x_m + b_m."""

    def mix(self, vectors: list[Array], there: list[Array]) -> Array:
        return super().mix(vectors, there) / jnp.maximum(sum(known.astype(vectors[0].dtype) for known in there), 1)


class GatedFusion(VectorFusion):
    """z = W (sigmoid(W_x x) ⊙ W_y y): the first modality gates the second (the release of Peng et al. 2022, OGM-GE).

    Ours: a factor whose modality is missing is 1.
    """

    def __init__(self, modalities: Sequence[str], widths: Sequence[int], outputs: int, *, rngs: nnx.Rngs):
        pair(type(self), modalities)
        super().__init__(modalities, widths, outputs)
        self.gate = Dense(widths[0], outputs, axes=(EMBED, HIDDEN), rngs=rngs)
        self.value = Dense(widths[1], outputs, axes=(EMBED, HIDDEN), rngs=rngs)
        self.project = Dense(outputs, outputs, axes=(HIDDEN, EMBED), rngs=rngs)

    def mix(self, vectors: list[Array], there: list[Array]) -> Array:
        gate = jnp.where(there[0], nnx.sigmoid(self.gate(vectors[0])), 1)
        return self.project(gate * jnp.where(there[1], self.value(vectors[1]), 1))


class FiLM(nnx.Module):
    """Feature-wise linear modulation: x <- (1 + gamma) ⊙ x + beta, [gamma; beta] = W u + b.

    Perez et al. 2018, equation 2, with gamma counted from 1 as in MAFnet (Brousmiche et al. 2022), so that a missing
    condition, for which gamma = beta = 0, leaves x as it is.

    Args:
      condition: width of u.
      width: channels of x.
    """

    def __init__(self, condition: int, width: int, *, rngs: nnx.Rngs):
        self.modulate = Dense(condition, 2 * width, axes=(HIDDEN, EMBED), rngs=rngs)

    def __call__(
        self, x: Float[Array, "B ... C"], condition: Float[Array, "B Cu"], present: Bool[Array, " B"] | None = None
    ) -> Float[Array, "B ... C"]:
        """x is a vector, a sequence or a feature map; ``present`` says which rows have a condition."""
        if present is not None:
            condition = masked(condition, present)
        modulation = self.modulate(condition)
        if present is not None:
            modulation = masked(modulation, present)
        modulation = modulation.reshape(x.shape[0], *[1] * (x.ndim - 2), -1)
        gamma, beta = jnp.split(modulation, 2, axis=-1)
        return (1 + gamma) * x + beta


class FiLMFusion(VectorFusion):
    """z = W ((1 + gamma) ⊙ y + beta), [gamma; beta] from x: the first modality modulates the second.

    The release of Peng et al. 2022 (OGM-GE) fuses so; see ``FiLM`` for the 1. Where y is missing only beta is left.
    """

    def __init__(self, modalities: Sequence[str], widths: Sequence[int], outputs: int, *, rngs: nnx.Rngs):
        pair(type(self), modalities)
        super().__init__(modalities, widths, outputs)
        self.film = FiLM(widths[0], widths[1], rngs=rngs)
        self.project = Dense(widths[1], outputs, axes=(HIDDEN, EMBED), rngs=rngs)

    def mix(self, vectors: list[Array], there: list[Array]) -> Array:
        condition, value = (vector.reshape(-1, vector.shape[-1]) for vector in vectors)
        modulated = self.film(value, condition, there[0].reshape(-1))
        return self.project(modulated.reshape(*there[0].shape[:-1], -1))


class MMTM(nnx.Module):
    """Multimodal transfer module: x_m <- 2 sigmoid(W_m s + b_m) ⊙ x_m, s = relu(W [mean x_1; ...; mean x_M] + b).

    Joze et al. 2020, with the relu of squeeze and excitation in between: all modalities, squeezed over their places,
    together gate the channels of each. A missing modality is squeezed to 0.

    Args:
      modalities, widths: names, order, channels.
      ratio: sum of the widths over the width of s.
    """

    def __init__(self, modalities: Sequence[str], widths: Sequence[int], *, ratio: int = 4, rngs: nnx.Rngs):
        self.modalities = tuple(modalities)
        hidden = max(sum(widths) // ratio, 1)
        self.squeeze = Dense(sum(widths), hidden, axes=(EMBED, HIDDEN), rngs=rngs)
        self.excite = nnx.List([Dense(hidden, width, axes=(HIDDEN, EMBED), rngs=rngs) for width in widths])

    def __call__(
        self, maps: Mapping[str, Float[Array, "B ..."]], valid: Mapping[str, Bool[Array, "B ..."]] | None = None
    ) -> dict[str, Float[Array, "B ..."]]:
        """modality -> [B, ..., C_m], each with places of its own; ``valid`` has the axes of a map but the channels."""
        clean, squeezed = [], []
        for m in self.modalities:
            there = jnp.ones(maps[m].shape[:-1], bool) if valid is None else valid[m]
            clean.append(masked(maps[m], there))
            rows = there.shape[0]
            squeezed.append(mean_pool(clean[-1].reshape(rows, -1, clean[-1].shape[-1]), there.reshape(rows, -1)))
        shared = nnx.relu(self.squeeze(jnp.concatenate(squeezed, axis=-1)))
        gated = {}
        for m, x, excite in zip(self.modalities, clean, self.excite, strict=True):
            gate = 2 * nnx.sigmoid(excite(shared))
            gated[m] = x * gate.reshape(gate.shape[0], *[1] * (x.ndim - 2), -1)
        return gated


class MMTMFusion(VectorFusion):
    """z = W [x'_1; ...; x'_M] + b, x' = MMTM(x): the cross gating of MMTM, then concatenation."""

    def __init__(
        self, modalities: Sequence[str], widths: Sequence[int], outputs: int, *, ratio: int = 4, rngs: nnx.Rngs
    ):
        super().__init__(modalities, widths, outputs)
        self.mmtm = MMTM(modalities, widths, ratio=ratio, rngs=rngs)
        self.project = Dense(sum(widths), outputs, axes=(HIDDEN, EMBED), rngs=rngs)

    def mix(self, vectors: list[Array], there: list[Array]) -> Array:
        rows = {m: vector.reshape(-1, vector.shape[-1]) for m, vector in zip(self.modalities, vectors, strict=True)}
        gated = self.mmtm(rows)
        joined = jnp.concatenate([gated[m] for m in self.modalities], axis=-1)
        return self.project(joined.reshape(*there[0].shape[:-1], -1))
