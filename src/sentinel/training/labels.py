"""Give replayed events their labels, as the verdict feed knew them.

1. Verdicts name events by id; both sides are compared by the 64-bit hash of the id.
2. Of several verdicts on one event the last that was known by the instant asked for counts: an
   analyst's word may be overturned by a chargeback.
3. An event without a verdict is left out, or counts as genuine once the delay has passed; which of
   the two is declared in the pipeline (``Label.unlabelled``), because it is an assumption about
   the feed and not a detail of training.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

# Known-at time of a label that nobody will ever give.
NEVER_KNOWN = int(np.iinfo(np.int64).max)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """The feedback feed as columns, in the order of the feed.

    Attributes
    ----------
    events : ndarray of int64, shape (n_verdicts,)
        Hash of the id of the event each verdict speaks of.
    is_positive : ndarray of bool, shape (n_verdicts,)
    known_at_ms : ndarray of int64, shape (n_verdicts,)
    """

    events: Int64Array
    is_positive: BoolArray
    known_at_ms: Int64Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """One label an event.

    Attributes
    ----------
    is_positive : ndarray of bool, shape (n_events,)
        False where nothing is known.
    known_at_ms : ndarray of int64, shape (n_events,)
        When the label was known; ``NEVER_KNOWN`` where there is none.
    n_strangers : int
        Verdicts on events that are not in the log.
    n_assumed : int
        Events that count as genuine because no verdict came.
    """

    is_positive: BoolArray
    known_at_ms: Int64Array
    n_strangers: int
    n_assumed: int

    @property
    def is_known(self) -> BoolArray:
        """Which events have a label, given or assumed."""
        known: BoolArray = self.known_at_ms != NEVER_KNOWN
        return known


def join_labels(
    events: Int64Array,
    times_ms: Int64Array,
    verdicts: Verdicts,
    *,
    known_by_ms: int,
    assume_genuine_after_ms: int | None = None,
) -> Labels:
    """Give each event the last verdict on it that was known by an instant; O(n log n).

    Parameters
    ----------
    events : ndarray of int64, shape (n_events,)
        Hash of each event's id.
    times_ms : ndarray of int64, shape (n_events,)
    verdicts : Verdicts
    known_by_ms : int
        Verdicts known later do not exist.
    assume_genuine_after_ms : int, optional
        An event without a verdict counts as genuine so long after its time; None: it has no
        label.

    Returns
    -------
    Labels

    Examples
    --------
    >>> verdicts = Verdicts(
    ...     events=np.array([7, 7, 8]),
    ...     is_positive=np.array([True, False, True]),
    ...     known_at_ms=np.array([10, 20, 99]),
    ... )
    >>> ids, times = np.array([7, 8]), np.array([1, 2])
    >>> join_labels(ids, times, verdicts, known_by_ms=15).is_positive.tolist()
    [True, False]
    >>> join_labels(ids, times, verdicts, known_by_ms=20).is_positive.tolist()
    [False, False]
    """
    is_positive = np.zeros(len(events), dtype=np.bool_)
    known_at = np.full(len(events), NEVER_KNOWN, dtype=np.int64)
    in_time = np.flatnonzero(verdicts.known_at_ms <= known_by_ms)
    # Ascending by known-at time, ties in the order of the feed: of equal keys the last write wins.
    in_time = in_time[np.argsort(verdicts.known_at_ms[in_time], kind="stable")]
    order = np.argsort(events, kind="stable")
    ordered = events[order]
    place = np.searchsorted(ordered, verdicts.events[in_time])
    found = place < len(ordered)
    found[found] = ordered[place[found]] == verdicts.events[in_time][found]
    rows = order[place[found]]
    is_positive[rows] = verdicts.is_positive[in_time][found]
    known_at[rows] = verdicts.known_at_ms[in_time][found]
    n_assumed = 0
    if assume_genuine_after_ms is not None:
        assumed = (known_at == NEVER_KNOWN) & (times_ms + assume_genuine_after_ms <= known_by_ms)
        known_at[assumed] = times_ms[assumed] + assume_genuine_after_ms
        n_assumed = int(assumed.sum())
    return Labels(
        is_positive=is_positive,
        known_at_ms=known_at,
        n_strangers=int((~found).sum()),
        n_assumed=n_assumed,
    )
