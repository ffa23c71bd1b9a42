"""Shapley values of players (tokens, windows, cells or whole modalities): all coalitions, or sampled permutations.

A value function takes coalitions [S, n], True where a player is present, and returns the model's value [S, B] of each
coalition for each of B samples: the logit of a class that stays the same for all coalitions. Which class, and with
what absent players are filled, is decided where the value function is made and belongs to the number's name.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from avjax.diagnostics.contribution.shares import group_sums, magnitude_share, members, share

Coalitions = Bool[np.ndarray, "S n"]
Value = Callable[[Coalitions], Num[np.ndarray, "S B"]]

MOST_PLAYERS = 20


def coalitions(players: int) -> Coalitions:
    """All 2^n coalitions: row r has player j where bit j of r is set. Of (a, v): none, a, v, both."""
    if not 1 <= players <= MOST_PLAYERS:
        raise ValueError(f"all coalitions of {players} players: sample above {MOST_PLAYERS}")
    return (np.arange(2**players)[:, None] >> np.arange(players) & 1).astype(bool)


def shapley(values: Num[np.ndarray, "S *rows"]) -> Float[np.ndarray, "*rows n"]:
    """phi_j = sum_{S without j} |S|! (n - |S| - 1)! / n! (v(S + j) - v(S)) of a table of all coalitions (Shapley 1953).

    In the value's unit, no direction; sum_j phi_j = v(all) - v(none); 0 for a player that changes nothing. Pitfall: an
    interaction is divided equally among its players, so that phi cannot tell it from effects of each alone.

    Args:
      values: in the order of ``coalitions``.
    """
    values, players = np.asarray(values, np.float64), players_of(values)
    kept, index = coalitions(players), np.arange(2**players)
    weight = np.array([1 / (players * math.comb(players - 1, size)) for size in range(players)])
    found = []
    for j in range(players):
        without = index[~kept[:, j]]
        found.append(np.tensordot(weight[kept[without].sum(axis=1)], values[without | 1 << j] - values[without], 1))
    return np.stack(found, axis=-1)


def players_of(values: Num[np.ndarray, "S *rows"]) -> int:
    """n of a table of all 2^n coalitions."""
    players = len(values).bit_length() - 1
    if len(values) != 2**players or not players:
        raise ValueError(f"{len(values)} values are not those of all coalitions")
    return players


def exact(value: Value, players: int) -> Float[np.ndarray, "B n"]:
    """``shapley`` of a value function, with 2^n coalitions."""
    return shapley(value(coalitions(players)))


def marginals(
    value: Value, permutations: Int[np.ndarray, "P m"], players: int
) -> tuple[Float[np.ndarray, "P B m"], float]:
    """v(predecessors of j and j) - v(predecessors of j) in each permutation, and the largest |v| met.

    Over all permutations, or in expectation over random ones, the mean is ``shapley``; in each, the sum over j is
    v(all) - v(none). Players from ``players`` on are dummies: they stand in permutations, and the value function is
    called again where one enters, but does not see them.
    """
    count, longest = permutations.shape
    place = np.argsort(permutations, axis=1)
    # Coalition k of a permutation has its first k players; the first and the last are the same for all.
    within = place[:, None, :] < np.arange(1, longest)[:, None]
    inner = within.reshape(-1, longest)[:, :players]
    ends = np.stack([np.zeros(players, bool), np.ones(players, bool)])
    values = np.asarray(value(np.concatenate([ends, inner])), np.float64)
    samples = values.shape[1]
    walk = np.empty((count, longest + 1, samples))
    walk[:, 0], walk[:, -1] = values[0], values[1]
    walk[:, 1:-1] = values[2:].reshape(count, longest - 1, samples)
    steps = np.diff(walk, axis=1)
    return np.take_along_axis(steps, place[..., None], axis=1).swapaxes(1, 2), float(np.abs(values).max(initial=0))


@dataclasses.dataclass(frozen=True)
class Sampled:
    """Shapley values of sampled permutations, in two halves.

    Attributes:
      first, second: means over the earlier and the later half of the permutations, dummies after the players.
      groups: of the players, one a player, and ``names`` of the groups.
      permutations: how many.
      change: max_m |share(earlier half) - share(all)| of mean shares, which the convergence rule looks at.
      converged: whether that is within the tolerance.
      resolution: sum of |phi| that float32 values of this size may have by rounding.
    """

    first: Float[np.ndarray, "B m"]
    second: Float[np.ndarray, "B m"]
    groups: tuple[str, ...]
    names: tuple[str, ...]
    permutations: int
    change: float
    converged: bool
    resolution: float

    @property
    def values(self) -> Float[np.ndarray, "B n"]:
        """phi of each player."""
        return (self.first + self.second)[:, : len(self.groups)] / 2

    @property
    def error(self) -> Float[np.ndarray, "B n"]:
        """|phi(first) - phi(second)| / 2: standard error of each phi by split halves (one difference each: a rough
        one, to be averaged)."""
        return np.abs(self.first - self.second)[:, : len(self.groups)] / 2

    @property
    def noise(self) -> Float[np.ndarray, "B G"]:
        """Mean ``error`` over each group's players, ours: |phi| that a player without effect has by sampling."""
        member = members(self.groups, self.names)
        return group_sums(self.error, self.groups, self.names) / member.sum(axis=1).clip(1)

    @property
    def floor(self) -> Float[np.ndarray, "B G"]:
        """Mean |phi| of each group's dummies, ours; 0 where there are none.

        Pitfall: permutations give a dummy exactly 0 wherever the value function returns the same for the same
        coalition. The floor is of value functions that draw (fills noise and marginal); ``noise`` is of all.
        """
        extra = (self.first + self.second)[:, len(self.groups) :] / 2
        if not extra.shape[1]:
            return np.zeros((len(extra), len(self.names)))
        return np.abs(extra).reshape(len(extra), len(self.names), -1).mean(axis=2)

    @property
    def share(self) -> Float[np.ndarray, "B G"]:
        """MM-SHAP_m = sum_{j in m} |phi_j| / sum_j |phi_j| (Parcalabescu & Frank, ACL 2023).

        In [0, 1], sums to 1, no direction; null baseline n_m / n, of noise alone. Undefined for a constant model.
        Pitfalls: sampling noise raises the share of the modality with more players, so that they should be as many
        of each; tokens that cancel look important (``net`` belongs beside it); logits, not probabilities.
        """
        return magnitude_share(self.values, self.groups, self.names, resolution=self.resolution)

    @property
    def corrected(self) -> Float[np.ndarray, "B G"]:
        """sum_{j in m} max(|phi_j| - floor of j's group, 0), ours: the dummies' ``floor``, or ``noise`` without any.

        |phi(first) - phi(second)| / 2 and the |phi| of a player without effect have the same mean where both are of
        normal sampling noise of one variance. Pitfall: |phi| well above the noise is hardly raised by it, and loses as
        much.
        """
        dummies = self.first.shape[1] > len(self.groups)
        floor = (self.floor if dummies else self.noise) @ members(self.groups, self.names).astype(np.float64)
        return group_sums(np.maximum(np.abs(self.values) - floor, 0), self.groups, self.names)

    @property
    def corrected_share(self) -> Float[np.ndarray, "B G"]:
        """``share`` of what is ``corrected``; undefined where a sample has nothing above the floor."""
        return share(self.corrected, resolution=self.resolution)

    @property
    def share_error(self) -> Float[np.ndarray, " G"]:
        """|mean share(first) - mean share(second)| / 2: standard error of the mean share by split halves.

        Of permutations only, which all samples have in common; what clips add is the bootstrap's to say.
        """
        one, other = (self._share(half).mean(axis=0) for half in (self.first, self.second))
        return np.abs(one - other) / 2

    @property
    def net(self) -> Float[np.ndarray, "B G"]:
        """sum_{j in m} phi_j: signed effect of each modality; the sum over m is v(all) - v(none)."""
        return group_sums(self.values, self.groups, self.names)

    def _share(self, half: Float[np.ndarray, "B m"]) -> Float[np.ndarray, "B G"]:
        return magnitude_share(half[:, : len(self.groups)], self.groups, self.names, resolution=self.resolution)


def sampled(
    value: Value,
    groups: Sequence[str],
    names: Sequence[str],
    *,
    seed: int,
    permutations: int = 32,
    most: int = 256,
    tolerance: float = 0.02,
    dummies: int = 0,
    deciding: int | None = None,
) -> Sampled:
    """Shapley values from antithetic permutations: each drawn one also in reverse (Mitchell et al. 2022), all of them
    uniform, so that the estimate is unbiased; each costs n - 1 coalitions.

    Starts with ``permutations`` and doubles them until max_m |share(earlier half) - share(all)| of the mean shares is
    below ``tolerance``, or ``most`` is reached (ours). Samples on which nothing has an effect do not count there. Every
    round is unbiased; that the number of rounds depends on what they found is not corrected for.

    Args:
      groups: modality of each player.
      names: modalities, in the order of the results.
      dummies: players of each modality that change nothing, for ``Sampled.floor``.
      deciding: so many first samples say when it is enough; all unless told.
    """
    if permutations < 4 or permutations % 4:
        raise ValueError(f"{permutations} permutations are not two halves of pairs: take a multiple of 4")
    members(groups, names)
    players, random = len(groups), np.random.default_rng(seed)
    total = players + dummies * len(names)
    largest = 0.0

    def mean_of(count: int) -> Float[np.ndarray, "B m"]:
        nonlocal largest
        drawn = random.permuted(np.tile(np.arange(total), (count // 2, 1)), axis=1)
        found, size = marginals(value, np.concatenate([drawn, drawn[:, ::-1]]), players)
        largest = max(largest, size)
        return found.mean(axis=0)

    first, second = mean_of(permutations // 2), mean_of(permutations // 2)
    while True:
        resolution = players * float(np.finfo(np.float32).eps) * largest
        half, whole = (x[:deciding, :players] for x in (first, (first + second) / 2))
        change = _change(half, whole, groups, names, resolution)
        converged = change < tolerance
        if converged or 2 * permutations > most:
            break
        first, second = (first + second) / 2, mean_of(permutations)
        permutations *= 2
    return Sampled(first, second, tuple(groups), tuple(names), permutations, change, converged, resolution)


def _change(half: np.ndarray, whole: np.ndarray, groups: Sequence[str], names: Sequence[str], least: float) -> float:
    there = (np.abs(half).sum(axis=1) > least) & (np.abs(whole).sum(axis=1) > least)
    if not there.any():
        return 0.0
    one, other = (magnitude_share(x[there], groups, names).mean(axis=0) for x in (half, whole))
    return float(np.abs(one - other).max())
