"""Imbalance of modalities over a training, from what the run has written down.

A run's metrics.jsonl has, at every step that it tells of, the loss of each modality's own logits ("train/loss/HEAD/M"),
and under a rule that weighs modalities the mean probability of the true class ("train/rule/confidence/M"), which is
s_m itself. From losses exp(-loss) is taken, the geometric mean of that probability where s_m is the arithmetic one: two
estimators, and two numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Num

from avjax.diagnostics.measured import Undefined
from avjax.objectives.balance import discrepancy

MOMENTUM = 0.99
MOST = math.log10(3)
ALARM = 0.1

Line = Mapping[str, Any]


class Scores(NamedTuple):
    """s_m at the steps that a run tells of.

    Attributes:
      steps: rising.
      values: modality -> s_m.
      estimator: "confidence" or "loss".
    """

    steps: Int[np.ndarray, " K"]
    values: dict[str, Float[np.ndarray, " K"]]
    estimator: str


def scores(lines: Sequence[Line], head: str) -> Scores:
    """From the lines of metrics.jsonl; Undefined where they tell of fewer than two modalities."""
    for estimator, prefix in (("confidence", "train/rule/confidence/"), ("loss", f"train/loss/{head}/")):
        names = sorted({key.removeprefix(prefix) for line in lines for key in line if key.startswith(prefix)})
        if len(names) < 2:
            continue
        told = [line for line in lines if all(line.get(prefix + name) is not None for name in names)]
        values = {name: np.array([line[prefix + name] for line in told], np.float64) for name in names}
        if estimator == "loss":
            values = {name: np.exp(-loss) for name, loss in values.items()}
        return Scores(np.array([line["step"] for line in told], np.int64), values, estimator)
    raise Undefined(f"the run does not tell what each modality says of {head!r} alone while it trains")


def log_ratios(scores: Mapping[str, Num[np.ndarray, " K"]]) -> dict[str, Float[np.ndarray, " K"]]:
    """log10 rho_m, rho_m = s_m / mean of the others' s: ``objectives.balance.discrepancy`` at every step.

    Unbounded, no direction, 0 where modalities are equal. Undefined where a score is not positive. Of norms of
    gradients by modality it is the ratio of the norms.
    """
    for name, values in scores.items():
        if not (np.asarray(values) > 0).all():
            raise Undefined(f"{name} has a score that is not positive, which has no logarithm")
    ratio = jax.vmap(discrepancy)({name: jnp.asarray(values, jnp.float32) for name, values in scores.items()})
    return {name: np.log10(np.asarray(rho, np.float64)) for name, rho in ratio.items()}


def smoothed(values: Num[np.ndarray, " K"], *, momentum: float = MOMENTUM) -> Float[np.ndarray, " K"]:
    """Exponential moving average, m_k = momentum m_{k-1} + (1 - momentum) x_k, over 1 - momentum^k.

    The divisor makes it a mean of what has been seen, so that the first values do not pull it to 0.
    """
    mean, found = 0.0, np.empty(len(values))
    for place, value in enumerate(values):
        mean = momentum * mean + (1 - momentum) * float(value)
        found[place] = mean / (1 - momentum ** (place + 1))
    return found


def imbalanced(log_ratio: Num[np.ndarray, " K"], steps: Int[np.ndarray, " K"], *, most: float = MOST) -> float:
    """Share of a training in which |log10 rho| is above log10 3, ours; in [0, 1], lower is better, alarm from 0.1.

    Every told step stands for those since the one before, the first for those from the start. Pitfall: one modality
    may deserve more than another.

    Args:
      log_ratio: ``smoothed`` ``log_ratios``.
    """
    if not len(steps):
        raise Undefined("the run tells of no step")
    since = np.diff(steps, prepend=0)
    if (since <= 0).any():
        raise ValueError("steps rise from 1 on")
    return float(since[np.abs(log_ratio) > most].sum() / since.sum())
