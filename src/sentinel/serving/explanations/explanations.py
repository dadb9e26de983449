"""Explanations beside scoring: what is queued, what was skipped, what is known of each decision.

1. Scoring hands the rows of each batch to a :class:`Tap`: they are copied into a ring, and the
   ones that are to be explained (declined and reviewed by default) are queued. Nothing waits: a
   full queue skips them, and counts them.
2. A thread takes what is queued, in batches, to the explainer's process, and keeps the answers in
   memory. A process that dies or hangs is ended and started again after a pause that doubles; its
   batch is tried once more.
3. A question finds an explanation, or queues the row if it is still in the ring.
"""

from __future__ import annotations

import enum
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.monitoring.log_records import LogRecords
from sentinel.monitoring.metrics import Metrics
from sentinel.release import LoadedRelease
from sentinel.scoring import Outcome
from sentinel.scoring.explanation import ScoredRows
from sentinel.serving import bounds
from sentinel.serving.explanations.explainer import ExplainerProcess
from sentinel.serving.explanations.explainer_wire import Ask, Lost
from sentinel.serving.explanations.recent_rows import RecentRows
from sentinel.serving.settings import ExplainMode


class Result(enum.StrEnum):
    """What became of a row that was to be explained, beside the absences of scoring."""

    EXPLAINED = "explained"
    SKIPPED = "skipped"
    FAILED = "failed"


# Why there is no explanation, in words for whoever asks.
_WORDS = {
    "held": "nobody answered it, so there is no score to explain",
    "not-additive": "none was found that adds up to its score",
    "no-data": "its release carries nothing to explain its champion by",
    "not-finite": "its features are not finite numbers",
    "failed": "the explainer failed at it",
    "forgotten": "its features are not, or no longer, remembered",
    "off": "explanations are turned off",
}


_IS_FLAGGED = np.array([outcome in {Outcome.REVIEW, Outcome.DECLINE} for outcome in Outcome])


# An explanation as JSON, or the word for why there is none.
Answer = bytes | str


class _Group:
    """Rows that one caller wants together."""

    def __init__(self, n_rows: int, reply: Callable[[Sequence[Answer]], None]) -> None:
        self._answers: list[Answer] = [str(Result.FAILED)] * n_rows
        self._n_left = n_rows
        self._reply = reply

    def put(self, place: int, answer: Answer) -> None:
        """Take one answer; reply with the last."""
        self._answers[place] = answer
        self._n_left -= 1
        if not self._n_left:
            self._reply(self._answers)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """One row that is to be explained; of an event, or a place of a group."""

    event_id: bytes
    release: LoadedRelease
    rows: ScoredRows
    n_tries: int = 0
    group: _Group | None = None
    place: int = 0


class Tap:
    """Where the scorer of one release hands its decisions; called in the scoring thread.

    Parameters
    ----------
    desk : Explanations
    loaded : LoadedRelease
    """

    def __init__(self, desk: Explanations, loaded: LoadedRelease) -> None:
        self._desk = desk
        self.loaded = loaded
        self.recent = RecentRows(len(loaded.parts.plan.names))
        self._is_used = False

    def offer(self, records: LogRecords) -> None:
        """Remember the rows of a batch, and queue those that are to be explained."""
        if not self._is_used:
            # A release that was only staged has decided nothing, and nobody asks it.
            self._is_used = True
            self._desk.use(self)
        self.recent.keep(records)
        if self._desk.mode is ExplainMode.ALL:
            chosen = np.arange(records.n_records)
        else:
            chosen = _IS_FLAGGED[records.outcome].nonzero()[0]
            if not len(chosen):
                return
        # Copied are rows that have room: one that is skipped must cost next to nothing.
        taken = chosen[: self._desk.n_free]
        self._desk.queue([self._waiting(records, row) for row in taken.tolist()])
        self._desk.skip(len(chosen) - len(taken))

    def _waiting(self, records: LogRecords, row: int) -> _Waiting:
        start, end = records.id_spans[row].tolist()
        one = slice(row, row + 1)
        rows = ScoredRows(
            values=records.features[one].copy(),
            status=records.feature_status[one].copy(),
            score=records.score[one].copy(),
            outcome=records.outcome[one].copy(),
            served_by=records.served_by[one].copy(),
        )
        return _Waiting(records.id_content[start:end].tobytes(), self.loaded, rows)


class Explanations:
    """The desk: a bounded queue, a thread, a process, and what came back.

    Parameters
    ----------
    mode : ExplainMode
    process : ExplainerProcess, optional
        By default one that keeps nothing on disk.
    rows_max : int
        Rows that may wait.
    """

    def __init__(
        self,
        mode: ExplainMode,
        *,
        process: ExplainerProcess | None = None,
        rows_max: int = bounds.EXPLANATION_QUEUE_ROWS_MAX,
    ) -> None:
        self.mode = mode
        self._rows_max = rows_max
        self._process = process if process is not None else ExplainerProcess(None)
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._is_stopping = threading.Event()
        self._waiting: deque[_Waiting] = deque()
        self._wanted: set[bytes] = set()
        self._known: dict[bytes, bytes | str] = {}
        # The newest first.
        self._taps: tuple[Tap, ...] = ()
        self._counts: dict[str, int] = {}
        self._trouble = ""
        self._pause_s = bounds.EXPLAINER_PAUSE_S
        self._thread = threading.Thread(target=self._run, name="explanations", daemon=True)
        if mode is not ExplainMode.NONE:
            self._thread.start()

    # --- the scoring thread ------------------------------------------------------------------

    def tap(self, loaded: LoadedRelease) -> Tap | None:
        """Make where a release hands its decisions; None when explanations are off."""
        if self.mode is ExplainMode.NONE:
            return None
        return Tap(self, loaded)

    def use(self, tap: Tap) -> None:
        """Look for rows there too, from now on; the tap used first is forgotten first."""
        self._taps = (tap, *self._taps)[: bounds.EXPLAINER_RELEASES_MAX]

    @property
    def n_free(self) -> int:
        """Rows that have room; a number that is being changed is as good as the one before."""
        return max(0, self._rows_max - len(self._waiting))

    def skip(self, n_rows: int) -> None:
        """Count rows that were not even offered."""
        if n_rows:
            with self._lock:
                self._count(Result.SKIPPED, n_rows)

    def queue(self, rows: list[_Waiting]) -> int:
        """Queue rows; those that do not fit are skipped and counted. Return how many fitted."""
        with self._lock:
            n_free = self._rows_max - len(self._waiting)
            taken = rows[: max(0, n_free)]
            self._waiting.extend(taken)
            self._wanted.update(row.event_id for row in taken if row.group is None)
            n_skipped = len(rows) - len(taken)
            if n_skipped:
                self._count(Result.SKIPPED, n_skipped)
        if taken and not self._wake.is_set():
            self._wake.set()
        return len(taken)

    # --- whoever asks ------------------------------------------------------------------------

    def find(self, event_id: bytes) -> bytes | None:
        """Return the explanation of a decision as JSON; None when it is on its way.

        A decision that was not explained yet is queued now.

        Raises
        ------
        SentinelError
            ``explanation-unavailable``; ``overloaded`` when the queue is full.
        """
        self.require_on()
        with self._lock:
            known, is_wanted = self._known.get(event_id), event_id in self._wanted
        if isinstance(known, bytes):
            return known
        if is_wanted:
            return None
        if known is not None and known != Result.FAILED:
            raise _unavailable(known)
        for tap in self._taps:
            rows = tap.recent.find(event_id)
            if rows is not None:
                if not self.queue([_Waiting(event_id, tap.loaded, rows)]):
                    raise self._full()
                return None
        raise _unavailable("forgotten")

    def explain(
        self,
        release: LoadedRelease,
        rows: ScoredRows,
        reply: Callable[[Sequence[Answer]], None],
    ) -> None:
        """Explain rows that are no decisions; nothing of them is kept.

        Parameters
        ----------
        release : LoadedRelease
            That scored them.
        rows : ScoredRows
        reply : callable
            Told the answers, in the order of the rows, in the thread of the desk.

        Raises
        ------
        SentinelError
            ``explanation-unavailable`` when explanations are off; ``overloaded`` when they do not
            all fit the queue: then none is explained.
        """
        self.require_on()
        if rows.n_rows > self._rows_max - self.n_waiting:
            raise self._full()
        group = _Group(rows.n_rows, reply)
        self.queue(
            [
                _Waiting(b"", release, rows.row(place), group=group, place=place)
                for place in range(rows.n_rows)
            ]
        )

    def require_on(self) -> None:
        """Refuse when explanations are turned off.

        Raises
        ------
        SentinelError
            ``explanation-unavailable``.
        """
        if self.mode is ExplainMode.NONE:
            raise _unavailable("off")

    def counts(self) -> dict[str, int]:
        """Return what became of rows since the start, by result."""
        with self._lock:
            return dict(self._counts)

    @property
    def n_waiting(self) -> int:
        """Rows that wait."""
        return len(self._waiting)

    @property
    def n_starts(self) -> int:
        """Starts of the explainer's process."""
        return self._process.n_starts

    def causes(self) -> tuple[str, ...]:
        """Say what is wrong with explanations; scoring goes on without them."""
        return (f"explanations: {self._trouble}",) if self._trouble else ()

    def close(self) -> None:
        """End the thread and the process; what waits is not explained."""
        self._is_stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(bounds.EXPLAINER_END_S_MAX)
        if self._thread.is_alive():
            self._process.kill()
            self._thread.join(bounds.EXPLAINER_END_S_MAX)
        self._process.close()

    # --- the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._is_stopping.is_set():
            self._wake.wait()
            if len(self._waiting) < bounds.EXPLANATION_BATCH_ROWS_MAX:
                # Company: one wake-up of this process for all rows of some milliseconds.
                self._is_stopping.wait(bounds.EXPLANATION_LINGER_S)
            batch = self._take()
            if batch:
                self._explain(batch)

    def _take(self) -> list[_Waiting]:
        """Take rows of one release, in their order; sleep again when nothing is left.

        A row that was in a batch without an answer goes alone: it may be the reason.
        """
        with self._lock:
            if not self._waiting:
                self._wake.clear()
                return []
            batch = [self._waiting.popleft()]
            first = batch[0]
            while (
                self._waiting
                and not first.n_tries
                and len(batch) < bounds.EXPLANATION_BATCH_ROWS_MAX
                and self._waiting[0].release.digest == first.release.digest
                and not self._waiting[0].n_tries
            ):
                batch.append(self._waiting.popleft())
            return batch

    def _explain(self, batch: list[_Waiting]) -> None:
        release = batch[0].release
        told = self._process.ask(
            Ask.of(
                release.digest,
                str(release.folder),
                [row.event_id for row in batch],
                _joined([row.rows for row in batch]),
            )
        )
        if isinstance(told, Lost):
            self._lose(batch, told.why)
        elif told.error:
            self._trouble = told.error
            self._settle(batch, [str(Result.FAILED)] * len(batch))
            self._wait()
        else:
            self._trouble, self._pause_s = "", bounds.EXPLAINER_PAUSE_S
            answers = zip(told.answers, told.absences, strict=True)
            self._settle(batch, [answer or absence for answer, absence in answers])

    def _lose(self, batch: list[_Waiting], why: str) -> None:
        """Try the rows of a batch again that got no answer, each alone; then not any more."""
        if self._is_stopping.is_set():
            return
        self._trouble = why
        self._wait()
        again = [replace(row, n_tries=row.n_tries + 1) for row in batch]
        left = [row for row in again if row.n_tries < bounds.EXPLAINER_TRIES_MAX]
        lost = [row for row in again if row.n_tries >= bounds.EXPLAINER_TRIES_MAX]
        with self._lock:
            self._waiting.extendleft(reversed(left))
        self._settle(lost, [str(Result.FAILED)] * len(lost))

    def _wait(self) -> None:
        """Pause after a failure, longer after each."""
        end_s = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, bounds.EXPLAINER_PAUSE_S_MAX)
        self._is_stopping.wait(max(0.0, end_s - time.monotonic()))

    def _settle(self, batch: list[_Waiting], answers: Sequence[Answer]) -> None:
        with self._lock:
            for row, answer in zip(batch, answers, strict=True):
                is_found = isinstance(answer, bytes)
                self._count(str(Result.EXPLAINED) if is_found else str(answer), 1)
                if row.group is None:
                    self._wanted.discard(row.event_id)
                    self._known.pop(row.event_id, None)
                    self._known[row.event_id] = answer
            while len(self._known) > bounds.EXPLANATIONS_REMEMBERED_MAX:
                del self._known[next(iter(self._known))]
        for row, answer in zip(batch, answers, strict=True):
            if row.group is not None:
                row.group.put(row.place, answer)

    def _full(self) -> SentinelError:
        return SentinelError(
            ErrorCode.OVERLOADED,
            at="explanation",
            expected=f"room among {self._rows_max} rows that wait",
            got="a full queue",
        )

    def _count(self, result: str, n: int) -> None:
        self._counts[result] = self._counts.get(result, 0) + n


def watch(explanations: Explanations, metrics: Metrics) -> None:
    """Bring the counts of a desk into metrics, at every scrape."""

    def show() -> None:
        for result, n in explanations.counts().items():
            metrics.advance("sentinel_explanations_total", n, result=result)
        metrics.advance("sentinel_explainer_starts_total", explanations.n_starts)
        metrics.put("sentinel_explanation_queue_rows", explanations.n_waiting)

    metrics.before_scrape(show)


def _joined(rows: list[ScoredRows]) -> ScoredRows:
    return ScoredRows(
        values=np.concatenate([each.values for each in rows]),
        status=np.concatenate([each.status for each in rows]),
        score=np.concatenate([each.score for each in rows]),
        outcome=np.concatenate([each.outcome for each in rows]),
        served_by=np.concatenate([each.served_by for each in rows]),
    )


def _unavailable(why: str) -> SentinelError:
    return SentinelError(
        ErrorCode.EXPLANATION_UNAVAILABLE,
        at="explanation",
        expected="a decision with an explanation",
        got=_WORDS.get(why, why),
    )
