"""How long a batch takes, by its size, as measured lately.

Batches of 2^k to 2^(k+1) - 1 rows share one place with a running mean. A measurement counts for a
few seconds only: what was slow must be tried again, or nobody would ever find out that it is not.

Rows that wait wait for more than the model: requests are read and answers written in between. What
lies between two batches while rows wait is measured too, a row.
"""

from __future__ import annotations

from sentinel.serving import bounds

_WEIGHT = 0.25  # of the newest measurement
_N_PLACES = bounds.SERVE_BATCH_ROWS_MAX.bit_length()


class ServiceTime:
    """The service-time curve of one scoring thread.

    Examples
    --------
    >>> curve = ServiceTime()
    >>> curve.observe(64, 0.004, now_s=0.0)
    >>> curve.seconds(64, now_s=1.0), curve.seconds(1, now_s=1.0), curve.seconds(64, now_s=99.0)
    (0.004, 0.0, 0.0)
    """

    def __init__(self) -> None:
        self._seconds = [0.0] * _N_PLACES
        self._at_s = [float("-inf")] * _N_PLACES
        self._beside_row_s = 0.0
        self._beside_at_s = float("-inf")

    def observe(self, n_rows: int, seconds: float, *, now_s: float) -> None:
        """Take in one batch of ``n_rows``, at least 1."""
        place = _place(n_rows)
        if now_s - self._at_s[place] > bounds.SERVICE_TIME_S_MAX:
            self._seconds[place] = seconds
        else:
            self._seconds[place] += _WEIGHT * (seconds - self._seconds[place])
        self._at_s[place] = now_s

    def seconds(self, n_rows: int, *, now_s: float) -> float:
        """Estimate what ``n_rows`` take, in as many full batches as they need.

        Of sizes that were not measured lately the next smaller one is taken, so the estimate is
        low rather than high: 0.0 where nothing is known.
        """
        whole, rest = divmod(n_rows, bounds.SERVE_BATCH_ROWS_MAX)
        total = whole * self._known(bounds.SERVE_BATCH_ROWS_MAX, now_s) if whole else 0.0
        return total + (self._known(rest, now_s) if rest else 0.0)

    def observe_beside(self, n_rows: int, seconds: float, *, now_s: float) -> None:
        """Take in what lay between two batches, the second of which had ``n_rows``.

        Of a few rows it says nothing: what a thread takes to wake up is no cost of a row.
        """
        if n_rows < bounds.GATE_ROWS_MIN:
            return
        row_s = seconds / n_rows
        is_old = now_s - self._beside_at_s > bounds.SERVICE_TIME_S_MAX
        self._beside_row_s += (1.0 if is_old else _WEIGHT) * (row_s - self._beside_row_s)
        self._beside_at_s = now_s

    def wait_s(self, n_rows: int, *, now_s: float) -> float:
        """Estimate how long the last of so many waiting rows waits for its answer."""
        seconds = self.seconds(n_rows, now_s=now_s)
        if now_s - self._beside_at_s <= bounds.SERVICE_TIME_S_MAX:
            seconds += n_rows * self._beside_row_s
        return seconds

    def _known(self, n_rows: int, now_s: float) -> float:
        for place in range(_place(n_rows), -1, -1):
            if now_s - self._at_s[place] <= bounds.SERVICE_TIME_S_MAX:
                return self._seconds[place]
        return 0.0


def _place(n_rows: int) -> int:
    return min(n_rows.bit_length() - 1, _N_PLACES - 1)
