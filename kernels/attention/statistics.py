"""What attention can report about itself: names, shapes, and their plain formulas on dense weights.

P[b,h,i,j] are the weights after softmax and before dropout, S the scores (scaled, capped, biased), G the groups of the
mask's keys, R the columns of ``received_weights``. All statistics are float32 (float64 for float64 inputs):

  lse            [B, H, Nq]         log sum_j exp S_ij; with it comes ``nonempty`` [B, H, Nq] bool: the row sees any key
  mass           [B, H, Nq, G]      M_ig = sum_{j in g} P_ij
  entropy        [B, H, Nq]         -sum_j P_ij log P_ij, in nats
  group_entropy  [B, H, Nq, G]      the entropy of P_ij / M_ig over the keys of group g; 0 where the row sees none of it
  second_moment  [B, H, Nq]         sum_j P_ij^2, the inverse of the number of keys that share the attention
  peak           [B, H, Nq]         max_j P_ij
  received       [B, H, Nk, R]      sum_i w_ir P_ij: how much attention each key gets; w defaults to 1 for every query
                                    (R = 1), and empty rows give nothing
  group_output   [B, H, Nq, G, Dv]  O_ig = sum_{j in g} P'_ij V_j, P' the weights after dropout: summed over g, the
                                    output O_i
  output_product [B, H, Nq, G]      <O_ig, O_i>: what each group has of the squared length of the output; of G numbers,
                                    where group_output has G Dv

Empty rows: lse -inf, nonempty False, all else 0, and no gradient. Where several keys tie for ``peak`` its gradient is
any subgradient; away from ties it goes to the one largest. Where a group's mass underflows, float32 implementations
may return 0 for its group_entropy. Gradients with respect to ``received_weights`` are part of the contract.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

NAMES = ("lse", "mass", "entropy", "group_entropy", "second_moment", "peak", "received", "group_output",
         "output_product")  # fmt: skip

# What is made of the outputs by group.
OF_OUTPUTS = frozenset({"group_output", "output_product"})
# What adds up over queries, a number a key; ``relevance`` is asked for through kernels.attention.relevance alone.
OVER_KEYS = ("received", "relevance")


def check_names(names: Sequence[str]) -> None:
    """Raises ValueError for statistics that do not exist or are named twice."""
    if isinstance(names, str):
        raise ValueError(f"statistics: got the string {names!r}; give a tuple of names: ({names!r},).")
    for name in names:
        if name not in NAMES:
            raise ValueError(f"statistics: there is no {name!r}; there are {', '.join(NAMES)}.")
    if len(set(names)) != len(tuple(names)):
        raise ValueError(f"statistics: named twice in {tuple(names)}.")


def shapes(
    names: Sequence[str], batch: int, heads: int, queries: int, keys: int, groups: int, columns: int, width: int
) -> dict[str, tuple[int, ...]]:
    """Shape of every array that comes back for these names; ``columns`` is R and ``width`` Dv."""
    rows = (batch, heads, queries)
    table = {
        "lse": rows,
        "mass": (*rows, groups),
        "entropy": rows,
        "group_entropy": (*rows, groups),
        "second_moment": rows,
        "peak": rows,
        "received": (batch, heads, keys, columns),
        "relevance": (batch, heads, keys, columns),
        "group_output": (*rows, groups, width),
        "output_product": (*rows, groups),
    }
    result = {name: table[name] for name in names}
    if "lse" in result:
        result["nonempty"] = rows
    return result


def output_product(parts: Float[Array, "*rows G Dv"]) -> Float[Array, "*rows G"]:
    """<O_ig, O_i> of ``group_output``."""
    return jnp.sum(parts * parts.sum(-2, keepdims=True), axis=-1)


def entropy(scores: Float[Array, "*rows k"], weights: Float[Array, "*rows k"]) -> Float[Array, "*rows"]:
    """-sum P log P from scores; hidden keys have weight exactly 0 and a finite log weight, so they add 0."""
    return -jnp.sum(weights * jax.nn.log_softmax(scores, axis=-1), axis=-1)


def dense(
    names: Sequence[str],
    scores: Float[Array, "B H q k"],
    weights: Float[Array, "B H q k"],
    groups: Sequence[tuple[int, int]],
    seen: Bool[Array, "#B #q k"] | None,
    rows: Bool[Array, "#B #q"] | None,
) -> dict[str, Array]:
    """The row statistics (all but those of values and over keys) of one pair of ranges.

    Args:
      names: which ones.
      scores: with the mask added.
      weights: softmax of the scores.
      groups: first column and end of every group.
      seen: columns that each row sees, None all.
      rows: rows that see anything, None all.
    """
    full = weights.shape[:3]
    alive = jnp.ones(full, bool) if rows is None else jnp.broadcast_to(rows[:, None], full)
    result = {}
    if "lse" in names:
        result["lse"] = jnp.where(alive, jax.nn.logsumexp(scores, axis=-1), -jnp.inf)
        result["nonempty"] = alive
    if "mass" in names:
        result["mass"] = jnp.stack([weights[..., begin:end].sum(-1) for begin, end in groups], -1) * alive[..., None]
    if "entropy" in names:
        result["entropy"] = entropy(scores, weights) * alive
    if "group_entropy" in names:
        result["group_entropy"] = jnp.stack([_group_entropy(scores, group, seen, alive) for group in groups], -1)
    if "second_moment" in names:
        result["second_moment"] = jnp.square(weights).sum(-1) * alive
    if "peak" in names:
        result["peak"] = weights.max(-1) * alive
    return result


def _group_entropy(
    scores: Float[Array, "B H q k"],
    group: tuple[int, int],
    seen: Bool[Array, "#B #q k"] | None,
    alive: Bool[Array, "B H q"],
) -> Float[Array, "B H q"]:
    begin, end = group
    if begin == end:
        return jnp.zeros(alive.shape, scores.dtype)
    # A softmax of its own, not P / M: it stays exact where the group's mass underflows.
    part = scores[..., begin:end]
    value = entropy(part, jax.nn.softmax(part, axis=-1)) * alive
    return value if seen is None else value * seen[..., begin:end].any(-1)[:, None]
