"""`sentinel stream` with its state in Redis: Redis and the worker killed and frozen, for real."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from sentinel.contract import RawBatch
from sentinel.contract.decoder import Decoder
from sentinel.features import Engine
from sentinel.features.stores.redis.store import RedisSettings, RedisStore
from sentinel.release import load_release
from sentinel.testing import wait_until
from sentinel.testing.mock_kafka import MockKafka
from sentinel.testing.redis_server import RedisServer

N_EVENTS = 400


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    folder = Path(tempfile.mkdtemp(prefix="redis-"))
    with RedisServer(folder, {"appendfsync": "always"}) as running:
        yield running
    shutil.rmtree(folder)


def wait_alive(holds: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    def is_alive() -> bool:
        return process.poll() is None

    wait_until(lambda: holds() or not is_alive(), every_s=0.1)
    assert is_alive(), process.communicate()


@pytest.mark.reliability("D1", "D2", t1=1, t2=10, t3=50)
def test_stream_goes_on_on_stale_defaults_and_its_state_misses_nothing(
    redis: RedisServer,
    release_kit: ModuleType,
    stream_rig: ModuleType,
    tmp_path: Path,
    trials: Iterator[int],
) -> None:
    """Redis is killed, then frozen, then the worker is killed: each event is applied once."""
    release = tmp_path / "release"
    release_kit.build_release(
        release_kit.good_candidate(),
        release,
        created_at_ms=release_kit.NOW_MS,
        builder=release_kit.BUILDER,
    )
    lines = release_kit.raw_events()[:N_EVENTS]
    plan = load_release(release, None, now_ms=release_kit.NOW_MS, allow_unapproved=True).parts.plan
    for trial in trials:
        with MockKafka({"e": 1, "d": 1, "q": 1}) as mock:
            cluster = stream_rig.Cluster(mock.bootstrap, mock)
            (tmp_path / "store").touch(mode=0o600)
            (tmp_path / "store").write_text(f"{redis.url}?name=stream-{trial}\n")
            folder = tmp_path / f"work-{trial}"
            folder.mkdir()
            carry(redis, cluster, lines, release, folder)
        settings = RedisSettings(url=redis.url, name=f"stream-{trial}", deadline_ms=10_000)
        store = RedisStore(plan, settings)
        memory = Engine(plan)
        raw = RawBatch.from_events(lines, source="e", first_position=0)
        memory.advance(Decoder(plan.features.events).decode(raw).events)
        assert store.position("e") == N_EVENTS
        assert store.counts().events == memory.counts().events
        assert store.state_digest() == memory.state_digest()
        store.close()


def carry(
    redis: RedisServer, cluster: object, lines: list[bytes], release: Path, folder: Path
) -> None:
    """Feed a quarter at a time, with a fault before each of the later three."""
    parts = [lines[at : at + N_EVENTS // 4] for at in range(0, N_EVENTS, N_EVENTS // 4)]
    process = start(cluster, release, folder)
    try:
        produce(cluster, parts[0])
        wait_alive(lambda: len(cluster.ids("d")) >= 100, process)  # type: ignore[attr-defined]
        redis.kill()
        produce(cluster, parts[1])
        wait_alive(lambda: len(cluster.ids("d")) >= 200, process)  # type: ignore[attr-defined]
        redis.start()
        redis.send(signal.SIGSTOP)
        produce(cluster, parts[2])
        wait_alive(lambda: len(cluster.ids("d")) >= 300, process)  # type: ignore[attr-defined]
        process.kill()
        process.communicate(timeout=30)
        redis.send(signal.SIGCONT)
        process = start(cluster, release, folder)
        produce(cluster, parts[3])
        wait_alive(lambda: len(set(cluster.ids("d"))) >= N_EVENTS, process)  # type: ignore[attr-defined]
        process.send_signal(signal.SIGTERM)
        out, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
        assert json.loads(out)["positions"] == {"e/0": N_EVENTS}
    finally:
        process.kill()
        process.communicate(timeout=30)


def produce(cluster: object, lines: list[bytes]) -> None:
    messages = [{"value": line, "timestamp": json.loads(line)["paid_at"]} for line in lines]
    cluster.produce("e", messages)  # type: ignore[attr-defined]


def start(cluster: object, release: Path, folder: Path) -> subprocess.Popen[str]:
    command = (
        *("stream", str(release), "--unapproved", "--bootstrap", cluster.bootstrap),  # type: ignore[attr-defined]
        *("--events", "e", "--decisions", "d", "--quarantine", "q", "--group", "g"),
        *("--store", "@../store", "--set", "session.timeout.ms=6000", "--json"),
    )
    return subprocess.Popen(
        [sys.executable, "-m", "sentinel.cli", *command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
