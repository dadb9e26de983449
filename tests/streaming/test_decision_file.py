"""A file of decisions is whole, or plainly unfinished and can be continued."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.streaming.decision_file import DecisionFile

LINES = [f'{{"n":{i}}}\n'.encode() for i in range(20)]


def unfinished(folder: Path, *, checkpoint_after: int, lines_after: int) -> DecisionFile:
    """Write some lines, a checkpoint, more lines, and stop as `kill -9` does."""
    file = DecisionFile(folder / "out.ndjson", run="a")
    file.start()
    file.write(b"".join(LINES[:checkpoint_after]))
    file.save_checkpoint(next_position=checkpoint_after, counts={"decided": checkpoint_after})
    file.write(b"".join(LINES[checkpoint_after : checkpoint_after + lines_after]))
    file.close()
    return file


def test_a_finished_file_stands_alone(tmp_path: Path) -> None:
    file = DecisionFile(tmp_path / "out.ndjson", run="a")
    file.start()
    file.write(LINES[0])
    assert not (tmp_path / "out.ndjson").exists()
    file.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["out.ndjson"]
    assert (tmp_path / "out.ndjson").read_bytes() == LINES[0]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    checkpoint_after=st.integers(min_value=0, max_value=15),
    lines_after=st.integers(min_value=0, max_value=5),
)
def test_an_interrupted_file_is_continued_at_its_checkpoint(
    tmp_path: Path, checkpoint_after: int, lines_after: int
) -> None:
    """Whatever was written after the checkpoint is cut off and written once more."""
    unfinished(tmp_path, checkpoint_after=checkpoint_after, lines_after=lines_after)
    file = DecisionFile(tmp_path / "out.ndjson", run="a")
    checkpoint = file.resume()
    assert checkpoint is not None
    assert checkpoint.counts == {"decided": checkpoint_after}
    file.write(b"".join(LINES[checkpoint.next_position :]))
    file.finish()
    assert file.path.read_bytes() == b"".join(LINES)


def test_without_a_checkpoint_resuming_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "out.ndjson.partial").write_bytes(b"half a line")
    file = DecisionFile(tmp_path / "out.ndjson", run="a")
    assert file.resume() is None
    file.finish()
    assert file.path.read_bytes() == b""


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    unfinished(tmp_path, checkpoint_after=3, lines_after=0)
    with pytest.raises(SentinelError) as caught:
        DecisionFile(tmp_path / "out.ndjson", run="b").resume()
    assert caught.value.code is ErrorCode.CHECKPOINT_MISMATCH
    assert caught.value.at.endswith("out.ndjson.checkpoint.json")
    assert (tmp_path / "out.ndjson.partial").read_bytes() == b"".join(LINES[:3])


def test_what_another_run_did_otherwise_is_named_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "out.ndjson"
    with contextlib.closing(DecisionFile(path, run="a", made_of={"--batch-events": "5"})) as file:
        file.start()
        file.save_checkpoint(next_position=0, counts={})
    with pytest.raises(SentinelError) as caught:
        DecisionFile(path, run="b", made_of={"--batch-events": "7"}).resume()
    assert (caught.value.code, caught.value.at) == (
        ErrorCode.CHECKPOINT_MISMATCH,
        f"{path}.checkpoint.json",
    )
    assert caught.value.expected == "--batch-events 5, as when it began"
    assert caught.value.got == "--batch-events 7"
    assert "without --resume" in caught.value.hint
    assert "--store" in caught.value.hint


def test_a_checkpoint_that_does_not_say_what_it_is_of_is_read(tmp_path: Path) -> None:
    """Those of versions before it was written."""
    file = unfinished(tmp_path, checkpoint_after=3, lines_after=0)
    content = json.loads(file.checkpoint_path.read_text())
    del content["made_of"]
    file.checkpoint_path.write_text(json.dumps(content))
    with contextlib.closing(DecisionFile(file.path, run="a")) as again:
        assert again.resume() is not None
    with pytest.raises(SentinelError) as caught:
        DecisionFile(file.path, run="b", made_of={"--batch-events": "7"}).resume()
    assert caught.value.expected == "the release, files and flags that it began with"


def test_a_file_shorter_than_its_checkpoint_is_refused(tmp_path: Path) -> None:
    file = unfinished(tmp_path, checkpoint_after=3, lines_after=0)
    file.partial.write_bytes(LINES[0])
    with pytest.raises(SentinelError) as caught:
        DecisionFile(tmp_path / "out.ndjson", run="a").resume()
    assert caught.value.code is ErrorCode.CHECKPOINT_MISMATCH
    assert file.partial.read_bytes() == LINES[0]


@given(content=st.binary(max_size=80) | st.text(max_size=80).map(str.encode))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_damaged_checkpoint_is_an_error_and_never_a_guess(tmp_path: Path, content: bytes) -> None:
    file = unfinished(tmp_path, checkpoint_after=3, lines_after=0)
    file.checkpoint_path.write_bytes(content)
    with pytest.raises(SentinelError) as caught:
        DecisionFile(tmp_path / "out.ndjson", run="a").resume()
    assert caught.value.code is ErrorCode.CHECKPOINT_MISMATCH


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SentinelError) as caught:
        DecisionFile(tmp_path / "missing" / "out.ndjson", run="a").start()
    assert caught.value.code is ErrorCode.FILE_UNWRITABLE
    assert caught.value.at.endswith("out.ndjson.partial")


def test_a_device_is_no_place_for_decisions() -> None:
    with pytest.raises(SentinelError) as caught:
        DecisionFile(Path("/dev/null"), run="a").start()
    assert caught.value.code is ErrorCode.FILE_UNWRITABLE
    assert caught.value.at == "/dev/null"


def test_bytes_that_changed_behind_a_checkpoint_are_refused(tmp_path: Path) -> None:
    file = unfinished(tmp_path, checkpoint_after=3, lines_after=0)
    content = file.partial.read_bytes().replace(b"1", b"7")
    file.partial.write_bytes(content)
    with pytest.raises(SentinelError) as caught:
        DecisionFile(tmp_path / "out.ndjson", run="a").resume()
    assert caught.value.code is ErrorCode.CHECKPOINT_MISMATCH
    assert caught.value.at.endswith("out.ndjson.checkpoint.json")
    assert file.partial.read_bytes() == content


def test_a_checkpoint_never_goes_backwards(tmp_path: Path) -> None:
    unfinished(tmp_path, checkpoint_after=3, lines_after=0)
    file = DecisionFile(tmp_path / "out.ndjson", run="a")
    before = file.checkpoint_path.read_bytes()
    assert file.resume() is not None
    with pytest.raises(AssertionError, match="behind"):
        file.save_checkpoint(next_position=2, counts={})
    file.close()
    assert file.checkpoint_path.read_bytes() == before
