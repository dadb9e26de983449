"""A store over three nodes: killed, moved, promoted, gone back; nothing lost, doubled or guessed.

Every test ends with the state of an engine in memory that saw the same log without a fault.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import hiredis
import numpy as np
import pytest
from feature_world import Payment, batch_of, payments
from redis_rig import (
    PLAN,
    WAIT_S_MAX,
    bits,
    closed_later,
    feed,
    feed_until_taken,
    log_of,
    undisturbed,
)

from sentinel.contract import EventBatch
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features import Engine
from sentinel.features.stores.redis.address import parse_cluster
from sentinel.features.stores.redis.cluster_link import ClusterLink, slot_of
from sentinel.features.stores.redis.reader import FeatureReader
from sentinel.features.stores.redis.shards import N_SHARDS
from sentinel.features.stores.redis.store import OnLoss, RedisSettings, RedisStore
from sentinel.testing import wait_until
from sentinel.testing.redis_cluster import RedisCluster

NAMES = count()
N_EVENTS = 300


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with (
        tempfile.TemporaryDirectory(prefix="redis-") as folder,
        RedisCluster(Path(folder), options={"appendfsync": "always"}) as running,
    ):
        yield running


def settings_for(cluster: RedisCluster, **options: object) -> RedisSettings:
    given: dict[str, object] = {"deadline_ms": 10_000, "name": f"c{next(NAMES)}", **options}
    return RedisSettings(url=cluster.url, **given)  # type: ignore[arg-type]


def opened(settings: RedisSettings) -> RedisStore:
    """Open, as long as it takes for the nodes to agree again."""
    end_s = time.monotonic() + WAIT_S_MAX
    while True:
        try:
            return closed_later(RedisStore(PLAN, settings))
        except SentinelError as error:
            if error.code is not ErrorCode.STORE_UNREACHABLE or time.monotonic() > end_s:
                raise
            time.sleep(0.02)


def test_rows_are_spread_over_the_nodes_by_entity_key(cluster: RedisCluster) -> None:
    store = opened(settings_for(cluster, name="spread"))
    for batch in log_of(1, N_EVENTS):
        feed(store, batch)
    store.tend()
    shards = store._shards
    assert shards is not None
    rows: dict[int, int] = {}
    for prefix, names in shards.names().items():
        owner = cluster.owner_of(slot_of(prefix[prefix.index(b"{") + 1 : prefix.index(b"}")]))
        rows[owner] = rows.get(owner, 0) + sum(b":r:" in name for name in names)
    assert sum(rows.values()) == store.n_entities
    assert len(rows) == 3
    assert min(rows.values()) > 0


@pytest.mark.parametrize("number", range(3))
def test_writer_that_dies_between_head_and_rows_is_finished_by_the_next(
    cluster: RedisCluster, number: int
) -> None:
    """After every batch the writer is gone before its rows are written."""
    settings = settings_for(cluster)
    log = log_of(number, n_events=160)
    digest, expected = undisturbed(log)
    for batch, answer in zip(log, expected, strict=True):
        store = opened(settings)
        assert bits(feed(store, batch)) == answer
        store.link.close()
    assert opened(settings).state_digest() == digest


def test_frozen_writer_that_goes_on_writes_nothing_over_newer_rows(cluster: RedisCluster) -> None:
    settings = settings_for(cluster)
    log = log_of(4, N_EVENTS)
    digest, expected = undisturbed(log)
    half = len(log) // 4 * 2
    frozen = opened(settings)
    for batch in log[:half]:
        feed(frozen, batch)
    other = opened(settings)
    for batch, answer in zip(log[half:], expected[half:], strict=True):
        assert bits(feed(other, batch)) == answer
    assert frozen._shards is not None
    assert frozen._shards.unwritten  # its last rows, which the other has finished long ago
    frozen._shards.finish()
    other.tend()
    assert opened(settings).state_digest() == digest


def test_two_writers_are_one_engine_in_the_order_of_their_commits(cluster: RedisCluster) -> None:
    settings = settings_for(cluster, rows_held_max=15)
    stores = [opened(settings), opened(settings)]
    memory = Engine(PLAN)
    rng = Random(5)
    for batch in log_of(5, N_EVENTS):
        assert bits(feed(rng.choice(stores), batch)) == bits(feed(memory, batch))
    for store in stores:
        assert store.state_digest() == memory.state_digest()
    assert sum(store.store_counts.redone for store in stores) > 0


def test_command_that_waits_for_a_slot_that_moves_is_not_overtaken_by_the_next(
    cluster: RedisCluster,
) -> None:
    """Half of a write's keys are on their way; a read behind it, of the others, could be served."""
    home = slot_of(b"t")
    link = ClusterLink(cluster.url, b"t", deadline_ms=10_000)
    source = cluster.owner_of(home)
    target = (source + 1) % 3
    link.call([("MSET", "{t}a", "old", "{t}b", "old")])
    ids = [cluster.ask(number, "CLUSTER", "MYID") for number in (source, target)]
    cluster.ask(target, "CLUSTER", "SETSLOT", home, "IMPORTING", ids[0])
    cluster.ask(source, "CLUSTER", "SETSLOT", home, "MIGRATING", ids[1])
    cluster.ask(source, "MIGRATE", "127.0.0.1", cluster.ports[target], "{t}b", 0, 5000)
    with pytest.raises(hiredis.ReplyError, match="TRYAGAIN"):
        cluster.ask(source, "MSET", "{t}a", "new", "{t}b", "new")
    assert cluster.ask(source, "GET", "{t}a") == b"old"  # the detector: alone, it is served
    mover = threading.Thread(target=lambda: cluster.finish_move(home, source, target))
    tried = link._round

    def watched(work: Any) -> None:
        tried(work)
        if link.patience.n_retries == 0:
            mover.start()
            mover.join()

    link._round = watched  # type: ignore[method-assign]
    assert link.call([("MSET", "{t}a", "new", "{t}b", "new"), ("GET", "{t}a")])[1] == b"new"
    assert link.patience.n_retries > 0
    link.close()


def test_slots_that_move_under_load_lose_nothing(cluster: RedisCluster) -> None:
    """The head's slot and shards' slots go from node to node, key by key, while batches come.

    Few rows are held, so most batches write rows and read others of the same slots behind them.
    """
    settings = settings_for(cluster, rows_held_max=15)
    log = log_of(6, n_events=600)
    digest, expected = undisturbed(log)
    store = opened(settings)
    tags = [settings.name, *(f"{settings.name}:{shard:02d}" for shard in range(0, N_SHARDS, 8))]
    slots = [slot_of(tag.encode()) for tag in tags]
    is_over, moved = threading.Event(), []

    def move() -> None:
        rng = Random(6)
        while not is_over.is_set():
            slot = rng.choice(slots)
            target = (cluster.owner_of(slot) + 1) % 3
            cluster.move_slot(slot, target, pause_s=0.001)
            moved.append(slot)

    mover = threading.Thread(target=move)
    mover.start()
    try:
        for number, (batch, answer) in enumerate(zip(log, expected, strict=True)):
            if number == len(log) // 2:
                wait_until(lambda: len(moved) > 5)
            assert bits(feed_until_taken(store, batch)) == answer
            time.sleep(0.005)
    finally:
        is_over.set()
        mover.join()
    assert opened(settings).state_digest() == digest


@pytest.mark.reliability("D1", t1=3, t2=30, t3=150)
def test_node_of_the_cluster_killed_at_random_applies_nothing_twice(
    cluster: RedisCluster, trials: Iterator[int]
) -> None:
    """Between head and rows as well; it comes back with its own log."""
    for seed in trials:
        settings = settings_for(cluster)
        rng = Random(seed)
        log = log_of(seed, n_events=200)
        digest, expected = undisturbed(log)
        store = opened(settings)

        def kill(rng: Random = rng) -> None:
            time.sleep(rng.random() * 0.1)
            node = cluster.nodes[rng.randrange(3)]
            node.kill()
            node.start()

        killer = threading.Thread(target=kill)
        killer.start()
        for batch, answer in zip(log, expected, strict=True):
            assert bits(feed_until_taken(store, batch)) == answer
            time.sleep(0.005)
        killer.join()
        cluster.wait_until_whole()
        assert opened(settings).state_digest() == digest


@pytest.mark.reliability("D2", t1=2, t2=20, t3=60)
def test_frozen_node_means_stale_defaults_and_then_the_whole_state(
    cluster: RedisCluster, trials: Iterator[int]
) -> None:
    for seed in trials:
        settings = settings_for(cluster, on_loss=OnLoss.DEFAULTS, deadline_ms=50.0)
        log = log_of(seed, n_events=200)
        digest, _ = undisturbed(log)
        store = opened(settings)
        half = len(log) // 2
        for batch in log[:half]:
            feed(store, batch)
        node = cluster.nodes[cluster.owner_of(slot_of(settings.name.encode()))]
        node.send(signal.SIGSTOP)
        try:
            for batch in log[half:]:
                feed(store, batch)
        finally:
            node.send(signal.SIGCONT)
        assert store.store_counts.stale_events > 0
        assert "store redis+cluster://" in store.trouble
        wait_until(lambda store=store: not tended(store))
        cluster.wait_until_whole()
        assert opened(settings).state_digest() == digest


def tended(store: RedisStore) -> str:
    store.tend()
    return store.trouble


@pytest.mark.reliability("D5", t1=2, t2=20, t3=100)
def test_promoted_replica_is_followed(
    trials: Iterator[int],
) -> None:
    """A handover loses nothing, whoever it is from."""
    folder = Path(tempfile.mkdtemp(prefix="redis-"))
    with RedisCluster(folder, n_replicas=1) as cluster:
        for seed in trials:
            settings = settings_for(cluster)
            log = log_of(seed, n_events=160)
            digest, expected = undisturbed(log)
            store = opened(settings)
            half = len(log) // 2
            for k, (batch, answer) in enumerate(zip(log, expected, strict=True)):
                if k == half:
                    cluster.ask(replica_of(cluster, seed % 3), "CLUSTER", "FAILOVER")
                assert bits(feed_until_taken(store, batch)) == answer
            assert opened(settings).state_digest() == digest
    shutil.rmtree(folder)


def replica_of(cluster: RedisCluster, number: int) -> int:
    """Find a node that follows another just now."""
    for node in (number, number + 3):
        role = cluster.ask(node, "ROLE")
        if isinstance(role, list) and role[0] == b"slave":
            return node
    raise AssertionError("no replica")


@pytest.mark.reliability("D5", t1=1)
def test_shard_or_head_that_went_back_is_state_missing_never_a_value(
    cluster: RedisCluster,
) -> None:
    log = log_of(7, n_events=200)
    half = len(log) // 2
    for part in ("shard", "head", "flushed"):
        settings = settings_for(cluster)
        store = opened(settings)
        for batch in log[:half]:
            feed(store, batch)
        store.tend()
        shards = store._shards
        assert shards is not None
        shard = int(np.argmax(shards.numbers))
        slot = slot_of(f"{settings.name}:{shard:02d}".encode())
        if part == "head":
            (before,) = store.link.call([("HGETALL", store._keys.head)])
            for batch in log[half : half + 4]:
                feed(store, batch)
            store.tend()
            store.link.call([("HSET", store._keys.head, *before)])  # type: ignore[misc]
            store.link.call([("LTRIM", store._keys.prefix + b"changes", 0, half - 1)])
            store.link.call([("DEL", store._keys.prefix + b"intents")])
        elif part == "shard":
            mark = shards.epoch + b":1"
            store.link.call_slots([(slot, ("SET", shards._marks[shard], mark))])  # type: ignore[union-attr]
        else:
            names = shards.names()[store._keys.shard_prefix(shard)]
            store.link.call_slots([(slot, ("UNLINK", *names))])  # type: ignore[union-attr]
        with pytest.raises(SentinelError) as caught:
            go_on(store, log[half:])
        assert caught.value.code is ErrorCode.STATE_MISSING, part
        store.erase()
        memory = Engine(PLAN)
        for batch in log:
            assert bits(feed(store, batch)) == bits(feed(memory, batch))
        assert store.state_digest() == memory.state_digest()


def go_on(store: RedisStore, log: list[EventBatch]) -> None:
    """Feed, then open anew: whichever comes first must notice."""
    for batch in log:
        feed(store, batch)
    store.close()
    opened(store.settings)


def test_reader_sees_rows_that_are_not_in_their_shards_yet(cluster: RedisCluster) -> None:
    settings = settings_for(cluster)
    store = opened(settings)
    events = payments(40, 8)
    part = batch_of(Payment.schema, events.values, events.present)
    part.raw.positions[:] = np.arange(40)
    store.advance(part)
    assert store._shards is not None
    assert store._shards.unwritten
    card = PLAN.features.entities[0]
    keys = np.unique(part.column(card.key.name))
    reader = FeatureReader(PLAN, url=settings.url, name=settings.name, deadline_ms=10_000)
    assert reader._shards is not None
    early = reader._shards.peek([keys])
    store.tend()
    assert store._shards.unwritten == []
    assert reader._shards.peek([keys]) == early
    assert None not in early[0]
    reader.close()


@pytest.mark.parametrize("url", ["redis+cluster://", "http+cluster://a:1", "redis+cluster://a:b"])
def test_address_of_no_cluster_is_refused(url: str) -> None:
    with pytest.raises(SentinelError) as caught:
        parse_cluster(url)
    assert caught.value.code is ErrorCode.STORE_ADDRESS_INVALID
    assert caught.value.at == "address of Redis"
