"""Classification losses."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from avjax.objectives.rows import rows_mean, weight_of
from avjax.streams import Batch, Mean, Output


@dataclasses.dataclass(frozen=True)
class Classification:
    """Cross-entropy over every head of the model.

        fused logits:       CE(logits, y) + auxiliary mean_m CE(logits_m, y_m)
        mean of decisions:  mean_m CE(logits_m, y_m)

    Where a head's logits are the mean of those of each modality (``head/modality``; ``Output.fused`` is False), the
    loss is the mean of the modalities' losses (Nagrani et al. 2021, section 3.3). Each is against its own target if
    mixup made one, and a modality that a row lacks does not count.

    Attributes:
      kind: softmax for one class a clip, sigmoid for several.
      label_smoothing: moves this much of a target to the uniform distribution (softmax) or to 1/2 (sigmoid).
      per_modality: False takes the loss of the head's logits even where they are a mean, and no other.
      auxiliary: weight of the modalities' own losses beside that of fused logits.
    """

    kind: Literal["softmax", "sigmoid"] = "softmax"
    label_smoothing: float = 0.0
    per_modality: bool = True
    auxiliary: float = 1.0

    def __call__(self, output: Output, batch: Batch) -> tuple[Float[Array, ""], dict[str, Mean]]:
        """The loss and its parts by name: means over rows by their weight, a modality's over the rows that have it."""
        rows, weights = self._by_name(output, batch)
        loss = rows_mean(self._together(output, rows, weights), batch.weight)
        return loss.value, {f"loss/{name}": rows_mean(rows[name], weights[name]) for name in rows}

    def of_rows(self, output: Output, batch: Batch) -> Float[Array, " B"]:
        """The loss of each row, of which the loss is the mean."""
        return self._together(output, *self._by_name(output, batch))

    @property
    def task(self) -> str:
        """One class a clip, or any number of them."""
        return "classes" if self.kind == "softmax" else "labels"

    def predictions(self, output: Output) -> dict[str, Float[Array, "B K"]]:
        """The probability of each class, by every head."""
        of = jax.nn.softmax if self.kind == "softmax" else jax.nn.sigmoid
        return {name: of(logits) for name, logits in output.logits.items()}

    def _by_name(self, output: Output, batch: Batch) -> tuple[dict[str, Array], dict[str, Array]]:
        """Losses [B] and weights [B] of every head and of every modality's own."""
        rows, weights = {}, {}
        for name, logits in output.logits.items():
            head = name.partition("/")[0]
            rows[name] = self._rows(logits, batch.target.get(name, batch.target[head]))
            weights[name] = weight_of(name, output, batch.weight)
        return rows, weights

    def _together(self, output: Output, rows: dict[str, Array], weights: dict[str, Array]) -> Float[Array, " B"]:
        losses = []
        for head in (name for name in output.logits if "/" not in name):
            own = [name for name in output.logits if name.startswith(f"{head}/")]
            if not (self.per_modality and own):
                losses.append(rows[head])
                continue
            there = jnp.stack([weights[name] > 0 for name in own])
            each = jnp.stack([rows[name] for name in own])
            mean = (each * there).sum(axis=0) / jnp.maximum(there.sum(axis=0), 1)
            losses.append(rows[head] + self.auxiliary * mean if output.fused else mean)
        return sum(losses) / len(losses)

    def _rows(self, logits: Float[Array, "B K"], target: Float[Array, "B K"]) -> Float[Array, " B"]:
        smooth = self.label_smoothing
        if self.kind == "softmax":
            # A mixed or filler target that does not sum to one would scale the smoothing with it: keep its mass.
            target = (1 - smooth) * target + smooth * target.sum(axis=-1, keepdims=True) / target.shape[-1]
            return optax.losses.softmax_cross_entropy(logits, target)
        # Summed over classes, as in MBT's release.
        return optax.losses.sigmoid_binary_cross_entropy(logits, (1 - smooth) * target + smooth / 2).sum(axis=-1)
