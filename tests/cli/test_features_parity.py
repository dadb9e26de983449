"""`sentinel features parity`: the log of a real replay against the events that made it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sentinel.cli.exits import ExitCode
from sentinel.testing import wait_until

Run = Callable[..., subprocess.CompletedProcess[str]]
GOLDEN = Path(__file__).parent.parent / "golden" / "releases" / "format-1"
RELEASE = GOLDEN / "payments-1.2.0"
EVENTS = GOLDEN / "events.ndjson"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Decide the golden events once, with a decision log and a durable state."""
    folder = tmp_path_factory.mktemp("served")
    subprocess.run(
        [
            sys.executable, "-m", "sentinel.cli", "replay", str(RELEASE), "--events", str(EVENTS),
            "--unapproved", "--log", "log", "--json",
        ],
        cwd=folder, check=False, capture_output=True, timeout=120,
    )  # fmt: skip
    return folder / "log"


def parity(log: Path, events: Path = EVENTS) -> tuple[str, ...]:
    return (
        "features", "parity", "--release", str(RELEASE), "--unapproved", "--log", str(log),
        "--events", str(events),
    )  # fmt: skip


def test_parity_holds_for_what_was_served(run: Run, served: Path, tmp_path: Path) -> None:
    """Every decision is compared; the metrics file says so."""
    told = run(*parity(served), "--json", "--metrics", "m.prom")
    assert told.returncode == ExitCode.OK, told.stderr
    document = json.loads(told.stdout)
    assert document["holds"]
    assert (document["n_compared"], document["n_not_replayed"]) == (200, 0)
    assert 'feature_parity_mismatch_total{feature="n_1h"} 0.0' in (tmp_path / "m.prom").read_text()


def test_a_file_of_no_bytes_is_refused(run: Run, served: Path, tmp_path: Path) -> None:
    (tmp_path / "e.ndjson").touch()
    told = run(*parity(served, tmp_path / "e.ndjson"))
    assert told.returncode == ExitCode.INPUT
    assert "source-empty: " in told.stderr


def test_a_dropped_event_ends_with_the_code_of_a_gate(
    run: Run, served: Path, tmp_path: Path
) -> None:
    """People read which feature differs, where first, and both values."""
    lines = EVENTS.read_bytes().splitlines(keepends=True)
    (tmp_path / "e.ndjson").write_bytes(b"".join([*lines[:50], *lines[51:]]))
    told = run(*parity(served, tmp_path / "e.ndjson"))
    assert told.returncode == ExitCode.GATE
    assert "Feature parity does not hold" in told.stdout
    assert "The first decision without its event is of p50." in told.stderr


def test_a_folder_that_is_no_log_is_named(run: Run, tmp_path: Path) -> None:
    """Nothing to compare is an error of its own."""
    told = run(*parity(tmp_path))
    assert told.returncode == ExitCode.FILE
    assert "file-missing" in told.stderr


def test_following_compares_what_is_added(served: Path, tmp_path: Path) -> None:
    """Events that come later are compared when they come; Ctrl-C ends with the report."""
    lines = EVENTS.read_bytes().splitlines(keepends=True)
    events = tmp_path / "e.ndjson"
    events.write_bytes(b"".join(lines[:120]))
    command = [sys.executable, "-m", "sentinel.cli", *parity(served, events)]
    command += ["--follow", "--json", "--metrics", "m.prom"]
    compared = 'sentinel_feature_parity_events_total{result="compared"} '

    def are_compared(n: int) -> bool:
        metrics = tmp_path / "m.prom"
        return metrics.exists() and f"{compared}{n}.0" in metrics.read_text()

    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        wait_until(lambda: are_compared(120))
        with events.open("ab") as file:
            file.write(b"".join(lines[120:]))
        wait_until(lambda: are_compared(200))
        running.send_signal(signal.SIGINT)
        stdout, stderr = running.communicate(timeout=60)
    assert running.returncode == ExitCode.OK, stderr
    assert json.loads(stdout)["n_compared"] == 200


@pytest.mark.parametrize("holds", ["nothing", "a partition"])
def test_a_folder_without_state_is_refused(
    run: Run, served: Path, tmp_path: Path, holds: str
) -> None:
    """An empty state in its place would make every served value look wrong."""
    state = tmp_path / "state"
    state.mkdir()
    if holds == "a partition":
        (state / "partition-00000").mkdir()
    told = run(*parity(served), "--state", "state")
    assert told.returncode == ExitCode.FILE
    assert "file-missing: state: expected a folder of feature state, got a folder" in told.stderr
    assert "--partition-key" in told.stderr
    assert sorted(path.name for path in state.iterdir()) == ["partition-00000"] * (
        holds != "nothing"
    )
