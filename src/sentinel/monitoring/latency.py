"""A histogram of durations: fine inside for quantiles, rolled up to fixed buckets outside."""

from __future__ import annotations

import bisect
import threading

import numpy as np
import numpy.typing as npt

# What Prometheus sees. From 100 µs, where a batch of one is, to 10 s, where a breaker has long
# opened; 0.5 s is the limit of the alert, so it is an edge.
BUCKETS_S = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
)  # fmt: skip
# Inside: 40 steps a decade from 1 µs to 100 s, so a quantile is right to 6 %; the buckets are
# edges too, so rolling up is exact.
_EDGES_S: list[float] = sorted(
    {*BUCKETS_S, *(10.0 ** (exponent / 40 - 6) for exponent in range(8 * 40 + 1))}
)
# So many observations are kept as they came: counting them together is cheaper.
_PENDING_MAX = 1_024
_EDGES = np.array(_EDGES_S)
_ROLL_UP = [bisect.bisect_left(_EDGES_S, bucket) + 1 for bucket in BUCKETS_S]


class LatencyHistogram:
    """Counts of durations; 0.1 µs an observation, constant memory; any thread.

    Examples
    --------
    >>> histogram = LatencyHistogram()
    >>> histogram.observe(0.004, n=99)
    >>> histogram.observe(0.4)
    >>> 0.003 < histogram.quantile(0.5) < 0.005
    True
    """

    __slots__ = ("_counts", "_lock", "_n", "_pending", "_total_s")

    def __init__(self) -> None:
        self._counts = [0] * (len(_EDGES_S) + 1)
        self._lock = threading.Lock()
        self._n = 0
        self._total_s = 0.0
        self._pending: list[float] = []

    @property
    def n(self) -> int:
        """How many events were counted."""
        self._fold()
        return self._n

    @property
    def total_s(self) -> float:
        """How long they took together, in seconds."""
        self._fold()
        return self._total_s

    def observe(self, seconds: float, *, n: int = 1) -> None:
        """Count ``n`` events that took this long each; a clock that stepped back counts as 0."""
        if n == 1:
            pending = self._pending
            pending.append(seconds)
            if len(pending) >= _PENDING_MAX:
                self._fold()
            return
        seconds = max(seconds, 0.0)
        with self._lock:
            self._counts[bisect.bisect_left(_EDGES_S, seconds)] += n
            self._n += n
            self._total_s += seconds * n

    def observe_many(self, seconds: npt.NDArray[np.float64]) -> None:
        """Count one event for each duration.

        Parameters
        ----------
        seconds : ndarray of float64, shape (n,)
        """
        with self._lock:
            self._add_all(seconds)

    def counted(self) -> list[tuple[int, int]]:
        """Return the places that hold anything, with how much: what another one can add."""
        self._fold()
        return [(place, n) for place, n in enumerate(self._counts) if n]

    def add(self, counted: list[tuple[int, int]], total_s: float) -> None:
        """Add what another histogram has counted.

        Parameters
        ----------
        counted : list of (int, int)
            From :meth:`counted`.
        total_s : float
            Its total of seconds.
        """
        with self._lock:
            for place, n in counted:
                self._counts[place] += n
                self._n += n
            self._total_s += total_s

    def quantile(self, q: float) -> float | None:
        """Return the duration that a share ``q`` of events did not pass; None without events."""
        n_all = self.n
        if n_all == 0:
            return None
        wanted = q * n_all
        passed = 0
        for place, n in enumerate(self._counts):
            if n and passed + n >= wanted:
                low = _EDGES_S[place - 1] if place else 0.0
                high = _EDGES_S[place] if place < len(_EDGES_S) else low
                return low + (high - low) * (wanted - passed) / n
            passed += n
        return _EDGES_S[-1]

    def cumulative(self) -> list[int]:
        """Return how many events took at most each of :data:`BUCKETS_S`."""
        self._fold()
        sums = np.cumsum(self._counts)
        return [int(sums[place - 1]) for place in _ROLL_UP]

    def _fold(self) -> None:
        """Count what was kept as it came; who observes meanwhile adds behind it."""
        with self._lock:
            new = self._pending[:]
            del self._pending[: len(new)]
            if new:
                self._add_all(np.array(new))

    def _add_all(self, seconds: npt.NDArray[np.float64]) -> None:
        places = np.bincount(np.searchsorted(_EDGES, seconds, side="left"))
        for place in np.flatnonzero(places).tolist():
            self._counts[place] += int(places[place])
        self._n += len(seconds)
        self._total_s += float(np.maximum(seconds, 0.0).sum())
