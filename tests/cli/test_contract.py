"""`sentinel contract check`: what a file comes to, told by its exit code."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from sentinel.cli.exits import ExitCode

Run = Callable[..., subprocess.CompletedProcess[str]]
PIPELINE = Path(__file__).parent.parent.parent / "examples" / "card_fraud" / "pipeline.py"


def test_a_file_of_no_bytes_is_refused_where_events_are_needed(run: Run, tmp_path: Path) -> None:
    """Feedback may not have come yet."""
    (tmp_path / "e.ndjson").touch()
    check = ("contract", "check", str(PIPELINE), "--events", "e.ndjson")
    ended = run(*check)
    assert ended.returncode == ExitCode.INPUT
    assert "source-empty: e.ndjson: expected at least one event, got 0 bytes" in ended.stderr
    assert run(*check, "--feedback").returncode == ExitCode.OK
