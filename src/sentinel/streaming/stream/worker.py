"""Carry a topic of events through the scorer, effects once, whatever is killed.

For each batch of one partition

1. ``read``: the batch is taken, its place is put into the crash marker;
2. ``learned``: feedback known by its latest event is in the state;
3. ``applied``: the batch is in the state's log and in the state, with its position;
4. ``produced``: decisions and refusals are with the sink;

and every ``STREAM_COMMIT_S``

5. ``flushed``: the sink has brought all of them where they go, and the decision log's are written;
   with transactions, outputs and positions are visible from here on, together;
6. ``marked``: the state folder says that outputs are safe up to here;
7. ``snapshot``: where one is due;
8. ``committed``: the log has been told the positions, for people who watch lag (with transactions
   it knows).

A worker goes on at the mark. What the state holds beyond it is answered from the state's log with
the same vectors, so its decisions come out once more, with the same id: see ``docs/streaming.md``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sentinel.contract import Decoded, RawBatch, Refusal
from sentinel.contract.codes import RefusalCode
from sentinel.contract.refusal import Fault
from sentinel.core import limits
from sentinel.core.clock import Clock, SystemClock
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.monitoring.metrics import Metrics
from sentinel.monitoring.status import Health
from sentinel.scoring import Counts, Scorer
from sentinel.streaming.stream.alignment import Alignment, bound_of
from sentinel.streaming.stream.ends import StreamEnds
from sentinel.streaming.stream.event_log import KeyedBatch, Read, cut
from sentinel.streaming.stream.feedback import StreamFeedback, latest_known_ms
from sentinel.streaming.stream.in_order import InOrder
from sentinel.streaming.stream.job import Step, StreamJob, check_partition_key
from sentinel.streaming.stream.keys import refuse_wrong_keys
from sentinel.streaming.stream.pauses import Why
from sentinel.streaming.stream.places import Places
from sentinel.streaming.stream.shelf import OpensStates, Shelf
from sentinel.streaming.stream.state import StreamState

# Share of events that come too late for a window, beyond which a worker of several partitions says
# so: events of one time are then read at very different times.
_LATE_SHARE_MAX = 0.01

Int64Array = npt.NDArray[np.int64]

_NONE = np.empty(0, dtype=np.int64)


def _nothing(step: Step) -> None:
    """Nobody looks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamReport:
    """What a run came to.

    Attributes
    ----------
    counts : Counts
        Balanced.
    n_decisions, n_refusals : int
        Records that went to the two topics.
    n_poison, n_gap, n_holes : int
        Events passed because processes died at them; positions missing that were accepted;
        positions that hold no event.
    positions : mapping of str to int
        Next position of every ``topic/partition`` of the states that were open at the end.
    causes : tuple of str
        What was not as it should be, at the end.
    """

    counts: Counts
    n_decisions: int
    n_refusals: int
    n_poison: int
    n_gap: int
    n_holes: int
    positions: dict[str, int]
    causes: tuple[str, ...]


class StreamWorker:
    """Reads until it is told to stop.

    Parameters
    ----------
    scorer : Scorer
        Its sink of refusals is that of ``ends``; its engine is set by the worker, batch by batch.
    ends : StreamEnds
    job : StreamJob
    open_state : callable
        Opens the state of a folder.
    metrics : Metrics, optional
    clock : Clock, optional
        For durations, and for the age of events.
    on_step : callable, optional
        Called after every commit step; tests die there.

    Attributes
    ----------
    always : tuple of str
        What is not as it should be as long as it runs: it is degraded, whatever the scorer says.

    Raises
    ------
    SentinelError
        ``stream-partition-key``.
    """

    def __init__(
        self,
        scorer: Scorer,
        ends: StreamEnds,
        job: StreamJob,
        open_state: OpensStates,
        *,
        metrics: Metrics | None = None,
        clock: Clock | None = None,
        on_step: Callable[[Step], None] = _nothing,
    ) -> None:
        check_partition_key(scorer.parts.plan, job.partition_key)
        self.always: tuple[str, ...] = ()
        self._scorer = scorer
        self._ends = ends
        self._log, self._sink = ends.events, ends.sink
        self._job = job
        self._metrics = metrics if metrics is not None else Metrics(with_process=False)
        self._clock = clock if clock is not None else SystemClock()
        self._on_step = on_step
        self._shelf = Shelf(job, open_state, on_applied=lambda: on_step(Step.APPLIED))
        self._places = Places(
            self._log, job, self._shelf, metrics=self._metrics, on_release=self.commit
        )
        self._places.transactions = ends.transactions
        self._event_time = scorer.parts.plan.features.events.event_time.name
        self._places.in_order = self._in_order()
        if ends.feedback is not None:
            self._places.feedback = StreamFeedback(
                ends.feedback, learn=self._learn, on_missing=self._lost_feedback
            )
        self._commit_every_s = (
            limits.STREAM_COMMIT_S if ends.log is None else limits.STREAM_LOG_COMMIT_S
        )
        self._now_ms = -(1 << 62)
        self._received_ms: dict[int, int] = {}
        self._is_dirty = False
        # False from a batch's start until its outputs are with the sink: a worker that fails in
        # between must not mark them as safe.
        self._is_whole = True
        self._is_paused = False
        self._committed_at_s = 0.0
        self._looked_at_s = 0.0
        self._n_poison = 0
        self._n_carried = 0

    def _in_order(self) -> InOrder | None:
        """Keep partitions of one state at the same time of their events, where that matters."""
        bound_ms = bound_of(self._scorer.parts.plan)
        if self._job.partition_key is not None or bound_ms is None:
            return None
        return InOrder(
            self._places.pauses,
            Alignment(bound_ms, limits.STREAM_SILENT_S_MAX),
            event_time=self._event_time,
            look=self._look,
            n_behind=self._n_behind,
            n_events_batch=self._job.n_events_batch,
        )

    def run(
        self, stop: threading.Event, *, on_turn: Callable[[], None] | None = None
    ) -> StreamReport:
        """Work until ``stop`` is set; then end in good order.

        Parameters
        ----------
        stop : threading.Event
        on_turn : callable, optional
            Called after every turn, with or without events, for people who watch.

        Raises
        ------
        SentinelError
            What :meth:`start`, :meth:`turn` and :meth:`finish` raise. What was not marked is done
            again by the next start.
        """
        try:
            self.start()
            while not stop.is_set():
                self.turn()
                if on_turn is not None:
                    on_turn()
            return self.finish()
        finally:
            self.close()

    def start(self) -> None:
        """Ask for partitions; they come with the turns.

        Raises
        ------
        SentinelError
            ``stream-topic-missing``, ``stream-failed``; what opening a state raises.
        """
        self._committed_at_s = self._clock.monotonic_s()
        self._places.join()

    def turn(self) -> int:
        """Read once, and carry what came; commit when it is time.

        Returns
        -------
        int
            Events that were carried.

        Raises
        ------
        SentinelError
            ``source-gap``, ``source-behind-state``, ``stream-failed``, ``stream-partition-key``;
            what the state and the scorer raise. The worker must then be closed.
        """
        n_before = self._n_carried
        in_order = self._places.in_order
        n_events_max = self._job.n_events_batch if in_order is None else in_order.n_events_read
        read = self._log.read(n_events_max, limits.STREAM_READ_S_MAX)
        if self._places.failure is not None:
            raise self._places.failure
        for partition in read.out_of_range:
            self._places.place_again(self._log, partition)
        for batch in read.batches:
            self._take(batch)
        self._places.reached_end(self._go_on(read))
        self._sink.poll()
        if not read.batches:
            self._scorer.tick()
        now_s = self._clock.monotonic_s()
        if now_s - self._committed_at_s >= self._commit_every_s:
            self.commit()
        if now_s - self._looked_at_s >= limits.STREAM_COMMIT_S:
            self._looked_at_s = now_s
            self._places.retry_waiting()
            self._show_lag()
        self._mind_room()
        return self._n_carried - n_before

    def finish(self) -> StreamReport:
        """Make outputs safe, take the count, and say what came of it.

        Raises
        ------
        SentinelError
            ``stream-failed``, ``conservation-broken``.
        """
        self.commit()
        self._check_conservation()
        return StreamReport(
            counts=self._scorer.counts(),
            n_decisions=self._sink.n_decisions,
            n_refusals=self._sink.n_refusals,
            n_poison=self._n_poison,
            n_gap=self._places.n_gap,
            n_holes=self._places.n_holes,
            positions={
                f"{topic}/{partition}": at
                for state in self._shelf.states()
                for (topic, partition), at in sorted(state.store.positions().items())
            },
            causes=self._causes(),
        )

    def close(self) -> None:
        """Leave the group and let go of everything; the outputs that are not marked come again."""
        try:
            if self._places.feedback is not None:
                self._places.feedback.close()
            self._log.close()
        finally:
            try:
                self._shelf.close_all()
            finally:
                self._sink.close()

    # --- a batch -----------------------------------------------------------------------------

    def _take(self, batch: KeyedBatch) -> None:
        """Take one batch as it was read, and carry what is not too far ahead of the others."""
        raw, in_order = batch.raw, self._places.in_order
        if raw.partition not in self._places.next:
            return
        chosen: KeyedBatch | None = batch
        if in_order is not None:
            in_order.gave(raw.partition)
            chosen = in_order.admit(batch)
        if chosen is not None:
            self._carry_pieces(chosen)

    def _go_on(self, read: Read) -> Mapping[int, int]:
        """Carry what was kept back and is due; return the ends that are reached."""
        in_order = self._places.in_order
        if in_order is None:
            return read.at_end
        in_order.turn(self._clock.monotonic_s(), is_reading=not self._is_paused)
        in_order.reached_end(read.at_end)
        if not self._is_paused:
            for batch in in_order.due():
                self._carry_pieces(batch)
                if self._sink.n_waiting > self._job.n_waiting_max:
                    break
        return in_order.settle()

    def _look(self, raw: RawBatch) -> tuple[Int64Array, Int64Array]:
        """Look at the times of events before their turn; a process that dies of it says where.

        After a death suspects are looked at one by one, and poison is not, as they are carried.
        """
        state = self._shelf.state(raw.partition)
        rows, times_ms = [_NONE], [_NONE]
        for piece in state.screen.pieces(raw.source, raw.partition, raw.positions):
            if piece.is_poison:
                continue
            part = cut(KeyedBatch(raw, None), piece.first, piece.end).raw
            state.marker.enter(raw.partition, int(part.positions[0]), int(part.positions[-1]) + 1)
            try:
                events = self._scorer.decode(part).events
            finally:
                state.marker.leave()
            rows.append(events.rows + piece.first)
            times_ms.append(events.column(self._event_time))
        return np.concatenate(rows), np.concatenate(times_ms)

    def _carry_pieces(self, batch: KeyedBatch) -> None:
        """Carry one batch, or the parts of it that are called for."""
        raw = batch.raw
        partition = raw.partition
        self._places.check_whole(raw)
        state = self._shelf.state(partition)
        pieces = state.screen.pieces(raw.source, partition, raw.positions)
        for piece in pieces:
            self._carry(cut(batch, piece.first, piece.end), state, is_poison=piece.is_poison)
            state.marker.passed(partition, int(raw.positions[piece.end - 1]) + 1)
        self._places.next[partition] = int(raw.positions[-1]) + 1
        self._n_carried += raw.n_events
        if raw.received_at_ms is not None:
            self._received_ms[partition] = int(raw.received_at_ms[-1])

    def _carry(self, batch: KeyedBatch, state: StreamState, *, is_poison: bool) -> None:
        raw = batch.raw
        scorer = self._scorer
        scorer.engine = state.store
        self._is_dirty = True
        self._is_whole = False
        state.marker.enter(raw.partition, int(raw.positions[0]), int(raw.positions[-1]) + 1)
        try:
            self._on_step(Step.READ)
            decoded = self._poison(raw) if is_poison else scorer.decode(raw)
            if self._job.partition_key is not None and not is_poison:
                decoded = refuse_wrong_keys(decoded, batch, self._job.partition_key)
            self._learn_for(decoded)
            self._on_step(Step.LEARNED)
            scorer.engine = state.store
            decisions = scorer.decide(decoded)
            lines = scorer.encode(decisions)
            if self._places.in_order is not None:
                self._places.in_order.carried(decoded.events)
        finally:
            state.marker.leave()
        event_id = scorer.parts.plan.features.events.event_id.name
        self._sink.write(decisions, lines, event_id=event_id)
        self._is_whole = True
        self._on_step(Step.PRODUCED)

    def _poison(self, raw: RawBatch) -> Decoded:
        """Refuse one event without looking into it."""
        nothing = replace(raw, starts=raw.starts, ends=raw.starts)
        events = self._scorer.decode(nothing).events
        content = raw.event_bytes(0)
        refusal = Refusal(
            RefusalCode.POISON,
            (Fault(RefusalCode.POISON, "$", "an event that is survived", "a process that died"),),
            raw.source,
            raw.partition,
            int(raw.positions[0]),
            content[: limits.EVENT_BYTES_MAX],
            len(content),
        )
        self._n_poison += 1
        self._metrics.add("sentinel_stream_poison_total")
        return Decoded(events=events, refusals=(refusal,))

    def _learn_for(self, decoded: Decoded) -> None:
        feedback = self._places.feedback
        if feedback is None:
            return
        events = decoded.events
        if events.n_rows:
            self._now_ms = max(self._now_ms, int(events.column(self._event_time).max()))
        if not feedback.read_until(self._now_ms, clock=self._clock):
            self._metrics.add("sentinel_stream_feedback_waits_total")

    def _learn(self, raw: RawBatch) -> int:
        feedback = self._ends.feedback
        if feedback is None:
            raise AssertionError("feedback comes from its log")
        self._is_dirty = True
        self._scorer.engine = self._places.learned(feedback, raw).store
        return latest_known_ms(self._scorer, raw)

    def _lost_feedback(self, partition: int) -> None:
        if self._ends.feedback is not None:
            self._places.place_again(self._ends.feedback, partition)

    # --- outputs -----------------------------------------------------------------------------

    def commit(self) -> None:
        """Make outputs safe, then say so: steps 5 to 8.

        After a failure nothing is marked any more: a sink that has lost records, or a sync that
        has failed, may well succeed when it is asked again.

        Raises
        ------
        SentinelError
            ``stream-failed``, ``decision-log-blocked``, ``file-unwritable``; what a snapshot
            raises. The worker must then be closed.
        """
        self._committed_at_s = self._clock.monotonic_s()
        was_whole, self._is_whole = self._is_whole, False
        if self._is_dirty and was_whole:
            self._commit()
        self._is_whole = was_whole

    def _commit(self) -> None:
        began_s = self._committed_at_s
        while not self._sink.flush(limits.STREAM_COMMIT_S):
            # Bounded by the sink's own time limit for a record, which ends in an error.
            self._metrics.put("sentinel_stream_paused", 1)
        self._metrics.put("sentinel_stream_paused", 0)
        if self._ends.log is not None and not self._ends.log.flush():
            raise SentinelError(
                ErrorCode.DECISION_LOG_BLOCKED,
                at="--log",
                expected=f"a disk that takes the decisions within {limits.LOG_WAIT_S_MAX:.0f} s",
                got="one that does not",
                hint="Nothing is lost: the next start decides again what is not in the log.",
            )
        if self._ends.transactions is not None:
            self._ends.transactions.commit(self._places.carried())
        self._on_step(Step.FLUSHED)
        topic, carried = self._log.topic, self._places.next
        marked = [state for state in self._shelf.states() if state.mark(topic, carried)]
        self._on_step(Step.MARKED)
        for state in marked:
            state.store.maintain()
        self._on_step(Step.SNAPSHOT)
        is_known = self._ends.transactions is not None or not self._places.next
        is_sent = is_known or self._log.tell(self._places.next)
        self._metrics.add("sentinel_stream_commits_total", result="sent" if is_sent else "failed")
        self._metrics.record_health(Health.DEGRADED if self._causes() else Health.HEALTHY)
        self._on_step(Step.COMMITTED)
        self._is_dirty = False
        self._committed_at_s = self._clock.monotonic_s()
        self._metrics.observe("sentinel_stream_commit_seconds", self._committed_at_s - began_s)

    def _causes(self) -> tuple[str, ...]:
        """Say what is not as it should be."""
        return (*self.always, *self._scorer.status().causes, *self._lateness())

    def _lateness(self) -> list[str]:
        """Say that partitions were read at different times of their events."""
        counts = self._scorer.counts()
        n_decided = counts.decided + counts.held
        is_one = self._job.partition_key is not None or len(self._places.next) < 2
        if is_one or counts.late <= _LATE_SHARE_MAX * n_decided:
            return []
        share = f"{counts.late:,} of {n_decided:,} events"
        return [f"{share} came too late for a window: partitions are at different times"]

    def n_events_read(self) -> int:
        """Count the events of this run."""
        return self._scorer.counts().read

    def n_events_behind(self) -> int | None:
        """Count the events of its partitions that wait to be read; None where nobody knows."""
        found = [self._n_behind(partition) for partition in self._places.next]
        known = [n for n in found if n is not None]
        return sum(known) if known and len(known) == len(found) else None

    def _n_behind(self, partition: int) -> int | None:
        """Count the events of one partition that wait to be read; None where nobody knows."""
        end = self._log.known_end(partition)
        return None if end < 0 else max(end - self._places.next[partition], 0)

    def _show_lag(self) -> None:
        if self._places.in_order is not None:
            self._metrics.put("sentinel_stream_aligning", self._places.in_order.n_waiting)
        oldest_ms = now_ms = self._clock.now_ms()
        for partition in self._places.next:
            n_behind = self._n_behind(partition)
            if n_behind is None:
                continue
            if n_behind:
                oldest_ms = min(oldest_ms, self._received_ms.get(partition, now_ms))
            self._metrics.put(
                "sentinel_stream_lag_events",
                n_behind,
                topic=self._log.topic,
                partition=str(partition),
            )
        self._metrics.put("sentinel_stream_oldest_event_age_seconds", (now_ms - oldest_ms) / 1000)

    def _mind_room(self) -> None:
        """Pause reading while too much waits in the sink; go on when half of it was taken.

        The log is asked all the while, so that the worker stays a member of its group.
        """
        n_waiting, n_max = self._sink.n_waiting, self._job.n_waiting_max
        if n_waiting > n_max or (self._is_paused and n_waiting > n_max // 2):
            # Each time: partitions that came meanwhile are paused too.
            self._places.pauses.add(Why.ROOM, self._places.next)
            self._metrics.put("sentinel_stream_paused", 1)
            self._is_paused = True
            self._sink.poll(limits.STREAM_READ_S_MAX)
        elif self._is_paused:
            self._is_paused = False
            self._metrics.put("sentinel_stream_paused", 0)
            self._places.pauses.remove(Why.ROOM, self._places.next)

    def _check_conservation(self) -> None:
        counts = self._scorer.counts()
        n_answers = counts.decided + counts.held
        n_refused = counts.quarantined + counts.feedback_quarantined
        sent = (self._sink.n_decisions, self._sink.n_refusals)
        if counts.is_balanced and sent == (n_answers, n_refused):
            return
        raise SentinelError(
            ErrorCode.CONSERVATION_BROKEN,
            at=self._job.events,
            expected=f"{n_answers} decisions and {n_refused} quarantine records",
            got=f"{sent[0]} and {sent[1]}",
            hint="This is a fault of Sentinel: report it.",
        )
