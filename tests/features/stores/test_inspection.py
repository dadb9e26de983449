"""Looking at a state folder tells what is there and every fault, and changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features.layout import R_ARENA, R_COUNT, R_ENTITIES, R_EVENTS, R_LIVING, R_NOW
from sentinel.features.stores.embedded.inspection import look_at_store
from sentinel.features.stores.embedded.snapshot import Snapshot, write_snapshot
from sentinel.features.stores.embedded.write_ahead_log import WriteAheadLog
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
