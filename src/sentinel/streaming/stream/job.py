"""What a stream worker carries, from where to where, and the steps of doing so."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features import FeaturePlan
from sentinel.features.checks import check_entities
from sentinel.features.stores.choice import StoreChoice
from sentinel.features.stores.embedded import Durability
from sentinel.monitoring import DriftSettings


class Step(enum.StrEnum):
    """The commit steps, in order; ``docs/streaming.md`` says what a crash after each means."""

    READ = "read"
    LEARNED = "learned"
    APPLIED = "applied"
    PRODUCED = "produced"
    FLUSHED = "flushed"
    MARKED = "marked"
    SNAPSHOT = "snapshot"
    COMMITTED = "committed"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamJob:
    """One worker's work.

    Attributes
    ----------
    events, decisions, quarantine : str
        Topics.
    feedback : str or None
        Topic of late labels.
    state : Path
        Folder of the feature state; with ``store``, of what this worker notes beside it.
    store : StoreChoice or None
        A store in Redis; None: state is in the folder.
    durability : Durability
    partition_key : str or None
        The field that the topic is partitioned by: each partition then has a state of its own,
        and several workers may share the topic. None: one worker has all partitions.
    accept_gap : bool
        Go on where positions are missing.
    n_events_batch : int
        Events that are scored together at most.
    snapshot_every_events : int
    n_waiting_max : int
        Outputs that wait in the sink before reading pauses.
    drift : DriftSettings or None
        How drift from the release's reference is watched; None: the defaults.

    Raises
    ------
    SentinelError
        ``usage-invalid`` for a topic that is named twice: a worker that reads what it writes never
        ends.
    """

    events: str
    decisions: str
    quarantine: str
    state: Path
    store: StoreChoice | None = None
    feedback: str | None = None
    durability: Durability = Durability.PROCESS
    partition_key: str | None = None
    accept_gap: bool = False
    n_events_batch: int = limits.STREAM_READ_EVENTS
    snapshot_every_events: int = limits.SNAPSHOT_EVENTS
    n_waiting_max: int = limits.STREAM_WAITING_MAX
    drift: DriftSettings | None = None

    def __post_init__(self) -> None:
        named: dict[str, str] = {}
        for role in ("events", "feedback", "decisions", "quarantine"):
            topic = getattr(self, role)
            if topic is not None and topic in named:
                raise SentinelError(
                    ErrorCode.USAGE_INVALID,
                    at=f"--{role} {topic}",
                    expected="a topic of its own",
                    got=f"the topic of --{named[topic]}",
                )
            named[topic] = role


def check_partition_key(plan: FeaturePlan, key: str | None) -> None:
    """Refuse a partition key that is not the key of every entity.

    Raises
    ------
    SentinelError
        ``stream-partition-key``.
    """
    if key is None:
        return
    others = {
        entity.name: entity.key.name
        for entity in check_entities(plan.features.features)
        if entity.key.name != key
    }
    if others:
        raise SentinelError(
            ErrorCode.STREAM_PARTITION_KEY,
            at=f"--partition-key {key}",
            expected="the key of every entity of the feature set",
            got=", ".join(f"{name} by {field}" for name, field in others.items()),
            hint="Run one worker without --partition-key, or leave those entities out.",
        )


def not_alone(topic: str, n_assigned: int, n_partitions: int) -> SentinelError:
    """Refuse a part of a topic where the state is of the whole."""
    return SentinelError(
        ErrorCode.STREAM_PARTITION_KEY,
        at=topic,
        expected=f"all {n_partitions} partitions: this worker's state is of the whole topic",
        got=f"{n_assigned}: the group has other workers",
        hint="Stop the others, or name with --partition-key the field that the topic is "
        "partitioned by; it must be the key of every entity.",
    )
