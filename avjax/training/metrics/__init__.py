"""Metrics, one file a task, with bootstrap intervals. NumPy on the host, in float64: predictions are small."""

from __future__ import annotations

from avjax.training.metrics.classification import (
    accuracy,
    average_precision,
    classification_metrics,
    confusion,
    macro_f1,
    mean_average_precision,
    unweighted_average_recall,
)
from avjax.training.metrics.estimate import Estimate, bootstrap, over_seeds
from avjax.training.metrics.events import (
    average_recall,
    interval_average_precision,
    intervals,
    segment_accuracy,
    temporal_iou,
)
from avjax.training.metrics.regression import (
    concordance,
    correlation,
    mean_absolute_error,
    regression_metrics,
    root_mean_square_error,
    sentiment_metrics,
)
from avjax.training.metrics.retrieval import identification_accuracy, recall_at
from avjax.training.metrics.transcription import (
    Edits,
    character_errors,
    edits,
    error_rate,
    transcription_metrics,
    word_errors,
)
from avjax.training.metrics.verification import d_prime, equal_error_rate, roc_auc, verification_metrics

__all__ = [
    "Edits",
    "Estimate",
    "accuracy",
    "average_precision",
    "average_recall",
    "bootstrap",
    "character_errors",
    "classification_metrics",
    "concordance",
    "confusion",
    "correlation",
    "d_prime",
    "edits",
    "equal_error_rate",
    "error_rate",
    "identification_accuracy",
    "interval_average_precision",
    "intervals",
    "macro_f1",
    "mean_absolute_error",
    "mean_average_precision",
    "over_seeds",
    "recall_at",
    "regression_metrics",
    "roc_auc",
    "root_mean_square_error",
    "segment_accuracy",
    "sentiment_metrics",
    "temporal_iou",
    "transcription_metrics",
    "unweighted_average_recall",
    "verification_metrics",
    "word_errors",
]
