"""Files are whole or absent, reading is bounded, and no path leaves its folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.files import inside, read_bounded, write_atomically
from sentinel.testing import file_size_limit


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    """A disk that takes 100 bytes, and a file of 10,000."""
    path = tmp_path / "a"
    write_atomically(path, b"old")
    with file_size_limit(100), pytest.raises(SentinelError) as error:
        write_atomically(path, bytes(10_000))
    assert error.value.code is ErrorCode.FILE_UNWRITABLE
    assert error.value.at == str(path)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("name", ["absent/a", "file/a"])
def test_a_folder_that_is_none_is_an_error(tmp_path: Path, name: str) -> None:
    """Missing, or a file in its place."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SentinelError) as error:
        write_atomically(tmp_path / name, b"x")
    assert error.value.code is ErrorCode.FILE_UNWRITABLE
    assert error.value.at == str(tmp_path / name)


def test_a_written_file_has_its_content_and_mode(tmp_path: Path) -> None:
    """Over an old one, too."""
    path = tmp_path / "a"
    for content in (b"one", b"", b"three" * 10_000):
        write_atomically(path, content, mode=0o600)
        assert path.read_bytes() == content
    assert path.stat().st_mode & 0o777 == 0o600


def test_only_regular_files_of_a_sane_size_are_read(tmp_path: Path) -> None:
    """Links, folders, pipes, devices, large files: each is refused, none is waited for."""
    (tmp_path / "file").write_bytes(b"x" * 11)
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("file", "link", "folder", "pipe"):
        with pytest.raises(SentinelError) as error:
            read_bounded(tmp_path / name, n_bytes_max=10)
        assert error.value.code is ErrorCode.FILE_UNREADABLE
        assert error.value.at == str(tmp_path / name)
    with pytest.raises(SentinelError) as error:
        read_bounded(Path("/dev/zero"), n_bytes_max=10)
    assert error.value.code is ErrorCode.FILE_UNREADABLE
    with pytest.raises(SentinelError) as error:
        read_bounded(tmp_path / "absent", n_bytes_max=10)
    assert error.value.code is ErrorCode.FILE_MISSING
    assert read_bounded(tmp_path / "file", n_bytes_max=11) == b"x" * 11


@pytest.mark.parametrize(
    "relative",
    ["", ".", "..", "/etc/passwd", "a/../b", "a//b", "./a", "a/", "a\\b", "a\0b", "../a"],
)
def test_every_way_out_of_a_folder_is_refused(tmp_path: Path, relative: str) -> None:
    """Absolute, upward, empty, foreign separators."""
    with pytest.raises(SentinelError) as error:
        inside(tmp_path, relative)
    assert error.value.code is ErrorCode.PATH_OUTSIDE
    assert error.value.at == str(tmp_path)


@given(relative=st.text(alphabet="ab./\\\0~ ", max_size=12))
def test_an_accepted_path_lies_inside(relative: str) -> None:
    """Whatever was accepted normalises to a place below the folder."""
    folder = Path("/some/folder")
    try:
        joined = inside(folder, relative)
    except SentinelError:
        return
    assert os.path.normpath(joined).startswith(f"{folder}/")
    assert joined.relative_to(folder).as_posix() == relative
