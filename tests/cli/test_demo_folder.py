"""One demo at a time in a folder, and what an earlier one made stands until a new one is whole."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.conftest import wait_for

from sentinel.cli.demo_folder import demo_folder
from sentinel.cli.exits import ExitCode
from sentinel.core.errors import ErrorCode, SentinelError

Run = Callable[..., subprocess.CompletedProcess[str]]
RESULTS = ("release", "decisions.ndjson", "trust.toml", "live-log")


def make(home: Path, word: str, *, names: tuple[str, ...] = RESULTS) -> None:
    """Go through a demo that makes files which hold a word."""
    with demo_folder(home) as place:
        for name in names:
            (place.work / name).write_text(word)
        place.keep()


def results(home: Path) -> dict[str, str]:
    """Read what stands where results stand; whatever else is there is the demo's own business."""
    return {name: (home / name).read_text() for name in RESULTS if (home / name).exists()}


def test_results_are_replaced_together_and_what_is_no_longer_made_goes(tmp_path: Path) -> None:
    home = tmp_path / "demo"
    make(home, "first")
    (home / "data").mkdir()
    make(home, "second", names=RESULTS[:3])
    assert results(home) == dict.fromkeys(RESULTS[:3], "second")
    assert (home / "data").is_dir()
    assert not [path.name for path in home.iterdir() if path.name.startswith((".ma", ".mo"))]


def test_a_demo_that_is_not_kept_leaves_what_was_there(tmp_path: Path) -> None:
    make(tmp_path, "first")
    with demo_folder(tmp_path) as place:
        (place.work / "release").write_text("second")
    assert not place.work.exists()
    assert results(tmp_path) == dict.fromkeys(RESULTS, "first")


@pytest.mark.parametrize("n_removed", range(len(RESULTS) + 1))
def test_a_demo_killed_while_it_removes_old_results_is_finished_by_the_next(
    tmp_path: Path, n_removed: int
) -> None:
    make(tmp_path, "first")
    (tmp_path / ".made").mkdir()
    for name in RESULTS:
        (tmp_path / ".made" / name).write_text("second")
    for name in RESULTS[:n_removed]:
        (tmp_path / name).unlink()
    with demo_folder(tmp_path):
        assert results(tmp_path) == dict.fromkeys(RESULTS, "second")


@pytest.mark.parametrize("n_moved", range(len(RESULTS) + 1))
def test_a_demo_killed_while_it_moves_new_results_is_finished_by_the_next(
    tmp_path: Path, n_moved: int
) -> None:
    make(tmp_path, "second")
    (tmp_path / ".moving").mkdir()
    for name in RESULTS[n_moved:]:
        (tmp_path / name).rename(tmp_path / ".moving" / name)
    with demo_folder(tmp_path):
        assert results(tmp_path) == dict.fromkeys(RESULTS, "second")


def test_a_folder_of_somebody_else_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SentinelError) as caught, demo_folder(tmp_path):
        pass
    assert (caught.value.code, caught.value.at) == (ErrorCode.OUTPUT_EXISTS, str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_demo_ended_early_keeps_the_last_one_and_a_second_one_is_refused(
    run: Run, tmp_path: Path, how: signal.Signals
) -> None:
    """Real processes; the second says at its start that somebody works there, and what to do."""
    home = tmp_path / "out" / "simulator"
    make(home, "first")
    command = ("demo", "--source", "simulator", "--out", "out")
    first = subprocess.Popen(
        [sys.executable, "-m", "sentinel.cli", *command],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        wait_for(first, (home / ".making").is_dir)
        first.send_signal(signal.SIGSTOP)  # or it may have ended before the second is refused
        second = run(*command)
        first.send_signal(how)
        first.send_signal(signal.SIGCONT)
        first.communicate(timeout=60)
    finally:
        first.kill()
        first.communicate(timeout=30)
    assert second.returncode == ExitCode.INPUT
    assert second.stderr.startswith("sentinel: state-locked: out/simulator: ")
    assert "name another folder with --out" in second.stderr
    assert "1/7" not in second.stdout
    assert results(home) == dict.fromkeys(RESULTS, "first")
    with demo_folder(home):
        assert results(home) == dict.fromkeys(RESULTS, "first")
