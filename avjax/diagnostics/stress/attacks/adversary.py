"""Attacks run one after the other on the rows of any number of clips that are still right."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Num, Shaped

from avjax.diagnostics.compiled import compiled
from avjax.diagnostics.stress.attacks.apgd import APGD
from avjax.diagnostics.stress.attacks.fab import FAB
from avjax.diagnostics.stress.attacks.losses import Labels, margin
from avjax.diagnostics.stress.attacks.region import BOX, Box, Model, Region, Values
from avjax.diagnostics.stress.attacks.square import Square

Budget = Mapping[str, Float[np.ndarray, " B"] | float]
"""Modality -> Linf radius, of each row or of all. 0, or no name, leaves the modality bit by bit as it is."""
Raw = Mapping[str, Shaped[np.ndarray, "B ..."]]
Valid = Mapping[str, Bool[np.ndarray, "B _"]]


@runtime_checkable
class Attack(Protocol):
    """Looks for values of a region that the model gets wrong.

    Traceable by JAX, and hashable: what it does is fixed when it is made. Each row follows from its own key. It is to
    be called ``turns`` times, on rows that are still right: restarts, or classes to aim at.
    """

    @property
    def name(self) -> str: ...

    def turns(self, classes: int) -> int: ...

    def __call__(
        self, model: Model, region: Region, label: Labels, keys: Key[Array, " B"], turn: Int[Array, ""]
    ) -> Values: ...


def standard_autoattack(*, steps: int = 100, queries: int = 5000) -> tuple[Attack, ...]:
    """AutoAttack, version standard: APGD-CE, targeted APGD-DLR, targeted FAB, Square (Croce & Hein 2020b)."""
    return APGD("ce", steps), APGD("targeted", steps), FAB(steps), Square(queries)


@dataclasses.dataclass(frozen=True)
class Attacked:
    """What became of each row.

    Attributes:
      values: of the modalities with a budget, the worst found: of lowest margin, and wrong where any was.
      right: whether the row is right on the clean clip and on all that was tried.
      margin: z_y - max of the others, at ``values``.
      predicted: class, at ``values``.
      fell_to: name of the attack that the row fell to; "clean" where it was wrong before, "" where it is right.
    """

    values: Raw
    right: Bool[np.ndarray, " B"]
    margin: Float[np.ndarray, " B"]
    predicted: Int[np.ndarray, " B"]
    fell_to: tuple[str, ...]

    @property
    def accuracy(self) -> float:
        """Share of rows that are right, in [0, 1]."""
        return float(self.right.mean())


@dataclasses.dataclass(frozen=True, eq=False)
class Adversary:
    """Attacks a model.

    Rows that are wrong, or have fallen, or may change nothing, are dropped from further work; those that remain go
    through each attack and each of its turns in batches of one size, so that every attack is compiled once. What is
    random follows from (seed, attack, index of the clip), never from a row's place.

    Attributes:
      model: raw inputs to logits.
      attacks: in order.
      box: modality -> lowest and highest value, of those that may have a budget.
      batch: rows of one call.
    """

    model: Model
    attacks: tuple[Attack, ...]
    box: Box = dataclasses.field(default_factory=lambda: BOX)
    batch: int = 32
    seed: int = 0

    def __call__(
        self, clean: Raw, label: Num[np.ndarray, " B"], budget: Budget, index: Num[np.ndarray, " B"], valid: Valid
    ) -> Attacked:
        """Attacks every row.

        Args:
          clean: inputs of the model; those that have no box are never touched.
          label: class of each row.
          budget: modalities to change, of ``box``.
          index: number of each clip.
          valid: modality -> [B, T]; elsewhere values are never touched. One that is not named is valid everywhere.
        """
        unknown = set(budget) - set(self.box)
        if unknown:
            raise ValueError(f"no box is known for {', '.join(sorted(unknown))}: budgets are of {', '.join(self.box)}")
        # Every modality with a box has a radius, if of 0, so that one program serves every budget.
        radius = {
            name: np.broadcast_to(np.asarray(budget.get(name, 0.0), np.float32), len(label)).copy()
            for name in self.box
            if name in clean
        }
        rows = {"clean": dict(clean), "radius": radius, "valid": dict(valid), "label": np.asarray(label, np.int32)}
        logits = self.logits(clean)
        found = _Rows(
            {name: np.array(clean[name]) for name in radius}, _margin(logits, rows["label"]), logits.argmax(axis=1)
        )
        fell_to = np.where(found.predicted == rows["label"], "", "clean").astype(object)
        moving = np.any([r > 0 for r in radius.values()], axis=0) if radius else np.zeros(len(label), bool)
        for number, attack in enumerate(self.attacks):
            keys = _keys(self.seed, number, index)
            for turn in range(attack.turns(logits.shape[1])):
                still = np.flatnonzero((fell_to == "") & moving)
                if not len(still):
                    break
                chosen = jax.tree.map(lambda x, still=still: np.asarray(x)[still], rows)
                values, margins, predicted = in_batches(
                    functools.partial(self._programs[number], self._partial, np.int32(turn)),
                    (chosen, np.asarray(jax.random.key_data(keys))[still]), self.batch,
                )  # fmt: skip
                fallen = predicted != rows["label"][still]
                worse = (margins < found.margin[still]) | fallen
                found.put(still[worse], *jax.tree.map(lambda x, worse=worse: x[worse], (values, margins, predicted)))
                fell_to[still[fallen]] = attack.name
        return Attacked(found.values, fell_to == "", found.margin, found.predicted, tuple(fell_to))

    def logits(self, values: Raw) -> Float[np.ndarray, "B K"]:
        """Of any number of rows, untouched."""
        return in_batches(functools.partial(_plain(), self._partial), dict(values), self.batch)

    @functools.cached_property
    def _partial(self) -> jax.tree_util.Partial:
        return self.model if isinstance(self.model, jax.tree_util.Partial) else jax.tree_util.Partial(self.model)

    @functools.cached_property
    def _programs(self) -> list[Callable[..., Any]]:
        box = tuple(sorted(self.box.items()))
        return [_program(attack, box) for attack in self.attacks]


@functools.lru_cache(maxsize=64)
def _program(attack: Attack, box: tuple[tuple[str, tuple[float, float]], ...]) -> Callable[..., Any]:
    """One program for all adversaries of a model that attack alike."""
    return compiled(functools.partial(_attempt, attack, dict(box)))


@functools.cache
def _plain() -> Callable[..., Array]:
    """(model, values) to logits: one program for all adversaries of a model."""
    return compiled(lambda model, values: model(values).astype(jnp.float32))


@dataclasses.dataclass
class _Rows:
    values: dict[str, np.ndarray]
    margin: np.ndarray
    predicted: np.ndarray

    def put(self, rows: np.ndarray, values: Raw, margins: np.ndarray, predicted: np.ndarray) -> None:
        for name, x in values.items():
            self.values[name][rows] = x
        self.margin[rows], self.predicted[rows] = margins, predicted


def _attempt(
    attack: Attack, box: Box, model: jax.tree_util.Partial, turn: Array, rows: tuple[Mapping[str, Any], Array]
) -> tuple[Values, Array, Array]:
    given, key_data = rows
    clean, label = given["clean"], given["label"]
    region = Region.of({name: clean[name] for name in given["radius"]}, given["radius"], given["valid"], box)

    def of_region(values: Values) -> Array:
        return model({**clean, **values})

    values = region.project(attack(of_region, region, label, jax.random.wrap_key_data(key_data), turn))
    logits = of_region(values).astype(jnp.float32)
    return values, margin(logits, label), logits.argmax(axis=1)


def in_batches(function: Callable[[Any], Any], rows: Any, size: int) -> Any:
    """A function of a tree of rows [size, ...], for any number of rows; the last batch is filled with repeated ones."""
    count = len(jax.tree.leaves(rows)[0])
    parts = []
    for begin in range(0, count, size):
        places = np.arange(begin, min(begin + size, count))
        full = np.resize(places, size)
        found = function(jax.tree.map(lambda x, full=full: np.asarray(x)[full], rows))
        parts.append(jax.tree.map(lambda x, kept=len(places): np.asarray(x)[:kept], found))
    return jax.tree.map(lambda *of: np.concatenate(of), *parts)


def _keys(seed: int, number: int, index: Sequence[int] | np.ndarray) -> Key[Array, " B"]:
    key = jax.random.fold_in(jax.random.key(seed), number)
    return jax.vmap(lambda place: jax.random.fold_in(key, place))(jnp.asarray(index, jnp.uint32))


def _margin(logits: np.ndarray, label: np.ndarray) -> np.ndarray:
    return np.array(margin(jnp.asarray(logits), jnp.asarray(label)))
