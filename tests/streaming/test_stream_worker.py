"""A topic goes through the scorer, effects once, whatever is killed; real processes and sockets."""

from __future__ import annotations

import json
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random

import confluent_kafka as kafka
import pytest
from stream_rig import (
    WAIT_S,
    Case,
    Cluster,
    FileCluster,
    Stream,
    named_cluster,
    side_by_side,
)

from sentinel.contract import Quarantine
from sentinel.monitoring import Metrics
from sentinel.release import verify_release
from sentinel.scoring import ReplayClock, Sinks
from sentinel.streaming import FileJob, FileWorker
from sentinel.streaming.stream.job import Step
from sentinel.testing import wait_until
from sentinel.testing.mock_kafka import MockKafka


@pytest.fixture
def stream(cluster: Cluster, case: Case, tmp_path: Path) -> Iterator[Stream]:
    opened = Stream(cluster, case.release, tmp_path)
    yield opened
    opened.close()


@pytest.fixture(params=["kafka", "files"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Cluster | FileCluster:
    """Give a broker, and a log of files: the same worker on both."""
    if request.param == "files":
        return FileCluster(tmp_path / "log")
    return request.getfixturevalue("cluster")


@pytest.fixture
def any_stream(either: Cluster | FileCluster, case: Case, tmp_path: Path) -> Iterator[Stream]:
    opened = Stream(either, case.release, tmp_path)
    yield opened
    opened.close()


def lines_of(case: Case) -> list[bytes]:
    return case.events.read_bytes().splitlines()


def test_every_event_gets_one_decision_in_the_order_of_its_card(
    case: Case, any_stream: Stream
) -> None:
    lines = lines_of(case)
    any_stream.send(lines)
    child = any_stream.start()
    ids = any_stream.wait_for(case.n_events)
    report = any_stream.end(child)
    assert sorted(ids) == sorted(f"p{i}" for i in range(case.n_events))
    assert report["read"] == report["decided"] == case.n_events
    of_card: dict[str, list[int]] = {}
    cards = {event["payment_id"]: event["card_id"] for event in map(json.loads, lines)}
    for name in ids:
        of_card.setdefault(cards[name], []).append(int(name[1:]))
    assert all(order == sorted(order) for order in of_card.values())


@pytest.mark.reliability("C4", t1=1)
@pytest.mark.parametrize("step", Step, ids=str)
def test_killed_after_any_commit_step_nothing_is_lost_and_no_state_is_doubled(
    case: Case, any_stream: Stream, step: Step
) -> None:
    """The decisions are those of a run that nobody killed; repeats are the same bytes."""
    any_stream.send(lines_of(case)[:1000])
    first = any_stream.start(step=str(step), at=3 if step in {*list(Step)[:4]} else 1)
    assert first.wait(WAIT_S) == -9, first.stderr.read()
    second = any_stream.start()
    any_stream.wait_for(1000)
    report = any_stream.end(second)
    decisions: dict[str, set[bytes]] = {}
    for message in any_stream.cluster.read(any_stream.decisions):
        decisions.setdefault(message.key().decode(), set()).add(message.value())
    assert set(decisions) == {f"p{i}" for i in range(1000)}
    assert all(len(found) == 1 for found in decisions.values())
    assert report["deduplicated"] == 0
    assert sum(report["positions"].values()) == 1000


def scores_of(any_stream: Stream) -> dict[str, dict[str, object]]:
    found = {}
    for message in any_stream.cluster.read(any_stream.decisions):
        decision = json.loads(message.value())
        found[decision["event_id"]] = decision
    return found


def test_feedback_is_learned_as_a_replay_of_files_learns_it(
    case: Case, either: Cluster | FileCluster, tmp_path: Path
) -> None:
    """One partition, the same events and verdicts: the same decisions as from the files."""
    stream = Stream(either, case.release, tmp_path, n_partitions=1, with_feedback=True)
    try:
        verdicts = [json.loads(line) for line in case.feedback.read_bytes().splitlines()]
        either.produce(
            stream.feedback,
            [{"value": json.dumps(v).encode(), "timestamp": v["known_at"]} for v in verdicts],
        )
        stream.send(lines_of(case))
        child = stream.start(step="applied", at=7)
        assert child.wait(WAIT_S) == -9
        second = stream.start()
        stream.wait_for(case.n_events)
        report = stream.end(second)
        found = scores_of(stream)
    finally:
        stream.close()
    loaded = verify_release(case.release, None, now_ms=0)
    with Quarantine(tmp_path / "quarantine") as refusals:
        sinks = Sinks(refusals=refusals, decisions=None, metrics=Metrics(with_process=False))
        scorer = loaded.open_scorer(sinks, clock=ReplayClock())
        out = tmp_path / "out"
        FileWorker(scorer, FileJob(events=case.events, feedback=case.feedback, decisions=out)).run()
    expected = {d["event_id"]: d for d in map(json.loads, out.read_text().splitlines())}
    assert report["feedback_waits"] == 0, "the topic of verdicts kept silent for ten seconds"
    assert found == expected


@pytest.mark.reliability("A11", t1=1)
def test_bad_messages_are_quarantined_and_never_stop_the_worker(
    case: Case, any_stream: Stream
) -> None:
    """Tombstones, nothing, garbage, no key, a wrong timestamp: each once, whole, with its place."""
    lines = lines_of(case)[:50]
    at_ms = json.loads(lines[0])["paid_at"]
    bad: list[dict[str, object]] = [
        {"value": None, "key": b"c1"},
        {"value": b"", "key": b"c1"},
        {"value": b"", "key": None},
        {"value": b"\xff\xfe", "key": b"c1"},
        {"value": b"[" * 70_000, "key": b"c1"},
        {"value": b'{"payment_id":NaN}', "key": b"x" * 1000},
    ]
    cluster = any_stream.cluster
    cluster.produce(any_stream.events, [{**m, "partition": 0, "timestamp": at_ms} for m in bad])
    cluster.produce(
        any_stream.events, [{"value": lines[0], "partition": 0, "timestamp": at_ms + 10_000_000}]
    )
    # Without a partition key nobody looks at keys: these are good.
    cluster.produce(
        any_stream.events,
        [
            {"value": line, "partition": 0, "timestamp": json.loads(line)["paid_at"]}
            for line in lines
        ],
    )
    child = any_stream.start()
    any_stream.wait_for(50)
    report = any_stream.end(child)
    assert (report["read"], report["decided"], report["quarantined"]) == (57, 50, 7)
    records = {
        message.key().decode(): json.loads(message.value())
        for message in cluster.read(any_stream.quarantine)
    }
    assert [records[f"{any_stream.events}/0/{i}"]["code"] for i in range(7)] == [
        *("empty_event", "empty_event", "empty_event", "invalid_utf8"),
        *("body_too_large", "non_finite", "time_skew"),
    ]


def test_with_a_partition_key_a_missing_or_wrong_key_is_refused(
    case: Case, any_stream: Stream
) -> None:
    lines = lines_of(case)[:60]
    any_stream.send(lines[:50])
    wrong = [
        {
            "value": line,
            "key": key,
            "partition": 1,
            "timestamp": json.loads(line)["paid_at"],
        }
        for line, key in zip(lines[50:], [None, b"c999"] * 5, strict=True)
    ]
    any_stream.cluster.produce(any_stream.events, wrong)
    child = any_stream.start(job={"partition_key": "card_id"})
    any_stream.wait_for(50)
    report = any_stream.end(child)
    assert (report["decided"], report["quarantined"]) == (50, 10)
    codes = {json.loads(m.value())["code"] for m in any_stream.cluster.read(any_stream.quarantine)}
    assert codes == {"wrong_partition_key"}


# What no contract takes, by the code that it is refused for; whole or with some bytes of chance.
NONSENSE: dict[str, tuple[bytes | None, ...]] = {
    "empty_event": (None, b""),
    "invalid_utf8": (b"\xff\xfe", b'{"payment_id": "\x80"}'),
    "body_too_large": (b"[" * 70_000, b" " * 70_000),
    "non_finite": (b'{"payment_id":NaN}', b'{"amount": -Infinity}'),
    "malformed_json": (b"{", b"<html>404</html>", b'{"payment_id": }', b"\x00" * 9),
}


@pytest.mark.reliability("A11", t1=100, t2=4_000, t3=4_000)
def test_bad_messages_among_good_ones_are_refused_each_at_its_place(
    case: Case, cluster: Cluster, tmp_path: Path, trials
) -> None:
    """A trial is a bad message; between every ten a good one, which is decided."""
    stream = Stream(cluster, case.release, tmp_path)
    lines = lines_of(case)
    at_ms = json.loads(lines[0])["paid_at"]
    codes, places, n_good = sorted(NONSENSE), [], 0
    for first in range(0, trials.n, 500):
        messages: list[dict[str, object]] = []
        for seed in range(first, min(first + 500, trials.n)):
            rng = Random(seed)
            code, partition = codes[seed % len(codes)], rng.randrange(4)
            if code == "body_too_large" and seed >= 100:  # the mock keeps 5 MiB a partition
                code = "malformed_json"
            key = rng.choice([None, b"", b"c1", b"\x00\xff", b"x" * 1_000])
            message = {"value": rng.choice(NONSENSE[code]), "key": key, "partition": partition}
            messages.append({**message, "timestamp": at_ms})
            places.append((partition, code))
            if seed % 10 == 0:
                good = {"value": lines[n_good], "partition": partition, "timestamp": at_ms}
                messages.append({**good, "timestamp": json.loads(lines[n_good])["paid_at"]})
                places.append((partition, ""))
                n_good += 1
        cluster.produce(stream.events, messages)
    child = stream.start()
    stream.wait_for(n_good)
    wait_until(lambda: len(cluster.read(stream.quarantine)) >= trials.n, every_s=0.1)
    report = stream.end(child)
    stream.close()
    assert (report["decided"], report["quarantined"]) == (n_good, trials.n)
    expected, next_at = {}, [0] * 4
    for partition, code in places:
        expected[f"{stream.events}/{partition}/{next_at[partition]}"] = code
        next_at[partition] += 1
    records = {m.key().decode(): json.loads(m.value()) for m in cluster.read(stream.quarantine)}
    found = {place: record["code"] for place, record in records.items()}
    assert found == {place: code for place, code in expected.items() if code}
    trials.did(trials.n)


@pytest.mark.reliability("A11", t1=1, t2=20, t3=100)
def test_messages_made_to_hurt_are_quarantined_and_the_next_are_decided(
    case: Case, cluster: Cluster, tmp_path: Path, trials
) -> None:
    """A bomb of headers, values of a megabyte, a batch that was compressed a thousand times."""
    lines = lines_of(case)[:40]
    for seed in trials:
        stream = Stream(cluster, case.release, tmp_path / str(seed))
        at_ms = json.loads(lines[0])["paid_at"]
        place: dict[str, object] = {"partition": seed % 4, "timestamp": at_ms}
        headers = [(f"header-{i}", b"h" * 100) for i in range(2_000)]
        huge = [b"x" * 1_000_000, b'"' + b"y" * 999_000, b"[" * 999_999]
        bad: list[dict[str, object]] = [{"value": b"{}", "headers": headers, **place}]
        bad += [{"value": value, **place} for value in huge]
        stream.cluster.produce(stream.events, bad)
        squeezed = [{"value": b" " * 90_000, **place} for _ in range(30)]
        stream.cluster.produce(stream.events, squeezed, compression="zstd")
        stream.send(lines)
        child = stream.start()
        stream.wait_for(len(lines))
        report = stream.end(child)
        assert (report["decided"], report["quarantined"]) == (len(lines), 34)
        records = [json.loads(m.value()) for m in cluster.read(stream.quarantine)]
        assert sorted(record["n_bytes"] for record in records)[-3:] == [999_000 + 1, 999_999, 10**6]
        assert max(len(m.value()) for m in cluster.read(stream.quarantine)) < 1 << 18
        stream.close()


@pytest.mark.reliability("C9", t1=1)
def test_an_event_that_kills_the_process_is_passed_after_three_deaths(
    case: Case, any_stream: Stream
) -> None:
    """A real SIGSEGV: once for its batch, three times for itself, then it alone is quarantined."""
    lines = lines_of(case)[:300]
    any_stream.send(lines)
    n_deaths = 0
    while (child := any_stream.start(deadly='"payment_id": "p123"')) is not None:
        if n_deaths == 4:
            break
        assert child.wait(WAIT_S) == -11, child.stderr.read()
        n_deaths += 1
    ids = any_stream.wait_for(299)
    report = any_stream.end(child)
    assert report["poison"] == 1
    assert set(ids) == {f"p{i}" for i in range(300)} - {"p123"}
    (record,) = [json.loads(m.value()) for m in any_stream.cluster.read(any_stream.quarantine)]
    assert record["code"] == "poison"
    assert json.loads(record["text"])["payment_id"] == "p123"


@pytest.mark.reliability("C9", t1=1, t2=10, t3=50)
def test_an_event_that_kills_the_kernel_after_it_was_logged_is_passed_by_recovery_too(
    case: Case, cluster: Cluster, tmp_path: Path, trials
) -> None:
    """Each start dies while it recovers, until it is known at which event; then never again."""
    for seed in trials:
        log = FileCluster(tmp_path / f"log-{seed}")
        stream = Stream(log, case.release, tmp_path / str(seed), n_partitions=1)
        stream.send(lines_of(case)[:300])
        deadly = 120 + 7 * seed
        n_deaths = 0
        while n_deaths < 4:
            child = stream.start(deadly_kernel=deadly)
            assert child.wait(WAIT_S) == -11, child.stderr.read()
            n_deaths += 1
        child = stream.start(deadly_kernel=deadly)
        ids = stream.wait_for(299)
        report = stream.end(child)
        assert report["poison"] == 1
        assert set(ids) == {f"p{i}" for i in range(300)} - {f"p{deadly}"}
        (record,) = [json.loads(record.value()) for record in log.read(stream.quarantine)]
        assert (record["code"], record["position"]) == ("poison", deadly)
        again = stream.start(deadly_kernel=deadly)
        stream.send(lines_of(case)[300:350])
        stream.wait_for(349)
        assert stream.end(again)["decided"] == 50
        stream.close()


@pytest.mark.reliability("B12", t1=1)
def test_lost_events_stop_the_worker_with_what_is_missing(case: Case, any_stream: Stream) -> None:
    """Then --accept-gap goes on behind them, and counts them."""
    lines = lines_of(case)[:200]
    any_stream.send(lines)
    child = any_stream.start()
    any_stream.wait_for(200)
    report = any_stream.end(child)
    held = report["positions"][f"{any_stream.events}/0"]
    junk = [{"value": b"x" * 60_000, "partition": 0}] * 150
    any_stream.cluster.produce(any_stream.events, junk)
    low = any_stream.cluster.forget(any_stream.events, 0, held + 40)
    assert low > held
    stopped = any_stream.start()
    assert stopped.wait(WAIT_S) == 1
    error = any_stream.last_words(stopped)
    assert f"source-gap: {any_stream.events}/0: expected position {held}" in error
    assert f"positions {held} to {low - 1} are missing" in error
    going_on = any_stream.start(job={"accept_gap": True})
    more = lines_of(case)[200:260]
    any_stream.send(more)
    any_stream.wait_for(260)
    assert any_stream.end(going_on)["gap"] == low - held


def test_a_topic_made_anew_is_not_taken_for_the_old_one(case: Case, tmp_path: Path) -> None:
    """The state is ahead of it: that is another topic, and no flag passes it."""
    if named_cluster() is not None:
        pytest.skip("a cluster that can be made anew is needed: the mock")
    topics = {"e": 4, "d": 4, "q": 1}
    job = {"events": "e", "decisions": "d", "quarantine": "q"}
    with MockKafka({}) as first:
        stream = Stream(Cluster(first.bootstrap, first), case.release, tmp_path)
        for name, n_partitions in topics.items():
            first.create_topic(name, n_partitions)
        stream.events, stream.decisions = "e", "d"
        stream.send(lines_of(case)[:100])
        child = stream.start(job=job)
        stream.wait_for(100)
        stream.end(child)
    with MockKafka(topics) as second:
        stream.cluster = Cluster(second.bootstrap, second)
        child = stream.start(job={**job, "accept_gap": True})
        assert child.wait(WAIT_S) == 1
        assert "source-behind-state: e/" in child.stderr.read()
    stream.close()


def test_a_second_worker_without_a_partition_key_is_refused(case: Case, stream: Stream) -> None:
    """It says the way out; the first one goes on, and has the whole topic again."""
    lines = lines_of(case)
    group = "together-" + stream.events
    first = stream.start(group=group)
    stream.send(lines[:100])
    stream.wait_for(100)
    other = {"state": str(stream.folder / "other")}
    second = stream.start(group=group, job=other)
    assert second.wait(WAIT_S) == 1
    error = stream.last_words(second)
    assert "stream-partition-key" in error
    assert "--partition-key" in error
    stream.send(lines[100:200])
    ids = stream.wait_for(200)
    assert len(ids) == 200
    stream.end(first)


@pytest.mark.reliability("C4", t1=1)
def test_partitions_of_a_killed_worker_are_taken_over_with_their_state(
    case: Case, stream: Stream
) -> None:
    """Two workers, one killed: the other goes on where its state and outputs are."""
    lines = lines_of(case)
    order = {
        "group": "shared-" + stream.events,
        "job": {"partition_key": "card_id"},
        "client": {"session.timeout.ms": 6000, "heartbeat.interval.ms": 500},
    }
    first, second = stream.start(**order), stream.start(**order)
    stream.send(lines[:700])
    stream.wait_for(700)
    first.kill()
    first.wait(30)
    stream.send(lines[700:])
    stream.wait_for(case.n_events)
    report = stream.end(second)
    assert report["deduplicated"] == 0
    assert sum(report["positions"].values()) == case.n_events
    decisions: dict[str, set[bytes]] = {}
    for message in stream.cluster.read(stream.decisions):
        decisions.setdefault(message.key().decode(), set()).add(message.value())
    assert set(decisions) == {f"p{i}" for i in range(case.n_events)}
    assert all(len(found) == 1 for found in decisions.values())


SESSION_S = 6.0
"""Short, so that a worker can be frozen for three of them; shorter, none gets a share for sure."""


@dataclass
class Pair:
    """Two workers of a stream that share its partitions."""

    stream: Stream
    workers: list[subprocess.Popen[str]]
    n_sent: int = 0
    n_withheld: int = 0

    @classmethod
    def start(cls, stream: Stream) -> Pair:
        """Start both."""
        order = {
            "group": "frozen-" + stream.events,
            "job": {"partition_key": "card_id"},
            "client": {"session.timeout.ms": int(1000 * SESSION_S), "heartbeat.interval.ms": 500},
        }
        return cls(stream, [stream.start(**order), stream.start(**order)])

    def send(self, lines: list[bytes]) -> None:
        """Send further events."""
        self.stream.send(lines)
        self.n_sent += len(lines)

    def freeze(self, number: int, lines: list[bytes]) -> None:
        """Freeze one for three sessions, in mid-stream, and thaw it."""
        frozen = self.workers[number % 2]
        frozen.send_signal(signal.SIGSTOP)
        self.send(lines)
        time.sleep(3 * SESSION_S)
        ids = self.stream.cluster.ids(self.stream.decisions)
        self.n_withheld += len(set(ids)) < self.n_sent
        frozen.send_signal(signal.SIGCONT)
        self.stream.wait_for(self.n_sent)
        check_decided_once(self.stream, self.n_sent)

    def end(self) -> None:
        """End both; every event was decided by one of them, once."""
        reports = [self.stream.end(child) for child in self.workers]
        assert sum(report["decided"] for report in reports) == self.n_sent
        assert all(report["deduplicated"] == 0 for report in reports)


@pytest.mark.timeout(900)
@pytest.mark.reliability("C5", t1=6, t2=100, t3=500)
def test_a_frozen_worker_keeps_its_partitions_until_it_lets_go(
    case: Case, cluster: Cluster, tmp_path: Path, trials
) -> None:
    """Past its session the broker gives them away; the lock on the state does not.

    Two streams side by side, of two workers each, which are frozen in turns.
    """
    lines = lines_of(case)
    n_pairs = 2
    n_each = min(200, len(lines) // (-(-trials.n // n_pairs) + 1))
    with ExitStack() as stack:
        pairs = []
        for number in range(n_pairs):
            stream = Stream(cluster, case.release, tmp_path / str(number))
            stack.callback(stream.close)
            pairs.append(Pair.start(stream))
        for pair in pairs:
            pair.send(lines[:n_each])
            pair.stream.wait_for(n_each)

        def freeze(trial: int) -> None:
            pair = pairs[trial % n_pairs]
            pair.freeze(trial // n_pairs, lines[pair.n_sent : pair.n_sent + n_each])

        side_by_side(trials, n_pairs, freeze)
        assert all(pair.n_withheld > 0 for pair in pairs), "who was frozen had no partition"
        for pair in pairs:
            pair.end()


def check_decided_once(stream: Stream, n_events: int) -> None:
    """Every event has one decision, and none came a second time."""
    ids = stream.cluster.ids(stream.decisions)
    assert sorted(ids) == sorted(f"p{i}" for i in range(n_events))


# TOPIC_AUTHORIZATION_FAILED, REBALANCE_IN_PROGRESS, NOT_COORDINATOR, OFFSET_METADATA_TOO_LARGE, …
OFFSET_COMMIT, COMMIT_ERRORS = 8, (29, 27, 16, 12, 25, 22, 14, 7)


@pytest.mark.reliability("C7", t1=20, t2=200, t3=400)
def test_offsets_that_cannot_be_committed_change_nothing(
    case: Case, stream: Stream, trials
) -> None:
    """They are for people who watch lag: positions are the state's.

    Each trial commits fail with another error; two of them end the worker, one in order and one
    not, and the next one joins a group in which somebody has left offsets that are wrong.
    """
    mock = stream.cluster.mock
    if mock is None:
        pytest.skip("errors of a broker are injected into the mock")
    lines = lines_of(case)
    n_each = min(20, len(lines) // trials.n)
    n_sent = 0
    child = stream.start(group=group_with_offsets(stream, at=3))
    for trial in trials:
        mock.fail(OFFSET_COMMIT, COMMIT_ERRORS[trial % len(COMMIT_ERRORS)], 1 + trial % 5)
        stream.send(lines[n_sent : n_sent + n_each])
        n_sent += n_each
        if trial % 14 not in {6, 13}:
            time.sleep(0.3)  # one cycle of commits, or two
            continue
        stream.wait_for(n_sent)
        if trial % 14 == 6:
            stream.end(child)
        else:
            child.kill()
            child.wait()
        mock.fail(OFFSET_COMMIT, 0, 1)
        child = stream.start(group=group_with_offsets(stream, at=(0, 1, 10_000)[trial % 3]))
    ids = stream.wait_for(n_sent)
    mock.fail(OFFSET_COMMIT, 0, 1)
    report = stream.end(child)
    decided = [m.value() for m in stream.cluster.read(stream.decisions)]
    assert set(ids) == {f"p{i}" for i in range(n_sent)}
    assert len(set(decided)) == n_sent, "what came again came with the same bytes"
    assert report["deduplicated"] == 0
    assert sum(report["positions"].values()) == n_sent


def group_with_offsets(stream: Stream, *, at: int) -> str:
    """Leave the same offset in every partition of a group that nobody has been in."""
    group = f"offsets-{uuid.uuid4().hex}"
    client = kafka.Consumer({"bootstrap.servers": stream.cluster.bootstrap, "group.id": group})
    places = [kafka.TopicPartition(stream.events, p, at) for p in range(stream.n_partitions)]
    client.commit(offsets=places, asynchronous=False)
    found = client.committed(places, timeout=20)
    client.close()
    assert [place.offset for place in found] == [at] * stream.n_partitions
    return group


def test_a_broker_that_refuses_for_a_while_loses_nothing(case: Case, stream: Stream) -> None:
    """NOT_LEADER for produce requests: the idempotent producer sends again, once each."""
    mock = stream.cluster.mock
    if mock is None:
        pytest.skip("errors of a broker are injected into the mock")
    lines = lines_of(case)[:400]
    stream.send(lines)
    mock.fail(0, 6, 6)
    child = stream.start()
    ids = stream.wait_for(400)
    stream.end(child)
    assert sorted(ids) == sorted(f"p{i}" for i in range(400))
