"""A log of files: whole frames or none, several writers, torn tails, damage, full disks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.streaming.file_log.frames import decode_frame, encode_frame, read_head
from sentinel.streaming.file_log.log import FileLogWriter, create_topic, partitions_of
from sentinel.streaming.file_log.reader import FileLog
from sentinel.streaming.stream.event_log import Ends
from sentinel.testing import can_mount, small_disk

Values = list[bytes | None]


def values_of(folder: Path, partition: int = 0, first: int = 0) -> list[bytes]:
    """Read a partition whole."""
    log = FileLog(folder, "t")
    log.add({partition: first})
    found: list[bytes] = []
    while True:
        read = log.read(1000, 0.0)
        for batch in read.batches:
            raw = batch.raw
            assert raw.positions.tolist() == list(
                range(first + len(found), first + len(found) + raw.n_events)
            )
            found += [raw.event_bytes(i) for i in range(raw.n_events)]
        if not read.batches:
            assert read.at_end == {partition: first + len(found)}
            log.close()
            return found


def segments(folder: Path) -> list[Path]:
    return sorted((folder / "t" / "00000").glob("*.events"))


def read_often(log: FileLog) -> None:
    for _ in range(9):
        log.read(10, 0.0)


def fill(writer: FileLogWriter, *, n_bytes: int) -> None:
    for _ in range(100):
        writer.append(0, [b"y" * n_bytes] * 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    create_topic(tmp_path, "t", 2)
    return tmp_path


@given(
    st.lists(
        st.tuples(st.none() | st.binary(max_size=20), st.none() | st.binary(max_size=5)), min_size=1
    ),
    st.integers(0, 1 << 62),
)
def test_a_frame_is_read_as_it_was_written(
    events: list[tuple[bytes | None, bytes | None]], first: int
) -> None:
    values, keys = [v for v, _ in events], [k for _, k in events]
    content = memoryview(encode_frame(first, values, keys, list(range(len(events)))))
    head = read_head(content)
    assert head is not None
    assert (head.first_position, head.n_events, head.n_bytes) == (first, len(events), len(content))
    frame = decode_frame(head, content)
    assert frame is not None
    assert frame.values.tobytes() == b"".join(v or b"" for v in values)
    assert frame.lengths.tolist() == [-1 if v is None else len(v) for v in values]
    assert frame.key_lengths.tolist() == [-1 if k is None else len(k) for k in keys]
    assert frame.times_ms.tolist() == list(range(len(events)))


@given(st.data())
@settings(max_examples=300)
def test_one_flipped_bit_is_no_frame(data: st.DataObject) -> None:
    content = bytearray(encode_frame(7, [b"one", None, b"three"], [b"k", None, b""], [1, 2, 3]))
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    head = read_head(memoryview(bytes(content)))
    assert head is None or head.n_bytes != len(content) or not decode_frame(head, content)


def test_segments_follow_one_another_and_are_named_by_their_first_position(folder: Path) -> None:
    writer = FileLogWriter(folder, "t", segment_bytes=500)
    sent = [b"%d" % i * 20 for i in range(100)]
    for first in range(0, 100, 4):
        assert writer.append(0, sent[first : first + 4]) == first
    writer.close()
    assert len(segments(folder)) > 5
    assert values_of(folder) == sent
    for first in (0, 1, 3, 4, 50, 99, 100):
        assert values_of(folder, first=first) == sent[first:]


def test_a_writer_that_opens_later_goes_on_at_the_end(folder: Path) -> None:
    for number in range(5):
        writer = FileLogWriter(folder, "t", segment_bytes=200)
        assert writer.append(0, [b"x" * 50] * 3) == 3 * number
        writer.close()
    assert len(values_of(folder)) == 15


def test_two_writers_in_turns_see_each_others_events(folder: Path) -> None:
    first, second = FileLogWriter(folder, "t"), FileLogWriter(folder, "t", segment_bytes=300)
    places = [
        writer.append(0, [b"%d" % number])
        for number in range(40)
        for writer in ((first, second) if number % 3 else (second, first))
    ]
    assert places == list(range(80))
    assert len(values_of(folder)) == 80


APPEND = """
import sys
from pathlib import Path
from sentinel.streaming.file_log.log import FileLogWriter
writer = FileLogWriter(Path(sys.argv[1]), "t", segment_bytes=4000)
number = 0
while True:
    values = [b"%s/%d" % (sys.argv[2].encode(), number + i) for i in range(3)]
    writer.append(0, values)
    number += 3
    print(number, flush=True)
"""


@pytest.mark.reliability("C4", t1=2, t2=50, t3=300)
def test_writers_that_are_killed_leave_whole_frames_only(folder: Path, trials) -> None:
    """Three processes append to one partition; each is killed in the middle of its work."""
    said: dict[str, int] = {}
    for seed in trials:
        children = {
            name: subprocess.Popen(
                [sys.executable, "-c", APPEND, str(folder), name], stdout=subprocess.PIPE, text=True
            )
            for name in (f"a{seed}", f"b{seed}", f"c{seed}")
        }
        for name, child in children.items():
            assert child.stdout is not None
            for _ in range(20 + 7 * seed):
                said[name] = int(child.stdout.readline())
        for child in children.values():
            child.send_signal(signal.SIGKILL)
        for name, child in children.items():
            out, _ = child.communicate(timeout=30)
            whole = [line for line in out.splitlines(keepends=True) if line.endswith("\n")]
            said[name] = max([said[name], *map(int, whole)])
    found: dict[str, list[int]] = {}
    for value in values_of(folder):
        name, number = value.decode().split("/")
        found.setdefault(name, []).append(int(number))
    assert found.keys() == said.keys()
    for name, numbers in found.items():
        assert numbers == list(range(len(numbers)))
        assert len(numbers) % 3 == 0
        assert len(numbers) >= said[name]


@pytest.mark.reliability("C1", t1=120, t2=2_000, t3=20_000)
def test_a_tail_torn_at_any_byte_is_not_there_and_is_cut_off_by_the_next_append(
    tmp_path: Path, trials
) -> None:
    for number in trials:
        folder = tmp_path / str(number)
        create_topic(folder, "t", 1)
        writer = FileLogWriter(folder, "t")
        writer.append(0, [b"good", b"events"])
        n_good = segments(folder)[0].stat().st_size
        writer.append(0, [b"torn", b"frame" * 7])
        writer.close()
        (path,) = segments(folder)
        n_torn = path.stat().st_size - n_good
        os.truncate(path, n_good + number % n_torn)
        if number % 2:
            with path.open("ab") as file:
                file.write(b"\xff" * (number % 11))
        assert values_of(folder) == [b"good", b"events"]
        writer = FileLogWriter(folder, "t")
        assert writer.append(0, [b"next"]) == 2
        writer.close()
        assert values_of(folder) == [b"good", b"events", b"next"]


def test_a_reader_waits_at_a_torn_tail_and_goes_on_when_it_is_mended(folder: Path) -> None:
    writer = FileLogWriter(folder, "t")
    writer.append(0, [b"a"])
    log = FileLog(folder, "t")
    log.add({0: 0})
    assert log.read(10, 0.0).batches[0].raw.n_events == 1
    with segments(folder)[0].open("ab") as file:
        file.write(encode_frame(1, [b"torn"], None, None)[:-8])
    assert log.read(10, 0.0).at_end == {0: 1}
    assert log.ends(0) == Ends(0, 1)
    FileLogWriter(folder, "t").append(0, [b"b", b"c"])
    (batch,) = log.read(10, 0.0).batches
    assert batch.raw.positions.tolist() == [1, 2]
    writer.close()
    log.close()


@pytest.mark.parametrize("where", ["frame behind", "segment behind"])
def test_what_a_disk_damaged_is_an_error_with_its_place(folder: Path, where: str) -> None:
    writer = FileLogWriter(folder, "t", segment_bytes=100 if "segment" in where else 10_000)
    for number in range(4):
        writer.append(0, [b"%d" % number * 30])
    writer.close()
    path = segments(folder)[1 if "segment" in where else 0]
    content = bytearray(path.read_bytes())
    at = len(content) // 4 + 40
    content[at] ^= 4
    path.write_bytes(bytes(content))
    with pytest.raises(SentinelError) as caught:
        values_of(folder)
    assert caught.value.code is ErrorCode.EVENT_FILE_DAMAGED
    assert str(path) in caught.value.at
    assert "byte" in caught.value.at


def test_a_segment_that_was_taken_away_is_out_of_range_or_damage(folder: Path) -> None:
    """Removed at the beginning: a shorter log. In the middle: never passed over."""
    writer = FileLogWriter(folder, "t", segment_bytes=150)
    for number in range(9):
        writer.append(0, [b"%d" % number * 60])
    writer.close()
    segments(folder)[0].unlink()
    low = int(segments(folder)[0].stem)
    log = FileLog(folder, "t")
    log.add({0: 0})
    assert log.read(10, 0.0).out_of_range == (0,)
    assert log.ends(0) == Ends(low, 9)
    segments(folder)[1].unlink()
    log.seek(0, low)
    with pytest.raises(SentinelError) as caught:
        read_often(log)
    assert caught.value.code is ErrorCode.EVENT_FILE_DAMAGED
    log.close()


def test_forgetting_removes_whole_segments_before_a_position(folder: Path) -> None:
    writer = FileLogWriter(folder, "t", segment_bytes=200)
    for number in range(12):
        writer.append(0, [b"%d" % number * 40])
    assert writer.forget(0, 0) == 0
    low = writer.forget(0, 7)
    assert 0 < low <= 7
    assert FileLog(folder, "t").ends(0) == Ends(low, 12)
    assert len(values_of(folder, first=low)) == 12 - low
    assert writer.forget(0, 100) < 12, "the last segment stays"
    writer.close()


@pytest.mark.reliability("C8", t1=5, t2=50, t3=500)
def test_a_full_disk_takes_nothing_and_all_of_it_later(tmp_path: Path, trials) -> None:
    if not can_mount():
        pytest.skip("needs the right to mount a disk in memory")
    for seed in trials:
        place = tmp_path / str(seed)
        place.mkdir()
        with small_disk(place, n_bytes=256 << 10) as folder:
            create_topic(folder, "t", 1)
            writer = FileLogWriter(folder, "t")
            hog = folder / "hog"
            hog.write_bytes(b"x" * (100 << 10))
            with pytest.raises(SentinelError) as caught:
                fill(writer, n_bytes=5_000 + 100 * seed)
            assert caught.value.code is ErrorCode.FILE_UNWRITABLE
            n_sent = FileLog(folder, "t").ends(0).high
            assert n_sent > 0
            assert len(values_of(folder)) == n_sent
            hog.unlink()
            assert writer.append(0, [b"after"]) == n_sent
            assert values_of(folder)[-1] == b"after"
            writer.close()


def test_what_is_no_topic_is_refused(tmp_path: Path) -> None:
    for topic, n_partitions in (("t", 0), ("t", limits.STREAM_PARTITIONS_MAX + 1), ("../t", 1)):
        with pytest.raises(SentinelError) as caught:
            create_topic(tmp_path, topic, n_partitions)
        assert caught.value.code is ErrorCode.USAGE_INVALID
    assert partitions_of(tmp_path, "t") == 0
    with pytest.raises(SentinelError) as caught:
        FileLogWriter(tmp_path, "t")
    assert caught.value.code is ErrorCode.STREAM_TOPIC_MISSING
    create_topic(tmp_path, "t", 1)
    create_topic(tmp_path, "t", 5)
    assert partitions_of(tmp_path, "t") == 1, "a topic that is there is left alone"
    with pytest.raises(SentinelError) as caught:
        FileLogWriter(tmp_path, "t").append(1, [b"x"])
    assert caught.value.at == "t/1"
