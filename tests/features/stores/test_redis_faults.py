"""Redis killed, frozen, slow, cut off, full, flushed or gone back: nothing is lost or doubled.

Every test ends with the state of an engine in memory that saw the same log without a fault.
"""

from __future__ import annotations

import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from feature_world import Payment, batch_of
from redis_rig import (
    PLAN,
    WAIT_S_MAX,
    bits,
    close_all,
    closed_later,
    feed,
    feed_until_taken,
    log_of,
    undisturbed,
)

from sentinel.contract import EventBatch
from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features import STALE, Engine, FeatureMatrix
from sentinel.features.checks import entities_of
from sentinel.features.stores.redis.link import RedisLink
from sentinel.features.stores.redis.replica import RedisReplica
from sentinel.features.stores.redis.store import OnLoss, RedisSettings, RedisStore
from sentinel.testing.redis_proxy import RedisProxy
from sentinel.testing.redis_server import RedisServer

N_EVENTS = 600


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="redis-") as path:
        yield Path(path)


@pytest.fixture
def server(folder: Path) -> Iterator[RedisServer]:
    with RedisServer(folder / "s", {"appendfsync": "always"}) as running:
        yield running


@pytest.fixture
def proxy(folder: Path, server: RedisServer) -> Iterator[RedisProxy]:
    running = RedisProxy(folder, server.path)
    yield running
    running.close()


def is_stale(matrix: FeatureMatrix) -> bool:
    """Whether all that needs the state is marked stale, and what the event says itself is not."""
    by_name = {feature.name: feature for feature in PLAN.features.features}
    of_entity = [bool(entities_of(feature, by_name)) for feature in PLAN.features.features]
    needs_state = np.array(of_entity)
    is_marked: npt.NDArray[np.bool_] = matrix.status == STALE
    return bool(is_marked[:, needs_state].all() and not is_marked[:, ~needs_state].any())


def opened(
    url: str, *, on_loss: OnLoss = OnLoss.HOLD, deadline_ms: float = 10_000, is_fenced: bool = True
) -> RedisStore:
    settings = RedisSettings(
        url=url, name="faults", on_loss=on_loss, deadline_ms=deadline_ms, is_fenced=is_fenced
    )
    deadline = time.monotonic() + WAIT_S_MAX
    while True:
        try:
            return closed_later(RedisStore(PLAN, settings))
        except SentinelError as error:
            # Redis starts again, or the machine is busier than the deadline allows.
            if error.code is not ErrorCode.STORE_UNREACHABLE or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def clean(server: RedisServer) -> None:
    """Begin a trial with an empty Redis."""
    close_all()
    link = RedisLink(server.url, deadline_ms=10_000)
    link.call([("FLUSHALL",)])
    link.close()


@pytest.mark.reliability("D1", t1=20, t2=100, t3=500)
def test_redis_killed_at_random_moments_applies_nothing_twice(
    server: RedisServer, trials: Iterator[int]
) -> None:
    """Five kills each; half of the time the worker starts anew too, and resumes."""
    for seed in trials:
        clean(server)
        killed_at_random(server, seed)


def killed_at_random(server: RedisServer, seed: int) -> None:
    rng = Random(seed)
    log = log_of(seed, N_EVENTS)
    digest, expected = undisturbed(log)
    is_over = threading.Event()
    kills: list[float] = []

    def kill_often() -> None:
        for _ in range(5):
            if is_over.wait(rng.random() * 0.05):
                return
            server.kill()
            kills.append(time.monotonic())
            server.start()

    killer = threading.Thread(target=kill_often)
    store = opened(server.url)
    killer.start()
    try:
        for batch, answer in zip(log, expected, strict=True):
            if rng.random() < 0.1:
                store = opened(server.url)
            assert bits(feed_until_taken(store, batch)) == answer
            time.sleep(0.004)
    finally:
        is_over.set()
        killer.join()
    assert kills
    assert opened(server.url).state_digest() == digest


@pytest.mark.reliability("D7", t1=1)
@pytest.mark.parametrize("side", ["cut_request_after", "cut_reply_after"])
@pytest.mark.parametrize("is_fenced", [True, False])
def test_connection_cut_at_any_byte_applies_each_batch_once(
    server: RedisServer, proxy: RedisProxy, side: str, *, is_fenced: bool
) -> None:
    """In mid-request, in mid-reply, after the commit and before its answer."""
    rng = Random(7)
    log = log_of(7, N_EVENTS)
    digest, expected = undisturbed(log)
    if not is_fenced:
        for batch in log:
            batch.raw.positions[:] = 0
    store = opened(proxy.url, is_fenced=is_fenced)
    for batch, answer in zip(log, expected, strict=True):
        n_bytes = rng.choice([0, 1, 10, 100, 3000, 30_000])
        setattr(proxy, side, rng.randint(0, n_bytes))
        assert bits(feed_until_taken(store, batch)) == answer
    assert store.link.patience.n_retries + store.link.patience.n_losses > 20
    proxy.cut_request_after = proxy.cut_reply_after = -1
    assert opened(server.url, is_fenced=is_fenced).state_digest() == digest


def test_without_commit_numbers_a_lost_reply_would_apply_a_batch_twice(
    server: RedisServer, proxy: RedisProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: with the look at the writer's last commit left out, the test above sees it."""
    monkeypatch.setattr(RedisReplica, "_was_committed", lambda *_: False)
    store = opened(proxy.url, is_fenced=False)
    log = [batch for batch in log_of(7, N_EVENTS) if batch.raw.source == "Payment"]
    memory = Engine(PLAN)
    differs = False
    for batch in log:
        proxy.cut_reply_after = 0
        differs |= bits(feed_until_taken(store, batch)) != bits(memory.advance(batch))
    assert differs


@pytest.mark.reliability("D2", t1=10, t2=50, t3=200)
def test_frozen_redis_means_stale_defaults_within_the_deadline_and_then_the_whole_state(
    server: RedisServer, trials: Iterator[int]
) -> None:
    """What was answered with defaults is applied when Redis is back; one in twenty takes 30 s."""
    for trial in trials:
        clean(server)
        times = (0.1, 0.12, 0.15, 0.2, 0.3, 1.0)
        frozen_for(server, 30.0 if trial % 20 == 19 else times[trial % len(times)])


def frozen_for(server: RedisServer, frozen_s: float) -> None:
    log = log_of(3, N_EVENTS)
    digest, expected = undisturbed(log)
    store = opened(server.url, on_loss=OnLoss.DEFAULTS, deadline_ms=20)
    middle = len(log) // 2
    for batch in log[:middle]:
        feed(store, batch)
    server.send(signal.SIGSTOP)
    frozen_at = time.monotonic()
    stale: list[FeatureMatrix] = []
    k = middle
    # On a busy machine one call may take all the time: go on until an event was answered.
    while (time.monotonic() < frozen_at + frozen_s or not stale) and k < len(log) - 2:
        matrix = feed(store, log[k])
        if matrix is not None:
            stale.append(matrix)
        time.sleep(0.01)
        k += 1
    time.sleep(max(0.0, frozen_at + frozen_s - time.monotonic()))
    server.send(signal.SIGCONT)
    assert stale
    assert all(is_stale(matrix) for matrix in stale)
    memory = Engine(PLAN)
    calm = [memory_of for batch in log[:k] if (memory_of := feed(memory, batch)) is not None]
    for lost, found in zip(stale, calm[len(calm) - len(stale) :], strict=True):
        assert (lost.is_duplicate == found.is_duplicate).all()
    assert store.fault is not None
    assert store.fault.code is ErrorCode.STORE_UNREACHABLE
    assert store.store_counts.stale_events >= sum(matrix.n_rows for matrix in stale)
    recover(store)
    for batch, answer in zip(log[k:], expected[k:], strict=True):
        assert bits(feed_until_answered(store, batch)) == answer
    assert store.n_backlog == 0
    assert opened(server.url).state_digest() == digest


def recover(store: RedisStore) -> None:
    """Wait until what waited is applied; an empty batch asks for it."""
    empty = batch_of(Payment.schema, np.empty((len(Payment.schema.fields), 0), dtype=np.int64))
    deadline = time.monotonic() + WAIT_S_MAX
    while store.n_backlog:
        assert time.monotonic() < deadline
        store.advance(empty)
        time.sleep(0.01)
    # The empty batches that waited are answered; the next one is not stale.
    store.fault = None


def feed_until_answered(store: RedisStore, batch: EventBatch) -> FeatureMatrix | None:
    """On a busy machine a batch may pass its deadline; then it waits, and is answered again."""
    deadline = time.monotonic() + WAIT_S_MAX
    while True:
        n_stale = store.store_counts.stale_events
        matrix = feed(store, batch)
        if store.store_counts.stale_events == n_stale and not store.n_backlog:
            return matrix
        assert time.monotonic() < deadline
        recover(store)


@pytest.mark.reliability("D3", t1=10, t2=60, t3=200)
def test_slow_redis_means_stale_never_zero(
    server: RedisServer, proxy: RedisProxy, trials: Iterator[int]
) -> None:
    """A vector is the right one, or it is all defaults and says so."""
    for trial in trials:
        clean(server)
        slow(server, proxy, (1, 5, 50, 500, 0)[trial % 5], Random(trial))


def slow(server: RedisServer, proxy: RedisProxy, delay_ms: int, rng: Random) -> None:
    """Each answer late by so much; at 0 one batch in twenty meets an answer late by a second."""
    log = log_of(5, n_events=200)
    digest, expected = undisturbed(log)
    store = opened(proxy.url, on_loss=OnLoss.DEFAULTS, deadline_ms=20)
    proxy.delay_s = delay_ms / 1000
    n_stale = 0
    for batch, answer in zip(log, expected, strict=True):
        if delay_ms == 0:
            proxy.delay_s = 1.0 if rng.random() < 0.05 else 0.0
        matrix = feed(store, batch)
        if matrix is None:
            continue
        if bits(matrix) != answer:
            assert is_stale(matrix)
            n_stale += batch.n_rows
    if delay_ms >= 50:
        assert n_stale == sum(len(batch.rows) for batch in log if batch.raw.source == "Payment")
    proxy.delay_s = 0.0
    recover(store)
    assert opened(server.url).state_digest() == digest


@pytest.mark.reliability("D7", t1=1)
@pytest.mark.parametrize(
    ("reply", "code", "n_tries"),
    [
        ("LOADING Redis is loading the dataset in memory", ErrorCode.STORE_UNREACHABLE, 3),
        ("READONLY You can't write against a read only replica.", ErrorCode.STORE_UNREACHABLE, 3),
        ("MASTERDOWN Link with MASTER is down", ErrorCode.STORE_UNREACHABLE, 3),
        ("BUSY Redis is busy running a script.", ErrorCode.STORE_UNREACHABLE, 3),
        ("CLUSTERDOWN The cluster is down", ErrorCode.STORE_UNREACHABLE, 3),
        ("MOVED 3999 127.0.0.1:6381", ErrorCode.STORE_UNREACHABLE, 3),
        ("OOM command not allowed when used memory > 'maxmemory'.", ErrorCode.STORE_REFUSED, 1),
        ("MISCONF Errors writing to the AOF file", ErrorCode.STORE_REFUSED, 1),
        ("ERR unknown command", ErrorCode.STORE_REFUSED, 1),
        ("WRONGPASS invalid username-password pair", ErrorCode.STORE_DENIED, 1),
        ("NOAUTH Authentication required.", ErrorCode.STORE_DENIED, 1),
        ("NOPERM this user has no permissions", ErrorCode.STORE_DENIED, 1),
    ],
)
def test_every_error_of_redis_has_a_name_and_a_bound_on_its_tries(
    server: RedisServer, proxy: RedisProxy, reply: str, code: ErrorCode, n_tries: int
) -> None:
    log = log_of(1, n_events=60)
    digest, expected = undisturbed(log)
    store = opened(proxy.url)
    feed(store, log[0])
    proxy.canned = f"-{reply}\r\n".encode()
    with pytest.raises(SentinelError) as caught:
        feed(store, log[1])
    assert caught.value.code is code
    assert proxy.n_canned == n_tries <= limits.STORE_TRIES_MAX
    proxy.canned = b""
    for batch, answer in zip(log[1:], expected[1:], strict=True):
        assert bits(feed_until_taken(store, batch)) == answer
    assert opened(server.url).state_digest() == digest


@pytest.mark.reliability("D7", t1=1)
def test_retries_have_a_budget_and_a_dead_redis_is_left_alone(
    server: RedisServer, proxy: RedisProxy
) -> None:
    """Over many failing calls: a tenth of them and a reserve, no storm."""
    store = opened(proxy.url)
    proxy.canned = b"-LOADING Redis is loading the dataset in memory\r\n"
    log = log_of(1, n_events=40)
    n_calls = 60
    for _ in range(n_calls):
        with pytest.raises(SentinelError):
            feed(store, log[1])
        time.sleep(0.002)
    allowed = limits.STORE_RETRY_BUDGET_MAX + n_calls * limits.STORE_RETRY_SHARE
    assert store.link.patience.n_retries <= allowed
    assert proxy.n_canned < n_calls
    proxy.canned = b""


@pytest.mark.reliability("D7", t1=1)
def test_script_cache_of_redis_may_be_emptied_at_any_time(server: RedisServer) -> None:
    log = log_of(2, n_events=100)
    digest, expected = undisturbed(log)
    store = opened(server.url)
    for batch, answer in zip(log, expected, strict=True):
        store.link.call([("SCRIPT", "FLUSH")])
        assert bits(feed(store, batch)) == answer
    assert store.state_digest() == digest


@pytest.mark.reliability("D5", t1=1)
def test_full_redis_writes_nothing_of_a_batch_and_goes_on_when_there_is_room(
    server: RedisServer,
) -> None:
    log = log_of(4, n_events=200)
    digest, expected = undisturbed(log)
    store = opened(server.url)
    for k, (batch, answer) in enumerate(zip(log, expected, strict=True)):
        if k % 3 == 1:
            before = store.state_digest()
            store.link.call([("CONFIG", "SET", "maxmemory", 1)])
            with pytest.raises(SentinelError) as caught:
                feed(store, batch)
            assert caught.value.code is ErrorCode.STORE_REFUSED
            assert "OOM" in caught.value.got
            store.link.call([("CONFIG", "SET", "maxmemory", 0)])
            assert store.state_digest() == before
        assert bits(feed(store, batch)) == answer
    assert store.state_digest() == digest


@pytest.mark.reliability("D5", t1=1)
def test_demoted_redis_is_waited_for(server: RedisServer) -> None:
    """A real replica answers READONLY; when it is promoted the same batch is taken."""
    log = log_of(6, n_events=60)
    digest, expected = undisturbed(log)
    store, other = opened(server.url), opened(server.url)
    for k, (batch, answer) in enumerate(zip(log, expected, strict=True)):
        if k == 3:
            other.link.call([("CONFIG", "SET", "replica-serve-stale-data", "yes")])
            other.link.call([("REPLICAOF", "127.0.0.1", 1)])
            with pytest.raises(SentinelError) as caught:
                feed(store, batch)
            assert caught.value.code is ErrorCode.STORE_UNREACHABLE
            other.link.call([("REPLICAOF", "NO", "ONE")])
        assert bits(feed_until_taken(store, batch)) == answer
    assert opened(server.url).state_digest() == digest


@pytest.mark.reliability("D5", t1=1)
def test_flushed_redis_is_noticed_served_stale_and_rebuilt(server: RedisServer) -> None:
    """The empty state is never taken for the state: it has no epoch."""
    log = log_of(8, n_events=200)
    digest, _ = undisturbed(log)
    store = opened(server.url, on_loss=OnLoss.DEFAULTS)
    for batch in log[:10]:
        feed(store, batch)
    store.link.call([("FLUSHALL",)])
    matrix = feed(store, log[11])
    assert matrix is not None
    assert is_stale(matrix)
    assert store.fault is not None
    assert store.fault.code is ErrorCode.STATE_MISSING
    store.erase()
    assert store.n_backlog == 0
    assert store.positions() == {}
    for batch in log:
        feed(store, batch)
    assert store.state_digest() == digest


@pytest.mark.reliability("D5", t1=1)
def test_state_begun_anew_by_another_is_not_taken_for_ones_own(server: RedisServer) -> None:
    store = opened(server.url)
    log = log_of(8, n_events=60)
    feed(store, log[1])
    store.link.call([("FLUSHALL",)])
    opened(server.url)
    with pytest.raises(SentinelError) as caught:
        feed(store, log[3])
    assert caught.value.code is ErrorCode.STATE_MISSING
    assert "another epoch" in caught.value.got


@pytest.mark.reliability("D5", t1=1)
def test_rows_without_a_head_are_not_built_upon(server: RedisServer) -> None:
    store = opened(server.url)
    feed(store, log_of(8, n_events=60)[1])
    store.link.call([("DEL", "sentinel:{faults}:head")])
    with pytest.raises(SentinelError) as caught:
        opened(server.url)
    assert caught.value.code is ErrorCode.STATE_MISSING


def test_events_beyond_the_backlog_are_counted_or_held(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STORE_BACKLOG_EVENTS_MAX", 30)
    log = [batch for batch in log_of(1, n_events=100) if batch.raw.source == "Payment"]
    for is_fenced in (True, False):
        store = opened(server.url, on_loss=OnLoss.DEFAULTS, is_fenced=is_fenced, deadline_ms=20)
        server.kill()
        feed(store, log[0])
        if is_fenced:
            with pytest.raises(SentinelError) as caught:
                feed(store, log[1])
            assert caught.value.code is ErrorCode.STORE_UNREACHABLE
        else:
            feed(store, log[1])
            assert f"{log[1].n_rows} found no room to wait" in store.trouble
        assert store.n_backlog == log[0].n_rows
        assert store.store_counts.unapplied_events == (0 if is_fenced else log[1].n_rows)
        server.start()


def test_an_event_that_comes_again_while_redis_is_lost_is_known_as_a_repeat(
    server: RedisServer,
) -> None:
    """One answered before the loss, and one answered with defaults since: neither is new."""
    log = log_of(9, n_events=60)
    store = opened(server.url, on_loss=OnLoss.DEFAULTS)
    (_, before, _, since) = log[:4]
    feed(store, before)
    server.kill()
    for batch, is_repeat in ((since, False), (before, True), (since, True)):
        matrix = feed(store, batch)
        assert matrix is not None
        assert is_stale(matrix)
        assert bool(matrix.is_duplicate.all()) is is_repeat
