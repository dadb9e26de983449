"""A worker of several partitions follows the time of their events, however they are read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from stream_rig import Case, Cluster, FileCluster, Stream
from worker_rig import Rig

from sentinel.core import limits
from sentinel.release import LoadedRelease
from sentinel.streaming.file_log.log import FileLogWriter, create_topic
from sentinel.streaming.file_log.reader import FileLog
from sentinel.streaming.stream import in_order as in_order_module
from sentinel.streaming.stream import worker as worker_module
from sentinel.streaming.stream.event_log import Read
from sentinel.testing.memory_log import MemoryLog

START_MS, EACH_MS, HOUR_MS = 1_533_081_600_000, 30_000, 3_600_000
N_EVENTS = 6_000


def payment(number: int, at_ms: int, card: int) -> bytes:
    event = {
        "payment_id": f"p{number}",
        "paid_at": at_ms,
        "card_id": f"c{card}",
        "amount": 5 + number % 900 / 10,
        "channel": ("chip", "online")[number % 2] if number % 7 else "chip",
    }
    return json.dumps(event).encode()


@pytest.fixture(scope="module")
def history() -> list[bytes]:
    """Give fifty hours of events, two a minute, of 41 cards."""
    return [payment(i, START_MS + i * EACH_MS, i * 7 % 41) for i in range(N_EVENTS)]


@pytest.fixture(scope="module")
def bursts() -> list[bytes]:
    """Give a hundred hours of events, all of them in the first half of an hour."""
    halves = [START_MS + i // 60 * HOUR_MS + i % 60 * EACH_MS for i in range(N_EVENTS)]
    return [payment(i, at_ms, i * 7 % 41) for i, at_ms in enumerate(halves)]


def time_of(line: bytes) -> int:
    time_ms: int = json.loads(line)["paid_at"]
    return time_ms


def in_turns(line: bytes, n_partitions: int) -> int:
    """Every partition has events of every minute, of every card."""
    return int(json.loads(line)["payment_id"][1:]) % n_partitions


def by_hour(line: bytes, n_partitions: int) -> int:
    """Give the partitions an hour each in turns: the next begins more than the bound behind."""
    return (time_of(line) - START_MS) // HOUR_MS % n_partitions


@pytest.fixture
def rigs(loaded: LoadedRelease, tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    opened: list[Rig] = []

    def make(n_partitions: int = 2, *, n_events_batch: int = limits.STREAM_READ_EVENTS) -> Rig:
        rig = Rig(
            loaded,
            tmp_path / str(len(opened)),
            n_partitions=n_partitions,
            job_settings={"n_events_batch": n_events_batch},
        )
        opened.append(rig)
        return rig

    yield make
    for rig in opened:
        rig.close()


def send(rig: Rig, lines: list[bytes], place: Callable[[bytes, int], int]) -> None:
    for line in lines:
        rig.send([line], at=place(line, rig.n_partitions))


def put_into_files(rig: Rig, folder: Path) -> None:
    """Add what a rig has sent to a log of files, and have it read from there."""
    if not folder.exists():
        create_topic(folder, "events", rig.n_partitions)
    writer = FileLogWriter(folder, "events")
    for number, partition in enumerate(rig.topic.partitions):
        there = FileLog(folder, "events").ends(number).high
        for first in range(there, len(partition.values), 500):
            part = slice(first, first + 500)
            writer.append(number, partition.values[part], times_ms=partition.times_ms[part])
    writer.close()
    rig.reader_type = lambda topic, *, with_keys=False: FileLog(
        folder, "events", with_keys=with_keys
    )


def decide(rig: Rig) -> dict[bytes, bytes]:
    """Start, and carry everything; return the decisions, each of which was made once."""
    rig.start()
    return carry(rig)


def carry(rig: Rig) -> dict[bytes, bytes]:
    """Carry everything: in some turns what is read is only kept."""
    assert rig.worker is not None
    n_quiet = 0
    while n_quiet < 10:
        n_quiet = 0 if rig.worker.turn() else n_quiet + 1
        rig.clock.advance(0.01)
    return decisions_of(rig)


def decisions_of(rig: Rig) -> dict[bytes, bytes]:
    assert rig.worker is not None
    rig.worker.commit()
    assert len(rig.sink.decisions) == len(dict(rig.sink.decisions))
    return dict(rig.sink.decisions)


def n_late(rig: Rig) -> int:
    assert rig.scorer is not None
    return rig.scorer.counts().late


def vectors(decisions: dict[bytes, bytes]) -> dict[bytes, tuple[object, ...]]:
    """Return what a decision says of its event: score and hash of its features."""
    return {
        key: tuple(
            v for k, v in sorted(json.loads(value).items()) if k in {"score", "feature_hash"}
        )
        for key, value in decisions.items()
    }


@pytest.mark.parametrize("kind", ["memory", "files"])
def test_a_history_of_hours_in_turns_is_decided_as_in_the_order_of_its_events(
    rigs: Callable[..., Rig], bursts: list[bytes], tmp_path: Path, kind: str
) -> None:
    """The same scores of the same features, to the bit, for every event."""
    whole, apart = rigs(1), rigs(2)
    send(whole, bursts, by_hour)
    send(apart, bursts, by_hour)
    if kind == "files":
        put_into_files(apart, tmp_path / "log")
    expected = vectors(decide(whole))
    assert len(expected) == N_EVENTS
    assert vectors(decide(apart)) == expected
    assert n_late(apart) == 0


@pytest.mark.parametrize("n_partitions", [2, 3])
@pytest.mark.parametrize("kind", ["memory", "files"])
def test_one_partition_far_behind_the_other_loses_no_event_of_a_feature(
    rigs: Callable[..., Rig], history: list[bytes], tmp_path: Path, kind: str, n_partitions: int
) -> None:
    """What is asked afterwards is answered as after a replay of the merged history."""
    end_ms = START_MS + N_EVENTS * EACH_MS
    questions = [payment(N_EVENTS + card, end_ms, card) for card in range(41)]
    whole, apart = rigs(1), rigs(n_partitions)
    found = []
    for rig in (whole, apart):
        send(rig, history, in_turns)
        if kind == "files":
            put_into_files(rig, tmp_path / f"log-{rig.n_partitions}")
        assert len(decide(rig)) == N_EVENTS
        before = rig.sink.decisions.copy()
        send(rig, questions, in_turns)
        if kind == "files":
            put_into_files(rig, tmp_path / f"log-{rig.n_partitions}")
        found.append(vectors(dict(carry(rig).items() - dict(before).items())))
    assert len(found[0]) == 41
    assert found[0] == found[1]
    assert n_late(apart) == n_late(whole) == 0
    assert apart.worker is not None
    assert not [cause for cause in apart.worker.finish().causes if "too late" in cause]


def test_without_it_thousands_of_them_come_too_late(
    rigs: Callable[..., Rig], history: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the tests above can fail."""
    monkeypatch.setattr(worker_module, "bound_of", lambda plan: None)
    apart = rigs(2)
    send(apart, history, in_turns)
    decide(apart)
    assert n_late(apart) > 1_000


class Watched(MemoryLog):
    """A log that counts how often one of its partitions was paused."""

    n_pauses = 0

    def pause(self, partitions: Sequence[int]) -> None:
        self.n_pauses += len(partitions)
        super().pause(partitions)


def test_partitions_that_are_near_each_other_are_never_paused(
    rigs: Callable[..., Rig], history: list[bytes]
) -> None:
    """Live, and where one is all there is."""
    live, alone = rigs(2), rigs(1)
    live.reader_type = alone.reader_type = Watched
    for worker in (live.start(), alone.start()):
        worker.turn()
    for first in range(0, 1_000, 20):
        send(live, history[first : first + 20], in_turns)
        assert live.drain() == 20
    send(alone, history, in_turns)
    assert alone.drain() == N_EVENTS
    assert live.reader.n_pauses == alone.reader.n_pauses == 0


class Sleepy(MemoryLog):
    """A log of which one partition may give nothing, nor say that it is at its end."""

    silent: int | None = None

    def read(self, n_events_max: int, wait_s: float) -> Read:
        asleep = self.silent not in self._paused and self.silent is not None
        if asleep:
            self._paused.add(self.silent)
        read = super().read(n_events_max, wait_s)
        if asleep:
            self._paused.discard(self.silent)
        return read

    def known_end(self, partition: int) -> int:
        return -1 if partition == self.silent else super().known_end(partition)


@pytest.mark.parametrize("n_turns", [0, 3])
def test_a_partition_whose_broker_is_away_holds_the_others_for_a_few_seconds(
    rigs: Callable[..., Rig], history: list[bytes], n_turns: int
) -> None:
    """Whether or not it had given anything before; when it is back it is read to its end."""
    rig = rigs(2, n_events_batch=200)
    rig.reader_type = Sleepy
    rig.send(history[3_000:4_000], at=0)
    rig.send(history[:1_000], at=1)
    worker = rig.start()
    rig.drain_some(n_turns)
    rig.reader.silent = 1
    n_of_before = rig.scorer.counts().read
    began_s = rig.clock.monotonic_s()
    while worker.turn() == 0 or rig.scorer.counts().read < n_of_before + 300:
        rig.clock.advance(0.02)
        assert rig.clock.monotonic_s() - began_s < limits.STREAM_SILENT_S_MAX + 1
        if rig.clock.monotonic_s() - began_s < limits.STREAM_SILENT_S_MAX:
            assert rig.metrics.value("sentinel_stream_aligning") == 1
    waited_s = rig.clock.monotonic_s() - began_s
    assert waited_s > limits.STREAM_SILENT_S_MAX
    carry(rig)
    rig.reader.silent = None
    assert len(carry(rig)) == 2_000
    rig.clock.advance(limits.STREAM_COMMIT_S)
    worker.turn()
    assert rig.metrics.value("sentinel_stream_aligning") == 0


def test_a_partition_that_is_taken_away_while_it_waits_is_read_once(
    rigs: Callable[..., Rig], history: list[bytes]
) -> None:
    """What was kept of it is dropped: the next to have it reads that anew."""
    rig = rigs(2, n_events_batch=100)
    send(rig, history[:2_000], in_turns)
    worker = rig.start()
    n_waited = 0
    for _ in range(200):
        worker.turn()
        n_waited += bool(rig.reader._paused)
        if rig.reader._paused:
            rig.topic.group.expel(rig.reader)
    assert n_waited > 3
    assert len(carry(rig)) == 2_000
    assert n_late(rig) == 0
    assert rig.scorer.counts().deduplicated == 0


def test_a_partition_that_waits_is_not_resumed_by_a_sink_that_has_room_again(
    rigs: Callable[..., Rig], history: list[bytes]
) -> None:
    rig = rigs(2, n_events_batch=100)
    rig.job_settings |= {"n_waiting_max": 250}
    rig.send(history[2_000:3_000], at=0)
    rig.send(history[:1_000], at=1)
    rig.start()
    for n_read in (300, 600, 900):
        rig.sink.is_stuck = True
        rig.drain_some(9)
        paused = set(rig.reader._paused)
        rig.sink.is_stuck = False
        assert paused == {0, 1}
        assert rig.scorer.counts().read == n_read
        rig.drain_some(2)
        assert rig.reader._paused == {0}, "resumed for the room, and still ahead"
    assert len(carry(rig)) == 2_000
    assert n_late(rig) == 0


def test_what_is_kept_has_a_bound_over_all_partitions(
    rigs: Callable[..., Rig], bursts: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Less is read at once, and partitions are paused sooner; the decisions are the same."""
    monkeypatch.setattr(in_order_module.limits, "STREAM_KEPT_MAX", 150)
    whole, apart = rigs(1), rigs(3, n_events_batch=700)
    most = 0
    settle = in_order_module.InOrder.settle

    def settled(in_order: in_order_module.InOrder) -> Mapping[int, int]:
        nonlocal most
        kept = [each for pieces in in_order._kept.values() for each in pieces]
        most = max(most, sum(len(each.times_ms) for each in kept))
        return settle(in_order)

    monkeypatch.setattr(in_order_module.InOrder, "settle", settled)
    send(whole, bursts[:3_000], by_hour)
    send(apart, bursts[:3_000], by_hour)
    assert vectors(decide(apart)) == vectors(decide(whole))
    assert n_late(apart) == 0
    assert 50 <= most <= 2 * 150


@pytest.mark.parametrize("far_ms", [40 * HOUR_MS, -40 * HOUR_MS])
@pytest.mark.parametrize("n_events_batch", [3, 40, 1_000])
def test_an_event_of_a_time_of_its_own_does_not_carry_its_partition_away(
    rigs: Callable[..., Rig], history: list[bytes], far_ms: int, n_events_batch: int
) -> None:
    """A clock that is wrong once in fifty events: of a card of its own, no other is late for it."""
    rig = rigs(2, n_events_batch=n_events_batch)
    lines = history[:1_200]
    for number in range(0, len(lines), 50):
        at_ms = time_of(lines[number]) + far_ms
        lines[number] = payment(number, at_ms, 900 + number)
    send(rig, lines, in_turns)
    assert len(decide(rig)) == 1_200
    assert n_late(rig) == 0


def test_events_that_are_refused_have_the_time_of_their_neighbours(
    rigs: Callable[..., Rig], history: list[bytes]
) -> None:
    rig = rigs(2, n_events_batch=300)
    for number, line in enumerate(history[:1_500]):
        rig.send([line, *[b"{}"] * (number % 3)], at=number % 2)
    rig.send([b"garbage"] * 1_000, at=1)
    assert len(decide(rig)) == 1_500
    assert len(rig.sink.refusals) == 2_500
    assert n_late(rig) == 0


def test_three_partitions_of_a_broker_are_decided_in_the_order_of_their_events(
    case: Case, cluster: Cluster, bursts: list[bytes], tmp_path: Path
) -> None:
    """By the hour in turns, from a topic of Kafka; and as from one partition of a log of files."""
    found = []
    lines = bursts[:1_800]
    for number, source in enumerate([cluster, FileCluster(tmp_path / "log")]):
        n_partitions = (3, 1)[number]
        job: dict[str, object] = {"n_events_batch": 600}
        stream = Stream(source, case.release, tmp_path / str(number), n_partitions, job=job)
        messages = [
            {"value": line, "timestamp": time_of(line), "partition": by_hour(line, n_partitions)}
            for line in lines
        ]
        source.produce(stream.events, sorted(messages, key=lambda m: m["partition"]))
        child = stream.start()
        try:
            stream.wait_for(len(lines))
            assert stream.end(child)["late"] == 0
            records = source.read(stream.decisions)
        finally:
            stream.close()
        assert len(records) == len(lines)
        values = [record.value() for record in records]
        found.append(vectors({json.loads(v)["event_id"].encode(): v for v in values}))
    assert found[0] == found[1]


@pytest.mark.parametrize("first", [0, 40, 300])
@pytest.mark.parametrize("partition", [0, 1, 2])
def test_suspects_of_a_death_wait_for_their_turn_as_all_others_do(
    rigs: Callable[..., Rig], bursts: list[bytes], partition: int, first: int
) -> None:
    """A process died at a batch that was only looked at: one by one, and still in order."""
    whole, apart = rigs(1), rigs(3, n_events_batch=700)
    send(whole, bursts[:3_000], by_hour)
    send(apart, bursts[:3_000], by_hour)
    expected = vectors(decide(whole))
    apart.start()
    apart.drain_some(2)
    assert apart.state is not None
    apart.state.marker.enter(partition, first, first + 700)
    apart.close()
    apart.start()
    apart.drain()
    assert n_late(apart) == 0
    assert vectors(decisions_of(apart)) == expected
