"""What each head of attention is worth, how alike the heads of a layer are (section 4), and what reached the answer
through whose keys (1.3)."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.compiled import compiled
from avjax.diagnostics.contribution.relevance import gate_gradients, sees_any, total_gradient_mass
from avjax.diagnostics.definitions import number, skipped
from avjax.diagnostics.faithfulness.complexity import Scatter, cosines_of_products, head_cka, head_redundancy
from avjax.diagnostics.measured import Measured, Undefined
from avjax.diagnostics.probe import ModelProbe, Streams
from avjax.diagnostics.protocol.study import Found, Part, Study
from avjax.nn.statistics import Call, key_valid, tapped
from kernels.attention import attention

IMPORTANCE, REDUNDANCY = "faithfulness/head_importance", "faithfulness/head_redundancy"
COSINE, CKA = "faithfulness/head_cosine", "faithfulness/head_cka"
THROUGH = "contribution/gradient_attention"
MOST_KEYS = 512
"""Of a layer whose weights are looked at one by one; of more, products with random vectors stand for them."""
RANDOM_VECTORS = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """One call of attention on the clips of a study.

    Attributes:
      name: such as "fusion 0".
      worth: dL/dxi_h of each head's gate, for the loss L of the label.
      products: <P_h, P_h'> over the valid queries of each clip; of ``RANDOM_VECTORS`` where there are more keys than
        ``MOST_KEYS``.
      alike: ``head_redundancy`` of each clip, NaN where it is undefined; None where there are more keys.
      scatter: of all heads' outputs about their means, over the valid queries of all clips.
    """

    name: str
    worth: Float[np.ndarray, "N H"]
    products: Float[np.ndarray, "N H H"]
    alike: Float[np.ndarray, " N"] | None
    scatter: Scatter


def heads(study: Study) -> Found:
    """Importance, redundancy, cosine and CKA of heads, layer by layer; gradient-weighted attention by modality."""
    found, part = Found(), study.part(study.tier.gradients)
    if not isinstance(study.probe, ModelProbe):
        reason = "a plain function does not tell its attention"
        found.lines.append(skipped(IMPORTANCE, reason, estimator="calls of attention"))
        return found
    try:
        layers, through = _looked_at(study, study.probe, part)
    except (Undefined, ValueError) as error:
        found.lines.append(skipped(IMPORTANCE, str(error), estimator="calls of attention"))
        return found
    for layer in layers:
        found.lines += _lines(study, part.clips, layer)
    for group, values in through.items():
        found.lines.append(
            study.mean(THROUGH, values, part.clips, group=group, target="predicted",
                       estimator="sum of layers, heads and queries")
        )  # fmt: skip
    return found


def _lines(study: Study, clips: Clips, layer: Layer) -> Iterator[Measured]:
    where = {"layer": layer.name}
    for head, values in enumerate(np.abs(layer.worth).T):
        yield study.mean(IMPORTANCE, values, clips, head=head, target="label", estimator="mean of clips", **where)
    if layer.worth.shape[1] < 2:
        for id in (REDUNDANCY, COSINE, CKA):
            yield skipped(id, "the layer has one head", estimator="pairs of heads", n=len(clips), **where)
        return
    yield _redundancy(study, clips, layer)
    words = "pairs of heads, queries of all clips together"
    exact = "" if layer.alike is not None else f", {RANDOM_VECTORS} random vectors"

    def cosine(chosen: np.ndarray) -> float:
        return cosines_of_products(layer.products[chosen].sum(axis=0))

    yield study.line(COSINE, cosine, clips, estimator=f"{words}{exact}", **where)
    of_outputs = functools.partial(head_cka, layer.scatter, layer.worth.shape[1])
    yield number(CKA, of_outputs, n=layer.scatter.rows, estimator=words, **where)


def _redundancy(study: Study, clips: Clips, layer: Layer) -> Measured:
    fields = {"estimator": "pairs of heads, mean of clips", "layer": layer.name}
    if layer.alike is None:
        reason = f"more than {MOST_KEYS} keys: weights of every pair of tokens would be looked at one by one"
        return skipped(REDUNDANCY, reason, n=len(clips), **fields)
    rows = np.flatnonzero(np.isfinite(layer.alike))
    if not len(rows):
        return skipped(REDUNDANCY, "no clip has a token that sees another", n=len(clips), **fields)
    return study.mean(REDUNDANCY, layer.alike[rows], clips.take(rows), **fields)


def _looked_at(study: Study, probe: ModelProbe, part: Part) -> tuple[list[Layer], dict[str, np.ndarray]]:
    """Every call on these clips, and gradient-weighted attention by set of keys.

    Raises:
      Undefined: where the model has no call of attention, or attends over parts of clips.
      ValueError: where its calls cannot be kept.
    """
    sites: list[str] = []
    report = compiled(functools.partial(_report, sites))
    parts: list[list[dict[str, Any]]] = []
    through: dict[str, list[np.ndarray]] = collections.defaultdict(list)
    scatters: list[Scatter] = []
    size = min(probe.batch, max(len(part.rows), probe.sharding.mesh.size))
    for rows, full, streams in probe.batches(part.clips, size):
        key = jax.random.key(study.seed + len(parts))
        calls, mass = report(probe.program, streams, part.clips.label[full], part.clean.predicted[full], key)
        if not calls:
            raise Undefined("the model has no call of attention")
        if any(len(call["worth"]) != len(full) for call in calls):
            raise Undefined("attention is over parts of a clip as if they were clips: their tokens have no names")
        calls = jax.tree.map(lambda x, count=len(rows): np.asarray(x)[:count], calls)
        here = [Scatter.of(call["output"][call["asks"]].reshape(-1, _width(call["output"]))) for call in calls]
        scatters = [one + other for one, other in zip(scatters, here, strict=True)] if scatters else here
        parts.append([_of_clips(call) for call in calls])
        for group, values in mass.items():
            through[group].append(np.asarray(values, np.float64)[: len(rows)])
    layers, depth = [], collections.Counter()
    for place, site in enumerate(sites):
        one = {name: np.concatenate([calls[place][name] for calls in parts]) for name in parts[0][place]}
        layers.append(Layer(f"{site} {depth[site]}", one["worth"], one["products"], one.get("alike"), scatters[place]))
        depth[site] += 1
    return layers, {group: np.concatenate(values) for group, values in through.items()}


def _width(output: np.ndarray) -> int:
    return output.shape[-2] * output.shape[-1]


def _of_clips(call: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Numbers of each clip, so that neither outputs nor weights of all of them are kept."""
    found, asks = {"worth": call["worth"].astype(np.float64)}, call["asks"]
    if "weights" not in call:
        return found | {"products": np.where(asks[..., None, None], call["products"], 0).sum(axis=1, dtype=np.float64)}
    weights = np.where(asks[:, None, :, None], call["weights"], 0).astype(np.float64)
    return found | {
        "products": np.einsum("bhqk,bgqk->bhg", weights, weights),
        "alike": np.array([_alike(*one) for one in zip(weights, asks, strict=True)]),
    }


def _alike(weights: Float[np.ndarray, "H Q K"], asks: Bool[np.ndarray, " Q"]) -> float:
    try:
        return head_redundancy(weights, asks)
    except Undefined:
        return np.nan


def _report(
    sites: list[str],
    program: Callable[..., Float[Array, "B K"]],
    streams: Streams,
    label: Int[Array, " B"],
    predicted: Int[Array, " B"],
    key: Array,
) -> tuple[list[dict[str, Array]], dict[str, Array]]:
    """For the device: what ``_looked_at`` needs of each call, and ``total_gradient_mass`` of the predicted class.

    Args:
      sites: filled with the sites of the calls when this is traced.
    """

    def loss(streams: Streams) -> Float[Array, " B"]:
        return -jnp.take_along_axis(jax.nn.log_softmax(program(streams)), label[:, None], axis=1)[:, 0]

    def logit(streams: Streams) -> Float[Array, " B"]:
        return jnp.take_along_axis(program(streams), predicted[:, None], axis=1)[:, 0]

    _, of_loss = tapped(loss, streams)
    _, of_logit = tapped(logit, streams)
    sites[:] = [call.site for call in of_loss]
    keys = jax.random.split(key, max(len(of_loss), 1))
    return [_of_call(call, key) for call, key in zip(of_loss, keys[: len(of_loss)], strict=True)], (
        total_gradient_mass(of_logit)
    )


def _of_call(call: Call, key: Array) -> dict[str, Array]:
    wide = jnp.promote_types(call.output.dtype, jnp.float32)
    found = {"worth": gate_gradients(call), "asks": _asks(call), "output": call.output.astype(wide)}
    query, asked = call.query.astype(wide), call.key.astype(wide)
    rows, keys, of_keys = asked.shape[:3]
    exact = keys <= MOST_KEYS
    # Products with the unit vectors are the weights themselves.
    value = jnp.eye(keys, dtype=wide) if exact else jax.random.rademacher(key, (keys, RANDOM_VECTORS), wide)
    value = jnp.broadcast_to(value[None, :, None], (rows, keys, of_keys, value.shape[1]))
    mixed = attention(query, asked, value, mask=call.mask, bias=call.bias).output
    if exact:
        return found | {"weights": jnp.swapaxes(mixed, 1, 2)}
    return found | {"products": jnp.einsum("bqhr,bqgr->bqhg", mixed, mixed) / RANDOM_VECTORS}


def _asks(call: Call) -> Bool[Array, "B Nq"]:
    """Tokens that are there and see any: a mask lets padded ones ask, which are known where they are keys too."""
    valid, there = key_valid(call.mask, len(call.query)), sees_any(call) > 0
    keys = dict(zip(call.mask.keys.names, call.mask.keys.ranges, strict=True))
    parts: Sequence[Array] = [
        there[:, begin:end] & valid[:, slice(*keys[name])]
        if name in keys and keys[name][1] - keys[name][0] == end - begin
        else there[:, begin:end]
        for name, (begin, end) in zip(call.mask.queries.names, call.mask.queries.ranges, strict=True)
    ]
    return jnp.concatenate(parts, axis=1)
