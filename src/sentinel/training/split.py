"""Split events by time as they would have been known, with the label delay between the parts.

A model is trained at an instant, the *cut*, with what is known by then:

1. ``train``: events in ``[from, cut - delay)`` whose label is known at the cut. The last share of
   them, in time order, is ``validation``: it chooses the number of trees, and nothing else.
2. ``waiting``: events in ``[cut - delay, cut)``. Their labels are on their way, so they are never
   fitted on; as the latest traffic the model has not seen, they set the thresholds.
3. ``later``: events in ``[cut, until)``. They judge the model and are used for nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sentinel.core import limits
from sentinel.core.clock import instant
from sentinel.core.errors import ErrorCode, SentinelError

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeSplit:
    """Where the parts begin and end; all times in milliseconds since the epoch, UTC.

    Parameters
    ----------
    train_from_ms : int
        First event time of the training part, inclusive.
    cut_ms : int
        When the model is trained: labels known later do not exist yet.
    until_ms : int
        End of the later part, exclusive.
    delay_ms : int
        How long after an event its label counts as known; at least 0.
    validation_share : float, in (0, 0.5]
        Share of the training rows that is kept for choosing the number of trees.

    Raises
    ------
    SentinelError
        ``training-split-invalid`` for an order that leaves a part without time.

    Examples
    --------
    >>> split = TimeSplit(train_from_ms=0, cut_ms=10, until_ms=15, delay_ms=3)
    >>> split.train_until_ms
    7
    """

    train_from_ms: int
    cut_ms: int
    until_ms: int
    delay_ms: int
    validation_share: float = limits.VALIDATION_SHARE_DEFAULT

    def __post_init__(self) -> None:
        """Refuse an order of times in which a part cannot hold an event."""
        if self.delay_ms < 0:
            raise _invalid("split.delay_ms", "0 or more", self.delay_ms)
        if not self.train_from_ms < self.train_until_ms:
            first = instant(self.train_from_ms + self.delay_ms)
            raise _invalid(
                "split.cut_ms",
                f"a cut after {first}, when the first event's label is known",
                instant(self.cut_ms),
                hint=f"Labels come {self.delay_ms / 86_400_000:.3g} days after their events: give "
                "more days of events.",
            )
        if not self.cut_ms < self.until_ms:
            expected = f"a time after the cut, {instant(self.cut_ms)}"
            raise _invalid("split.until_ms", expected, instant(self.until_ms))
        if not 0.0 < self.validation_share <= 0.5:
            raise _invalid("split.validation_share", "above 0, at most 0.5", self.validation_share)

    @property
    def train_until_ms(self) -> int:
        """End of the training part, exclusive: the cut less the label delay."""
        return self.cut_ms - self.delay_ms

    @classmethod
    def of_span(cls, times_ms: Int64Array, *, delay_ms: int, later_share: float) -> TimeSplit:
        """Cut a log so that the last share of its span judges the model.

        Parameters
        ----------
        times_ms : ndarray of int64, shape (n_events,)
        delay_ms : int
        later_share : float, in (0, 0.5]

        Raises
        ------
        SentinelError
            ``training-split-empty`` without events; ``training-split-invalid`` where the log is
            too short for the label delay.

        Examples
        --------
        >>> TimeSplit.of_span(np.arange(100), delay_ms=10, later_share=0.2).cut_ms
        80
        """
        if not len(times_ms):
            raise _empty("events", "at least one event")
        if not 0.0 < later_share <= 0.5:
            raise _invalid("split.later_share", "above 0, at most 0.5", later_share)
        first, until = int(times_ms.min()), int(times_ms.max()) + 1
        cut = until - max(1, int((until - first) * later_share))
        return cls(train_from_ms=first, cut_ms=cut, until_ms=until, delay_ms=delay_ms)

    def parts(self, times_ms: Int64Array, known_at_ms: Int64Array) -> Parts:
        """Say which part each event is in.

        Parameters
        ----------
        times_ms : ndarray of int64, shape (n_events,)
            Event times, in any order.
        known_at_ms : ndarray of int64, shape (n_events,)
            When the label became known; ``NEVER_KNOWN`` for none. For labels assumed after the
            delay, the event time plus the delay.

        Returns
        -------
        Parts

        Raises
        ------
        SentinelError
            ``training-split-empty``, naming the part that holds no event.
        """
        is_known = known_at_ms <= self.cut_ms
        in_train = (times_ms >= self.train_from_ms) & (times_ms < self.train_until_ms) & is_known
        rows = np.flatnonzero(in_train)
        if len(rows) < 2:
            raise _empty("train", "at least two events with a label known at the cut")
        ordered = rows[np.argsort(times_ms[rows], kind="stable")]
        n_validation = max(1, int(len(ordered) * self.validation_share))
        later = np.flatnonzero((times_ms >= self.cut_ms) & (times_ms < self.until_ms))
        if not len(later):
            raise _empty("later", "at least one event from the cut on")
        waiting = (times_ms >= self.train_until_ms) & (times_ms < self.cut_ms)
        return Parts(
            fit=ordered[:-n_validation],
            validation=ordered[-n_validation:],
            waiting=np.flatnonzero(waiting),
            later=later,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Row numbers of each part; no row is in two.

    Attributes
    ----------
    fit, validation : ndarray of int64
        Together the training part, in time order; every ``fit`` row is before or at the first
        ``validation`` row.
    waiting : ndarray of int64
        Events so late that their labels are not all known at the cut.
    later : ndarray of int64
    """

    fit: Int64Array
    validation: Int64Array
    waiting: Int64Array
    later: Int64Array

    @property
    def train(self) -> Int64Array:
        """``fit`` and ``validation`` together, in time order."""
        return np.concatenate([self.fit, self.validation])


def known_compromised(
    times_ms: Int64Array,
    entities: Int64Array,
    is_positive: BoolArray,
    known_at_ms: Int64Array,
    *,
    since_ms: int,
    day_ms: int = limits.DAY_MS,
) -> BoolArray:
    """Say which events are of an entity with a fraud that was known before their day began.

    Such a card would have been blocked: its further events judge no model. This is the rule of
    Le Borgne et al., *Reproducible Machine Learning for Credit Card Fraud Detection*, chapter 5
    (``get_train_test_set``), where the count begins at the first day of training.

    Parameters
    ----------
    times_ms, entities, known_at_ms : ndarray of int64, shape (n_events,)
        Event times, hashed keys, and when the label was known (``NEVER_KNOWN`` for none).
    is_positive : ndarray of bool, shape (n_events,)
    since_ms : int
        Frauds of earlier events are forgiven: the card was replaced long ago.
    day_ms : int
        Length of a day; days begin at multiples of it since the epoch.

    Returns
    -------
    ndarray of bool, shape (n_events,)

    Notes
    -----
    O(n log n).
    """
    counted = is_positive & (times_ms >= since_ms)
    keys, places = np.unique(entities, return_inverse=True)
    first_known = np.full(len(keys), np.iinfo(np.int64).max, dtype=np.int64)
    np.minimum.at(first_known, places[counted], known_at_ms[counted])
    result: BoolArray = first_known[places] < times_ms - times_ms % day_ms
    return result


def _invalid(at: str, expected: str, got: object, *, hint: str = "") -> SentinelError:
    code = ErrorCode.TRAINING_SPLIT_INVALID
    return SentinelError(code, at=at, expected=expected, got=got, hint=hint)


def _empty(part: str, expected: str) -> SentinelError:
    return SentinelError(
        ErrorCode.TRAINING_SPLIT_EMPTY,
        at=part,
        expected=expected,
        got="none",
        hint="Give a longer log, or other times for the split.",
    )
