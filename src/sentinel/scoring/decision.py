"""What leaves: decisions, as columns."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sentinel.contract.batch import EventBatch


class Outcome(enum.IntEnum):
    """What is to be done with a payment; ``HELD`` when no model may answer."""

    APPROVE = 0
    REVIEW = 1
    DECLINE = 2
    HELD = 3


class ServedBy(enum.IntEnum):
    """Who answered."""

    CHAMPION = 0
    FALLBACK = 1
    NONE = 2


class Reason(enum.IntEnum):
    """Why that one answered; ``OK`` when the champion did and nothing was wrong.

    ``FEATURES_STALE`` is said of the champion's answers too: it answered, on declared defaults.
    """

    OK = 0
    BREAKER_OPEN = 1
    CHAMPION_LATCHED = 2
    CHAMPION_ERROR = 3
    OUTPUT_NOT_FINITE = 4
    OUTPUT_OUT_OF_RANGE = 5
    OUTPUT_SHAPE = 6
    OUTPUT_NOT_OF_ROW = 7
    FEATURE_NOT_FINITE = 8
    FEATURES_STALE = 9
    FALLBACK_FAILED = 10


def code_names(codes: type[enum.IntEnum]) -> tuple[str, ...]:
    """Name the codes 0, 1, 2 … as they stand in answers and in the decision log.

    Examples
    --------
    >>> code_names(Outcome)
    ('approve', 'review', 'decline', 'held')
    """
    return tuple(code.name.lower().replace("_", "-") for code in sorted(codes))


@dataclass(frozen=True, slots=True)
class DecisionBatch:
    """Decisions of one batch. Row ``i`` belongs to row ``i`` of ``events``.

    Duplicates (by event id, within the dedupe window) are rows with ``is_decided`` False: the
    event was decided before, and only that decision counts.

    Attributes
    ----------
    events : EventBatch
        The accepted events, for ids, times and positions.
    is_decided : ndarray of bool, shape (n_rows,)
    score : ndarray of float64, shape (n_rows,), in [0, 1]
        Meaningless, and 0.0, where the outcome is ``HELD``: every encoder writes null there.
    outcome, served_by, reason : ndarray of uint8, shape (n_rows,)
        Values of :class:`Outcome`, :class:`ServedBy`, :class:`Reason`.
    features : ndarray of float32, shape (n_rows, n_features)
        The vector that was scored.
    feature_status : ndarray of uint8, shape (n_rows, n_features)
    feature_hash : ndarray of uint64, shape (n_rows,)
        SipHash-2-4 of the vector's bytes.
    is_late : ndarray of bool, shape (n_rows,)
    """

    events: EventBatch
    is_decided: npt.NDArray[np.bool_]
    score: npt.NDArray[np.float64]
    outcome: npt.NDArray[np.uint8]
    served_by: npt.NDArray[np.uint8]
    reason: npt.NDArray[np.uint8]
    features: npt.NDArray[np.float32]
    feature_status: npt.NDArray[np.uint8]
    feature_hash: npt.NDArray[np.uint64]
    is_late: npt.NDArray[np.bool_]

    @property
    def n_rows(self) -> int:
        """How many accepted events, duplicates included."""
        return len(self.score)
