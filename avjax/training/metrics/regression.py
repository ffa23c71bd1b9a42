"""Metrics of values: concordance, correlation, errors; and of sentiment from -3 to 3, by its conventions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Shaped

from avjax.training.metrics.classification import accuracy, confusion
from avjax.training.metrics.estimate import Measure

Values = Float[np.ndarray, " N"]


def concordance(predicted: Values, true: Values) -> float:
    """CCC = 2 cov / (var p + var y + (mean p - mean y)^2) (Lin 1989), variances over N; 0 where both are constant."""
    p, y = _float64(predicted, true)
    spread = p.var() + y.var() + np.square(p.mean() - y.mean()) if len(p) else 0.0
    return float(2 * np.mean((p - p.mean()) * (y - y.mean())) / spread) if spread > 0 else 0.0


def correlation(predicted: Values, true: Values) -> float:
    """Pearson's correlation (PCC); 0 where a side is constant."""
    p, y = _float64(predicted, true)
    if not len(p):
        return 0.0
    p, y = p - p.mean(), y - y.mean()
    spread = np.sqrt(np.sum(p * p)) * np.sqrt(np.sum(y * y))
    return float(np.sum(p * y) / spread) if spread > 0 else 0.0


def root_mean_square_error(predicted: Values, true: Values) -> float:
    """RMSE; 0 of nothing."""
    p, y = _float64(predicted, true)
    return float(np.sqrt(np.square(p - y).mean())) if len(p) else 0.0


def mean_absolute_error(predicted: Values, true: Values) -> float:
    """MAE; 0 of nothing. First Impressions' accuracy is 1 - MAE, of values from 0 to 1."""
    p, y = _float64(predicted, true)
    return float(np.abs(p - y).mean()) if len(p) else 0.0


def value_measures(predicted: Float[np.ndarray, "N D"], true: Float[np.ndarray, "N D"]) -> dict[str, Measure]:
    """ccc, pcc, rmse, mae and one_minus_mae of D values, each its mean over D."""
    p, y = _float64(predicted, true)
    measures: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
        "ccc": concordance,
        "pcc": correlation,
        "rmse": root_mean_square_error,
        "mae": mean_absolute_error,
        "one_minus_mae": lambda p, y: 1 - mean_absolute_error(p, y),
    }

    def over_values(measure: Callable[[np.ndarray, np.ndarray], float]) -> Callable[[np.ndarray], float]:
        return lambda r: float(np.mean([measure(p[r, d], y[r, d]) for d in range(p.shape[1])]))

    return {name: Measure(over_values(measure), len(p)) for name, measure in measures.items()}


def series_measures(
    predicted: Float[np.ndarray, "N T D"],
    true: Float[np.ndarray, "N T D"],
    valid: Bool[np.ndarray, "N T"],
    names: Sequence[str] = (),
) -> dict[str, Measure]:
    """ccc, pcc, rmse and mae over the valid steps of all clips together, resampled by clip.

    Args:
      names: of the D values, for metrics of each by itself, such as ccc_arousal beside ccc, their mean.
    """
    p, y = _float64(predicted, true)
    there = valid[..., None]
    p, y = np.where(there, p, 0), np.where(there, y, 0)
    # About the means, for squares of large numbers lose the digits of a small variance.
    number = np.maximum(there.sum((0, 1)), 1)
    centred = [np.where(there, x - x.sum((0, 1)) / number, 0) for x in (p, y)]
    apart = y.sum((0, 1)) / number - p.sum((0, 1)) / number
    kept = [*centred, centred[0] ** 2, centred[1] ** 2, centred[0] * centred[1], (p - y) ** 2, np.abs(p - y)]
    # Sums of every clip, [7, N, D], which add up to those of any draw.
    sums, steps = np.stack([x.sum(axis=1) for x in kept]), valid.sum(axis=1)
    smallest = [np.square(1e-14 * np.abs(x).max(axis=(0, 1), initial=0)) for x in (p, y)]

    def moments(rows: np.ndarray) -> tuple[np.ndarray, ...]:
        mean_p, mean_y, pp, yy, py, square, error = sums[:, rows].sum(axis=1) / max(steps[rows].sum(), 1)
        # What rounding leaves of the variance of a constant is none.
        spread_p = np.where(pp - mean_p**2 > 1e-13 * pp + smallest[0], pp - mean_p**2, 0)
        spread_y = np.where(yy - mean_y**2 > 1e-13 * yy + smallest[1], yy - mean_y**2, 0)
        return spread_p, spread_y, py - mean_p * mean_y, mean_p - mean_y - apart, square, error

    def ccc(rows: np.ndarray) -> np.ndarray:
        spread_p, spread_y, covariance, bias, _, _ = moments(rows)
        return _ratio(2 * covariance, spread_p + spread_y + bias**2)

    def pcc(rows: np.ndarray) -> np.ndarray:
        spread_p, spread_y, covariance, *_ = moments(rows)
        return _ratio(covariance, np.sqrt(spread_p * spread_y))

    each = {
        "ccc": ccc,
        "pcc": pcc,
        "rmse": lambda rows: np.sqrt(moments(rows)[4]),
        "mae": lambda rows: moments(rows)[5],
    }
    found = {name: Measure(lambda r, m=measure: float(m(r).mean()), len(p)) for name, measure in each.items()}
    for place, value in enumerate(names):
        found |= {
            f"{name}_{value}": Measure(lambda r, m=measure, d=place: float(m(r)[d]), len(p))
            for name, measure in each.items()
        }
    return found


def sentiment_measures(predicted: Values, true: Values) -> dict[str, Measure]:
    """Of sentiment from -3 to 3, as MulT (Tsai et al. 2019) and MMSA count it.

    acc7, acc5: values clipped to 3 and to 2, and rounded half to even, agree. acc2_nonnegative, f1_nonnegative: below
    0 against 0 and above ("has0"). acc2_nonzero, f1_nonzero: below 0 against above, without clips that are truly 0
    ("non0"); a prediction of 0 counts as below. F1 is the mean of both classes' by how often each occurs. mae and corr.
    """
    p, y = _float64(predicted, true)

    def rounded(limit: int) -> Callable[[np.ndarray], float]:
        agree = np.round(np.clip(p, -limit, limit)) == np.round(np.clip(y, -limit, limit))
        return lambda r: float(agree[r].mean()) if len(r) else 0.0

    measures = {
        "mae": lambda r: mean_absolute_error(p[r], y[r]),
        "corr": lambda r: correlation(p[r], y[r]),
        "acc7": rounded(3),
        "acc5": rounded(2),
        "acc2_nonnegative": lambda r: accuracy(_signs(p[r] >= 0, y[r] >= 0)),
        "f1_nonnegative": lambda r: weighted_f1(_signs(p[r] >= 0, y[r] >= 0)),
        "acc2_nonzero": lambda r: accuracy(_signs(p[r] > 0, y[r] > 0, y[r] != 0)),
        "f1_nonzero": lambda r: weighted_f1(_signs(p[r] > 0, y[r] > 0, y[r] != 0)),
    }
    return {name: Measure(measure, len(p)) for name, measure in measures.items()}


def weighted_f1(matrix: Shaped[np.ndarray, "K K"]) -> float:
    """Mean F1 over classes, by how often each occurs."""
    occurs = matrix.sum(axis=1)
    f1 = 2 * np.diag(matrix) / np.maximum(occurs + matrix.sum(axis=0), 1)
    return float((f1 * occurs).sum() / max(occurs.sum(), 1))


def _signs(predicted: np.ndarray, true: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
    rows = slice(None) if counted is None else counted
    return confusion(predicted[rows].astype(np.int64), true[rows].astype(np.int64), 2)


def _float64(*values: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(value, np.float64) for value in values)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """0 where there is nothing to divide by."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
