"""The rows of the last decisions of one release: what an explanation can still be made of.

A ring of columns, filled as decisions are made: a few copies a batch and nothing a row in Python.
Event ids are kept as 64-bit hashes; a question hashes its id and looks through the ring.
"""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

from sentinel.core import limits
from sentinel.core.native import frozen, native
from sentinel.core.siphash import siphash
from sentinel.monitoring.log_records import LogRecords
from sentinel.scoring.explanation import ScoredRows


class RecentRows:
    """The last rows of one release; written by the scoring thread, read by others.

    Parameters
    ----------
    n_features : int
    n_max : int
        Rows that are kept.
    """

    def __init__(self, n_features: int, *, n_max: int = limits.DECISIONS_REMEMBERED_MAX) -> None:
        self._n_max = n_max
        self._n = 0
        self._lock = threading.Lock()
        # Pages that were never written take no memory.
        self._ids = np.zeros(n_max, dtype=np.uint64)
        self._values = np.empty((n_max, n_features), dtype=np.float32)
        self._status = np.empty((n_max, n_features), dtype=np.uint8)
        self._score = np.empty(n_max, dtype=np.float64)
        self._outcome = np.empty(n_max, dtype=np.uint8)
        self._served_by = np.empty(n_max, dtype=np.uint8)

    def keep(self, records: LogRecords) -> None:
        """Keep the rows of a batch; of more than fit, the last."""
        n, n_max = records.n_records, self._n_max
        ids = hash_ids(frozen(records.id_content), np.ascontiguousarray(records.id_spans))
        columns = (
            (self._ids, ids),
            (self._values, records.features),
            (self._status, records.feature_status),
            (self._score, records.score),
            (self._outcome, records.outcome),
            (self._served_by, records.served_by),
        )
        with self._lock:
            start = self._n % n_max
            if start + n <= n_max:
                for column, rows in columns:
                    column[start : start + n] = rows
            else:
                places = np.arange(self._n, self._n + n)[-n_max:] % n_max
                for column, rows in columns:
                    column[places] = rows[-n_max:]
            self._n += n

    def find(self, event_id: bytes) -> ScoredRows | None:
        """Return the one row of an event; None when it is not, or no longer, there."""
        wanted = hash_id(event_id)
        with self._lock:
            found = np.flatnonzero(self._ids[: min(self._n, self._n_max)] == wanted)
            if not len(found):
                return None
            row = found[-1:]
            return ScoredRows(
                values=self._values[row],
                status=self._status[row],
                score=self._score[row],
                outcome=self._outcome[row],
                served_by=self._served_by[row],
            )


def hash_id(event_id: bytes) -> np.uint64:
    """Hash one event id as :func:`hash_ids` does."""
    content = np.frombuffer(event_id, dtype=np.uint8)
    spans = np.array([[0, len(event_id)]], dtype=np.int64)
    found: np.uint64 = hash_ids(content, spans)[0]
    return found


@native
def hash_ids(
    content: npt.NDArray[np.uint8], spans: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint64]:
    """Hash the event ids of a batch.

    Parameters
    ----------
    content : ndarray of uint8, read-only
    spans : ndarray of int64, shape (n, 2)

    Returns
    -------
    ndarray of uint64, shape (n,)
    """
    hashes = np.empty(len(spans), dtype=np.uint64)
    for row in range(len(spans)):
        hashes[row] = siphash(content, spans[row, 0], spans[row, 1])
    return hashes
