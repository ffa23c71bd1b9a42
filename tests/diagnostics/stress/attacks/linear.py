"""A linear model of two modalities, of which every minimal perturbation is known."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

SHAPES = {"audio": (7,), "video": (2, 3, 3, 2)}
# Radii of one budget, in which distances are told.
UNIT = {"audio": 0.02, "video": 0.01}


@dataclasses.dataclass(frozen=True)
class Linear:
    """z = sum_m W_m x_m + b of clips within their boxes, at least 0.25 from the ends."""

    weight: dict[str, np.ndarray]
    bias: np.ndarray
    clean: dict[str, np.ndarray]
    label: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, rows: int = 5, classes: int = 4) -> Linear:
        """Clips with their own predictions as labels, of margins that are no matter of rounding."""
        weight = {name: rng.normal(size=(classes, *shape)).astype(np.float32) for name, shape in SHAPES.items()}
        clean = {
            "audio": rng.uniform(-0.75, 0.75, (50 * rows, *SHAPES["audio"])).astype(np.float32),
            "video": rng.uniform(0.25, 0.75, (50 * rows, *SHAPES["video"])).astype(np.float32),
        }
        found = cls(weight, np.zeros(classes, np.float32), clean, np.zeros(50 * rows, int))
        # Every class is as likely as any.
        found = dataclasses.replace(found, bias=-found.logits().mean(axis=0).astype(np.float32))
        ordered = np.sort(found.logits(), axis=1)
        # Within reach of 10 units, so that the box never limits.
        near = found.logits().argmax(axis=1)
        distance = dataclasses.replace(found, label=near).distance()
        chosen = np.flatnonzero((ordered[:, -1] - ordered[:, -2] > 0.05) & (distance < 10))[:rows]
        assert len(chosen) == rows
        return dataclasses.replace(
            found, clean={name: x[chosen] for name, x in clean.items()}, label=near[chosen].astype(np.int32)
        )

    def logits(self) -> np.ndarray:
        """[B, K] of the clean clips, in float64."""
        parts = [_flat(self.clean[name]) @ _flat(w).T for name, w in self.weight.items()]
        return sum(parts) + self.bias

    def distance(self, unit: dict[str, float] = UNIT) -> np.ndarray:
        """[B] smallest radius, in units, that a mistake needs: min_t (z_y - z_t) / sum_m unit_m ||w_t - w_y||_1."""
        z, found = self.logits(), []
        for row, y in enumerate(self.label):
            each = []
            for t in range(z.shape[1]):
                if t != y:
                    spread = sum(unit.get(m, 0.0) * np.abs(w[t] - w[y]).sum() for m, w in self.weight.items())
                    each.append((z[row, y] - z[row, t]) / spread)
            found.append(min(each))
        return np.array(found)

    @property
    def model(self) -> jax.tree_util.Partial:
        return jax.tree_util.Partial(_logits, jax.tree.map(jnp.asarray, self.weight), jnp.asarray(self.bias))

    def budget(self, units: np.ndarray | float, unit: dict[str, float] = UNIT) -> dict[str, np.ndarray]:
        rows = np.broadcast_to(units, len(self.label))
        return {name: (size * rows).astype(np.float32) for name, size in unit.items()}


def _flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1).astype(np.float64)


def _logits(weight, bias, values):
    # Values that are not there may be anything.
    parts = [
        jnp.einsum("kn,bn->bk", w.reshape(len(w), -1), jnp.nan_to_num(values[name]).reshape(len(values[name]), -1))
        for name, w in weight.items()
    ]
    return sum(parts) + bias
