"""A server whose state is in Redis: killed and frozen while events come; nobody has to help it."""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import msgspec
import pytest
import serving_rig
from process_rig import server_process
from serving_rig import Served, payment, served

from sentinel.cli.exits import ExitCode
from sentinel.core import limits
from sentinel.features.stores.choice import parse_store
from sentinel.features.stores.redis.store import RedisStore
from sentinel.scoring.policy import StalePolicy
from sentinel.testing import wait_until
from sentinel.testing.redis_server import RedisServer


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    folder = Path(tempfile.mkdtemp(prefix="redis-"))
    # Every second, and on a busy disk, what was answered is not in Redis' log yet.
    with RedisServer(folder, {"appendfsync": "always"}) as running:
        yield running
    shutil.rmtree(folder)


def store_of(server: Served) -> RedisStore:
    engine = server.opened.scorer.engine
    assert isinstance(engine, RedisStore)
    return engine


def causes(server: Served) -> str:
    return str(server.plane.health().causes)


@pytest.mark.reliability("D1", "D2", t1=2, t2=20, t3=100)
def test_server_answers_on_stale_defaults_says_so_and_recovers_by_itself(
    redis: RedisServer, tmp_path: Path, trials: Iterator[int]
) -> None:
    """Killed at even trials, frozen at odd ones; degraded, never unready, and named."""
    for trial in trials:
        address = parse_store(f"{redis.url}?name=serve-{trial}")
        with served(tmp_path / str(trial), store=address) as running:
            running.wait_ready()
            for k in range(5):
                assert running.score(payment(f"{trial}-before-{k}", card_id="c-1")).status == 200
            lose(redis, is_killed=trial % 2 == 0)
            answer = running.score(
                payment(f"{trial}-during", card_id="c-1"), sentinel_timeout_ms="5000"
            )
            assert answer.status == 200
            said = answer.json()
            assert (said["served_by"], said["reason"]) == ("champion", "features-stale")
            running.wait_until(lambda s=running: f"store {redis.url}" in causes(s))
            assert running.plane.health().is_ready
            assert running.plane.health().state == "degraded"
            bring_back(redis, is_killed=trial % 2 == 0)
            running.wait_until(lambda s=running: "store" not in causes(s))
            store = store_of(running)
            assert store.n_backlog == 0
            assert store.store_counts.stale_events >= 1
            assert store.counts().events == 6


def test_events_are_held_where_the_policy_holds_stale_ones(
    redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = serving_rig.golden_release()
    policy = msgspec.structs.replace(plain.parts.policy, stale=StalePolicy.HOLD)
    strict = replace(plain, parts=replace(plain.parts, policy=policy))
    monkeypatch.setattr(serving_rig, "golden_release", lambda: strict)
    with served(tmp_path, store=parse_store(redis.url)) as running:
        running.wait_ready()
        running.score(payment("known", card_id="c-2"))
        lose(redis, is_killed=True)
        answer = running.score(payment("lost", card_id="c-2"), sentinel_timeout_ms="5000").json()
        assert (answer["outcome"], answer["score"], answer["reason"]) == (
            "held",
            None,
            "features-stale",
        )
        bring_back(redis, is_killed=True)
        running.wait_until(lambda: "store" not in causes(running))
        numbers = count()
        # On a busy machine one call or another may still pass its deadline.
        running.wait_until(
            lambda: running.score(payment(f"back-{next(numbers)}")).json()["outcome"] != "held"
        )


@pytest.mark.parametrize("fronts", [0, 1])
def test_stop_while_redis_is_away_says_how_many_answers_the_state_never_learns_of(
    redis: RedisServer, tmp_path: Path, fronts: int
) -> None:
    """One line, and not the exit code of an end at which all was well."""
    options = ("--rehearsal", "--fronts", str(fronts), "--store", redis.url)
    environment = {"SENTINEL_SERVE_RUN_FOLDER": str(tmp_path / "run")}
    with server_process(tmp_path, *options, **environment) as running:
        numbers = count()
        # What is answered from the state is in it, and all before it; a busy machine may be late.
        wait_until(lambda: b"stale" not in running.post(payment(f"known-{next(numbers)}"))[1])
        lose(redis, is_killed=True)
        for number in range(3):
            assert running.post(payment(f"lost-{number}"), sentinel_timeout_ms="5000")[0] == 200
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(60) == ExitCode.DEGRADED
        lines = [line for line in running.stderr.read_text().splitlines() if "never" in line]
        assert [json.loads(line)["answers"] for line in lines] == [3]


@pytest.mark.parametrize("comes_back", [False, True])
def test_the_end_tells_of_answers_that_found_no_room_to_wait(
    redis: RedisServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    comes_back: bool,
) -> None:
    """They are lost to the state though Redis should be back, and are told beside what waits."""
    monkeypatch.setattr(limits, "STORE_BACKLOG_EVENTS_MAX", 2)
    with served(tmp_path, store=parse_store(redis.url)) as running:
        running.wait_ready()
        lose(redis, is_killed=True)
        for number in range(3):
            body = payment(f"lost-{number}")
            assert running.score(body, sentinel_timeout_ms="5000").status == 200
        if comes_back:
            bring_back(redis, is_killed=True)
            running.wait_until(lambda: not store_of(running).n_backlog)
    told = [record for record in caplog.records if "never reached" in record.message]
    found = [(vars(record)["answers"], vars(record)["dropped"]) for record in told]
    assert found == [(1, 1) if comes_back else (3, 1)]


def test_stop_brings_what_waited_to_a_redis_that_is_back(
    redis: RedisServer, tmp_path: Path
) -> None:
    with server_process(tmp_path, "--rehearsal", "--store", redis.url) as running:
        lose(redis, is_killed=True)
        assert running.post(payment("lost"), sentinel_timeout_ms="5000")[0] == 200
        bring_back(redis, is_killed=True)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(60) == ExitCode.OK
        assert "never" not in running.stderr.read_text()


def lose(redis: RedisServer, *, is_killed: bool) -> None:
    if is_killed:
        redis.kill()
    else:
        redis.send(signal.SIGSTOP)


def bring_back(redis: RedisServer, *, is_killed: bool) -> None:
    if is_killed:
        redis.start()
    else:
        redis.send(signal.SIGCONT)
