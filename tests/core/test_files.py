"""Files are whole or absent, reading is bounded, and no path leaves its folder."""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.files import inside, map_page, read_bounded, read_secret, write_atomically
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


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o444, 0o660, 0o601])
def test_a_secret_that_others_may_read_is_refused_with_the_way_out(
    tmp_path: Path, mode: int
) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"swordfish")
    path.chmod(mode)
    with pytest.raises(SentinelError) as error:
        read_secret(path, n_bytes_max=10)
    assert (error.value.code, error.value.at) == (ErrorCode.FILE_EXPOSED, str(path))
    assert error.value.hint.startswith(f"Take it from others: chmod 600 {path} ")
    assert "defaultMode: 0440" in error.value.hint
    assert f"mode {mode:o}" in str(error.value)
    assert "swordfish" not in str(error.value)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o440, 0o640])
def test_a_secret_is_read_through_the_links_of_a_volume(tmp_path: Path, mode: int) -> None:
    """As Kubernetes mounts one with ``fsGroup``: a link to a link to a folder with the file."""
    (tmp_path / "..2026").mkdir()
    path = tmp_path / "..2026" / "token"
    path.write_bytes(b"swordfish")
    path.chmod(mode)
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "token").symlink_to("..data/token")
    found = read_secret(tmp_path / "token", n_bytes_max=10)
    assert found == b"swordfish"
    assert read_bounded(tmp_path / "token", n_bytes_max=10, may_be_link=True) == b"swordfish"
    if mode & 0o040:
        with pytest.raises(SentinelError) as error:
            read_secret(tmp_path / "token", n_bytes_max=10, group_may_read=False)
        assert (error.value.code, error.value.at) == (
            ErrorCode.FILE_EXPOSED,
            str(tmp_path / "token"),
        )


def test_a_page_keeps_what_was_written_and_a_place_for_none_is_an_error(tmp_path: Path) -> None:
    page = map_page(tmp_path / "page")
    page[:3] = b"abc"
    page.close()
    with contextlib.closing(map_page(tmp_path / "page")) as again:
        assert (again[:4], len(again)) == (b"abc\0", mmap.PAGESIZE)
    (tmp_path / "link").symlink_to("page")
    for name in ("link", "missing/page"):
        with pytest.raises(SentinelError) as error:
            map_page(tmp_path / name)
        assert (error.value.code, error.value.at) == (
            ErrorCode.FILE_UNWRITABLE,
            str(tmp_path / name),
        )


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
