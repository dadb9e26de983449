"""Whatever happens inside a command, one sentence leaves, and never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from sentinel.cli.boundary import run_command
from sentinel.cli.exits import ExitCode
from sentinel.core.errors import ErrorCode, SentinelError

REFUSED = SentinelError(ErrorCode.RELEASE_CORRUPT, at="a", expected="one", got="two", hint="Do.")


def application(problem: BaseException | None) -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.callback()
    def root() -> None:
        pass

    @app.command()
    def act(as_json: bool = typer.Option(False, "--json")) -> None:
        if problem is not None:
            raise problem

    return app


@pytest.mark.parametrize(
    ("problem", "expected", "sentence"),
    [
        (None, ExitCode.OK, ""),
        (REFUSED, ExitCode.RELEASE, "sentinel: release-corrupt: a: expected one, got two. Do.\n"),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED, "sentinel: interrupted: sentinel: "),
        (PermissionError(13, "Permission denied", "x"), ExitCode.FILE, "sentinel: io-failed: x: "),
        (OSError(28, "No space left on device"), ExitCode.FILE, "sentinel: io-failed: sentinel: "),
        (ModuleNotFoundError("no", name="lightgbm"), ExitCode.EXTRA, "sentinel: extra-missing: "),
        (BrokenPipeError(32, "Broken pipe"), ExitCode.PIPE_CLOSED, ""),
        (typer.Exit(0), ExitCode.OK, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_every_end_has_its_code_and_one_sentence(
    problem: BaseException | None,
    expected: ExitCode,
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.dup2", lambda old, new: None)
    assert run_command(application(problem), ["act"]) is expected
    error = capsys.readouterr().err
    assert error.startswith(sentence)
    assert error.count("\n") == bool(sentence)


def test_an_error_with_json_is_one_document_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    run_command(application(REFUSED), ["act", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document == {
        "error": {
            "code": "release-corrupt",
            "at": "a",
            "expected": "one",
            "got": "two",
            "hint": "Do.",
        }
    }


def test_a_fault_of_our_own_leaves_a_crash_file_and_no_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    problem = ZeroDivisionError("by\n\x1b[31mzero")
    assert run_command(application(problem), ["act"]) is ExitCode.INTERNAL
    error = capsys.readouterr().err
    (crash,) = tmp_path.iterdir()
    assert str(crash) in error
    assert "Traceback" not in error
    assert "\x1b" not in error
    assert error.count("\n") == 1
    assert "Traceback" in crash.read_text()
    assert crash.stat().st_mode & 0o777 == 0o600


def test_debugging_shows_the_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("SENTINEL_DEBUG", "1")
    run_command(application(ZeroDivisionError("zero")), ["act"])
    assert "Traceback" in capsys.readouterr().err


def test_a_full_disk_does_not_hide_the_fault(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    assert run_command(application(ZeroDivisionError("zero")), ["act"]) is ExitCode.INTERNAL
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["nothing"], ["act", "--nothing"], ["act", "more"], []])
def test_a_wrong_command_line_is_a_usage_error(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(application(None), arguments) is ExitCode.USAGE
    assert "Traceback" not in capsys.readouterr().err


def test_a_reader_that_has_gone_is_no_error() -> None:
    """`sentinel … | head -0`: nothing on stderr, and the exit code of a closed pipe."""
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-m", "sentinel.cli", "--help"],
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
        timeout=60,
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (ExitCode.PIPE_CLOSED, b"")


def test_a_full_device_under_stdout_is_an_error() -> None:
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "sentinel.cli", "--version"],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
        )
    assert ended.returncode == ExitCode.FILE
    assert ended.stderr.startswith(b"sentinel: io-failed: ")
