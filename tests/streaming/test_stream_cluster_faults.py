"""Rows C4 to C7 on real processes and a mock cluster: killed, frozen, added, brokers that fail."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from stream_rig import QUICK, Case, Cluster, Stream, named_cluster, side_by_side

from sentinel.testing import wait_until
from sentinel.testing.mock_kafka import MockKafka

SESSION = {"session.timeout.ms": 3000, "heartbeat.interval.ms": 300}
# The protocol's numbers of requests and of errors that a broker may give for a while.
PRODUCE, FETCH, LIST_OFFSETS, METADATA, OFFSET_COMMIT = 0, 1, 2, 3, 8
FIND_COORDINATOR, JOIN_GROUP, HEARTBEAT, SYNC_GROUP = 10, 11, 12, 14
LEADER_NOT_AVAILABLE, NOT_LEADER, TIMED_OUT, COORDINATOR_LOADING = 5, 6, 7, 14
NOT_ENOUGH_REPLICAS, KAFKA_STORAGE = 19, 56
PASSING = [
    (PRODUCE, NOT_LEADER),
    (PRODUCE, TIMED_OUT),
    (PRODUCE, NOT_ENOUGH_REPLICAS),
    (FETCH, NOT_LEADER),
    (FETCH, KAFKA_STORAGE),
    (LIST_OFFSETS, LEADER_NOT_AVAILABLE),
    (METADATA, LEADER_NOT_AVAILABLE),
    (OFFSET_COMMIT, COORDINATOR_LOADING),
    (FIND_COORDINATOR, COORDINATOR_LOADING),
    (HEARTBEAT, COORDINATOR_LOADING),
]


@pytest.fixture(scope="module")
def mock() -> Iterator[MockKafka]:
    if named_cluster() is not None:
        pytest.skip("faults of a broker are injected into the mock")
    with MockKafka({}, n_brokers=2) as started:
        yield started


def check_decided(stream: Stream, lines: list[bytes]) -> None:
    """Every event has its one decision, in the order of its card; repeats are the same bytes."""
    decisions: dict[str, set[bytes]] = {}
    for message in stream.cluster.read(stream.decisions):
        decisions.setdefault(message.key().decode(), set()).add(message.value())
    events = [json.loads(line) for line in lines]
    assert set(decisions) == {event["payment_id"] for event in events}
    assert [name for name, found in decisions.items() if len(found) != 1] == []
    place = {name: number for number, name in enumerate(decisions)}  # where each came first
    last: dict[str, int] = {}
    for event in events:
        card, at = event["card_id"], place[event["payment_id"]]
        assert at > last.get(card, -1), (card, event["payment_id"])
        last[card] = at


@pytest.mark.reliability("C6", t1=30, t2=300, t3=2_000)
def test_brokers_that_fail_for_a_while_lose_and_double_nothing(
    case: Case, mock: MockKafka, tmp_path: Path, trials
) -> None:
    """Errors of every request, brokers down, slow, leaders moved: it resumes by itself.

    Events come with every trial, and the fault while they are carried.
    """
    stream = Stream(Cluster(mock.bootstrap, mock), case.release, tmp_path)
    lines = case.events.read_bytes().splitlines()
    child = stream.start(client=SESSION)
    n_sent, n_each = 0, max(1, len(lines) // max(trials.n, 50))
    try:
        for seed in trials:
            stream.send(lines[n_sent : n_sent + n_each])
            n_sent += n_each
            fail(mock, stream, seed)
            time.sleep(0.1)
            assert child.poll() is None, child.stderr.read()
        stream.wait_for(n_sent)
        report = stream.end(child)
        assert n_sent <= len(lines)
        assert report["decided"] == n_sent
        assert report["deduplicated"] == report["quarantined"] == 0
        check_decided(stream, lines[:n_sent])
    finally:
        for api, _ in PASSING:
            mock.fail(api, 0, 1)
        stream.close()


def fail(mock: MockKafka, stream: Stream, seed: int) -> None:
    """Let one thing go wrong: each error of a request, then a broker's own faults, in turns."""
    rng = Random(seed)
    broker, fault = rng.choice([1, 2]), seed % (len(PASSING) + 3)
    if fault < len(PASSING):
        mock.fail(*PASSING[fault], rng.randrange(1, 6))
    elif fault == len(PASSING):
        mock.put_down(broker)
        time.sleep(rng.uniform(0.1, 1.5))
        mock.put_up(broker)
    elif fault == len(PASSING) + 1:
        mock.delay(broker, 500)
        time.sleep(0.6)
        mock.delay(broker, 0)
    else:
        for partition in range(stream.n_partitions):
            mock.lead(stream.events, partition, rng.choice([1, 2]))


def test_a_worker_starts_through_errors_that_pass(
    case: Case, mock: MockKafka, tmp_path: Path
) -> None:
    """Its first questions are asked again, as those of a running worker are."""
    lines = case.events.read_bytes().splitlines()[:50]
    stream = Stream(Cluster(mock.bootstrap, mock), case.release, tmp_path)
    first = [
        (METADATA, LEADER_NOT_AVAILABLE),
        (LIST_OFFSETS, NOT_LEADER),
        (FIND_COORDINATOR, COORDINATOR_LOADING),
        (JOIN_GROUP, COORDINATOR_LOADING),
        (SYNC_GROUP, COORDINATOR_LOADING),
    ]
    try:
        stream.send(lines)
        for api, error in first:
            mock.fail(api, error, 5)
        child = stream.start(client=SESSION)
        # Who reads the decisions asks as well, and would use the errors up: they are the worker's
        # until it has noted that decisions are out.
        noted = tmp_path / "state" / "outputs.json"
        wait_until(lambda: noted.exists() or child.poll() is not None, every_s=0.1)
        stream.wait_for(len(lines))
        assert stream.end(child)["decided"] == len(lines)
    finally:
        for api, _ in first:
            mock.fail(api, 0, 1)
        stream.close()


@pytest.mark.reliability("C6", t1=1, t2=3, t3=10)
def test_a_cluster_that_is_gone_is_waited_for(
    case: Case, mock: MockKafka, tmp_path: Path, trials
) -> None:
    """All brokers down for longer than a session; the worker lives, and goes on."""
    lines = case.events.read_bytes().splitlines()
    for seed in trials:
        stream = Stream(Cluster(mock.bootstrap, mock), case.release, tmp_path / str(seed))
        stream.send(lines[:100])
        child = stream.start(client=SESSION)
        stream.wait_for(100)
        for broker in (1, 2):
            mock.put_down(broker)
        time.sleep(5)
        assert child.poll() is None, child.stderr.read()
        for broker in (1, 2):
            mock.put_up(broker)
        stream.send(lines[100:200])
        stream.wait_for(200)
        stream.end(child)
        check_decided(stream, lines[:200])
        stream.close()


@pytest.mark.timeout(900)
@pytest.mark.reliability("C4", t1=5, t2=50, t3=300)
def test_workers_come_and_go_and_die_at_random_and_every_event_counts_once(
    case: Case, mock: MockKafka, tmp_path: Path, trials
) -> None:
    """One to four workers; each step kills, freezes, thaws, adds or ends one, as the seed says.

    Two seeds at a time, each with topics and workers of its own.
    """
    lines = case.events.read_bytes().splitlines()

    def run(seed: int) -> None:
        stream = Stream(Cluster(mock.bootstrap, mock), case.release, tmp_path / str(seed))
        order = {
            "group": f"roulette-{stream.events}",
            "job": {"partition_key": "card_id"},
            # In a shorter one, eight workers on a busy machine do not come to share partitions.
            "client": QUICK,
        }
        try:
            n_sent = play(Random(seed), stream, order, lines)
            check_decided(stream, lines[:n_sent])
        finally:
            stream.close()

    side_by_side(trials, 2, run)


def play(rng: Random, stream: Stream, order: dict[str, object], lines: list[bytes]) -> int:
    """Let workers come and go while events come; return how many events came."""
    living: list[subprocess.Popen[str]] = [stream.start(**order)]
    frozen: list[subprocess.Popen[str]] = []
    n_sent = 0
    for _ in range(6):
        stream.send(lines[n_sent : n_sent + 100])
        n_sent += 100
        step(rng, stream, order, living, frozen)
        time.sleep(rng.uniform(0.2, 1.5))
    for child in frozen:
        child.send_signal(signal.SIGCONT)
    living += frozen
    if not living:
        living.append(stream.start(**order))
    stream.wait_for(n_sent)
    for child in living:
        report = stream.end(child)
        assert report["quarantined"] == report["deduplicated"] == 0
    return n_sent


def step(
    rng: Random,
    stream: Stream,
    order: dict[str, object],
    living: list[subprocess.Popen[str]],
    frozen: list[subprocess.Popen[str]],
) -> None:
    """Let one thing happen."""
    kinds = ["add"] if not living else ["kill", "freeze", "end", "add", "add"]
    kind = rng.choice([*kinds, "thaw"] if frozen else kinds)
    if kind == "add" and len(living) + len(frozen) < 4:
        living.append(stream.start(**order))
    elif kind == "thaw":
        child = frozen.pop(0)
        child.send_signal(signal.SIGCONT)
        living.append(child)
    elif living:
        child = living.pop(rng.randrange(len(living)))
        if kind == "kill":
            child.kill()
        elif kind == "freeze":
            child.send_signal(signal.SIGSTOP)
            frozen.append(child)
        else:
            child.send_signal(signal.SIGTERM)
