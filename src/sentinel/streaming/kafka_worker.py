"""Carry a topic of events through the scorer, effects once, whatever is killed.

For each batch of one partition

1. ``read``: the batch is taken, its place is put into the crash marker;
2. ``learned``: feedback known by its latest event is in the state;
3. ``applied``: the batch is in the state's log and in the state, with its position;
4. ``produced``: decisions and refusals are with the producer;

and every ``STREAM_COMMIT_S``

5. ``flushed``: the broker has acknowledged all of them;
6. ``marked``: the state folder says that outputs are safe up to here;
7. ``snapshot``: where one is due;
8. ``committed``: the broker has been told the positions, for people who watch lag.

A worker goes on at the mark. What the state holds beyond it is answered from the state's log with
the same vectors, so its decisions come out once more, with the same id: see ``docs/streaming.md``.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

import confluent_kafka as kafka
import numpy as np

from sentinel.contract import Decoded, RawBatch, Refusal
from sentinel.contract.codes import RefusalCode
from sentinel.contract.refusal import Fault
from sentinel.core import limits
from sentinel.core.clock import Clock, SystemClock
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.monitoring.metrics import Metrics
from sentinel.monitoring.status import Health
from sentinel.release import LoadedRelease, Standing
from sentinel.scoring import Counts, Scorer, Sinks
from sentinel.streaming.kafka_batches import KeyedBatch, cut, read_messages
from sentinel.streaming.kafka_feedback import KafkaFeedback, latest_known_ms
from sentinel.streaming.kafka_keys import refuse_wrong_keys
from sentinel.streaming.kafka_settings import KafkaSettings
from sentinel.streaming.kafka_shelf import Shelf
from sentinel.streaming.kafka_sink import KafkaSink
from sentinel.streaming.kafka_source import (
    behind,
    commit_offsets,
    ends_of,
    gap,
    n_partitions_of,
)
from sentinel.streaming.stream_job import Step, StreamJob, check_partition_key, not_alone
from sentinel.streaming.stream_state import StreamState


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
        Records sent to the two topics.
    n_poison, n_gap : int
        Events passed because processes died at them; positions missing that were accepted.
    positions : mapping of str to int
        Next position of every ``topic/partition`` of the states that were open at the end.
    """

    counts: Counts
    n_decisions: int
    n_refusals: int
    n_poison: int
    n_gap: int
    positions: dict[str, int]


class KafkaWorker:
    """Reads until it is told to stop.

    Parameters
    ----------
    scorer : Scorer
        Its sink of refusals is ``sink``; its engine is set by the worker, batch by batch.
    sink : KafkaSink
    settings : KafkaSettings
    job : StreamJob
    metrics : Metrics, optional
    clock : Clock, optional
        For durations only.
    on_step : callable, optional
        Called after every commit step; tests die there.

    Raises
    ------
    SentinelError
        ``stream-partition-key``.
    """

    def __init__(
        self,
        scorer: Scorer,
        sink: KafkaSink,
        settings: KafkaSettings,
        job: StreamJob,
        *,
        metrics: Metrics | None = None,
        clock: Clock | None = None,
        on_step: Callable[[Step], None] = _nothing,
    ) -> None:
        check_partition_key(scorer.parts.plan, job.partition_key)
        self._scorer = scorer
        self._sink = sink
        self._job = job
        self._metrics = metrics if metrics is not None else Metrics(with_process=False)
        self._clock = clock if clock is not None else SystemClock()
        self._on_step = on_step
        self._shelf = Shelf(scorer.parts.plan, job, on_applied=lambda: on_step(Step.APPLIED))
        self._client = kafka.Consumer(settings.consumer())
        self._feedback = (
            KafkaFeedback(settings, job.feedback, learn=self._learn, on_missing=self._lost_feedback)
            if job.feedback is not None
            else None
        )
        self._n_partitions = 0
        self._n_feedback_partitions = 0
        # Assigned, and read: the position that comes next of each partition.
        self._next: dict[int, int] = {}
        # Assigned, while another process still holds their state.
        self._waiting: set[int] = set()
        self._now_ms = -(1 << 62)
        self._is_dirty = False
        # False from a batch's start until its outputs are with the producer: a worker that fails
        # in between must not mark them as safe.
        self._is_whole = True
        # What went wrong inside a call back of the client; raised from the next turn.
        self._failure: SentinelError | None = None
        self._is_complete = False
        self._committed_at_s = 0.0
        self._n_poison = 0
        self._n_gap = 0

    def run(self, stop: threading.Event) -> StreamReport:
        """Work until ``stop`` is set; then flush, mark, take a snapshot and leave the group.

        Raises
        ------
        SentinelError
            ``source-gap``, ``source-behind-state``, ``stream-failed``, ``stream-topic-missing``,
            ``stream-partition-key``, ``conservation-broken``; what the state and the scorer raise.
            What was not marked is done again by the next start.
        """
        job = self._job
        try:
            self._n_partitions = n_partitions_of(self._client, job.events)
            if self._feedback is not None:
                found = n_partitions_of(self._feedback.client, self._feedback.topic)
                self._n_feedback_partitions = found
                self._check_feedback_partitions()
            if job.partition_key is None:
                self._shelf.open(0)
            self._client.subscribe(
                [job.events],
                on_assign=self._on_assign,
                on_revoke=self._on_revoke,
                on_lost=self._on_revoke,
            )
            while not stop.is_set():
                self._turn()
            self._commit()
            self._check_conservation()
            return self._report()
        finally:
            self._close()

    # --- one turn ----------------------------------------------------------------------------

    def _turn(self) -> None:
        messages = self._client.consume(self._job.n_events_batch, limits.STREAM_READ_S_MAX)
        if self._failure is not None:
            raise self._failure
        read = read_messages(messages, self._job.events)
        for partition in read.out_of_range:
            if partition in self._next:
                self._place(partition)
        for batch in read.batches:
            self._take(batch)
        self._sink.poll()
        if not messages:
            self._scorer.tick()
        now_s = self._clock.monotonic_s()
        if now_s - self._committed_at_s >= limits.STREAM_COMMIT_S:
            self._commit()
            self._open_waiting()
        if self._sink.n_waiting > limits.STREAM_WAITING_MAX:
            self._wait_for_room()

    def _take(self, batch: KeyedBatch) -> None:
        """Carry one batch, or the parts of it that are called for."""
        raw = batch.raw
        partition = raw.partition
        if partition not in self._next:
            return
        self._check_whole(raw)
        state = self._shelf.state(partition)
        for first, end in _parts(raw, state):
            part = KeyedBatch(cut(raw, first, end), batch.messages[first:end])
            self._carry(part, state)
            state.marker.passed(partition, int(raw.positions[end - 1]) + 1)
        self._next[partition] = int(raw.positions[-1]) + 1

    def _carry(self, batch: KeyedBatch, state: StreamState) -> None:
        raw = batch.raw
        first, end = int(raw.positions[0]), int(raw.positions[-1]) + 1
        scorer = self._scorer
        scorer.engine = state.store
        self._is_dirty = True
        self._is_whole = False
        suspect = state.marker.suspect
        is_poison = (
            suspect is not None
            and suspect.is_poison
            and (suspect.partition, suspect.first, suspect.end) == (raw.partition, first, end)
        )
        state.marker.enter(raw.partition, first, end)
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
        if self._feedback is None:
            return
        events = decoded.events
        if events.n_rows:
            name = self._scorer.parts.plan.features.events.event_time.name
            self._now_ms = max(self._now_ms, int(events.column(name).max()))
        if not self._feedback.read_until(self._now_ms, clock=self._clock):
            self._metrics.add("sentinel_stream_feedback_waits_total")

    def _learn(self, raw: RawBatch) -> int:
        self._is_dirty = True
        state = self._shelf.state(raw.partition)
        self._scorer.engine = state.store
        held = state.store.position(raw.source, raw.partition)
        if int(raw.positions[0]) > held and state.knows(raw.source, raw.partition):
            self._accept(state, raw.source, raw.partition, held, int(raw.positions[0]))
        return latest_known_ms(self._scorer, raw)

    def _check_whole(self, raw: RawBatch) -> None:
        """Stop at a hole, or go on behind it where that was asked for."""
        expected = self._next[raw.partition]
        positions = raw.positions
        before = np.concatenate([[expected - 1], positions[:-1]])
        state = self._shelf.state(raw.partition)
        for at in np.flatnonzero(positions > before + 1).tolist():
            first, end = int(before[at]) + 1, int(positions[at])
            self._accept(state, raw.source, raw.partition, first, end)

    def _accept(self, state: StreamState, topic: str, partition: int, first: int, end: int) -> None:
        if not self._job.accept_gap:
            raise gap(topic, partition, first, end)
        state.store.accept_gap(topic, partition, end)
        self._n_gap += end - first
        self._metrics.add("sentinel_stream_gap_events_total", end - first)

    # --- outputs -----------------------------------------------------------------------------

    def _commit(self) -> None:
        """Make outputs safe, then say so: steps 5 to 8."""
        self._committed_at_s = self._clock.monotonic_s()
        if not self._is_dirty or not self._is_whole:
            return
        while not self._sink.flush(limits.STREAM_COMMIT_S):
            # Bounded by the producer's own time limit for a record, which ends in an error.
            self._metrics.put("sentinel_stream_paused", 1)
        self._metrics.put("sentinel_stream_paused", 0)
        self._on_step(Step.FLUSHED)
        for state in self._shelf.states():
            state.mark()
        self._on_step(Step.MARKED)
        for state in self._shelf.states():
            state.store.maintain()
        self._on_step(Step.SNAPSHOT)
        self._tell_positions()
        self._metrics.record_health(Health(str(self._scorer.status().health).upper()))
        self._on_step(Step.COMMITTED)
        self._is_dirty = False
        self._committed_at_s = self._clock.monotonic_s()

    def _tell_positions(self) -> None:
        topic = self._job.events
        positions = [(topic, partition, at) for partition, at in self._next.items()]
        if not positions:
            return
        is_sent = commit_offsets(self._client, positions)
        self._metrics.add("sentinel_stream_commits_total", result="sent" if is_sent else "failed")
        for _, partition, at in positions:
            where = kafka.TopicPartition(topic, partition)
            _, high = self._client.get_watermark_offsets(where, cached=True)
            if high >= 0:
                self._metrics.put(
                    "sentinel_stream_lag_events",
                    max(high - at, 0),
                    topic=topic,
                    partition=str(partition),
                )

    def _wait_for_room(self) -> None:
        """Pause reading until the broker has taken half of what waits."""
        read = [kafka.TopicPartition(self._job.events, p) for p in self._next]
        self._client.pause(read)
        self._metrics.put("sentinel_stream_paused", 1)
        while self._sink.n_waiting > limits.STREAM_WAITING_MAX // 2:
            self._sink.poll(limits.STREAM_READ_S_MAX)
        self._metrics.put("sentinel_stream_paused", 0)
        self._client.resume(read)

    # --- assignment --------------------------------------------------------------------------

    def _on_assign(self, client: kafka.Consumer, assigned: list[kafka.TopicPartition]) -> None:
        self._metrics.add("sentinel_stream_rebalances_total", change="assigned")
        partitions = [where.partition for where in assigned]
        begins: dict[int, int | None] = dict.fromkeys(partitions)
        try:
            self._check_alone(partitions)
            for partition in partitions:
                begins[partition] = self._begin(partition)
        except SentinelError as error:
            self._failure = error
        client.incremental_assign(
            [
                kafka.TopicPartition(self._job.events, p, kafka.OFFSET_END if at is None else at)
                for p, at in begins.items()
            ]
        )
        waiting = [
            kafka.TopicPartition(self._job.events, p) for p, at in begins.items() if at is None
        ]
        if waiting:
            client.pause(waiting)
        self._show_partitions()

    def _check_alone(self, partitions: list[int]) -> None:
        """Refuse to begin with a part of a topic where the state is of the whole."""
        if self._job.partition_key is not None or not partitions:
            return
        n_all = len(set(self._next) | set(partitions))
        if n_all < self._n_partitions and not self._is_complete:
            raise not_alone(self._job.events, n_all, self._n_partitions)
        self._is_complete = True

    def _begin(self, partition: int) -> int | None:
        """Open the state of a partition and say where to read on; None while it is held."""
        try:
            self._shelf.open(partition)
        except SentinelError as error:
            if error.code is not ErrorCode.STATE_LOCKED:
                raise
            self._waiting.add(partition)
            return None
        self._waiting.discard(partition)
        at = self._resume_position(self._client, self._job.events, partition)
        self._next[partition] = at
        if self._feedback is not None:
            topic, feedback = self._feedback.topic, self._feedback
            chosen = [partition]
            if self._job.partition_key is None:
                chosen = [] if feedback.is_reading else list(range(self._n_feedback_partitions))
            feedback.add({p: self._resume_position(feedback.client, topic, p) for p in chosen})
        return at

    def _resume_position(self, client: kafka.Consumer, topic: str, partition: int) -> int:
        """Find where to read on, and stop where the partition does not hold that."""
        state = self._shelf.state(partition)
        ends = ends_of(client, topic, partition)
        if not state.knows(topic, partition):
            return ends.low
        at = state.resume_position(topic, partition)
        if at > ends.high:
            raise behind(topic, partition, at, ends)
        if at < ends.low:
            self._accept(state, topic, partition, at, ends.low)
            return ends.low
        return at

    def _place(self, partition: int) -> None:
        """Find the position anew that the broker said it does not hold."""
        at = self._resume_position(self._client, self._job.events, partition)
        self._next[partition] = at
        self._client.seek(kafka.TopicPartition(self._job.events, partition, at))

    def _lost_feedback(self, partition: int) -> None:
        feedback = self._feedback
        if feedback is None:
            return
        at = self._resume_position(feedback.client, feedback.topic, partition)
        feedback.client.seek(kafka.TopicPartition(feedback.topic, partition, at))

    def _open_waiting(self) -> None:
        """Try the states again that another process held."""
        for partition in sorted(self._waiting):
            at = self._begin(partition)
            if at is not None:
                where = kafka.TopicPartition(self._job.events, partition, at)
                self._client.seek(where)
                self._client.resume([where])
                self._show_partitions()

    def _on_revoke(self, client: kafka.Consumer, revoked: list[kafka.TopicPartition]) -> None:
        """Make outputs safe and let go of the states, so that others can go on at once.

        Also when partitions were lost: the state's lock says that nobody else has begun.
        """
        self._metrics.add("sentinel_stream_rebalances_total", change="revoked")
        try:
            self._commit()
        except SentinelError as error:
            self._is_whole = False
            self._failure = error
        partitions = [where.partition for where in revoked]
        for partition in partitions:
            self._next.pop(partition, None)
            self._waiting.discard(partition)
        if self._job.partition_key is not None:
            if self._feedback is not None:
                self._feedback.remove(partitions)
            for partition in partitions:
                self._shelf.close(partition)
        client.incremental_unassign(revoked)
        self._show_partitions()

    def _show_partitions(self) -> None:
        self._metrics.put("sentinel_stream_partitions", len(self._next))

    def _check_feedback_partitions(self) -> None:
        n_feedback = self._n_feedback_partitions
        if self._job.partition_key is not None and n_feedback != self._n_partitions:
            raise SentinelError(
                ErrorCode.STREAM_TOPIC_MISSING,
                at=str(self._job.feedback),
                expected=f"{self._n_partitions} partitions, as the events have",
                got=n_feedback,
                hint="With --partition-key both topics are partitioned alike.",
            )

    # --- the end -----------------------------------------------------------------------------

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

    def _report(self) -> StreamReport:
        return StreamReport(
            counts=self._scorer.counts(),
            n_decisions=self._sink.n_decisions,
            n_refusals=self._sink.n_refusals,
            n_poison=self._n_poison,
            n_gap=self._n_gap,
            positions={
                f"{topic}/{partition}": at
                for state in self._shelf.states()
                for (topic, partition), at in sorted(state.store.positions().items())
            },
        )

    def _close(self) -> None:
        """Leave the group and let go of everything; the outputs that are not marked come again."""
        try:
            if self._feedback is not None:
                self._feedback.close()
            self._client.close()
        finally:
            self._shelf.close_all()


def _parts(raw: RawBatch, state: StreamState) -> list[tuple[int, int]]:
    """Cut out what a process died at, event by event; all else stays together."""
    suspect = state.marker.suspect
    n_events = raw.n_events
    if suspect is None or suspect.partition != raw.partition:
        return [(0, n_events)]
    first = int(np.searchsorted(raw.positions, suspect.first))
    end = int(np.searchsorted(raw.positions, suspect.end))
    cuts = sorted({0, *range(first, end + 1), n_events})
    return list(itertools.pairwise(cuts))


def open_worker(
    loaded: LoadedRelease,
    settings: KafkaSettings,
    job: StreamJob,
    *,
    metrics: Metrics,
    clock: Clock | None = None,
    on_step: Callable[[Step], None] = _nothing,
) -> tuple[KafkaWorker, Scorer]:
    """Put a worker and its scorer together.

    Raises
    ------
    SentinelError
        ``stream-setting-invalid``, ``stream-topic-missing``, ``stream-partition-key``; what
        opening a scorer raises.
    """
    check_partition_key(loaded.parts.plan, job.partition_key)
    try:
        asking = kafka.Consumer(settings.consumer())
    except (kafka.KafkaException, ValueError, TypeError) as error:
        reason = error.args[0]
        raise SentinelError(
            ErrorCode.STREAM_SETTING_INVALID,
            at="properties of the Kafka client",
            expected="names and values that it knows",
            got=reason.str() if isinstance(reason, kafka.KafkaError) else reason,
            hint="See docs/streaming.md.",
        ) from error
    try:
        n_partitions = n_partitions_of(asking, job.decisions)
        n_partitions_of(asking, job.quarantine)
    finally:
        asking.close()
    sink = KafkaSink(
        settings, decisions=job.decisions, quarantine=job.quarantine, n_partitions=n_partitions
    )
    metrics.record_release(
        loaded.manifest.label,
        digest=loaded.digest,
        is_approved=loaded.standing is Standing.APPROVED,
    )
    scorer = loaded.open_scorer(Sinks(refusals=sink, decisions=None, metrics=metrics), clock=clock)
    worker = KafkaWorker(scorer, sink, settings, job, metrics=metrics, on_step=on_step)
    return worker, scorer
