"""Relevance of tokens through all layers of attention: rollout, Chefer's rule, and gradient-weighted group mass.

All but ``chefer_bimodal`` in memory of the tokens: products with the attention weights P never make P (kernels). The
first two carry relevance from layer to layer, and are defined for the models that ``Flow`` names; for others it raises
``Undefined``. Gradient-weighted mass needs nothing of the kind and is defined wherever there is attention.

    flow = Flow.of(score, *one_clip)                    once a model
    traced = Traced.of(flow, score, *clips)             in jit, with what follows
    chefer_joint(traced), rollout(traced), gradient_mass(traced.calls)

Pitfalls: rollout sees neither values nor the sign of anything, nor a class; neither method sees what feed-forward
layers do; with residual connections around everything, relevance shrinks to where it began as layers grow many.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from avjax.diagnostics.contribution.flow import BOTTLENECK, Flow, Tokens, Traced, set_of, weights
from avjax.diagnostics.contribution.shares import share
from avjax.diagnostics.measured import Undefined
from avjax.nn.statistics import Call
from kernels.attention import attention
from kernels.attention.relevance import relevance

__all__ = [
    "Flow", "Traced", "chefer_bimodal", "chefer_joint", "dense_relevance", "gate_gradients", "gradient_mass",
    "modality_share", "rollout", "rollout_shares", "sees_any", "stages", "total_gradient_mass",
]  # fmt: skip

Product = Callable[[Call, Float[Array, "B Nq"]], tuple[Float[Array, "B Nk"], Float[Array, "B Nq"]]]
ByTokens = dict[str, Float[Array, "B _"]]
Attentions = Mapping[tuple[str, str], Float[np.ndarray, "B _ _"]]
"""(stream that asks, stream that is asked) -> Abar."""


def chefer_joint(traced: Traced) -> ByTokens:
    """Relevance of every token before the first call for the score (Chefer, Gur, Wolf, ICCV 2021, rule 6).

        R <- R + Abar R,   Abar = mean_h relu(P_h (.) d score / dP_h),   R = I at first

    and of that the row of the tokens that are read, less I, over the union of all tokens. A call updates those that
    ask; calls of which none sees another's update are of the same R. A bottleneck is updated by the mean of its
    modalities' updates, as the model does it (ours).

    Not negative; in units of the score, but adds up to nothing: for shares ``modality_share``.
    """

    def product(call: Call, wanted: Array) -> tuple[Array, Array]:
        arguments = (call.query, call.key, call.value, call.gradient, wanted[..., None])
        found = relevance(*arguments, mask=call.mask, bias=call.bias)
        return found.mean(1)[..., 0], jnp.zeros_like(wanted)

    _, rest = _carried(traced, product)
    return rest


def rollout(traced: Traced) -> ByTokens:
    """The row of attention rollout of the tokens that are read (Abnar and Zuidema, ACL 2020), which sums to 1.

        R <- A~ R,   A~ = (mean_h P_h + I) / 2,   R = I at first

    over the union of all tokens. Tokens that a call does not update, and queries that see nothing, stay as they are.
    """

    def product(call: Call, wanted: Array) -> tuple[Array, Array]:
        wanted = wanted * sees_any(call)
        found = attention(
            call.query, call.key, call.key[..., :1], mask=call.mask, bias=call.bias, statistics=("received",),
            received_weights=wanted[..., None],
        ).statistics["received"]  # fmt: skip
        return found.mean(1)[..., 0] / 2, -wanted / 2

    start, rest = _carried(traced, product)
    return {name: start.get(name, 0.0) + part for name, part in rest.items()}


def rollout_shares(traced: Traced) -> tuple[tuple[str, ...], dict[Tokens, Float[Array, "B _ G"]]]:
    """U_ig = sum_{j in g} R_ij of attention rollout: what every token is made of after the last call.

    Returns:
      Names of the sets g, and U of the last state of each set that is updated; every row sums to 1.
    """
    names = tuple(name for name, _ in traced.flow.lengths)
    rows = len(traced.calls[0].query)
    made_of: dict[Tokens, Array] = {
        (name, -1): jnp.broadcast_to(jax.nn.one_hot(column, len(names)), (rows, length, len(names)))
        for column, (name, length) in enumerate(traced.flow.lengths)
    }
    for number, (call, step) in enumerate(zip(traced.calls, traced.flow.steps, strict=True)):
        value = jnp.concatenate([made_of[tokens] for tokens in step.keys], axis=1)
        value = jnp.broadcast_to(value[:, :, None], (*value.shape[:2], call.key.shape[2], len(names)))
        # In float32: rounded to the precision of the keys at every layer, shares would no longer add up.
        query, key = (array.astype(jnp.promote_types(array.dtype, jnp.float32)) for array in (call.query, call.key))
        mixed = attention(query, key, value.astype(query.dtype), mask=call.mask, bias=call.bias).output.mean(2)
        sees, change = sees_any(call), collections.defaultdict(float)
        for tokens, (begin, end), weight in zip(step.queries, call.mask.queries.ranges, weights(call), strict=True):
            step_away = mixed[:, begin:end] - made_of[tokens]
            change[tokens] += (weight * sees[:, begin:end])[..., None] * step_away / 2
        made_of |= {(name, number): made_of[name, before] + part for (name, before), part in change.items()}
    return names, {tokens: made_of[tokens] for tokens in traced.flow.last()}


def gradient_mass(call: Call) -> Float[Array, "B H Nq G"]:
    """Gm_ig = sum_{j in g} P_ij <dO_i, V_j> = <dO_i, O_ig>, ours: what reached the score through the keys of group g.

    Signed; sums over g to <dO_i, O_i>, the change of the score to first order where the output is taken away.
    """
    parts = attention(
        call.query, call.key, call.value, mask=call.mask, bias=call.bias, statistics=("group_output",)
    ).statistics["group_output"]
    return jnp.einsum("bnhd,bhngd->bhng", call.gradient, parts, preferred_element_type=parts.dtype)


def gate_gradients(call: Call) -> Float[Array, "B H"]:
    """d score / d xi_h, xi_h = 1 a gate on each head's output (Michel et al., NeurIPS 2019): sum_i <dO_i, O_i>.

    Signed, in units of the score; a head's importance is the mean over clips of its magnitude, for the loss as score.
    """
    wide = jnp.promote_types(call.output.dtype, jnp.float32)
    return jnp.einsum("bnhd,bnhd->bh", call.gradient, call.output, preferred_element_type=wide)


def total_gradient_mass(calls: Sequence[Call]) -> dict[str, Float[Array, " B"]]:
    """Gm summed over queries, heads and calls, by set of keys: attribution of attention to modalities, in units of the
    score. Signed and additive, but each call is taken by itself: what one call has moved into the tokens of a modality
    the next one counts for that modality."""
    total: dict[str, Array] = {}
    for call in calls:
        found = gradient_mass(call).sum((1, 2))
        for column, group in enumerate(call.mask.keys.names):
            total[set_of(group)] = total.get(set_of(group), 0.0) + found[:, column]
    return total


def modality_share(
    by_tokens: Mapping[str, Float[np.ndarray, "B _"]], tokens: Mapping[str, int]
) -> Float[np.ndarray, "B M"]:
    """Relevance on each modality's own tokens over that on all of them: in [0, 1], sums to 1, no direction.

    Args:
      by_tokens: of ``chefer_joint`` or ``rollout``.
      tokens: modality -> number of its own tokens, which come first; class tokens behind them are nobody's, as
        bottlenecks are.
    """
    if missing := sorted(set(tokens) - set(by_tokens)):
        raise Undefined(f"no attention names tokens of {missing}; it names {sorted(by_tokens)}")
    amounts = [np.asarray(by_tokens[m], np.float64)[:, :count].sum(axis=1) for m, count in tokens.items()]
    return share(np.stack(amounts, axis=1))


def dense_relevance(call: Call) -> Float[Array, "B Nq Nk"]:
    """Abar = mean_h relu(P_h (.) d score / dP_h), equation 5 of Chefer et al. 2021; for few tokens."""
    every = jnp.broadcast_to(jnp.eye(call.query.shape[1]), (len(call.query), *[call.query.shape[1]] * 2))
    found = relevance(call.query, call.key, call.value, call.gradient, every, mask=call.mask, bias=call.bias)
    return jnp.swapaxes(found.mean(1), 1, 2)


def stages(traced: Traced) -> list[Attentions]:
    """Calls as ``chefer_bimodal`` takes them, together where none sees another's update.

    Undefined unless every call is of one stream asking one, of two in all.
    """
    found: list[Attentions] = []
    begin = 0
    for number, (call, step) in enumerate(zip(traced.calls, traced.flow.steps, strict=True)):
        names = {name for name, _ in traced.flow.lengths}
        if len(step.queries) != 1 or len(step.keys) != 1 or len(names) != 2 or BOTTLENECK in names:
            raise Undefined(f"the bi-modal rules are of two streams that ask one at a time; here are {sorted(names)}")
        (asking, _), (asked, _) = *step.queries, *step.keys
        sees = any(before >= begin for _, before in (*step.queries, *step.keys))
        if not found or sees or (asking, asked) in found[-1]:
            found, begin = [*found, {}], number
        found[-1] = {**found[-1], (asking, asked): np.asarray(dense_relevance(call), np.float64)}
    return found


def chefer_bimodal(
    attentions: Sequence[Attentions], lengths: Mapping[str, int]
) -> dict[tuple[str, str], Float[np.ndarray, "B _ _"]]:
    """The bi-modal rules (Chefer, Gur, Wolf, ICCV 2021, equations 6 to 11), with matrices R of all pairs of streams.

        s asks s:  R^ss += Abar R^ss,  R^sq += Abar R^sq
        s asks q:  R^sq += (Rbar^ss)^T Abar Rbar^qq,  R^ss += Abar R^qs
        Rbar = I + rows of (R - I) over their sums;  R^ss = I, R^sq = 0 at first

    Rows of R - I that are 0, before any self-attention, are left 0 in Rbar (ours; the paper has 0 / 0). The relevance
    of tokens is in the rows of the tokens that are read: of R^ss, less I, and of R^sq.

    Args:
      attentions: from the first to the last, those together that are computed from the same tokens (``stages``).
      lengths: tokens of each stream.
    """
    rows = len(next(iter(attentions[0].values())))
    shape = {(s, q): (rows, lengths[s], lengths[q]) for s in lengths for q in lengths}
    state = {pair: np.zeros(size) for pair, size in shape.items()}
    for s, length in lengths.items():
        state[s, s] += np.eye(length)
    for together in attentions:
        added = {pair: np.zeros(size) for pair, size in shape.items()}
        for (s, q), weight in together.items():
            if s == q:
                for other in lengths:
                    added[s, other] += weight @ state[s, other]
            else:
                added[s, q] += np.swapaxes(_normalised(state[s, s]), 1, 2) @ weight @ _normalised(state[q, q])
                added[s, s] += weight @ state[q, s]
        state = {pair: state[pair] + added[pair] for pair in state}
    return state


def _normalised(state: Float[np.ndarray, "B N N"]) -> Float[np.ndarray, "B N N"]:
    """Rbar, equations 8 and 9."""
    identity = np.eye(state.shape[1])
    total = (state - identity).sum(-1, keepdims=True)
    return np.divide(state - identity, total, out=np.zeros(state.shape), where=total != 0) + identity


def _carried(traced: Traced, product: Product) -> tuple[ByTokens, ByTokens]:
    """Start and what is added to it, from the tokens that are read to those before the first call.

    The two apart, as what is added may be far smaller.

    Args:
      product: (call, wanted of its queries) -> what is added to its keys and to its queries.
    """
    start, rest = collections.defaultdict(float, traced.start), collections.defaultdict(float)
    for number in reversed(range(len(traced.calls))):
        call, step, after = traced.calls[number], traced.flow.steps[number], traced.flow.updated(number)
        queries, keys = call.mask.queries, call.mask.keys
        wanted = [
            jnp.broadcast_to(weight * (start[tokens] + rest[tokens]), (len(call.query), length))
            for weight, tokens, length in zip(weights(call), after, queries.lengths, strict=True)
        ]
        to_keys, to_queries = product(call, jnp.concatenate(wanted, axis=1))
        for before, tokens in dict.fromkeys(zip(step.queries, after, strict=True)):
            start[before] += start.pop(tokens)
            rest[before] += rest.pop(tokens)
        for added, layout, read in ((to_queries, queries, step.queries), (to_keys, keys, step.keys)):
            for tokens, (begin, end) in zip(read, layout.ranges, strict=True):
                rest[tokens] += added[:, begin:end]
    return {name: array for (name, _), array in start.items()}, {name: array for (name, _), array in rest.items()}


def sees_any(call: Call) -> Float[Array, "B Nq"]:
    """1 for queries that see any key."""
    found = attention(
        call.query, call.key, call.key[..., :1], mask=call.mask, bias=call.bias, statistics=("lse",)
    ).statistics
    return found["nonempty"][:, 0].astype(jnp.float32)
