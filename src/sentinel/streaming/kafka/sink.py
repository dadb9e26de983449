"""Decisions and quarantine records on their way to topics."""

from __future__ import annotations

from collections.abc import Sequence

import confluent_kafka as kafka

from sentinel.contract import Refusal
from sentinel.core.clock import Clock, SystemClock
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.scoring import DecisionBatch
from sentinel.streaming.kafka.batches import QUEUE_FULL
from sentinel.streaming.kafka.settings import KafkaSettings
from sentinel.streaming.stream.sink_records import decision_records, quarantine_record

_FULL_WAIT_S = 0.05


class KafkaSink:
    """An idempotent producer for both topics; also the scorer's sink of refusals.

    A decision has its event id as key and goes to the partition of its event (modulo the
    partitions of the topic), so the order of an entity is kept. A quarantine record has
    ``topic/partition/position`` as key: a refused event may have no id.

    Parameters
    ----------
    settings : KafkaSettings
    decisions, quarantine : str
        Topics.
    n_partitions : int
        Of the topic of decisions.
    clock : Clock, optional
        For the stamps of quarantine records.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        decisions: str,
        quarantine: str,
        n_partitions: int,
        clock: Clock | None = None,
    ) -> None:
        self._decisions = decisions
        self._quarantine = quarantine
        self._n_partitions = n_partitions
        self._clock = clock if clock is not None else SystemClock()
        self._failures: list[str] = []
        self._producer = kafka.Producer(settings.producer())
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
            for key, value in (quarantine_record(refusal, now_ms) for refusal in refusals)
        ]
        self._send(self._quarantine, records, partition=-1)
        self.n_refusals += len(records)

    def write(self, decisions: DecisionBatch, lines: bytes, *, event_id: str) -> None:
        """Send decisions, as JSON lines and in the order of the batch; duplicates have none."""
        if not lines:
            return
        keys, values = decision_records(decisions, lines, event_id=event_id)
        records: list[dict[str, object]] = [
            {"value": value, "key": key} for key, value in zip(keys, values, strict=True)
        ]
        partition = decisions.events.raw.partition % self._n_partitions
        self._send(self._decisions, records, partition=partition)
        self.n_decisions += len(records)

    def poll(self, wait_s: float = 0.0) -> None:
        """Let the client report failures; raises when a record was given up.

        Raises
        ------
        SentinelError
            ``stream-failed``.
        """
        self._producer.poll(wait_s)
        if self._failures:
            raise SentinelError(
                ErrorCode.STREAM_FAILED,
                at=self._failures[0],
                expected="a broker that takes decisions and quarantine records",
                got=self._failures[1],
                hint="Nothing is lost: the state remembers how far outputs are safe. Start again.",
            )

    def flush(self, wait_s: float) -> bool:
        """Wait until the broker has everything; False when time ran out.

        Raises
        ------
        SentinelError
            ``stream-failed``.
        """
        n_left = self._producer.flush(wait_s)
        self.poll()
        return n_left == 0

    def close(self) -> None:
        """Nothing to let go of: what was not flushed is sent again by the next start."""

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
            records = [_again(record, topic) for record in records if "_error" in record]

    def _on_delivery(self, error: kafka.KafkaError | None, message: kafka.Message) -> None:
        """Remember the first failure; the client calls it for failures only."""
        if error is not None and not self._failures:
            self._failures += [str(message.topic()), error.name()]


def _again(record: dict[str, object], topic: str) -> dict[str, object]:
    """Take a record back that found no room; anything else is final."""
    error = record.pop("_error")
    if isinstance(error, kafka.KafkaError) and error.code() != QUEUE_FULL:
        raise SentinelError(
            ErrorCode.STREAM_FAILED, at=topic, expected="a record that fits", got=error.name()
        )
    return record
