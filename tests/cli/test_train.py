"""`sentinel train` without a builder's key says what that means, and so does `release verify`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sentinel.cli.exits import ExitCode
from sentinel.cli.init import write_project

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.slow
def test_a_release_without_a_builder_s_key_says_that_nobody_can_approve_it(
    run: Run, tmp_path: Path
) -> None:
    write_project(tmp_path / "p", "p")
    small = ("--days", "40", "--events-per-day", "800", "--cards", "400", "--fraud-share", "0.05")
    assert run("simulate", "--out", "data", *small).returncode == ExitCode.OK
    sources = ("--events", "data/events.ndjson", "--feedback", "data/feedback.ndjson")
    swapped = run("train", "p/pipeline.py", *sources[:1], sources[3], "--feedback", sources[1],
                  "--out", "r")  # fmt: skip
    assert "refused, the first as " in swapped.stderr
    built = run("train", "p/pipeline.py", *sources, "--out", "r", "--json")
    assert built.returncode == ExitCode.OK, built.stderr
    assert json.loads(built.stdout)["failed_gates"] == []
    assert "nobody can approve this release" in " ".join(built.stderr.split())
    verified = run("release", "verify", "r")
    assert verified.returncode == ExitCode.RELEASE
    assert "nobody can approve this release" in " ".join(verified.stderr.split())

    assert run("release", "key", "b.key", "--person", "B", "--role", "build").returncode == 0
    keyed = run("train", "p/pipeline.py", *sources, "--out", "signed", "--key", "b.key")
    assert keyed.returncode == ExitCode.OK, keyed.stderr
    assert "nobody can approve" not in keyed.stderr
    assert "nobody can approve" not in run("release", "verify", "signed").stderr
