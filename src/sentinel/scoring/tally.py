"""One pass over a batch of decisions: outcomes from scores, and everything that is counted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sentinel.core.native import native
from sentinel.features.matrix import DEFAULTED, STALE
from sentinel.scoring.decision import DecisionBatch, Outcome, Reason, ServedBy
from sentinel.scoring.guards import Answer

_HELD = int(Outcome.HELD)
_NOBODY = int(ServedBy.NONE)
_N_SERVED_BY = len(ServedBy)
_N_PAIRS = len(Outcome) * _N_SERVED_BY
# Places of what the kernel counts, before the pairs and the reasons.
_DECIDED, _LATE, _LATE_DECIDED, _DEFAULTED, _STALE, _N_SINGLE = range(6)


@dataclass(frozen=True, slots=True)
class Tally:
    """What one batch of decisions holds.

    Attributes
    ----------
    n_decided : int
        Rows that are no duplicates, the held ones included.
    n_late, n_late_decided : int
        Rows too late for some window; of those, no duplicates.
    n_defaulted, n_stale : int
        Feature values.
    pairs : list of int
        Decided rows by ``outcome * len(ServedBy) + served_by``.
    reasons : list of int
        Decided rows by :class:`Reason`.
    """

    n_decided: int
    n_late: int
    n_late_decided: int
    n_defaulted: int
    n_stale: int
    pairs: list[int]
    reasons: list[int]

    @property
    def n_held(self) -> int:
        """Decided rows without a score."""
        return sum(self.pairs[_HELD * _N_SERVED_BY :])


def tally_of(decisions: DecisionBatch) -> Tally:
    """Count a batch of decisions in one native pass."""
    counts = np.zeros(_N_SINGLE + _N_PAIRS + len(Reason), dtype=np.int64)
    _count(
        decisions.is_decided,
        decisions.is_late,
        decisions.outcome,
        decisions.served_by,
        decisions.reason,
        decisions.feature_status,
        counts,
    )
    found = counts.tolist()
    end = _N_SINGLE + _N_PAIRS
    n_decided, n_late, n_late_decided, n_defaulted, n_stale = found[:_N_SINGLE]
    return Tally(
        n_decided, n_late, n_late_decided, n_defaulted, n_stale, found[_N_SINGLE:end], found[end:]
    )


def outcomes(answer: Answer, thresholds: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Turn scores into outcomes: declined above the upper threshold, reviewed above the lower.

    Parameters
    ----------
    answer : Answer
        With n rows.
    thresholds : ndarray of float64, shape (2, 2)
        As :meth:`Policy.thresholds` has them: who served, review above and decline above.

    Returns
    -------
    ndarray of uint8, shape (n,)
        Values of :class:`Outcome`; ``HELD`` where nobody answered.
    """
    outcome = np.empty(len(answer.scores), dtype=np.uint8)
    _judge(answer.scores, answer.served_by, thresholds, outcome)
    return outcome


@native
def _judge(
    scores: npt.NDArray[np.float64],
    served_by: npt.NDArray[np.uint8],
    thresholds: npt.NDArray[np.float64],
    outcome: npt.NDArray[np.uint8],
) -> None:
    for row in range(len(scores)):
        who = served_by[row]
        if who == _NOBODY:
            outcome[row] = _HELD
            continue
        score = scores[row]
        outcome[row] = (score > thresholds[who, 0]) + (score > thresholds[who, 1])


@native
def _count(
    is_decided: npt.NDArray[np.bool_],
    is_late: npt.NDArray[np.bool_],
    outcome: npt.NDArray[np.uint8],
    served_by: npt.NDArray[np.uint8],
    reason: npt.NDArray[np.uint8],
    status: npt.NDArray[np.uint8],
    counts: npt.NDArray[np.int64],
) -> None:
    reasons_at = _N_SINGLE + _N_PAIRS
    for row in range(len(is_decided)):
        counts[_LATE] += is_late[row]
        if not is_decided[row]:
            continue
        counts[_DECIDED] += 1
        counts[_LATE_DECIDED] += is_late[row]
        counts[_N_SINGLE + outcome[row] * _N_SERVED_BY + served_by[row]] += 1
        counts[reasons_at + reason[row]] += 1
    flat = status.reshape(status.shape[0] * status.shape[1])
    n_defaulted = 0
    n_stale = 0
    for i in range(len(flat)):
        n_defaulted += flat[i] == DEFAULTED
        n_stale += flat[i] == STALE
    counts[_DEFAULTED] = n_defaulted
    counts[_STALE] = n_stale
