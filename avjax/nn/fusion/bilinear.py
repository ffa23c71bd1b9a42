"""Bilinear fusion of vectors: every channel of one modality meets every channel of the other.

The same signature as in vectors.py. Bilinear forms are products, so where a modality is missing its factor is the
neutral one (ours): what is left is the form in the modalities that are there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from avjax.nn.dense import CLASSES, EMBED, HIDDEN, Dense, widened
from avjax.nn.fusion.vectors import VectorFusion
from avjax.nn.pooling import l2_normalise, mean_pool
from avjax.nn.transformer import Constant

# Below it the square root is a straight line, whose slope at 0 is finite.
SMALL = 1e-12


def power_norm(z: Float[Array, "*batch C"]) -> Float[Array, "*batch C"]:
    """sign(z) sqrt|z| in float32 (Perronnin et al. 2010), and z / sqrt(1e-12) where |z| < 1e-12."""
    wide = widened(z)
    size = jnp.abs(wide)
    root = jnp.sign(wide) * jnp.sqrt(jnp.maximum(size, SMALL))
    return jnp.where(size < SMALL, wide / math.sqrt(SMALL), root).astype(z.dtype)


class FactorisedBilinear(VectorFusion):
    """z = SumPool_k(U_1^T x_1 ⊙ ... ⊙ U_M^T x_M), then sign(z) sqrt|z|, then z / ||z||_2.

    Multimodal factorised bilinear pooling, MFB (Yu et al. 2017), for emotion FBP (Zhou et al. 2021).
    SumPool_k adds up k neighbours, so z_i is a bilinear form of rank k. Dropout is on the product, before the sum.

    Args:
      factors: k.
      dropout: rate.
      bias: whether the factors are U^T x + b.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        widths: Sequence[int],
        outputs: int,
        *,
        factors: int = 5,
        dropout: float = 0.0,
        bias: bool = False,
        rngs: nnx.Rngs,
    ):
        super().__init__(modalities, widths, outputs)
        self.factors = factors
        self.project = nnx.List(
            [Dense(width, factors * outputs, axes=(EMBED, HIDDEN), bias=bias, rngs=rngs) for width in widths]
        )
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def pooled(self, vectors: list[Array], there: list[Array]) -> Array:
        """SumPool_k of the product, before it is normalised."""
        product = 1.0
        for project, vector, known in zip(self.project, vectors, there, strict=True):
            product = product * jnp.where(known, project(vector), 1)
        product = self.dropout(product)
        return product.reshape(*product.shape[:-1], self.outputs, self.factors).sum(-1)

    def mix(self, vectors: list[Array], there: list[Array]) -> Array:
        return l2_normalise(power_norm(self.pooled(vectors, there)))


class AdaptiveBilinear(FactorisedBilinear):
    """z = FBP(w_1 x_1, ..., w_M x_M), w_m = M s_m / sum over m' of s_m', s_m = sigmoid(u_m^T x_m + c_m).

    Adaptive weights of the modalities after AG-FBP (Zhou et al. 2021); this form of the weights is ours, and so are
    the biases of the factors: of a product without them the weights are one number, which the L2 norm takes out again.
    Only modalities that are present share the weight.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        widths: Sequence[int],
        outputs: int,
        *,
        factors: int = 5,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        super().__init__(modalities, widths, outputs, factors=factors, dropout=dropout, bias=True, rngs=rngs)
        self.score = nnx.List([Dense(width, 1, axes=(EMBED, CLASSES), rngs=rngs) for width in widths])

    def weights(self, vectors: list[Array], there: list[Array]) -> Array:
        """w [..., M]; the mean of those present is 1."""
        scores = [score(vector) for score, vector in zip(self.score, vectors, strict=True)]
        known = jnp.concatenate(there, axis=-1)
        shares = jnp.where(known, nnx.sigmoid(widened(jnp.concatenate(scores, axis=-1))), 0)
        total = jnp.maximum(shares.sum(-1, keepdims=True), SMALL)
        return shares / total * known.sum(-1, keepdims=True)

    def mix(self, vectors: list[Array], there: list[Array]) -> Array:
        weights = self.weights(vectors, there)
        weighed = [vector * weights[..., i, None].astype(vector.dtype) for i, vector in enumerate(vectors)]
        return super().mix(weighed, there)


class MultiLevelFusion(nnx.Module):
    """z = [F(x_1, ..., x_M); mean_t G(x_1^t, ..., x_M^t)]: a whole clip and its trunks, each fused by itself.

    Two levels as in AM-FBP (Zhou et al. 2021), where F and G are factorised bilinear poolings; any fusion of vectors
    will do. The mean is over the trunks in which anything is present.
    """

    def __init__(self, whole: VectorFusion, trunk: VectorFusion):
        self.whole = whole
        self.trunk = trunk
        self.outputs = whole.outputs + trunk.outputs

    def __call__(
        self,
        vectors: Mapping[str, Float[Array, "B _"]],
        trunks: Mapping[str, Float[Array, "B T _"]],
        present: Mapping[str, Bool[Array, " B"]] | None = None,
        trunks_present: Mapping[str, Bool[Array, "B T"]] | None = None,
    ) -> Float[Array, "B _"]:
        """``vectors``: modality -> [B, C]; ``trunks``: modality -> [B, T, C]."""
        local = self.trunk(trunks, trunks_present)
        anything = jnp.ones(local.shape[:2], bool)
        if trunks_present is not None:
            anything = jnp.stack([trunks_present[m] for m in self.trunk.modalities]).any(0)
        return jnp.concatenate([self.whole(vectors, present), mean_pool(local, anything)], axis=-1)


class LowRankFusion(VectorFusion):
    """h = sum_r (w_1^r [x_1; 1]) ⊙ ... ⊙ (w_M^r [x_M; 1]) + b: tensor fusion with a tensor of low rank.

    LMF (Liu et al. 2018). It equals W · (⊗_m [x_m; 1]) + b with W = sum_r ⊗_m w_m^r and never makes
    the tensor. A missing x_m is 0, so of its factor the constant is left.

    Args:
      rank: number of terms r.
    """

    def __init__(
        self, modalities: Sequence[str], widths: Sequence[int], outputs: int, *, rank: int = 4, rngs: nnx.Rngs
    ):
        super().__init__(modalities, widths, outputs)
        initialize = nnx.initializers.xavier_normal(batch_axis=(0,))
        self.factors = nnx.List(
            [nnx.Param(initialize(rngs.params(), (rank, w + 1, outputs)), axes=(None, None, EMBED)) for w in widths]
        )
        self.bias = nnx.Param(jnp.zeros(outputs), axes=(EMBED,))

    def mix(self, vectors: list[Array], there: list[Array]) -> Array:
        product = 1.0
        for vector, factor in zip(vectors, self.factors, strict=True):
            product = product * jnp.einsum("...c,rco->...ro", _with_one(vector), factor[...])
        return product.sum(-2) + self.bias[...]


class TensorFusion(VectorFusion):
    """h = W vec([x_1; 1] ⊗ ... ⊗ [x_M; 1]) + b: all products of channels of one, two, ..., M modalities.

    TFN (Zadeh et al. 2017). The tensor has prod_m (C_m + 1) entries: small vectors only. A missing x_m is
    0, so the entries without it are left.
    """

    def __init__(self, modalities: Sequence[str], widths: Sequence[int], outputs: int, *, rngs: nnx.Rngs):
        super().__init__(modalities, widths, outputs)
        self.project = Dense(math.prod(w + 1 for w in widths), outputs, axes=(HIDDEN, EMBED), rngs=rngs)

    def mix(self, vectors: list[Array], there: list[Array]) -> Array:
        tensor = _with_one(vectors[0])
        for vector in vectors[1:]:
            product = tensor[..., :, None] * _with_one(vector)[..., None, :]
            tensor = product.reshape(*product.shape[:-2], -1)
        return self.project(tensor)


class CompactBilinear(VectorFusion):
    """z = IFFT(FFT(Psi_1 x_1) ⊙ ... ⊙ FFT(Psi_M x_M)), then sign(z) sqrt|z|, then z / ||z||_2.

    Multimodal compact bilinear pooling, MCB (Fukui et al. 2016, algorithm 1). The count sketch (Psi x)_j = sum over the
    c with h(c) = j of s(c) x_c, with h and s in {-1, 1} drawn once and fixed; the circular convolution of sketches is
    the sketch of the outer product. Nothing is learned.
    """

    def __init__(self, modalities: Sequence[str], widths: Sequence[int], outputs: int, *, rngs: nnx.Rngs):
        super().__init__(modalities, widths, outputs)
        self.places = nnx.List([Constant(jax.random.randint(rngs.params(), (w,), 0, outputs)) for w in widths])
        self.signs = nnx.List([Constant(jax.random.rademacher(rngs.params(), (w,), jnp.float32)) for w in widths])

    def sketch(self, vector: Array, places: Int[Array, " C"], signs: Float[Array, " C"]) -> Array:
        """Psi x, in float32."""
        signed = widened(vector) * signs
        return jnp.zeros((*vector.shape[:-1], self.outputs), signed.dtype).at[..., places].add(signed)

    def mix(self, vectors: list[Array], there: list[Array]) -> Array:
        spectrum = 1.0
        for vector, known, places, signs in zip(vectors, there, self.places, self.signs, strict=True):
            # 1 at every frequency is the neutral element of convolution.
            spectrum = spectrum * jnp.where(known, jnp.fft.rfft(self.sketch(vector, places[...], signs[...])), 1)
        convolved = jnp.fft.irfft(spectrum, self.outputs)
        return l2_normalise(power_norm(convolved)).astype(vectors[0].dtype)


def _with_one(vector: Array) -> Array:
    """[x; 1]."""
    return jnp.concatenate([vector, jnp.ones((*vector.shape[:-1], 1), vector.dtype)], axis=-1)
