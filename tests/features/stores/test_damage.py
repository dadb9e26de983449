"""Damaged files and failing disks: found and named, never served, and no worse than the damage."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest
from crash_lab import PLAN, Stream, feed, undisturbed

from sentinel.core.disk import SystemDisk
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features.stores.embedded import Durability, EmbeddedStore
from sentinel.features.stores.embedded.snapshot import snapshot_paths
from sentinel.features.stores.embedded.write_ahead_log import segment_paths
from sentinel.testing.memory_disk import DiskCall, MemoryDisk

if TYPE_CHECKING:
    from conftest import Trials

FOLDER = Path("state")
STREAM = Stream(600, 50)


DIGEST, _ = undisturbed(STREAM)


def open_store(disk: MemoryDisk, durability: Durability = Durability.POWER) -> EmbeddedStore:
    return EmbeddedStore(PLAN, FOLDER, disk=disk, durability=durability)


def two_snapshots() -> MemoryDisk:
    """Two snapshots, and a log behind each."""
    disk = MemoryDisk()
    store = open_store(disk, Durability.PROCESS)
    for k, (kind, first, end) in enumerate(STREAM.steps()):
        batch = STREAM.batch(kind, first, end)
        _ = store.learn(batch) if kind == "learn" else store.advance(batch)
        if k in {8, 16}:
            store.snapshot()
    return disk


WHOLE = two_snapshots()


def damaged(path: Path, content: bytes | bytearray) -> MemoryDisk:
    disk = WHOLE.after_kill()
    disk.remove(path)
    disk.create(path).write(bytes(content))
    return disk


def recover(disk: MemoryDisk) -> EmbeddedStore | SentinelError:
    try:
        return open_store(disk, Durability.PROCESS)
    except SentinelError as error:
        return error


def check_caught_up(store: EmbeddedStore) -> None:
    feed(store, STREAM, first=store.position("payments"), first_verdict=store.position("verdicts"))
    assert store.state_digest() == DIGEST


@pytest.mark.reliability("B6", t1=500, t2=10_000, t3=100_000)
def test_one_flipped_bit_anywhere_is_found_and_never_served(trials: Trials) -> None:
    """Log or snapshot: an error that names file and offset, or the older snapshot, or a cut end."""
    paths = [*snapshot_paths(WHOLE, FOLDER), *segment_paths(WHOLE, FOLDER)]
    newest, last = snapshot_paths(WHOLE, FOLDER)[0], segment_paths(WHOLE, FOLDER)[-1]
    needed = {path.name for path in segment_paths(WHOLE, FOLDER)[-1:]} | {newest.name}
    for seed in trials:
        rng = Random(seed)
        path = paths[seed % len(paths)]
        content = bytearray(WHOLE.read(path))
        at = rng.randrange(8 * len(content))
        content[at // 8] ^= 1 << (at % 8)
        found = recover(damaged(path, content))
        if isinstance(found, SentinelError):
            assert found.code in {ErrorCode.STATE_CORRUPT, ErrorCode.STATE_FORMAT}, seed
            assert path.name in found.at, seed
            continue
        seen = found.recovery.skipped or found.recovery.torn_tail
        assert bool(seen) == (path.name in needed), (seed, path.name)
        if found.recovery.torn_tail is not None:
            assert path == last
        check_caught_up(found)


@pytest.mark.reliability("B5", t1=1, t2=4, t3=16)
def test_torn_zeroed_and_swapped_ends_of_the_log_move_state_and_position_back(
    trials: Trials,
) -> None:
    """The last write cut at every byte; sectors of it zeroed; its two halves swapped."""
    path = segment_paths(WHOLE, FOLDER)[-1]
    content = WHOLE.read(path)
    # The last record alone: what one write held.
    start = content.rindex(b"\xf1rec")
    for seed in trials:
        rng = Random(seed)
        for length in range(start, len(content), 1 if seed == 0 else rng.randint(1, 7)):
            store = recover(damaged(path, content[:length]))
            assert isinstance(store, EmbeddedStore)
            assert (store.recovery.torn_tail is None) == (length == start)
            if length % 20 == 0 or length == start:
                check_caught_up(store)
        for hole in range(start, len(content) - 1, 512):
            torn = bytearray(content)
            torn[hole : hole + 512] = bytes(len(torn[hole : hole + 512]))
            if torn == content:
                continue
            store = recover(damaged(path, torn))
            assert isinstance(store, EmbeddedStore)
            assert store.recovery.torn_tail is not None
            check_caught_up(store)
        half = (start + len(content)) // 2
        swapped = content[:start] + content[half:] + content[start:half]
        store = recover(damaged(path, swapped))
        assert isinstance(store, EmbeddedStore)
        assert store.recovery.torn_tail is not None
        check_caught_up(store)


def make_state(folder: Path) -> tuple[Path, Path]:
    """Write a state with two snapshots on the real disk; return them, newest first."""
    disk = SystemDisk()
    disk.make_folder(folder)
    for name in WHOLE.names(FOLDER):
        file = disk.create(folder / name)
        file.write(WHOLE.read(FOLDER / name))
        file.close()
    newest, older = snapshot_paths(disk, folder)
    return newest, older


def replace(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.unlink()
    if how == "a folder":
        path.mkdir()
    elif how == "a symbolic link":
        elsewhere = path.with_name("elsewhere")
        elsewhere.write_bytes(content)
        path.symlink_to(elsewhere)
    elif how == "a pipe":
        os.mkfifo(path)
    elif how == "zeros":
        path.write_bytes(bytes(len(content)))
    elif how == "longer":
        path.write_bytes(content + b"\0")
    elif how == "another format":
        path.write_bytes(content[:8] + b"\xff" * 4 + content[12:])
    else:
        path.write_bytes(content[: int(how) * len(content) // 100])


@pytest.mark.reliability("B7")
@pytest.mark.parametrize(
    "how", ["0", "1", "33", "66", "99", "a folder", "a symbolic link", "a pipe", "zeros", "longer"]
)
def test_a_snapshot_that_is_none_is_named_and_the_one_before_serves(
    tmp_path: Path, how: str
) -> None:
    newest, older = make_state(tmp_path / "state")
    replace(newest, how)
    store = EmbeddedStore(PLAN, tmp_path / "state")
    assert store.recovery.snapshot == str(int(older.stem.removeprefix("snapshot-")))
    assert newest.name in store.recovery.skipped[0]
    check_caught_up(store)
    store.close(with_snapshot=False)


@pytest.mark.reliability("B7", t1=2_000, t2=20_000, t3=200_000)
def test_a_snapshot_cut_at_any_length_is_named_and_the_one_before_serves(trials: Trials) -> None:
    newest, older = snapshot_paths(WHOLE, FOLDER)
    content = WHOLE.read(newest)
    for seed in trials:
        # The first and the last bytes, and any between.
        length = (seed // 2, len(content) - 1 - seed // 2)[seed % 2]
        length = length if seed < 100 else Random(seed).randrange(len(content))
        store = recover(damaged(newest, content[:length]))
        assert isinstance(store, EmbeddedStore), (length, store)
        assert newest.name in store.recovery.skipped[0]
        assert store.recovery.snapshot == str(int(older.stem.removeprefix("snapshot-")))
        if seed % 10 == 0:
            check_caught_up(store)


_OPEN = """
import sys
from pathlib import Path
from crash_lab import PLAN
from sentinel.features.stores.embedded import EmbeddedStore
print(EmbeddedStore(PLAN, Path(sys.argv[1])).recovery.skipped[0])
"""


@pytest.mark.reliability("B7")
def test_a_snapshot_that_may_not_be_read_is_named_and_the_one_before_serves(
    tmp_path: Path, python_as_anybody: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """Mode 000, read by a process that it holds for."""
    newest, _ = make_state(tmp_path / "state")
    newest.chmod(0)
    opened = python_as_anybody("-c", _OPEN, str(tmp_path / "state"), cwd=Path(__file__).parent)
    assert newest.name in opened.stdout
    assert "Permission denied" in opened.stdout


def live_twice(disk: MemoryDisk) -> None:
    """Work for a while, and after a restart to the end: both make and remove files."""
    for n_steps in (10, None):
        run(open_store(disk), n_steps)


def run(store: EmbeddedStore, n_steps: int | None) -> None:
    steps = STREAM.steps(store.position("payments"), store.position("verdicts"))
    for k, (kind, first, end) in enumerate(steps[:n_steps]):
        batch = STREAM.batch(kind, first, end)
        _ = store.learn(batch) if kind == "learn" else store.advance(batch)
        if k % 7 == 6:
            store.snapshot()


def n_calls() -> int:
    disk = MemoryDisk()
    live_twice(disk)
    return disk.n_calls


@pytest.mark.reliability("B8", t1=1, t2=4, t3=16)
def test_every_call_fails_once_and_a_restart_recovers(trials: Trials) -> None:
    """``EIO`` from the n-th call, whichever it is: said, nothing served; in recovery too."""
    n_all = n_calls()
    for seed in trials:
        number_of, n_passed = Random(seed), 0
        for number in range(1, n_all + 1):
            disk, names = MemoryDisk(), [""]

            def fail(call: DiskCall, number: int = number, names: list[str] = names) -> None:
                if call.number == number:
                    names[0] = call.name
                    raise OSError(errno.EIO, os.strerror(errno.EIO))

            disk.before_call = fail
            failure: SentinelError | None = None
            try:
                live_twice(disk)
            except SentinelError as error:
                failure = error
            # A snapshot that cannot be read is passed over by name, as a damaged one is.
            assert failure is not None or names == ["read"], (number, names)
            assert failure is None or failure.code is ErrorCode.STATE_UNWRITABLE, number
            disk.before_call = None
            after = disk.after_power_cut(keep=number_of.random(), rng=number_of)
            # Recovery makes a folder, lists it, reads: one of its calls fails.
            left = [number_of.choice([0, 0, 1, 2, 3, 4, 5])]

            def fail_too(_: DiskCall, left: list[int] = left) -> None:
                left[0] -= 1
                if left[0] == -1:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))

            after.before_call = fail_too
            found = recover(after)
            after.before_call = None
            if isinstance(found, EmbeddedStore):
                check_caught_up(found)  # what could not be read was not needed
                after = after.after_kill()
                n_passed += 1
            check_caught_up(open_store(after))
        assert n_passed < n_all / 2, "most of recovery's calls are needed"


@pytest.mark.reliability("B8")
def test_after_a_failed_sync_the_store_refuses_until_it_is_opened_again() -> None:
    disk = MemoryDisk()
    store = open_store(disk)
    feed(store, STREAM, end=100)
    syncs = []

    def fail(call: DiskCall) -> None:
        if call.name == "sync":
            syncs.append(call.number)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    disk.before_call = fail
    position = store.position("payments")
    batch = STREAM.batch("advance", position, position + 50)
    digest = store.state_digest()
    for _ in range(3):
        with pytest.raises(SentinelError) as caught:
            store.advance(batch)
        assert caught.value.code is ErrorCode.STATE_UNWRITABLE
        assert caught.value.at == "state"
    assert len(syncs) == 1, "the same sync is never tried again"
    assert store.state_digest() == digest
    disk.before_call = None
    check_caught_up(open_store(disk.after_power_cut(keep=0.0)))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a tmpfs of few bytes and few names."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m,nr_inodes=64", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"tmpfs cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, what: str) -> list[Path]:
    """Use up the bytes or the names of a file system."""
    made = [folder / "filler"]
    with contextlib.suppress(OSError), made[0].open("wb", buffering=0) as file:
        while what == "bytes":
            file.write(bytes(4096))
    with contextlib.suppress(OSError):
        for number in range(1000):
            path = folder / f"filler-{number}"
            path.touch()
            made.append(path)
    return made


def refusal_of(call: Callable[..., object], *arguments: object) -> ErrorCode | None:
    try:
        call(*arguments)
    except SentinelError as error:
        return error.code
    return None


@pytest.mark.reliability("B9", t1=5, t2=50, t3=250)
@pytest.mark.parametrize("what", ["bytes", "names"])
def test_a_full_disk_stops_applying_and_goes_on_when_room_returns(
    small_disk: Path, what: str, trials: Trials
) -> None:
    """At a random batch, in a snapshot or the log; nothing half, the same process goes on."""
    base = small_disk
    n_refused = 0
    for seed in trials:
        rng = Random(seed)
        folder = base / f"{seed}"
        store = EmbeddedStore(PLAN, folder, durability=Durability.POWER)
        full_at = rng.randint(1, 14)
        for k, (kind, first, end) in enumerate(STREAM.steps()):
            batch = STREAM.batch(kind, first, end)
            apply = store.learn if kind == "learn" else store.advance
            if k == full_at:
                digest = store.state_digest()
                fillers = fill(base, what)
                refusals = [refusal_of(store.snapshot), refusal_of(apply, batch)]
                assert ErrorCode.STATE_UNWRITABLE in refusals
                for path in fillers:
                    path.unlink()
                n_refused += 1
                if refusals[1] is None:
                    continue
                assert store.state_digest() == digest
            apply(batch)
        assert store.state_digest() == DIGEST
        store.close(with_snapshot=False)
        again = EmbeddedStore(PLAN, folder)
        assert again.state_digest() == DIGEST
        assert not [path for path in folder.iterdir() if path.suffix == ".new"]
        again.close(with_snapshot=False)
        for path in folder.iterdir():
            path.unlink()
    assert n_refused == trials.done


@pytest.mark.reliability("B9")
def test_start_on_a_full_disk_is_refused_with_the_reason(small_disk: Path) -> None:
    base = small_disk
    fillers = fill(base, "bytes")
    with pytest.raises(SentinelError) as caught:
        EmbeddedStore(PLAN, base / "state")
    assert caught.value.code in {ErrorCode.STATE_UNWRITABLE, ErrorCode.FILE_UNWRITABLE}
    for path in fillers:
        path.unlink()
    store = EmbeddedStore(PLAN, base / "state")
    check_caught_up(store)
    store.close()
