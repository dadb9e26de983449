"""Quarantine: whole or not at all, bounded in every way, and nothing lost in silence."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.contract import (
    Decoder,
    Fault,
    Quarantine,
    QuarantineRules,
    RawBatch,
    Refusal,
    RefusalCode,
    UnwritablePolicy,
    read_quarantine,
)
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.testing import ManualClock, can_mount, small_disk
from sentinel.testing.memory_disk import DiskCall, MemoryDisk

FOLDER = Path("/quarantine")
CODE = RefusalCode.WRONG_TYPE


def refusal(position: int = 0, *, content: bytes = b"{}", code: RefusalCode = CODE) -> Refusal:
    """Make a refusal."""
    fault = Fault(code, "$.amount", "a number", '"x"')
    return Refusal(code, (fault,), "cards", 2, position, content, len(content))


def total(quarantine: Quarantine) -> int:
    """Add up what became of the refusals."""
    counts = quarantine.counts()
    assert sum(counts.by_code.values()) == counts.kept + counts.sampled_out + counts.dropped
    return counts.kept + counts.sampled_out + counts.dropped


def test_what_was_kept_is_read_back(tmp_path: Path, decoder: Decoder) -> None:
    events = [b'{"id":1}', b"\xff\xfe\x00", b"", '{"id":"é\u2028"}'.encode(), b"[" * 70_000]
    refusals = decoder.decode(RawBatch.from_events(events, source="cards")).refusals
    clock = ManualClock()
    with Quarantine(tmp_path / "q", clock=clock) as quarantine:
        quarantine.put(refusals[:2])
        quarantine.put(refusals[2:])
    records = list(read_quarantine(tmp_path / "q"))
    assert [record.content for record in records] == [
        *events[:4],
        refusals[4].content,
    ]
    for record, kept in zip(records, refusals, strict=True):
        assert record.at_ms == clock.now_ms()
        assert (record.code, record.faults) == (kept.code, kept.faults)
        assert (record.source, record.partition, record.position) == ("cards", 0, kept.position)
        assert record.n_bytes == kept.n_bytes
    assert records[4].n_bytes == 70_000
    assert quarantine.counts().kept == 5


@given(content=st.binary(max_size=200))
def test_any_content_round_trips_on_one_line(content: bytes) -> None:
    disk = MemoryDisk()
    with Quarantine(FOLDER, disk=disk, clock=ManualClock()) as quarantine:
        quarantine.put([refusal(content=content)])
    (record,) = read_quarantine(FOLDER, disk=disk)
    assert record.content == content
    assert disk.read(FOLDER / "refusals-0000000000.jsonl").count(b"\n") == 1


def test_segments_are_bounded_in_size_age_and_number() -> None:
    disk, clock = MemoryDisk(), ManualClock()
    rules = QuarantineRules(segment_bytes_max=1000, segment_age_ms_max=10_000, segments_max=3)
    quarantine = Quarantine(FOLDER, rules=rules, disk=disk, clock=clock)
    for position in range(60):
        quarantine.put([refusal(position)])
    names = disk.names(FOLDER)
    assert len(names) == 3
    assert all(len(disk.read(FOLDER / name)) <= 1000 for name in names)
    positions = [record.position for record in read_quarantine(FOLDER, disk=disk)]
    assert positions == list(range(60 - len(positions), 60))
    assert quarantine.counts().segments_removed > 0
    newest = names[-1]
    clock.advance(10.001)
    quarantine.put([refusal(60)])
    assert disk.names(FOLDER)[-1] > newest
    assert total(quarantine) == 61


def test_past_the_limit_of_a_minute_refusals_are_sampled_and_counted() -> None:
    disk, clock = MemoryDisk(), ManualClock()
    rules = QuarantineRules(kept_per_minute_max=10, sample_every=5)
    quarantine = Quarantine(FOLDER, rules=rules, disk=disk, clock=clock)
    rare = RefusalCode.TIME_SKEW
    quarantine.put([refusal(i) for i in range(30)] + [refusal(99, code=rare)])
    counts = quarantine.counts()
    assert (counts.kept, counts.sampled_out) == (15, 16)
    assert counts.by_code == {CODE: 30, rare: 1}
    records = list(read_quarantine(FOLDER, disk=disk))
    assert [record.position for record in records] == [*range(10), 14, 19, 24, 29, 99]
    clock.advance(60.0)
    quarantine.put([])
    assert list(read_quarantine(FOLDER, disk=disk))[-1].sampled_out == {"wrong_type": 16}
    quarantine.put([refusal(100)])
    assert quarantine.counts().kept == 16


def test_open_counts_are_written_when_it_is_closed() -> None:
    disk = MemoryDisk()
    rules = QuarantineRules(kept_per_minute_max=1, sample_every=1000)
    with Quarantine(FOLDER, rules=rules, disk=disk, clock=ManualClock()) as quarantine:
        quarantine.put([refusal(i) for i in range(5)])
    quarantine.close()
    records = list(read_quarantine(FOLDER, disk=disk))
    assert [record.sampled_out for record in records] == [{}, {"wrong_type": 4}]


def test_a_new_process_starts_a_new_segment_and_forgets_nothing() -> None:
    disk = MemoryDisk()
    for position in range(3):
        Quarantine(FOLDER, disk=disk, clock=ManualClock()).put([refusal(position)])
    assert len(disk.names(FOLDER)) == 3
    assert [record.position for record in read_quarantine(FOLDER, disk=disk)] == [0, 1, 2]


def test_a_full_disk_stops_before_anything_is_skipped() -> None:
    disk = MemoryDisk(n_bytes_max=1000)
    quarantine = Quarantine(FOLDER, disk=disk, clock=ManualClock())
    quarantine.put([refusal(0)])
    size = len(disk.read(FOLDER / disk.names(FOLDER)[0]))
    kept = 1000 // size
    for position in range(1, kept):
        quarantine.put([refusal(position)])
    with pytest.raises(SentinelError) as caught:
        quarantine.put([refusal(kept)])
    assert caught.value.code is ErrorCode.QUARANTINE_UNWRITABLE
    assert caught.value.at == str(FOLDER)
    assert total(quarantine) == quarantine.counts().kept == kept
    assert len(list(read_quarantine(FOLDER, disk=disk))) == kept
    disk.n_bytes_max = None
    quarantine.put([refusal(kept)])
    positions = [record.position for record in read_quarantine(FOLDER, disk=disk)]
    assert positions == list(range(kept + 1))


def test_a_full_disk_is_counted_where_the_policy_says_so() -> None:
    disk = MemoryDisk(n_bytes_max=1000)
    rules = QuarantineRules(unwritable=UnwritablePolicy.COUNT)
    quarantine = Quarantine(FOLDER, rules=rules, disk=disk, clock=ManualClock())
    for position in range(100):
        quarantine.put([refusal(position)])
    counts = quarantine.counts()
    assert counts.kept + counts.dropped == total(quarantine) == 100
    assert counts.dropped > 90
    assert len(list(read_quarantine(FOLDER, disk=disk))) == counts.kept


def test_every_failing_call_leaves_whole_lines_and_true_counts() -> None:
    """The n-th call to the disk fails, for every n; then the batch comes again."""
    rules = QuarantineRules(segment_bytes_max=400, segments_max=50)
    n_failures = 0
    for failing in range(1, 60):
        calls = Counter[str]()

        def fail(call: DiskCall, failing: int = failing, calls: Counter[str] = calls) -> None:
            calls["all"] += 1
            if call.number == failing:
                calls["failed"] += 1
                raise OSError(errno.EIO, "Input/output error")

        disk = MemoryDisk(before_call=fail)
        try:
            quarantine = Quarantine(FOLDER, rules=rules, disk=disk, clock=ManualClock())
        except SentinelError as error:
            assert error.code is ErrorCode.QUARANTINE_UNWRITABLE  # noqa: PT017 -- of many calls
            continue
        for position in range(6):
            batch = [refusal(position)]
            try:
                quarantine.put(batch)
            except SentinelError:
                quarantine.put(batch)
        n_failures += calls["failed"]
        disk.before_call = None
        read = [record.position for record in read_quarantine(FOLDER, disk=disk)]
        assert sorted(set(read)) == list(range(6)), failing
        assert total(quarantine) == quarantine.counts().kept == 6
    assert n_failures > 10


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    with pytest.raises(SentinelError) as caught:
        Quarantine(file / "q")
    assert caught.value.code is ErrorCode.QUARANTINE_UNWRITABLE
    assert caught.value.at == str(file / "q")


def test_a_torn_last_line_is_passed_over_and_a_damaged_one_is_named() -> None:
    disk = MemoryDisk()
    Quarantine(FOLDER, disk=disk, clock=ManualClock()).put([refusal(0), refusal(1)])
    path = FOLDER / "refusals-0000000000.jsonl"
    whole = disk.read(path)
    disk.truncate(path, len(whole) - 3)
    assert [record.position for record in read_quarantine(FOLDER, disk=disk)] == [0]
    other = disk.create(FOLDER / "refusals-0000000001.jsonl")
    other.write(b'{"at_ms":1}\n{"at_ms":"soon"}\n')
    with pytest.raises(SentinelError) as caught:
        list(read_quarantine(FOLDER, disk=disk))
    assert caught.value.code is ErrorCode.QUARANTINE_DAMAGED
    assert caught.value.at.endswith("refusals-0000000001.jsonl:2")


def test_a_really_full_disk_stops_and_loses_nothing(tmp_path: Path) -> None:
    if not can_mount():
        pytest.skip("this process may not mount; the disk in memory stands in")
    with small_disk(tmp_path, n_bytes=1 << 20) as folder:
        quarantine = Quarantine(folder, clock=ManualClock())
        large = [refusal(i, content=b"x" * 60_000) for i in range(30)]
        with pytest.raises(SentinelError) as caught:
            put_one_by_one(quarantine, large)
        assert caught.value.code is ErrorCode.QUARANTINE_UNWRITABLE
        assert caught.value.at == str(folder)
        kept = quarantine.counts().kept
        assert 10 < kept < 20
        assert [record.position for record in read_quarantine(folder)] == list(range(kept))


def put_one_by_one(quarantine: Quarantine, refusals: list[Refusal]) -> None:
    """Put refusals in batches of one."""
    for one in refusals:
        quarantine.put([one])


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(SentinelError) as caught:
        list(read_quarantine(tmp_path / "nothing"))
    assert caught.value.code is ErrorCode.FILE_MISSING
    assert caught.value.at == str(tmp_path / "nothing")


def test_hostile_text_stays_on_its_line(
    tmp_path: Path, decoder: Decoder, event: Callable[..., bytes]
) -> None:
    forged = event(card='"x\\n{\\"at_ms\\":1}"', id='"\x1b[31m"')
    raw = event(note='"a\nb"').replace(b"a\nb", b"a\n{}\nb\r\x00\x1b[31m")
    with Quarantine(tmp_path / "q", clock=ManualClock()) as quarantine:
        quarantine.put(decoder.decode(RawBatch.from_events([forged, raw])).refusals)
    (path,) = (tmp_path / "q").iterdir()
    lines = path.read_bytes().splitlines()
    assert len(lines) == 2
    assert all(msgspec.json.decode(line)["source"] == "memory" for line in lines)
    assert all(byte >= 32 for line in lines for byte in line)
