"""Robust accuracy over the radii of two modalities, what a joint attack adds, and whether the numbers hold together."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from avjax.diagnostics.definitions import line
from avjax.diagnostics.measured import SAMPLES, Condition, Measured, Undefined
from avjax.diagnostics.stress.attacks.adversary import Attacked, Budget

Attempt = Callable[[Budget], Attacked]
"""Attacks the same rows within a budget."""
Level = Float[np.ndarray, " B"] | float
"""A radius of all rows, or of each."""
Rows = Int[np.ndarray, " R"]


@dataclasses.dataclass(frozen=True)
class Frontier:
    """Which rows withstood each pair of radii, attacked anew at each.

    Attributes:
      modalities: the two.
      right: [L, M, B] at level l of the first and m of the second; level 0 is no change.
    """

    modalities: tuple[str, str]
    right: Bool[np.ndarray, "L M B"]

    def accuracy(self, rows: Rows | None = None) -> Float[np.ndarray, "L M"]:
        """acc(eps_1, eps_2): share of the rows that are right, in [0, 1], higher is better; an upper bound."""
        right = self.right if rows is None else self.right[..., rows]
        if not right.shape[-1]:
            raise Undefined("no rows to attack")
        return right.mean(axis=-1, dtype=np.float64)

    def synergy(self, rows: Rows | None = None) -> Float[np.ndarray, "L M"]:
        """acc(eps_1, 0) + acc(0, eps_2) - acc(0, 0) - acc(eps_1, eps_2), in [-1, 1]. Ours.

        The fall under both less the sum of the falls under each: above 0 where a joint attack does more than its
        parts add up to, below where they break the same rows. 0 where either radius is 0. Pitfall: where one alone
        breaks every row it is 0 or less, whatever the model.
        """
        accuracy = self.accuracy(rows)
        return accuracy[:, :1] + accuracy[:1] - accuracy[:1, :1] - accuracy


def frontier(attempt: Attempt, levels: Mapping[str, Sequence[Level]]) -> Frontier:
    """Attacks at every pair of levels.

    Args:
      levels: the two modalities, in order -> radii, rising, the first 0.
    """
    one, other = levels
    if any(np.any(levels[name][0]) for name in levels):
        raise ValueError("the first level of each modality is 0: no change")
    right = [[attempt({one: a, other: b}).right for b in levels[other]] for a in levels[one]]
    return Frontier((one, other), np.array(right))


@dataclasses.dataclass(frozen=True, eq=False)
class Once:
    """Attacks the same rows, no budget twice.

    Attributes:
      attempt: the attack.
    """

    attempt: Attempt
    _known: dict[tuple, Attacked] = dataclasses.field(default_factory=dict)

    def __call__(self, budget: Budget) -> Attacked:
        some = {name: np.asarray(radius, np.float32) for name, radius in budget.items() if np.any(radius)}
        key = tuple(sorted((name, radius.tobytes()) for name, radius in some.items()))
        if key not in self._known:
            self._known[key] = self.attempt(budget)
        return self._known[key]


def fields_of(budget: Mapping[str, str], *, attack: str, seed: int) -> dict[str, Any]:
    """What a line of the report says of an attack: its name, which modalities it changes, and how far.

    Args:
      budget: modality -> what its radius is called, such as "20 dB" or "4/255"; in the model's order.
    """
    words = ", ".join(f"{modality} {radius}" for modality, radius in budget.items())
    return {
        "estimator": attack, "target": "label", "group": "+".join(budget), "condition": Condition(words, seed=seed),
    }  # fmt: skip


def lines(
    found: Frontier, names: Mapping[str, Sequence[str]], source: Sequence[str], *, attack: str, seed: int,
    samples: int = SAMPLES,
) -> list[Measured]:  # fmt: skip
    """Accuracy at every pair of levels but that of no change, and synergy where both are above 0.

    Args:
      names: modality -> what each level is called, the first of no change.
      source: source video of each row.
      samples: of the intervals.
    """
    clusters, made = np.asarray(source), []
    one, other = found.modalities
    for (i, a), (j, b) in itertools.product(enumerate(names[one]), enumerate(names[other])):
        budget = {name: text for name, text, level in ((one, a, i), (other, b, j)) if level}
        if not budget:
            continue
        common = {"samples": samples, **fields_of(budget, attack=attack, seed=seed)}
        ids = {"stress/adversarial_accuracy": found.accuracy} | (
            {"stress/attack_synergy": found.synergy} if i and j else {}
        )
        made += [line(id, functools.partial(_at, of, i, j), clusters, **common) for id, of in ids.items()]
    return made


def _at(of: Callable[[Rows], Float[np.ndarray, "L M"]], i: int, j: int, rows: Rows) -> float:
    return float(of(rows)[i, j])


@dataclasses.dataclass(frozen=True)
class Matched:
    """Rows that withstood one radius alone, the other alone, and half of both (Tian & Xu 2021, after whose settings).

    With their radii equal, a model that uses both modalities well is hurt least by half of both.
    """

    first: Bool[np.ndarray, " B"]
    second: Bool[np.ndarray, " B"]
    halves: Bool[np.ndarray, " B"]

    def advantage(self, rows: Rows | None = None) -> float:
        """min(acc(eps_1, 0), acc(0, eps_2)) - acc(eps_1 / 2, eps_2 / 2): how much more the spread budget breaks."""
        chosen = slice(None) if rows is None else rows
        alone = min(self.first[chosen].mean(), self.second[chosen].mean())
        return float(alone - self.halves[chosen].mean())


def matched(attempt: Attempt, radii: Mapping[str, Level]) -> Matched:
    """Attacks with the whole radius of either modality, and with half of both.

    Args:
      radii: the two modalities -> radius.
    """
    one, other = radii
    half = {name: radius / 2 for name, radius in radii.items()}
    return Matched(
        attempt({one: radii[one]}).right,
        attempt({other: radii[other]}).right,
        attempt(half).right,
    )


@dataclasses.dataclass(frozen=True)
class Guard:
    """Something that must hold of attacks that are what they are called.

    Attributes:
      name: of what must hold.
      holds: whether it does.
      excess: by how much it is broken at worst, a share of rows; 0 where it holds exactly.
      meaning: what to think where it does not hold.
    """

    name: str
    holds: bool
    excess: float
    meaning: str


def clean_guard(found: Frontier, clean: Bool[np.ndarray, " B"]) -> Guard:
    """acc(0, 0) is the clean accuracy, row by row."""
    changed = float((found.right[0, 0] != clean).mean())
    return Guard(
        "no budget gives the clean predictions", changed == 0, changed,
        "values change where they must not, or the model is random: no number here can be believed",
    )  # fmt: skip


def radius_guard(found: Frontier, tolerance: float = 0.0) -> Guard:
    """acc(eps_1, eps_2) does not rise with either radius: a wider region holds the narrower."""
    accuracy = found.accuracy()
    rise = max([0.0, *np.diff(accuracy, axis=0).ravel().tolist(), *np.diff(accuracy, axis=1).ravel().tolist()])
    return Guard(
        "accuracy does not rise with the radius", rise <= tolerance, rise,
        "the attack is too weak: more steps, or more restarts",
    )  # fmt: skip


def steps_guard(right: Sequence[Bool[np.ndarray, " B"]], tolerance: float = 0.0) -> Guard:
    """Accuracy does not rise with the number of steps.

    Args:
      right: rows that withstood, by rising number of steps.
    """
    rise = max([0.0, *(float(more.mean()) - float(fewer.mean()) for fewer, more in itertools.pairwise(right))])
    return Guard(
        "accuracy does not rise with steps", rise <= tolerance, rise,
        "the attack does not converge: a smaller step, or gradients that mislead",
    )  # fmt: skip


def unbounded_guard(right: Bool[np.ndarray, " B"], tolerance: float = 0.0) -> Guard:
    """An attack that may change everything breaks every row (Carlini et al. 2019).

    Args:
      right: rows that withstood a radius as wide as the box; without those of which nothing is there to change.
    """
    left = float(right.mean()) if len(right) else 0.0
    return Guard(
        "no row withstands a radius without bound", left <= tolerance, left,
        "the attack does not follow the model: gradients that vanish or mislead, or predictions that do not depend on"
        " what it changes",
    )  # fmt: skip


def masking_guard(
    white: Bool[np.ndarray, " B"], other: Bool[np.ndarray, " B"], tolerance: float = 0.0, name: str = "Square"
) -> Guard:
    """An attack that sees gradients breaks no less than one that does not (Athalye et al. 2018; Carlini et al. 2019).

    Args:
      white: rows that withstood the attack by gradients, by itself.
      other: rows that withstood Square, by itself, random noise, or values that were made on another model (transfer).
      name: of the other.
    """
    excess = max(0.0, float(white.mean()) - float(other.mean()))
    return Guard(
        f"gradients break no less than {name}", excess <= tolerance, excess,
        "gradient masking: the model hides its gradients, and accuracies under attacks by gradient say too much",
    )  # fmt: skip
