"""One suite over every event log: Kafka's own protocol, files, memory. A fake cannot lie."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Protocol

import pytest
from stream_rig import Cluster

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.streaming.file_log.log import FileLogWriter, create_topic
from sentinel.streaming.file_log.reader import FileLog
from sentinel.streaming.kafka.log import KafkaLog
from sentinel.streaming.kafka.settings import KafkaSettings
from sentinel.streaming.stream.event_log import Ends, GroupLog, KeyedBatch, cut
from sentinel.testing.memory_log import MemoryLog, MemoryTopic

WAIT_S = 60.0
N_PARTITIONS = 3


class Closes(Protocol):
    def close(self) -> None: ...


@dataclass
class Kept:
    """A topic of one kind, and how to write and read it."""

    append: Callable[..., object]
    open_log: Callable[[], GroupLog]
    forget: Callable[[int, int], int]
    opened: list[Closes] = field(default_factory=list)

    def open(self) -> GroupLog:
        log = self.open_log()
        self.opened.append(log)
        return log

    def close(self) -> None:
        for log in self.opened:
            log.close()


class Everything:
    """A member that takes what it is given, from the positions that it was told."""

    def __init__(self, positions: Mapping[int, int | None]) -> None:
        self._positions = positions
        self.began: list[int] = []
        self.ended: list[int] = []

    def begin(self, partitions: Sequence[int]) -> Mapping[int, int | None]:
        self.began += partitions
        return {p: self._positions.get(p, 0) for p in partitions}

    def end(self, partitions: Sequence[int]) -> None:
        self.ended += partitions


@dataclass
class Seen:
    """All that was read of a log so far."""

    values: dict[int, list[bytes]] = field(default_factory=dict)
    positions: dict[int, list[int]] = field(default_factory=dict)
    keys: dict[int, list[bytes | None]] = field(default_factory=dict)
    times: dict[int, list[int]] = field(default_factory=dict)
    at_end: dict[int, int] = field(default_factory=dict)
    out_of_range: set[int] = field(default_factory=set)

    def take(self, batch: KeyedBatch) -> None:
        raw = batch.raw
        here = raw.partition
        self.values.setdefault(here, []).extend(raw.event_bytes(i) for i in range(raw.n_events))
        self.positions.setdefault(here, []).extend(raw.positions.tolist())
        self.keys.setdefault(here, []).extend(batch.keys or ())
        if raw.received_at_ms is not None:
            self.times.setdefault(here, []).extend(raw.received_at_ms.tolist())


def read_until(log: GroupLog, is_done: Callable[[Seen], bool], seen: Seen | None = None) -> Seen:
    seen = Seen() if seen is None else seen
    deadline_s = time.monotonic() + WAIT_S
    while not is_done(seen):
        assert time.monotonic() < deadline_s, seen
        read = log.read(7, 0.02)
        for batch in read.batches:
            assert 0 < batch.raw.n_events <= 7
            seen.take(batch)
        seen.at_end.update(read.at_end)
        seen.out_of_range.update(read.out_of_range)
    return seen


@pytest.fixture(params=["kafka", "files", "memory"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kept]:
    if request.param == "memory":
        topic = MemoryTopic("t", N_PARTITIONS)
        made = Kept(topic.append, lambda: MemoryLog(topic, with_keys=True), topic.forget)
    elif request.param == "files":
        create_topic(tmp_path, "t", N_PARTITIONS)
        writer = FileLogWriter(tmp_path, "t", segment_bytes=300)
        made = Kept(writer.append, lambda: FileLog(tmp_path, "t", with_keys=True), writer.forget)
        made.opened.append(writer)
    else:
        made = of_kafka(request.getfixturevalue("cluster"))
    yield made
    made.close()


def of_kafka(cluster: Cluster) -> Kept:
    topic = cluster.topic("log", N_PARTITIONS)
    settings = KafkaSettings(
        bootstrap=cluster.bootstrap, group=topic, client={"session.timeout.ms": 6000}
    )

    def append(
        partition: int,
        values: Sequence[bytes | None],
        *,
        keys: Sequence[bytes | None] | None = None,
        times_ms: Sequence[int] | None = None,
    ) -> None:
        n_events = len(values)
        cluster.produce(
            topic,
            [
                {"value": value, "key": key, "timestamp": at, "partition": partition}
                for value, key, at in zip(
                    values, keys or [None] * n_events, times_ms or [1] * n_events, strict=True
                )
            ],
        )

    def forget(partition: int, before: int) -> int:
        if cluster.mock is not None:
            pytest.skip("the mock forgets only by itself, at 5 MiB")
        return cluster.forget(topic, partition, before)

    def open_log() -> GroupLog:
        return KafkaLog(settings, topic, in_group=True, with_keys=True)

    return Kept(append, open_log, forget)


def test_what_was_appended_is_read_in_order_with_positions_keys_and_stamps(kept: Kept) -> None:
    rng = Random(5)
    sent: dict[int, list[bytes]] = {p: [] for p in range(N_PARTITIONS)}
    for number in range(40):
        partition = rng.randrange(N_PARTITIONS)
        values = [b"%d/%d" % (number, i) * rng.randrange(1, 9) for i in range(rng.randrange(1, 9))]
        kept.append(
            partition,
            values,
            keys=[b"k" + value[:2] for value in values],
            times_ms=[1_700_000_000_000 + number] * len(values),
        )
        sent[partition] += values
    log = kept.open()
    assert log.n_partitions() == N_PARTITIONS
    log.join(Everything({}))
    seen = read_until(
        log, lambda s: sum(map(len, s.values.values())) == sum(map(len, sent.values()))
    )
    assert seen.values == {p: values for p, values in sent.items() if values}
    for partition, values in sent.items():
        assert seen.positions[partition] == list(range(len(values)))
        assert seen.keys[partition] == [b"k" + value[:2] for value in values]
        assert len(seen.times[partition]) == len(values)
        assert log.ends(partition) == Ends(0, len(values))
    log.close()


def test_the_end_is_said_with_its_position_and_what_comes_later_is_read(kept: Kept) -> None:
    kept.append(0, [b"a", b"b"])
    log = kept.open()
    log.join(Everything({}))
    seen = read_until(log, lambda s: len(s.at_end) == N_PARTITIONS)
    assert seen.at_end == {0: 2, 1: 0, 2: 0}
    assert log.known_end(0) == 2
    kept.append(0, [b"c"])
    seen = read_until(log, lambda s: len(s.values[0]) == 3, seen)
    assert seen.values == {0: [b"a", b"b", b"c"]}
    log.close()


def test_a_partition_is_read_from_the_position_that_the_member_says(kept: Kept) -> None:
    kept.append(1, [b"%d" % i for i in range(50)])
    log = kept.open()
    log.join(Everything({1: 33}))
    seen = read_until(log, lambda s: len(s.values.get(1, ())) == 17)
    assert seen.positions == {1: list(range(33, 50))}
    log.seek(1, 10)
    seen = read_until(log, lambda s: len(s.values.get(1, ())) == 40)
    assert seen.positions == {1: list(range(10, 50))}
    log.close()


def test_a_partition_that_waits_gives_nothing_until_it_is_placed(kept: Kept) -> None:
    for partition in range(2):
        kept.append(partition, [b"x"] * 20)
    log = kept.open()
    log.join(Everything({1: None}))
    seen = read_until(log, lambda s: len(s.values.get(0, ())) == 20)
    for _ in range(5):
        assert not [b for b in log.read(7, 0.02).batches if b.raw.partition == 1]
    assert 1 not in seen.values
    log.seek(1, 15)
    log.resume([1])
    assert read_until(log, lambda s: len(s.values.get(1, ())) == 5).positions[1][0] == 15
    log.close()


def test_a_paused_partition_goes_on_where_it_was(kept: Kept) -> None:
    kept.append(0, [b"%d" % i for i in range(30)])
    kept.append(2, [b"y"])
    log = kept.open()
    log.join(Everything({}))
    seen = read_until(log, lambda s: bool(s.values.get(0)))
    log.pause([0])
    n_read = len(seen.values[0])
    for _ in range(5):
        read = log.read(7, 0.02)
        assert not [b for b in read.batches if b.raw.partition == 0]
    log.resume([0])
    seen = read_until(log, lambda s: len(s.values[0]) == 30, seen)
    assert seen.positions[0] == list(range(30)), n_read
    log.close()


def test_a_partition_that_was_given_back_while_it_was_paused_is_read_when_it_comes_again(
    kept: Kept,
) -> None:
    for partition in range(2):
        kept.append(partition, [b"%d" % i for i in range(20)])
    log = kept.open()
    log.add({0: 0, 1: 0})
    read_until(log, lambda s: bool(s.values.get(0)))
    log.pause([0])
    log.remove([0])
    log.add({0: 5})
    assert read_until(log, lambda s: 0 in s.at_end).positions[0] == list(range(5, 20))
    log.close()


def test_partitions_may_be_taken_and_given_back_without_a_group(kept: Kept) -> None:
    for partition in range(N_PARTITIONS):
        kept.append(partition, [b"%d" % i for i in range(10)])
    log = kept.open()
    log.add({0: 4, 2: 0})
    seen = read_until(log, lambda s: s.at_end.keys() == {0, 2})
    assert seen.positions == {0: list(range(4, 10)), 2: list(range(10))}
    log.remove([0])
    log.add({1: 9})
    assert read_until(log, lambda s: 1 in s.at_end).positions == {1: [9]}
    log.close()


def test_an_event_without_a_value_or_a_key_has_no_bytes(kept: Kept) -> None:
    kept.append(0, [None, b"", b"v"], keys=[b"k", None, b""], times_ms=[5, 5, 5])
    log = kept.open()
    log.add({0: 0})
    seen = read_until(log, lambda s: len(s.values.get(0, ())) == 3)
    assert seen.values[0] == [b"", b"", b"v"]
    assert seen.keys[0] == [b"k", None, b""]
    log.close()


def test_closing_gives_the_partitions_back(kept: Kept) -> None:
    kept.append(0, [b"a"])
    member = Everything({})
    log = kept.open()
    log.join(member)
    read_until(log, lambda s: 0 in s.values)
    assert log.tell({0: 1})
    log.close()
    assert sorted(member.began) == sorted(member.ended) == list(range(N_PARTITIONS))


@pytest.mark.parametrize("at", [100, 3])
def test_a_position_that_the_partition_does_not_hold_is_said(kept: Kept, at: int) -> None:
    """Beyond its end, or forgotten: never silently another one."""
    for _ in range(12):
        kept.append(0, [b"x" * 30] * 5)
    low = 0 if at == 100 else kept.forget(0, 31)
    log = kept.open()
    assert log.ends(0) == Ends(low, 60)
    log.add({0: at})
    seen = read_until(log, lambda s: 0 in s.out_of_range)
    assert not seen.values
    log.seek(0, low)
    assert read_until(log, lambda s: 0 in s.at_end).positions == {0: list(range(low, 60))}
    log.close()


def test_a_topic_that_is_not_there_is_named(tmp_path: Path, cluster: Cluster) -> None:
    settings = KafkaSettings(bootstrap=cluster.bootstrap, group="g")
    log = KafkaLog(settings, "nowhere", in_group=False)
    if cluster.mock is None:
        pytest.skip("a real cluster may make topics by itself")
    for ask in (log.n_partitions, lambda: FileLog(tmp_path, "nowhere")):
        with pytest.raises(SentinelError) as caught:
            ask()
        assert caught.value.code is ErrorCode.STREAM_TOPIC_MISSING
        assert caught.value.at == "nowhere"
    log.close()


def test_a_part_of_a_batch_has_the_keys_of_its_events() -> None:
    topic = MemoryTopic("t", 1)
    topic.append(0, [b"a", b"b", b"c"], keys=[b"1", b"2", b"3"], times_ms=[1, 2, 3])
    log = MemoryLog(topic, with_keys=True)
    log.add({0: 0})
    (batch,) = log.read(10, 0.0).batches
    part = cut(batch, 1, 2)
    assert part.keys == (b"2",)
    assert part.raw.positions.tolist() == [1]
    assert part.raw.event_bytes(0) == b"b"
    assert cut(batch, 0, 3) is batch
