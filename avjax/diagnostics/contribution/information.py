"""Partial information decomposition: what two variables say of a third, each alone, either, and only together.

Of tables of counts: of the label (what the data hold), or of a model's predictions (what the model uses). Features
first become few symbols: ``clusters``, 20 to 50 in each modality.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num

from avjax.diagnostics.measured import Undefined

Table = Float[np.ndarray, "X Y K"]
Symbols = Int[np.ndarray, " N"]

GAP = 1e-8
"""Nats by which the found information may be above the least there is; proved for every table, or there is no value."""
MOST_STEPS = 200
MOST_SWEEPS = 10
# Of the mean of s q that a step aims at.
CENTRE = 0.1
# Of a matrix with diagonal 1: where it is singular to rounding, margins are what the error is in, and those are scaled.
RIDGE = 1e-14
# Cells with less are 0: counts of fewer than 10^12 rows have none.
LEAST = 1e-12
# Of a table's margins, relative.
MARGINS = 1e-13


@dataclasses.dataclass(frozen=True)
class Decomposition:
    """In bits, each at least 0: R + U1 = I(X1;Y), R + U2 = I(X2;Y), R + U1 + U2 + S = I(X1 X2;Y).

    Attributes:
      redundant: R, what either says.
      first, second: U1, U2, what only X1, only X2 says.
      synergy: S, what only both together say.
      error: bits by which the four may be off: R and S may be larger by it, U1 and U2 smaller.
    """

    redundant: float
    first: float
    second: float
    synergy: float
    error: float = 0.0

    @property
    def parts(self) -> Float[np.ndarray, " 4"]:
        """R, U1, U2, S."""
        return np.array([self.redundant, self.first, self.second, self.synergy])

    @property
    def total(self) -> float:
        """I(X1 X2;Y)."""
        return float(self.parts.sum())

    def __sub__(self, other: Decomposition) -> Decomposition:
        """Part by part: less a ``null``."""
        return Decomposition(*(self.parts - other.parts).tolist(), self.error + other.error)


def table(first: Symbols, second: Symbols, third: Symbols) -> Table:
    """Shares of rows with each (x1, x2, y)."""
    if not len(third):
        raise Undefined("no rows")
    sizes = tuple(int(symbols.max()) + 1 for symbols in (first, second, third))
    counts = np.bincount(np.ravel_multi_index((first, second, third), sizes), minlength=int(np.prod(sizes)))
    return counts.reshape(sizes) / len(third)


def information(joint: Num[np.ndarray, "X K"]) -> float:
    """I(X;Y) = sum p(x,y) log2(p(x,y) / (p(x) p(y))), in bits; in [0, min(H(X), H(Y))]. Of counts too."""
    joint = np.asarray(joint, np.float64) / np.sum(joint)
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    there = joint > 0
    return max(float((joint[there] * np.log2(joint[there] / independent[there])).sum()), 0.0)


def decompose(joint: Table, *, gap: float = GAP) -> Decomposition:
    """Partial information decomposition of Bertschinger et al. (2014), as Liang et al. (NeurIPS 2023) use it.

        q* = argmax of H_q(Y|X1 X2) over q with q(x1,y) = p(x1,y) and q(x2,y) = p(x2,y)
        U1 = I_q*(Y;X1|X2),  U2 = I_q*(Y;X2|X1),  S = I_p(Y;X1 X2) - I_q*(Y;X1 X2),  R = I(X1;Y) - U1

    In bits, no direction. Liang et al.'s code prints nats. Pitfalls: of the data unless Y is the model's prediction;
    biased upwards by the number of symbols over that of rows, synergy most, so that ``null`` is to be taken off;
    depends on the clustering. Undefined where the solver cannot prove its error to be below ``gap``.

    Args:
      joint: p(x1, x2, y), or counts.
      gap: in nats.
    """
    joint = np.asarray(joint, np.float64)
    if (joint < 0).any() or not joint.sum() > 0:
        raise Undefined("a table without probability has no information")
    joint = joint / joint.sum()
    joint = np.where(joint < LEAST, 0, joint)
    joint /= joint.sum()
    found = least_informative(joint, gap=gap)
    least = information(found.q.reshape(-1, joint.shape[2]))
    whole = information(joint.reshape(-1, joint.shape[2]))
    one, other = information(joint.sum(axis=1)), information(joint.sum(axis=0))
    # I_q(Y;X1|X2) = I_q(Y;X1 X2) - I(X2;Y), and the other way round. What is below 0 is within the error.
    parts = (max(part, 0.0) for part in (one + other - least, least - other, least - one, whole - least))
    return Decomposition(*parts, max(found.gap, 0.0) / math.log(2))


def null(first: Symbols, second: Symbols, third: Symbols, *, permutations: int, seed: int) -> Decomposition:
    """Mean ``decompose`` with Y permuted over rows: what the same numbers of symbols and rows show of nothing.

    The difference of a decomposition and its null may have parts below 0. Ours; Liang et al. do not subtract it.
    """
    if permutations < 1:
        raise ValueError("a null needs a permutation")
    random = np.random.default_rng(seed)
    found = [decompose(table(first, second, random.permutation(third))) for _ in range(permutations)]
    return Decomposition(*np.mean([one.parts for one in found], axis=0).tolist(), max(one.error for one in found))


def clusters(
    features: Num[np.ndarray, "N C"], count: int, *, seed: int = 0, restarts: int = 4, most: int = 100
) -> Symbols:
    """Cluster of each row: Lloyd's algorithm from centres far apart (k-means++, Arthur & Vassilvitskii 2007).

    min sum_i ||x_i - c_k(i)||^2, the best of some starts. Every cluster has rows; there are fewer where fewer rows
    differ.

    Args:
      most: rounds of each start.
    """
    rows = np.asarray(features, np.float64)
    count = min(count, len(np.unique(rows, axis=0)))
    if count < 1:
        raise Undefined("no rows to cluster")
    # Far from 0 the squares of distances would lose their digits.
    rows = rows - rows.mean(axis=0)
    random, best = np.random.default_rng(seed), (np.inf, np.zeros(len(rows), np.int64))
    for _ in range(restarts):
        centres = _far_apart(rows, count, random)
        nearest = np.full(len(rows), -1)
        for _ in range(most):
            apart = _squares(rows, centres)
            before, nearest = nearest, apart.argmin(axis=1)
            sizes = np.bincount(nearest, minlength=count)
            # A centre that nobody is near goes to the row that is worst off.
            for empty in np.flatnonzero(sizes == 0):
                alone = np.where(sizes[nearest] > 1, apart[np.arange(len(rows)), nearest], -1).argmax()
                sizes[nearest[alone]] -= 1
                nearest[alone], sizes[empty] = empty, 1
            if (nearest == before).all():
                break
            centres = np.zeros_like(centres)
            np.add.at(centres, nearest, rows)
            centres /= sizes[:, None]
        total = float(((rows - centres[nearest]) ** 2).sum())
        best = min(best, (total, nearest), key=lambda pair: pair[0])
    return best[1]


def _far_apart(rows: Float[np.ndarray, "N C"], count: int, random: np.random.Generator) -> Float[np.ndarray, "M C"]:
    """Rows as centres, each drawn by its squared distance to the nearest of those before."""
    centres = [rows[random.integers(len(rows))]]
    nearest = ((rows - centres[0]) ** 2).sum(axis=1)
    while len(centres) < count:
        centres.append(rows[random.choice(len(rows), p=nearest / nearest.sum())])
        nearest = np.minimum(nearest, ((rows - centres[-1]) ** 2).sum(axis=1))
    return np.stack(centres)


def _squares(rows: Float[np.ndarray, "N C"], centres: Float[np.ndarray, "M C"]) -> Float[np.ndarray, "N M"]:
    return (rows**2).sum(axis=1)[:, None] - 2 * rows @ centres.T + (centres**2).sum(axis=1)


class Nearest(NamedTuple):
    """q* of ``decompose`` and the nats by which its information may be above the least."""

    q: Table
    gap: float


def least_informative(joint: Table, *, gap: float = GAP) -> Nearest:
    """The distribution with p's (x1,y) and (x2,y) margins that maximises H(Y|X1 X2).

    Convex: min f(q) = sum q ln q(y|x1,x2). Its dual (Makkeh et al. 2018) is max <p(x1,y), l> + <p(x2,y), m> with
    sum_y exp(l(x1,y) + m(x2,y)) <= 1 for all (x1,x2), so that any l and m, shifted until they obey, prove how far f(q)
    is from the least. A primal-dual interior-point method finds them, some twenty steps for most tables; it starts
    with the right margins, and scales q back to them after every step.
    """
    cells = _Cells.of(joint)
    q, slack, prices = cells.start, np.ones(len(cells.start)), np.zeros(len(cells.margins))
    best = np.inf
    for _ in range(MOST_STEPS):
        move, slack_move, change = cells.newton(q, slack, prices, CENTRE * float(q @ slack) / len(q))
        # Relative moves: what is left of any q and of any slack is a twentieth at least.
        length = min(1.0, 0.95 / max(float(-move.min()), float(-slack_move.min()), 1e-30))
        q, slack = cells.scaled(q * (1 + length * move)), slack * (1 + length * slack_move)
        prices = prices + length * change
        proved = cells.gap(q, prices)
        if proved < gap:
            return Nearest(cells.full(q), proved)
        best = min(best, proved)
    raise Undefined(f"the decomposition has not converged in {MOST_STEPS} steps: {best:.1e} nats are left")


@dataclasses.dataclass(frozen=True, eq=False)
class _Cells:
    """The cells of a table that its margins leave open, and its margins.

    Attributes:
      shape: of the table.
      x, y, k: place of each cell; pair: number of its (x1, x2).
      row, column: which margin each cell counts to; columns after rows.
      margins: rows, then columns.
      free: margins without those that are 0 and one column of each k, which follows from the others.
      start: independence given y, which has every cell and the right margins.
    """

    shape: tuple[int, int, int]
    x: np.ndarray
    y: np.ndarray
    k: np.ndarray
    pair: np.ndarray
    row: np.ndarray
    column: np.ndarray
    margins: np.ndarray
    free: np.ndarray
    start: np.ndarray

    @classmethod
    def of(cls, joint: Table) -> _Cells:
        rows, columns = joint.sum(axis=1), joint.sum(axis=0)
        share = joint.sum(axis=(0, 1))
        start = rows[:, None] * columns[None] / np.where(share > 0, share, 1)
        x, y, k = np.nonzero(start)
        classes = joint.shape[2]
        _, pair = np.unique(x * joint.shape[1] + y, return_inverse=True)
        free = np.concatenate([rows.ravel() > 0, columns.ravel() > 0])
        present = np.flatnonzero(share > 0)
        free[rows.size + columns.argmax(axis=0)[present] * classes + present] = False
        margins = np.concatenate([rows.ravel(), columns.ravel()])
        return cls(
            joint.shape, x, y, k, pair.ravel(), x * classes + k, rows.size + y * classes + k, margins,
            np.flatnonzero(free), start[x, y, k],
        )  # fmt: skip

    def full(self, q: np.ndarray) -> Table:
        found = np.zeros(self.shape)
        found[self.x, self.y, self.k] = q
        return found

    def log_conditional(self, q: np.ndarray) -> np.ndarray:
        """ln q(y|x1,x2), the gradient of f."""
        return np.log(q / np.bincount(self.pair, q)[self.pair])

    def scaled(self, q: np.ndarray) -> np.ndarray:
        """With the margins of the table, by iterative proportional fitting."""
        for _ in range(MOST_SWEEPS):
            wrong = 0.0
            for side in (self.row, self.column):
                ratio = self.margins / np.maximum(np.bincount(side, q, len(self.margins)), 1e-300)
                wrong = max(wrong, float(np.abs(ratio[side] - 1).max()))
                q = q * ratio[side]
            if wrong < MARGINS:
                break
        return q

    def newton(
        self, q: np.ndarray, slack: np.ndarray, prices: np.ndarray, centre: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Steps towards s q = centre, s = ln q(y|x1,x2) - l - m, on the margins: of q and s, relative, and of prices.

        In relative steps u of q the Hessian is diag(q s) + diag(q) - q q^T / q(x1,x2) in each (x1,x2), whose inverse is
        diag(1 / (q (1 + s))) + h h^T / sum q s h,   h = 1 / (1 + s). The gradient is less the prices so far: near the
        end it is small, where without them it would be a difference of large numbers.
        """
        h = 1 / (1 + slack)
        spare = np.bincount(self.pair, q * slack * h)
        gradient = q * (self.log_conditional(q) - prices[self.row] - prices[self.column]) - centre

        def inverse(v: np.ndarray) -> np.ndarray:
            return h * (v / q + (np.bincount(self.pair, h * v) / spare)[self.pair])

        matrix = self._normal(q * h, 1 / spare)
        size = np.sqrt(matrix.diagonal())
        matrix = matrix / size[:, None] / size
        matrix[np.diag_indices_from(matrix)] += RIDGE
        right = self._totals(q * inverse(gradient))[self.free]
        change = np.zeros(len(self.margins))
        change[self.free] = np.linalg.solve(matrix, right / size) / size
        move = inverse(q * (change[self.row] + change[self.column]) - gradient)
        return move, centre / (q * slack) - 1 - move, change

    def gap(self, q: np.ndarray, prices: np.ndarray) -> float:
        """f(q) less the bound that the prices prove, and what margins that are off by rounding are worth at them."""
        prices_of = prices[self.row] + prices[self.column]
        top = np.full(self.pair.max() + 1, -np.inf)
        np.maximum.at(top, self.pair, prices_of)
        sums = top + np.log(np.bincount(self.pair, np.exp(prices_of - top[self.pair])))
        bound = float(self.margins @ prices) - float(sums.max())
        wrong = np.abs(self._totals(q) - self.margins) @ np.abs(prices)
        return float(q @ self.log_conditional(q)) - bound + float(wrong)

    def _totals(self, v: np.ndarray) -> np.ndarray:
        count = len(self.margins)
        return np.bincount(self.row, v, count) + np.bincount(self.column, v, count)

    def _normal(self, diagonal: np.ndarray, over: np.ndarray) -> Float[np.ndarray, "m m"]:
        """A Q H^-1 Q A^T of the free margins: A has two ones a cell."""
        place = np.full(len(self.margins), len(self.free))
        place[self.free] = np.arange(len(self.free))
        size = len(self.free) + 1
        row, column = place[self.row], place[self.column]
        matrix = np.zeros(size * size)
        for one, other in ((row, row), (row, column), (column, row), (column, column)):
            matrix += np.bincount(one * size + other, diagonal, size * size)
        pairs = np.bincount(self.pair * size + row, diagonal, len(over) * size)
        pairs = (pairs + np.bincount(self.pair * size + column, diagonal, len(over) * size)).reshape(-1, size)
        whole = matrix.reshape(size, size) + pairs.T @ (pairs * over[:, None])
        return whole[:-1, :-1]
