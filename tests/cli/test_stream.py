"""`sentinel stream` as people run it: a real process against a broker, ended by SIGTERM."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.cli.conftest import wait_for

from sentinel.cli.exits import ExitCode
from sentinel.testing import wait_until
from sentinel.testing.mock_kafka import MockKafka

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def release(release_kit: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stream") / "release"
    release_kit.build_release(
        release_kit.good_candidate(),
        folder,
        created_at_ms=release_kit.NOW_MS,
        builder=release_kit.BUILDER,
    )
    return folder


@pytest.fixture(scope="module")
def mock() -> Iterator[MockKafka]:
    with MockKafka({"e": 2, "d": 2, "q": 1}) as started:
        yield started


def flags(release: Path, bootstrap: str, **other: str) -> tuple[str, ...]:
    named = {
        "events": "e",
        "decisions": "d",
        "quarantine": "q",
        "group": "g",
        "store": "embedded:state",
    }
    named |= {"bootstrap": bootstrap} | other
    pairs = [part for name, value in named.items() for part in (f"--{name}", value)]
    return ("stream", str(release), "--unapproved", *pairs)


def test_sigterm_ends_it_in_good_order_and_metrics_are_served(
    release_kit: ModuleType,
    stream_rig: ModuleType,
    release: Path,
    mock: MockKafka,
    tmp_path: Path,
) -> None:
    """Everything read is accounted for, a snapshot stands, and no secret is said."""
    cluster = stream_rig.Cluster(mock.bootstrap, mock)
    lines = release_kit.raw_events()[:500]
    messages = [{"value": line, "timestamp": json.loads(line)["paid_at"]} for line in lines]
    cluster.produce("e", [*messages, {"value": b"{}"}])
    (tmp_path / "secret").write_text("hunter2hunter2")
    (tmp_path / "secret").chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = (
        *flags(release, mock.bootstrap),
        *("--set", "sasl.password=@secret", "--set", "session.timeout.ms=6000", "--json"),
        *("--metrics-port", str(port)),
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "sentinel.cli", *command],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(process, lambda: len(cluster.ids("d")) >= 500)
        wait_for(process, lambda: is_at_rest(metrics_of(port)))
        metrics = metrics_of(port)
        process.send_signal(signal.SIGTERM)
        out, error = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate(timeout=30)
    assert process.returncode == ExitCode.OK, error
    document = json.loads(out)
    assert document["read"] == 501
    assert document["decided"] == document["decisions_sent"] == 500
    assert document["quarantined"] == document["quarantine_sent"] == 1
    assert sum(document["positions"].values()) == 501
    # Two partitions of so few events: one may be far ahead of the other, which is said as well.
    assert (document["standing"], document["troubles"][0]) == (
        "NOT APPROVED",
        "the release is NOT APPROVED",
    )
    assert 'sentinel_health{state="DEGRADED"} 1.0' in metrics
    assert 'approved="false"' in metrics
    assert list((tmp_path / "state").glob("snapshot-*"))
    assert "hunter2" not in out + error + metrics


def metrics_of(port: int) -> str:
    """Ask a worker for its metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def is_at_rest(metrics: str) -> bool:
    """Whether it holds both partitions, and nothing waits in either."""
    lags = [f'sentinel_stream_lag_events{{partition="{p}",topic="e"}} 0.0' for p in (0, 1)]
    return all(line in metrics for line in ("sentinel_stream_partitions 2.0", *lags))


def test_a_log_of_files_goes_the_same_way_with_a_decision_log_beside_it(
    release_kit: ModuleType, stream_rig: ModuleType, release: Path, tmp_path: Path
) -> None:
    """`--source file-log:` and `--log`: ended by SIGTERM, everything is in both."""
    cluster = stream_rig.FileCluster(tmp_path / "topics")
    events, decisions = cluster.topic("e", 2), cluster.topic("d", 2)
    refused = cluster.topic("q", 1)
    lines = release_kit.raw_events()[:300]
    messages = [{"value": line, "timestamp": json.loads(line)["paid_at"]} for line in lines]
    cluster.produce(events, [*messages, {"value": b"{}"}])
    command = (
        *("stream", str(release), "--unapproved", "--source", "file-log:topics"),
        *("--events", events, "--decisions", decisions, "--quarantine", refused),
        *("--store", "embedded:state", "--log", "log"),
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "sentinel.cli", *command],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(process, lambda: len(cluster.ids(decisions)) == 300)
        wait_for(process, lambda: len(cluster.read(refused)) == 1)
        process.send_signal(signal.SIGTERM)
        out, error = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate(timeout=30)
    assert process.returncode == ExitCode.OK, error
    shown = dict(line.split(None, 1) for line in out.splitlines() if len(line.split()) > 1)
    assert [int(shown[name]) for name in ("read", "decided", "quarantined")] == [301, 300, 1]
    assert shown["standing"].strip() == "NOT APPROVED"
    assert shown["troubles"].strip() == "the release is NOT APPROVED"
    assert "NOT APPROVED: reading" in error
    assert sum(len(batch) for batch in read_log(tmp_path / "log")) == 300
    assert len(cluster.read(refused)) == 1


def test_a_terminal_sees_how_far_it_is(
    release_kit: ModuleType, stream_rig: ModuleType, release: Path, tmp_path: Path
) -> None:
    """Events so far, how fast of late, how many wait; stdout stays what it is."""
    cluster = stream_rig.FileCluster(tmp_path / "topics")
    named = [cluster.topic(name, 1) for name in "edq"]
    cluster.produce(named[0], [{"value": line} for line in release_kit.raw_events()[:50]])
    topics = zip(("--events", "--decisions", "--quarantine"), named, strict=True)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "sentinel.cli", "stream", str(release), "--unapproved"]
        + [part for pair in topics for part in pair]
        + ["--source", "file-log:topics", "--store", "embedded:state"],
        cwd=tmp_path,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    shown = bytearray()
    reader = threading.Thread(target=read_to_its_end, args=(ours, shown))
    reader.start()
    try:
        wait_until(
            lambda: (
                (b"50 events, " in shown and b" events/s, 0 wait" in shown)
                or process.poll() is not None
            ),
            detail=lambda: bytes(shown),
        )
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate(timeout=30)
        reader.join()
        os.close(ours)
    assert b"50 events, " in shown, bytes(shown)
    assert process.returncode == ExitCode.OK, bytes(shown)
    assert "events/s" not in out


def read_to_its_end(terminal: int, shown: bytearray) -> None:
    """Read what a terminal shows; its end, when nobody writes to it any more, is an error (EIO)."""
    with contextlib.suppress(OSError):
        while part := os.read(terminal, 65_536):
            shown.extend(part)


def read_log(folder: Path) -> list[pa.Table]:
    """Read the segments of a decision log."""
    return [pq.read_table(path) for path in sorted(folder.rglob("*.parquet"))]


@pytest.mark.parametrize(
    ("flags_of", "at"),
    [
        (("--bootstrap", "b:1", "--source", "file-log:x"), "--source"),
        ((), "--bootstrap"),
        (("--source", "nonsense"), "--source"),
        (("--source", "file-log:x", "--set", "a=b"), "--set"),
        (("--source", "file-log:x", "--transactional-id", "a"), "--transactional-id"),
    ],
)
def test_one_source_is_named(run: Run, release: Path, flags_of: tuple[str, ...], at: str) -> None:
    named = ("--events", "e", "--decisions", "d", "--quarantine", "q", "--store", "embedded:s")
    ended = run("stream", str(release), "--unapproved", *named, *flags_of)
    assert ended.returncode == ExitCode.USAGE
    assert f"usage-invalid: {at}: " in ended.stderr


def test_no_password_in_an_address_is_shown(run: Run, release: Path) -> None:
    named = ("--events", "e", "--decisions", "d", "--quarantine", "q", "--store", "embedded:s")
    source = ("--source", "kafka://me:hunter2@broker:9092")
    ended = run("stream", str(release), "--unapproved", *named, *source)
    assert ended.returncode == ExitCode.USAGE
    assert "got kafka://…@broker:9092" in ended.stderr
    assert "hunter2" not in ended.stdout + ended.stderr


@pytest.mark.parametrize(
    "names",
    [("e", "e", "q"), ("e", "d", "e"), ("e", "d", "d")],
    ids=["decisions-are-events", "refusals-are-events", "refusals-are-decisions"],
)
def test_a_worker_does_not_read_what_it_writes(
    run: Run, release: Path, mock: MockKafka, names: tuple[str, str, str]
) -> None:
    events, decisions, quarantine = names
    ended = run(
        *flags(release, mock.bootstrap, events=events, decisions=decisions, quarantine=quarantine)
    )
    assert ended.returncode == ExitCode.USAGE
    assert "expected a topic of its own" in ended.stderr


def test_a_state_does_not_lie_among_topics(run: Run, release: Path, tmp_path: Path) -> None:
    for name in ("e", "d", "q"):
        run("file-log", "create", "topics", "--topic", name)
    named = ("--events", "e", "--decisions", "d", "--quarantine", "q")
    ended = run(
        "stream",
        str(release),
        "--unapproved",
        *named,
        "--source",
        "file-log:topics",
        "--store",
        "embedded:topics/state",
    )
    assert ended.returncode == ExitCode.USAGE
    assert "which holds topics" in ended.stderr
    assert not (tmp_path / "topics" / "state").exists()


def test_a_topic_that_does_not_exist_is_named(run: Run, release: Path, mock: MockKafka) -> None:
    ended = run(*flags(release, mock.bootstrap, decisions="nowhere"))
    assert ended.returncode == ExitCode.INPUT
    assert "nowhere" in ended.stderr


@pytest.mark.parametrize(
    ("more", "code", "exit_code"),
    [
        (("--set", "group.id=x"), "stream-setting-invalid", ExitCode.CONFIGURATION),
        (("--set", "no.such.name=x"), "stream-setting-invalid", ExitCode.CONFIGURATION),
        (("--set", "transactional.id=x"), "stream-setting-invalid", ExitCode.CONFIGURATION),
        (("--transactional-id", "no spaces"), "stream-setting-invalid", ExitCode.CONFIGURATION),
        (("--partition-key", "payment_id"), "stream-partition-key", ExitCode.USAGE),
        (("--partition-key", "nothing"), "stream-partition-key", ExitCode.USAGE),
        (("--durability", "wish"), "usage-invalid", ExitCode.USAGE),
    ],
)
def test_what_cannot_work_is_refused_at_start(
    run: Run, release: Path, mock: MockKafka, more: tuple[str, str], code: str, exit_code: ExitCode
) -> None:
    ended = run(*flags(release, mock.bootstrap), *more)
    assert ended.returncode == exit_code, ended.stderr
    assert code in ended.stderr


def test_a_broker_that_does_not_answer_is_an_error_and_not_a_wait_for_ever(
    run: Run, release: Path
) -> None:
    ended = run(*flags(release, "127.0.0.1:1"))
    assert ended.returncode == ExitCode.INPUT
    assert "stream-failed: d: expected an answer within 15 s" in ended.stderr
