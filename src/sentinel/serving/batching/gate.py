"""Whether a request would be refused, said before it is read.

Past capacity most requests are refused, so what a refusal costs decides how much is still answered.
The queue's own word needs the body, and is an error with a sentence. The gate needs who asks and
how long he waits: it holds what one more row would wait for against that, with a cost of a row that
is measured once a batch. It never refuses what the queue would take at a smaller estimate: where it
is in doubt, the queue decides.

A request is late from the moment its bytes arrived, not from when they were read. A loop that is
busy reads what came while its last turn ran, so the time of that turn counts as waited.
"""

from __future__ import annotations

import time

from sentinel.serving import bounds
from sentinel.serving.batching.queue_of_rows import RowQueue
from sentinel.serving.batching.service_time import ServiceTime


class Gate:
    """The quick word of the queue; used in the thread of the door.

    Parameters
    ----------
    queue : RowQueue
        Only read; a number that is being changed is as good as the one before.
    curve : ServiceTime

    Attributes
    ----------
    busy_until_s : float
        When the batch that is being scored is thought to end; on the monotonic clock.
    lag_s : float
        How long what is read in this turn of the loop may have waited before.
    n_refused : int
        Since the start.
    """

    __slots__ = (
        "_curve",
        "_is_in_turn",
        "_queue",
        "_row_s",
        "_turn_began_s",
        "_turn_ended_s",
        "busy_until_s",
        "lag_s",
        "n_refused",
    )

    def __init__(self, queue: RowQueue, curve: ServiceTime) -> None:
        self._queue = queue
        self._curve = curve
        self._row_s = 0.0
        self._is_in_turn = False
        self._turn_began_s = self._turn_ended_s = float("-inf")
        self.busy_until_s = 0.0
        self.lag_s = 0.0
        self.n_refused = 0

    @property
    def is_crowded(self) -> bool:
        """Whether so many wait that it is worth asking."""
        return self._queue.n_rows >= bounds.GATE_ROWS_MIN

    def refuses(self, tenant: str, timeout_s: float) -> float:
        """Say when to come back, in seconds; 0.0: the request may be read.

        Parameters
        ----------
        tenant : str
        timeout_s : float
            How long the caller waits, from now.
        """
        queue = self._queue
        n_rows = queue.n_rows
        if n_rows < bounds.GATE_ROWS_MIN:
            return 0.0
        now_s = time.monotonic()
        busy_s = self.busy_until_s - now_s
        wait_s = queue.n_rows_before(tenant) * self._row_s + self.lag_s
        if busy_s > 0.0:
            wait_s += busy_s
        if wait_s <= bounds.ADMITTED_SHARE * timeout_s:
            return 0.0
        self.n_refused += 1
        return wait_s

    def turn_began(self, now_s: float) -> None:
        """Notice the first request of a turn of the loop."""
        if self._is_in_turn:
            return
        self._is_in_turn = True
        is_busy = now_s - self._turn_ended_s < bounds.LOOP_IDLE_S_MIN
        self.lag_s = now_s - self._turn_began_s if is_busy else 0.0
        self._turn_began_s = now_s

    def turn_ended(self, now_s: float) -> None:
        """Notice that a turn of the loop has done what it read; take the cost of a row anew."""
        self._is_in_turn = False
        self._turn_ended_s = now_s
        if self._queue.n_rows >= bounds.GATE_ROWS_MIN:
            n_rows = bounds.SERVE_BATCH_ROWS_MAX
            self._row_s = self._curve.wait_s(n_rows, now_s=now_s) / n_rows
