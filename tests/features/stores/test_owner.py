"""One owner at a time, no hole unseen, no clock but the events', no event that kills for ever."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest
from crash_lab import PLAN, Stream, feed, undisturbed
from crash_rig import Lab

from sentinel.contract import EventBatch
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features import Engine
from sentinel.features.stores.embedded import EmbeddedStore
from sentinel.features.stores.embedded.records import EVENTS, encode_batch
from sentinel.features.stores.embedded.write_ahead_log import WalRecord, encode_record
from sentinel.testing.memory_disk import MemoryDisk

if TYPE_CHECKING:
    from conftest import Trials

FOLDER = Path("state")
STREAM = Stream(600, 50)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    made = Lab(600, 50)
    yield made
    made.close()


DIGEST, _ = undisturbed(STREAM)


@pytest.mark.reliability("B11", t1=20, t2=200, t3=1_000)
def test_a_frozen_owner_keeps_the_folder_and_one_that_was_replaced_writes_nothing(
    lab: Lab, tmp_path: Path, trials: Trials
) -> None:
    """Frozen, it is still the owner. Where its lock was taken away by hand, it is refused."""
    for seed in trials:
        place = tmp_path / f"{seed}"
        folder = place / "state"
        n_events = 50 * Random(seed).randint(1, 6)
        frozen = lab.run(place, freeze_at=n_events)["frozen"]
        with pytest.raises(SentinelError) as caught:
            EmbeddedStore(PLAN, folder)
        assert caught.value.code is ErrorCode.STATE_LOCKED
        assert caught.value.at == str(folder)
        (folder / "lock").unlink()
        successor = EmbeddedStore(PLAN, folder)
        assert successor.position("payments", 0) == n_events
        # Verdicts only now: they are known by time, not by when they were read.
        successor.learn(STREAM.batch("learn", 0, 10))
        digest = successor.state_digest()
        assert lab.run(place, thaw=frozen) == {"signal": 0, "exit": 42}
        successor.close(with_snapshot=False)
        again = EmbeddedStore(PLAN, folder)
        assert again.state_digest() == digest
        again.close(with_snapshot=False)


@pytest.mark.reliability("B11")
@pytest.mark.parametrize("is_torn", [False, True])
def test_what_a_replaced_owner_still_wrote_is_passed_over(*, is_torn: bool) -> None:
    """It was frozen within the write: its record has an old epoch, behind its successor's start."""
    disk = MemoryDisk()
    first = EmbeddedStore(PLAN, FOLDER, disk=disk)
    for start in (0, 50):
        first.advance(STREAM.batch("advance", start, start + 50))
    segment = FOLDER / f"wal-{1:020d}.log"
    successor = EmbeddedStore(PLAN, FOLDER, disk=disk)
    successor.advance(STREAM.batch("advance", 100, 150))
    batch = STREAM.batch("advance", 100, 150)
    times = batch.column("paid_at")
    late = encode_record(
        WalRecord(3, EVENTS, encode_batch(batch, times=times, next_position=150), 0, 1)
    )
    disk.append(segment).write(late[: len(late) // 2] if is_torn else late)
    successor.advance(STREAM.batch("advance", 150, 200))
    again = EmbeddedStore(PLAN, FOLDER, disk=disk)
    assert again.recovery.n_bytes_fenced > 0
    assert again.state_digest() == successor.state_digest()
    assert again.position("payments") == 200


@pytest.mark.reliability("B12")
def test_a_hole_within_a_batch_stops_with_the_missing_range() -> None:
    store = EmbeddedStore(PLAN, FOLDER, disk=MemoryDisk())
    store.advance(STREAM.batch("advance", 0, 50))
    digest = store.state_digest()
    batch = with_hole(STREAM.batch("advance", 50, 100), at=20, by=7)
    with pytest.raises(SentinelError) as caught:
        store.advance(batch)
    assert caught.value.code is ErrorCode.SOURCE_GAP
    assert caught.value.at == "payments/0"
    assert caught.value.expected == "position 70"
    assert caught.value.got == "77"
    assert store.state_digest() == digest
    store.accept_gap("payments", 0, 77)
    store.advance(batch)
    assert store.position("payments") == 107
    whole = Engine(PLAN)
    whole.advance(STREAM.batch("advance", 0, 50))
    whole.advance(STREAM.batch("advance", 50, 100))
    assert store.state_digest() == whole.state_digest(), "rows on both sides were applied"


def with_hole(batch: EventBatch, *, at: int, by: int) -> EventBatch:
    batch.raw.positions[at:] += by
    return batch


@pytest.mark.reliability("B13", t1=500, t2=10_000, t3=100_000)
def test_no_clock_of_the_machine_has_a_part_in_the_state(
    monkeypatch: pytest.MonkeyPatch, trials: Trials
) -> None:
    """Every clock jumps by hours and years at every look; vectors, state and recovery stay."""
    for seed in trials:
        rng = Random(seed)

        def jumping(rng: Random = rng) -> float:
            return rng.choice([-1, 1]) * rng.choice([0.0, 3_600.0, 31_536_000.0])

        with monkeypatch.context() as patch:
            for name in ("time", "monotonic", "perf_counter"):
                patch.setattr(time, name, jumping)
            for name in ("time_ns", "monotonic_ns", "perf_counter_ns"):
                patch.setattr(time, name, lambda: int(jumping() * 1e9))
            disk = MemoryDisk()
            store = EmbeddedStore(PLAN, FOLDER, disk=disk)
            feed(store, STREAM, end=300)
            store.snapshot()
            again = EmbeddedStore(PLAN, FOLDER, disk=disk.after_kill())
            feed(
                again,
                STREAM,
                first=again.position("payments"),
                first_verdict=again.position("verdicts"),
            )
            assert again.state_digest() == DIGEST


@pytest.mark.reliability("B1", "C9", t1=10, t2=100, t3=500)
def test_an_event_that_kills_the_kernel_is_found_and_passed_by_the_store(
    lab: Lab, tmp_path: Path, trials: Trials
) -> None:
    """It is logged before it kills; recovery would die of it for ever."""
    ids = STREAM.events.column("payment_id").tolist()
    # One that comes again would kill at both of its places.
    once = [place for place, name in enumerate(ids) if ids.count(name) == 1]
    for seed in trials:
        folder = tmp_path / f"{seed}"
        folder.mkdir()
        is_passed(lab, folder, Random(seed).choice(once))


def is_passed(lab: Lab, folder: Path, deadly: int) -> None:
    """Let one event kill every process that applies it, until the store passes it."""
    n_deaths = 0
    for _ in range(10):
        ended = lab.run(folder, poison=deadly, closes_with_snapshot=False)
        if ended["signal"] == 0:
            break
        assert ended["signal"] == signal.SIGSEGV
        n_deaths += 1
    assert n_deaths == 4, "once live, then three times at that one event"
    store = EmbeddedStore(PLAN, folder / "state")
    (passed,) = store.passed
    assert (passed.source, passed.partition, passed.position) == ("payments", 0, deadly)
    without = Engine(PLAN)
    for kind, first, end in STREAM.steps():
        batch = STREAM.batch(kind, first, end)
        if kind == "learn":
            without.learn(batch)
            continue
        if first <= deadly < end:
            without.advance(STREAM.batch(kind, first, deadly))
            without.advance(STREAM.batch(kind, deadly + 1, end))
            continue
        without.advance(batch)
    assert store.state_digest() == without.state_digest()
    store.snapshot()
    store.close()
    again = EmbeddedStore(PLAN, folder / "state")
    assert again.state_digest() == without.state_digest()
    again.close()


def test_a_process_killed_from_outside_while_it_applies_leaves_no_suspect_for_long(
    lab: Lab, tmp_path: Path
) -> None:
    """A batch that a SIGKILL interrupted is applied row by row once, and passed by nobody."""
    seen = Random(3)
    for _ in range(6):
        lab.run(tmp_path, kill_after_s=seen.random() * 0.05)
    assert lab.run(tmp_path) == {"signal": 0, "exit": 0}
    lab.check(tmp_path)
    assert not (tmp_path / "state" / "passed.json").exists()
