"""Looking at a state folder tells what is there and every fault, and changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features.layout import R_ARENA, R_COUNT, R_ENTITIES, R_EVENTS, R_LIVING, R_NOW
from sentinel.features.stores.embedded.inspection import look_at_store
from sentinel.features.stores.embedded.snapshot import Snapshot, write_snapshot
from sentinel.features.stores.embedded.write_ahead_log import (
    HEAD_BYTES,
    MARKER,
    WriteAheadLog,
    segment_name,
    segment_paths,
)
from sentinel.testing.memory_disk import MemoryDisk

FOLDER = Path("state")
IDENTITY = bytes(range(32))


def folder_of_state(*, syncs: bool = False) -> MemoryDisk:
    disk = MemoryDisk()
    disk.make_folder(FOLDER)
    registers = np.zeros(R_COUNT, dtype=np.int64)
    registers[[R_ARENA, R_ENTITIES, R_LIVING]] = (100, 5, 4)
    registers[[R_EVENTS, R_NOW]] = (9, 1_500_000_000_000)
    values = {"position/2/payments": 10, "n_feedback_duplicates": 0}
    arrays = {"registers": registers, "places": np.zeros((16, 2), dtype=np.int64)}
    write_snapshot(disk, FOLDER, Snapshot(IDENTITY, 2, 1, values, arrays))
    log = WriteAheadLog(disk, FOLDER, identity=IDENTITY, syncs=syncs)
    for i in range(3):
        log.append(1, bytes([i]) * 30)
        log.commit()
    return disk


def test_report_names_entities_bytes_positions_and_records() -> None:
    report = look_at_store(FOLDER, folder_of_state())
    (snapshot,) = report.snapshots
    assert (snapshot.n_entities, snapshot.n_rows, snapshot.n_events) == (4, 5, 9)
    assert snapshot.bytes_per_entity == (100 * 8 + 16 * 16) / 4, "rows and index"
    assert snapshot.positions == {"payments/2": 10}
    (segment,) = report.segments
    assert (segment.first, segment.last) == (1, 3)
    assert report.faults == ()


def change(disk: MemoryDisk, name: str, content: bytes) -> None:
    disk.remove(FOLDER / name)
    disk.create(FOLDER / name).write(content)


def test_every_damaged_file_is_named() -> None:
    disk = folder_of_state(syncs=True)
    for name in disk.names(FOLDER):
        content = disk.read(FOLDER / name)
        middle = len(content) // 2
        change(disk, name, content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    report = look_at_store(FOLDER, disk)
    assert len(report.faults) == 2
    for part in (*report.snapshots, *report.segments):
        assert any(part.name in fault for fault in report.faults)
        assert part.n_bytes > 100, "damaged, and no smaller"


@pytest.mark.parametrize("n_lost", [1, 30, 10_000])
def test_an_end_that_the_next_start_cuts_off_is_no_damage(n_lost: int) -> None:
    """What is looked at and what is recovered are judged by one rule."""
    disk = folder_of_state(syncs=True)
    (name,) = (name for name in disk.names(FOLDER) if name.startswith("wal-"))
    left = disk.read(FOLDER / name)[:-n_lost] or disk.read(FOLDER / name)[:10]
    change(disk, name, left)
    report = look_at_store(FOLDER, disk)
    assert report.faults == ()
    log = WriteAheadLog(disk, FOLDER, identity=IDENTITY)
    assert len(list(log.recover(after=0))) == report.segments[0].last
    assert log.torn_tail is not None
    assert log.torn_tail.n_bytes == report.n_bytes_torn > 0
    assert look_at_store(FOLDER, disk).n_bytes_torn == 0


def test_an_unfinished_record_before_another_segment_is_damage() -> None:
    disk = folder_of_state(syncs=True)
    (name,) = (name for name in disk.names(FOLDER) if name.startswith("wal-"))
    log = WriteAheadLog(disk, FOLDER, identity=IDENTITY)
    assert len(list(log.recover(after=0))) == 3
    log.append(1, b"more")
    log.commit()
    change(disk, name, disk.read(FOLDER / name)[:-1])
    assert [name in fault for fault in look_at_store(FOLDER, disk).faults] == [True]


def gapped(lost: tuple[int, ...], *, snapshot_at: int) -> MemoryDisk:
    """Three segments of two records each, of which some are lost by their first record."""
    disk = folder_of_state() if snapshot_at else MemoryDisk()
    disk.make_folder(FOLDER)
    for path in segment_paths(disk, FOLDER):
        disk.remove(path)
    log = WriteAheadLog(disk, FOLDER, identity=IDENTITY)
    for i in range(6):
        log.append(1, bytes([i]) * 30)
        log.commit()
        if i % 2:
            log.rotate()
    for first in lost:
        disk.remove(FOLDER / segment_name(first))
    return disk


@pytest.mark.parametrize("is_unfinished", [False, True])
@pytest.mark.parametrize(
    ("lost", "snapshot_at", "named"),
    [
        ((), 0, None),
        ((), 2, None),
        ((1,), 2, None),
        ((1,), 0, 3),
        ((3,), 0, 5),
        ((3,), 2, 5),
        ((1, 3), 2, 5),
    ],
)
def test_records_that_are_missing_are_named_as_a_recovery_names_them(
    lost: tuple[int, ...], snapshot_at: int, named: int | None, *, is_unfinished: bool
) -> None:
    """In the middle, or behind the newest snapshot; the last segment whole or just begun."""
    disk = gapped(lost, snapshot_at=snapshot_at)
    if is_unfinished:
        last = segment_name(5)
        change(disk, last, disk.read(FOLDER / last)[:10])
    report = look_at_store(FOLDER, disk)
    log = WriteAheadLog(disk, FOLDER, identity=IDENTITY)
    if named is None:
        assert report.faults == ()
        n_left = 4 if is_unfinished else 6
        assert len(list(log.recover(after=snapshot_at))) == n_left - snapshot_at
        return
    with pytest.raises(SentinelError) as caught:
        list(log.recover(after=snapshot_at))
    assert caught.value.code is ErrorCode.STATE_GAP
    assert caught.value.at == segment_name(named)
    assert report.faults == (str(caught.value),)
    assert report.segments[-1].last == (4 if is_unfinished else 6), "what is there is read"


def test_behind_damage_no_gap_is_named() -> None:
    """How far a damaged segment went nobody knows."""
    disk = gapped((), snapshot_at=0)
    name = segment_name(3)
    content = disk.read(FOLDER / name)
    change(disk, name, content[:-1] + bytes([content[-1] ^ 1]))
    assert [name in fault for fault in look_at_store(FOLDER, disk).faults] == [True]


@pytest.mark.parametrize("how", ["another name", "a record taken out"])
def test_a_segment_that_is_not_what_it_was_is_refused(how: str) -> None:
    """Every checksum holds, and records are missing."""
    disk = gapped((), snapshot_at=0)
    name = segment_name(5)
    content = disk.read(FOLDER / name)
    if how == "another name":
        disk.remove(FOLDER / segment_name(3))
        disk.remove(FOLDER / name)
        name = segment_name(3)
        disk.create(FOLDER / name).write(content)
    else:
        second = content.rindex(MARKER)
        change(disk, name, content[:HEAD_BYTES] + content[second:])
    with pytest.raises(SentinelError) as caught:
        list(WriteAheadLog(disk, FOLDER, identity=IDENTITY).recover(after=0))
    assert caught.value.code is ErrorCode.STATE_GAP
    assert look_at_store(FOLDER, disk).faults == (str(caught.value),)


def test_looking_changes_nothing() -> None:
    disk = folder_of_state()
    before = {name: disk.read(FOLDER / name) for name in disk.names(FOLDER)}
    look_at_store(FOLDER, disk)
    assert {name: disk.read(FOLDER / name) for name in disk.names(FOLDER)} == before


@pytest.mark.parametrize("exists", [False, True])
def test_folder_without_state_is_said_so(*, exists: bool) -> None:
    disk = MemoryDisk()
    if exists:
        disk.make_folder(FOLDER)
    with pytest.raises(SentinelError) as caught:
        look_at_store(FOLDER, disk)
    assert caught.value.code is ErrorCode.FILE_MISSING
    assert caught.value.at == "state"
    assert "--store embedded:FOLDER" in str(caught.value)
