"""The durable engine: the state of any crash, caught up, is the state of an undisturbed run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.contract import EventBatch, RawBatch
from sentinel.contract.decoder import Decoder
from sentinel.core.disk import Disk, SystemDisk
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.data.simulator.contracts import Transaction, Verdict
from sentinel.features import (
    Count,
    Engine,
    Entity,
    FeatureSet,
    Mean,
    StandardDeviation,
    Velocity,
    compile_plan,
)
from sentinel.features.stores.embedded import Durability, EmbeddedStore
from sentinel.features.stores.embedded.snapshot import snapshot_paths
from sentinel.features.stores.embedded.write_ahead_log import (
    MARKER,
    RECORD_HEAD_BYTES,
    segment_paths,
)
from sentinel.testing import sample_events, sample_feedback
from sentinel.testing.memory_disk import DiskCall, MemoryDisk, PowerCut

FOLDER = Path("state")
CARD = Entity("card", key=Transaction.card_id)
MERCHANT = Entity("merchant", key=Transaction.merchant_id)
FEATURES = FeatureSet(
    "durable",
    version="1",
    events=Transaction,
    feedback=Verdict,
    features=[
        Count("n_1h", by=CARD, over="1h"),
        Mean("mean_24h", of=Transaction.amount, by=CARD, over="24h"),
        StandardDeviation("std_7d", of=Transaction.amount, by=CARD, over="7d"),
        Velocity(
            "velocity", by=CARD, latitude=Transaction.latitude, longitude=Transaction.longitude
        ),
        Mean("fraud_7d", of=Verdict.is_fraud, by=MERCHANT, over="7d"),
    ],
)
PLAN = compile_plan(FEATURES)
N_EVENTS = 600
BATCH = 50


def decoded(lines: list[bytes], schema_of: type, source: str, first: int = 0) -> EventBatch:
    raw = RawBatch.from_events(lines, source=source, first_position=first)
    return Decoder(schema_of.schema).decode(raw).events  # type: ignore[attr-defined]


def lines_of(raw: RawBatch) -> list[bytes]:
    return [raw.event_bytes(i) for i in range(raw.n_events)]


EVENTS = lines_of(sample_events(N_EVENTS, seed=3))
FEEDBACK = lines_of(sample_feedback(N_EVENTS, seed=3))


def steps(first_event: int = 0, first_feedback: int = 0) -> Iterator[tuple[str, EventBatch]]:
    """Batches of the stream from given positions on, feedback between events."""
    n_feedback = max(1, len(FEEDBACK) * BATCH // N_EVENTS)
    for k, start in enumerate(range(0, N_EVENTS, BATCH)):
        learned = FEEDBACK[k * n_feedback : (k + 1) * n_feedback]
        if learned and k * n_feedback >= first_feedback:
            yield "learn", decoded(learned, Verdict, "verdicts", k * n_feedback)
        if start >= first_event:
            yield (
                "advance",
                decoded(EVENTS[start : start + BATCH], Transaction, "payments", start),
            )


def run(engine: Engine, parts: Iterator[tuple[str, EventBatch]]) -> dict[int, bytes]:
    """Feed a stream; return each position's vector."""
    answers: dict[int, bytes] = {}
    for kind, batch in parts:
        if kind == "learn":
            engine.learn(batch)
            continue
        matrix = engine.advance(batch)
        positions = batch.raw.positions[batch.rows]
        for row, position in enumerate(positions):
            if not matrix.is_duplicate[row]:
                answers[int(position)] = matrix.values[row].tobytes()
    return answers


def undisturbed() -> tuple[str, dict[int, bytes]]:
    engine = Engine(PLAN)
    answers = run(engine, steps())
    return engine.state_digest(), answers


EXPECTED_DIGEST, EXPECTED_ANSWERS = undisturbed()
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
needs_boot_id = pytest.mark.skipif(not BOOT_ID.exists(), reason=f"no {BOOT_ID} on this machine")


def open_store(disk: Disk, **options: object) -> EmbeddedStore:
    settings_: dict[str, object] = {"durability": Durability.POWER, **options}
    return EmbeddedStore(PLAN, FOLDER, disk=disk, **settings_)  # type: ignore[arg-type]


def test_state_and_vectors_equal_those_in_memory() -> None:
    store = open_store(MemoryDisk())
    assert run(store, steps()) == EXPECTED_ANSWERS
    assert store.state_digest() == EXPECTED_DIGEST


@pytest.mark.parametrize("snapshots", [False, True], ids=["log only", "with a snapshot"])
def test_start_after_a_kill_has_the_whole_state(*, snapshots: bool) -> None:
    disk = MemoryDisk()
    store = open_store(disk)
    for k, (kind, batch) in enumerate(steps()):
        _ = store.learn(batch) if kind == "learn" else store.advance(batch)
        if snapshots and k == 9:
            store.snapshot()
    again = open_store(disk.after_kill())
    assert again.state_digest() == EXPECTED_DIGEST
    assert again.position("payments") == N_EVENTS
    assert bool(again.recovery.snapshot) is snapshots


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_any_number_of_power_cuts_end_in_the_undisturbed_state(seed: int) -> None:
    """Killed at random calls, again in recovery too; the source is read again from the state."""
    rng = Random(seed)
    disk = MemoryDisk()
    answers: dict[int, bytes] = {}
    given_out: dict[int, bytes] = {}
    for _ in range(rng.randint(1, 4)):
        stop_at = disk.n_calls + rng.randint(1, 60)

        def cut(call: DiskCall, stop_at: int = stop_at) -> None:
            if call.number == stop_at:
                raise PowerCut

        disk.before_call = cut
        try:
            store = open_store(disk, snapshot_every_events=rng.choice([60, 200, 10_000]))
            for kind, batch in steps(store.position("payments"), store.position("verdicts")):
                if kind == "learn":
                    store.learn(batch)
                    continue
                matrix = store.advance(batch)
                for row, position in enumerate(batch.raw.positions[batch.rows]):
                    given_out[int(position)] = matrix.values[row].tobytes()
                store.maintain()
        except PowerCut:
            pass
        disk.before_call = None
        disk = disk.after_power_cut(keep=rng.random(), rng=rng)
    store = open_store(disk)
    resumed_at = store.position("payments")
    answers = run(store, steps(resumed_at, store.position("verdicts")))
    assert store.state_digest() == EXPECTED_DIGEST
    assert all(EXPECTED_ANSWERS[position] == vector for position, vector in answers.items())
    assert all(EXPECTED_ANSWERS[position] == vector for position, vector in given_out.items())
    assert all(position < resumed_at for position in given_out if position not in answers)


def test_source_read_again_after_a_crash_gets_the_same_answers_and_changes_nothing() -> None:
    disk = MemoryDisk()
    store = open_store(disk)
    run(store, steps())
    again = open_store(disk.after_kill())
    assert run(again, steps()) == EXPECTED_ANSWERS
    assert again.state_digest() == EXPECTED_DIGEST


def test_what_is_held_and_no_longer_remembered_is_a_duplicate() -> None:
    disk = MemoryDisk()
    store = open_store(disk)
    run(store, steps())
    store.close()
    again = open_store(disk.after_kill())
    assert run(again, steps()) == {}
    assert again.state_digest() == EXPECTED_DIGEST


def test_batch_that_is_half_held_is_applied_by_its_other_half() -> None:
    store = open_store(MemoryDisk())
    store.advance(decoded(EVENTS[:70], Transaction, "payments"))
    batch = decoded(EVENTS[50:120], Transaction, "payments", 50)
    matrix = store.advance(batch)
    assert matrix.is_duplicate.tolist() == [True] * 20 + [False] * 50
    engine = Engine(PLAN)
    engine.advance(decoded(EVENTS[:70], Transaction, "payments"))
    expected = engine.advance(decoded(EVENTS[70:120], Transaction, "payments"))
    np.testing.assert_array_equal(matrix.values[20:], expected.values)
    assert store.state_digest() == engine.state_digest()


def test_hole_in_the_source_stops_with_its_name() -> None:
    store = open_store(MemoryDisk())
    store.advance(decoded(EVENTS[:10], Transaction, "payments"))
    digest = store.state_digest()
    with pytest.raises(SentinelError) as caught:
        store.advance(decoded(EVENTS[12:20], Transaction, "payments", 12))
    assert caught.value.code is ErrorCode.SOURCE_GAP
    assert caught.value.at == "payments/0"
    assert store.state_digest() == digest
    store.accept_gap("payments", 0, 12)
    store.advance(decoded(EVENTS[12:20], Transaction, "payments", 12))
    assert store.position("payments") == 20


def test_full_disk_applies_nothing_and_the_same_batch_may_come_again() -> None:
    disk = MemoryDisk()
    store = open_store(disk)
    store.advance(decoded(EVENTS[:50], Transaction, "payments"))
    digest = store.state_digest()
    disk.n_bytes_max = sum(len(disk.read(path)) for path in segment_paths(disk, FOLDER)) + 100
    batch = decoded(EVENTS[50:100], Transaction, "payments", 50)
    for _ in range(3):
        with pytest.raises(SentinelError) as caught:
            store.advance(batch)
        assert caught.value.code is ErrorCode.STATE_UNWRITABLE
        assert store.state_digest() == digest
    disk.n_bytes_max = None
    store.advance(batch)
    assert open_store(disk.after_power_cut(keep=0.0)).state_digest() == store.state_digest()


def test_damaged_newest_snapshot_is_passed_over_for_the_one_before() -> None:
    disk = MemoryDisk()
    store = open_store(disk)
    for k, (kind, batch) in enumerate(steps()):
        _ = store.learn(batch) if kind == "learn" else store.advance(batch)
        if k in {6, 14}:
            store.snapshot()
    newest, older = snapshot_paths(disk, FOLDER)
    content = bytearray(disk.read(newest))
    content[-1] ^= 1
    disk.remove(newest)
    disk.create(newest).write(bytes(content))
    again = open_store(disk.after_kill())
    assert again.state_digest() == EXPECTED_DIGEST
    assert len(again.recovery.skipped) == 1
    assert newest.name in again.recovery.skipped[0]
    assert again.recovery.snapshot == str(int(older.stem.removeprefix("snapshot-")))


def test_log_is_dropped_only_when_two_snapshots_cover_it() -> None:
    disk = MemoryDisk()
    store = open_store(disk, snapshot_every_events=100)
    n_segments = []
    for kind, batch in steps():
        _ = store.learn(batch) if kind == "learn" else store.advance(batch)
        store.maintain()
        n_segments.append(len(segment_paths(disk, FOLDER)))
    assert max(n_segments) <= 4
    assert len(snapshot_paths(disk, FOLDER)) == 2


def test_state_of_another_feature_set_is_refused() -> None:
    disk = MemoryDisk()
    open_store(disk).advance(decoded(EVENTS[:10], Transaction, "payments"))
    other = compile_plan(
        FeatureSet(
            "durable",
            version="2",
            events=Transaction,
            features=[Count("n_2h", by=CARD, over="2h")],
        )
    )
    with pytest.raises(SentinelError) as caught:
        EmbeddedStore(other, FOLDER, disk=disk)
    assert caught.value.code is ErrorCode.STATE_OF_ANOTHER_FEATURE_SET


def test_second_process_is_refused_and_the_lock_goes_with_its_owner(tmp_path: Path) -> None:
    store = EmbeddedStore(PLAN, tmp_path / "state")
    with pytest.raises(SentinelError) as caught:
        EmbeddedStore(PLAN, tmp_path / "state")
    assert caught.value.code is ErrorCode.STATE_LOCKED
    store.close()
    EmbeddedStore(PLAN, tmp_path / "state").close()


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_embedded as t
store = t.EmbeddedStore(t.PLAN, Path(sys.argv[2]), snapshot_every_events=130)
for kind, batch in t.steps(store.position("payments"), store.position("verdicts")):
    sys.stdin.readline()
    store.learn(batch) if kind == "learn" else store.advance(batch)
    store.maintain()
    print(store.position("payments"), flush=True)
print("done", store.state_digest(), flush=True)
"""


def test_kill_nine_at_random_moments_of_real_processes(tmp_path: Path) -> None:
    """Real files, real processes, SIGKILL: the last one ends in the undisturbed state."""
    rng = Random(11)
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(tmp_path / "state")]
    for _ in range(6):
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            # A line lets it take one batch: three a round leave some to the last process.
            process.stdin.write("\n" * 3)
            process.stdin.flush()
            process.stdout.readline()
            time.sleep(rng.random() * 0.01)
            os.kill(process.pid, signal.SIGKILL)
            assert process.wait(timeout=60) == -signal.SIGKILL
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=120
    )
    assert len(done.stdout.splitlines()) > 1, "the last one had nothing to do"
    assert done.stdout.split()[-1] == EXPECTED_DIGEST


def test_torn_log_moves_state_and_position_back_together() -> None:
    disk = MemoryDisk()
    store = open_store(disk, durability=Durability.PROCESS)
    run(store, steps())
    path = segment_paths(disk, FOLDER)[-1]
    torn = disk.after_kill()
    torn.truncate(path, len(torn.read(path)) - 5)
    again = open_store(torn)
    assert again.recovery.torn_tail is not None
    assert again.position("payments") == N_EVENTS - BATCH
    run(again, steps(again.position("payments"), again.position("verdicts")))
    assert again.state_digest() == EXPECTED_DIGEST


@needs_boot_id
@pytest.mark.reliability("B6")
@pytest.mark.parametrize("durability", list(Durability), ids=str)
def test_damage_before_whole_records_is_an_end_only_after_a_power_cut(
    tmp_path: Path, durability: Durability
) -> None:
    """One bit of a record in the middle of a real log, by a disk that rots or a cut that tears."""
    folder = tmp_path / "state"
    store = EmbeddedStore(PLAN, folder, durability=durability)
    run(store, steps())
    store.close(with_snapshot=False)
    (path,) = segment_paths(SystemDisk(), folder)
    content = bytearray(path.read_bytes())
    whole = bytes(content)
    places = [at for at in range(len(whole)) if whole.startswith(MARKER, at)]
    content[places[len(places) // 2] + RECORD_HEAD_BYTES + 8] ^= 1
    path.write_bytes(content)
    for _ in range(2):  # and it stays so
        with pytest.raises(SentinelError) as caught:
            EmbeddedStore(PLAN, folder, durability=durability)
        assert caught.value.code is ErrorCode.STATE_CORRUPT
        assert caught.value.at == f"{path.name}:{places[len(places) // 2]}"
    assert path.read_bytes() == bytes(content)
    (folder / "boot-id").write_text("00000000-0000-0000-0000-000000000000\n")
    if durability is Durability.POWER:
        # A later record says that it had been synced.
        with pytest.raises(SentinelError):
            EmbeddedStore(PLAN, folder, durability=durability)
        return
    again = EmbeddedStore(PLAN, folder, durability=durability)
    assert again.recovery.torn_tail is not None
    assert again.recovery.torn_tail.offset == places[len(places) // 2]
    run(again, steps(again.position("payments"), again.position("verdicts")))
    assert again.state_digest() == EXPECTED_DIGEST
    again.close()


@needs_boot_id
@pytest.mark.parametrize("kept", [None, b"", b"x" * 1000])
def test_a_folder_without_the_id_of_a_start_is_read_as_after_a_power_cut(
    tmp_path: Path, kept: bytes | None
) -> None:
    """Of an earlier version, or what a power cut left of it; the next start knows it again."""
    folder = tmp_path / "state"
    for _ in range(2):
        store = EmbeddedStore(PLAN, folder)
        store.close(with_snapshot=False)
        path = folder / "boot-id"
        assert path.read_text().strip() == BOOT_ID.read_text().strip()
        path.unlink()
        if kept is not None:
            path.write_bytes(kept)


def same_bits(left: npt.NDArray[np.float32], right: npt.NDArray[np.float32]) -> bool:
    return left.tobytes() == right.tobytes()


def test_store_without_fence_takes_positions_as_meaningless() -> None:
    store = open_store(MemoryDisk(), is_fenced=False)
    engine = Engine(PLAN)
    for start in range(0, 100, 10):
        batch = decoded(EVENTS[start : start + 10], Transaction, "requests")
        assert same_bits(store.advance(batch).values, engine.advance(batch).values)
    assert store.state_digest() == engine.state_digest()
