"""A topic of Kafka as an event log: assigned by the group, placed by the state.

Positions of a topic may have holes that are no loss: the marks of a producer's transactions,
transactions that were taken back, events that compaction removed. What retention took away is told
apart by the broker itself: it never answers a read below its first position with a later event, but
says ``OFFSET_OUT_OF_RANGE``. So a hole *within* what was read is passed and counted, and one
*before* it stops the worker (``auto.offset.reset`` is ``error``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import confluent_kafka as kafka

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.streaming.kafka.batches import read_messages
from sentinel.streaming.kafka.questions import PASSING, ask, unanswered
from sentinel.streaming.kafka.settings import KafkaSettings
from sentinel.streaming.stream.event_log import Ends, Member, Read, topic_missing

# The client's own code for a call that its state does not allow (rdkafka.h).
_STATE = -172
# Where a group's positions are asked: also that a transaction has one and is neither committed nor
# taken back. The client asks again until its time is up, and then says that alone.
_ASK_AGAIN = PASSING | {88}


class KafkaLog:
    """One consumer of one topic.

    Parameters
    ----------
    settings : KafkaSettings
    topic : str
    in_group : bool
        Whether partitions are given by the group (:meth:`join`) or taken (:meth:`add`).
    with_keys : bool
        Whether batches carry the messages' keys, which costs an object an event.

    Raises
    ------
    SentinelError
        ``stream-setting-invalid`` for properties that the client does not know.
    """

    is_dense = False

    def __init__(
        self, settings: KafkaSettings, topic: str, *, in_group: bool, with_keys: bool = False
    ) -> None:
        self.topic = topic
        self._with_keys = with_keys
        self._member: Member | None = None
        properties = settings.consumer() if in_group else settings.feedback_consumer()
        self._client = consumer_of(properties)

    def n_partitions(self) -> int:
        """Ask how many partitions there are.

        Raises
        ------
        SentinelError
            ``stream-topic-missing``; ``stream-failed`` when no broker answers.
        """
        return n_partitions_of(self._client, self.topic)

    def ends(self, partition: int) -> Ends:
        """Ask the broker where a partition begins and ends now.

        Raises
        ------
        SentinelError
            ``stream-failed``.
        """
        return Ends(
            self._ask_offset(partition, kafka.OFFSET_BEGINNING),
            self._ask_offset(partition, kafka.OFFSET_END),
        )

    def _ask_offset(self, partition: int, end: int) -> int:
        """Ask for one end of a partition.

        The client's own question for both (``get_watermark_offsets``) tells the last offset twice
        where one of its two requests fails and the other does not.
        """
        asked = [kafka.TopicPartition(self.topic, partition, end)]

        def question(timeout_s: float) -> int:
            (found,) = self._client.offsets_for_times(asked, timeout=timeout_s)
            if found.error is not None:
                raise kafka.KafkaException(found.error)
            return int(found.offset)

        return ask(f"{self.topic}/{partition}", question)

    def known_end(self, partition: int) -> int:
        """Return the end that the last answers of the broker told."""
        where = kafka.TopicPartition(self.topic, partition)
        _, high = self._client.get_watermark_offsets(where, cached=True)
        return int(high)

    def add(self, positions: Mapping[int, int]) -> None:
        """Read these partitions too."""
        self._client.incremental_assign(
            [kafka.TopicPartition(self.topic, p, at) for p, at in positions.items()]
        )
        self.resume(list(positions))

    def remove(self, partitions: Sequence[int]) -> None:
        """Read these no longer."""
        self._client.incremental_unassign(self._places(partitions))

    def seek(self, partition: int, position: int) -> None:
        """Go on elsewhere in a partition.

        One that the client has stopped, since the broker does not hold its position, cannot be
        sought in: it is taken anew.
        """
        where = kafka.TopicPartition(self.topic, partition, position)
        try:
            self._client.seek(where)
        except kafka.KafkaException as error:
            if error.args[0].code() != _STATE:
                raise unanswered(f"{self.topic}/{partition}", error.args[0]) from error
            self._client.incremental_unassign([where])
            self._client.incremental_assign([where])

    def pause(self, partitions: Sequence[int]) -> None:
        """Give nothing of these until they are resumed."""
        self._client.pause(self._places(partitions))

    def resume(self, partitions: Sequence[int]) -> None:
        """Go on with paused partitions; with others nothing happens."""
        self._client.resume(self._places(partitions))

    def read(self, n_events_max: int, wait_s: float) -> Read:
        """Take what there is; partitions come and go within this call.

        Raises
        ------
        SentinelError
            ``stream-failed``.
        """
        messages = self._client.consume(n_events_max, wait_s)
        return read_messages(messages, self.topic, with_keys=self._with_keys)

    def join(self, member: Member) -> None:
        """Join the group."""
        self._member = member
        self._client.subscribe(
            [self.topic],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_revoke,
        )

    def tell(self, positions: Mapping[int, int]) -> bool:
        """Commit offsets: nothing depends on them, for positions are the state's."""
        offsets = [kafka.TopicPartition(self.topic, p, at) for p, at in positions.items()]
        try:
            self._client.commit(offsets=offsets, asynchronous=True)
        except kafka.KafkaException:
            return False
        return True

    def committed(
        self, places: Sequence[tuple[str, int]], *, note: str
    ) -> dict[tuple[str, int], int] | None:
        """Ask for the positions that transactions of the group have committed with a note.

        Returns
        -------
        dict or None
            0 where there is none, or one without the note. None while one is not decided, or the
            broker is slow to answer: ask again.

        Raises
        ------
        SentinelError
            ``stream-failed``.
        """
        asked = [kafka.TopicPartition(topic, partition) for topic, partition in places]
        try:
            found = self._client.committed(asked, timeout=limits.STREAM_UNDECIDED_S_MAX)
        except kafka.KafkaException as error:
            if error.args[0].code() in _ASK_AGAIN:
                return None
            raise unanswered(self.topic, error.args[0]) from error
        faults = [place.error for place in found if place.error is not None]
        if any(fault.code() in _ASK_AGAIN for fault in faults):
            return None
        if faults:
            raise unanswered(self.topic, faults[0])
        return {
            (place.topic, place.partition): place.offset
            if place.metadata == note and place.offset >= 0
            else 0
            for place in found
        }

    def membership(self) -> object:
        """Return what proves to the broker that this is a member of the group; opaque."""
        return self._client.consumer_group_metadata()

    def close(self) -> None:
        """Leave the group."""
        self._client.close()

    def _places(self, partitions: Sequence[int]) -> list[kafka.TopicPartition]:
        return [kafka.TopicPartition(self.topic, partition) for partition in partitions]

    def _on_assign(self, client: kafka.Consumer, assigned: list[kafka.TopicPartition]) -> None:
        if self._member is None:
            return
        begins = self._member.begin([where.partition for where in assigned])
        client.incremental_assign(
            [
                kafka.TopicPartition(self.topic, p, kafka.OFFSET_END if at is None else at)
                for p, at in begins.items()
            ]
        )
        # The client remembers whom it had paused before they were taken away.
        self.resume([p for p, at in begins.items() if at is not None])
        waiting = [p for p, at in begins.items() if at is None]
        if waiting:
            client.pause(self._places(waiting))

    def _on_revoke(self, client: kafka.Consumer, revoked: list[kafka.TopicPartition]) -> None:
        if self._member is not None:
            self._member.end([where.partition for where in revoked])
        client.incremental_unassign(revoked)


def consumer_of(properties: Mapping[str, str | int | float | bool]) -> kafka.Consumer:
    """Make a consumer.

    Raises
    ------
    SentinelError
        ``stream-setting-invalid``.
    """
    try:
        return kafka.Consumer(dict(properties))
    except (kafka.KafkaException, ValueError, TypeError) as error:
        raise refused_by_client(error.args[0]) from error


def refused_by_client(reason: object) -> SentinelError:
    """Say which property the client does not take; ``reason`` is its own."""
    return SentinelError(
        ErrorCode.STREAM_SETTING_INVALID,
        at="properties of the Kafka client",
        expected="names and values that it knows",
        got=reason.str() if isinstance(reason, kafka.KafkaError) else reason,
        hint="See docs/streaming.md.",
    )


def n_partitions_of(client: kafka.Consumer, topic: str) -> int:
    """Ask how many partitions a topic has; see :meth:`KafkaLog.n_partitions`."""

    def question(timeout_s: float) -> int:
        found = client.list_topics(topic, timeout=timeout_s).topics[topic]
        if found.error is not None and found.error.code() in PASSING:
            raise kafka.KafkaException(found.error)
        if found.error is not None:
            raise topic_missing(topic, found.error.name())
        return len(found.partitions)

    n_partitions = ask(topic, question)
    if not 0 < n_partitions <= limits.STREAM_PARTITIONS_MAX:
        raise topic_missing(topic, n_partitions)
    return n_partitions
