"""Outputs and positions in transactions of the broker.

Three brokers: one in memory that is atomic, at which the worker is killed at any step; the mock,
which takes the calls and does no transactions, for wiring, errors and restarts; and a real cluster,
where ``SENTINEL_KAFKA`` names one, for what only it can show.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random

import confluent_kafka as kafka
import pytest
from stream_rig import WAIT_S, Case, Cluster, Stream, named_cluster
from worker_rig import Rig

from sentinel.contract import Refusal
from sentinel.contract.codes import RefusalCode
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.monitoring import Metrics
from sentinel.release import LoadedRelease
from sentinel.scoring import DecisionBatch
from sentinel.streaming.kafka.log import KafkaLog
from sentinel.streaming.kafka.settings import KafkaSettings
from sentinel.streaming.kafka.sink import OutputTopics, reason_of
from sentinel.streaming.kafka.transactions import TransactionalSink
from sentinel.streaming.stream.job import Step
from sentinel.streaming.stream.sink_records import decision_records
from sentinel.streaming.stream.visible import Visible
from sentinel.testing.memory_log import MemorySink, MemoryTopic
from sentinel.testing.mock_kafka import MockKafka

needs_cluster = pytest.mark.skipif(
    named_cluster() is None,
    reason="only a real cluster does transactions: name one with SENTINEL_KAFKA",
)


@pytest.fixture
def lines(case: Case) -> list[bytes]:
    return case.events.read_bytes().splitlines()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    named = named_cluster()
    if named is not None:
        yield Cluster(named, None)
        return
    with MockKafka({"e": 1}) as mock:
        yield Cluster(mock.bootstrap, mock)


@pytest.fixture
def stream(cluster: Cluster, case: Case, tmp_path: Path) -> Iterator[Stream]:
    opened = Stream(cluster, case.release, tmp_path)
    yield opened
    opened.close()


# --- a broker in memory --------------------------------------------------------------------------


class KilledError(Exception):
    """The process is no more."""


class AtomicSink(MemorySink):
    """A broker in memory: outputs and positions are visible together, or neither is."""

    def __init__(self) -> None:
        super().__init__()
        self.visible = Visible()
        self.positions: dict[tuple[str, int], int] = {}
        self.n_undecided = 0
        self.dies_at = 0

    def put(self, refusals: Sequence[Refusal]) -> None:
        """Take refusals; keep those that are not visible."""
        unseen = self.visible.unseen(refusals)
        super().put(unseen)
        self.n_refusals += len(refusals) - len(unseen)

    def write(self, decisions: DecisionBatch, lines: bytes, *, event_id: str) -> None:
        """Take decisions; keep those that are not visible."""
        if lines:
            keys, values = decision_records(decisions, lines, event_id=event_id)
            pairs = list(zip(keys, values, strict=True))[self.visible.n_seen(decisions) :]
            self._waiting += [(True, *pair) for pair in pairs]
            self.n_decisions += len(keys)

    def flush(self, wait_s: float) -> bool:
        """Acknowledge, which makes nothing visible."""
        return True

    def begin(self, places: Sequence[tuple[str, int]]) -> bool:
        """Say how far outputs are visible; the first times it is not decided yet."""
        if self.n_undecided:
            self.n_undecided -= 1
            return False
        self.visible.begin({place: self.positions.get(place, 0) for place in places})
        return True

    def commit(self, positions: Mapping[tuple[str, int], int]) -> None:
        """Make everything visible, unless this is where it dies."""
        self.dies_at -= 1
        if self.dies_at == 0:
            raise KilledError
        self.positions |= self.visible.advanced(positions)
        super().flush(0.0)
        self.visible.begin(self.positions)


def die_at(rng: Random, rig: Rig) -> None:
    """Let the next worker die after some step, or while it asks for a commit."""
    chosen, n_left = rng.choice([*Step, None]), rng.randrange(1, 4)
    rig.sink.dies_at = 0 if chosen else n_left

    def on_step(step: Step) -> None:
        nonlocal n_left
        n_left -= step is chosen
        if n_left == 0:
            raise KilledError

    rig.on_step = on_step


def live_until_killed(rng: Random, rig: Rig) -> None:
    """Work until the worker dies, or until nothing is left; then forget what it had in memory."""
    try:
        rig.start()
        for _ in range(40):
            rig.worker.turn()
            rig.clock.advance(rng.choice([0.01, 0.3]))
    except KilledError:
        pass
    rig.sink.crash()
    rig.state.store.close(with_snapshot=False)
    rig.state.marker.close()
    rig.topic.group.expel(rig.reader)
    rig.scorer.close()


@pytest.mark.reliability("C11", t1=25, t2=400, t3=4_000, simulated=True)
def test_killed_at_any_step_every_output_is_visible_once(
    loaded: LoadedRelease, lines: list[bytes], tmp_path: Path, trials
) -> None:
    """Decisions, refused events and refused feedback; at times the whole state is lost, too."""
    n_passed = 0
    for seed in trials:
        rng = Random(seed)
        rig = Rig(loaded, tmp_path / str(seed), job_settings={"n_events_batch": 50})
        rig.sink = rig.transactions = AtomicSink()
        rig.sink.n_undecided = rng.choice([0, 0, 1, 3])
        rig.feedback_topic = MemoryTopic("verdicts", 1)
        rig.feedback_topic.append(0, [b"nonsense"] * 5, times_ms=[0] * 5)
        rig.send([line for i in range(300) for line in (lines[i], b"{}")[: 1 + (i % 10 == 0)]])
        for _ in range(5):
            die_at(rng, rig)
            live_until_killed(rng, rig)
            if rng.random() < 0.2:
                shutil.rmtree(rig.folder / "state")
        rig.on_step, rig.sink.dies_at = lambda step: None, 0
        worker = rig.start()
        for _ in range(8):
            rig.clock.advance(0.3)
            rig.drain()
        worker.commit()
        n_passed += rig.sink.visible.n_passed
        assert sorted(rig.ids()) == sorted(f"p{i}" for i in range(300)), seed
        keys = [key for key, _ in rig.sink.refusals]
        assert len(keys) == len(set(keys)) == 30 + 5, seed
        rig.close()
    assert n_passed > 0, "nobody died between a transaction and its mark"


# --- the client's errors -------------------------------------------------------------------------

PRODUCE, INIT, ADD_PARTITIONS, ADD_OFFSETS, END, OFFSETS = 0, 22, 24, 25, 26, 28
FENCED, OLD_EPOCH, LOADING, CONCURRENT, NOT_COORDINATOR = 90, 47, 14, 51, 16
UNKNOWN_MEMBER, ILLEGAL_GENERATION, FORBIDDEN = 25, 22, 53
OFFSET_FETCH, UNSTABLE = 9, 88


def sink_of(cluster: Cluster, *, name: str = "worker-1", topic: str | None = None):
    """Open a sink that is not a worker's, and the reader that its positions are of."""
    settings = KafkaSettings(
        bootstrap=cluster.bootstrap,
        group=f"group-{uuid.uuid4().hex}",
        transactional_id=name,
        client={"log_level": 0, "retry.backoff.ms": 20, "retry.backoff.max.ms": 100},
    )
    topic = cluster.topic("out", 1) if topic is None else topic
    log = KafkaLog(settings, topic, in_group=True)
    topics = OutputTopics(decisions=topic, quarantine=topic, n_partitions=1)
    return TransactionalSink(settings, log, topics, metrics=Metrics(with_process=False)), log


def refusals(first: int, end: int) -> list[Refusal]:
    return [Refusal(RefusalCode.POISON, (), "e", 0, at, b"x", 1) for at in range(first, end)]


def send(sink: TransactionalSink, first: int, end: int) -> None:
    """Send some records and make them visible."""
    sink.put(refusals(first, end))
    assert sink.flush(10)
    sink.commit({("e", 0): end})


@pytest.mark.reliability("C11", t1=1)
def test_positions_that_are_not_decided_yet_are_asked_for_again(cluster: Cluster) -> None:
    """A transaction of another worker has them; nobody waits for it within the call."""
    mock = cluster.mock
    if mock is None:
        pytest.skip("errors of a broker are injected into the mock")
    sink, log = sink_of(cluster)
    mock.fail(OFFSET_FETCH, UNSTABLE, 1_000)
    assert not sink.begin([("e", 0)])
    mock.fail(OFFSET_FETCH, 0, 1)
    begin_and_send(sink, 3)
    sink.close()
    log.close()


def begin_and_send(sink: TransactionalSink, end: int) -> None:
    begin(sink, "e")
    send(sink, 0, end)


def begin(sink: TransactionalSink, topic: str) -> None:
    """Ask, as a worker does, until the broker has answered in time."""
    assert any(sink.begin([(topic, 0)]) for _ in range(20))


@pytest.mark.reliability("C11", t1=1)
@pytest.mark.parametrize(
    ("api", "code"),
    [
        *((INIT, CONCURRENT), (ADD_PARTITIONS, CONCURRENT), (ADD_OFFSETS, LOADING)),
        *((OFFSETS, NOT_COORDINATOR), (END, CONCURRENT)),
    ],
)
def test_what_a_broker_says_for_a_while_is_got_over(cluster: Cluster, api: int, code: int) -> None:
    mock = cluster.mock
    if mock is None:
        pytest.skip("errors of a broker are injected into the mock")
    mock.fail(api, code, 2)
    sink, log = sink_of(cluster)
    begin_and_send(sink, 3)
    send(sink, 3, 5)
    sink.close()
    log.close()


@pytest.mark.reliability("C11", t1=1)
@pytest.mark.parametrize(
    ("api", "code", "said"),
    [
        (INIT, FENCED, "another worker with this id"),
        (INIT, FORBIDDEN, "TRANSACTIONAL_ID_AUTHORIZATION_FAILED"),
        (ADD_PARTITIONS, OLD_EPOCH, "another worker with this id"),
        (ADD_OFFSETS, FENCED, "another worker with this id"),
        (OFFSETS, UNKNOWN_MEMBER, "UNKNOWN_MEMBER_ID"),
        (OFFSETS, ILLEGAL_GENERATION, "ILLEGAL_GENERATION"),
        (OFFSETS, OLD_EPOCH, "another worker with this id"),
        (END, FENCED, "another worker with this id"),
        (END, OLD_EPOCH, "another worker with this id"),
        (PRODUCE, OLD_EPOCH, "another worker with this id"),
    ],
)
def test_what_ends_a_transaction_ends_the_worker_and_says_why(
    cluster: Cluster, api: int, code: int, said: str
) -> None:
    """And no later call makes anything visible; the next worker with the id goes on."""
    mock = cluster.mock
    if mock is None:
        pytest.skip("errors of a broker are injected into the mock")
    mock.fail(api, code, 1)
    sink, log = sink_of(cluster)
    with pytest.raises(SentinelError) as caught:
        begin_and_send(sink, 3)
    assert caught.value.code is ErrorCode.STREAM_FAILED
    assert said in caught.value.got, caught.value
    assert (caught.value.at == "--transactional-id worker-1") == said.startswith("another")
    sink.close()
    sink.close()
    log.close()
    mock.fail(api, 0, 1)
    again, log = sink_of(cluster)
    begin_and_send(again, 3)
    again.close()
    log.close()


def test_what_ended_a_producer_is_found_where_python_has_hidden_it() -> None:
    """Raised amid a callback it is the cause of a SystemError, or lost; others are not ours."""
    named = kafka.KafkaException(kafka.KafkaError(kafka.KafkaError._FENCED))
    wrapped = SystemError("<method> returned a result with an exception set")
    wrapped.__cause__ = named
    lost = SystemError("<method 'flush'> returned NULL without setting an exception")
    assert [reason_of(error).name() for error in (named, wrapped, lost)] == [
        *("_FENCED", "_FENCED", "_FATAL")
    ]
    with pytest.raises(SystemError, match="another"):
        reason_of(SystemError("another"))


def test_a_transaction_shorter_than_its_records_may_wait_is_refused() -> None:
    """The client says so; the sentence is ours."""
    settings = KafkaSettings(
        bootstrap="127.0.0.1:1",
        group="g",
        transactional_id="a",
        client={"transaction.timeout.ms": 1000, "message.timeout.ms": 2000},
    )
    log = KafkaLog(settings, "e", in_group=True)
    topics = OutputTopics(decisions="d", quarantine="q", n_partitions=1)
    with pytest.raises(SentinelError) as caught:
        TransactionalSink(settings, log, topics, metrics=Metrics(with_process=False))
    assert caught.value.code is ErrorCode.STREAM_SETTING_INVALID
    assert "message.timeout.ms" in str(caught.value)
    log.close()


# --- workers -------------------------------------------------------------------------------------


def own_name() -> str:
    return f"worker-{uuid.uuid4().hex[:8]}"


@pytest.mark.reliability("C11", t1=1)
@pytest.mark.parametrize("step", [Step.PRODUCED, Step.MARKED], ids=str)
def test_killed_at_a_step_the_next_start_loses_nothing(
    lines: list[bytes], stream: Stream, step: Step
) -> None:
    """The mock forgets positions of transactions: what comes again are the same bytes."""
    order = {"transactional_id": own_name()}
    stream.send(lines[:400])
    first = stream.start(step=str(step), at=3 if step is Step.PRODUCED else 1, **order)
    assert first.wait(WAIT_S) == -9, first.stderr.read()
    second = stream.start(**order)
    stream.wait_for(400)
    report = stream.end(second)
    decisions: dict[str, set[bytes]] = {}
    for message in stream.cluster.read(stream.decisions):
        decisions.setdefault(message.key().decode(), set()).add(message.value())
    assert set(decisions) == {f"p{i}" for i in range(400)}
    assert all(len(found) == 1 for found in decisions.values())
    assert report["deduplicated"] == 0
    assert sum(report["positions"].values()) == 400


@pytest.mark.reliability("C11", t1=1)
def test_workers_with_names_of_their_own_share_a_topic(lines: list[bytes], stream: Stream) -> None:
    """One comes while the other works, the first ends in order: nothing is lost or doubled."""
    order = {"group": own_name(), "job": {"partition_key": "card_id"}}
    first = stream.start(transactional_id=own_name(), **order)
    stream.send(lines[:200])
    stream.wait_for(200)
    second = stream.start(transactional_id=own_name(), **order)
    stream.send(lines[200:400])
    stream.wait_for(400)
    report = stream.end(first)
    stream.send(lines[400:600])
    ids = stream.wait_for(600)
    other = stream.end(second)
    assert sorted(ids) == sorted(f"p{i}" for i in range(600))
    assert report["decided"] + other["decided"] == 600
    assert other["decided"] >= 200


def leave_positions(stream: Stream, positions: Sequence[int], note: str) -> str:
    """Commit positions of the events in a group that nobody has been in."""
    group = own_name()
    client = kafka.Consumer({"bootstrap.servers": stream.cluster.bootstrap, "group.id": group})
    places = [kafka.TopicPartition(stream.events, p, at, note) for p, at in enumerate(positions)]
    client.commit(offsets=places, asynchronous=False)
    client.close()
    return group


@pytest.mark.reliability("C11", t1=1)
def test_what_is_visible_is_not_sent_again(lines: list[bytes], stream: Stream) -> None:
    """Killed between the commit and the mark, while the group has the positions."""
    stream.send(lines[:400])
    first = stream.start(step="flushed", at=1, transactional_id=own_name())
    assert first.wait(WAIT_S) == -9, first.stderr.read()
    visible = [message.partition() for message in stream.cluster.read(stream.decisions)]
    assert visible
    positions = [visible.count(partition) for partition in range(stream.n_partitions)]
    note = f"outputs in {stream.decisions} and {stream.quarantine}"
    group = leave_positions(stream, positions, note)
    second = stream.start(transactional_id=own_name(), group=group)
    stream.send(lines[400:500])
    stream.wait_for(500)
    report = stream.end(second)
    ids = stream.cluster.ids(stream.decisions)
    assert sorted(ids) == sorted(f"p{i}" for i in range(500))
    assert sum(report["positions"].values()) == 500
    assert report["already_visible"] == len(visible)


@pytest.mark.reliability("C7", "C11", t1=1)
@pytest.mark.parametrize("is_ours", [True, False])
def test_a_state_built_anew_sends_what_no_commit_of_ours_made_visible(
    lines: list[bytes], stream: Stream, is_ours: bool
) -> None:
    """Positions of the group that do not name these topics say nothing of these outputs."""
    stream.send(lines[:200])
    note = f"outputs in {stream.decisions if is_ours else 'others'} and {stream.quarantine}"
    group = leave_positions(stream, [10] * stream.n_partitions, note)
    n_visible = 10 * stream.n_partitions if is_ours else 0
    child = stream.start(transactional_id=own_name(), group=group)
    ids = stream.wait_for(200 - n_visible)
    report = stream.end(child)
    assert len(ids) == len(set(ids)) == 200 - n_visible
    assert report["already_visible"] == n_visible
    assert report["read"] == report["decided"] == 200


# --- a real cluster ------------------------------------------------------------------------------


@needs_cluster
@pytest.mark.reliability("C11", t1=1)
@pytest.mark.parametrize("step", Step, ids=str)
def test_at_a_cluster_readers_of_committed_records_see_each_event_once(
    lines: list[bytes], stream: Stream, step: Step
) -> None:
    """Killed three times at each commit step; the reader reads committed records, as by default."""
    order = {"transactional_id": own_name(), "group": own_name()}
    for n_sent in (300, 600, 900):
        stream.send(lines[n_sent - 300 : n_sent])
        child = stream.start(step=str(step), at=2 if step in {*list(Step)[:4]} else 1, **order)
        assert child.wait(WAIT_S) == -9, child.stderr.read()
    last = stream.start(**order)
    stream.wait_for(900)
    stream.end(last)
    assert sorted(stream.cluster.ids(stream.decisions)) == sorted(f"p{i}" for i in range(900))


@needs_cluster
@pytest.mark.reliability("C11", t1=1)
def test_at_a_cluster_outputs_are_visible_with_their_positions(cluster: Cluster) -> None:
    """Neither before the commit; what was taken back is never seen."""
    topic = cluster.topic("out", 1)
    sink, log = sink_of(cluster, name=own_name(), topic=topic)
    events = cluster.topic("e", 1)
    places = [(events, 0)]
    begin(sink, events)
    sink.put(refusals(0, 3))
    assert sink.flush(10)
    assert cluster.read(topic) == []
    sink.commit({places[0]: 3})
    assert len(cluster.read(topic)) == 3
    note = f"outputs in {topic} and {topic}"
    assert log.committed(places, note=note) == {places[0]: 3}
    sink.put(refusals(3, 5))
    assert sink.flush(10)
    sink.close()
    assert len(cluster.read(topic)) == 3
    log.close()


@needs_cluster
@pytest.mark.reliability("C11", t1=1)
def test_at_a_cluster_a_zombie_is_fenced(cluster: Cluster) -> None:
    """What it had begun is taken back, and it says who has taken over."""
    topic, events, name = cluster.topic("out", 1), cluster.topic("e", 1), own_name()
    zombie, log = sink_of(cluster, name=name, topic=topic)
    begin(zombie, events)
    zombie.put(refusals(0, 3))
    assert zombie.flush(10)
    next_one, next_log = sink_of(cluster, name=name, topic=topic)
    begin(next_one, events)
    with pytest.raises(SentinelError) as caught:
        zombie.commit({(events, 0): 3})
    assert caught.value.code is ErrorCode.STREAM_FAILED
    assert "another worker with this id has taken over" in caught.value.got
    next_one.put(refusals(0, 2))
    next_one.commit({(events, 0): 2})
    assert len(cluster.read(topic)) == 2
    zombie.close()
    next_one.close()
    log.close()
    next_log.close()


def test_refusals_are_as_the_contract_makes_them() -> None:
    """What these tests send is what a worker sends: its place is the key."""
    sink = MemorySink()
    sink.put(refusals(4, 5))
    sink.flush(0.0)
    ((key, value),) = sink.refusals
    assert key == b"e/0/4"
    assert json.loads(value)["code"] == "poison"
