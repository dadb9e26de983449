"""Carry a file of events through the scorer: the same decisions every time, nothing lost.

For each batch of the file

1. the contract decodes it;
2. all feedback known by its latest event is learned (:class:`FeedbackOrder`, as training does it);
3. events before the first decided one are history: they only bring the state up. All others are
   decided;
4. decisions are appended to the file of decisions, which says how far it is good.

With a durable store as the scorer's engine a run goes on where the store is, instead of from the
start of the file: at the checkpoint of the decisions, for the store takes a snapshot only behind
one, and answers from its log what it holds beyond it.

At the end the counts must balance: read = decided + held + quarantined + deduplicated, and the file
of decisions must have a line for each that was decided or held. Otherwise the worker refuses to
end well.
"""

from __future__ import annotations

import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from sentinel.contract import Decoded, EventBatch, RawBatch
from sentinel.core import limits
from sentinel.core.clock import Clock, SystemClock
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.hashing import sha256_of
from sentinel.data import EventFile
from sentinel.data.event_file import refuse_empty
from sentinel.features.engine import known_at
from sentinel.features.replay import FeedbackOrder
from sentinel.features.stores.durable import DurableStore
from sentinel.monitoring.latency import LatencyHistogram
from sentinel.scoring import Counts, DecisionBatch, Outcome, Reason, Scorer, ServedBy, code_names
from sentinel.streaming.decision_file import Checkpoint, DecisionFile
from sentinel.streaming.valves import Valves

_LONG_AGO_MS = -(1 << 62)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileJob:
    """What is carried from where to where.

    Attributes
    ----------
    events : Path
    feedback : Path or None
        Late labels, in the order in which they became known.
    decisions : Path or None
        Where the decisions go, one JSON object a line; None: nowhere but the sinks.
    first_decided : int
        Position (line, from 0) of the first event that is decided.
    first_decided_ms : int or None
        Event time from which on events are decided; both must be reached.
    n_events_batch : int
        Events that are scored together.
    resume : bool
        Continue an interrupted run where its checkpoint says.
    is_learn_only : bool
        End before the first event that would be decided: the state is brought up, and no more.
    """

    events: Path
    feedback: Path | None = None
    decisions: Path | None = None
    first_decided: int = 0
    first_decided_ms: int | None = None
    n_events_batch: int = limits.EVENT_FILE_BATCH_EVENTS_DEFAULT
    resume: bool = False
    is_learn_only: bool = False

    def digest(self, release_digest: str) -> str:
        """Hash all that decides which decisions come out, and how they are cut into batches."""
        return sha256_of(
            {
                "release": release_digest,
                "events": str(self.events.resolve()),
                "feedback": str(self.feedback.resolve()) if self.feedback else None,
                "first_decided": self.first_decided,
                "first_decided_ms": self.first_decided_ms,
                "n_events_batch": self.n_events_batch,
            }
        )

    def made_of(self, release: str) -> dict[str, str]:
        """Name all that :meth:`digest` is of, as people gave it."""
        at_ms = self.first_decided_ms
        return {
            "release": release,
            "--events": str(self.events.resolve()),
            "--feedback": str(self.feedback.resolve()) if self.feedback else "none",
            "--from": f"{self.first_decided}" if at_ms is None else f"{at_ms} ms since 1970",
            "--batch-events": str(self.n_events_batch),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class FileProgress:
    """How far a worker is.

    Attributes
    ----------
    n_bytes_read, n_bytes : int
        Of the file of events.
    n_history : int
        Events that only brought the state up.
    counts : Counts
    """

    n_bytes_read: int
    n_bytes: int
    n_history: int
    counts: Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReport:
    """What a run came to.

    Attributes
    ----------
    counts : Counts
        Balanced.
    n_history : int
        Events before the first decided one: read, learned from, not decided.
    n_history_refused : int
        Of those, refused by the contract; not quarantined again.
    refused, feedback_refused, outcomes, served_by, reasons : mapping of str to int
        Events and feedback by reason of refusal; decisions by outcome, by who answered, by why.
    seconds, history_seconds : float
        Spent on events that were decided, and on history; reading included.
    latency : LatencyHistogram
        Of each decided event: from its batch being taken up until it was answered.
    is_interrupted : bool
    next_position : int
        First event that was not taken up.
    notes : tuple of str
        What a person should know about the file.
    """

    counts: Counts
    n_history: int
    n_history_refused: int
    refused: dict[str, int]
    feedback_refused: dict[str, int]
    outcomes: dict[str, int]
    served_by: dict[str, int]
    reasons: dict[str, int]
    seconds: float
    history_seconds: float
    latency: LatencyHistogram
    is_interrupted: bool
    next_position: int
    notes: tuple[str, ...]

    @property
    def events_per_s(self) -> float:
        """Events that were read to be decided, a second."""
        return self.counts.read / self.seconds if self.seconds else 0.0


@dataclass(slots=True)
class _Tally:
    """What is counted along the way."""

    n_history: int = 0
    n_history_refused: int = 0
    n_lines: int = 0
    n_since_checkpoint: int = 0
    next_position: int = 0
    relived_lines: int = 0
    relived_checksum: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    feedback_refused: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[int] = field(default_factory=Counter)
    served_by: Counter[int] = field(default_factory=Counter)
    reasons: Counter[int] = field(default_factory=Counter)
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)
    seconds: float = 0.0
    history_seconds: float = 0.0


def _nobody(_: object) -> None:
    """Nobody looks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watchers:
    """Who looks on; called between batches, in the worker's thread.

    Attributes
    ----------
    on_decisions : callable
        Sees every batch of decisions.
    on_progress : callable
        Called after every batch of the file.
    """

    on_decisions: Callable[[DecisionBatch], None] = _nobody
    on_progress: Callable[[FileProgress], None] = _nobody


class FileWorker:
    """Carries one file through one scorer, once.

    Parameters
    ----------
    scorer : Scorer
        Fresh; with a :class:`~sentinel.scoring.ReplayClock` the decisions are the same every
        time.
    job : FileJob
    valves : Valves, optional
        The scorer's sinks, so that a resumed run keeps nothing twice.
    watchers : Watchers, optional
    stop : threading.Event, optional
        Ends the run after the batch that it is in.
    clock : Clock, optional
        For durations only.
    """

    def __init__(
        self,
        scorer: Scorer,
        job: FileJob,
        *,
        valves: Valves | None = None,
        watchers: Watchers | None = None,
        stop: threading.Event | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._scorer = scorer
        self._job = job
        self._valves = valves if valves is not None else Valves()
        self._watchers = watchers if watchers is not None else Watchers()
        self._stop = stop if stop is not None else threading.Event()
        self._clock = clock if clock is not None else SystemClock()
        engine = scorer.engine
        self._store = engine if isinstance(engine, DurableStore) else None
        self._first = 0
        self._tally = _Tally()
        is_from_start = job.first_decided == 0 and job.first_decided_ms is None
        self._has_begun = is_from_start and not job.is_learn_only
        self._resumed_at = 0
        self._is_caught_up = False

    def run(self) -> FileReport:
        """Carry everything, or as much as there is time for until ``stop`` is set.

        Raises
        ------
        SentinelError
            ``source-empty``; ``state-not-fresh``;
            ``checkpoint-mismatch``; ``conservation-broken``; all that reading,
            scoring and writing raise. The file of decisions stays unfinished, good until its
            last checkpoint.
        """
        job = self._job
        source = EventFile(job.events)
        refuse_empty(job.events)
        self._check_fresh(source.source)
        file = self._open_decisions(source.source)
        try:
            self._carry(source, file)
            is_interrupted = self._stop.is_set() and not source.progress.is_complete
            self._check_conservation(has_file=file is not None)
            if file is not None:
                if not is_interrupted:
                    self._check_caught_up(file)
                    file.finish()
                elif self._tally.next_position > self._resumed_at:
                    self._save(file)
        finally:
            if file is not None:
                file.close()
        return self._report(source, is_interrupted=is_interrupted)

    # --- private -----------------------------------------------------------------------------

    def _check_fresh(self, source: str) -> None:
        """Refuse a state that holds some of the file already, unless it is to be continued."""
        if self._store is None or self._job.resume:
            return
        held = self._store.position(source)
        if held:
            raise SentinelError(
                ErrorCode.STATE_NOT_FRESH,
                at=source,
                expected="a state that holds nothing of it yet",
                got=f"one that holds everything before line {held}",
                hint="Give --resume to go on there, or name another --store.",
            )

    def _open_decisions(self, source: str) -> DecisionFile | None:
        job = self._job
        if job.decisions is None:
            if self._store is not None:
                self._first = self._store.position(source)
                if job.resume:
                    self._valves.skip_since({})
            return None
        release, digest = self._scorer.parts.release, self._scorer.parts.release_digest
        made_of = job.made_of(f"{release} ({digest[:12]})")
        file = DecisionFile(job.decisions, run=job.digest(digest), made_of=made_of)
        try:
            self._begin(file, source)
        except SentinelError:
            file.close()
            raise
        return file

    def _begin(self, file: DecisionFile, source: str) -> None:
        """Begin a file of decisions, or go on where an earlier run ended."""
        checkpoint = file.resume() if self._job.resume else None
        if not self._job.resume:
            file.start()
        if checkpoint is None:
            # So that even a run that is killed at once knows what its sinks held before it.
            file.save_checkpoint(next_position=0, counts=self._valves.marks())
        if self._store is not None:
            self._go_on(self._store, source, checkpoint)
        elif checkpoint is not None:
            self._skip_to(checkpoint)

    def _go_on(self, store: DurableStore, source: str, checkpoint: Checkpoint | None) -> None:
        """Begin where both the state and the file of decisions can go on."""
        written = 0 if checkpoint is None else checkpoint.next_position
        answerable = store.snapshot_position(source)
        if written < answerable:
            raise SentinelError(
                ErrorCode.CHECKPOINT_MISMATCH,
                at=str(self._job.decisions),
                expected=f"decisions until line {answerable}, where the state's snapshot is",
                got=f"a file that is good until line {written}",
                hint="The file is of another run or was removed: start again with another --store.",
            )
        self._first = min(written, store.position(source))
        self._resumed_at = written
        if checkpoint is not None:
            self._has_begun = self._has_begun or bool(checkpoint.counts.get("has_begun"))
            self._valves.skip_since(checkpoint.counts)

    def _skip_to(self, checkpoint: Checkpoint) -> None:
        """Keep nothing that the earlier run has kept."""
        self._resumed_at = checkpoint.next_position
        self._valves.skip(checkpoint.counts)

    def _carry(self, source: EventFile, file: DecisionFile | None) -> None:
        feedback = self._feedback_order()
        began_s = self._clock.monotonic_s()
        for raw in source.batches(self._job.n_events_batch, first_position=self._first):
            for part in self._parts(raw):
                is_history = not self._has_begun
                self._take(part, feedback, file)
                now_s = self._clock.monotonic_s()
                if is_history:
                    self._tally.history_seconds += now_s - began_s
                else:
                    self._tally.seconds += now_s - began_s
                began_s = now_s
            self._watchers.on_progress(self._progress(source))
            if self._stop.is_set() or (self._has_begun and self._job.is_learn_only):
                return

    def _parts(self, raw: RawBatch) -> Iterator[RawBatch]:
        """Cut the batch in which the first decided event stands; all others stay whole."""
        caught_up = self._resumed_at - int(raw.positions[0])
        if 0 < caught_up <= int(raw.positions[-1]) - int(raw.positions[0]):
            # The state is behind the decisions, and its batches are cut elsewhere.
            place = int(np.searchsorted(raw.positions, self._resumed_at))
            yield from self._parts(_slice(raw, 0, place))
            yield from self._parts(_slice(raw, place, raw.n_events))
            return
        if self._has_begun:
            yield raw
            return
        place = self._first_decided(raw)
        if place > 0:
            yield _slice(raw, 0, place)
        if place < raw.n_events:
            self._has_begun = True
            if not self._job.is_learn_only:
                yield _slice(raw, place, raw.n_events)

    def _first_decided(self, raw: RawBatch) -> int:
        """Find the first event of a batch that is to be decided; its length if there is none."""
        place = int(np.searchsorted(raw.positions, self._job.first_decided))
        from_ms = self._job.first_decided_ms
        if self._job.is_learn_only and from_ms is None and not self._job.first_decided:
            return raw.n_events
        if from_ms is None or place == raw.n_events:
            return place
        events = self._scorer.decode(raw).events
        time_name = self._scorer.parts.plan.features.events.event_time.name
        is_due = (events.rows >= place) & (events.column(time_name) >= from_ms)
        return int(events.rows[np.argmax(is_due)]) if is_due.any() else raw.n_events

    def _take(self, raw: RawBatch, feedback: _Feedback, file: DecisionFile | None) -> None:
        """Take up one batch, whole."""
        began_s = self._clock.monotonic_s()
        decoded = self._scorer.decode(raw)
        feedback.learn_for(decoded.events)
        if self._has_begun:
            decisions = self._scorer.decide(decoded)
            self._keep(decisions, file, first_position=int(raw.positions[0]))
            self._count(decoded, decisions, self._clock.monotonic_s() - began_s)
        else:
            self._scorer.engine.advance(decoded.events)
            self._tally.n_history += raw.n_events
            self._tally.n_history_refused += len(decoded.refusals)
        self._tally.next_position = int(raw.positions[-1]) + 1
        self._tally.n_since_checkpoint += raw.n_events
        is_due = self._tally.n_since_checkpoint >= limits.CHECKPOINT_EVENTS
        if file is not None and is_due and self._tally.next_position > self._resumed_at:
            self._save(file)
        elif file is None and self._store is not None:
            self._store.maintain()

    def _keep(
        self, decisions: DecisionBatch, file: DecisionFile | None, *, first_position: int
    ) -> None:
        if file is not None:
            lines = self._scorer.encode(decisions)
            self._tally.n_lines += lines.count(b"\n")
            if first_position >= self._resumed_at:
                self._check_caught_up(file)
                file.write(lines)
            else:
                self._tally.relived_lines += lines.count(b"\n")
                self._tally.relived_checksum = zlib.crc32(lines, self._tally.relived_checksum)
        self._watchers.on_decisions(decisions)

    def _count(self, decoded: Decoded, decisions: DecisionBatch, seconds: float) -> None:
        tally = self._tally
        tally.refused.update(str(refusal.code) for refusal in decoded.refusals)
        rows = decisions.is_decided
        for counter, column in (
            (tally.outcomes, decisions.outcome),
            (tally.served_by, decisions.served_by),
            (tally.reasons, decisions.reason),
        ):
            counter.update(dict(enumerate(np.bincount(column[rows]).tolist())))
        tally.latency.observe(seconds, n=int(np.count_nonzero(rows)))

    def _save(self, file: DecisionFile) -> None:
        """Say how far the file is good, once the sinks are as far."""
        if not self._valves.flush():
            return
        counts = self._scorer.counts()
        file.save_checkpoint(
            next_position=self._tally.next_position,
            counts={
                "read": counts.read,
                "has_begun": int(self._has_begun),
                **self._valves.marks(),
            },
        )
        self._tally.n_since_checkpoint = 0
        if self._store is not None:
            self._store.maintain()

    def _check_caught_up(self, file: DecisionFile) -> None:
        """Compare decisions made once more with those in the file, when they are all made."""
        if self._store is not None or self._is_caught_up:
            return
        self._is_caught_up = True
        file.refuse_short_source(next_position=self._tally.next_position)
        file.check_written(n_lines=self._tally.relived_lines, checksum=self._tally.relived_checksum)

    def _feedback_order(self) -> _Feedback:
        path = self._job.feedback
        refused = self._tally.feedback_refused
        if path is None:
            return _Feedback(self._scorer, None, refused)
        source = EventFile(path)
        first = 0 if self._store is None else self._store.position(source.source)
        return _Feedback(self._scorer, source, refused, first_position=first)

    def _check_conservation(self, *, has_file: bool) -> None:
        counts = self._scorer.counts()
        n_answers = counts.decided + counts.held
        n_lines = self._tally.n_lines if has_file else n_answers
        n_counted = sum(self._tally.outcomes.values())
        if counts.is_balanced and n_lines == n_counted == n_answers:
            return
        raise SentinelError(
            ErrorCode.CONSERVATION_BROKEN,
            at=str(self._job.events),
            expected=f"{counts.read} = decided + held + quarantined + deduplicated",
            got=f"{counts.decided} + {counts.held} + {counts.quarantined} + "
            f"{counts.deduplicated}, {n_lines} lines",
            hint="This is a fault of Sentinel: keep the files and report it.",
        )

    def _progress(self, source: EventFile) -> FileProgress:
        return FileProgress(
            n_bytes_read=source.progress.n_bytes_read,
            n_bytes=source.progress.n_bytes,
            n_history=self._tally.n_history,
            counts=self._scorer.counts(),
        )

    def _report(self, source: EventFile, *, is_interrupted: bool) -> FileReport:
        tally = self._tally
        return FileReport(
            counts=self._scorer.counts(),
            n_history=tally.n_history,
            n_history_refused=tally.n_history_refused,
            refused=dict(tally.refused.most_common()),
            feedback_refused=dict(tally.feedback_refused.most_common()),
            outcomes=_named(tally.outcomes, code_names(Outcome)),
            served_by=_named(tally.served_by, code_names(ServedBy)),
            reasons={k: n for k, n in _named(tally.reasons, code_names(Reason)).items() if n},
            seconds=tally.seconds,
            history_seconds=tally.history_seconds,
            latency=tally.latency,
            is_interrupted=is_interrupted,
            next_position=tally.next_position,
            notes=(*source.progress.notes, *self._notes(is_interrupted=is_interrupted)),
        )

    def _notes(self, *, is_interrupted: bool) -> tuple[str, ...]:
        if not is_interrupted or self._tally.next_position >= self._resumed_at:
            return ()
        until = f"line {self._resumed_at:,}"
        return (f"still catching up to {until}: the decisions until there are as they were",)


class _Feedback:
    """Learns feedback in time for the events that may know it."""

    def __init__(
        self,
        scorer: Scorer,
        source: EventFile | None,
        refused: Counter[str],
        *,
        first_position: int = 0,
    ) -> None:
        self._scorer = scorer
        self._refused = refused
        self._first_position = first_position
        self._time_name = scorer.parts.plan.features.events.event_time.name
        self._order = FeedbackOrder(self._learned(source), self._latest_ms)
        self._now_ms = _LONG_AGO_MS

    def learn_for(self, events: EventBatch) -> None:
        """Learn all that is known by the latest event of a batch."""
        if events.n_rows:
            self._now_ms = max(self._now_ms, int(events.column(self._time_name).max()))
        for _ in self._order.due(self._now_ms):
            pass

    def _learned(self, source: EventFile | None) -> Iterator[Decoded]:
        """Learn batch after batch, each when it is asked for."""
        if source is not None:
            for raw in source.batches(first_position=self._first_position):
                decoded = self._scorer.learn(raw)
                self._refused.update(str(refusal.code) for refusal in decoded.refusals)
                yield decoded

    def _latest_ms(self, decoded: Decoded) -> int:
        schema = self._scorer.parts.plan.features.feedback
        if schema is None:
            return _LONG_AGO_MS
        return int(known_at(decoded.events, schema).max(initial=_LONG_AGO_MS))


def _slice(raw: RawBatch, first: int, end: int) -> RawBatch:
    """Take some events of a batch; the bytes are shared."""
    if (first, end) == (0, raw.n_events):
        return raw
    times, lengths = raw.received_at_ms, raw.whole_lengths
    return replace(
        raw,
        starts=raw.starts[first:end],
        ends=raw.ends[first:end],
        positions=raw.positions[first:end],
        received_at_ms=None if times is None else times[first:end],
        whole_lengths=None if lengths is None else lengths[first:end],
    )


def _named(counter: Counter[int], names: tuple[str, ...]) -> dict[str, int]:
    return {name: counter[code] for code, name in enumerate(names)}
