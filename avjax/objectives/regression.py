"""Losses on values: concordance correlation, absolute and squared error, of clips or of every step of a sequence."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from avjax.nn.convolution import masked
from avjax.objectives.rows import VALID, batch_mean, labelled, require_steps, rows_mean, steps_of, weight_of
from avjax.streams import Batch, Mean, Output


@dataclasses.dataclass(frozen=True)
class Regression:
    """Error of the values of every head, mean over heads, with a term for each modality's own prediction.

        L = mean over heads of  L(head) + per_modality * sum_m L(head/m)

    Targets and predictions are [B, D]; of a series [B, T, D], at the steps that both ``rows.steps_of`` and
    ``target["HEAD/valid"]`` [B, T], where the batch has it, let count. A target [B, T] is one of D = 1.
    The sum over modalities with weight 0.5 is ours; a modality that a row lacks does not count.

    Attributes:
      kind: ccc for 1 - concordance correlation over the batch (all rows and steps together, mean over D); l1 and l2
        for absolute and squared error, mean over D and the steps of a row, then over rows.
      task: values of clips; sentiment, one value from -3 to 3 with metrics of its own; a series of values over time.
      per_modality: weight of the terms of the modalities, where the model predicts from each alone.
    """

    kind: Literal["ccc", "l1", "l2"] = "ccc"
    task: Literal["values", "sentiment", "series"] = "values"
    per_modality: float = 0.5

    def __call__(self, output: Output, batch: Batch) -> tuple[Float[Array, ""], dict[str, Mean]]:
        """The loss and its parts by name; ``ccc`` is a number of the whole batch, the errors are means over rows."""
        parts = {}
        for name, (prediction, valid) in self._steps(output).items():
            head = name.partition("/")[0]
            target = jnp.asarray(batch.target.get(name, batch.target[head]))
            if self.task == "series":
                target = target[..., None] if target.ndim == 2 else target
                require_steps(name, prediction.shape[1], target.shape[1])
                valid = labelled(valid, head, batch)
            elif target.ndim == 2:
                target = target[:, None]
            else:
                raise ValueError(f"the target of {name!r} is of every step: set --objective.task series")
            parts[name] = self._part(prediction, target, valid, weight_of(name, output, jnp.asarray(batch.weight)))
        heads = [name for name in parts if "/" not in name]
        losses = [
            parts[head].value + self.per_modality * sum(parts[m].value for m in parts if m.startswith(f"{head}/"))
            for head in heads
        ]
        return sum(losses) / len(heads), {f"loss/{name}": part for name, part in parts.items()}

    def predictions(self, output: Output) -> dict[str, Float[Array, "B ..."]]:
        """The values themselves; of a series with ``head/valid``."""
        if self.task != "series":
            return dict(output.logits)
        found = self._steps(output)
        valid = {f"{name}/{VALID}": valid for name, (_, valid) in found.items() if "/" not in name}
        return {name: values for name, (values, _) in found.items()} | valid

    def _steps(self, output: Output) -> dict[str, tuple[Float[Array, "B T K"], Bool[Array, "B T"]]]:
        """Name -> values and which count; a clip is a single step."""
        if self.task == "series":
            steps = {name: steps_of(name, output) for name in {**output.logits, **output.aux.get("segments", {})}}
            steps = {name: found for name, found in steps.items() if found is not None}
            if not steps:
                raise ValueError("the model gives no values of steps, neither as logits nor as aux['segments']")
            return steps
        return {name: (x[:, None], jnp.ones((len(x), 1), bool)) for name, x in output.logits.items()}

    def _part(
        self,
        prediction: Float[Array, "B T K"],
        target: Float[Array, "B T K"],
        valid: Bool[Array, "B T"],
        weight: Float[Array, " B"],
    ) -> Mean:
        steps = valid & (weight > 0)[:, None]
        prediction, target = masked(prediction, steps), masked(target, steps)
        if self.kind == "ccc":
            agreement = concordance(prediction, target, steps * weight[:, None])
            return batch_mean(1 - agreement.mean(), weight * steps.any(axis=1))
        error = jnp.abs(prediction - target) if self.kind == "l1" else jnp.square(prediction - target)
        row = error.mean(axis=-1).sum(axis=1) / jnp.maximum(steps.sum(axis=1), 1)
        return rows_mean(row, weight * steps.any(axis=1))


def concordance(
    prediction: Float[Array, "... K"], target: Float[Array, "... K"], weight: Float[Array, "..."]
) -> Float[Array, " K"]:
    """Concordance correlation of each of K values (Lin 1989), over all else by weight.

        CCC = 2 cov(p, y) / (var p + var y + (mean p - mean y)^2)

    1 where both agree everywhere, 0 where a side is constant, and 0 where nothing has weight. Values of weight 0 are
    not read. Denominators below 1e-8 are taken to be that.
    """
    weight = weight.reshape(-1, 1)
    prediction = masked(prediction.reshape(weight.shape[0], -1), weight[:, 0] > 0)
    target = masked(target.reshape(weight.shape[0], -1), weight[:, 0] > 0)
    share = weight / jnp.maximum(weight.sum(), 1e-8)
    means = (prediction * share).sum(axis=0), (target * share).sum(axis=0)
    # Deviations, not moments: E[x^2] - E[x]^2 loses all digits of a small variance about a large mean.
    p, y = prediction - means[0], target - means[1]
    covariance = (p * y * share).sum(axis=0)
    spread = ((jnp.square(p) + jnp.square(y)) * share).sum(axis=0) + jnp.square(means[0] - means[1])
    return 2 * covariance / jnp.maximum(spread, 1e-8)
