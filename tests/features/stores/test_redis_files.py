"""The files of Redis cut short or damaged: it refuses, or state and positions go back together."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import TypeVar

import pytest
from redis_rig import (
    PLAN,
    close_all,
    closed_later,
    feed,
    feed_until_taken,
    log_of,
    undisturbed,
)

from sentinel.contract import EventBatch
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features.stores.redis.store import RedisSettings, RedisStore
from sentinel.testing import wait_until
from sentinel.testing.power_cut_disk import PowerCutDisk, why_not
from sentinel.testing.redis_server import RedisServer

Found = TypeVar("Found")


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """One that a test may kill."""
    with tempfile.TemporaryDirectory(prefix="redis-") as folder, RedisServer(Path(folder)) as redis:
        yield redis


def opened(url: str) -> RedisStore:
    return closed_later(RedisStore(PLAN, RedisSettings(url=url, name="files", deadline_ms=10_000)))


@pytest.mark.reliability("D4", "D6", t1=50, t2=500, t3=5000)
def test_log_of_redis_that_lost_its_end_moves_state_and_position_back_together(
    server: RedisServer, trials: Iterator[int]
) -> None:
    """Cut at any byte, as a power cut under ``everysec`` does: the source is read again there."""
    log = log_of(9, 300)
    digest, _ = undisturbed(log)
    store = opened(server.url)
    for batch in log[:-6]:
        feed(store, batch)
    server.kill()
    tail = next(iter((server.folder / "appendonlydir").glob("*.incr.aof")))
    whole = tail.read_bytes()
    rng = Random(9)
    for trial in trials:
        bound = (10, 3_000, len(whole) - 1000)[trial % 3]
        tail.write_bytes(whole[: len(whole) - rng.randint(1, bound)])
        server.start()
        resumed = opened(server.url)
        assert resumed.position("Payment") < 300
        if ("Payment", 0) in resumed.positions():
            with pytest.raises(SentinelError) as caught:
                feed_until_taken(store if trial == 0 else resumed, log[-1])
            assert caught.value.code is ErrorCode.SOURCE_GAP
        for batch in log:
            end = int(batch.raw.positions[-1]) if batch.n_rows else -1
            if end >= resumed.position(batch.raw.source):
                feed(resumed, batch)
        assert resumed.state_digest() == digest
        close_all()
        server.kill()
    tail.write_bytes(whole)
    server.start()


def unless_noticed(work: Callable[[], Found]) -> Found | None:
    """Return what comes of it, or None where the state is refused as damaged."""
    try:
        return work()
    except SentinelError as error:
        if error.code not in {ErrorCode.STATE_CORRUPT, ErrorCode.STATE_MISSING}:
            raise
        return None


@pytest.mark.reliability("D4", "D6", t1=40, t2=300, t3=2000)
def test_zeros_in_the_middle_of_the_log_of_redis_are_refused_or_noticed(
    server: RedisServer, trials: Iterator[int]
) -> None:
    """As a power cut leaves them on a disk that writes pages out of order: never a wrong value."""
    log = log_of(9, 300)
    digest, _ = undisturbed(log)
    store = opened(server.url)
    for batch in log:
        feed(store, batch)
    server.kill()
    tail = next(iter((server.folder / "appendonlydir").glob("*.incr.aof")))
    whole = tail.read_bytes()
    rng = Random(10)
    n_refused = n_noticed = 0
    for number, _ in enumerate(trials):
        n_zeros = rng.choice([512, 4096])
        # Near the end: what stands before is mostly written once more after it.
        at = (len(whole) - rng.randrange(n_zeros, len(whole) // 5)) // n_zeros * n_zeros
        if number == 0:  # within the last row of all
            n_zeros, at = 512, whole.rindex(b"}:r:") + 100
        tail.write_bytes(whole[:at] + bytes(n_zeros) + whole[at + n_zeros :])
        try:
            server.start()
        except RuntimeError:
            n_refused += 1
        else:
            found = unless_noticed(lambda: opened(server.url).state_digest())
            n_noticed += found is None
            assert found in {None, digest}
        close_all()
        server.kill()
    assert n_refused
    assert n_noticed
    tail.write_bytes(whole)
    server.start()
    assert opened(server.url).state_digest() == digest


with tempfile.TemporaryDirectory() as _folder:
    WHY_NO_FUSE = why_not(Path(_folder))


@pytest.mark.skipif(bool(WHY_NO_FUSE), reason=WHY_NO_FUSE or "FUSE can be mounted")
@pytest.mark.reliability("D4", t1=3, t2=20, t3=100)
def test_power_cut_under_redis_loses_an_end_that_is_read_again(
    tmp_path: Path, trials: Iterator[int]
) -> None:
    """On a file system that forgets what was not synced: a second of ``everysec``, or its part.

    Where a page is missing in the middle of it, Redis refuses to start, or its state is refused.
    """
    n_lost = 0
    with PowerCutDisk(tmp_path / "disk") as disk:
        for seed in trials:
            with tempfile.TemporaryDirectory(prefix="redis-") as folder:
                n_lost += power_cut(disk, Path(folder), seed)
    assert n_lost > 0, "a cut that loses nothing shows nothing"


def power_cut(disk: PowerCutDisk, folder: Path, seed: int) -> int:
    """Cut the power under a Redis that is written to; return how many events it had forgotten.

    0 where the hole was noticed: then the state is rebuilt.
    """
    rng, log = Random(seed), log_of(seed, 300)
    data = disk.folder / f"{seed}"
    data.mkdir()
    server = RedisServer(folder, {"dir": str(data), "appendfsync": "everysec"})
    server.start()
    for kept in (disk.folder, data, data / "appendonlydir"):  # they were made long ago
        handle = os.open(kept, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    store, n_fed = opened(server.url), rng.randrange(10, len(log) - 4)
    n_synced, synced = rng.randrange(2, n_fed), 0
    for number, batch in enumerate(log[:n_fed]):
        if number == n_synced:  # Redis answers this one when all is synced
            store.link.call([("CONFIG", "SET", "appendfsync", "always")])
        feed(store, batch)
        if number == n_synced:
            store.link.call([("CONFIG", "SET", "appendfsync", "everysec")])
            synced = store.position("Payment")
    held = store.position("Payment")
    disk.cut_after(0)
    server.kill()
    disk.restore(keep=rng.choice([0.0, 0.3, 0.7]), seed=seed)
    try:
        server.start()
        position = unless_noticed(lambda: go_on(server, log))
    except RuntimeError:  # it refuses a log that is no longer one
        position = None
    finally:
        close_all()
        server.kill()
    assert position is None or synced <= position <= held
    return 0 if position is None else held - position


def go_on(server: RedisServer, log: list[EventBatch]) -> int:
    """Feed the log from where the state is to its end; return where that was."""
    resumed = opened(server.url)
    position = resumed.position("Payment")
    for batch in log:
        end = int(batch.raw.positions[-1]) if batch.n_rows else -1
        if end >= resumed.position(batch.raw.source):
            feed(resumed, batch)
    assert resumed.state_digest() == undisturbed(log)[0]
    return position


@pytest.mark.reliability("D6", t1=10, t2=200, t3=2000)
def test_flipped_bit_in_the_base_file_of_redis_is_refused_or_changes_nothing(
    server: RedisServer, trials: Iterator[int]
) -> None:
    log = log_of(9, 200)
    digest, _ = undisturbed(log)
    store = opened(server.url)
    for batch in log:
        feed(store, batch)
    store.link.call([("BGREWRITEAOF",)])
    folder = server.folder / "appendonlydir"
    wait_until(lambda: [path.name[-10:] for path in folder.glob("*.base.rdb")] == ["2.base.rdb"])
    server.kill()
    base = next(iter(folder.glob("*.base.rdb")))
    whole = base.read_bytes()
    rng = Random(6)
    n_refused = 0
    for _ in trials:
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        base.write_bytes(damaged)
        try:
            server.start()
        except RuntimeError:
            n_refused += 1
        else:
            assert opened(server.url).state_digest() == digest
        close_all()
        server.kill()
    assert n_refused
    base.write_bytes(whole)
    server.start()
