"""From a loaded release to what explains its decisions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.release.champion import Linear, TreeEnsemble
from sentinel.release.explanation_data import FILE_NAME, ExplanationData
from sentinel.release.load import LoadedRelease
from sentinel.release.model_parts import read_linear, read_trees
from sentinel.scoring import Outcome, ServedBy
from sentinel.scoring.explanation import (
    Absence,
    ExplainedTrees,
    Explainer,
    Explanation,
    LinearExplainer,
    SampledExplainer,
    ScoredRows,
    TreeExplainer,
)
from sentinel.scoring.fallback import LinearFallback
from sentinel.scoring.session import ModelSession


def open_explainer(loaded: LoadedRelease) -> Explainer:
    """Make what explains the decisions of a release.

    A release that carries no data for its champion (it was built before there were explanations)
    still explains its fallback; its champion's decisions have none, and say so.

    Raises
    ------
    SentinelError
        ``explanation-invalid`` for data that do not fit the model.
    """
    features = loaded.parts.plan.features
    return Explainer(features, champion=_champion(loaded), fallback=loaded.parts.fallback)


def explain_row(
    loaded: LoadedRelease,
    values: npt.NDArray[np.float32],
    *,
    status: npt.NDArray[np.uint8],
    score: float,
    outcome: Outcome,
    served_by: ServedBy = ServedBy.CHAMPION,
) -> Explanation | Absence:
    """Explain one decision; for many, open the explainer once.

    Parameters
    ----------
    loaded : LoadedRelease
    values : ndarray of float32, shape (n_features,)
        The vector that was scored.
    status : ndarray of uint8, shape (n_features,)
    score : float
        As it was served.
    outcome : Outcome
    served_by : ServedBy
    """
    rows = ScoredRows(
        values=np.ascontiguousarray(values[None], dtype=np.float32),
        status=status[None],
        score=np.array([score], dtype=np.float64),
        outcome=np.array([outcome], dtype=np.uint8),
        served_by=np.array([served_by], dtype=np.uint8),
    )
    return open_explainer(loaded).explain(rows)[0]


def _champion(
    loaded: LoadedRelease,
) -> TreeExplainer | LinearExplainer | SampledExplainer | None:
    model, admitted, data = loaded.parts.champion, loaded.admitted, loaded.explanation
    linear = read_linear(model, admitted)
    if linear is not None:
        return LinearExplainer(_unclipped(loaded.parts.plan.names, linear))
    trees = read_trees(model, admitted)
    if data is None:
        return None
    if trees is not None:
        return TreeExplainer(_explained(trees, data))
    background = np.array(data.background or (), dtype=np.float32)
    if background.shape[1:] != (admitted.n_features,):
        raise SentinelError(
            ErrorCode.EXPLANATION_INVALID,
            at=f"{FILE_NAME}: background",
            expected=f"rows of {admitted.n_features} numbers",
            got=f"shape {background.shape}",
        )
    session = ModelSession(model, n_features=admitted.n_features)
    return SampledExplainer(session.run, background)


def _explained(trees: TreeEnsemble, data: ExplanationData) -> ExplainedTrees:
    return ExplainedTrees(
        n_features=trees.n_features,
        feature=trees.feature,
        threshold=trees.threshold,
        left=trees.left,
        right=trees.right,
        value=trees.value,
        roots=trees.roots,
        offset=trees.offset,
        leaf_cover=np.array(data.leaf_cover or (), dtype=np.float64),
    )


def _unclipped(names: tuple[str, ...], linear: Linear) -> LinearFallback:
    """Give a linear champion the form of a fallback with bounds that no float32 input reaches."""
    widest = float(np.finfo(np.float64).max) ** 0.5
    return LinearFallback(
        features=names,
        centre=linear.centre,
        scale=linear.scale,
        coefficients=linear.coefficients,
        lower=np.full(len(names), -widest),
        upper=np.full(len(names), widest),
        intercept=linear.intercept,
    )
