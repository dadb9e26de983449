"""A folder of events is whole or not there, and is not made twice."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.data import read_scenarios
from sentinel.data.event_folder import FolderWriter
from sentinel.data.json_lines import EncodedLines, LineEncoder, LineField
from sentinel.testing import can_mount, file_size_limit, small_disk

_SOURCE: dict[str, object] = {"format": "test-1", "seed": 1}


def _lines(n: int) -> EncodedLines:
    return LineEncoder([LineField.integer("n")]).encode(np.arange(n)[None, :])


def _make(folder: Path, n: int = 3) -> None:
    with FolderWriter(folder, made_from=_SOURCE) as writer:
        writer.add_events(_lines(n))
        writer.add_feedback(_lines(n - 1))
        writer.finish()


def _make_much(folder: Path, *, interrupted: bool = False) -> None:
    with FolderWriter(folder, made_from={"other": 1}) as writer:
        for _ in range(100):
            writer.add_events(_lines(10_000))
            writer.add_feedback(_lines(10_000))
        if interrupted:
            raise KeyboardInterrupt
        writer.finish()


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_made_from_the_same_is_found_again(tmp_path: Path) -> None:
    _make(tmp_path / "new")
    found = FolderWriter(tmp_path / "new", made_from=_SOURCE).existing()
    assert found is not None
    assert found.was_there
    assert (found.n_events, found.n_feedback, found.n_frauds) == (3, 2, 0)
    assert found.feedback is not None
    assert found.scenarios is None
    assert found.events.read_bytes() == b'{"n":0}\n{"n":1}\n{"n":2}\n'


def _append(folder: Path) -> None:
    with (folder / "events.ndjson").open("ab") as out:
        out.write(b"x")


@pytest.mark.parametrize(
    "damage",
    [
        _append,
        lambda folder: (folder / "feedback.ndjson").unlink(),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "manifest.json").write_bytes(b""),
        lambda folder: (folder / "manifest.json").write_bytes(b"[]"),
        lambda folder: (folder / "manifest.json").write_bytes(b'{"made_from":'),
        lambda folder: (folder / "manifest.json").write_text(
            json.dumps({"made_from": _SOURCE, "counts": {}, "sizes": {"../x": 1}})
        ),
        lambda folder: (folder / "manifest.json").write_text(
            json.dumps({"made_from": _SOURCE, "counts": {}, "sizes": {}})
        ),
    ],
)
def test_a_folder_that_is_not_whole_is_made_anew(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    _make(tmp_path)
    damage(tmp_path)
    assert FolderWriter(tmp_path, made_from=_SOURCE).existing() is None


def test_a_folder_made_from_something_else_is_replaced_whole(tmp_path: Path) -> None:
    _make(tmp_path)
    other = {**_SOURCE, "seed": 2}
    assert FolderWriter(tmp_path, made_from=other).existing() is None
    with FolderWriter(tmp_path, made_from=other) as writer:
        writer.add_events(_lines(1))
        writer.finish()
    assert _names(tmp_path) == ["events.ndjson", "manifest.json"]


def test_an_interrupted_writer_leaves_the_old_folder_as_it_was(tmp_path: Path) -> None:
    _make(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        _make_much(tmp_path, interrupted=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_not(
    tmp_path: Path,
) -> None:
    old, new = tmp_path / ".events.ndjson.old", tmp_path / ".events.ndjson.new"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    _make(tmp_path)
    assert not old.exists()
    assert new.exists()


def test_a_file_size_limit_ends_in_a_named_error_and_leaves_nothing(tmp_path: Path) -> None:
    with file_size_limit(1 << 16), pytest.raises(SentinelError) as caught:
        _make_much(tmp_path)
    assert caught.value.code is ErrorCode.FILE_UNWRITABLE
    assert caught.value.at == str(tmp_path)
    assert caught.value.got == "File too large"
    assert _names(tmp_path) == []


@pytest.mark.skipif(not can_mount(), reason="needs the right to mount a disk in memory")
def test_a_full_disk_ends_in_a_named_error_and_leaves_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path, n_bytes=1 << 20) as folder:
        with pytest.raises(SentinelError) as caught:
            _make_much(folder)
        assert _names(folder) == []
    assert caught.value.code is ErrorCode.FILE_UNWRITABLE
    assert caught.value.got == "No space left on device"


def test_scenarios_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "scenarios.ndjson"
    path.write_text('{"transaction_id":"t1","scenario":"account_takeover"}\n')
    assert read_scenarios(path) == {"t1": "account_takeover"}


@pytest.mark.parametrize("content", ["x\n", "[]\n", '{"transaction_id":"t1"}\n', "[" * 100_000])
def test_scenarios_that_are_something_else_are_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "scenarios.ndjson"
    path.write_text(content)
    with pytest.raises(SentinelError) as caught:
        read_scenarios(path)
    assert caught.value.code is ErrorCode.FILE_UNREADABLE
    assert caught.value.at == f"{path}, line 0"
