"""A log continues after its last whole segment, wherever its process was stopped."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.monitoring import (
    DecisionLog,
    FullPolicy,
    LogContext,
    LogHead,
    LogRecords,
    LogSettings,
    read_decisions,
    verify_chain,
)
from sentinel.monitoring.decision_log import LEDGER_NAME
from sentinel.monitoring.log_segments import HEAD_NAME, find_head, read_head, segment_paths

Make = Callable[..., LogRecords]


def _write(folder: Path, context: LogContext, records: LogRecords) -> DecisionLog:
    with DecisionLog(folder, context, LogSettings()) as log:
        log.append(records)
    return log


@pytest.mark.parametrize("content", [b"", b"{}x", b'{"segment": "one"}', b"\xff", b"[" * 2000])
def test_a_head_that_is_none_is_damage(tmp_path: Path, content: bytes) -> None:
    """It is not taken for an empty log."""
    (tmp_path / HEAD_NAME).write_bytes(content)
    with pytest.raises(SentinelError) as error:
        read_head(tmp_path)
    assert error.value.code is ErrorCode.DECISION_LOG_DAMAGED
    assert error.value.at == str(tmp_path / HEAD_NAME)


def test_an_empty_folder_is_an_empty_log(tmp_path: Path) -> None:
    """Nothing, from the start."""
    assert find_head(tmp_path) == (LogHead(), None)


@pytest.mark.parametrize("n_killed", [1, 2, 3])
def test_segments_written_just_before_kills_are_taken(
    tmp_path: Path, context: LogContext, make_records: Make, n_killed: int
) -> None:
    """Each process leaves the head one segment behind, and the next one goes on from there."""
    _write(tmp_path, context, make_records(10))
    for place in range(n_killed):
        with DecisionLog(tmp_path, context, LogSettings()) as log:
            head_at_start = (tmp_path / HEAD_NAME).read_bytes()
            log.append(make_records(10, first=10 + 10 * place))
        (tmp_path / HEAD_NAME).write_bytes(head_at_start)
    assert verify_chain(tmp_path).first_bad is None
    n_records = 10 * (1 + n_killed)
    log = _write(tmp_path, context, make_records(10, first=n_records))
    assert (log.counts().written, log.counts().lost) == (n_records + 10, 0)
    assert verify_chain(tmp_path).n_records == n_records + 10


def test_a_log_without_its_head_or_counts_rebuilds_them(
    tmp_path: Path, context: LogContext, make_records: Make
) -> None:
    """The last segment says all that is needed."""
    for first in (0, 10):
        _write(tmp_path, context, make_records(10, first=first))
    (tmp_path / HEAD_NAME).unlink()
    (tmp_path / LEDGER_NAME).unlink()
    log = _write(tmp_path, context, make_records(10, first=20))
    counts = log.counts()
    assert (counts.decided, counts.written, counts.lost, counts.n_segments) == (30, 30, 0, 3)
    assert verify_chain(tmp_path).n_records == 30


def test_a_spilled_file_that_is_in_a_segment_already_is_not_taken_twice(
    tmp_path: Path, context: LogContext, make_records: Make
) -> None:
    """Killed after the segment was written and before the file was removed."""
    settings = LogSettings(
        policy=FullPolicy.SPILL, queue_records_max=10, segment_records_max=20, segment_s_max=60
    )
    with DecisionLog(tmp_path, context, settings) as log:
        log.append(make_records(10))
        log.append(make_records(10, first=10))
    (spilled,) = (tmp_path / "spill").iterdir()
    kept = tmp_path / "kept"
    shutil.copy(spilled, kept)
    with DecisionLog(tmp_path, context, replace(settings, segment_s_max=0.01)) as log:
        while log.counts().ingested < 10:
            log.flush()
    shutil.copy(kept, spilled)
    with DecisionLog(tmp_path, context, settings) as log:
        assert log.counts().is_balanced
        assert log.flush()
    assert list((tmp_path / "spill").iterdir()) == []
    assert read_decisions(tmp_path)["event_id"].to_pylist() == [f"event-{i}" for i in range(20)]


def test_files_of_other_names_are_left_alone(
    tmp_path: Path, context: LogContext, make_records: Make
) -> None:
    """A note beside the segments is no segment."""
    (tmp_path / "README").write_text("ours")
    (tmp_path / "decisions-1.parquet").write_text("not ours")
    _write(tmp_path, context, make_records(3))
    assert [number for number, _ in segment_paths(tmp_path)] == [1]
    assert (tmp_path / "README").exists()
