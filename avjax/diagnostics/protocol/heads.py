"""What each head of attention is worth, how alike the heads of a layer are (section 4), and what reached the answer
through whose keys (1.3)."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.compiled import compiled
from avjax.diagnostics.contribution.attention import Elsewhere, by_group, keys_of
from avjax.diagnostics.contribution.flow import BOTTLENECK
from avjax.diagnostics.contribution.relevance import gate_gradients, sees_any, total_gradient_mass
from avjax.diagnostics.definitions import number, skipped
from avjax.diagnostics.faithfulness.complexity import Scatter, cosines_of_products, head_cka
from avjax.diagnostics.measured import Measured, Undefined
from avjax.diagnostics.probe import ModelProbe, Streams
from avjax.diagnostics.protocol.sites import laid_out
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
      note: what estimators' names say of how tokens are counted.
      worth: dL/dxi_h of each head's gate, for the loss L of the label.
      products: <P_h, P_h'> over the valid queries of each clip; of ``RANDOM_VECTORS`` where there are more keys than
        ``MOST_KEYS``.
      alike: ``head_redundancy`` of each clip, NaN where it is undefined; None where there are more keys.
      scatter: of all heads' outputs about their means, over the valid queries of all clips.
    """

    name: str
    note: str
    worth: Float[np.ndarray, "N H"]
    products: Float[np.ndarray, "N H H"]
    alike: Float[np.ndarray, " N"] | None
    scatter: Scatter


class _Place(NamedTuple):
    """A call of attention.

    Attributes:
      name, note: as of ``Layer``.
      whole: whether its rows are clips, not parts of them.
    """

    name: str
    note: str
    whole: bool


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
        if isinstance(layer, Layer):
            found.lines += _lines(study, part.clips, layer)
            continue
        reason = "attention is over parts of a clip as if they were clips: their tokens have no names"
        fields = {"estimator": "calls of attention", "layer": layer.name, "n": len(part.rows)}
        found.lines += [skipped(id, reason, **fields) for id in (IMPORTANCE, REDUNDANCY, COSINE, CKA)]
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
    words = f"pairs of heads, queries of all clips together{layer.note}"
    exact = "" if layer.alike is not None else f", {RANDOM_VECTORS} random vectors"

    def cosine(chosen: np.ndarray) -> float:
        return cosines_of_products(layer.products[chosen].sum(axis=0))

    yield study.line(COSINE, cosine, clips, estimator=f"{words}{exact}", **where)
    of_outputs = functools.partial(head_cka, layer.scatter, layer.worth.shape[1])
    yield number(CKA, of_outputs, n=layer.scatter.rows, estimator=words, **where)


def _redundancy(study: Study, clips: Clips, layer: Layer) -> Measured:
    fields = {"estimator": f"pairs of heads, mean of clips{layer.note}", "layer": layer.name}
    if layer.alike is None:
        reason = f"more than {MOST_KEYS} keys: weights of every pair of tokens would be looked at one by one"
        return skipped(REDUNDANCY, reason, n=len(clips), **fields)
    rows = np.flatnonzero(np.isfinite(layer.alike))
    if not len(rows):
        return skipped(REDUNDANCY, "no clip has a token that sees another", n=len(clips), **fields)
    return study.mean(REDUNDANCY, layer.alike[rows], clips.take(rows), **fields)


def _looked_at(study: Study, probe: ModelProbe, part: Part) -> tuple[list[Layer | _Place], dict[str, np.ndarray]]:
    """Every call on these clips, those over parts of clips as places alone; gradient-weighted attention by set of keys.

    Raises:
      Undefined: where the model has no call of attention.
      ValueError: where its calls cannot be kept.
    """
    places: list[_Place] = []
    report = compiled(functools.partial(_report, probe, places))
    parts: list[list[dict[str, np.ndarray]]] = []
    through: dict[str, list[np.ndarray]] = collections.defaultdict(list)
    scatters: list[Scatter] = []
    # Few clips are not filled up to a whole batch, but go evenly onto the devices.
    devices = probe.sharding.mesh.size
    size = min(probe.batch, -(-len(part.rows) // devices) * devices)
    for rows, full, streams in probe.batches(part.clips, size):
        key = jax.random.key(study.seed + len(parts))
        calls, mass = report(probe.program, streams, part.clips.label[full], part.clean.predicted[full], key)
        if not places:
            raise Undefined("the model has no call of attention")
        calls = jax.tree.map(lambda x, count=len(rows): np.asarray(x)[:count], calls)
        outputs = [call.pop("output")[call["asks"]] for call in calls]
        here = [Scatter.of(output.reshape(len(output), -1)) for output in outputs]
        scatters = [one + other for one, other in zip(scatters, here, strict=True)] if scatters else here
        parts.append(calls)
        for group, values in mass.items():
            through[group].append(np.asarray(values, np.float64)[: len(rows)])
    whole = iter([*zip(scatters, zip(*parts, strict=True), strict=True)])
    layers = [_layer(place, *next(whole)) if place.whole else place for place in places]
    return layers, {group: np.concatenate(values) for group, values in through.items()}


def _layer(place: _Place, scatter: Scatter, batches: Sequence[Mapping[str, np.ndarray]]) -> Layer:
    one = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    alike = np.where(one["asks"].any(axis=1), one["alike"], np.nan) if "alike" in one else None
    worth, products = (one[name].astype(np.float64) for name in ("worth", "products"))
    return Layer(place.name, place.note, worth, products, alike, scatter)


def _report(
    probe: ModelProbe,
    places: list[_Place],
    program: Callable[..., Float[Array, "B K"]],
    streams: Streams,
    label: Int[Array, " B"],
    predicted: Int[Array, " B"],
    key: Array,
) -> tuple[list[dict[str, Array]], dict[str, Array]]:
    """For the device: what ``_looked_at`` needs of each call over clips, and ``total_gradient_mass`` of the predicted
    class through them.

    Args:
      places: filled with all calls when this is traced.
    """

    def loss(streams: Streams) -> Float[Array, " B"]:
        return -jnp.take_along_axis(jax.nn.log_softmax(program(streams)), label[:, None], axis=1)[:, 0]

    def logit(streams: Streams) -> Float[Array, " B"]:
        return jnp.take_along_axis(program(streams), predicted[:, None], axis=1)[:, 0]

    def over_clips(calls: Sequence[Call]) -> list[Call]:
        return [call for call in calls if len(call.query) == len(label)]

    def counted(calls: Sequence[Call]) -> list[Call]:
        return [dataclasses.replace(call, mask=call.mask.divided(probe.token_groups)) for call in calls]

    every, of_logit = (counted(tapped(score, streams)[1]) for score in (loss, logit))
    calls = over_clips(every)
    known = keys_of(by_group(call.mask.keys, key_valid(call.mask, len(call.query))) for call in calls)
    depth: collections.Counter[str] = collections.Counter()
    places.clear()
    for call in every:
        layout = zip(call.mask.queries.names, call.mask.queries.lengths, strict=True)
        unknown = [name for name, length in layout if name in probe.modalities and (name, length) not in known]
        places.append(_Place(f"{call.site} {depth[call.site]}", laid_out(unknown), len(call.query) == len(label)))
        depth[call.site] += 1
    keys = jax.random.split(key, max(len(calls), 1))
    found = [_of_call(call, known, key) for call, key in zip(calls, keys[: len(calls)], strict=True)]
    return found, total_gradient_mass(over_clips(of_logit))


def _of_call(call: Call, known: Elsewhere, key: Array) -> dict[str, Array]:
    wide, asks = jnp.promote_types(call.output.dtype, jnp.float32), _asks(call, known)
    found = {"worth": gate_gradients(call), "asks": asks, "output": call.output.astype(wide)}
    query, asked = call.query.astype(wide), call.key.astype(wide)
    rows, keys, of_keys = asked.shape[:3]
    exact = keys <= MOST_KEYS
    # Products with the unit vectors are the weights themselves. Random ones are each clip's own: an error in common
    # would be in no interval.
    value = jnp.eye(keys, dtype=wide)[None] if exact else jax.random.rademacher(key, (rows, keys, RANDOM_VECTORS), wide)
    value = jnp.broadcast_to(value[:, :, None], (rows, keys, of_keys, value.shape[-1]))
    mixed = attention(query, asked, value, mask=call.mask, bias=call.bias).output * asks[..., None, None]
    found["products"] = jnp.einsum("bqhr,bqgr->bhg", mixed, mixed) / (1 if exact else RANDOM_VECTORS)
    if exact and mixed.shape[2] > 1:
        found["alike"] = _alike(mixed, asks)
    return found


def _alike(weights: Float[Array, "B Q H K"], asks: Bool[Array, "B Q"]) -> Float[Array, " B"]:
    """``head_redundancy`` of each clip, one pair of heads after the other; of no meaning where nobody asks."""

    def entropy(rows: Float[Array, "B Q *heads K"]) -> Float[Array, "B Q *heads"]:
        return -jax.scipy.special.xlogy(rows, rows).sum(axis=-1) / jnp.log(2)

    own, count = entropy(weights), jnp.maximum(asks.sum(axis=1), 1)

    def apart(pair: Int[Array, " 2"]) -> Float[Array, " B"]:
        one, other = pair
        middle = entropy((weights[:, :, one] + weights[:, :, other]) / 2)
        divergence = jnp.clip(middle - (own[:, :, one] + own[:, :, other]) / 2, 0, 1)
        return jnp.where(asks, divergence, 0).sum(axis=1) / count

    pairs = jnp.array(list(itertools.combinations(range(weights.shape[2]), 2)))
    return 1 - jax.lax.map(apart, pairs).mean(axis=0)


def _asks(call: Call, known: Elsewhere) -> Bool[Array, "B Nq"]:
    """Tokens that are there and see any: a mask hides keys, and lets padded tokens ask.

    Those are known where they are keys too, in whatever call; a bottleneck is there where its modality is.
    """
    parts = []
    for name, there in by_group(call.mask.queries, sees_any(call) > 0).items():
        modality = name.removeprefix(f"{BOTTLENECK}_")
        if modality != name:
            own = next((valid.any(axis=1, keepdims=True) for (of, _), valid in known.items() if of == modality), True)
        else:
            own = known.get((name, there.shape[1]), True)
        parts.append(there & own)
    return jnp.concatenate(parts, axis=1)
