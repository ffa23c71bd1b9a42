"""Gates: what is let through, by channel, place, time, score or modality.

Every gate takes arrays with a mask of what is valid (or of which rows are present). What is not valid counts in no
gate and comes out as 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from avjax.nn.convolution import Conv, masked
from avjax.nn.dense import CLASSES, EMBED, HIDDEN, Dense, widened
from avjax.nn.pooling import max_pool, mean_pool
from avjax.nn.scoring.normalizers import softmax
from avjax.streams import Stream


def softmax_over_valid(
    scores: Float[Array, "*batch N"], valid: Bool[Array, "*batch N"] | None = None
) -> Float[Array, "*batch N"]:
    """exp(s_n) / sum over the valid n' of exp(s_n'), in float32; 0 where it is not valid, so all 0 where nothing is."""
    return softmax(widened(scores), valid)


class ChannelAttention(nnx.Module):
    """Squeeze and excitation: x <- x ⊙ s, s = sigmoid(W_2 relu(W_1 mean x)).

    Hu et al. 2018, equations 2 to 4. With ``maximum`` the two branches of CBAM's channel attention (Woo et al. 2018,
    equation 2): s = sigmoid(W_2 relu(W_1 mean x) + W_2 relu(W_1 max x)). Mean and maximum are over all that is valid
    between batch and channels.

    Args:
      reduction: width over hidden width.
      maximum: whether the maximum is squeezed too.
    """

    def __init__(self, width: int, *, reduction: int = 16, maximum: bool = False, rngs: nnx.Rngs):
        hidden = max(width // reduction, 1)
        self.maximum = maximum
        self.down = Dense(width, hidden, axes=(EMBED, HIDDEN), bias=False, rngs=rngs)
        self.up = Dense(hidden, width, axes=(HIDDEN, EMBED), bias=False, rngs=rngs)

    def excite(self, pooled: Float[Array, "B C"]) -> Float[Array, "B C"]:
        """W_2 relu(W_1 pooled)."""
        return self.up(nnx.relu(self.down(pooled)))

    def gate(self, x: Float[Array, "B ... C"], valid: Bool[Array, "B ..."] | None = None) -> Float[Array, "B C"]:
        """s."""
        places, valid = _flat(x, valid)
        excited = self.excite(mean_pool(places, valid))
        if self.maximum:
            excited = excited + self.excite(max_pool(places, valid))
        return nnx.sigmoid(excited)

    def __call__(
        self, x: Float[Array, "B ... C"], valid: Bool[Array, "B ..."] | None = None
    ) -> Float[Array, "B ... C"]:
        """``valid`` has the axes of x but the channels."""
        x = x if valid is None else masked(x, valid)
        return x * _between(self.gate(x, valid), x)


class SpatialAttention(nnx.Module):
    """x <- x ⊙ sigmoid(conv([mean_c x; max_c x])), the map of CBAM (Woo et al. 2018, equation 3).

    The last two axes before the channels are height and width; what is before them (time) is taken picture by picture.

    Args:
      size: of the kernel along each of the two axes.
    """

    def __init__(self, *, size: int = 7, rngs: nnx.Rngs):
        self.conv = Conv(2, 1, (size, size), bias=False, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B ... H W C"], valid: Bool[Array, "B ... H W"] | None = None
    ) -> Float[Array, "B ... H W C"]:
        # A cell that is not valid is to its neighbours what the edge of the picture is.
        x = x if valid is None else masked(x, valid)
        squeezed = jnp.stack([x.mean(-1), x.max(-1)], axis=-1)
        gate = nnx.sigmoid(self.conv(squeezed.reshape(-1, *squeezed.shape[-3:])))
        return x * gate.reshape(*x.shape[:-1], 1)


class AttentionPool(nnx.Module):
    """x = sum_t mu_t h_t, mu = softmax_t(w^T phi(W h_t)).

    With phi = tanh the self-attentive pooling of Lin et al. 2017 (equation 5), which temporal
    attention in emotion recognition mostly is.

    Args:
      hidden: rows of W.
      activation: phi.
    """

    def __init__(self, width: int, hidden: int, *, activation: Literal["tanh", "relu"] = "tanh", rngs: nnx.Rngs):
        self.activation = activation
        self.hidden = Dense(width, hidden, axes=(EMBED, HIDDEN), rngs=rngs)
        # No bias: a number added to all scores leaves their softmax as it is.
        self.score = Dense(hidden, 1, axes=(HIDDEN, CLASSES), bias=False, rngs=rngs)

    def weights(self, x: Float[Array, "B N C"], valid: Bool[Array, "B N"] | None = None) -> Float[Array, "B N"]:
        """mu in float32; 0 for what is not valid, which is everything in a row without any."""
        x = x if valid is None else masked(x, valid)
        raised = self.hidden(x)
        raised = jnp.tanh(raised) if self.activation == "tanh" else nnx.relu(raised)
        return softmax_over_valid(self.score(raised)[..., 0], valid)

    def __call__(self, x: Float[Array, "B N C"], valid: Bool[Array, "B N"] | None = None) -> Float[Array, "B C"]:
        return weighted_sum(self.weights(x, valid), x if valid is None else masked(x, valid))


class ModalityAttentionPool(nnx.Module):
    """One softmax over the tokens of all modalities: z_m = sum_t mu_t^m h_t^m, sum over m and t of mu_t^m = 1.

    Modality and temporal attention as in MAFnet (Brousmiche et al. 2022), whose scores are w^T relu(W h). How much a
    modality weighs shows in the length of its vector. A row without a modality gives it 0 and all weight to the others.

    Args:
      modalities: names and order.
      activation: of the hidden layer of the scores.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        width: int,
        hidden: int,
        *,
        activation: Literal["tanh", "relu"] = "relu",
        rngs: nnx.Rngs,
    ):
        self.modalities = tuple(modalities)
        self.pool = AttentionPool(width, hidden, activation=activation, rngs=rngs)

    def weights(self, tokens: Mapping[str, Stream]) -> dict[str, Float[Array, "B _"]]:
        """mu of every modality: modality -> [B, N]."""
        values = jnp.concatenate([tokens[m].values for m in self.modalities], axis=1)
        valid = jnp.concatenate([tokens[m].valid for m in self.modalities], axis=1)
        weights, found, begin = self.pool.weights(values, valid), {}, 0
        for m in self.modalities:
            end = begin + tokens[m].valid.shape[1]
            found[m], begin = weights[:, begin:end], end
        return found

    def __call__(self, tokens: Mapping[str, Stream]) -> dict[str, Float[Array, "B C"]]:
        """One vector a modality: modality -> [B, C]."""
        weights = self.weights(tokens)
        return {m: weighted_sum(weights[m], masked(tokens[m].values, tokens[m].valid)) for m in self.modalities}


class SignedGate(nnx.Module):
    """Multiplies scores by the sign of a pseudo-label: y = sgn(e) x, e = tanh(W_2 relu(W_1 u)).

    The signed interaction of AICANet (Wang et al. 2025, from its release): u is a joint vector of voice and face, and
    e >= 0 says that they match. A sign has no gradient, so e is returned, to be taught by a loss of its own. Ours: one
    hidden layer with relu, and a sign of +1 at e = 0, where sgn would put out every score.
    """

    def __init__(self, width: int, hidden: int, *, rngs: nnx.Rngs):
        self.hidden = Dense(width, hidden, axes=(EMBED, HIDDEN), rngs=rngs)
        self.label = Dense(hidden, 1, axes=(HIDDEN, CLASSES), rngs=rngs)

    def __call__(
        self, scores: Float[Array, "B ..."], joint: Float[Array, "B C"], present: Bool[Array, " B"] | None = None
    ) -> tuple[Float[Array, "B ..."], Float[Array, " B"]]:
        """Signed scores and e; both 0 in rows that are not ``present``."""
        if present is not None:
            scores, joint = masked(scores, present), masked(joint, present)
        label = jnp.tanh(self.label(nnx.relu(self.hidden(joint)))[:, 0])
        if present is not None:
            label = masked(label, present)
        sign = jnp.where(label >= 0, 1, -1).astype(scores.dtype)
        return scores * _behind(sign, scores), label


class DynamicGate(nnx.Module):
    """u = g ⊙ u_1 + (1 - g) ⊙ u_2, g = sigmoid(W [u_1; u_2] + b): two views of one thing, mixed channel by channel.

    The gated multimodal unit of Arevalo et al. 2017 without its own projections; our reading of the dynamic gating by
    which Vamsidhar et al. 2025 combine two audio pathways. Ours: where one of the two is missing the other passes as it
    is, where both are, 0.
    """

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.gate = Dense(2 * width, width, axes=(HIDDEN, EMBED), rngs=rngs)

    def __call__(
        self,
        first: Float[Array, "*batch C"],
        second: Float[Array, "*batch C"],
        first_present: Bool[Array, "*batch"] | None = None,
        second_present: Bool[Array, "*batch"] | None = None,
    ) -> Float[Array, "*batch C"]:
        there = [
            jnp.ones((*first.shape[:-1], 1), bool) if present is None else present[..., None]
            for present in (first_present, second_present)
        ]
        first, second = jnp.where(there[0], first, 0), jnp.where(there[1], second, 0)
        gate = nnx.sigmoid(self.gate(jnp.concatenate([first, second], axis=-1)))
        gate = jnp.where(there[0] & there[1], gate, there[0].astype(gate.dtype))
        return gate * first + (1 - gate) * second


class ModalityMix(nnx.Module):
    """Adds what attention refined back to a feature map: y = x (1 - m - m_p) + IN(R) m + IN(P) m_p.

    m = CA(mean R) + CA(max R) by channel, m_p the same of P, CA(u) = sigmoid(W_2 relu(W_1 u)), IN instance
    normalisation; the modality-aware mix of AICANet (Wang et al. 2025, from its release), where R is refined by the
    other modality and P by its own private attention. Ours: R and P each have their own CA.
    """

    def __init__(self, width: int, *, reduction: int = 4, rngs: nnx.Rngs):
        self.refined = ChannelAttention(width, reduction=reduction, rngs=rngs)
        self.private = ChannelAttention(width, reduction=reduction, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B ... C"],
        refined: Float[Array, "B ... C"],
        private: Float[Array, "B ... C"],
        valid: Bool[Array, "B ..."] | None = None,
    ) -> Float[Array, "B ... C"]:
        """``valid``, the same for all three, has the axes of x but the channels."""
        if valid is not None:
            x, refined, private = masked(x, valid), masked(refined, valid), masked(private, valid)
        left, added = 1.0, 0.0
        for attention, part in ((self.refined, refined), (self.private, private)):
            places, there = _flat(part, valid)
            squeezed = mean_pool(places, there), max_pool(places, there)
            share = _between(sum(nnx.sigmoid(attention.excite(pooled)) for pooled in squeezed), x)
            left, added = left - share, added + instance_norm(part, valid) * share
        return x * left + added


def instance_norm(x: Float[Array, "B ... C"], valid: Bool[Array, "B ..."] | None = None) -> Float[Array, "B ... C"]:
    """(x - mean) / sqrt(variance + 1e-5) by example and channel, over the valid places, in float32 (Ulyanov 2016)."""
    places, there = _flat(x, valid)
    wide = widened(places)
    centred = masked(wide - mean_pool(wide, there)[:, None], there)
    normed = centred * jax.lax.rsqrt(mean_pool(centred**2, there) + 1e-5)[:, None]
    return normed.reshape(x.shape).astype(x.dtype)


def weighted_sum(weights: Float[Array, "B N"], x: Float[Array, "B N C"]) -> Float[Array, "B C"]:
    """sum_n w_n x_n, in float32, as what x is."""
    total = jnp.einsum("bn,bnc->bc", weights, widened(x), precision="highest")
    return total.astype(x.dtype)


def _flat(x: Array, valid: Array | None) -> tuple[Array, Array]:
    """[B, places, C] and [B, places]."""
    places = x.reshape(x.shape[0], -1, x.shape[-1])
    there = jnp.ones(places.shape[:2], bool) if valid is None else valid.reshape(places.shape[:2])
    return places, there


def _between(gate: Array, x: Array) -> Array:
    """[B, C] as it multiplies [B, ..., C]."""
    return gate.reshape(gate.shape[0], *[1] * (x.ndim - 2), gate.shape[-1])


def _behind(gate: Array, x: Array) -> Array:
    """[B] as it multiplies [B, ...]."""
    return gate.reshape(-1, *[1] * (x.ndim - 1))
