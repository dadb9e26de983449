"""Snapshots: whole or absent, and never served damaged."""

from __future__ import annotations

import errno
from pathlib import Path
from random import Random

import numpy as np
import pytest

from sentinel.core.disk import Disk, SystemDisk
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features.stores.embedded.snapshot import (
    Snapshot,
    read_snapshot,
    snapshot_paths,
    write_snapshot,
)
from sentinel.testing.memory_disk import DiskCall, MemoryDisk, PowerCut

IDENTITY = bytes(range(32))
FOLDER = Path("state")


def state(sequence: int) -> Snapshot:
    rng = np.random.default_rng(sequence)
    return Snapshot(
        identity=IDENTITY,
        sequence=sequence,
        epoch=3,
        values={"position/0": sequence * 10},
        arrays={
            "keys": rng.integers(0, 1 << 40, 7),
            "rows": rng.integers(0, 9, (5, 3)),
            "flags": rng.integers(0, 2, 9).astype(np.bool_),
            "none": np.empty(0, dtype=np.float64),
        },
    )


def memory_disk() -> MemoryDisk:
    disk = MemoryDisk()
    disk.make_folder(FOLDER)
    return disk


def assert_same(actual: Snapshot, expected: Snapshot) -> None:
    assert (actual.identity, actual.sequence, actual.epoch, dict(actual.values)) == (
        expected.identity,
        expected.sequence,
        expected.epoch,
        dict(expected.values),
    )
    assert list(actual.arrays) == list(expected.arrays)
    for name, array in expected.arrays.items():
        assert actual.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(actual.arrays[name], array)


def read_or_refusal(disk: Disk, path: Path) -> Snapshot | SentinelError:
    try:
        return read_snapshot(disk, path, identity=IDENTITY)
    except SentinelError as error:
        return error


def test_snapshot_comes_back_the_same_from_a_real_disk(tmp_path: Path) -> None:
    disk = SystemDisk()
    path = write_snapshot(disk, tmp_path, state(4))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert_same(read_snapshot(disk, path, identity=IDENTITY), state(4))


def test_same_state_gives_the_same_bytes() -> None:
    disk = memory_disk()
    first = disk.read(write_snapshot(disk, FOLDER, state(4)))
    assert disk.read(write_snapshot(disk, FOLDER, state(4))) == first


def test_every_flipped_bit_is_found() -> None:
    disk = memory_disk()
    path = write_snapshot(disk, FOLDER, state(4))
    content = disk.read(path)
    for offset in range(len(content)):
        damaged = bytearray(content)
        damaged[offset] ^= 1 << (offset % 8)
        disk.remove(path)
        disk.create(path).write(bytes(damaged))
        refusal = read_or_refusal(disk, path)
        assert isinstance(refusal, SentinelError), f"byte {offset} was served"
        assert refusal.code in {ErrorCode.STATE_CORRUPT, ErrorCode.STATE_FORMAT}
        assert path.name in refusal.at


def test_every_truncation_is_found() -> None:
    disk = memory_disk()
    path = write_snapshot(disk, FOLDER, state(4))
    content = disk.read(path)
    for length in range(len(content)):
        disk.truncate(path, 0)
        disk.append(path).write(content[:length])
        assert isinstance(read_or_refusal(disk, path), SentinelError), f"{length} bytes"


def test_power_cut_at_every_call_leaves_the_old_snapshot_or_the_new_one() -> None:
    n_calls = 0
    while True:
        n_calls += 1
        disk = memory_disk()
        write_snapshot(disk, FOLDER, state(1))
        stop_at = disk.n_calls + n_calls

        def cut(call: DiskCall, stop_at: int = stop_at) -> None:
            if call.number == stop_at:
                raise PowerCut

        disk.before_call = cut
        try:
            write_snapshot(disk, FOLDER, state(2))
            is_cut = False
        except PowerCut:
            is_cut = True
        for keep in (0.0, 0.5, 1.0):
            after = disk.after_power_cut(keep=keep, rng=Random(n_calls))
            whole = [
                snapshot.sequence
                for path in snapshot_paths(after, FOLDER)
                if isinstance(snapshot := read_or_refusal(after, path), Snapshot)
            ]
            assert whole[-1] == 1
            assert len(whole) == len(snapshot_paths(after, FOLDER)), "a half snapshot has a name"
        if not is_cut:
            assert whole == [2, 1]
            break
    assert n_calls > 8


@pytest.mark.parametrize("name", ["create", "write", "sync", "replace", "sync_folder"])
def test_failing_call_is_an_error_and_leaves_no_half_snapshot(name: str) -> None:
    disk = memory_disk()
    write_snapshot(disk, FOLDER, state(1))

    def fail(call: DiskCall) -> None:
        if call.name == name:
            raise OSError(errno.EIO, "Input/output error")

    disk.before_call = fail
    with pytest.raises(SentinelError) as caught:
        write_snapshot(disk, FOLDER, state(2))
    assert caught.value.code is ErrorCode.STATE_UNWRITABLE
    disk.before_call = None
    assert not [entry for entry in disk.names(FOLDER) if entry.endswith(".new")]
    assert_same(read_snapshot(disk, snapshot_paths(disk, FOLDER)[-1], identity=IDENTITY), state(1))


def test_snapshot_of_another_feature_set_is_refused() -> None:
    disk = memory_disk()
    path = write_snapshot(disk, FOLDER, state(1))
    with pytest.raises(SentinelError) as caught:
        read_snapshot(disk, path, identity=bytes(32))
    assert caught.value.code is ErrorCode.STATE_OF_ANOTHER_FEATURE_SET


@pytest.mark.parametrize("kind", ["folder", "link", "empty"])
def test_something_else_under_the_name_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "snapshot-00000000000000000001.state"
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        target = write_snapshot(SystemDisk(), tmp_path, state(2))
        path.symlink_to(target)
    else:
        path.touch()
    refusal = read_or_refusal(SystemDisk(), path)
    assert isinstance(refusal, SentinelError)
    assert refusal.code is ErrorCode.STATE_CORRUPT
