"""Split a replayed log, fit both models on the training part, judge them on the later one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.scoring.fallback import LinearFallback
from sentinel.training.boosted import BoostedFit, OnProgress, fit_boosted, no_progress
from sentinel.training.evaluation import Judged
from sentinel.training.history import History
from sentinel.training.labels import Labels
from sentinel.training.linear import fit_linear
from sentinel.training.rows import LabelledRows, check_finite
from sentinel.training.settings import ModelSettings
from sentinel.training.split import Parts, TimeSplit, known_compromised

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Both models, and the parts that they were fitted and will be judged on.

    Attributes
    ----------
    split : TimeSplit
    parts : Parts
    boosted : BoostedFit
    fallback : LinearFallback
    judged_rows : ndarray of int64
        Rows of the later part with a label by now.
    labels : Labels
        By now, of every row.
    champion_scores, fallback_scores : ndarray of float64, shape (n_judged,)
    """

    split: TimeSplit
    parts: Parts
    boosted: BoostedFit
    fallback: LinearFallback
    judged_rows: Int64Array
    labels: Labels
    champion_scores: Float64Array
    fallback_scores: Float64Array

    def judged(
        self, history: History, scores: Float64Array, *, without_compromised: bool = False
    ) -> Judged:
        """Put scores of the later part beside their labels.

        Parameters
        ----------
        history : History
        scores : ndarray of float64, shape (n_judged,)
            ``champion_scores`` or ``fallback_scores``.
        without_compromised : bool
            Leave out events of cards with a fraud of the training part or after it that was
            known before the day of the event (:func:`~sentinel.training.split.known_compromised`).
        """
        rows = self.judged_rows
        amounts = history.amounts
        judged = Judged(
            scores=scores,
            is_positive=self.labels.is_positive[rows],
            times_ms=history.replayed.times_ms[rows],
            entities=history.entities[rows],
            amounts=None if amounts is None else amounts[rows],
        )
        return judged.rows(~self.compromised(history)) if without_compromised else judged

    def compromised(
        self, history: History, *, since_ms: int | None = None
    ) -> npt.NDArray[np.bool_]:
        """Say which judged rows are of a card known as compromised before that day.

        Parameters
        ----------
        history : History
        since_ms : int, optional
            Frauds of events before it are forgiven; the start of the training part by default.
        """
        removed = known_compromised(
            history.replayed.times_ms,
            history.entities,
            self.labels.is_positive,
            self.labels.known_at_ms,
            since_ms=self.split.train_from_ms if since_ms is None else since_ms,
        )
        chosen: npt.NDArray[np.bool_] = removed[self.judged_rows]
        return chosen


def fit(
    history: History,
    split: TimeSplit,
    settings: ModelSettings,
    *,
    on_progress: OnProgress = no_progress,
) -> Fitted:
    """Fit champion and fallback with what was known at the cut; judge them with what is known now.

    Parameters
    ----------
    history : History
    split : TimeSplit
    settings : ModelSettings
    on_progress : callable

    Returns
    -------
    Fitted

    Raises
    ------
    SentinelError
        ``training-split-empty``, ``training-one-class``, ``training-not-finite``,
        ``extra-missing``.
    """
    known = history.labels(split.cut_ms)
    parts = split.parts(history.replayed.times_ms, known.known_at_ms)
    values, names = history.replayed.matrix.values, history.replayed.matrix.names
    for part, rows in (("waiting", parts.waiting), ("later", parts.later)):
        check_finite(values[rows], names, part)

    def labelled(rows: Int64Array) -> LabelledRows:
        return LabelledRows(names=names, values=values[rows], is_positive=known.is_positive[rows])

    boosted = fit_boosted(
        labelled(parts.fit), labelled(parts.validation), settings, on_progress=on_progress
    )
    fallback = fit_linear(labelled(parts.train), settings)
    labels = history.labels(history.known_until_ms)
    judged_rows = parts.later[labels.is_known[parts.later]]
    if not len(judged_rows):
        raise SentinelError(
            ErrorCode.TRAINING_SPLIT_EMPTY,
            at="later",
            expected="events whose label is known by now",
            got="none",
            hint="Cut earlier, or wait for the verdicts.",
        )
    return Fitted(
        split=split,
        parts=parts,
        boosted=boosted,
        fallback=fallback,
        judged_rows=judged_rows,
        labels=labels,
        champion_scores=boosted.scores(values[judged_rows]),
        fallback_scores=fallback.scores(values[judged_rows]),
    )
