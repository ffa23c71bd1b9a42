"""Losses between vectors: which are to be near, which far, which at right angles.

Every function takes the weight of the rows, [B]: a row of weight 0, as where a modality is missing, is neither an
anchor nor a positive nor a negative, and its values are not read. All sums are in float32. Each gives a ``Mean``;
those that compare rows are numbers of the batch's make-up: that of two halves is not the mean of theirs.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from avjax.nn.convolution import masked
from avjax.objectives.rows import LOWEST, batch_mean, distance, distances, rows_mean, unit
from avjax.streams import Mean


def info_nce(
    a: Float[Array, "B C"],
    b: Float[Array, "B C"],
    weight: Float[Array, " B"],
    *,
    temperature: float = 0.07,
    directions: Literal["one", "both"] = "both",
) -> Mean:
    """Each a finds its own b among those of the batch (van den Oord et al. 2018), and with "both" each b its a.

        L_i = -s_ii + log sum_j exp(s_ij),   s_ij = cos(a_i, b_j) / temperature;   both: mean of it for s and s^T

    CAV-MAE (Gong et al. 2023) takes one direction and temperature 0.05.
    """
    there = weight > 0
    similarity = unit(masked(a, there)) @ unit(masked(b, there)).T / temperature

    def row(s: Array) -> Array:
        return jax.nn.logsumexp(jnp.where(there[None], s, LOWEST), axis=1) - jnp.diagonal(s)

    rows = row(similarity) if directions == "one" else (row(similarity) + row(similarity.T)) / 2
    return rows_mean(rows, weight)


def supervised_alignment(
    a: Float[Array, "B C"],
    b: Float[Array, "B C"],
    label: Int[Array, " B"],
    weight: Float[Array, " B"],
    *,
    temperature: float = 0.07,
) -> Mean:
    """Each a finds all b of its class: semantic alignment of S-CMRL (He et al. 2025, as released).

        L = -mean over i and j of 1[y_i = y_j] log softmax_j(a_i . b_j / temperature)

    The vectors are not normalised. The mean is over all pairs of rows that are there, of one class or not.
    """
    there = weight > 0
    scores = _float(masked(a, there)) @ _float(masked(b, there)).T / temperature
    log = jax.nn.log_softmax(jnp.where(there[None], scores, LOWEST), axis=1)
    same = (label[:, None] == label[None]) & there[None]
    return rows_mean(-jnp.where(same, log, 0).sum(axis=1) / jnp.maximum(there.sum(), 1), weight)


def triplet(
    anchor: Float[Array, "B C"],
    positive: Float[Array, "B C"],
    label: Int[Array, " B"],
    weight: Float[Array, " B"],
    *,
    margin: float = 0.2,
    negatives: Literal["all", "hardest"] = "hardest",
) -> Mean:
    """A row's own positive is nearer than those of other classes (Schroff et al. 2015, with plain distances).

        L_i = over n with y_n != y_i:  max or mean of  max(0, margin + ||a_i - p_i|| - ||a_i - p_n||)

    A row without negatives does not count. For positives by row alone give every row a label of its own.
    """
    there = weight > 0
    anchor, positive = masked(anchor, there), masked(positive, there)
    far = distances(anchor, positive)
    other = (label[:, None] != label[None]) & there[None]
    violation = jnp.where(other, jax.nn.relu(margin + jnp.diagonal(far)[:, None] - far), 0)
    if negatives == "hardest":
        rows = violation.max(axis=1)
    else:
        rows = violation.sum(axis=1) / jnp.maximum(other.sum(axis=1), 1)
    return rows_mean(rows, weight * other.any(axis=1))


def relative_distance(
    anchor: Float[Array, "B C"],
    positive: Float[Array, "B C"],
    label: Int[Array, " B"],
    weight: Float[Array, " B"],
    *,
    alpha: float = 1.2,
) -> Mean:
    """Relative distance stretching of AICANet (Wang et al. 2025, as released), d the Euclidean distance:

        L_i = 1/2 (d_ap + 10 log(1 + 10 (max_n e^(alpha - d_an) e^(d_ap - d_an)
                                         + max_n e^(alpha - d_pn) e^(d_ap - d_pn))))

    Over n run the positives of other classes. The release's rectifier never acts, for all terms are above 0.
    """
    there = weight > 0
    anchor, positive = masked(anchor, there), masked(positive, there)
    other = (label[:, None] != label[None]) & there[None]
    own = distance(anchor, positive)

    def nearest(far: Array) -> Array:
        return jnp.where(other, alpha + own[:, None] - 2 * far, LOWEST).max(axis=1)

    pushed = jnp.logaddexp(nearest(distances(anchor, positive)), nearest(distances(positive, positive)))
    return rows_mean((own + 10 * jnp.logaddexp(0.0, jnp.log(10.0) + pushed)) / 2, weight)


def metric_constraint(
    z: Float[Array, "B C"],
    label: Int[Array, " B"],
    apart: Float[Array, "K K"],
    weight: Float[Array, " B"],
    *,
    margin: float = 0.5,
) -> Mean:
    """Distances between classes follow a given table: ours, after the idea of Mocanu et al. 2023.

        L = mean over pairs i != j of (||z_i - z_j|| - margin D[y_i, y_j])^2,   z of unit length

    ``apart`` is D, such as 0 within a class, 1 within a valence, 2 between opposites. Pairs count by the product of
    their weights.
    """
    z = unit(masked(z, weight > 0))
    pairs = weight[:, None] * weight[None] * (1 - jnp.eye(weight.shape[0]))
    error = jnp.square(distances(z, z) - margin * apart[label[:, None], label[None]])
    return batch_mean((pairs * error).sum() / jnp.maximum(pairs.sum(), 1e-8), weight)


def pair_similarity(
    a: Float[Array, "B T C"], b: Float[Array, "B T C"], event: Bool[Array, "B T"], weight: Float[Array, " B"]
) -> Mean:
    """Both modalities agree where an event is, and there alone (PSP, Zhou et al. 2021, as released).

        s_t = relu(cos(a_t, b_t)),   L_i = mean_t (s_t / sum s - g_t)^2,   g uniform over the event's segments

    A row without an event has no g and does not count.
    """
    weight = weight * event.any(axis=1)
    similarity = jax.nn.relu((unit(masked(a, weight > 0)) * unit(masked(b, weight > 0))).sum(axis=-1))
    share = similarity / jnp.maximum(similarity.sum(axis=1, keepdims=True), 1e-6)
    goal = event / jnp.maximum(event.sum(axis=1, keepdims=True), 1)
    return rows_mean(jnp.square(share - goal).mean(axis=1), weight)


def diversity(x: Float[Array, "B N C"], valid: Bool[Array, "B N"], weight: Float[Array, " B"]) -> Mean:
    """Mean cosine between different tokens of a row (FAVOR, Sun et al. 2023): 1 where all are alike.

    L_i = (||sum_n u_n||^2 - sum_n ||u_n||^2) / (N (N - 1)),   u_n = x_n / ||x_n||
    """
    u = masked(unit(masked(x, valid)), valid)
    count = valid.sum(axis=1)
    together = jnp.square(u.sum(axis=1)).sum(axis=-1) - jnp.square(u).sum(axis=(1, 2))
    return rows_mean(together / jnp.maximum(count * (count - 1), 1), weight)


def orthogonality(x: Float[Array, "B C"], y: Float[Array, "B C"], weight: Float[Array, " B"]) -> Mean:
    """What is shared and what is private point in different directions: cosine embedding loss for unlike pairs.

    L_i = max(0, cos(x_i, y_i))      (computed in AICANet's release)
    """
    there = weight > 0
    return rows_mean(jax.nn.relu((unit(masked(x, there)) * unit(masked(y, there))).sum(axis=-1)), weight)


def _float(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
