"""Decisions and quarantine records on their way to topics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import confluent_kafka as kafka

from sentinel.contract import Refusal
from sentinel.core.clock import Clock, SystemClock
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.scoring import DecisionBatch
from sentinel.streaming.kafka.batches import QUEUE_FULL
from sentinel.streaming.kafka.log import refused_by_client
from sentinel.streaming.kafka.settings import KafkaSettings
from sentinel.streaming.stream.sink_records import decision_records, quarantine_record
from sentinel.streaming.stream.visible import Visible

_FULL_WAIT_S = 0.05
# The client's own code for what ends it (rdkafka.h), and Python's words for an error that is gone.
_FATAL = -150
_LOST = "without setting an exception"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputTopics:
    """Where a worker writes to.

    Attributes
    ----------
    decisions, quarantine : str
    n_partitions : int
        Of the topic of decisions.
    """

    decisions: str
    quarantine: str
    n_partitions: int


class KafkaSink:
    """An idempotent producer for both topics; also the scorer's sink of refusals.

    A decision has its event id as key and goes to the partition of its event (modulo the
    partitions of the topic), so the order of an entity is kept. A quarantine record has
    ``topic/partition/position`` as key: a refused event may have no id.

    Parameters
    ----------
    settings : KafkaSettings
    topics : OutputTopics
    clock : Clock, optional
        For the stamps of quarantine records.

    Attributes
    ----------
    visible : Visible
        What others see already, which is not sent: nothing, without transactions.

    Raises
    ------
    SentinelError
        ``stream-setting-invalid``.
    """

    def __init__(
        self, settings: KafkaSettings, topics: OutputTopics, *, clock: Clock | None = None
    ) -> None:
        self._topics = topics
        self._clock = clock if clock is not None else SystemClock()
        self._failures: list[str] = []
        self._producer = producer_of(settings)
        self.visible = Visible()
        self.n_decisions = 0
        self.n_refusals = 0

    @property
    def n_waiting(self) -> int:
        """Records that the broker has not acknowledged."""
        return len(self._producer)

    def put(self, refusals: Sequence[Refusal]) -> None:
        """Send refusals to the quarantine topic (the scorer calls it)."""
        if not refusals:
            return
        now_ms = self._clock.now_ms()
        records: list[dict[str, object]] = [
            {"key": key, "value": value}
            for key, value in (
                quarantine_record(refusal, now_ms) for refusal in self.visible.unseen(refusals)
            )
        ]
        self._send(self._topics.quarantine, records, partition=-1)
        self.n_refusals += len(refusals)

    def write(self, decisions: DecisionBatch, lines: bytes, *, event_id: str) -> None:
        """Send decisions, as JSON lines and in the order of the batch; duplicates have none."""
        if not lines:
            return
        keys, values = decision_records(decisions, lines, event_id=event_id)
        records: list[dict[str, object]] = [
            {"value": value, "key": key} for key, value in zip(keys, values, strict=True)
        ]
        partition = decisions.events.raw.partition % self._topics.n_partitions
        n_seen = self.visible.n_seen(decisions)
        self._send(self._topics.decisions, records[n_seen:], partition=partition)
        self.n_decisions += len(keys)

    def poll(self, wait_s: float = 0.0) -> None:
        """Let the client report failures; raises when a record was given up.

        Raises
        ------
        SentinelError
            ``stream-failed``.
        """
        self._served(lambda: self._producer.poll(wait_s))
        if self._failures:
            raise self._failed(*self._failures)

    def flush(self, wait_s: float) -> bool:
        """Wait until the broker has everything; False when time ran out.

        Raises
        ------
        SentinelError
            ``stream-failed``.
        """
        n_left = self._served(lambda: self._producer.flush(wait_s))
        self.poll()
        return n_left == 0

    def close(self) -> None:
        """Nothing to let go of: what was not flushed is sent again by the next start."""

    def _served(self, call: Callable[[], int]) -> int:
        """Let the client call us back."""
        try:
            return call()
        except (kafka.KafkaException, SystemError) as error:
            reason = reason_of(error)
            raise self._failed(self._topics.decisions, reason.name()) from error

    def _send(self, topic: str, records: list[dict[str, object]], *, partition: int) -> None:
        """Hand records to the client in order; wait where its queue is full."""
        while records:
            n_taken = self._producer.produce_batch(
                topic, records, partition=partition, on_delivery=self._on_delivery
            )
            self.poll()
            if n_taken == len(records):
                return
            self.poll(_FULL_WAIT_S)
            records = [self._again(record, topic) for record in records if "_error" in record]

    def _on_delivery(self, error: kafka.KafkaError | None, message: kafka.Message) -> None:
        """Remember the first failure; the client calls it for failures only."""
        if error is not None and not self._failures:
            self._failures += [str(message.topic()), error.name()]

    def _again(self, record: dict[str, object], topic: str) -> dict[str, object]:
        """Take a record back that found no room; anything else is final."""
        error = record.pop("_error")
        if isinstance(error, kafka.KafkaError) and error.code() != QUEUE_FULL:
            raise self._failed(topic, error.name())
        return record

    def _failed(self, at: str, got: str) -> SentinelError:
        """Say what ends the worker."""
        return SentinelError(
            ErrorCode.STREAM_FAILED,
            at=at,
            expected="a broker that takes decisions and quarantine records",
            got=got,
            hint="Nothing is lost: the state remembers how far outputs are safe. Start again.",
        )


def reason_of(error: kafka.KafkaException | SystemError) -> kafka.KafkaError:
    """Return what the client says of an error; one that is not the client's goes on.

    What ends a producer is raised while it calls us back; Python wraps it in a ``SystemError``, or
    the client loses it on the way, and then it has no name but ``_FATAL``.
    """
    cause: BaseException | None = error
    while isinstance(cause, SystemError):
        cause = cause.__cause__ or cause.__context__
    if cause is None and _LOST in str(error):
        return kafka.KafkaError(_FATAL)
    if not isinstance(cause, kafka.KafkaException):
        raise error
    reason: kafka.KafkaError = cause.args[0]
    return reason


def producer_of(settings: KafkaSettings) -> kafka.Producer:
    """Make a producer.

    Raises
    ------
    SentinelError
        ``stream-setting-invalid``.
    """
    try:
        return kafka.Producer(settings.producer())
    except (kafka.KafkaException, ValueError, TypeError) as error:
        raise refused_by_client(error.args[0]) from error
