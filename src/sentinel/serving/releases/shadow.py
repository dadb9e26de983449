"""A challenger that scores live rows and answers nobody.

1. After a batch of events was decided, its rows are copied to a bounded queue. When there is no
   room they are skipped and counted; nobody waits.
2. Every ``SHADOW_EVERY_S`` a thread of its own takes what has come, scores it in slices with the
   challenger and its guards, rests after each, and counts both answers against each other
   (:mod:`sentinel.serving.releases.comparison`).

The challenger reads the same state, so it scores the very vectors that were scored; encodings that
were fitted again are read anew from the events. It keeps no state, writes no log and is in no
metric but its own.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sentinel.contract import EventBatch
from sentinel.core.errors import SentinelError
from sentinel.core.rests import Rests
from sentinel.features import CategoryEncoding, Engine
from sentinel.monitoring.metrics import Metrics
from sentinel.scoring import DecisionBatch
from sentinel.scoring.guards import Rows
from sentinel.scoring.scorer import outcomes
from sentinel.serving import bounds
from sentinel.serving.batching.attempt import attempt
from sentinel.serving.releases.comparison import Answered, Comparison
from sentinel.serving.releases.working_release import WorkingRelease


@dataclass(frozen=True, slots=True)
class _Copied:
    """Rows of one batch, and what was answered; events where features are to be read anew."""

    rows: Rows
    now: Answered
    events: EventBatch | None = None
    kept: npt.NDArray[np.int64] | None = None


class Shadow:
    """One challenger beside the release in service.

    Parameters
    ----------
    challenger : WorkingRelease
        Used by the shadow's thread alone, until :meth:`stop`.
    metrics : Metrics
    against : WorkingRelease
        In service.
    """

    def __init__(
        self, challenger: WorkingRelease, metrics: Metrics, *, against: WorkingRelease
    ) -> None:
        self.challenger = challenger
        self.against = against.label
        plans = (challenger.loaded.parts.plan, against.loaded.parts.plan)
        is_refitted = plans[0].identity != plans[1].identity
        self._metrics = metrics
        self._queue: deque[_Copied] = deque()
        self._n_queued = self._n_skipped = self._n_failed = 0
        self._fault = ""
        self._lock = threading.Lock()
        self._comparison = Comparison()
        self._read_anew = columns_of_encodings(challenger) if is_refitted else ()
        self._began_ms = time.time_ns() // 1_000_000
        self._wake = threading.Event()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
        self._thread.start()

    def watch(self, decisions: DecisionBatch, entities: npt.NDArray[np.int64]) -> None:
        """Take a batch that was decided; in the scoring thread, so it only copies.

        Parameters
        ----------
        decisions : DecisionBatch
        entities : ndarray of int64, shape (n,)
        """
        n_rows = decisions.n_rows
        if self._n_queued + n_rows > bounds.SHADOW_ROWS_MAX:
            self._n_skipped += n_rows
            self._metrics.add("sentinel_shadow_rows_total", n_rows, result="skipped")
            return
        # A repeated event was answered before; it is no row of its own.
        kept = np.flatnonzero(decisions.is_decided)
        if not len(kept):
            return
        copied = _Copied(
            Rows(decisions.features[kept], decisions.feature_status[kept], entities[kept]),
            Answered(
                scores=decisions.score[kept],
                outcomes=decisions.outcome[kept],
                served_by=decisions.served_by[kept],
            ),
            decisions.events if self._read_anew else None,
            kept,
        )
        with self._lock:
            self._queue.append(copied)
            self._n_queued += copied.rows.n_rows

    def stop(self) -> None:
        """End after the slice that is being scored."""
        self._is_stopping = True
        self._wake.set()
        self._thread.join(bounds.SWAP_S_MAX)

    @property
    def has_ended(self) -> bool:
        """Whether its thread runs no more: then others may use the challenger."""
        return not self._thread.is_alive()

    def report(self) -> dict[str, object]:
        """Say how the challenger compares, as plain data."""
        with self._lock:
            data = self._comparison.to_data()
        status = self.challenger.scorer.status()
        return {
            "in_service": self.against,
            "challenger": self.challenger.label,
            "digest": self.challenger.digest,
            "since_ms": self._began_ms,
            "is_running": not self.has_ended and not self._is_stopping,
            "n_waiting": self._n_queued,
            "n_skipped": self._n_skipped,
            "n_failed": self._n_failed,
            "fault": self._fault,
            "challenger_breaker": str(status.breaker),
            **data,
        }

    # --- private -----------------------------------------------------------------------------

    def _run(self) -> None:
        rests = Rests()
        while not self._is_stopping:
            self._wake.wait(bounds.SHADOW_EVERY_S)
            while not self._is_stopping and (taken := self._take()) is not None:
                found = attempt(lambda taken=taken: self._score(taken), at="shadow")  # type: ignore[misc]
                if isinstance(found, SentinelError):
                    self._n_failed += taken.rows.n_rows
                    self._fault = str(found)
                rests.rest(is_urgent=self._is_stopping)

    def _take(self) -> _Copied | None:
        """Take whole batches for one slice."""
        chosen: list[_Copied] = []
        n_rows = 0
        with self._lock:
            while self._queue:
                n_next = self._queue[0].rows.n_rows
                if chosen and n_rows + n_next > bounds.SHADOW_SLICE_ROWS:
                    break
                chosen.append(self._queue.popleft())
                n_rows += n_next
            self._n_queued -= n_rows
        chosen = [self._with_own_encodings(each) for each in chosen]
        if len(chosen) < 2:
            return chosen[0] if chosen else None
        return _Copied(
            Rows(
                np.concatenate([each.rows.values for each in chosen]),
                np.concatenate([each.rows.status for each in chosen]),
                np.concatenate([each.rows.entities for each in chosen]),
            ),
            Answered(
                scores=np.concatenate([each.now.scores for each in chosen]),
                outcomes=np.concatenate([each.now.outcomes for each in chosen]),
                served_by=np.concatenate([each.now.served_by for each in chosen]),
            ),
        )

    def _with_own_encodings(self, copied: _Copied) -> _Copied:
        """Put in the challenger's numbers for categories: functions of an event alone."""
        if copied.events is None or copied.kept is None:
            return copied
        matrix = Engine(self.challenger.loaded.parts.plan).advance(copied.events)
        columns = list(self._read_anew)
        copied.rows.values[:, columns] = matrix.values[copied.kept][:, columns]
        copied.rows.status[:, columns] = matrix.status[copied.kept][:, columns]
        return copied

    def _score(self, copied: _Copied) -> None:
        release = self.challenger
        release.scorer.champion.tick(copied.rows)
        began_s = time.perf_counter()
        answer = release.scorer.champion.predict(copied.rows)
        seconds = time.perf_counter() - began_s
        with self._lock:
            self._comparison.add(copied.now, answer, outcomes(answer, release.thresholds))
            self._comparison.time(seconds, copied.rows.n_rows)
        self._metrics.add("sentinel_shadow_rows_total", copied.rows.n_rows, result="scored")


def columns_of_encodings(release: WorkingRelease) -> tuple[int, ...]:
    """Return the columns whose numbers were fitted."""
    features = release.loaded.parts.plan.features.features
    return tuple(i for i, each in enumerate(features) if isinstance(each, CategoryEncoding))
