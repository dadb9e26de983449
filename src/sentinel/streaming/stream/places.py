"""Which partitions a worker has, and where it is in each: the state says, never the broker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from sentinel.contract import RawBatch
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.monitoring.metrics import Metrics
from sentinel.streaming.stream.ends import Transactions
from sentinel.streaming.stream.event_log import EventLog, GroupLog, behind, gap
from sentinel.streaming.stream.feedback import StreamFeedback
from sentinel.streaming.stream.in_order import InOrder
from sentinel.streaming.stream.job import StreamJob, not_alone
from sentinel.streaming.stream.pauses import Pauses, Why
from sentinel.streaming.stream.shelf import Shelf
from sentinel.streaming.stream.state import StreamState


class Places:
    """The partitions of one worker; a ``Member`` of its log.

    Parameters
    ----------
    log : GroupLog
    job : StreamJob
    shelf : Shelf
    metrics : Metrics
    on_release : callable
        Makes outputs safe before partitions are let go.
    """

    def __init__(
        self,
        log: GroupLog,
        job: StreamJob,
        shelf: Shelf,
        *,
        metrics: Metrics,
        on_release: Callable[[], None],
    ) -> None:
        self._log = log
        self._job = job
        self._shelf = shelf
        self._metrics = metrics
        self._on_release = on_release
        self.pauses = Pauses(log)
        # Of partitions that share one state; those with a state each have nothing to wait for.
        self.in_order: InOrder | None = None
        self.feedback: StreamFeedback | None = None
        self.transactions: Transactions | None = None
        # Held, and read: the position that comes next of each partition.
        self.next: dict[int, int] = {}
        # Ours, while another process still holds their state, or it is still being decided how far
        # its outputs are visible.
        self._waiting: set[int] = set()
        # What went wrong inside a call of the log; raised from the next turn.
        self.failure: SentinelError | None = None
        self._n_partitions = 0
        self._n_feedback_partitions = 0
        self._is_complete = False
        self.n_gap = 0
        self.n_holes = 0

    def join(self) -> None:
        """Look at the topics, open the one state where there is one, and ask for partitions.

        Raises
        ------
        SentinelError
            ``stream-topic-missing``, ``stream-failed``; what opening the state raises.
        """
        self._n_partitions = self._log.n_partitions()
        if self.feedback is not None:
            self._n_feedback_partitions = self.feedback.log.n_partitions()
            self._check_feedback_partitions()
        if self._job.partition_key is None:
            self._shelf.open(0)
        self._log.join(self)

    # --- coming and going --------------------------------------------------------------------

    def begin(self, partitions: Sequence[int]) -> Mapping[int, int | None]:
        """Take partitions, and say where each is read from."""
        self._metrics.add("sentinel_stream_rebalances_total", change="assigned")
        begins: dict[int, int | None] = dict.fromkeys(partitions)
        try:
            self._check_alone(partitions)
            for partition in partitions:
                begins[partition] = at = self._begin(partition)
                self.pauses.begin(partition, is_waiting=at is None)
        except SentinelError as error:
            self.failure = error
        self._show_partitions()
        return begins

    def end(self, partitions: Sequence[int]) -> None:
        """Make outputs safe and let go of the states, so that others can go on at once.

        Also when partitions were lost: the state's lock says that nobody else has begun.
        """
        self._metrics.add("sentinel_stream_rebalances_total", change="revoked")
        try:
            self._on_release()
        except SentinelError as error:
            self.failure = error
        for partition in partitions:
            self.next.pop(partition, None)
            self._waiting.discard(partition)
            self.pauses.end(partition)
            if self.in_order is not None:
                self.in_order.end(partition)
        if self._job.partition_key is not None:
            if self.feedback is not None:
                self.feedback.remove(list(partitions))
            for partition in partitions:
                self._shelf.close(partition)
        self._show_partitions()

    def retry_waiting(self) -> None:
        """Try the states again that another process held."""
        for partition in sorted(self._waiting):
            at = self._begin(partition)
            if at is not None:
                self._log.seek(partition, at)
                self.pauses.remove(Why.STATE, [partition])
                self._show_partitions()

    def _begin(self, partition: int) -> int | None:
        """Open the state of a partition and say where to read on; None: not yet."""
        try:
            self._shelf.open(partition)
        except SentinelError as error:
            if error.code is not ErrorCode.STATE_LOCKED:
                raise
            self._waiting.add(partition)
            return None
        at = self._resume_position(self._log, partition)
        feedback, chosen = self.feedback, self._feedback_of(partition)
        places = [(self._log.topic, partition)]
        if feedback is not None:
            places += [(feedback.log.topic, p) for p in chosen]
        if self.transactions is not None and not self.transactions.begin(places):
            self._waiting.add(partition)
            return None
        self._waiting.discard(partition)
        self.next[partition] = at
        if self.in_order is not None:
            self.in_order.begin(partition)
        if feedback is not None:
            feedback.add({p: self._resume_position(feedback.log, p) for p in chosen})
        return at

    def _feedback_of(self, partition: int) -> list[int]:
        """Say which partitions of the feedback begin with one of the events."""
        if self.feedback is None:
            return []
        if self._job.partition_key is not None:
            return [partition]
        return [] if self.feedback.is_reading else list(range(self._n_feedback_partitions))

    def carried(self) -> dict[tuple[str, int], int]:
        """Return the position that comes next in each partition of events and of feedback."""
        found = {(self._log.topic, p): at for p, at in self.next.items()}
        if self.feedback is not None:
            topic = self.feedback.log.topic
            found |= {(topic, p): at for p, at in self.feedback.next.items()}
        return found

    # --- positions ---------------------------------------------------------------------------

    def place_again(self, log: EventLog, partition: int) -> None:
        """Find the position anew that a log said it does not hold.

        Raises
        ------
        SentinelError
            ``source-gap``, ``source-behind-state``, ``stream-failed``.
        """
        at = self._resume_position(log, partition)
        if log is self._log:
            if partition not in self.next:
                return
            self.next[partition] = at
            if self.in_order is not None:
                self.in_order.placed(partition)
        log.seek(partition, at)
        if log is self._log:
            self.pauses.say_again(partition)

    def check_whole(self, raw: RawBatch) -> None:
        """Look for positions that are missing before or within a batch that follows.

        Raises
        ------
        SentinelError
            ``source-gap`` where positions of the log follow one another.
        """
        self._pass_holes(self._log, raw, self.next[raw.partition])

    def learned(self, log: EventLog, raw: RawBatch) -> StreamState:
        """Return the state that feedback goes to, holes before and within it being looked at."""
        state = self._shelf.state(raw.partition)
        is_known = state.knows(raw.source, raw.partition)
        first = int(raw.positions[0])
        held = state.store.position(raw.source, raw.partition) if is_known else first
        self._pass_holes(log, raw, held)
        return state

    def _pass_holes(self, log: EventLog, raw: RawBatch, expected: int) -> None:
        positions = raw.positions
        first, last = int(positions[0]), int(positions[-1])
        if first <= expected and last - first + 1 == raw.n_events:
            return
        before = np.concatenate([[expected - 1], positions[:-1]])
        state = self._shelf.state(raw.partition)
        for at in np.flatnonzero(positions > before + 1).tolist():
            first, end = int(before[at]) + 1, int(positions[at])
            if end > expected:
                self._missing(log, state, raw.partition, first, end)

    def reached_end(self, at_end: Mapping[int, int]) -> None:
        """Pass what stands behind the last event of a partition and is none."""
        for partition, position in at_end.items():
            if self.next.get(partition, position) < position and not self._log.is_dense:
                self.next[partition] = position

    def _missing(
        self, log: EventLog, state: StreamState, partition: int, first: int, end: int
    ) -> None:
        """Pass a hole that is no loss; stop at one that is."""
        if log.is_dense:
            self._accept(log, state, partition, first, end)
            return
        state.store.accept_gap(log.topic, partition, end)
        self.n_holes += end - first
        self._metrics.add("sentinel_stream_hole_positions_total", end - first)

    def _accept(
        self, log: EventLog, state: StreamState, partition: int, first: int, end: int
    ) -> None:
        """Stop at a loss, or go on behind it where that was asked for."""
        if not self._job.accept_gap:
            raise gap(log.topic, partition, first, end)
        state.store.accept_gap(log.topic, partition, end)
        self.n_gap += end - first
        self._metrics.add("sentinel_stream_gap_events_total", end - first)

    def _resume_position(self, log: EventLog, partition: int) -> int:
        """Find where to read on, and stop where the partition does not hold that."""
        state = self._shelf.state(partition)
        ends = log.ends(partition)
        if not state.knows(log.topic, partition):
            return ends.low
        at = state.resume_position(log.topic, partition)
        if at > ends.high:
            raise behind(log.topic, partition, at, ends)
        if at < ends.low:
            self._accept(log, state, partition, at, ends.low)
            return ends.low
        return at

    # --- checks ------------------------------------------------------------------------------

    def _check_alone(self, partitions: Sequence[int]) -> None:
        """Refuse to begin with a part of a topic where the state is of the whole."""
        if self._job.partition_key is not None or not partitions:
            return
        n_all = len(set(self.next) | set(partitions))
        if n_all < self._n_partitions and not self._is_complete:
            raise not_alone(self._log.topic, n_all, self._n_partitions)
        self._is_complete = True

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

    def _show_partitions(self) -> None:
        self._metrics.put("sentinel_stream_partitions", len(self.next))
