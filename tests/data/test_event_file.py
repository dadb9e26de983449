"""An event file is read whole, in order, in bounded memory, whatever it contains."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.contract import Decoder, RawBatch, RefusalCode
from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.data import EventFile
from sentinel.data.simulator import Transaction


def _events(batches: list[RawBatch]) -> list[bytes]:
    return [batch.event_bytes(i) for batch in batches for i in range(batch.n_events)]


def _positions(batches: list[RawBatch]) -> list[int]:
    return [int(position) for batch in batches for position in batch.positions]


def _read(path: Path, **how: int) -> list[RawBatch]:
    return list(EventFile(path).batches(**how))  # type: ignore[arg-type]


def _file(folder: Path, content: bytes) -> Path:
    path = folder / "events.ndjson"
    path.write_bytes(content)
    return path


def _assert_conserved(file: EventFile) -> None:
    progress = file.progress
    parts = progress.n_events + progress.n_blank_lines + progress.n_lines_before
    assert progress.n_lines == parts


# --- what cannot be read ----------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SentinelError) as caught:
        _read(tmp_path / "none.ndjson")
    assert caught.value.code is ErrorCode.FILE_MISSING
    assert caught.value.at.endswith("none.ndjson")


def _make_folder(path: Path) -> None:
    path.mkdir()


def _make_utf16(path: Path) -> None:
    path.write_bytes('{"a":1}\n'.encode("utf-16"))


def _make_parquet(path: Path) -> None:
    path.write_bytes(b"PAR1" + bytes(100) + b"PAR1")


@pytest.mark.parametrize(
    ("make", "got"),
    [
        (_make_folder, "a folder"),
        (os.mkfifo, "a pipe, a socket or a device"),
        (lambda path: path.symlink_to("/dev/zero"), "a pipe, a socket or a device"),
        (_make_utf16, "UTF-16 text"),
        (_make_parquet, "a Parquet file"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    ],
)
def test_what_is_not_a_file_of_lines_is_refused_by_name(tmp_path: Path, make, got: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "events.ndjson"
    make(path)
    with pytest.raises(SentinelError) as caught:
        _read(path)
    assert caught.value.code is ErrorCode.FILE_UNREADABLE
    assert caught.value.at == str(path)
    assert caught.value.got == got


def test_a_file_without_the_right_to_read_is_refused_by_name(tmp_path: Path) -> None:
    path = _file(tmp_path, b'{"a":1}\n')
    path.chmod(0)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    code = (
        "import os, sys, pathlib\n"
        "from sentinel.data import EventFile\n"
        "from sentinel.core.errors import SentinelError\n"
        "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "try: list(EventFile(pathlib.Path(sys.argv[1])).batches())\n"
        "except SentinelError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"file-unreadable: {path}: ")
    assert "Permission denied" in done.stdout


@pytest.mark.parametrize("n_events", [0, -1, limits.EVENT_FILE_BATCH_EVENTS_MAX + 1])
def test_a_batch_size_out_of_range_is_the_callers_mistake(tmp_path: Path, n_events: int) -> None:
    with pytest.raises(ValueError, match="n_events: expected 1 to"):
        EventFile(tmp_path / "a").batches(n_events)


# --- lines ------------------------------------------------------------------------------------


def test_a_zero_byte_file_gives_no_event_and_is_said_so(tmp_path: Path) -> None:
    file = EventFile(_file(tmp_path, b""))
    assert list(file.batches()) == []
    assert file.progress.is_complete
    assert file.progress.notes == ("The file is empty (0 bytes).",)


def test_a_file_of_blank_lines_gives_no_event_and_is_said_so(tmp_path: Path) -> None:
    file = EventFile(_file(tmp_path, b"\n\r\n\n"))
    assert list(file.batches()) == []
    assert file.progress.n_blank_lines == 3
    assert "The file holds no event." in file.progress.notes


@pytest.mark.parametrize(
    ("content", "events", "positions"),
    [
        (b'{"a":1}\n{"a":2}\n', [b'{"a":1}', b'{"a":2}'], [0, 1]),
        (b'{"a":1}\r\n{"a":2}\r\n', [b'{"a":1}', b'{"a":2}'], [0, 1]),
        (b'{"a":1}\n{"a":2}', [b'{"a":1}', b'{"a":2}'], [0, 1]),
        (b'{"a":1}\n\n\r\n{"a":2}\n', [b'{"a":1}', b'{"a":2}'], [0, 3]),
        (b"a\rb\n", [b"a\rb"], [0]),
        (b"  \n", [b"  "], [0]),
        (b"\xef\xbb\xbfa\nb\n", [b"a", b"b"], [0, 1]),
        (b"a\n\xef\xbb\xbfb\n", [b"a", b"\xef\xbb\xbfb"], [0, 1]),
        (b"\xef\xbb\xbf\na", [b"a"], [1]),
        (b"\xff\x00\x01\n", [b"\xff\x00\x01"], [0]),
        (b"a\r", [b"a"], [0]),
    ],
)
def test_lines_become_events_with_their_line_numbers(
    tmp_path: Path, content: bytes, events: list[bytes], positions: list[int]
) -> None:
    path = _file(tmp_path, content)
    file = EventFile(path)
    batches = list(file.batches())
    assert _events(batches) == events
    assert _positions(batches) == positions
    assert file.progress.n_bytes_read == len(content)
    _assert_conserved(file)


def test_a_last_line_without_line_end_is_handed_on_and_noted(tmp_path: Path) -> None:
    file = EventFile(_file(tmp_path, b'{"a":1}\n{"a":'))
    assert _events(list(file.batches())) == [b'{"a":1}', b'{"a":']
    assert file.progress.ends_without_newline
    assert "may have been cut off" in file.progress.notes[0]


@settings(max_examples=150, deadline=None)
@given(
    parts=st.lists(st.sampled_from([b"\n", b"\r\n", b"\r", b"a", b"bc", b"{}"]), max_size=40),
    n_events=st.integers(1, 7),
    first_position=st.integers(0, 5),
    block=st.integers(1, 9),
)
def test_any_bytes_in_any_blocks_give_what_splitting_at_line_feeds_gives(
    tmp_path_factory: pytest.TempPathFactory,
    parts: list[bytes],
    n_events: int,
    first_position: int,
    block: int,
) -> None:
    content = b"".join(parts)
    path = _file(tmp_path_factory.mktemp("lines"), content)
    lines = content.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    stripped = [line.removesuffix(b"\r") for line in lines]
    expected = [(i, line) for i, line in enumerate(stripped) if line and i >= first_position]
    file = EventFile(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "EVENT_FILE_BLOCK_BYTES", block)
        reading = file.batches(n_events, first_position=first_position)
        if first_position > len(lines):
            with pytest.raises(SentinelError) as caught:
                list(reading)
            assert caught.value.code is ErrorCode.EVENT_FILE_POSITION
            assert caught.value.at == str(path)
            return
        batches = list(reading)
    assert list(zip(_positions(batches), _events(batches), strict=True)) == expected
    assert all(batch.n_events == n_events for batch in batches[:-1])
    _assert_conserved(file)


def test_a_position_behind_the_end_is_an_error(tmp_path: Path) -> None:
    path = _file(tmp_path, b"a\nb\n")
    assert _read(path, first_position=2) == []
    with pytest.raises(SentinelError) as caught:
        _read(path, first_position=3)
    assert caught.value.code is ErrorCode.EVENT_FILE_POSITION
    assert caught.value.got == "2 lines"


def test_a_batch_that_was_handed_on_does_not_change_while_reading_goes_on(tmp_path: Path) -> None:
    lines = [b'{"n":%d}' % i for i in range(200_000)]
    batches = _read(_file(tmp_path, b"\n".join(lines) + b"\n"), n_events=1000)
    assert _events(batches) == lines


def test_batches_are_full_and_bounded_in_bytes(tmp_path: Path) -> None:
    line = b"x" * 50_000
    path = _file(tmp_path, (line + b"\n") * 1000)
    batches = _read(path, n_events=1000)
    assert max(batch.content.nbytes for batch in batches) <= limits.EVENT_FILE_BATCH_BYTES_MAX
    assert sum(batch.n_events for batch in batches) == 1000
    assert len(batches) == 3


def test_a_file_of_nothing_but_line_ends_is_read_in_bounded_memory(tmp_path: Path) -> None:
    file = EventFile(_file(tmp_path, b"\n" * (8 << 20)))
    tracemalloc.start()
    assert list(file.batches()) == []
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert file.progress.n_blank_lines == 8 << 20
    assert peak < 64 << 20


# --- long lines -------------------------------------------------------------------------------


def test_a_line_of_100_mb_becomes_one_event_too_large_with_its_whole_length(
    tmp_path: Path,
) -> None:
    path = tmp_path / "long.ndjson"
    n_bytes = 100_000_000
    with path.open("wb") as out:
        out.write(b'{"a":1}\n')
        for _ in range(100):
            out.write(b"x" * (n_bytes // 100))
        out.write(b'\r\n{"a":2}\n')
    file = EventFile(path)
    tracemalloc.start()
    batches = list(file.batches())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    events = _events(batches)
    assert [len(event) for event in events] == [7, limits.EVENT_FILE_LINE_HEAD_BYTES, 7]
    assert len(events[1]) > limits.EVENT_BYTES_MAX
    lengths = [
        int(length)
        for batch in batches
        for length in (
            batch.ends - batch.starts if batch.whole_lengths is None else batch.whole_lengths
        )
    ]
    assert lengths == [7, n_bytes, 7]
    assert _positions(batches) == [0, 1, 2]
    assert file.progress.n_events_cut == 1
    assert peak < 8 * limits.EVENT_FILE_BLOCK_BYTES
    _assert_conserved(file)


def test_a_cut_line_is_refused_by_any_contract_with_its_whole_length(tmp_path: Path) -> None:
    n_bytes = 3_000_000
    path = _file(tmp_path, b"x" * n_bytes + b"\n")
    (batch,) = _read(path)
    decoded = Decoder(Transaction.schema).decode(batch)
    (refusal,) = decoded.refusals
    assert refusal.code is RefusalCode.BODY_TOO_LARGE
    assert str(n_bytes) in str(refusal.faults[0])


@pytest.mark.parametrize("extra", [-1, 0, 1, 2])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_lines_near_the_limit_are_whole_or_cut_wherever_they_lie(
    tmp_path: Path, extra: int, end: bytes
) -> None:
    n_bytes = limits.EVENT_FILE_LINE_BYTES_MAX + extra
    # The first line moves the second over the edge of a block.
    filler = b"f" * (limits.EVENT_FILE_BLOCK_BYTES - n_bytes // 2)
    filler = b"\n".join(filler[i : i + 60_000] for i in range(0, len(filler), 60_000))
    batches = _read(_file(tmp_path, filler + b"\n" + b"x" * n_bytes + end))
    last = batches[-1]
    head = limits.EVENT_FILE_LINE_HEAD_BYTES
    assert len(last.event_bytes(last.n_events - 1)) == (head if extra > 0 else n_bytes)
    if extra > 0:
        assert last.whole_lengths is not None
        assert last.whole_lengths[-1] == n_bytes


# --- files that grow, shrink, are replaced ----------------------------------------------------


def test_a_file_that_grows_is_read_to_where_it_was_when_it_was_opened(tmp_path: Path) -> None:
    path = _file(tmp_path, b'{"a":1}\n{"a":')
    reading = EventFile(path).batches(1)
    events = [next(reading).event_bytes(0)]
    with path.open("ab") as out:
        out.write(b'2}\n{"a":3}\n')
    events += [batch.event_bytes(0) for batch in reading]
    assert events == [b'{"a":1}', b'{"a":2}']


def test_a_line_that_had_begun_is_finished_whatever_is_behind_it(tmp_path: Path) -> None:
    path = _file(tmp_path, b"a\nb")
    file = EventFile(path)
    reading = file.batches(1)
    next(reading)
    with path.open("ab") as out:
        out.write(b"b" * 10_000_000)
        out.write(b"\nc\n")
    rest = list(reading)
    assert len(rest) == 1
    assert rest[0].whole_lengths is not None
    assert rest[0].whole_lengths.tolist() == [10_000_001]
    assert file.progress.n_lines == 2


def test_a_followed_file_hands_on_a_line_only_when_it_has_ended(tmp_path: Path) -> None:
    path = _file(tmp_path, b'{"a":1}\n{"a":')
    stop = threading.Event()
    file = EventFile(path)
    reading = file.batches(follow=True, stop=stop)
    assert next(reading).event_bytes(0) == b'{"a":1}'
    with path.open("ab") as out:
        out.write(b'2}\n{"a":3}\n{"')
    batch = next(reading)
    assert [batch.event_bytes(i) for i in range(2)] == [b'{"a":2}', b'{"a":3}']
    stop.set()
    assert list(reading) == []
    assert file.progress.n_lines == 3
    assert file.progress.is_complete


def test_a_writer_in_another_thread_loses_no_line_to_its_follower(tmp_path: Path) -> None:
    path = _file(tmp_path, b"")
    stop = threading.Event()
    lines = [b'{"n":%d}' % i for i in range(5000)]

    def write() -> None:
        content = b"\n".join(lines) + b"\n"
        with path.open("ab", buffering=0) as out:
            for first in range(0, len(content), 97):
                out.write(content[first : first + 97])
        stop.set()

    writer = threading.Thread(target=write)
    writer.start()
    batches = list(EventFile(path).batches(64, follow=True, stop=stop))
    writer.join()
    assert _events(batches) == lines


@pytest.mark.parametrize("follow", [False, True])
def test_a_file_that_gets_shorter_is_an_error_after_what_was_whole(
    tmp_path: Path, follow: bool
) -> None:
    path = _file(tmp_path, b"x" * 99 + b"\n" + (b"y" * 99 + b"\n") * 100_000)
    reading = EventFile(path).batches(1000, follow=follow)
    first = next(reading)
    os.truncate(path, 100)
    with pytest.raises(SentinelError) as caught:
        list(reading)
    assert first.n_events == 1000
    assert caught.value.code is ErrorCode.EVENT_FILE_CHANGED
    assert caught.value.at == str(path)


@pytest.mark.parametrize("again", [True, False])
def test_a_followed_file_that_is_replaced_is_an_error(tmp_path: Path, again: bool) -> None:
    path = _file(tmp_path, b"a\n")
    reading = EventFile(path).batches(follow=True)
    next(reading)
    path.rename(tmp_path / "old.ndjson")
    if again:
        path.write_bytes(b"b\n")
    with pytest.raises(SentinelError) as caught:
        next(reading)
    assert caught.value.code is ErrorCode.EVENT_FILE_CHANGED
    assert caught.value.got == ("another one" if again else "nothing under its name")


# --- compressed -------------------------------------------------------------------------------


def _zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, codec="zstd", asbytes=True))


_LINES = [b'{"n":%d,"x":"%d"}' % (i, i * 7919 % 104_729) for i in range(20_000)]
_CONTENT = b"\n".join(_LINES) + b"\n"


@pytest.mark.parametrize("compress", [gzip.compress, _zstd])
def test_compressed_files_are_told_by_content(tmp_path: Path, compress) -> None:  # type: ignore[no-untyped-def]
    path = _file(tmp_path, compress(_CONTENT))
    file = EventFile(path)
    assert _events(list(file.batches())) == _LINES
    assert file.progress.n_bytes_read == path.stat().st_size == file.progress.n_bytes


@pytest.mark.parametrize("compress", [gzip.compress, _zstd])
def test_two_compressed_parts_in_a_row_are_read_as_one(tmp_path: Path, compress) -> None:  # type: ignore[no-untyped-def]
    path = _file(tmp_path, compress(_CONTENT) + compress(b"last\n"))
    assert _events(_read(path)) == [*_LINES, b"last"]


@pytest.mark.parametrize("compress", [gzip.compress, _zstd])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_cut_off_compressed_file_hands_on_what_is_whole_and_then_fails(
    tmp_path: Path,
    compress,
    share: float,  # type: ignore[no-untyped-def]
) -> None:
    content = compress(_CONTENT)
    path = _file(tmp_path, content[: max(4, int(len(content) * share))])
    file = EventFile(path)
    batches: list[RawBatch] = []
    with pytest.raises(SentinelError) as caught:
        batches.extend(file.batches())
    assert caught.value.code is ErrorCode.EVENT_FILE_DAMAGED
    assert caught.value.at == str(path)
    assert _events(batches) == _LINES[: len(_events(batches))]
    assert share < 0.9 or len(_events(batches)) > 100
    _assert_conserved(file)


@pytest.mark.parametrize("compress", [gzip.compress, _zstd])
@pytest.mark.parametrize("seed", range(20))
def test_flipped_bits_in_a_compressed_file_never_crash(tmp_path: Path, compress, seed: int) -> None:  # type: ignore[no-untyped-def]
    content = bytearray(compress(_CONTENT))
    place = seed * 7919 % (len(content) - 4) + 4
    content[place] ^= 1 << seed % 8
    path = _file(tmp_path, bytes(content))
    file = EventFile(path)
    faults: list[SentinelError] = []
    try:
        list(file.batches())
    except SentinelError as error:
        faults.append(error)
    assert all(fault.code is ErrorCode.EVENT_FILE_DAMAGED for fault in faults)
    assert all(fault.at == str(path) for fault in faults)
    _assert_conserved(file)


@pytest.mark.parametrize("compress", [gzip.compress, _zstd])
def test_a_bomb_is_refused_in_bounded_memory(
    tmp_path: Path,
    compress,
    monkeypatch: pytest.MonkeyPatch,  # type: ignore[no-untyped-def]
) -> None:
    monkeypatch.setattr(limits, "EVENT_FILE_EXPANSION_FREE_BYTES", 1 << 20)
    path = _file(tmp_path, compress(bytes(64 << 20)))
    file = EventFile(path)
    tracemalloc.start()
    with pytest.raises(SentinelError) as caught:
        list(file.batches())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert caught.value.code is ErrorCode.EVENT_FILE_DAMAGED
    assert "expands at most" in caught.value.expected
    assert peak < 32 << 20


def test_a_compressed_file_cannot_be_followed(tmp_path: Path) -> None:
    path = _file(tmp_path, gzip.compress(b"a\n"))
    with pytest.raises(SentinelError) as caught:
        list(EventFile(path).batches(follow=True))
    assert caught.value.code is ErrorCode.FILE_UNREADABLE
    assert caught.value.got == "a compressed one"
