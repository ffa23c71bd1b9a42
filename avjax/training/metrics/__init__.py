"""Metrics, one file a task, with bootstrap intervals. NumPy on the host, in float64: predictions are small."""

from __future__ import annotations

from avjax.training.metrics.classification import (
    accuracy,
    average_precision,
    class_measures,
    confusion,
    label_measures,
    macro_f1,
    mean_average_precision,
    unweighted_average_recall,
)
from avjax.training.metrics.estimate import Estimate, Measure, bootstrap, estimates, over_seeds
from avjax.training.metrics.events import (
    average_recall,
    interval_average_precision,
    intervals,
    moment_measures,
    proposals,
    segment_accuracy,
    segment_measures,
    temporal_iou,
)
from avjax.training.metrics.matching import matching_measures
from avjax.training.metrics.regression import (
    concordance,
    correlation,
    mean_absolute_error,
    root_mean_square_error,
    sentiment_measures,
    series_measures,
    value_measures,
)
from avjax.training.metrics.retrieval import identification_accuracy, recall_at
from avjax.training.metrics.transcription import (
    Edits,
    character_errors,
    edits,
    error_rate,
    transcription_measures,
    word_errors,
)
from avjax.training.metrics.verification import d_prime, equal_error_rate, roc_auc

__all__ = [
    "Edits",
    "Estimate",
    "Measure",
    "accuracy",
    "average_precision",
    "average_recall",
    "bootstrap",
    "character_errors",
    "class_measures",
    "concordance",
    "confusion",
    "correlation",
    "d_prime",
    "edits",
    "equal_error_rate",
    "error_rate",
    "estimates",
    "identification_accuracy",
    "interval_average_precision",
    "intervals",
    "label_measures",
    "macro_f1",
    "matching_measures",
    "mean_absolute_error",
    "mean_average_precision",
    "moment_measures",
    "over_seeds",
    "proposals",
    "recall_at",
    "roc_auc",
    "root_mean_square_error",
    "segment_accuracy",
    "segment_measures",
    "sentiment_measures",
    "series_measures",
    "temporal_iou",
    "transcription_measures",
    "unweighted_average_recall",
    "value_measures",
    "word_errors",
]
