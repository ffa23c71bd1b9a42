"""Metrics of values: concordance, correlation, errors; and of sentiment from -3 to 3, by its conventions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Shaped

from avjax.training.metrics.classification import accuracy, confusion
from avjax.training.metrics.estimate import Estimate, bootstrap

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


def regression_metrics(
    predicted: Float[np.ndarray, "N D"], true: Float[np.ndarray, "N D"], *, samples: int = 1000
) -> dict[str, Estimate]:
    """What a table of results shows of D values: ccc, pcc, rmse, mae and one_minus_mae, each its mean over D."""
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

    return {name: bootstrap(over_values(measure), len(p), samples=samples) for name, measure in measures.items()}


def sentiment_metrics(predicted: Values, true: Values, *, samples: int = 1000) -> dict[str, Estimate]:
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
        "acc7": rounded(3),
        "acc5": rounded(2),
        "acc2_nonnegative": lambda r: accuracy(_signs(p[r] >= 0, y[r] >= 0)),
        "f1_nonnegative": lambda r: weighted_f1(_signs(p[r] >= 0, y[r] >= 0)),
        "acc2_nonzero": lambda r: accuracy(_signs(p[r] > 0, y[r] > 0, y[r] != 0)),
        "f1_nonzero": lambda r: weighted_f1(_signs(p[r] > 0, y[r] > 0, y[r] != 0)),
        "mae": lambda r: mean_absolute_error(p[r], y[r]),
        "corr": lambda r: correlation(p[r], y[r]),
    }
    return {name: bootstrap(measure, len(p), samples=samples) for name, measure in measures.items()}


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
