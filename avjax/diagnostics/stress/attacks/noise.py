"""Random noise within a budget: what an attack must beat."""

from __future__ import annotations

import dataclasses

from jaxtyping import Array, Int, Key

from avjax.diagnostics.stress.attacks.losses import Labels
from avjax.diagnostics.stress.attacks.region import Model, Region, Values, folded


@dataclasses.dataclass(frozen=True)
class Noise:
    """x + radius U(-1, 1), drawn anew for every turn; asks the model nothing.

    An attack that finds less than as many draws of noise within the same radius follows gradients that mislead
    (Carlini et al. 2019).

    Attributes:
      draws: a row's worst of so many is kept.
    """

    draws: int = 1

    @property
    def name(self) -> str:
        return f"noise, {self.draws} draws" if self.draws > 1 else "noise"

    def turns(self, classes: int) -> int:
        return self.draws

    def __call__(
        self, model: Model, region: Region, label: Labels, keys: Key[Array, " B"], turn: Int[Array, ""]
    ) -> Values:
        return region.random(folded(keys, turn))
