"""Every error ends a command with a known exit code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sentinel.cli.exits import ExitCode, exit_code_of
from sentinel.core.errors import ErrorCode

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "cli.md"


@pytest.mark.parametrize("code", ErrorCode, ids=str)
def test_every_error_code_ends_in_a_failure(code: ErrorCode) -> None:
    assert exit_code_of(code) is not ExitCode.OK


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (ErrorCode.USAGE_INVALID, ExitCode.USAGE),
        (ErrorCode.CONFIGURATION_UNKNOWN_KEY, ExitCode.CONFIGURATION),
        (ErrorCode.SOURCE_EMPTY, ExitCode.INPUT),
        (ErrorCode.RELEASE_CORRUPT, ExitCode.RELEASE),
        (ErrorCode.RELEASE_NOT_APPROVED, ExitCode.RELEASE),
        (ErrorCode.RELEASE_GATE_FAILED, ExitCode.GATE),
        (ErrorCode.FILE_MISSING, ExitCode.FILE),
        (ErrorCode.THREADS_MISSING, ExitCode.FILE),
        (ErrorCode.EXTRA_MISSING, ExitCode.EXTRA),
        (ErrorCode.CONSERVATION_BROKEN, ExitCode.INTERNAL),
        (ErrorCode.INTERRUPTED, ExitCode.INTERRUPTED),
    ],
    ids=str,
)
def test_an_error_ends_where_its_family_does(code: ErrorCode, expected: ExitCode) -> None:
    assert exit_code_of(code) is expected


def test_the_documented_table_is_the_enumeration() -> None:
    """Same codes, same names, same order."""
    rows = re.findall(r"^\| (\d+) \| `([a-z-]+)` \|", DOCUMENT.read_text(), re.MULTILINE)
    documented = [(int(number), name) for number, name in rows]
    assert documented == [(code.value, code.name.lower().replace("_", "-")) for code in ExitCode]
