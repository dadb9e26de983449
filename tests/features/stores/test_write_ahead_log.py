"""The write-ahead log: nothing acknowledged is lost, nothing damaged is served."""

from __future__ import annotations

import errno
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.core.disk import Disk, SystemDisk
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features.stores.embedded.write_ahead_log import (
    RECORD_HEAD_BYTES,
    WriteAheadLog,
    segment_paths,
)
from sentinel.testing.memory_disk import DiskCall, MemoryDisk, PowerCut

IDENTITY = bytes(range(32))
FOLDER = Path("state")


def open_log(disk: Disk, *, syncs: bool = True, folder: Path = FOLDER) -> WriteAheadLog:
    disk.make_folder(folder)
    return WriteAheadLog(disk, folder, identity=IDENTITY, syncs=syncs)


def payloads_of(disk: Disk, *, after: int = 0, folder: Path = FOLDER) -> list[bytes]:
    return [record.payload for record in open_log(disk, folder=folder).recover(after=after)]


def written(n_records: int, *, syncs: bool = True) -> tuple[MemoryDisk, list[bytes]]:
    disk = MemoryDisk()
    log = open_log(disk, syncs=syncs)
    payloads = [bytes([i]) * (i * 7 % 50) for i in range(1, n_records + 1)]
    for payload in payloads:
        log.append(1, payload)
        log.commit()
    return disk, payloads


def flip(disk: MemoryDisk, path: Path, offset: int) -> MemoryDisk:
    copy = disk.after_kill()
    content = bytearray(copy.read(path))
    content[offset] ^= 1 << (offset % 8)
    copy.remove(path)
    copy.create(path).write(bytes(content))
    return copy


def recover_or_refusal(log: WriteAheadLog) -> tuple[list[bytes], SentinelError | None]:
    try:
        return [record.payload for record in log.recover(after=0)], None
    except SentinelError as error:
        return [], error


def test_records_come_back_in_order_on_a_real_disk(tmp_path: Path) -> None:
    disk = SystemDisk()
    log = open_log(disk, folder=tmp_path / "state")
    for i in range(5):
        log.append(i, b"x" * i)
    log.commit()
    log.close()
    again = open_log(disk, folder=tmp_path / "state")
    records = list(again.recover(after=2))
    assert [(r.sequence, r.kind, r.payload) for r in records] == [
        (3, 2, b"xx"),
        (4, 3, b"xxx"),
        (5, 4, b"xxxx"),
    ]


def test_log_goes_on_after_recovery_in_a_new_segment() -> None:
    disk, payloads = written(3)
    log = open_log(disk)
    assert len(list(log.recover(after=0))) == 3
    log.append(1, b"new")
    log.commit()
    assert len(segment_paths(disk, FOLDER)) == 2
    assert payloads_of(disk) == [*payloads, b"new"]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), n_commits=st.integers(1, 20))
def test_power_cut_loses_nothing_that_was_acknowledged(seed: int, n_commits: int) -> None:
    rng = Random(seed)
    disk = MemoryDisk()
    log = open_log(disk)
    stop_at = rng.randint(3, 4 * n_commits + 3)

    def cut(call: DiskCall) -> None:
        if call.number == stop_at:
            raise PowerCut

    disk.before_call = cut
    acknowledged: list[bytes] = []
    try:
        for i in range(n_commits):
            batch = [rng.randbytes(rng.randint(0, 600)) for _ in range(rng.randint(1, 3))]
            for payload in batch:
                log.append(i, payload)
            log.commit()
            acknowledged += batch
    except PowerCut:
        pass
    disk.before_call = None
    recovered = payloads_of(disk.after_power_cut(keep=rng.random(), rng=rng))
    assert recovered[: len(acknowledged)] == acknowledged


def test_a_disk_that_lies_about_syncs_is_caught_by_the_power_cut() -> None:
    """The control: the test above can see a missing sync."""
    disk = MemoryDisk(forgets_syncs=True)
    log = open_log(disk)
    log.append(1, b"acknowledged")
    log.commit()
    assert payloads_of(disk.after_power_cut(keep=0.0)) == []


def test_torn_write_at_every_byte_is_cut_off_and_said() -> None:
    disk, payloads = written(4, syncs=False)
    (path,) = segment_paths(disk, FOLDER)
    content = disk.read(path)
    last_bytes = len(content) - len(payloads[-1]) - RECORD_HEAD_BYTES
    for length in range(last_bytes, len(content)):
        torn = disk.after_kill()
        torn.truncate(path, length)
        log = open_log(torn)
        assert [r.payload for r in log.recover(after=0)] == payloads[:3]
        assert (log.torn_tail is None) == (length == last_bytes)
        assert payloads_of(torn) == payloads[:3], "the second start finds nothing torn"


def test_any_flipped_bit_is_found_and_never_served() -> None:
    disk, payloads = written(6)
    (path,) = segment_paths(disk, FOLDER)
    n_bytes = len(disk.read(path))
    n_refused = 0
    for offset in range(n_bytes):
        damaged = flip(disk, path, offset)
        log = open_log(damaged)
        recovered, refusal = recover_or_refusal(log)
        if refusal is not None:
            assert refusal.code in {ErrorCode.STATE_CORRUPT, ErrorCode.STATE_FORMAT}
            assert path.name in refusal.at
            n_refused += 1
        else:
            assert log.torn_tail is not None
            assert log.torn_tail.path == path
            assert recovered == payloads[: len(recovered)]
            assert len(recovered) == 5, "only the last record may look like a torn write"
    assert n_refused > n_bytes * 0.7


def test_damage_in_an_earlier_segment_is_corruption() -> None:
    disk, _ = written(2)
    log = open_log(disk)
    list(log.recover(after=0))
    log.append(1, b"later")
    log.commit()
    first, _ = segment_paths(disk, FOLDER)
    damaged = flip(disk, first, len(disk.read(first)) - 1)
    with pytest.raises(SentinelError) as caught:
        payloads_of(damaged)
    assert caught.value.code is ErrorCode.STATE_CORRUPT
    assert caught.value.at.startswith(first.name)


def test_missing_segment_is_a_gap() -> None:
    disk, _ = written(2)
    log = open_log(disk)
    list(log.recover(after=0))
    log.append(1, b"later")
    log.commit()
    disk.remove(segment_paths(disk, FOLDER)[0])
    with pytest.raises(SentinelError) as caught:
        payloads_of(disk)
    assert caught.value.code is ErrorCode.STATE_GAP
    assert payloads_of(disk, after=2) == [b"later"], "a snapshot that covers it closes the gap"


def test_log_of_another_feature_set_is_refused() -> None:
    disk, _ = written(1)
    log = WriteAheadLog(disk, FOLDER, identity=bytes(32))
    with pytest.raises(SentinelError) as caught:
        list(log.recover(after=0))
    assert caught.value.code is ErrorCode.STATE_OF_ANOTHER_FEATURE_SET


def test_full_disk_keeps_what_was_acknowledged_and_goes_on_when_room_returns() -> None:
    disk = MemoryDisk(n_bytes_max=400)
    log = open_log(disk)
    acknowledged = []
    refusal = None
    for i in range(20):
        log.append(1, bytes([i]) * 40)
        try:
            log.commit()
        except SentinelError as error:
            refusal = error
            break
        acknowledged.append(bytes([i]) * 40)
    assert refusal is not None
    assert refusal.code is ErrorCode.STATE_UNWRITABLE
    assert payloads_of(disk.after_power_cut(keep=0.0)) == acknowledged
    disk.n_bytes_max = None
    log.commit()
    log.append(1, b"after")
    log.commit()
    held_back = [bytes([len(acknowledged)]) * 40]
    assert payloads_of(disk.after_power_cut(keep=0.0)) == [*acknowledged, *held_back, b"after"]


def test_failed_sync_is_never_tried_again() -> None:
    disk = MemoryDisk()
    log = open_log(disk)
    log.append(1, b"one")
    log.commit()
    n_syncs = 0

    def fail(call: DiskCall) -> None:
        nonlocal n_syncs
        if call.name == "sync":
            n_syncs += 1
            raise OSError(errno.EIO, "Input/output error")

    disk.before_call = fail
    for _ in range(3):
        log.append(1, b"two")
        with pytest.raises(SentinelError) as caught:
            log.commit()
        assert caught.value.code is ErrorCode.STATE_UNWRITABLE
    assert n_syncs == 1
    disk.before_call = None
    assert payloads_of(disk.after_power_cut(keep=0.0)) == [b"one"]


@pytest.mark.parametrize("name", ["create", "write", "sync_folder"])
def test_every_failing_call_leaves_a_log_that_recovers(name: str) -> None:
    disk = MemoryDisk()
    log = open_log(disk)

    def fail(call: DiskCall) -> None:
        if call.name == name:
            raise OSError(errno.EIO, "Input/output error")

    disk.before_call = fail
    log.append(1, b"one")
    with pytest.raises(SentinelError) as caught:
        log.commit()
    assert caught.value.code is ErrorCode.STATE_UNWRITABLE
    disk.before_call = None
    log.commit()
    assert payloads_of(disk.after_power_cut(keep=0.0)) == [b"one"]


def test_segments_below_a_snapshot_are_dropped() -> None:
    disk = MemoryDisk()
    log = open_log(disk)
    for i in range(6):
        log.append(1, bytes([i]))
        log.commit()
        if i % 2:
            log.rotate()
    assert len(segment_paths(disk, FOLDER)) == 3
    log.drop_through(3)
    assert len(segment_paths(disk, FOLDER)) == 2, "record 4 is still needed"
    assert payloads_of(disk, after=3) == [bytes([i]) for i in range(3, 6)]


def test_record_over_the_limit_is_refused() -> None:
    log = open_log(MemoryDisk())
    with pytest.raises(SentinelError) as caught:
        log.append(1, bytes((64 << 20) + 1))
    assert caught.value.code is ErrorCode.STATE_RECORD_TOO_LARGE


def test_removed_segment_that_comes_back_after_a_power_cut_does_no_harm() -> None:
    """Found by seed 104981: removals of two segments, the second durable and the first not."""
    disk = MemoryDisk()
    log = open_log(disk)
    for i in range(3):
        log.append(1, bytes([i]))
        log.commit()
        log.rotate()
    first, second, _ = segment_paths(disk, FOLDER)
    disk.remove(second)
    assert first.name in disk.names(FOLDER)
    assert payloads_of(disk, after=2) == [b"\x02"]
