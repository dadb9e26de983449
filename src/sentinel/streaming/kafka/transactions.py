"""Outputs and positions of a stream worker in transactions of the broker.

A transaction begins with the first record after a commit. A commit puts the positions that the
outputs belong to into it, as offsets of the worker's group, and ends it: readers of committed
records see all of it or nothing. A worker that goes on at the mark of its state asks first how far
its outputs are visible, and sends what lies behind that only.

Anybody may commit offsets of a group. So each of ours names the topics that its outputs are in, and
one that does not say so is nobody's word: then nothing counts as visible.

Errors are of three kinds (librdkafka, "Transactional producer"): the client gets over some by
itself, or is asked again; some end the transaction; some end the producer, as when another with the
same id has taken over. The last two end the worker: what it had begun is taken back, and the next
start does it again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import confluent_kafka as kafka

from sentinel.core import limits
from sentinel.core.clock import Clock
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.monitoring import Metrics
from sentinel.streaming.kafka.log import KafkaLog
from sentinel.streaming.kafka.settings import KafkaSettings
from sentinel.streaming.kafka.sink import KafkaSink, OutputTopics, reason_of

_PAUSE_S = 0.05
_FENCED = frozenset({"_FENCED", "PRODUCER_FENCED", "INVALID_PRODUCER_EPOCH"})

# What the client says of records that it has thrown away with their transaction, and of an end
# whose reason it has lost.
_NO_REASON = frozenset({"_PURGE_QUEUE", "_PURGE_INFLIGHT", "_FATAL"})


class TransactionalSink(KafkaSink):
    """A producer of both topics whose records become visible together with their positions.

    Parameters
    ----------
    settings : KafkaSettings
        With a transactional id.
    events : KafkaLog
        The reader of the events, a member of the group.
    topics : OutputTopics
    metrics : Metrics
    clock : Clock, optional
        For the stamps of quarantine records.

    Raises
    ------
    SentinelError
        ``stream-setting-invalid``.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        events: KafkaLog,
        topics: OutputTopics,
        *,
        metrics: Metrics,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(settings, topics, clock=clock)
        self._id = settings.transactional_id
        self._events = events
        self._metrics = metrics
        self._note = f"outputs in {topics.decisions} and {topics.quarantine}"
        self._is_ready = False
        self._is_open = False

    def begin(self, places: Sequence[tuple[str, int]]) -> bool:
        """Ask how far outputs are visible; the first time, end what an earlier worker had begun.

        Only who holds the state of a partition comes here: a second worker with the same state, by
        mistake, is refused before it can take over.

        Returns
        -------
        bool
            False while a transaction of another worker that has these positions is not decided.

        Raises
        ------
        SentinelError
            ``stream-failed``.
        """
        if not self._is_ready:
            wait_s = limits.STREAM_REQUEST_S_MAX
            self._do(lambda: self._producer.init_transactions(wait_s))
            self._is_ready = True
        found = self._events.committed(places, note=self._note)
        if found is None:
            return False
        self.visible.begin(found)
        return True

    def commit(self, positions: Mapping[tuple[str, int], int]) -> None:
        """Make all outputs visible, and their positions with them.

        Raises
        ------
        SentinelError
            ``stream-failed``: nothing of it is visible, or all of it; the next start asks.
        """
        chosen = self.visible.advanced(positions)
        if not chosen:
            return
        offsets = [
            kafka.TopicPartition(topic, partition, at, self._note)
            for (topic, partition), at in chosen.items()
        ]
        self._open()
        member = self._events.membership()
        # Without a time limit of ours the client takes what is left of the transaction's.
        self._do(lambda: self._producer.send_offsets_to_transaction(offsets, member))
        self._do(self._producer.commit_transaction)
        self._is_open = False
        self.visible.begin(chosen)
        self._metrics.add("sentinel_stream_already_visible_total", self.visible.n_passed)
        self.visible.n_passed = 0

    def close(self) -> None:
        """Take back what was not committed; where nobody hears it, the next start does."""
        if not self._is_open:
            return
        self._is_open = False
        try:
            self._producer.abort_transaction(limits.STREAM_REQUEST_S_MAX)
        except (kafka.KafkaException, SystemError) as error:
            reason_of(error)

    def _send(self, topic: str, records: list[dict[str, object]], *, partition: int) -> None:
        if records:
            self._open()
        super()._send(topic, records, partition=partition)

    def _open(self) -> None:
        """Begin a transaction, unless one is open."""
        if not self._is_open:
            self._do(self._producer.begin_transaction)
            self._is_open = True

    def _do(self, call: Callable[[], object]) -> None:
        """Call the client; again where it says that this may help."""
        for n_left in reversed(range(limits.STREAM_TRANSACTION_TRIES_MAX)):
            try:
                call()
            except (kafka.KafkaException, SystemError) as error:
                reason = reason_of(error)
                if n_left == 0 or not reason.retriable():
                    raise self._failed(f"transaction of {self._id}", reason.name()) from error
                self.poll(_PAUSE_S)
            else:
                return

    def _failed(self, at: str, got: str) -> SentinelError:
        if got in _NO_REASON:
            got = self._end_of_producer() or got
        if got not in _FENCED:
            return super()._failed(at, got)
        return SentinelError(
            ErrorCode.STREAM_FAILED,
            at=f"--transactional-id {self._id}",
            expected="to be the only worker with this id, and no pause as long as a transaction",
            got="another worker with this id has taken over, or the broker gave up waiting",
            hint="Nothing is lost. Give each worker an id of its own, then start again.",
        )

    def _end_of_producer(self) -> str | None:
        """Ask what ended the producer: it says so at every call; None where nothing has."""
        try:
            self._producer.begin_transaction()
        except (kafka.KafkaException, SystemError) as error:
            reason = reason_of(error)
            return reason.name() if reason.fatal() else None
        return None
