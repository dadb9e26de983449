"""A consumer whose positions are the state's: assigned by the group, never placed by the broker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import confluent_kafka as kafka

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError


@dataclass(frozen=True, slots=True)
class Ends:
    """Where a partition begins and ends.

    Attributes
    ----------
    low : int
        First position that it still holds.
    high : int
        Position that the next event will get.
    """

    low: int
    high: int


def n_partitions_of(client: kafka.Consumer, topic: str) -> int:
    """Ask how many partitions a topic has.

    Raises
    ------
    SentinelError
        ``stream-topic-missing``; ``stream-failed`` when no broker answers.
    """
    try:
        found = client.list_topics(topic, timeout=limits.STREAM_REQUEST_S_MAX).topics[topic]
    except kafka.KafkaException as error:
        raise _unreachable(topic, error) from error
    n_partitions = len(found.partitions)
    if found.error is not None or not 0 < n_partitions <= limits.STREAM_PARTITIONS_MAX:
        raise SentinelError(
            ErrorCode.STREAM_TOPIC_MISSING,
            at=topic,
            expected=f"a topic with 1 to {limits.STREAM_PARTITIONS_MAX} partitions",
            got=found.error.name() if found.error is not None else n_partitions,
            hint="Create it first: the worker makes no topics.",
        )
    return n_partitions


def ends_of(client: kafka.Consumer, topic: str, partition: int) -> Ends:
    """Ask the broker where a partition begins and ends now.

    Raises
    ------
    SentinelError
        ``stream-failed``.
    """
    where = kafka.TopicPartition(topic, partition)
    try:
        low, high = client.get_watermark_offsets(where, timeout=limits.STREAM_REQUEST_S_MAX)
    except kafka.KafkaException as error:
        raise _unreachable(f"{topic}/{partition}", error) from error
    return Ends(low, high)


def gap(topic: str, partition: int, first: int, end: int) -> SentinelError:
    """Name what is missing."""
    return SentinelError(
        ErrorCode.SOURCE_GAP,
        at=f"{topic}/{partition}",
        expected=f"position {first}",
        got=f"{end}: positions {first} to {end - 1} are missing",
        hint="Go on without them with --accept-gap; the features then lack these events.",
    )


def behind(topic: str, partition: int, position: int, ends: Ends) -> SentinelError:
    """Say that the partition is shorter than the state."""
    return SentinelError(
        ErrorCode.SOURCE_BEHIND_STATE,
        at=f"{topic}/{partition}",
        expected=f"a partition that reaches position {position}",
        got=f"one that ends at {ends.high}",
        hint="Another cluster or a topic made anew: name another --store.",
    )


def commit_offsets(client: kafka.Consumer, positions: Sequence[tuple[str, int, int]]) -> bool:
    """Tell the broker how far outputs are safe; only for people who watch lag.

    Returns
    -------
    bool
        Whether it could be sent. Positions are the state's, so nothing depends on it.
    """
    offsets = [kafka.TopicPartition(*position) for position in positions]
    try:
        client.commit(offsets=offsets, asynchronous=True)
    except kafka.KafkaException:
        return False
    return True


def _unreachable(at: str, error: kafka.KafkaException) -> SentinelError:
    return SentinelError(
        ErrorCode.STREAM_FAILED,
        at=at,
        expected=f"an answer within {limits.STREAM_REQUEST_S_MAX:.0f} s",
        got=error.args[0].name(),
        hint="Check --bootstrap, and the settings for SASL and TLS.",
    )
