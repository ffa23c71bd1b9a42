"""Attention, its statistics and all their gradients in NumPy, one batch row and head at a time, from the formulas.

Independent of the product: no autodiff, no blocks, masks as plain booleans. In float64 it is the truth, NumPy alone; in
float32 (or with the roundings of bfloat16) it is the "same-precision dense version" of the error-ratio rule.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from kernels.attention import Mask


def visible(mask: Mask, batch: int) -> np.ndarray:
    """bool [B, Nq, Nk]: who attends to whom, read off the definition of Mask."""
    of_query = np.repeat(np.arange(len(mask.queries.names)), mask.queries.lengths)
    of_key = np.repeat(np.arange(len(mask.keys.names)), mask.keys.lengths)
    i, j = np.arange(len(of_query))[:, None], np.arange(len(of_key))[None, :]
    seen = np.ones((batch, len(of_query), len(of_key)), bool)
    if mask.sees is not None:
        table = [[(query, key) in mask.sees for key in mask.keys.names] for query in mask.queries.names]
        seen &= np.array(table)[of_query][:, of_key]
    if mask.causal:
        seen &= j <= i
    if mask.window is not None:
        left, right = mask.window
        seen &= (left is None) | (i - j <= (left or 0))
        seen &= (right is None) | (j - i <= (right or 0))
    if mask.key_valid is not None:
        seen &= np.asarray(mask.key_valid)[:, None, :]
    if mask.query_valid is not None:
        seen &= np.asarray(mask.query_valid)[:, :, None]
    if mask.presence is not None:
        there = np.asarray(mask.presence)
        seen &= there[:, of_key][:, None, :]
        for index, name in enumerate(mask.queries.names):
            if name in mask.keys.names:
                seen[:, of_query == index] &= there[:, mask.keys.names.index(name)][:, None, None]
    if mask.segments is not None:
        seen &= np.asarray(mask.segments[0])[:, :, None] == np.asarray(mask.segments[1])[:, None, :]
    return seen


def attend(
    arrays: dict[str, np.ndarray],
    seen: np.ndarray,
    groups: tuple[tuple[int, int], ...],
    cotangents: dict[str, np.ndarray] | None,
    *,
    scale: float,
    softcap: float | None = None,
    keep: np.ndarray | None = None,
    dtype: Any = np.float64,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Output and all statistics, and the gradients of sum(cotangents * them), by the softmax formulas written out.

    Args:
      arrays: query, key, value, received_weights, and bias or not.
      seen: bool [B, Nq, Nk].
      groups: first token and end of each key group.
      cotangents: name -> array of the value's shape; missing ones are 0. None: gradients are not computed.
      keep: [B, H, Nq, Nk] dropout's multipliers.
      dtype: float64, float32, or bfloat16 for float32 with weights, output and gradients rounded.

    Returns:
      Values, with them ``lead``, how far each row's highest score lies above its second; gradients; and for each
      gradient the sum of the sizes of the terms that it is a sum of: where they cancel, as in the gradient of a bias
      that all scores share, this and not the result says how exact float32 can be.
    """
    narrow = dtype == ml_dtypes.bfloat16
    wide = np.float32 if narrow else dtype

    def rounded(array):
        return array.astype(dtype).astype(wide) if narrow else array

    inputs = {name: np.asarray(array).astype(wide) for name, array in arrays.items()}
    query, key, value = inputs["query"], inputs["key"], inputs["value"]
    batch, queries, heads, _ = query.shape
    keys, shared, width = value.shape[1:]
    weights = inputs["received_weights"]
    if cotangents is not None:
        cotangents = {name: np.asarray(array).astype(wide) for name, array in cotangents.items()}
    bias = inputs.get("bias", np.zeros((1, 1, 1, 1), wide))
    full_bias = np.broadcast_to(bias, (batch, heads, queries, keys))
    member = np.zeros((keys, len(groups)), wide)
    for group, (begin, end) in enumerate(groups):
        member[begin:end, group] = 1

    rows, by_group = (batch, heads, queries), (batch, heads, queries, len(groups))
    values = {
        "output": np.zeros((batch, queries, heads, width), wide),
        "lse": np.zeros(rows, wide),
        "nonempty": np.broadcast_to(seen.any(-1)[:, None], rows),
        "mass": np.zeros(by_group, wide),
        "entropy": np.zeros(rows, wide),
        "group_entropy": np.zeros(by_group, wide),
        "second_moment": np.zeros(rows, wide),
        "peak": np.zeros(rows, wide),
        "lead": np.full(rows, np.inf, wide),
        "received": np.zeros((batch, heads, keys, weights.shape[2]), wide),
        "group_output": np.zeros((*by_group, width), wide),
        "output_product": np.zeros(by_group, wide),
    }
    gradients = {name: np.zeros_like(array) for name, array in inputs.items()}
    magnitudes = {name: np.zeros_like(array) for name, array in inputs.items()}

    # The peer of the error-ratio rule multiplies as JAX does. NumPy's blocked sums are several times more exact over a
    # wide D than a float32 product of XLA, and what is judged is what an implementation does with its scores.
    products = None if wide == np.float64 else _xla_products(query, key)
    for b, h in np.ndindex(batch, heads):
        q, k, v = query[b, :, h], key[b, :, h * shared // heads], value[b, :, h * shared // heads]
        vis, alive = seen[b], seen[b].any(-1)
        product = (q @ k.T if products is None else products[b, h]) * wide(scale)
        capped = product if softcap is None else wide(softcap) * np.tanh(product / wide(softcap))
        score = np.where(vis, capped + full_bias[b, h], -np.inf)
        top = np.where(alive, score.max(-1, initial=-np.inf), 0)
        exp = np.exp(score - top[:, None])
        total = np.where(alive, exp.sum(-1), 1)
        p = exp / total[:, None]
        log_p = np.where(vis, np.where(vis, score, 0) - top[:, None] - np.log(total)[:, None], 0)
        drop = np.ones_like(p) if keep is None else keep[b, h].astype(wide)
        dropped = rounded(p * drop)
        mass = p @ member
        share = np.where(mass > 0, mass, 1) @ member.T  # of each key's group
        conditional = p / share
        log_conditional = np.where(conditional > 0, np.log(np.where(conditional > 0, conditional, 1)), 0)
        entropy = -(p * log_p).sum(-1)
        group_entropy = -(conditional * log_conditional) @ member
        second = (p * p).sum(-1)
        peak = p.max(-1, initial=0)
        parts = np.stack([dropped[:, begin:end] @ v[begin:end] for begin, end in groups], 1)

        values["output"][b, :, h] = rounded(dropped @ v)
        with np.errstate(divide="ignore"):
            values["lse"][b, h] = np.where(alive, top + np.log(total), -np.inf)
        values["mass"][b, h], values["entropy"][b, h], values["group_entropy"][b, h] = mass, entropy, group_entropy
        values["second_moment"][b, h], values["peak"][b, h], values["group_output"][b, h] = second, peak, parts
        whole = parts.sum(1)
        values["output_product"][b, h] = np.einsum("igd,id->ig", parts, whole)
        values["received"][b, h] = p.T @ weights[b]
        if keys > 1:
            second_best, best_score = np.moveaxis(np.partition(score, (-2, -1), axis=-1)[:, -2:], -1, 0)
            rivals = np.isfinite(second_best)
            values["lead"][b, h][rivals] = best_score[rivals] - second_best[rivals]

        if cotangents is None:
            continue

        def upstream(name, like, b=b, h=h):
            if name not in cotangents:
                return np.zeros_like(like)
            return cotangents[name][b, :, h] if name == "output" else cotangents[name][b, h]

        d_output, d_parts = upstream("output", dropped @ v), upstream("group_output", parts)
        d_square = upstream("output_product", mass)[:, :, None]
        d_parts = d_parts + d_square * whole[:, None] + (d_square * parts).sum(1, keepdims=True)
        d_mass, d_received = upstream("mass", mass), upstream("received", values["received"][b, h])
        d_entropy, d_group = upstream("entropy", entropy)[:, None], upstream("group_entropy", mass)
        d_second, d_lse, d_peak = (upstream(name, entropy)[:, None] for name in ("second_moment", "lse", "peak"))
        # What reaches the weights after dropout: the output's cotangent and that of the key's group.
        reach = d_output @ v.T + np.einsum("igd,jd,jg->ij", d_parts, v, member, optimize=True)
        d_p = reach * drop + d_mass @ member.T + weights[b] @ d_received.T
        d_score = p * (d_p - (p * d_p).sum(-1, keepdims=True))
        d_score -= d_entropy * p * (log_p + entropy[:, None])
        d_score -= (d_group @ member.T) * conditional * (log_conditional + group_entropy @ member.T)
        d_score += d_second * 2 * p * (p - second[:, None]) + d_lse * p
        best = np.arange(keys)[None, :] == p.argmax(-1)[:, None]
        d_score += d_peak * peak[:, None] * (best - p)
        d_score = np.where(vis, d_score, 0)
        # Where few keys are seen, what a weight is worth and the mean of it all but cancel, and leave their rounding.
        size = np.where(vis, np.abs(d_score) + p * (np.abs(d_p) + (p * np.abs(d_p)).sum(-1, keepdims=True)), 0)

        def add(name, index, left, right, sizes=None, b=b, h=h):
            """Adds a product to a gradient, and the sizes of its terms, as they were before they cancelled."""
            gradients[name][index] += left @ right
            magnitudes[name][index] += np.abs(left if sizes is None else sizes) @ np.abs(right)

        if "bias" in gradients:
            axes = tuple(axis for axis in (0, 1) if bias.shape[axis + 2] == 1)
            index = (b if bias.shape[0] > 1 else 0, h if bias.shape[1] > 1 else 0)
            gradients["bias"][index] += d_score.sum(axes, keepdims=True)
            magnitudes["bias"][index] += size.sum(axes, keepdims=True)
        slope = wide(scale) * (1 if softcap is None else 1 - (capped / wide(softcap)) ** 2)
        d_product, size = slope * d_score, np.abs(slope) * size
        of_keys = (b, slice(None), h * shared // heads)
        add("query", (b, slice(None), h), d_product, k, size)
        add("key", of_keys, d_product.T, q, size.T)
        add("value", of_keys, dropped.T, d_output)
        for group, (begin, end) in enumerate(groups):
            add("value", (b, slice(begin, end), h * shared // heads), dropped[:, begin:end].T, d_parts[:, group])
        add("received_weights", b, p, d_received)
    for name in ("query", "key", "value"):
        gradients[name] = rounded(gradients[name])
    return values, gradients, magnitudes


def _xla_products(query: np.ndarray, key: np.ndarray) -> np.ndarray:
    """float32 [B, H, Nq, Nk] products of queries and keys."""
    key = np.repeat(key, query.shape[2] // key.shape[2], axis=2)
    return np.asarray(jnp.einsum("bihd,bjhd->bhij", query, key, precision="highest"))


def threefry(key: tuple[int, int], counter: tuple[int, int], rounds: int) -> tuple[int, int]:
    """Threefry-2x32 in Python integers, from the paper's figure."""
    word, turns = (1 << 32) - 1, ((13, 15, 26, 6), (17, 29, 16, 24))
    schedule = (*key, key[0] ^ key[1] ^ 0x1BD11BDA)
    low, high = (counter[0] + key[0]) & word, (counter[1] + key[1]) & word
    for step in range(rounds):
        turn = turns[step // 4 % 2][step % 4]
        low = (low + high) & word
        high = (high << turn | high >> (32 - turn)) & word ^ low
        if step % 4 == 3:
            four = step // 4 + 1
            low, high = (low + schedule[four % 3]) & word, (high + schedule[(four + 1) % 3] + four) & word
    return low, high
