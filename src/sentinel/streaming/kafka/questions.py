"""Questions that a worker asks a cluster and waits for: repeated while the error passes by itself.

The client repeats what it does on its own account (reading, writing, the group), and hands the
caller of a question the first error there is. A leader that is being elected, a coordinator that
loads, or a broker that comes back is no reason for a worker not to start.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import confluent_kafka as kafka

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError

_Answer = TypeVar("_Answer")
# The pause before a question is asked again; the client itself waits 0.1 s (retry.backoff.ms).
_PAUSE_S = 0.1
# Errors that end by themselves: of the brokers, and of the client's own connections.
PASSING = frozenset(
    {
        kafka.KafkaError.LEADER_NOT_AVAILABLE,
        kafka.KafkaError.NOT_LEADER_FOR_PARTITION,
        kafka.KafkaError.REQUEST_TIMED_OUT,
        kafka.KafkaError.BROKER_NOT_AVAILABLE,
        kafka.KafkaError.NETWORK_EXCEPTION,
        kafka.KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        kafka.KafkaError.COORDINATOR_NOT_AVAILABLE,
        kafka.KafkaError.NOT_COORDINATOR,
        kafka.KafkaError.KAFKA_STORAGE_ERROR,
        kafka.KafkaError.FENCED_LEADER_EPOCH,
        kafka.KafkaError.UNKNOWN_LEADER_EPOCH,
        # The client's own codes (rdkafka.h): no connection, no host of that name, no word yet of a
        # partition that the group gave or of its topic, no broker left, no answer in time, and a
        # connection that was given up since the brokers have changed.
        -195,
        -193,
        -190,
        -188,
        -187,
        -185,
        -137,
    }
)


def ask(at: str, question: Callable[[float], _Answer]) -> _Answer:
    """Ask until there is an answer, or one that will not change, or time is up.

    Parameters
    ----------
    at : str
        What is asked about, for the error.
    question : callable
        Takes the seconds that are left, at most ``limits.STREAM_REQUEST_S_MAX``.

    Raises
    ------
    SentinelError
        ``stream-failed``.
    """
    ends_at = time.monotonic() + limits.STREAM_REQUEST_S_MAX
    while True:
        left_s = ends_at - time.monotonic()
        try:
            return question(max(left_s, _PAUSE_S))
        except kafka.KafkaException as error:
            if error.args[0].code() not in PASSING or left_s <= _PAUSE_S:
                raise unanswered(at, error.args[0]) from error
        time.sleep(_PAUSE_S)


def unanswered(at: str, reason: kafka.KafkaError) -> SentinelError:
    """Say that a cluster did not answer, and with which error of the client's."""
    return SentinelError(
        ErrorCode.STREAM_FAILED,
        at=at,
        expected=f"an answer within {limits.STREAM_REQUEST_S_MAX:.0f} s",
        got=reason.name(),
        hint="Check --bootstrap, and the settings for SASL and TLS.",
    )
