"""Batching across callers: what has arrived while one batch was scored is the next batch.

Nobody ever waits for company: what is there is taken, one row or many. Under load the batch grows
by itself, up to a bound.

The *door* (an event loop) submits works and is told results. A batch is scored in the *scoring
thread*, so that a slow model never blocks the door; its results go back by one wake-up of the loop.
While batches are known to be quick (measured in the last seconds, under ``INLINE_S_MAX``) and
nothing on their way may wait for a disk, the door scores what one turn of its loop has read at
once: two threads that share an interpreter lock take more time to hand over than the model needs.
The first slow batch ends that. A lock makes sure that one of the two scores at a time. A caller
that has been alone for some turns is answered as it asks; the first who comes at the same time
ends that.

A work is settled once: by its result or by its deadline, whichever is first;
what comes later is counted and dropped. Work whose deadline has passed is dropped before the
model.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.monitoring.latency import LatencyHistogram
from sentinel.serving import bounds
from sentinel.serving.batching.attempt import attempt
from sentinel.serving.batching.gate import Gate
from sentinel.serving.batching.queue_of_rows import RowQueue, deadline_passed
from sentinel.serving.batching.service_time import ServiceTime
from sentinel.serving.batching.work import Answers, Kind, Piece, Result, Work

# Kinds that may be answered as they come: what the plane's own clocks ask for takes its turn.
_ALONE = frozenset({Kind.EVENTS, Kind.TENSOR})


class Worker(Protocol):
    """What scores batches, in the scoring thread."""

    def run(self, pieces: Sequence[Piece]) -> list[Answers]:
        """Answer the pieces of one batch, all of one kind, in their order."""

    def tick(self) -> None:
        """Let time pass."""

    def is_prompt(self) -> bool:
        """Whether nothing in the next batch may wait for a disk."""

    def failure(self) -> str:
        """Say why this worker will never answer again; empty while it can."""


class Recorder(Protocol):
    """Somebody who wants to know where the time goes."""

    def scored(self, pieces: Sequence[Piece], started_s: float, ended_s: float) -> None:
        """Be told of a batch that has ended."""

    def replied(self, work: Work, now_s: float) -> None:
        """Be told of a request that has its answer."""


class Loop(Protocol):
    """The event loop of the door."""

    def call_soon_threadsafe(self, callback: Callable[..., object], *arguments: object) -> object:
        """Call it in the loop's thread."""

    def call_soon(self, callback: Callable[..., object]) -> object:
        """Call it in the loop, in its next turn."""

    def call_later(self, delay: float, callback: Callable[..., object]) -> object:
        """Call it in the loop, later."""


class Vital(NamedTuple):
    """What tells whether the batcher works at all.

    Attributes
    ----------
    failure : str
        Why it will not answer again.
    is_alive : bool
        The scoring thread runs.
    busy_for_s : float
        How long the batch that is being scored has taken so far; 0.0 when none is.
    """

    failure: str
    is_alive: bool
    busy_for_s: float


@dataclass(frozen=True, slots=True)
class BatcherState:
    """How the batcher is.

    Attributes
    ----------
    n_rows, n_works : int
        That wait.
    busy_for_s : float
        How long the batch that is being scored has taken so far; 0.0 when none is.
    heartbeat_age_s : float
        Since the scoring thread was last seen between two batches.
    is_alive : bool
        The scoring thread runs.
    failure : str
        Why it will not answer again.
    n_batches, n_rows_scored, n_late : int
        Since the start; ``n_late`` results that nobody waited for any more.
    n_refused : dict of str to int
        Works refused at the queue, by error code.
    """

    n_rows: int
    n_works: int
    busy_for_s: float
    heartbeat_age_s: float
    is_alive: bool
    failure: str
    n_batches: int
    n_rows_scored: int
    n_late: int
    n_refused: dict[str, int]


class Batcher:
    """The queue, the scoring thread, and the way back.

    Parameters
    ----------
    worker : Worker
        Used by the scoring thread alone.
    loop : Loop
        Where replies are given.
    rows_max : int
        Rows that may wait.
    """

    def __init__(
        self, worker: Worker, loop: Loop, *, rows_max: int = bounds.QUEUE_ROWS_MAX
    ) -> None:
        self._worker = worker
        self._loop = loop
        self._curve = ServiceTime()
        self._queue = RowQueue(rows_max=rows_max, curve=self._curve)
        self.gate = Gate(self._queue, self._curve)
        self._condition = threading.Condition(threading.Lock())
        self._is_waiting = False
        self._is_stopping = False
        self._calls: list[Callable[[], None]] = []
        self._flying: list[Piece] = []
        self._flying_since_s = 0.0
        self._flying_estimate_s = 0.0
        self._ended_s = 0.0
        self._beat_s = time.monotonic()
        self._ticked_s = self._beat_s
        self._failure = ""
        self._n_batches = self._n_rows = self._n_late = 0
        self._n_refused: dict[str, int] = {}
        self._is_sweeping = False
        self._is_turn_due = False
        self._is_at_once = False
        self._has_ended = False
        # Turns in a row that had one work, and when the last one that did not wait had ended.
        self._n_lone = 0
        self._lone_ended_s = 0.0
        self._scoring = threading.Lock()
        self._recorder: Recorder | None = None
        # Always on, for the metrics: of each request, of each request, of each batch's answers.
        self.parse_seconds = LatencyHistogram()
        self.queue_seconds = LatencyHistogram()
        self.answer_seconds = LatencyHistogram()
        self._thread = threading.Thread(target=self._run, name="scoring", daemon=True)
        self._thread.start()

    # --- the door's side ---------------------------------------------------------------------

    def submit(self, work: Work) -> None:
        """Queue a work, or refuse it. Its reply is called once, in the loop, unless this raises.

        Where nobody else asks, the reply may be called before this returns.

        Raises
        ------
        SentinelError
            ``overloaded``, ``deadline-passed``; ``draining`` after :meth:`stop`;
            ``scorer-closed`` when the scoring thread has ended.
        """
        now_s = work.queued_s = time.monotonic()
        gate = self.gate
        gate.turn_began(now_s)
        if self._is_lone(work, now_s) and self._score_alone(work, now_s):
            return
        with self._condition:
            try:
                if self._is_stopping or self._failure or self._has_ended:
                    self._check_running()
                busy_s = self._busy_s(now_s) if self._flying else 0.0
                self._queue.add(work, now_s=now_s, busy_s=busy_s + gate.lag_s)
            except SentinelError as error:
                name = str(error.code)
                self._n_refused[name] = self._n_refused.get(name, 0) + 1
                raise
        if not self._is_turn_due:
            self._is_turn_due = True
            self._loop.call_soon(self._take_turn)
        if not self._is_sweeping:
            self._is_sweeping = True
            self._loop.call_later(bounds.DEADLINE_SWEEP_S, self._sweep)

    def abandon(self, work: Work) -> None:
        """Forget a work: its caller went away."""
        work.is_settled = True
        with self._condition:
            self._queue.drop(work)

    def call(self, function: Callable[[], None]) -> None:
        """Run a function in the scoring thread, between two batches."""
        with self._condition:
            self._check_running()
            self._calls.append(function)
            self._condition.notify()

    def record(self, recorder: Recorder | None) -> bool:
        """Tell somebody of every batch and answer from now on; None: nobody.

        Returns
        -------
        bool
            False while another one is told: then nothing was changed.
        """
        with self._condition:
            if recorder is not None and self._recorder is not None:
                return False
            self._recorder = recorder
            return True

    def vital(self) -> Vital:
        """Return whether it works; any thread, and no lock: what asks often waits for nobody."""
        # When it began is written before the batch, and read after it.
        busy_for_s = time.monotonic() - self._flying_since_s if self._flying else 0.0
        return Vital(self._failure, self._thread.is_alive(), busy_for_s)

    def state(self) -> BatcherState:
        """Return how it is; any thread."""
        now_s = time.monotonic()
        with self._condition:
            return BatcherState(
                n_rows=self._queue.n_rows,
                n_works=self._queue.n_works,
                busy_for_s=now_s - self._flying_since_s if self._flying else 0.0,
                heartbeat_age_s=now_s - self._beat_s,
                is_alive=self._thread.is_alive(),
                failure=self._failure,
                n_batches=self._n_batches,
                n_rows_scored=self._n_rows,
                n_late=self._n_late,
                n_refused=self._refused(),
            )

    def stop(self, *, wait_s_max: float) -> bool:
        """Score what waits, take nothing new, end the thread; False when time ran out."""
        with self._condition:
            self._is_stopping = True
            self._condition.notify()
        self._thread.join(wait_s_max)
        return not self._thread.is_alive()

    # --- private: the door's side ------------------------------------------------------------

    def _refused(self) -> dict[str, int]:
        """Count what was refused, at the gate or at the queue."""
        found, name = dict(self._n_refused), str(ErrorCode.OVERLOADED)
        if self.gate.n_refused:
            found[name] = found.get(name, 0) + self.gate.n_refused
        return found

    def _check_running(self) -> None:
        if self._failure or self._has_ended:
            raise SentinelError(
                ErrorCode.SCORER_CLOSED,
                at="scoring thread",
                expected="one that runs",
                got=self._failure or "one that has ended",
            )
        if self._is_stopping:
            raise SentinelError(
                ErrorCode.DRAINING,
                at="server",
                expected="one that takes requests",
                got="one that is stopping",
            )

    def _busy_s(self, now_s: float) -> float:
        """Estimate how long the flying batch will still take; one that hangs goes on hanging."""
        elapsed_s = now_s - self._flying_since_s
        left_s = self._flying_estimate_s - elapsed_s
        return left_s if left_s > 0 else max(0.0, elapsed_s - 2 * self._flying_estimate_s)

    def _sweep(self) -> None:
        """Answer works whose deadline has passed; runs while any work is in the house."""
        now_s = time.monotonic()
        with self._condition:
            works = self._queue.works() + [piece.work for piece in self._flying]
            late = [work for work in works if now_s >= work.deadline_s and not work.is_settled]
            for work in late:
                self._queue.drop(work)
                work.is_settled = True
        for work in late:
            work.reply(deadline_passed(work))
        self._is_sweeping = bool(works)
        if works:
            self._loop.call_later(bounds.DEADLINE_SWEEP_S, self._sweep)

    def _deliver(self, results: list[tuple[Work, Result]]) -> None:
        started_s, recorder = time.monotonic(), self._recorder
        for work, result in results:
            if work.is_settled:
                self._n_late += 1
                continue
            work.is_settled = True
            work.reply(result)
            if recorder is not None:
                recorder.replied(work, time.monotonic())
        self.answer_seconds.observe(time.monotonic() - started_s)

    def _is_lone(self, work: Work, now_s: float) -> bool:
        """Whether nobody else is likely to ask in this turn of the loop."""
        if self._n_lone < bounds.LONE_TURNS_MIN or self._is_turn_due or work.kind not in _ALONE:
            return False
        if now_s - self._lone_ended_s < bounds.COMPANY_S:
            self._n_lone = 0
            return False
        return True

    def _score_alone(self, work: Work, now_s: float) -> bool:
        """Score the one work there is without a queue; False where that is not sure to be right."""
        is_free = not (self._is_at_once or self._queue.n_rows or self._has_ended)
        is_small = work.n_rows <= bounds.SERVE_BATCH_ROWS_MAX
        if not (is_free and is_small and now_s < work.deadline_s):
            return False
        if not self._is_quick(work.n_rows, now_s):
            return False
        if not self._scoring.acquire(blocking=False):
            return False
        self._is_at_once = True
        work.n_taken = work.n_rows
        try:
            self._score_batch([Piece(work, 0, work.n_rows)], now_s, self._deliver)
        finally:
            self._is_at_once = False
            self._scoring.release()
            self._lone_ended_s = time.monotonic()
            self.gate.turn_ended(self._lone_ended_s)
        return True

    def _take_turn(self) -> None:
        """Score what this turn of the loop has read, or leave it to the scoring thread."""
        self._is_turn_due = False
        self._n_lone = self._n_lone + 1 if self._queue.n_works == 1 else 0
        is_quick = self._is_quick(self._queue.n_rows, time.monotonic())
        if not is_quick or not self._scoring.acquire(blocking=False):
            with self._condition:
                if self._is_waiting:
                    self._is_waiting = False
                    self._condition.notify()
            self.gate.turn_ended(time.monotonic())
            return
        try:
            self._score_next(self._deliver)
        finally:
            self._scoring.release()
            self.gate.turn_ended(time.monotonic())
        if self._queue.n_rows and not self._is_turn_due:
            self._is_turn_due = True
            self._loop.call_soon(self._take_turn)

    def _is_quick(self, n_rows: int, now_s: float) -> bool:
        """Whether the next batch is sure not to keep the loop for long."""
        if not n_rows or self._is_stopping or self._failure:
            return False
        seconds = self._curve.seconds(min(n_rows, bounds.SERVE_BATCH_ROWS_MAX), now_s=now_s)
        return 0.0 < seconds < bounds.INLINE_S_MAX and self._worker.is_prompt()

    # --- private: the scoring thread ---------------------------------------------------------

    def _run(self) -> None:
        try:
            self._score_on()
        finally:
            self._has_ended = True
        self._fail_the_rest()

    def _score_on(self) -> None:
        while not self._failure:
            with self._condition:
                self._beat_s = time.monotonic()
                if not self._queue.n_rows and not self._calls:
                    if self._is_stopping:
                        break
                    self._is_waiting = True
                    self._condition.wait(limits.HEARTBEAT_S)
                    self._is_waiting = False
            with self._scoring:
                is_busy = self._score_next(self._hand_back)
                # Under a load without a gap, too: a snapshot, a lost store and a pause are due.
                is_due = time.monotonic() - self._ticked_s >= limits.HEARTBEAT_S
                if not is_busy or self._calls or is_due:
                    self._pass_time()

    def _score_next(self, deliver: Callable[[list[tuple[Work, Result]]], None]) -> bool:
        """Score one batch, in whichever thread holds the lock; False when nothing waits."""
        now_s = time.monotonic()
        pieces: list[Piece] = []
        late: list[Work] = []
        with self._condition:
            for piece in self._queue.take(n_rows_max=bounds.SERVE_BATCH_ROWS_MAX):
                if piece.work.is_settled or now_s >= piece.work.deadline_s:
                    late.append(piece.work)
                    self._queue.drop(piece.work)
                else:
                    pieces.append(piece)
            self._flying_since_s = now_s
            self._flying = pieces
        if late:
            deliver([(work, deadline_passed(work)) for work in late])
        if not pieces:
            return bool(late)
        self._score_batch(pieces, now_s, deliver)
        return True

    def _score_batch(
        self,
        pieces: list[Piece],
        now_s: float,
        deliver: Callable[[list[tuple[Work, Result]]], None],
    ) -> None:
        """Score pieces that are taken, and tell; by who holds the lock."""
        n_rows = sum([end - start for _, start, end in pieces])
        self._flying_since_s = now_s
        self._flying_estimate_s = self._curve.seconds(n_rows, now_s=now_s)
        self._flying = pieces
        self.gate.busy_until_s = now_s + self._flying_estimate_s
        since_s = max(self._ended_s, pieces[0].work.queued_s)
        self._curve.observe_beside(n_rows, now_s - since_s, now_s=now_s)
        results = self._score(pieces)
        ended_s = self._ended_s = self.gate.busy_until_s = time.monotonic()
        parsed, queued = self.parse_seconds.observe, self.queue_seconds.observe
        for work, start, _ in pieces:
            if not start:
                parsed(work.queued_s - work.received_s)
                queued(now_s - work.queued_s)
        if self._recorder is not None:
            self._recorder.scored(pieces, now_s, ended_s)
        self._curve.observe(n_rows, ended_s - now_s, now_s=ended_s)
        self._n_batches += 1
        self._n_rows += n_rows
        self._failure = self._worker.failure()
        self._flying = []
        deliver(results)

    def _score(self, pieces: list[Piece]) -> list[tuple[Work, Result]]:
        outcome = attempt(lambda: self._worker.run(pieces), at="scoring")
        if isinstance(outcome, SentinelError):
            with self._condition:
                for piece in pieces:
                    self._queue.drop(piece.work)
            return [(piece.work, outcome) for piece in pieces]
        results: list[tuple[Work, Result]] = []
        for piece, answers in zip(pieces, outcome, strict=True):
            work = piece.work
            if piece.end == work.n_rows and not work.parts:
                results.append((work, answers))
                continue
            work.parts.append(answers)
            if piece.end == work.n_rows:
                results.append((work, work.result()))
        return results

    def _pass_time(self) -> None:
        with self._condition:
            calls, self._calls = self._calls, []
        for call in calls:
            attempt(call, at="scoring thread")
        self._ticked_s = time.monotonic()
        attempt(self._worker.tick, at="tick")
        self._failure = self._worker.failure()

    def _fail_the_rest(self) -> None:
        """Answer everybody who still waits for a thread that has ended."""
        with self._condition:
            self._flying = []
            left = self._queue.works()
            for work in left:
                self._queue.drop(work)
        error = SentinelError(
            ErrorCode.SCORER_CLOSED,
            at="scoring thread",
            expected="one that runs",
            got=self._failure or "one that has ended",
        )
        self._hand_back([(work, error) for work in left])

    def _hand_back(self, results: list[tuple[Work, Result]]) -> None:
        """Give results to the loop; a loop that is closed has nobody who waits."""
        try:
            self._loop.call_soon_threadsafe(self._deliver, results)
        except RuntimeError:
            self._n_late += len(results)
