"""A topic goes through the scorer, effects once, whatever is killed; real processes and sockets."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from kafka_rig import Cluster, Stream, named_cluster

from sentinel.streaming.stream_job import Step
from sentinel.testing.mock_kafka import MockKafka


class Case(Protocol):
    """As ``conftest.Case``."""

    release: Path
    events: Path
    feedback: Path
    n_events: int


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    named = named_cluster()
    if named is not None:
        yield Cluster(named, None)
        return
    with MockKafka({}) as mock:
        yield Cluster(mock.bootstrap, mock)


@pytest.fixture
def stream(cluster: Cluster, case: Case, tmp_path: Path) -> Iterator[Stream]:
    opened = Stream(cluster, case.release, tmp_path)
    yield opened
    opened.close()


def lines_of(case: Case) -> list[bytes]:
    return case.events.read_bytes().splitlines()


def test_every_event_gets_one_decision_in_the_order_of_its_card(case: Case, stream: Stream) -> None:
    lines = lines_of(case)
    stream.send(lines)
    child = stream.start()
    ids = stream.wait_for(case.n_events)
    report = stream.end(child)
    assert sorted(ids) == sorted(f"p{i}" for i in range(case.n_events))
    assert report["read"] == report["decided"] == case.n_events
    of_card: dict[str, list[int]] = {}
    cards = {event["payment_id"]: event["card_id"] for event in map(json.loads, lines)}
    for name in ids:
        of_card.setdefault(cards[name], []).append(int(name[1:]))
    assert all(order == sorted(order) for order in of_card.values())


@pytest.mark.parametrize("step", Step, ids=str)
def test_killed_after_any_commit_step_nothing_is_lost_and_no_state_is_doubled(
    case: Case, stream: Stream, step: Step
) -> None:
    """The decisions are those of a run that nobody killed; repeats are the same bytes."""
    stream.send(lines_of(case)[:1000])
    first = stream.start(step=str(step), at=3 if step in {*list(Step)[:4]} else 1)
    assert first.wait(60) == -9, first.stderr.read()
    second = stream.start()
    stream.wait_for(1000)
    report = stream.end(second)
    decisions: dict[str, set[bytes]] = {}
    for message in stream.cluster.read(stream.decisions):
        decisions.setdefault(message.key().decode(), set()).add(message.value())
    assert set(decisions) == {f"p{i}" for i in range(1000)}
    assert all(len(found) == 1 for found in decisions.values())
    assert report["deduplicated"] == 0
    assert sum(report["positions"].values()) == 1000
