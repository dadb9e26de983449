"""The store in Redis: two writers, the order of commits, what expires, what is refused."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import threading
from itertools import count
from pathlib import Path
from random import Random

import numpy as np
import pytest
from feature_world import HOUR_MS, Payment, Verdict, batch_of, card, merchant, payments
from feature_world import verdicts as verdicts_of
from redis_rig import PLAN, bits, closed_later

from sentinel.contract import EventBatch
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features import (
    Count,
    Engine,
    FeaturePlan,
    FeatureSet,
    Mean,
    compile_plan,
)
from sentinel.features.stores.redis.store import RedisSettings, RedisStore
from sentinel.testing.redis_cluster import free_port
from sentinel.testing.redis_server import RedisServer

NAMES = count()


def opened(
    plan: FeaturePlan, settings: RedisSettings, *, n_dedupe_min: int = 1 << 20
) -> RedisStore:
    return closed_later(RedisStore(plan, settings, n_dedupe_min=n_dedupe_min))


def settings_for(server: RedisServer, **options: object) -> RedisSettings:
    given: dict[str, object] = {"deadline_ms": 10_000, "name": f"store-{next(NAMES)}", **options}
    return RedisSettings(url=server.url, **given)  # type: ignore[arg-type]


def at(batch: EventBatch, schema: type, start: int, end: int, source: str) -> EventBatch:
    """Cut a batch out of a log, with its positions there."""
    part = batch_of(schema.schema, batch.values[:, start:end], batch.present[:, start:end])  # type: ignore[attr-defined]
    part.raw.positions[:] = np.arange(start, end)
    object.__setattr__(part.raw, "source", source)
    return part


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("rows_held_max", [1_000_000, 15])
def test_writers_that_share_entities_are_one_engine_in_the_order_of_their_commits(
    server: RedisServer, seed: int, rows_held_max: int
) -> None:
    """Three writers, each with its own source, take turns at random; nobody's cache is behind."""
    rng = Random(seed)
    shared = settings_for(server, rows_held_max=rows_held_max)
    stores = [opened(PLAN, shared, n_dedupe_min=64) for _ in range(3)]
    logs = [payments(150, seed * 3 + k, late_ms=HOUR_MS, duplicate_share=0.1) for k in range(3)]
    for k, log in enumerate(logs):
        log.values[0] += k * 10_000_000  # event ids of their own
    feedback = [verdicts_of(log, seed) for log in logs]
    memory = Engine(PLAN, n_dedupe_min=64)
    next_event, next_feedback = [0, 0, 0], [0, 0, 0]
    while any(start < 150 for start in next_event):
        k = rng.choice([k for k in range(3) if next_event[k] < 150])
        if next_feedback[k] < feedback[k].n_rows and rng.random() < 0.3:
            end = min(next_feedback[k] + rng.randint(1, 20), feedback[k].n_rows)
            batch = at(feedback[k], Verdict, next_feedback[k], end, f"verdicts-{k}")
            stores[k].learn(batch)
            memory.learn(batch)
            next_feedback[k] = end
        end = min(next_event[k] + rng.randint(1, 25), 150)
        batch = at(logs[k], Payment, next_event[k], end, f"payments-{k}")
        assert bits(stores[k].advance(batch)) == bits(memory.advance(batch))
        next_event[k] = end
    assert {store.state_digest() for store in stores} == {memory.state_digest()}
    assert sum(store.store_counts.redone for store in stores) > 0
    assert stores[0].counts() == memory.counts()
    again = opened(PLAN, shared)
    assert again.state_digest() == memory.state_digest()
    assert [again.position(f"payments-{k}") for k in range(3)] == [150] * 3


def test_writers_at_the_same_time_are_one_engine_in_the_order_of_their_versions(
    server: RedisServer,
) -> None:
    """Real threads: the order is told by the versions, and an engine in memory repeats it."""
    shared = settings_for(server)
    stores = [opened(PLAN, shared) for _ in range(3)]
    taken: list[tuple[int, EventBatch, list[bytes]]] = []

    def write(k: int) -> None:
        log = payments(400, 50 + k, late_ms=HOUR_MS, duplicate_share=0.1)
        log.values[0] += k * 10_000_000
        for start in range(0, 400, 10):
            batch = at(log, Payment, start, start + 10, f"payments-{k}")
            answer = bits(stores[k].advance(batch))
            taken.append((stores[k]._n_version, batch, answer))

    threads = [threading.Thread(target=write, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    memory = Engine(PLAN)
    taken.sort(key=lambda item: item[0])
    assert [version for version, _, _ in taken] == list(range(1, 121))
    for _, batch, answer in taken:
        assert bits(memory.advance(batch)) == answer
    assert stores[0].state_digest() == memory.state_digest()
    assert sum(store.store_counts.redone for store in stores) > 0


def test_commit_of_an_older_version_writes_nothing(server: RedisServer) -> None:
    """The function in Redis compares before it writes: the fence of two writers."""
    shared = settings_for(server)
    first, second = opened(PLAN, shared), opened(PLAN, shared)
    log = payments(40, 1)
    first.advance(at(log, Payment, 0, 20, "payments"))
    digest = first.state_digest()
    assert second._must_load is False  # it believes that nothing has happened
    answer = second.advance(at(log, Payment, 0, 20, "payments"))
    assert not answer.is_duplicate.any()  # it got the vectors that were given
    assert second.store_counts.redone == 1
    assert first.state_digest() == digest


def test_rows_expire_only_where_no_window_can_see_them(server: RedisServer) -> None:
    features = FeatureSet(
        "expiring",
        version="1",
        events=Payment,
        features=[
            Mean("amount_1h", of=Payment.amount, by=card, over="1h"),
            Count("n_ever", by=merchant),
        ],
    )
    settings = settings_for(server)
    store = opened(compile_plan(features), settings)
    store.advance(at(payments(10, 2), Payment, 0, 10, "payments"))
    seconds: dict[int, set[int]] = {0: set(), 1: set()}
    prefix = store._keys.rows
    for key in store._scan(prefix):
        (left,) = store.link.call([("PTTL", key)])
        assert isinstance(left, int)
        seconds[key[len(prefix)]].add(left)
    # A life of two hours and a slice of an eighth of it, and a week.
    most = 7 * 86_400_000 + 2 * HOUR_MS * 9 // 8
    assert all(most - 60_000 < left <= most for left in seconds[0])
    assert seconds[1] == {-1}


def test_state_of_another_feature_set_is_refused(server: RedisServer) -> None:
    settings = settings_for(server)
    opened(PLAN, settings)
    other = FeatureSet("other", version="1", events=Payment, features=[Count("n", by=card)])
    with pytest.raises(SentinelError) as caught:
        RedisStore(compile_plan(other), settings)
    assert caught.value.code is ErrorCode.STATE_OF_ANOTHER_FEATURE_SET
    assert settings.name in caught.value.at


def test_hole_in_the_source_stops_with_its_name_until_it_is_accepted(server: RedisServer) -> None:
    settings = settings_for(server)
    store = opened(PLAN, settings)
    log = payments(30, 4)
    store.advance(at(log, Payment, 0, 10, "payments"))
    digest = store.state_digest()
    with pytest.raises(SentinelError) as caught:
        store.advance(at(log, Payment, 12, 20, "payments"))
    assert caught.value.code is ErrorCode.SOURCE_GAP
    assert caught.value.at == "payments/0"
    assert store.state_digest() == digest
    store.accept_gap("payments", 0, 12)
    store.advance(at(log, Payment, 12, 20, "payments"))
    assert opened(PLAN, settings).position("payments") == 20


def test_store_without_fence_takes_positions_as_meaningless(server: RedisServer) -> None:
    store = opened(PLAN, settings_for(server, is_fenced=False))
    memory = Engine(PLAN)
    log = payments(60, 5, duplicate_share=0.2)
    for start in range(0, 60, 10):
        batch = at(log, Payment, start, start + 10, "requests")
        batch.raw.positions[:] = np.arange(10)
        assert bits(store.advance(batch)) == bits(memory.advance(batch))
    assert store.state_digest() == memory.state_digest()
    assert store.positions() == {}


@pytest.mark.reliability("D5", t1=1)
@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl", "allkeys-random"])
def test_redis_that_may_evict_is_refused_at_start(policy: str) -> None:
    folder = Path(tempfile.mkdtemp(prefix="redis-"))
    with RedisServer(folder, {"maxmemory": "100mb", "maxmemory-policy": policy}) as server:
        with pytest.raises(SentinelError) as caught:
            opened(PLAN, settings_for(server))
        assert caught.value.code is ErrorCode.STORE_UNFIT
        assert policy in caught.value.got
    shutil.rmtree(folder)


@pytest.mark.reliability("D7", t1=1)
def test_password_is_asked_for_and_never_shown() -> None:
    folder = Path(tempfile.mkdtemp(prefix="redis-"))
    with RedisServer(folder, {"requirepass": "right-word"}) as server:
        for word in ("wrong-word", ""):
            with pytest.raises(SentinelError) as caught:
                RedisStore(PLAN, RedisSettings(url=f"unix://:{word}@{server.path}", name="locked"))
            assert caught.value.code is ErrorCode.STORE_DENIED
            assert "word" not in str(caught.value).replace("password", "")
        url = f"unix://:right-word@{server.path}?db=3"
        store = opened(PLAN, RedisSettings(url=url, name="locked", deadline_ms=10_000))
        store.advance(at(payments(5, 1), Payment, 0, 5, "payments"))
        assert store.position("payments") == 5
    shutil.rmtree(folder)


COMMANDS = (
    "evalsha script|load info exists mget lrange scan unlink get set mset del append getrange "
    "hget hset hmget hgetall rpush ltrim zadd zrange zremrangebyrank watch unwatch multi exec"
)


@pytest.mark.reliability("D10", t1=1)
def test_user_of_a_store_needs_its_own_keys_and_few_commands(server: RedisServer) -> None:
    """All of it works with those rights, and nothing else is allowed."""
    admin = opened(PLAN, settings_for(server)).link
    rights = [f"+{name}" for name in COMMANDS.split()]
    rule = ("reset", "on", ">a-word", "~sentinel:{acl}:*", *rights)
    admin.call([("ACL", "SETUSER", "scorer", *rule)])
    url = f"unix://scorer:a-word@{server.path}"
    store = opened(PLAN, RedisSettings(url=url, name="acl", deadline_ms=10_000))
    log = payments(20, 1)
    store.learn(at(verdicts_of(log, 1), Verdict, 0, 5, "verdicts"))
    store.advance(at(log, Payment, 0, 20, "payments"))
    assert store.state_digest()
    store.erase()
    for command in (
        ("CONFIG", "GET", "*"),
        ("FLUSHALL",),
        ("KEYS", "*"),
        ("EVAL", "return 1", 0),
        ("MODULE", "LIST"),
        ("GET", "sentinel:{other}:head"),
    ):
        with pytest.raises(SentinelError) as caught:
            store.link.call([command])
        assert caught.value.code is ErrorCode.STORE_DENIED
        assert "NOPERM" in caught.value.got
    with pytest.raises(SentinelError) as caught:
        opened(PLAN, RedisSettings(url=url, name="other", deadline_ms=10_000))
    assert caught.value.code is ErrorCode.STORE_DENIED


def certificate_of(folder: Path, *, days: int) -> tuple[Path, Path]:
    """Make a certificate of this machine that lasts so many days from now, and its key."""
    certificate, key, request = folder / "cert.pem", folder / "key.pem", folder / "request.pem"
    names = folder / "names"
    names.write_text("subjectAltName=DNS:localhost")
    for words in (
        ("req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost",
         "-keyout", str(key), "-out", str(request)),
        ("x509", "-req", "-in", str(request), "-signkey", str(key), "-days", str(days),
         "-extfile", str(names), "-out", str(certificate)),
    ):  # fmt: skip
        subprocess.run(["openssl", *words], check=True, capture_output=True)
    return certificate, key


@pytest.mark.reliability("D7", t1=1)
def test_certificate_that_has_expired_is_refused() -> None:
    folder = Path(tempfile.mkdtemp(prefix="redis-"))
    certificate, key = certificate_of(folder, days=-1)
    port = free_port()
    options = {
        "tls-port": str(port), "tls-cert-file": str(certificate), "tls-key-file": str(key),
        "tls-ca-cert-file": str(certificate), "tls-auth-clients": "no", "bind": "127.0.0.1",
    }  # fmt: skip
    with RedisServer(folder, options):
        url = f"rediss://localhost:{port}/0?ca={certificate}"
        with pytest.raises(SentinelError) as caught:
            RedisStore(PLAN, RedisSettings(url=url, name="tls", deadline_ms=10_000))
        assert caught.value.code is ErrorCode.STORE_DENIED
    shutil.rmtree(folder)


@pytest.mark.reliability("D7", t1=1)
def test_tls_with_a_password_is_spoken_and_a_certificate_of_nobody_is_refused() -> None:
    folder = Path(tempfile.mkdtemp(prefix="redis-"))
    certificate, key = certificate_of(folder, days=2)
    port = free_port()
    options = {
        "tls-port": str(port), "tls-cert-file": str(certificate), "tls-key-file": str(key),
        "tls-ca-cert-file": str(certificate), "tls-auth-clients": "no", "bind": "127.0.0.1",
        "requirepass": "right-word",
    }  # fmt: skip
    with RedisServer(folder, options):
        url = f"rediss://:right-word@localhost:{port}/0"
        with pytest.raises(SentinelError) as caught:
            RedisStore(PLAN, RedisSettings(url=url, name="tls", deadline_ms=10_000))
        assert caught.value.code is ErrorCode.STORE_DENIED
        trusted = RedisSettings(url=f"{url}?ca={certificate}", name="tls", deadline_ms=10_000)
        store = opened(PLAN, trusted)
        store.advance(at(payments(5, 1), Payment, 0, 5, "payments"))
        assert store.position("payments") == 5
        denied = RedisSettings(url=f"rediss://localhost:{port}/0?ca={certificate}", name="tls")
        with pytest.raises(SentinelError) as caught:
            RedisStore(PLAN, denied)
        assert "right-word" not in str(caught.value)
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    "url",
    ["http://cache:6379", "redis://", "unix://", "redis://:secret@cache:port/0", "cache:6379"],
)
def test_address_that_is_none_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(SentinelError) as caught:
        RedisStore(PLAN, RedisSettings(url=url, name="nowhere"))
    assert caught.value.code is ErrorCode.STORE_ADDRESS_INVALID
    assert caught.value.at == "address of Redis"
    assert "secret" not in str(caught.value)
