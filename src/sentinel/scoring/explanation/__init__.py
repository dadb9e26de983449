"""Why a score is what it is: exact contributions, checked against it, and words for them."""

from __future__ import annotations

from sentinel.scoring.explanation.explainer import (
    Absence,
    Explainer,
    Explanation,
    Method,
    ScoredRows,
    is_additive,
)
from sentinel.scoring.explanation.linear import LinearExplainer
from sentinel.scoring.explanation.reasons import Direction, ReasonWords
from sentinel.scoring.explanation.sampled import SampledExplainer
from sentinel.scoring.explanation.trees import ExplainedTrees, TreeExplainer

__all__ = [
    "Absence",
    "Direction",
    "ExplainedTrees",
    "Explainer",
    "Explanation",
    "LinearExplainer",
    "Method",
    "ReasonWords",
    "SampledExplainer",
    "ScoredRows",
    "TreeExplainer",
    "is_additive",
]
