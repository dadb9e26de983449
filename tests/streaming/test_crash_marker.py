"""What a process was doing when it died: counted for one place, and never for a good end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.streaming.crash_marker import CrashMarker, Suspect


def die_in(path: Path, partition: int, first: int, end: int) -> Suspect | None:
    """Open, enter, and end as a killed process does: nothing is tidied up."""
    marker = CrashMarker(path)
    found = marker.suspect
    marker.enter(partition, first, end)
    marker.close()
    return found


def test_a_process_that_left_in_good_order_is_no_suspect(tmp_path: Path) -> None:
    marker = CrashMarker(tmp_path / "marker")
    marker.enter(0, 10, 20)
    marker.leave()
    marker.close()
    assert CrashMarker(tmp_path / "marker").suspect is None


def test_deaths_at_one_event_add_up_until_it_is_poison(tmp_path: Path) -> None:
    path = tmp_path / "marker"
    assert die_in(path, 2, 7, 8) is None
    for n_deaths in range(1, limits.POISON_RESTARTS_MAX + 1):
        suspect = die_in(path, 2, 7, 8)
        assert suspect == Suspect(2, 7, 8, n_deaths)
        assert suspect.is_poison == (n_deaths >= limits.POISON_RESTARTS_MAX)


def test_deaths_in_a_batch_name_no_event(tmp_path: Path) -> None:
    path = tmp_path / "marker"
    die_in(path, 0, 0, 100)
    for _ in range(5):
        suspect = die_in(path, 0, 0, 100)
    assert suspect is not None
    assert not suspect.is_poison
    assert die_in(path, 0, 40, 41) is not None
    assert CrashMarker(path).suspect == Suspect(0, 40, 41, 1)


def test_deaths_elsewhere_begin_to_count_anew(tmp_path: Path) -> None:
    path = tmp_path / "marker"
    die_in(path, 0, 5, 6)
    die_in(path, 0, 5, 6)
    die_in(path, 1, 5, 6)
    assert CrashMarker(path).suspect == Suspect(1, 5, 6, 1)


def test_a_start_that_dies_elsewhere_is_not_counted(tmp_path: Path) -> None:
    path = tmp_path / "marker"
    die_in(path, 0, 5, 6)
    CrashMarker(path).close()
    CrashMarker(path).close()
    assert CrashMarker(path).suspect is None


def test_a_suspect_is_forgotten_once_passed(tmp_path: Path) -> None:
    die_in(tmp_path / "marker", 0, 5, 8)
    marker = CrashMarker(tmp_path / "marker")
    marker.passed(0, 7)
    marker.passed(1, 100)
    assert marker.suspect is not None
    marker.passed(0, 8)
    assert marker.suspect is None


def test_a_real_kill_leaves_the_mark(tmp_path: Path) -> None:
    """SIGKILL by itself: the page is the kernel's."""
    code = (
        "import os, signal, sys; from pathlib import Path;"
        "from sentinel.streaming.crash_marker import CrashMarker;"
        "CrashMarker(Path(sys.argv[1])).enter(3, 9, 10);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path / "m")], check=False)
    assert ended.returncode == -9
    assert CrashMarker(tmp_path / "m").suspect == Suspect(3, 9, 10, 1)


@pytest.mark.parametrize("content", [b"", b"x", b"\xff" * 4096, bytes(range(48))])
def test_a_page_of_anything_else_names_nobody(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "marker"
    path.write_bytes(content)
    assert CrashMarker(path).suspect is None


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SentinelError) as caught:
        CrashMarker(tmp_path / "missing" / "marker")
    assert caught.value.code is ErrorCode.FILE_UNWRITABLE
    assert caught.value.at.endswith("missing/marker")
