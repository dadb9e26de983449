"""From a scored row to an explanation that is held against its score, or to why there is none.

1. Whoever answered is explained: the champion, or the fallback. A held decision has no score, so
   there is nothing to explain.
2. Base and contributions must add up to the served score, in log-odds, up to
   ``EXPLANATION_RESIDUAL_MAX`` and the rounding of a float32. An explanation that does not is
   never shown: it would explain another model, or another row.
3. The contributions that speak for the outcome become reasons in words.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sentinel.core import limits
from sentinel.features import FeatureSet
from sentinel.scoring.decision import Outcome, ServedBy, code_names
from sentinel.scoring.explanation.linear import LinearExplainer
from sentinel.scoring.explanation.reasons import Direction, ReasonWords, ReasonWriter
from sentinel.scoring.explanation.sampled import SampledExplainer, log_odds
from sentinel.scoring.explanation.trees import TreeExplainer
from sentinel.scoring.fallback import LinearFallback

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Uint8Array = npt.NDArray[np.uint8]

ModelExplainer = TreeExplainer | LinearExplainer | SampledExplainer
_OUTCOMES, _SERVED = code_names(Outcome), code_names(ServedBy)


class Method(enum.StrEnum):
    """How the contributions were computed."""

    TREES = "exact-trees"
    LINEAR = "exact-linear"
    SAMPLED = "sampled"


class Absence(enum.StrEnum):
    """Why there is no explanation."""

    HELD = "held"
    NOT_ADDITIVE = "not-additive"
    NO_DATA = "no-data"
    NOT_FINITE = "not-finite"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredRows:
    """Decisions that are to be explained, as columns.

    Attributes
    ----------
    values : ndarray of float32, shape (n_rows, n_features), C order
        The vectors that were scored.
    status : ndarray of uint8, shape (n_rows, n_features)
    score : ndarray of float64, shape (n_rows,)
    outcome, served_by : ndarray of uint8, shape (n_rows,)
    """

    values: Float32Array
    status: Uint8Array
    score: Float64Array
    outcome: Uint8Array
    served_by: Uint8Array

    @property
    def n_rows(self) -> int:
        """How many."""
        return len(self.score)

    def row(self, place: int) -> ScoredRows:
        """Copy one row out."""
        one = slice(place, place + 1)
        return ScoredRows(
            values=self.values[one].copy(),
            status=self.status[one].copy(),
            score=self.score[one].copy(),
            outcome=self.outcome[one].copy(),
            served_by=self.served_by[one].copy(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why one score is what it is. All numbers but the score are log-odds.

    Attributes
    ----------
    score : float
        The served score, in [0, 1].
    outcome, served_by : str
    method : Method
    base : float
        Where the model starts when nothing is known of the row.
    contributions : tuple of float
        What each feature adds, in the order of the feature set.
    residual : float
        Base and contributions, less the log-odds of the served score.
    error : float
        Standard error of the contributions; 0.0 where they are exact.
    reasons : tuple of ReasonWords
        What speaks most for the outcome, the strongest first.
    """

    score: float
    outcome: str
    served_by: str
    method: Method
    base: float
    contributions: tuple[float, ...]
    residual: float
    error: float
    reasons: tuple[ReasonWords, ...]


class Explainer:
    """Explains the decisions of one release; used by one thread.

    Parameters
    ----------
    features : FeatureSet
        What the words are made of.
    champion : TreeExplainer, LinearExplainer, SampledExplainer or None
        None: the release carries nothing to explain its champion by.
    fallback : LinearFallback
    """

    def __init__(
        self, features: FeatureSet, *, champion: ModelExplainer | None, fallback: LinearFallback
    ) -> None:
        self.names = features.names
        self._champion = champion
        self._fallback = LinearExplainer(fallback)
        self._writer = ReasonWriter(features)

    @property
    def method(self) -> Method | None:
        """How the champion is explained; None where it cannot be."""
        return None if self._champion is None else _method(self._champion)

    def explain(self, rows: ScoredRows) -> list[Explanation | Absence]:
        """Explain rows, each by the model that answered it.

        Parameters
        ----------
        rows : ScoredRows

        Returns
        -------
        list of Explanation or Absence
            One a row, in their order.
        """
        found: list[Explanation | Absence] = [Absence.HELD] * rows.n_rows
        models = {ServedBy.CHAMPION: self._champion, ServedBy.FALLBACK: self._fallback}
        n_finite = np.isfinite(rows.values).sum(axis=1)
        for served_by, model in models.items():
            asked = np.flatnonzero((rows.served_by == served_by) & (rows.outcome != Outcome.HELD))
            for row in asked.tolist():
                found[row] = Absence.NO_DATA if model is None else Absence.NOT_FINITE
            asked = asked[n_finite[asked] == rows.values.shape[1]]
            if model is None or not len(asked):
                continue
            contributions, error = _explain(model, np.ascontiguousarray(rows.values[asked]))
            for row, values, spread in zip(asked.tolist(), contributions, error, strict=True):
                found[row] = self._explanation(rows, row, model, values, float(spread))
        return found

    def _explanation(
        self,
        rows: ScoredRows,
        row: int,
        model: ModelExplainer,
        contributions: Float64Array,
        error: float,
    ) -> Explanation | Absence:
        score = float(rows.score[row])
        explained = model.base + float(contributions.sum())
        if not is_additive(explained, score):
            return Absence.NOT_ADDITIVE
        outcome = Outcome(int(rows.outcome[row]))
        direction = Direction.LOWERS if outcome is Outcome.APPROVE else Direction.RAISES
        return Explanation(
            score=score,
            outcome=_OUTCOMES[outcome],
            served_by=_SERVED[rows.served_by[row]],
            method=_method(model),
            base=model.base,
            contributions=tuple(contributions.tolist()),
            residual=explained - float(log_odds(np.array([score]))[0]),
            error=error,
            reasons=self._writer.reasons(
                rows.values[row], rows.status[row], contributions, direction=direction
            ),
        )


def is_additive(explained: float, score: float) -> bool:
    """Whether log-odds that were explained are those of the served score.

    Up to ``EXPLANATION_RESIDUAL_MAX`` in log-odds, four units in the last place of a float32
    score (near 1 a float32 probability says no more about its log-odds), and two units in the last
    place of 1: the sigmoid of ONNX Runtime is good to that, however small the score (measured:
    1.2e-7 over scores from 1e-5 to 1).

    Examples
    --------
    >>> is_additive(0.0, 0.5), is_additive(0.1, 0.5)
    (True, False)
    >>> is_additive(-10.0, 4.54e-05 + 1.2e-7), is_additive(-10.0, 4.54e-05 + 1e-6)
    (True, False)
    """
    small = np.exp(-abs(explained))
    expected = (1.0 if explained >= 0 else small) / (1.0 + small)
    rounding = float(np.finfo(np.float32).eps) * (4 * score + 2)
    allowed = limits.EXPLANATION_RESIDUAL_MAX * expected * (1.0 - expected) + rounding
    return bool(abs(expected - score) <= allowed)


def _explain(model: ModelExplainer, values: Float32Array) -> tuple[Float64Array, Float64Array]:
    if isinstance(model, SampledExplainer):
        return model.explain_with_error(values)
    return model.explain(values), np.zeros(len(values))


def _method(model: ModelExplainer) -> Method:
    if isinstance(model, TreeExplainer):
        return Method.TREES
    return Method.LINEAR if isinstance(model, LinearExplainer) else Method.SAMPLED
