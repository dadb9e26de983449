"""The command boundary: whatever happens inside a command ends here, as one sentence.

Three kinds of end: an error that Sentinel raised on purpose (its sentence, its exit code), a
signal (what was made until then is whole), and a fault of Sentinel (a short message and a crash
file with the traceback; ``SENTINEL_DEBUG=1`` shows it at once).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from types import FrameType

import typer

from sentinel.cli.exits import ExitCode, exit_code_of
from sentinel.cli.output import StdoutClosedError, is_debugging, write_line
from sentinel.core.errors import ErrorCode, SentinelError, shorten


class TerminatedError(BaseException):
    """SIGTERM arrived; not an ``Exception``, so that nothing below swallows it."""


def run_command(
    app: Callable[..., object], arguments: Sequence[str], *, program: str = "sentinel"
) -> ExitCode:
    """Run one command line and tell how it ended; nothing but that leaves.

    Parameters
    ----------
    app : callable
        The typer application.
    arguments : sequence of str
        The command line without the program.

    Returns
    -------
    ExitCode
    """
    _open_missing_streams()
    as_json = "--json" in arguments
    try:
        signal.signal(signal.SIGTERM, _on_terminate)
        result = app(args=list(arguments), prog_name=program, standalone_mode=False)
        sys.stdout.flush()
    except TerminatedError:
        return _end(_interruption(ErrorCode.TERMINATED), as_json=as_json)
    except KeyboardInterrupt:
        return _end(_interruption(ErrorCode.INTERRUPTED), as_json=as_json)
    except (StdoutClosedError, BrokenPipeError):
        return _leave_the_pipe()
    except SystemExit as request:
        # Typer asks for 1 when it finds stdout closed while it prints a help page.
        return _leave_the_pipe() if request.code == 1 else _known(request.code)
    except Exception as error:  # noqa: BLE001 -- the command boundary
        return _end(_as_sentinel_error(error), as_json=as_json)
    if isinstance(result, ExitCode):
        return result
    # Typer turns Ctrl-C into a bare 130.
    if result == ExitCode.INTERRUPTED:
        return _end(_interruption(ErrorCode.INTERRUPTED), as_json=as_json)
    return _known(result)


def _known(code: object) -> ExitCode:
    """Take what typer returns: nothing, or the number that a help or version page exits with."""
    return ExitCode(code) if isinstance(code, int) and code in set(ExitCode) else ExitCode.OK


def _on_terminate(number: int, frame: FrameType | None) -> None:
    raise TerminatedError


def _interruption(code: ErrorCode) -> SentinelError:
    return SentinelError(
        code,
        at="sentinel",
        expected="to finish",
        got="Ctrl-C" if code is ErrorCode.INTERRUPTED else "SIGTERM",
        hint="What was half made has been removed.",
    )


def _as_sentinel_error(error: Exception) -> SentinelError | None:
    """Give every exception the one form; None where the page was the message."""
    if isinstance(error, SentinelError):
        return error
    if isinstance(error, typer.Abort):
        return _interruption(ErrorCode.INTERRUPTED)
    if isinstance(error, typer.TyperException):
        return _usage_error(error)
    if is_debugging():
        traceback.print_exception(error)
    if isinstance(error, ModuleNotFoundError) and error.name in _TRAINING_LIBRARIES:
        return _extra_missing(error.name)
    if isinstance(error, OSError):
        return _io_error(error)
    return _internal_error(error)


_TRAINING_LIBRARIES = frozenset({"lightgbm", "onnx", "onnxmltools", "sklearn", "skl2onnx"})


def _extra_missing(name: str) -> SentinelError:
    return SentinelError(
        ErrorCode.EXTRA_MISSING,
        at=name,
        expected="the libraries that training needs",
        got="an environment that only serves",
        hint="Install them with: pip install 'sentinel[train]'.",
    )


def _usage_error(error: typer.TyperException) -> SentinelError | None:
    context = getattr(error, "ctx", None)
    message = error.format_message().strip()
    if type(error).__name__ == "NoArgsIsHelpError":
        return None
    place = context.command_path if context is not None else "sentinel"
    fault, _, suggestion = " ".join(message.split()).rstrip(".").partition(". ")
    return SentinelError(
        ErrorCode.USAGE_INVALID,
        at=place,
        expected="a command line as in its help page",
        got=(fault[:1].lower() + fault[1:]).removeprefix("got "),
        hint=f"{suggestion} See: {place} --help.".strip(),
    )


def _io_error(error: OSError) -> SentinelError:
    return SentinelError(
        ErrorCode.IO_FAILED,
        at=str(error.filename or "sentinel"),
        expected="to read and write",
        got=error.strerror or type(error).__name__,
    )


def _internal_error(error: Exception) -> SentinelError:
    place = _write_crash_file(error)
    return SentinelError(
        ErrorCode.INTERNAL,
        at=place,
        expected="no fault of Sentinel",
        got=f"{type(error).__name__}: {shorten(str(error))}",
        hint="The file named holds the traceback; please report it with what you did.",
    )


def _write_crash_file(error: Exception) -> str:
    """Keep the traceback, readable by the user alone; on a full disk the message must do."""
    try:
        handle, path = tempfile.mkstemp(prefix="sentinel-crash-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            traceback.print_exception(error, file=file)
    except OSError:
        return "no crash file could be written"
    return path


def _end(error: SentinelError | None, *, as_json: bool) -> ExitCode:
    """Say the one sentence, and with ``--json`` the one document."""
    if error is None:
        return ExitCode.USAGE
    try:
        if as_json:
            write_line(json.dumps({"error": error_data(error)}, allow_nan=False))
        sys.stderr.write(f"sentinel: {error}\n")
        sys.stderr.flush()
    except (OSError, StdoutClosedError):
        _leave_the_pipe()
    return exit_code_of(error.code)


def error_data(error: SentinelError) -> dict[str, str]:
    """Give an error as data, for ``--json``."""
    return {
        "code": str(error.code),
        "at": error.at,
        "expected": error.expected,
        "got": error.got,
        "hint": error.hint,
    }


def _open_missing_streams() -> None:
    """Survive a start with stdout or stderr closed, and text that is no valid Unicode."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 -- for good
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 -- for good
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _leave_the_pipe() -> ExitCode:
    """Point stdout at nothing, so that the interpreter's own last flush finds somebody."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
    finally:
        os.close(nowhere)
    return ExitCode.PIPE_CLOSED
