"""Every decision is counted and written, or its loss is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from sentinel.core import limits
from sentinel.core.configuration import Configuration
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.monitoring import (
    DecisionLog,
    FullPolicy,
    LogContext,
    LogRecords,
    LogSettings,
    read_decisions,
    verify_chain,
)
from sentinel.monitoring.log_segments import read_metadata, segment_paths
from sentinel.testing import can_mount, file_size_limit, small_disk, wait_until

Make = Callable[..., LogRecords]
QUICK = LogSettings(
    queue_records_max=300, segment_records_max=100, segment_s_max=0.01, wait_s_max=0.2, retry_s=0.01
)
needs_mount = pytest.mark.skipif(not can_mount(), reason="this user may not mount a disk")


def test_records_of_codes_without_a_name_are_refused(
    tmp_path: Path, context: LogContext, make_records: Make
) -> None:
    """A code that the context cannot name is a defect of the caller."""
    records = make_records(3)
    wrong = replace(records, reason=np.array([0, 9, 0], dtype=np.uint8))
    with DecisionLog(tmp_path, context, QUICK) as log:
        with pytest.raises(ValueError, match="reason"):
            log.append(wrong)
        assert log.counts().decided == 0


def test_a_score_that_is_not_finite_never_enters(
    tmp_path: Path, context: LogContext, make_records: Make
) -> None:
    """NaN as a score is refused unless the decision is held."""
    records = make_records(3)
    wrong = replace(records, score=np.full(3, np.nan), is_held=np.array([True, True, False]))
    with DecisionLog(tmp_path, context, QUICK) as log, pytest.raises(ValueError, match="score"):
        log.append(wrong)


def test_a_second_writer_is_refused(tmp_path: Path, context: LogContext) -> None:
    """One folder has one writer at a time."""
    with DecisionLog(tmp_path, context, QUICK), pytest.raises(SentinelError) as error:
        DecisionLog(tmp_path, context, QUICK)
    assert error.value.code is ErrorCode.DECISION_LOG_BUSY
    assert error.value.at == str(tmp_path)
    DecisionLog(tmp_path, context, QUICK).close()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path, context: LogContext) -> None:
    """A file stands where the folder should be."""
    (tmp_path / "taken").write_text("x")
    with pytest.raises(SentinelError) as error:
        DecisionLog(tmp_path / "taken", context, QUICK)
    assert error.value.code is ErrorCode.FILE_UNWRITABLE


def test_a_log_whose_counts_are_something_else_does_not_start(
    tmp_path: Path, context: LogContext
) -> None:
    """Foreign bytes are not overwritten."""
    (tmp_path / "counts.bin").write_bytes(b"something else, and longer than it ought to be" * 9)
    with pytest.raises(SentinelError) as error:
        DecisionLog(tmp_path, context, QUICK)
    assert error.value.code is ErrorCode.DECISION_LOG_DAMAGED


def test_everything_appended_is_read_back_in_order(
    tmp_path: Path, context: LogContext, make_records: Make
) -> None:
    """Batches of all sizes, the empty one included, end in numbered records."""
    with DecisionLog(tmp_path, context, QUICK) as log:
        first = 0
        for n in (0, 1, 99, 100, 101, 250):
            log.append(make_records(n, first=first))
            first += n
        assert log.flush()
        assert log.counts().queued == 0
    counts = log.counts()
    assert (counts.decided, counts.written, counts.is_balanced) == (551, 551, True)
    table = read_decisions(tmp_path)
    assert table["record"].to_pylist() == list(range(551))
    assert table["event_id"].to_pylist() == [f"event-{i}" for i in range(551)]
    assert verify_chain(tmp_path).n_records == 551


def test_a_restart_continues_numbers_counts_and_chain(
    tmp_path: Path, context: LogContext, make_records: Make
) -> None:
    """A second process takes the log over where the first one ended."""
    for run in range(3):
        with DecisionLog(tmp_path, context, QUICK) as log:
            log.append(make_records(50, first=run * 50))
    counts = log.counts()
    assert (counts.decided, counts.written, counts.lost) == (150, 150, 0)
    assert read_decisions(tmp_path)["record"].to_pylist() == list(range(150))
    assert verify_chain(tmp_path).first_bad is None


def test_a_segment_is_written_when_it_is_old_enough(
    tmp_path: Path, context: LogContext, make_records: Make
) -> None:
    """Little traffic must not keep decisions in memory for ever."""
    with DecisionLog(tmp_path, context, replace(QUICK, segment_s_max=0.05)) as log:
        log.append(make_records(1))
        wait_until(lambda: log.counts().written == 1)


def test_what_writes_segments_is_loaded_before_there_is_one(tmp_path: Path) -> None:
    """The first segment would stop scoring for as long as that takes."""
    code = (
        "import pathlib, sys, time\n"
        "from sentinel.monitoring.decision_log import DecisionLog, LogSettings\n"
        "from sentinel.monitoring.log_records import LogContext\n"
        "context = LogContext('r', 'd', 'e', 'p', {}, ('f',), 'h', ('a',), ('c',), ('n',))\n"
        "assert 'pyarrow' not in sys.modules\n"
        f"with DecisionLog(pathlib.Path({str(tmp_path)!r}), context, LogSettings()):\n"
        "    end_s = time.monotonic() + 60\n"
        "    while 'pyarrow.parquet' not in sys.modules and time.monotonic() < end_s:\n"
        "        time.sleep(0.01)\n"
        "print('pyarrow.parquet' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_a_large_segment_is_written_in_pieces_with_a_rest_after_each(
    tmp_path: Path, context: LogContext, make_records: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decisions that share the writer's core are made in between; who flushes waits for no rest."""
    rests: list[float] = []
    monkeypatch.setattr("sentinel.monitoring.decision_log._BLOCK_RECORDS", 100)
    clock = SimpleNamespace(sleep=rests.append, thread_time=time.thread_time)
    monkeypatch.setattr("sentinel.core.rests.time", clock)
    settings = LogSettings(segment_records_max=400, segment_s_max=60.0)
    with DecisionLog(tmp_path, context, settings) as log:
        for place in range(4):
            log.append(make_records(100, first=100 * place))
        wait_until(lambda: log.counts().written == 400)
        assert len(rests) >= 3 * 4
        assert all(0 <= rest <= limits.REST_S_MAX for rest in rests)
        n_rests = len(rests)
        log.append(make_records(100, first=400))
        assert log.flush()
        assert len(rests) == n_rests
    ((_, first), _) = segment_paths(tmp_path)
    assert pq.read_metadata(first).num_row_groups == 4
    assert verify_chain(tmp_path).n_records == 500


def test_a_log_whose_last_segment_was_replaced_does_not_continue(
    tmp_path: Path, context: LogContext, make_records: Make
) -> None:
    """Going on would bury the break under new records."""
    with DecisionLog(tmp_path, context, QUICK) as log:
        log.append(make_records(10))
        log.flush()
        log.append(make_records(10, first=10))
    (_, first), (_, last) = segment_paths(tmp_path)
    last.write_bytes(first.read_bytes())
    with pytest.raises(SentinelError) as error:
        DecisionLog(tmp_path, context, QUICK)
    assert error.value.code is ErrorCode.DECISION_LOG_DAMAGED
    assert error.value.at == str(last)


def test_segments_removed_from_the_front_are_retention(
    tmp_path: Path, context: LogContext, make_records: Make
) -> None:
    """The user may remove the oldest, even all; numbers and chain go on."""
    for run in range(3):
        with DecisionLog(tmp_path, context, QUICK) as log:
            log.append(make_records(10, first=run * 10))
        for _, path in segment_paths(tmp_path):
            path.unlink()
    with DecisionLog(tmp_path, context, QUICK) as log:
        log.append(make_records(10, first=30))
    assert read_decisions(tmp_path)["record"].to_pylist() == list(range(30, 40))
    assert verify_chain(tmp_path).first_bad is None
    assert log.counts().written == 40


@pytest.mark.parametrize("policy", list(FullPolicy))
@pytest.mark.parametrize("seed", range(7))
def test_counts_balance_to_the_unit_under_every_policy(
    tmp_path: Path, context: LogContext, make_records: Make, policy: FullPolicy, seed: int
) -> None:
    """J2: several threads fill a small queue; every moment's count balances."""
    rng = np.random.default_rng(seed)
    settings = replace(QUICK, policy=policy, wait_s_max=30, queue_records_max=120)
    sizes = rng.integers(1, 130, 24).tolist()
    is_done = threading.Event()
    is_always_balanced = []

    def watch() -> None:
        while not is_done.is_set():
            is_always_balanced.append(log.counts().is_balanced)
            time.sleep(0.001)

    with DecisionLog(tmp_path, context, settings) as log:
        watcher = threading.Thread(target=watch)
        watcher.start()
        callers = [
            threading.Thread(
                target=lambda part: [log.append(make_records(n)) for n in part],
                args=(sizes[caller::3],),
            )
            for caller in range(3)
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        is_done.set()
        watcher.join()
    counts = log.counts()
    assert all(is_always_balanced)
    assert counts.decided == sum(sizes)
    assert counts.decided == counts.written + counts.spilled + counts.dropped
    in_segments = read_decisions(tmp_path).num_rows
    assert in_segments == counts.written + counts.ingested
    assert verify_chain(tmp_path).first_bad is None
    if policy is not FullPolicy.DROP:
        assert counts.dropped == 0


def test_block_says_so_after_its_time_and_counts_nothing(
    tmp_path: Path, context: LogContext, make_records: Make
) -> None:
    """A disk that takes no segment stops a log that may lose nothing; then it goes on."""
    records = make_records(150)
    with DecisionLog(tmp_path, context, QUICK) as log:
        with file_size_limit(256):
            log.append(records)
            log.append(records)
            with pytest.raises(SentinelError) as error:
                log.append(records)
            counts = log.counts()
            assert (counts.decided, counts.queued) == (300, 300)
            assert counts.n_write_errors > 0
            assert counts.last_error
        assert error.value.code is ErrorCode.DECISION_LOG_BLOCKED
        assert error.value.at == str(tmp_path)
        log.append(records)
    assert log.counts().written == 450
    assert log.counts().last_error == ""


def test_drop_goes_on_when_the_disk_takes_nothing_and_recovers(
    tmp_path: Path, context: LogContext, make_records: Make
) -> None:
    """Scoring never waits; what found no room is counted to the unit."""
    settings = replace(QUICK, policy=FullPolicy.DROP)
    with DecisionLog(tmp_path, context, settings) as log:
        with file_size_limit(256):
            for i in range(10):
                log.append(make_records(100, first=100 * i))
            counts = log.counts()
            assert (counts.queued, counts.dropped, counts.written) == (300, 700, 0)
        wait_until(lambda: log.counts().written == 300)
    ids = read_decisions(tmp_path)["event_id"].to_pylist()
    assert ids == [f"event-{i}" for i in range(300)]
    assert list(tmp_path.glob(".*")) == []


@needs_mount
@pytest.mark.parametrize("policy", [FullPolicy.SPILL, FullPolicy.DROP])
def test_a_full_disk_keeps_the_counts_right_and_recovers_without_restart(
    tmp_path: Path, context: LogContext, make_records: Make, policy: FullPolicy
) -> None:
    """I3: a real disk of 1 MiB fills up under the log, and is given room again."""
    disk, spill = tmp_path / "disk", tmp_path / "spill"
    disk.mkdir()
    settings = replace(QUICK, policy=policy, spill_folder=spill)
    with small_disk(disk, n_bytes=1 << 20), DecisionLog(disk / "log", context, settings) as log:
        log.append(make_records(100))
        wait_until(lambda: log.counts().written == 100)
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass
        for i in range(1, 10):
            log.append(make_records(100, first=100 * i))
        wait_until(lambda: "No space left" in log.counts().last_error)
        counts = log.counts()
        assert counts.is_balanced
        assert (counts.decided, counts.written) == (1000, 100)
        assert counts.spilled + counts.dropped == 600
        assert (counts.spilled > 0) == (policy is FullPolicy.SPILL)
        filler.unlink()
        wait_until(lambda: log.counts().written == 400)
        wait_until(lambda: log.counts().ingested == log.counts().spilled)
        ids = read_decisions(disk / "log")["event_id"].to_pylist()
        assert len(ids) == len(set(ids)) == 400 + log.counts().spilled
        assert verify_chain(disk / "log").first_bad is None
    assert list(spill.iterdir()) == []


def test_spilled_records_keep_what_they_were_decided_with(
    tmp_path: Path, context: LogContext, make_records: Make
) -> None:
    """A later process with another release takes them in under their own."""
    settings = replace(
        QUICK,
        policy=FullPolicy.SPILL,
        queue_records_max=10,
        segment_s_max=60,
        segment_records_max=20,
    )
    log = DecisionLog(tmp_path, context, settings)
    log.append(make_records(10))
    log.append(make_records(5, first=10))
    log.append(make_records(5, first=15))
    assert log.counts().spilled == 10
    log.close()
    with DecisionLog(tmp_path, replace(context, release="cards 3.0.0"), QUICK) as after:
        wait_until(lambda: after.counts().ingested == 10)
        after.append(make_records(1, first=20))
    counts = after.counts()
    assert (counts.decided, counts.written, counts.spilled, counts.lost) == (21, 11, 10, 0)
    assert read_decisions(tmp_path).num_rows == 21
    assert verify_chain(tmp_path).first_bad is None
    releases = [read_metadata(path).context.release for _, path in segment_paths(tmp_path)]
    assert releases == ["cards 2.5.0", "cards 2.5.0", "cards 3.0.0"]


def test_a_spilled_file_that_cannot_be_read_is_set_aside_and_said(
    tmp_path: Path, context: LogContext, make_records: Make
) -> None:
    """One damaged file does not stop the others, and is not deleted."""
    settings = replace(
        QUICK,
        policy=FullPolicy.SPILL,
        queue_records_max=10,
        segment_s_max=60,
        segment_records_max=20,
    )
    with DecisionLog(tmp_path, context, settings) as log:
        for i in range(3):
            log.append(make_records(10, first=10 * i))
    first, _ = sorted((tmp_path / "spill").iterdir())
    first.write_bytes(b"not an arrow file")
    with DecisionLog(tmp_path, context, QUICK) as after:
        wait_until(lambda: after.counts().ingested == 10)
    assert [path.suffix for path in (tmp_path / "spill").iterdir()] == [".damaged"]


def test_a_spill_folder_has_a_bound(
    tmp_path: Path, context: LogContext, make_records: Make
) -> None:
    """What does not fit under it is dropped and counted."""
    settings = replace(
        QUICK,
        policy=FullPolicy.SPILL,
        queue_records_max=10,
        segment_s_max=60,
        segment_records_max=20,
        spill_bytes_max=10,
    )
    with DecisionLog(tmp_path, context, settings) as log:
        log.append(make_records(10))
        log.append(make_records(10, first=10))
        counts = log.counts()
    assert (counts.spilled, counts.dropped) == (0, 10)


def test_closing_on_a_full_disk_ends_and_counts_the_rest(
    tmp_path: Path, context: LogContext, make_records: Make
) -> None:
    """A worker that ends must end, and say what it leaves behind."""
    log = DecisionLog(tmp_path, context, QUICK)
    with file_size_limit(256):
        log.append(make_records(120))
        log.close()
    counts = log.counts()
    assert (counts.dropped, counts.queued, counts.is_balanced) == (120, 0, True)
    with pytest.raises(ValueError, match="closed"):
        log.append(make_records(1))


_WRITER = textwrap.dedent(
    """
    import os, sys
    from pathlib import Path
    import numpy as np
    import pyarrow.parquet
    from sentinel.monitoring import DecisionLog, FullPolicy, LogContext, LogRecords, LogSettings
    from sentinel.monitoring.log_block import to_arrow
    from sentinel.monitoring.log_records import chain, feature_hashes

    context = LogContext("r", "d", "e", "CPU", {}, ("a", "b"), "c", ("approve",), ("champion",),
                         ("ok",))

    def records(n):
        zeros = np.zeros(n, dtype=np.uint8)
        features = np.random.default_rng(n).normal(size=(n, 2)).astype(np.float32)
        spans = np.stack([np.zeros(n, dtype=np.int64), np.full(n, 2)], axis=1)
        return LogRecords(np.frombuffer(b"id", dtype=np.uint8), spans, np.arange(n), np.arange(n),
                          np.full(n, 0.5), zeros.astype(bool), zeros, zeros, zeros, features,
                          np.zeros((n, 2), dtype=np.uint8), feature_hashes(features), "s", 0,
                          np.arange(n))

    def work(folder, policy):
        settings = LogSettings(policy=FullPolicy(policy), queue_records_max=64,
                               segment_records_max=32, segment_s_max=0.001)
        log = DecisionLog(Path(folder), context, settings)
        n, first = 0, 1
        while True:
            n = n % 20 + 1
            log.append(records(n))
            if log.counts().written and n == 20:
                os.write(1, b"writing\\n" * first)
                first = 0

    # Compiled before anything is killed.
    chain(to_arrow(records(1), context), context, first_record=0, previous=0)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                work(*line.split())
            finally:
                os._exit(1)
        print(pid, flush=True)
        os.waitpid(pid, 0)
        print("gone", flush=True)
    """
)


@pytest.fixture
def memory_folder(tmp_path: Path) -> Iterator[Path]:
    """Give a folder in memory where there is one: a kill needs no disk, and syncs cost time."""
    memory = Path("/dev", "shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def test_killed_writers_leave_whole_segments_and_their_loss_is_counted(
    memory_folder: Path, context: LogContext
) -> None:
    """J1: 40 processes are killed while they write; chain and counts hold after each."""
    tmp_path = memory_folder
    rng = np.random.default_rng(7)
    lost = 0
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        for kill in range(40):
            policy = ("block", "spill", "drop")[kill % 3]
            server.stdin.write(f"{tmp_path} {policy}\n")
            server.stdin.flush()
            pid = int(server.stdout.readline())
            assert server.stdout.readline() == "writing\n"
            time.sleep(float(rng.uniform(0, 0.05)))
            os.kill(pid, signal.SIGKILL)
            assert server.stdout.readline() == "gone\n"
            with DecisionLog(tmp_path, context, QUICK) as log:
                counts = log.counts()
                assert counts.is_balanced
                assert counts.queued == 0
                assert counts.lost >= lost
                lost = counts.lost
            assert not list(tmp_path.glob(".*"))
            assert not list((tmp_path / "spill").glob(".*"))
    final = log.counts()
    assert final.decided == final.written + final.spilled + final.dropped + final.lost
    assert read_decisions(tmp_path).num_rows == final.written + final.ingested
    assert verify_chain(tmp_path).first_bad is None
    assert final.lost > 0


def test_bounds_come_from_the_configuration(tmp_path: Path) -> None:
    """Each setting of the log reaches its place."""
    configuration = Configuration(
        decision_log_queue_records=7,
        decision_log_segment_records=6,
        decision_log_segment_s=5.0,
        decision_log_wait_s=4.0,
        decision_log_spill_folder=str(tmp_path),
        decision_log_spill_bytes=3,
    )
    settings = LogSettings.from_configuration(configuration, policy=FullPolicy.SPILL)
    assert settings == LogSettings(
        policy=FullPolicy.SPILL,
        queue_records_max=7,
        segment_records_max=6,
        segment_s_max=5.0,
        wait_s_max=4.0,
        spill_folder=tmp_path,
        spill_bytes_max=3,
    )
