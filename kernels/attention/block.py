"""Forward and backward pass of one block: its softmax, the statistics of its rows, and their gradients.

    G_ij  = <dO_i + dO_ig, V_j> + a_ig - b_ig log P_ij + 2 dR_i P_ij + w_i dC_j           g the group of key j
    dS_ij = P_ij (G_ij - sum_k P_ik G_ik) + dL_i P_ij + dX_i X_i (1[j is the peak] - P_ij)
    a_ig  = dM_ig + (dH_ig / M_ig) (log M_ig - H_ig),    b_ig = dH_i + dH_ig / M_ig

with M mass, H entropy (H_ig of a group), R second moment, X peak, C received, O_ig group output and L lse. The products
of outputs reach dO_ig before (blockwise.py).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from kernels.attention import mask as masks
from kernels.attention.blocks import Block
from kernels.attention.pairwise import Operands, Settings, wide
from kernels.attention.statistics import OF_OUTPUTS

# What the backward pass is given of every row to make its weights again: the highest score m, and 1 / sum exp(S - m), 0
# for an empty row. From L = m + log sum exp(S - m) alone they would come with the rounding error of L.
SOFTMAX = ("highest", "inverse")
# Of the statistics, those whose values are in the gradients.
NEEDED = ("mass", "group_entropy", "peak")
# Below this the logarithm of a weight is cut off: exp() of it is 0 in float32 and in float64, times anything finite.
LOWEST = -1e4
# Where a group has less mass than this, its entropy has no gradient (and in float32 hardly a value).
LEAST_MASS = 1e-30


def forward(settings: Settings, block: Block, names: tuple[str, ...]) -> tuple[Array, dict[str, Array]]:
    """Output [c, r, Dv] of one block, and statistics [c, r, ...]; those of OVER_KEYS [c * multiple, k, R]."""
    scores, _ = _scores(settings, block)
    alive = jnp.ones((1, 1), scores.dtype) if block.alive is None else block.alive.astype(scores.dtype)
    groups = settings.pair.groups
    highest = scores.max(-1, keepdims=True)
    shifted = scores - highest
    weights = jnp.exp(shifted)
    if not names:
        # They are rounded before they are added up: XLA on CPU then keeps no wide ones, and they sum to 1 as they are.
        weights = weights.astype(block.value.dtype)
    by_group = not {"mass", "entropy", "group_entropy"}.isdisjoint(names)
    of_groups = _sums(weights, groups) if by_group else None
    total = of_groups.sum(-1) if by_group else weights.sum(-1, dtype=scores.dtype)
    inverse = alive / total
    dropped = _dropped(weights, block)
    found = {}
    if OF_OUTPUTS.isdisjoint(names):
        output = _product("crk,ckd->crd", dropped, block.value, settings) * inverse[..., None]
    else:
        parts = [
            _product("crk,ckd->crd", dropped[..., begin:end], block.value[:, begin:end], settings) * inverse[..., None]
            for begin, end in groups
        ]
        # The values are gone through once.
        output = sum(parts)
        if "group_output" in names:
            found["group_output"] = jnp.stack(parts, 2)
        if "output_product" in names:
            found["output_product"] = jnp.stack([(part * output).sum(-1) for part in parts], 2)
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
        squares = _exact("crk,crk->cr", weights, weights)
        found["second_moment"] = squares * jnp.square(inverse)
    if "peak" in names:
        found["peak"] = inverse
    if "received" in names:
        shares = _by_head(inverse[..., None], block) * block.weights.astype(inverse.dtype)
        found["received"] = _exact("hqk,hqr->hkr", _by_head(weights, block), shares)
    if "relevance" in names:
        through = _product("crd,ckd->crk", block.upstream, block.value, settings)
        passed = _by_head(jax.nn.relu(weights * inverse[..., None] * through), block)
        found["relevance"] = _exact("hqk,qr->hkr", passed, block.weights.astype(passed.dtype))
    return output.astype(block.value.dtype), found


def row_terms(found: dict[str, Array], given: dict[str, Array]) -> dict[str, Array]:
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
        # That of an empty row is -inf, and what is made of it may have no derivative.
        terms["lse"] = jnp.where(found["inverse"] > 0, given["lse"], 0)
    if "peak" in given:
        terms["peak"] = given["peak"] * found["peak"]
    return terms


def backward(settings: Settings, block: Block, terms: dict[str, Array], of_received: Array | None) -> Operands:
    """Gradients of one block, of query and key without ``block.scale``.

    Returns:
      query [c, r, D]; key [c, D, k] and value [c, Dv, k], turned round (see ``_turned``); bias [c, r, k]; weights
      [c, r, R].
    """
    groups, dtype = settings.pair.groups, block.value.dtype
    scores, slope_of_cap = _scores(settings, block)
    shifted = scores - terms["highest"][..., None]
    weights = jnp.exp(shifted) * terms["inverse"][..., None]
    dropped = _dropped(weights, block)

    # What every weight is worth: G_ij.
    of_value = jnp.zeros_like(jnp.swapaxes(block.value, 1, 2), scores.dtype)
    gradient, of_weights = 0.0, None
    if "of_parts" in terms:
        # Every group's columns have an upstream of their own.
        upstream = terms["of_parts"] + (terms["of_output"][:, :, None] if "of_output" in terms else 0)
        parts = [(upstream[:, :, g].astype(dtype), begin, end) for g, (begin, end) in enumerate(groups) if begin < end]
        gradient = [_product("crd,ckd->crk", up, block.value[:, begin:end], settings) for up, begin, end in parts]
        of_value = [
            _product("cdr,crk->cdk", _turned(up), dropped[..., begin:end], settings) for up, begin, end in parts
        ]
        gradient, of_value = jnp.concatenate(gradient, -1), jnp.concatenate(of_value, 2)
    elif "of_output" in terms:
        gradient = _product("crd,ckd->crk", terms["of_output"], block.value, settings)
        of_value = _product("cdr,crk->cdk", _turned(terms["of_output"]), dropped, settings)
    if block.keep is not None:
        gradient = gradient * block.keep
    if of_received is not None:
        columns = block.weights.astype(scores.dtype)
        of_heads = _exact("hqk,hkr->hqr", _by_head(weights, block), of_received)
        of_weights = of_heads.reshape(*weights.shape[:2], -1)
        gradient = gradient + _exact("qr,hkr->hqk", columns, of_received).reshape(weights.shape)
    if "of_groups" in terms:
        gradient = gradient + _spread(terms["of_groups"], groups)
    if "slope" in terms:
        logarithm = jnp.maximum(shifted + terms["log_inverse"][..., None], LOWEST)
        gradient = gradient - _spread(terms["slope"], groups) * logarithm
    if "moment" in terms:
        gradient = gradient + terms["moment"][..., None] * weights

    # Through the softmax. The sum is taken of the very numbers it is taken from, so that rows of dS add up to dL_i.
    shift = _exact("crk,crk->cr", weights, jnp.broadcast_to(gradient, weights.shape))
    shift = shift + terms.get("peak", 0) - terms.get("lse", 0)
    of_bias = weights * (gradient - shift[..., None])
    if "peak" in terms:
        # Equal shares where several keys tie. XLA may compute the scores once for the comparison and once for the
        # maximum, and round them differently: a barrier keeps it from that where barriers outlive fusion, and the
        # index, which comes with the maximum, is a peak even where nothing equals it.
        scores = jax.lax.optimization_barrier(scores)
        last = scores.ndim - 1
        position = jax.lax.broadcasted_iota(jnp.int32, scores.shape, last)
        highest = (scores == scores.max(-1, keepdims=True)) | (
            position == jax.lax.argmax(scores, last, jnp.int32)[..., None]
        )
        of_bias = of_bias + highest * (terms["peak"] / highest.sum(-1))[..., None]
    of_scores = (of_bias if slope_of_cap is None else of_bias * slope_of_cap).astype(dtype)
    return Operands(
        query=_product("crk,ckd->crd", of_scores, block.key, settings),
        key=_product("cdr,crk->cdk", _turned(block.query), of_scores, settings),
        value=of_value,
        scale=None,
        bias=of_bias,
        weights=of_weights,
    )


def _product(equation: str, left: Array, right: Array, settings: Settings) -> Array:
    """Added up in float32 or wider."""
    return jnp.einsum(equation, left, right, precision=settings.precision, preferred_element_type=wide(left.dtype))


def _turned(array: Array) -> Array:
    """[c, r, d] to [c, d, r], in memory too.

    XLA on CPU multiplies fast where the left side is summed over its last axis and the right one over its first, and so
    the smaller side is turned round before a sum over rows. Without the barrier the transpose would become part of the
    product again.
    """
    return jax.lax.optimization_barrier(jnp.swapaxes(array, 1, 2))


def _exact(equation: str, left: Array, right: Array) -> Array:
    """A sum of a statistic: in float32 whatever precision is asked for the products."""
    return jnp.einsum(equation, left, right, precision=jax.lax.Precision.HIGHEST)


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
    return _exact("crk,kg->crg", array, jnp.asarray(members, array.dtype))


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
