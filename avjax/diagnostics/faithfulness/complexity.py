"""How concentrated saliency or attention is, and how alike the heads of a layer are."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
from jaxtyping import Bool, Float, Num

from avjax.diagnostics.drift.divergence import cosine, jensen_shannon
from avjax.diagnostics.measured import Undefined

Rows = Num[np.ndarray, "*rows N"]
OfRows = Float[np.ndarray, "*rows"] | float


def entropy(weights: Rows) -> OfRows:
    """H = -sum_j P_j ln P_j of each row over its sum, in nats, in [0, log N]; 0 where one cell has all.

    No direction: lower is simpler, not better. Complexity of an explanation (Bhatt et al. 2020) where the row is |phi|.
    """
    shares = _shares(weights)
    return -(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=-1)


def normalised_entropy(weights: Rows, valid: Bool[np.ndarray, "*#rows N"]) -> OfRows:
    """H / log N_valid, in [0, 1]: 1 of uniform weights over what is valid, 0 where one cell has all.

    Of one modality, ``valid`` is its valid keys: H_g / log N_g of the weights within it. Undefined where fewer than two
    cells are valid. Values elsewhere may be anything.
    """
    count = np.broadcast_to(valid, weights.shape).sum(axis=-1)
    few = int((count < 2).sum())
    if few:
        raise Undefined(f"{few} of {count.size} rows have fewer than two valid cells, whose entropy has no scale")
    return entropy(np.where(valid, weights, 0)) / np.log(count)


def effective_tokens(weights: Rows) -> OfRows:
    """exp(H), in [1, N]: how many equal weights would be as spread."""
    return np.exp(entropy(weights))


def inverse_participation(weights: Rows) -> OfRows:
    """1 / sum_j P_j^2, in [1, N]; as ``effective_tokens``, and moved less by a long tail."""
    return 1 / (_shares(weights) ** 2).sum(axis=-1)


def gini(weights: Rows) -> OfRows:
    """G = sum_j (2 j - N - 1) x_(j) / (N sum x), x sorted upwards: 0 of equal cells, 1 - 1 / N of one (Gini 1912).

    Sparseness of an explanation (Chalasani et al. 2020). No direction. Pitfall: cells that are padded count as zeros;
    pass valid ones.
    """
    ordered = np.sort(_shares(weights), axis=-1)
    count = ordered.shape[-1]
    return ordered @ (2 * np.arange(1, count + 1) - count - 1) / count


def effective_complexity(attribution: Rows, least: float) -> OfRows:
    """Cells with |phi_j| > least (Nguyen & Martinez 2020), in [0, N]; ``least`` is part of the number's name."""
    return (np.abs(attribution) > least).sum(axis=-1).astype(np.float64)


def head_redundancy(weights: Num[np.ndarray, "H Q N"], queries: Bool[np.ndarray, " Q"]) -> float:
    """Mean over pairs of heads of 1 - JSD_2(P_h, P_h'), itself the mean over valid queries; in [0, 1].

    1 where all heads look alike, 0 where no two share a key. No direction. Undefined for one head. Pitfall: diffuse
    heads are alike whatever they rank first.
    """
    rows = _queries(weights, queries)
    return 1 - float(np.mean([jensen_shannon(one, other).mean() for one, other in itertools.combinations(rows, 2)]))


def head_cosine(weights: Num[np.ndarray, "H Q N"], queries: Bool[np.ndarray, " Q"]) -> float:
    """Mean over pairs of heads of <P_h, P_h'>_F / (||P_h||_F ||P_h'||_F), in [0, 1]; 1 where all heads look alike."""
    flat = _queries(weights, queries).reshape(len(weights), -1)
    return float(np.mean([cosine(one, other) for one, other in itertools.combinations(flat, 2)]))


def cosines_of_products(products: Float[np.ndarray, "H H"]) -> float:
    """``head_cosine`` from all <P_h, P_h'>_F; in [0, 1], as weights are not negative.

    Products may be estimates by random vectors (Hutchinson): <P_h, P_h'>_F = E_z <P_h z, P_h' z>.
    """
    size = np.sqrt(np.diag(products))
    if len(products) < 2 or not size.all():
        raise Undefined("redundancy is of two heads and more, over at least one query")
    cosines = (products / np.outer(size, size))[np.triu_indices(len(products), 1)]
    # Products of weights are not negative; estimates of some that are 0 may be, and are evened out by others.
    return float(np.clip(cosines.mean(), 0, 1))


@dataclasses.dataclass(frozen=True, eq=False)
class Scatter:
    """Rows summed up: scatters of parts add up to that of the whole (Chan, Golub, LeVeque 1979).

    Attributes:
      products: sum over rows of (x - mean)(x - mean)^T.
    """

    rows: int
    mean: Float[np.ndarray, " C"]
    products: Float[np.ndarray, "C C"]

    @classmethod
    def of(cls, columns: Num[np.ndarray, "R C"]) -> Scatter:
        columns = np.asarray(columns, np.float64)
        mean = columns.mean(axis=0) if len(columns) else np.zeros(columns.shape[1])
        return cls(len(columns), mean, (columns - mean).T @ (columns - mean))

    def __add__(self, other: Scatter) -> Scatter:
        rows, step = self.rows + other.rows, other.mean - self.mean
        part = other.rows / max(rows, 1)
        between = np.outer(step, step) * self.rows * part
        return Scatter(rows, self.mean + step * part, self.products + other.products + between)


def linear_cka(one: Num[np.ndarray, "R C"], other: Num[np.ndarray, "R D"]) -> float:
    """||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F) of columns about their means (Kornblith et al. 2019), in [0, 1].

    1 where one is the other up to rotation and scale: of two heads' outputs on the same rows. Undefined where a side
    is constant. Pitfall: near 1 by chance where rows are few against columns.
    """
    return _cka(
        Scatter.of(np.concatenate([one, other], axis=1)).products, slice(one.shape[1]), slice(one.shape[1], None)
    )


def head_cka(outputs: Scatter, heads: int) -> float:
    """Mean over pairs of heads of ``linear_cka`` of their outputs, from the scatter of all heads' columns in order."""
    if heads < 2:
        raise Undefined("redundancy is of two heads and more, over at least one query")
    width = len(outputs.mean) // heads
    columns = [slice(head * width, (head + 1) * width) for head in range(heads)]
    return float(np.mean([_cka(outputs.products, one, other) for one, other in itertools.combinations(columns, 2)]))


def _cka(products: Float[np.ndarray, "C C"], one: slice, other: slice) -> float:
    below = np.linalg.norm(products[one, one]) * np.linalg.norm(products[other, other])
    if not below:
        raise Undefined("a head's output is the same on every row")
    return float(np.linalg.norm(products[other, one]) ** 2 / below)


def _shares(weights: np.ndarray) -> np.ndarray:
    weights = np.asarray(weights, np.float64)
    if not (weights >= 0).all():
        raise ValueError("weights are not negative: take the magnitudes of a signed attribution, and say so")
    total = weights.sum(axis=-1, keepdims=True)
    if not total.all():
        raise Undefined(f"{int((total == 0).sum())} of {total.size} rows have no weight")
    return weights / total


def _queries(weights: np.ndarray, queries: np.ndarray) -> np.ndarray:
    if len(weights) < 2 or not queries.any():
        raise Undefined("redundancy is of two heads and more, over at least one query")
    return _shares(weights[:, queries])
