"""Attention in O(N) memory for XLA: a loop over blocks of queries, recomputed in the backward pass.

A block sees all keys of its pair at once, so its softmax is an ordinary one, whose scores stay in cache. The backward
pass is given the row statistics of the forward pass and makes the weights P again, block by block:

    G_ij  = <dO_i + dO_ig, V_j> + a_ig - b_ig log P_ij + 2 dR_i P_ij + w_i dC_j           g the group of key j
    dS_ij = P_ij (G_ij - sum_k P_ik G_ik) + dL_i P_ij + dX_i X_i (1[j is the peak] - P_ij)
    a_ig  = dM_ig + (dH_ig / M_ig) (log M_ig - H_ig),    b_ig = dH_i + dH_ig / M_ig

with M mass, H entropy (H_ig of a group), R second moment, X peak, C received, O_ig group output and L lse. Statistics
that nobody differentiates cost nothing there.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array

from kernels.attention import mask as masks
from kernels.attention import pairwise
from kernels.attention.cut import Cut
from kernels.attention.dropout import kept
from kernels.attention.pairwise import Operands, Settings
from kernels.attention.statistics import OVER_KEYS

# Sums of the statistics are float32 whatever precision is asked for the products.
HIGHEST = jax.lax.Precision.HIGHEST
# Of scores, in float32: up to here the dense computation is the faster one (`avjax bench attention --sizes`).
DENSE_BYTES = 2 * 2**20
# What the backward pass is given of every row to make its weights again: the highest score m, and 1 / sum exp(S - m), 0
# for an empty row. From L = m + log sum exp(S - m) alone they would come with the rounding error of L.
SOFTMAX = ("highest", "inverse")
# Of the statistics, those whose values are in the gradients.
NEEDED = ("mass", "group_entropy", "peak")
# Below this the logarithm of a weight is cut off: exp() of it is 0 in float32 and in float64, times anything finite.
LOWEST = -1e4
# Where a group has less mass than this, its entropy has no gradient (and in float32 hardly a value).
LEAST_MASS = 1e-30


class Block(NamedTuple):
    """The arrays of one block: c heads with keys of their own, r rows, the queries of all heads that share keys.

    Attributes:
      query: [c, r, D].
      key, value: [c, k, D] and [c, k, Dv].
      scale: of the products; None where the query has it already.
      bias: [#c, #r, #k], or None.
      seen: [1, #r, k] bool, which columns each row sees; None is all.
      alive: [1, #r] bool, rows that see anything; None is all.
      keep: [c, r, k], what dropout multiplies the weights with; None where it is off.
      weights: [q, R] of the queries in ``received`` and ``relevance``; or None.
      upstream: [c, r, Dv], see ``relevance``; or None.
    """

    query: Array
    key: Array
    value: Array
    scale: Any
    bias: Array | None
    seen: Array | None
    alive: Array | None
    keep: Array | None
    weights: Array | None
    upstream: Array | None


class Blocks(NamedTuple):
    """All blocks of a pair: what each is cut from, and how.

    Attributes:
      settings, cut: static.
      operands, sight, seeds: of the pair; where rows of queries are cut off them block by block, filled up.
    """

    settings: Settings
    cut: Cut
    operands: Operands
    sight: masks.Sight
    seeds: Array | None

    @property
    def folded(self) -> bool:
        """Whether queries are scaled instead of scores: a pass less over all scores, where it rounds nothing away."""
        wide = self.operands.query.dtype == _accumulate(self.operands)
        return wide or (self.settings.scale is not None and abs(math.frexp(self.settings.scale)[0]) == 0.5)

    @classmethod
    def of(cls, settings: Settings, operands: Operands, sight: masks.Sight, seeds: Array | None) -> Blocks:
        batch, heads, queries, _ = operands.query.shape
        _, shared, keys, _ = operands.key.shape
        cut = Cut.of(batch, heads, shared, queries, keys)
        bias, weights, rows, segments = operands.bias, operands.weights, sight.rows, sight.segments
        if bias is not None and bias.shape[2] > 1:
            bias = cut.fill(bias, 2)
        weights = None if weights is None else cut.fill(weights, 1)
        rows = None if rows is None else cut.fill(rows, 1)
        segments = None if segments is None else (cut.fill(segments[0], 1), segments[1])
        sight = dataclasses.replace(sight, rows=rows, segments=segments)
        return cls(settings, cut, operands._replace(bias=bias, weights=weights), sight, seeds)

    def rows(self) -> tuple[Array, Array | None]:
        """Queries, and upstream gradient where there is one, of every block: [units, blocks, c, r, ...]."""
        query, upstream = self.operands.query, self.operands.upstream
        if self.folded:
            query = (query * self.settings.scale_of(self.operands)).astype(query.dtype)
        return self.cut.split_rows(query), None if upstream is None else self.cut.split_rows(upstream)

    def keys(self) -> tuple[Array, Array]:
        """Keys and values of every unit: [units, c, k, ...]."""
        return self.cut.split_keys(self.operands.key), self.cut.split_keys(self.operands.value)

    def block(self, unit: Array, number: Array, rows: tuple[Array, Array | None], key: Array, value: Array) -> Block:
        """One block, from the numbers of its unit and of itself in it."""
        cut, settings = self.cut, self.settings
        sample, first = self._place(unit)
        begin = number * cut.rows
        tokens = settings.pair.queries[0] + begin + jnp.arange(cut.rows)

        def of_sample(array: Array | None, *, rows: bool) -> Array | None:
            if array is None:
                return None
            array = jax.lax.dynamic_slice_in_dim(array, sample, 1, axis=0)
            return jax.lax.dynamic_slice_in_dim(array, begin, cut.rows, axis=1) if rows else array

        segments = self.sight.segments
        sight = dataclasses.replace(
            self.sight,
            keys=of_sample(self.sight.keys, rows=False),
            rows=of_sample(self.sight.rows, rows=True),
            segments=segments and (of_sample(segments[0], rows=True), of_sample(segments[1], rows=False)),
        )
        seen = sight.visible(tokens)
        alive = sight.nonempty(seen)
        keep = None
        if settings.rate:
            heads = cut.together * cut.multiple
            seeds = jax.lax.dynamic_slice(self.seeds, (sample, first), (1, heads))
            survives = kept(settings.rate, seeds, tokens, settings.pair.columns)
            keep = survives.reshape(cut.together, -1, cut.keys) * (1 / (1 - settings.rate))
        weights = of_sample(self.operands.weights, rows=True)
        query, upstream = rows
        return Block(
            query, key, value, None if self.folded else settings.scale_of(self.operands),
            self._bias(sample, first, begin), self._every_head(seen), self._every_head(alive),
            keep, None if weights is None else weights[0], upstream,
        )  # fmt: skip

    def _place(self, unit: Array) -> tuple[Array, Array]:
        """Sample and first query head of a unit."""
        of_sample = self.cut.shared // self.cut.together
        return unit // of_sample, unit % of_sample * (self.cut.together * self.cut.multiple)

    def _every_head(self, array: Array | None) -> Array | None:
        """[1, #q, ...] of queries to [1, #r, ...] of rows, which are the queries of every head that shares keys."""
        if array is None or array.shape[1] == 1 or self.cut.multiple == 1:
            return array
        return jnp.tile(array, (1, self.cut.multiple, *[1] * (array.ndim - 2)))

    def _corner(self, shape: tuple[int, ...], sample: Array, first: Array, begin: Array) -> tuple[tuple, tuple]:
        """Where in a bias of this shape a block lies, and its shape there."""
        cut = self.cut
        sizes = (1, cut.together * cut.multiple, cut.rows, cut.keys)
        places = zip((sample, first, begin, 0), sizes, shape, strict=True)
        start, size = zip(*((0, 1) if extent == 1 else (at, count) for at, count, extent in places), strict=True)
        return start, size

    def _bias(self, sample: Array, first: Array, begin: Array) -> Array | None:
        bias, cut = self.operands.bias, self.cut
        if bias is None:
            return None
        part = jax.lax.dynamic_slice(bias, *self._corner(bias.shape, sample, first, begin))[0]
        heads, rows, keys = part.shape
        if heads > 1 and cut.multiple > 1:
            part = jnp.broadcast_to(part, (heads, cut.rows, keys)).reshape(cut.together, -1, keys)
        elif rows > 1 and cut.multiple > 1:
            part = jnp.tile(part, (1, cut.multiple, 1))
        return part.astype(_accumulate(self.operands))

    def add_bias(self, total: Array, gradient: Array, unit: Array, number: Array) -> Array:
        """Adds the gradient [c, r, k] of a block's bias to that of the whole."""
        sample, first = self._place(unit)
        start, size = self._corner(total.shape, sample, first, number * self.cut.rows)
        gradient = gradient.reshape(1, -1, self.cut.rows, self.cut.keys)
        gradient = gradient.sum([axis for axis in range(4) if size[axis] == 1], keepdims=True)
        here = jax.lax.dynamic_slice(total, start, size)
        return jax.lax.dynamic_update_slice(total, here + gradient, start)


def of_pair(
    settings: Settings, operands: Operands, sight: masks.Sight, seeds: Array | None
) -> tuple[Array, dict[str, Array]]:
    """Output [B, H, q, Dv] and statistics of one range of queries, with a derivative of its own."""
    return _attend(settings, operands, sight, seeds)


attend = functools.partial(pairwise.attend, of_pair)


def relevance_of_pair(
    settings: Settings, operands: Operands, sight: masks.Sight, seeds: Array | None
) -> tuple[Array, dict[str, Array]]:
    """``of_pair`` for the statistic ``relevance``, in plain JAX."""
    return _forward(Blocks.of(settings, operands, sight, seeds), settings.statistics)


def unable(query: Array, key: Array, value: Array, **options: Any) -> str | None:
    """Why a call cannot be served, or None."""
    if jnp.ndim(options["scale"]):
        return f"its scale must be one number, not an array of shape {jnp.shape(options['scale'])}"
    return None


def slower(query: Array, key: Array, value: Array, **options: Any) -> str | None:
    """Why the dense computation is faster for a call, or None."""
    mask = options["mask"] or masks.everything(query.shape[1], key.shape[1])
    scores = sum((pair.queries[1] - pair.queries[0]) * len(pair.columns) for pair in masks.pairs(mask))
    scores *= 4 * query.shape[0] * query.shape[2]
    if scores <= DENSE_BYTES:
        return f"dense is faster up to {DENSE_BYTES / 2**20:.0f} MiB of scores, and these are {scores / 2**20:.2g}"
    return None


# ---------------------------------------------------------------------------------------------- the derivative


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    settings: Settings, operands: Operands, sight: masks.Sight, seeds: Array | None
) -> tuple[Array, dict[str, Array]]:
    return _forward(Blocks.of(settings, operands, sight, seeds), settings.statistics)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Differentiated:
    """Which operands are; static, though it travels with arrays."""

    bias: bool
    scale: bool


def _attend_forward(settings: Settings, operands: Any, sight: Any, seeds: Any) -> tuple[Any, Any]:
    differentiated = Differentiated(
        bias=operands.bias is not None and operands.bias.perturbed,
        scale=operands.scale is not None and operands.scale.perturbed,
    )
    operands, sight, seeds = jax.tree.map(
        lambda x: x.value, (operands, sight, seeds), is_leaf=lambda x: hasattr(x, "perturbed")
    )
    # The gradient of a group's entropy takes its mass too.
    more = ("mass",) if "group_entropy" in settings.statistics and "mass" not in settings.statistics else ()
    output, found = _forward(Blocks.of(settings, operands, sight, seeds), (*settings.statistics, *more, *SOFTMAX))
    named = {*settings.statistics, *(("nonempty",) if "lse" in settings.statistics else ())}
    result = {name: array for name, array in found.items() if name in named}
    kept = {name: found[name] for name in (*SOFTMAX, *NEEDED) if name in found}
    return (output, result), (operands, sight, seeds, kept, differentiated)


def _attend_backward(settings: Settings, residuals: Any, cotangents: Any) -> tuple[Any, None, None]:
    operands, sight, seeds, found, differentiated = residuals
    of_output, of_statistics = cotangents
    accumulate = _accumulate(operands)
    given = {
        name: cotangent.astype(accumulate)
        for name, cotangent in of_statistics.items()
        if name != "nonempty" and not isinstance(cotangent, SymbolicZero)
    }
    of_output = None if isinstance(of_output, SymbolicZero) else of_output
    blocks = Blocks.of(settings, operands, sight, seeds)
    return _backward(blocks, found, of_output, given, differentiated), None, None


_attend.defvjp(_attend_forward, _attend_backward, symbolic_zeros=True)


# ---------------------------------------------------------------------------------------------- forward


def _forward(blocks: Blocks, names: tuple[str, ...]) -> tuple[Array, dict[str, Array]]:
    cut, operands = blocks.cut, blocks.operands

    def of_unit(_: None, given: tuple) -> tuple[None, tuple]:
        unit, rows, key, value = given

        def of_block(totals: dict[str, Array], given: tuple) -> tuple[dict[str, Array], tuple]:
            number, rows = given
            block = blocks.block(unit, number, rows, key, value)
            output, found = _of_block(blocks.settings, block, names)
            return {name: total + found.pop(name) for name, total in totals.items()}, (output, found)

        totals = {}
        for name in OVER_KEYS:
            if name in names:
                shape = (cut.together * cut.multiple, cut.keys, operands.weights.shape[2])
                totals[name] = jnp.zeros(shape, _accumulate(operands))
        totals, results = jax.lax.scan(of_block, totals, (jnp.arange(cut.blocks), rows))
        return None, (totals, results)

    _, (totals, (output, found)) = jax.lax.scan(of_unit, None, (jnp.arange(cut.units), blocks.rows(), *blocks.keys()))
    result = {name: cut.join_rows(array) for name, array in found.items()}
    result |= {name: total.reshape(cut.batch, -1, *total.shape[2:]) for name, total in totals.items()}
    return cut.join_rows(output), result


def _of_block(settings: Settings, block: Block, names: tuple[str, ...]) -> tuple[Array, dict[str, Array]]:
    """Output [c, r, Dv] of one block, and statistics [c, r, ...]; those of OVER_KEYS [c * multiple, k, R]."""
    scores, _ = _scores(settings, block)
    alive = jnp.ones((1, 1), scores.dtype) if block.alive is None else block.alive.astype(scores.dtype)
    groups = settings.pair.groups
    highest = scores.max(-1, keepdims=True)
    shifted = scores - highest
    weights = jnp.exp(shifted)
    of_groups = _sums(weights, groups)
    total = of_groups.sum(-1)
    inverse = alive / total
    dropped = _dropped(weights, block)
    output = _product("crk,ckd->crd", dropped, block.value, settings) * inverse[..., None]
    found = {}
    if "highest" in names:
        found |= {"highest": highest[..., 0], "inverse": inverse}
    if "lse" in names:
        rows = jnp.broadcast_to(True if block.alive is None else block.alive, total.shape)
        found["lse"] = jnp.where(rows, highest[..., 0] + jnp.log(total), -jnp.inf)
        found["nonempty"] = rows
    if "mass" in names:
        found["mass"] = of_groups * inverse[..., None]
    if "entropy" in names or "group_entropy" in names:
        # T = sum e (S - m) of each group gives H = log l - T / l, without cancellation of large numbers.
        shifts = _sums(weights * shifted, groups)
        if "entropy" in names:
            found["entropy"] = (jnp.log(total) - shifts.sum(-1) / total) * alive
        if "group_entropy" in names:
            some = of_groups > 0
            mass = jnp.where(some, of_groups, 1)
            found["group_entropy"] = jnp.where(some, jnp.log(mass) - shifts / mass, 0) * alive[..., None]
    if "second_moment" in names:
        squares = jnp.einsum("crk,crk->cr", weights, weights, precision=HIGHEST)
        found["second_moment"] = squares * jnp.square(inverse)
    if "peak" in names:
        found["peak"] = inverse
    if "received" in names:
        shares = _by_head(inverse[..., None], block) * block.weights.astype(inverse.dtype)
        found["received"] = _product("hqk,hqr->hkr", _by_head(weights, block), shares, settings)
    if "relevance" in names:
        through = _product("crd,ckd->crk", block.upstream, block.value, settings)
        passed = _by_head(jax.nn.relu(weights * inverse[..., None] * through), block)
        found["relevance"] = _product("hqk,qr->hkr", passed, block.weights.astype(passed.dtype), settings)
    if "group_output" in names:
        parts = [
            _product("crk,ckd->crd", dropped[..., begin:end], block.value[:, begin:end], settings)
            for begin, end in groups
        ]
        found["group_output"] = jnp.stack(parts, 2) * inverse[..., None, None]
    return output.astype(block.value.dtype), found


# ---------------------------------------------------------------------------------------------- backward


def _backward(
    blocks: Blocks,
    found: dict[str, Array],
    of_output: Array | None,
    given: dict[str, Array],
    differentiated: Differentiated,
) -> Operands:
    """Gradients of the operands; ``given`` are the cotangents of the statistics that have any."""
    cut, operands = blocks.cut, blocks.operands
    accumulate = _accumulate(operands)
    terms = _row_terms(found, given)
    terms |= {} if of_output is None else {"of_output": of_output}
    terms |= {"of_parts": given["group_output"]} if "group_output" in given else {}
    terms = {name: cut.split_rows(array) for name, array in terms.items()}
    of_received = given.get("received")
    if of_received is not None:
        of_received = of_received.reshape(cut.units, -1, *of_received.shape[2:])

    def of_unit(of_bias: Array | None, given: tuple) -> tuple[Array | None, tuple]:
        unit, rows, key, value, terms, of_received = given

        def of_block(carry: tuple, given: tuple) -> tuple[tuple, tuple]:
            of_key, of_value, of_bias = carry
            number, rows, terms = given
            block = blocks.block(unit, number, rows, key, value)
            gradient = _of_block_backward(blocks.settings, block, terms, of_received)
            if of_bias is not None:
                of_bias = blocks.add_bias(of_bias, gradient.bias, unit, number)
            return (of_key + gradient.key, of_value + gradient.value, of_bias), (gradient.query, gradient.weights)

        start = (jnp.zeros(key.shape, accumulate), jnp.zeros(value.shape, accumulate), of_bias)
        (of_key, of_value, of_bias), (of_query, of_weights) = jax.lax.scan(
            of_block, start, (jnp.arange(cut.blocks), rows, terms)
        )
        return of_bias, (of_query, of_key, of_value, of_weights)

    of_bias = jnp.zeros(operands.bias.shape, accumulate) if differentiated.bias else None
    given = (jnp.arange(cut.units), blocks.rows(), *blocks.keys(), terms, of_received)
    of_bias, (of_query, of_key, of_value, of_weights) = jax.lax.scan(of_unit, of_bias, given)
    # Without the scale: a product with the queries, it is the scale's own gradient.
    of_query, of_key = cut.join_rows(of_query), cut.join_keys(of_key)
    scale = blocks.settings.scale_of(operands)
    of_key = of_key if blocks.folded else of_key * scale
    of_scale = jnp.sum(of_query * operands.query) if differentiated.scale else None
    if of_bias is not None and of_bias.shape[2] > 1:
        of_bias = of_bias[:, :, : cut.queries]
    return Operands(
        (of_query * scale).astype(operands.query.dtype),
        of_key.astype(operands.key.dtype),
        cut.join_keys(of_value).astype(operands.value.dtype),
        None if of_scale is None else of_scale.astype(operands.scale.dtype),
        None if of_bias is None else of_bias.astype(operands.bias.dtype),
        None if of_weights is None else cut.join_rows(of_weights).sum(1).astype(operands.weights.dtype),
    )


def _row_terms(found: dict[str, Array], given: dict[str, Array]) -> dict[str, Array]:
    """What a block's gradient needs of every row beside the upstream gradient, for all rows at once.

    Returns:
      highest, inverse: see ``SOFTMAX``; [B, H, q].
      of_groups: a_ig [B, H, q, G], where a group's statistic is differentiated.
      slope: b_i or b_ig, where an entropy is. With it log_inverse, 0 for an empty row.
      moment: 2 dR_i, where the second moment is.
      lse: dL_i, where lse is. peak: dX_i X_i, likewise.
    """
    terms = {name: found[name] for name in SOFTMAX}
    if "mass" in given:
        terms["of_groups"] = given["mass"]
    if "entropy" in given:
        terms["slope"] = given["entropy"]
    if "group_entropy" in given:
        some = found["mass"] > LEAST_MASS
        mass = jnp.where(some, found["mass"], 1)
        share = jnp.where(some, given["group_entropy"] / mass, 0)
        constant = share * (jnp.log(mass) - found["group_entropy"])
        terms["of_groups"] = constant + terms["of_groups"] if "of_groups" in terms else constant
        terms["slope"] = share + terms["slope"][..., None] if "slope" in terms else share
    if "slope" in terms:
        terms["log_inverse"] = jnp.log(jnp.where(found["inverse"] > 0, found["inverse"], 1))
    if "second_moment" in given:
        terms["moment"] = 2 * given["second_moment"]
    if "lse" in given:
        terms["lse"] = given["lse"]
    if "peak" in given:
        terms["peak"] = given["peak"] * found["peak"]
    return terms


def _of_block_backward(
    settings: Settings, block: Block, terms: dict[str, Array], of_received: Array | None
) -> Operands:
    """Gradients of one block: of query and key without ``block.scale``, value, bias [c, r, k] and weights [c, r, R]."""
    groups, dtype = settings.pair.groups, block.value.dtype
    scores, slope_of_cap = _scores(settings, block)
    shifted = scores - terms["highest"][..., None]
    weights = jnp.exp(shifted) * terms["inverse"][..., None]
    dropped = _dropped(weights, block)

    # What every weight is worth: G_ij.
    gradient, of_value, of_weights = 0.0, jnp.zeros(block.value.shape, scores.dtype), None
    if "of_parts" in terms:
        # Every group's columns have an upstream of their own.
        upstream = terms["of_parts"] + (terms["of_output"][:, :, None] if "of_output" in terms else 0)
        parts = [(upstream[:, :, g].astype(dtype), begin, end) for g, (begin, end) in enumerate(groups) if begin < end]
        gradient = [_product("crd,ckd->crk", up, block.value[:, begin:end], settings) for up, begin, end in parts]
        of_value = [_product("crk,crd->ckd", dropped[..., begin:end], up, settings) for up, begin, end in parts]
        gradient, of_value = jnp.concatenate(gradient, -1), jnp.concatenate(of_value, 1)
    elif "of_output" in terms:
        gradient = _product("crd,ckd->crk", terms["of_output"], block.value, settings)
        of_value = _product("crk,crd->ckd", dropped, terms["of_output"], settings)
    if block.keep is not None:
        gradient = gradient * block.keep
    if of_received is not None:
        columns = block.weights.astype(scores.dtype)
        of_heads = _product("hqk,hkr->hqr", _by_head(weights, block), of_received, settings)
        of_weights = of_heads.reshape(*weights.shape[:2], -1)
        gradient = gradient + _product("qr,hkr->hqk", columns, of_received, settings).reshape(weights.shape)
    if "of_groups" in terms:
        gradient = gradient + _spread(terms["of_groups"], groups)
    if "slope" in terms:
        logarithm = jnp.maximum(shifted + terms["log_inverse"][..., None], LOWEST)
        gradient = gradient - _spread(terms["slope"], groups) * logarithm
    if "moment" in terms:
        gradient = gradient + terms["moment"][..., None] * weights

    # Through the softmax. The sum is taken of the very numbers it is taken from, so that rows of dS add up to dL_i.
    shift = jnp.einsum("crk,crk->cr", weights, jnp.broadcast_to(gradient, weights.shape), precision=HIGHEST)
    shift = shift + terms.get("peak", 0) - terms.get("lse", 0)
    of_bias = weights * (gradient - shift[..., None])
    if "peak" in terms:
        # Equal shares where several keys tie.
        highest = scores == scores.max(-1, keepdims=True)
        of_bias = of_bias + highest * (terms["peak"] / highest.sum(-1))[..., None]
    of_scores = (of_bias if slope_of_cap is None else of_bias * slope_of_cap).astype(dtype)
    return Operands(
        query=_product("crk,ckd->crd", of_scores, block.key, settings),
        key=_product("crk,crd->ckd", of_scores, block.query, settings),
        value=of_value,
        scale=None,
        bias=of_bias,
        weights=of_weights,
    )


# ---------------------------------------------------------------------------------------------- parts of both


def _accumulate(operands: Operands) -> jnp.dtype:
    return jnp.promote_types(operands.query.dtype, jnp.float32)


def _product(equation: str, left: Array, right: Array, settings: Settings) -> Array:
    """Added up in float32 or wider."""
    accumulate = jnp.promote_types(left.dtype, jnp.float32)
    return jnp.einsum(equation, left, right, precision=settings.precision, preferred_element_type=accumulate)


def _scores(settings: Settings, block: Block) -> tuple[Array, Array | None]:
    """S [c, r, k], with bias and mask; and the derivative of the softcap, None without one."""
    scores, slope = _product("crd,ckd->crk", block.query, block.key, settings), None
    scores = scores if block.scale is None else scores * block.scale
    if settings.softcap is not None:
        bent = jnp.tanh(scores / settings.softcap)
        scores, slope = settings.softcap * bent, 1 - jnp.square(bent)
    if block.bias is not None:
        scores = scores + block.bias
    if block.seen is not None:
        scores = scores + jnp.where(block.seen, 0.0, masks.HIDDEN).astype(scores.dtype)
    return scores, slope


def _dropped(weights: Array, block: Block) -> Array:
    """Weights after dropout, in the dtype of the values."""
    return (weights if block.keep is None else weights * block.keep).astype(block.value.dtype)


def _by_head(array: Array, block: Block) -> Array:
    """[c, r, ...] to [heads, q, ...]: rows of heads that share keys lie one head after the other."""
    queries = block.weights.shape[0]
    return array.reshape(-1, queries, *array.shape[2:])


def _sums(array: Array, groups: tuple[masks.Range, ...]) -> Array:
    """Sums over the columns of each group, [c, r, k] to [c, r, G]."""
    if sum(begin < end for begin, end in groups) == 1:
        total = array.sum(-1)
        return jnp.stack([total if begin < end else jnp.zeros_like(total) for begin, end in groups], -1)
    # A product with the groups' indicators: XLA on CPU would copy every slice before it sums it.
    columns = np.arange(array.shape[-1])
    members = np.stack([(columns >= begin) & (columns < end) for begin, end in groups], -1)
    return jnp.einsum("crk,kg->crg", array, members.astype(array.dtype), precision=HIGHEST)


def _spread(array: Array, groups: tuple[masks.Range, ...]) -> Array:
    """[c, r] to [c, r, 1], or one number a group [c, r, G] to every column of the group [c, r, k]."""
    if array.ndim == 2:
        return array[..., None]
    there = [(end, array[..., g, None]) for g, (begin, end) in enumerate(groups) if begin < end]
    result = there[-1][1]
    column = jnp.arange(max(end for end, _ in there))
    for end, value in there[-2::-1]:
        result = jnp.where(column < end, value, result)
    return result
