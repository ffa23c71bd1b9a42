"""Spiking blocks: leaky integrate-and-fire neurons, and cross-modal attention between trains of spikes.

Tokens are [B, T, N, C]: T time steps of N places. A step that is not valid leaves the membrane as it is and puts out
no spike.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from avjax.nn.convolution import BatchNorm, Conv, masked
from avjax.nn.dense import EMBED, HEADS, HIDDEN, Dense, widened

# Picojoules of one operation in 45 nm, 32 bit (Horowitz 2014): an addition; a multiplication and an addition.
ACCUMULATE, MULTIPLY_ACCUMULATE = 0.9, 4.6


@jax.custom_jvp
def spike(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """1 where x >= 0, else 0; its gradient is that of sigmoid(4 x), which is 4 sigmoid(4 x) (1 - sigmoid(4 x))."""
    return (x >= 0).astype(x.dtype)


@spike.defjvp
def _surrogate(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    ((x,), (tangent,)) = primals, tangents
    near = jax.nn.sigmoid(4 * x)
    return spike(x), 4 * near * (1 - near) * tangent


def leaky_integrate_and_fire(
    current: Float[Array, "B T ..."],
    valid: Bool[Array, "B T ..."] | None = None,
    *,
    threshold: float = 1.0,
    decay_time: float = 2.0,
) -> Float[Array, "B T ..."]:
    """Spikes of leaky integrate-and-fire neurons, as in S-CMRL (He et al. 2025).

        m <- m + (x - m) / tau        s = 1[m >= threshold]        m <- m (1 - stop_gradient(s))

    The gradient of s is ``spike``'s at m - threshold. The membrane m starts at 0 and is float32 whatever x is.

    Args:
      valid: has the leading axes of the current, as many as it needs.
      decay_time: tau, in steps.
    """
    wide = jnp.promote_types(current.dtype, jnp.float32)
    there = jnp.ones(current.shape[:2], bool) if valid is None else valid
    inputs = masked(current, there).astype(wide)

    def step(membrane: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
        x, valid = at
        charged = membrane + (x - membrane) / decay_time
        spikes = spike(charged - threshold)
        reset = charged * (1 - jax.lax.stop_gradient(spikes))
        valid = valid.reshape(*valid.shape, *[1] * (x.ndim - valid.ndim))
        return jnp.where(valid, reset, membrane), jnp.where(valid, spikes, 0)

    inputs, there = jnp.swapaxes(inputs, 0, 1), jnp.swapaxes(there, 0, 1)
    _, spikes = jax.lax.scan(step, jnp.zeros_like(inputs[0]), (inputs, there))
    return jnp.swapaxes(spikes, 0, 1).astype(current.dtype)


class MultimodalLIF(nnx.Module):
    """One membrane for all modalities, so that their spikes fall together: m <- m + (sum_m w_m x_m - m) / tau.

    The idea is MISNet's (multimodal LIF neuron); the equation, with one learned weight a modality that starts at 1, is
    ours. A modality that is not valid at a step gives no current; without any, the membrane stays as it is.

    Args:
      modalities: names and order.
    """

    def __init__(self, modalities: Sequence[str], *, threshold: float = 1.0, decay_time: float = 2.0, rngs: nnx.Rngs):
        self.modalities = tuple(modalities)
        self.threshold, self.decay_time = threshold, decay_time
        self.weights = nnx.Param(nnx.initializers.ones(rngs.params(), (len(self.modalities),)), axes=(None,))

    def __call__(
        self, currents: Mapping[str, Float[Array, "B T ..."]], valid: Mapping[str, Bool[Array, "B T ..."]]
    ) -> Float[Array, "B T ..."]:
        weights = self.weights[...]
        current = sum(
            weights[i].astype(currents[m].dtype) * masked(currents[m], valid[m]) for i, m in enumerate(self.modalities)
        )
        anything = jnp.stack([valid[m] for m in self.modalities]).any(axis=0)
        return leaky_integrate_and_fire(current, anything, threshold=self.threshold, decay_time=self.decay_time)


class SpikingPatchSplitting(nnx.Module):
    """A convolutional stem that makes places of spikes, as in S-CMRL (He et al. 2025) after Spikformer (Zhou 2023).

        x <- maxpool(LIF(BN(conv(x))))         ``depth`` times; the width doubles up to C
        x <- x + LIF(BN(conv(x)))

    Convolutions are 3 by 3 without bias; the maximum is over 3 by 3 at every second place, so that N = H W / 4^depth.
    Four stages in the release, two for small inputs. The result counts spikes: 0, 1 or 2.

    Args:
      channels: of the input.
      width: C.
      depth: number of stages.
    """

    def __init__(self, channels: int, width: int, *, depth: int = 4, rngs: nnx.Rngs):
        widths = [channels] + [width // 2 ** (depth - 1 - stage) for stage in range(depth)]
        pairs = [*itertools.pairwise(widths), (width, width)]
        self.convs = nnx.List([Conv(before, after, (3, 3), bias=False, rngs=rngs) for before, after in pairs])
        self.norms = nnx.List([BatchNorm(after, rngs=rngs) for _, after in pairs])

    def __call__(self, x: Float[Array, "B T _ _ Cin"], valid: Bool[Array, "B T"]) -> Float[Array, "B T N C"]:
        x = masked(x, valid)
        for number, (conv, norm) in enumerate(zip(self.convs[:-1], self.norms[:-1], strict=True)):
            count(conv.kernel, x, valid, spikes=number > 0)
            x = leaky_integrate_and_fire(norm(conv(x), valid), valid)
            pooled = nnx.max_pool(x.reshape(-1, *x.shape[2:]), (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
            x = pooled.reshape(*x.shape[:2], *pooled.shape[1:])
        count(self.convs[-1].kernel, x, valid)
        x = x + leaky_integrate_and_fire(self.norms[-1](self.convs[-1](x), valid), valid)
        return x.reshape(*x.shape[:2], -1, x.shape[-1])


class SpikingDense(nnx.Module):
    """LIF(BN(W x)) over [B, T, N, C]."""

    def __init__(self, inputs: int, outputs: int, *, axes: tuple[str, str], rngs: nnx.Rngs):
        self.dense = Dense(inputs, outputs, axes=axes, bias=False, rngs=rngs)
        self.norm = BatchNorm(outputs, rngs=rngs)

    def __call__(self, x: Float[Array, "B T N Cin"], valid: Bool[Array, "B T N"]) -> Float[Array, "B T N Cout"]:
        count(self.dense.kernel, x, valid)
        return leaky_integrate_and_fire(self.norm(self.dense(masked(x, valid)), valid), valid)


class SpikingMLP(nnx.Module):
    """x + LIF(BN(W_2 LIF(BN(W_1 x)))), hidden width ``ratio`` times the width (S-CMRL, Spikformer)."""

    def __init__(self, width: int, *, ratio: int = 4, rngs: nnx.Rngs):
        self.up = SpikingDense(width, ratio * width, axes=(EMBED, HIDDEN), rngs=rngs)
        self.down = SpikingDense(ratio * width, width, axes=(HIDDEN, EMBED), rngs=rngs)

    def __call__(self, x: Float[Array, "B T N C"], valid: Bool[Array, "B T N"]) -> Float[Array, "B T N C"]:
        return masked(x, valid) + self.down(self.up(x, valid), valid)


class SpikingAttention(nnx.Module):
    """Attention of spikes without a softmax: out(LIF(Q K^T V / 4)), Q of x, K and V of y (S-CMRL, He et al. 2025).

    Over "space" the places of one time step see each other, over "time" the steps of one place, for which x and y have
    equally many places. Q, K, V and out are LIF(BN(W .)).

    Args:
      threshold: of the neurons behind the products. 1 in the release, whose code means to say 0.5.
    """

    def __init__(
        self, width: int, heads: int, over: Literal["space", "time"], *, threshold: float = 1.0, rngs: nnx.Rngs
    ):
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}; choose one that is")
        self.heads, self.over, self.threshold = heads, over, threshold
        self.query = SpikingDense(width, width, axes=(EMBED, HEADS), rngs=rngs)
        self.key = SpikingDense(width, width, axes=(EMBED, HEADS), rngs=rngs)
        self.value = SpikingDense(width, width, axes=(EMBED, HEADS), rngs=rngs)
        self.out = SpikingDense(width, width, axes=(HEADS, EMBED), rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B T N C"],
        y: Float[Array, "B T M C"],
        x_valid: Bool[Array, "B T N"],
        y_valid: Bool[Array, "B T M"],
    ) -> Float[Array, "B T N C"]:
        if self.over == "time" and x.shape[2] != y.shape[2]:
            raise ValueError(
                f"attention over time pairs place with place, but one stream has {x.shape[2]} and the other"
                f" {y.shape[2]}: give both stems inputs of one size, or attend over space"
            )
        spikes = self.query(x, x_valid), self.key(y, y_valid), self.value(y, y_valid)
        # float32: they are counted, and bfloat16 counts to 256.
        query, key, value = (widened(part.reshape(*part.shape[:3], self.heads, -1)) for part in spikes)
        # Q (K^T V), which is the same, since nothing is normalised: what is not valid has no spikes.
        keys, queries = {
            "space": ("btmhd,btmhe->bthde", "btnhd,bthde->btnhe"),
            "time": ("btnhd,btnhe->bnhde", "btnhd,bnhde->btnhe"),
        }[self.over]
        attended = jnp.einsum(queries, query, jnp.einsum(keys, key, value, precision="highest"), precision="highest")
        attended = (attended / 4).reshape(x.shape).astype(x.dtype)
        return self.out(leaky_integrate_and_fire(attended, x_valid, threshold=self.threshold), x_valid)


class SpikingCrossAttention(nnx.Module):
    """Cross-modal complementary spatiotemporal spiking attention, S-CMRL (He et al. 2025).

        S = spatial attention of x to y,  R = temporal attention of x to y          (SpikingAttention)
        O[t, n] = mean_n S[t, :] ⊙ mean_t R[:, n]                                   ("both")
        O <- LIF(W O + b)                                                           semantic map
        x <- x + alpha O

    With ``kind`` spatial or temporal O is S or R, as in the release. Ours: means are over what is valid, and a row that
    lacks y has O = 0, so x passes as it is.

    Args:
      threshold: of the neurons behind products and map; see ``SpikingAttention``.
    """

    def __init__(
        self,
        width: int,
        heads: int = 16,
        *,
        kind: Literal["both", "spatial", "temporal"] = "both",
        alpha: float = 1.5,
        threshold: float = 1.0,
        rngs: nnx.Rngs,
    ):
        over = {"both": ("space", "time"), "spatial": ("space",), "temporal": ("time",)}[kind]
        self.alpha, self.threshold = alpha, threshold
        self.attention = nnx.List(
            [SpikingAttention(width, heads, axis, threshold=threshold, rngs=rngs) for axis in over]
        )
        self.map = Dense(width, width, axes=(EMBED, EMBED), rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B T N C"],
        y: Float[Array, "B T M C"],
        x_valid: Bool[Array, "B T N"],
        y_valid: Bool[Array, "B T M"],
    ) -> tuple[Float[Array, "B T N C"], Float[Array, "B T N C"]]:
        """(x, O): the tokens, and what was added, which the alignment loss compares between modalities."""
        asks = x_valid & y_valid.any(axis=(1, 2), keepdims=True)
        parts = [attention(x, y, asks, y_valid) for attention in self.attention]
        if len(parts) == 2:
            spatial, temporal = parts
            parts = [mean_over(spatial, asks, axis=2) * mean_over(temporal, asks, axis=1)]
        count(self.map.kernel, parts[0], asks, spikes=len(self.attention) < 2)
        current = self.map(masked(parts[0], asks))
        complement = leaky_integrate_and_fire(current, asks, threshold=self.threshold)
        return masked(x, x_valid) + self.alpha * complement, complement


def mean_over(x: Float[Array, "B T N C"], valid: Bool[Array, "B T N"], *, axis: int) -> Float[Array, "B _ _ C"]:
    """Mean of what is valid along time or places, which stays as an axis of one; 0 where nothing is."""
    wide = widened(masked(x, valid))
    number = jnp.maximum(valid.sum(axis=axis, keepdims=True), 1)[..., None]
    return (wide.sum(axis=axis, keepdims=True) / number).astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class Synapses:
    """A layer as ``energy`` counts it.

    Attributes:
      operations: products of one example and time step: inputs times outputs, times places where they are shared.
      rate: mean number of spikes of an input and step; None for inputs that are real numbers.
    """

    operations: int
    rate: float | Float[Array, ""] | None = None


_counted: contextvars.ContextVar[list[Synapses] | None] = contextvars.ContextVar("counted", default=None)


@contextlib.contextmanager
def counting() -> Iterator[list[Synapses]]:
    """Collects the layers with weights that run inside, in their order, for ``energy``.

    Products of attention are not among them. Where something is jitted, this belongs inside, as in ``recording``.
    """
    layers: list[Synapses] = []
    token = _counted.set(layers)
    try:
        yield layers
    finally:
        _counted.reset(token)


def count(
    kernel: nnx.Param, x: Float[Array, "B T ... C"], valid: Bool[Array, "B T ..."], *, spikes: bool = True
) -> None:
    """Notes a layer of this kernel that is applied to x, at every place between time and channels."""
    layers = _counted.get()
    if layers is not None:
        operations = kernel[...].size * math.prod(x.shape[2:-1])
        layers.append(Synapses(operations, spike_rate(x, valid) if spikes else None))


def energy(layers: Sequence[Synapses], steps: int) -> float | Float[Array, ""]:
    """Estimated picojoules of one example (the formula of Spikformer, Horowitz's constants): T sum_l operations_l e_l.

    e_l = 0.9 rate_l where spikes come in, since each is one addition, and 4.6 where real numbers do, each a product.
    It counts arithmetic alone, nothing of memory.
    """
    costs = (
        layer.operations * (MULTIPLY_ACCUMULATE if layer.rate is None else ACCUMULATE * layer.rate) for layer in layers
    )
    return steps * sum(costs)


def spike_rate(spikes: Float[Array, "B T ..."], valid: Bool[Array, "B T ..."]) -> Float[Array, ""]:
    """Mean number of spikes of a neuron and valid step; 0 where nothing is valid."""
    there = valid.reshape(*valid.shape, *[1] * (spikes.ndim - valid.ndim))
    total = masked(spikes, valid).astype(jnp.float32).sum()
    return total / jnp.maximum(jnp.broadcast_to(there, spikes.shape).sum(), 1)
