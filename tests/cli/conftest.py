"""Run the real command in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sentinel.testing import wait_until

Run = Callable[..., subprocess.CompletedProcess[str]]


def command_environment(**changes: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SENTINEL_", "COLUMNS"))}
    return {**kept, "PYTHONWARNINGS": "error", **changes}


def wait_for(process: subprocess.Popen[Any], holds: Callable[[], bool]) -> None:
    """Wait until what a process does holds; one that ended before says what it said."""
    wait_until(lambda: process.poll() is not None or holds())
    assert process.poll() is None, process.communicate()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run ``sentinel`` with arguments; texts of stdout and stderr come back."""

    def run_once(
        *arguments: str, cwd: Path = tmp_path, timeout: float = 120, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sentinel.cli", *arguments],
            cwd=cwd,
            env=command_environment(**environment),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run_once
