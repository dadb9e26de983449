"""Fitting models: splits that know the label delay, linear models, boosted trees, evaluation."""

from __future__ import annotations

from sentinel.training.evaluation import (
    Evaluation,
    EvaluationSettings,
    Judged,
    Metric,
    evaluate,
    evaluate_slices,
    recall_by_slice,
)
from sentinel.training.fitting import Fitted, fit
from sentinel.training.history import History, default_split, read_history
from sentinel.training.labels import Labels, Verdicts, join_labels
from sentinel.training.settings import ModelSettings
from sentinel.training.split import Parts, TimeSplit, known_compromised
from sentinel.training.train import train

__all__ = [
    "Evaluation",
    "EvaluationSettings",
    "Fitted",
    "History",
    "Judged",
    "Labels",
    "Metric",
    "ModelSettings",
    "Parts",
    "TimeSplit",
    "Verdicts",
    "default_split",
    "evaluate",
    "evaluate_slices",
    "fit",
    "join_labels",
    "known_compromised",
    "read_history",
    "recall_by_slice",
    "train",
]
