"""How long batches took, in bounded memory, for percentiles."""

from __future__ import annotations

import numpy as np

from sentinel.core import limits


class BatchDurations:
    """Durations of batches with the events in each.

    Up to ``BATCH_DURATIONS_MAX`` every batch is kept; beyond it every second one is dropped, then
    every second of the rest, and so on: evenly over the run, and the same every time.

    Examples
    --------
    >>> durations = BatchDurations()
    >>> for seconds in (0.001, 0.002, 0.100):
    ...     durations.add(seconds, n_events=10)
    >>> durations.quantile_s(0.5), durations.quantile_s(0.99)
    (0.002, 0.1)
    """

    def __init__(self) -> None:
        self._seconds: list[float] = []
        self._n_events: list[int] = []
        self._keep_every = 1
        self._n_seen = 0

    def add(self, seconds: float, *, n_events: int) -> None:
        """Record one batch; amortised O(1)."""
        if self._n_seen % self._keep_every == 0:
            self._seconds.append(seconds)
            self._n_events.append(n_events)
        self._n_seen += 1
        if len(self._seconds) > limits.BATCH_DURATIONS_MAX:
            self._seconds = self._seconds[::2]
            self._n_events = self._n_events[::2]
            self._keep_every *= 2

    def quantile_s(self, share: float) -> float | None:
        """Tell how long an event's batch took, at a quantile over events.

        An event is answered when its whole batch is, so each batch counts once for every event
        in it.

        Parameters
        ----------
        share : float, in (0, 1]

        Returns
        -------
        float or None
            Seconds; the smallest kept duration that at least ``share`` of the events did not
            exceed. None when there were no events.
        """
        n_events = np.array(self._n_events, dtype=np.int64)
        if n_events.sum() == 0:
            return None
        seconds = np.array(self._seconds)
        order = np.argsort(seconds, kind="stable")
        reached = np.cumsum(n_events[order]) >= share * n_events.sum()
        return float(seconds[order][int(np.argmax(reached))])
