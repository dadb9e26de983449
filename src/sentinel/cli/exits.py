"""How a command ends: every exit code, and which error leads to which."""

from __future__ import annotations

import enum

from sentinel.core.errors import ErrorCode


class ExitCode(enum.IntEnum):
    """Every exit code of ``sentinel``; one line each in ``docs/cli.md``.

    1 is left out on purpose: it is what Python itself exits with when nobody was in charge.
    """

    OK = 0
    USAGE = 2
    CONFIGURATION = 3
    INPUT = 4
    RELEASE = 5
    GATE = 6
    DEGRADED = 7
    FILE = 8
    EXTRA = 9
    INTERNAL = 70
    INTERRUPTED = 130
    PIPE_CLOSED = 141
    TERMINATED = 143


# Codes that end differently from the rest of their family.
_BY_CODE = {
    ErrorCode.RELEASE_GATE_FAILED: ExitCode.GATE,
    ErrorCode.USAGE_INVALID: ExitCode.USAGE,
    ErrorCode.OUTPUT_EXISTS: ExitCode.USAGE,
    ErrorCode.RELEASE_EXISTS: ExitCode.USAGE,
    ErrorCode.STAGE_REFUSED: ExitCode.RELEASE,
    ErrorCode.SWITCH_REFUSED: ExitCode.RELEASE,
    ErrorCode.STREAM_PARTITION_KEY: ExitCode.USAGE,
    ErrorCode.STREAM_SETTING_INVALID: ExitCode.CONFIGURATION,
    ErrorCode.INTERRUPTED: ExitCode.INTERRUPTED,
    ErrorCode.TERMINATED: ExitCode.TERMINATED,
    ErrorCode.INTERNAL: ExitCode.INTERNAL,
    ErrorCode.CONSERVATION_BROKEN: ExitCode.INTERNAL,
    ErrorCode.IO_FAILED: ExitCode.FILE,
    ErrorCode.RELEASE_MISSING: ExitCode.FILE,
    ErrorCode.QUARANTINE_UNWRITABLE: ExitCode.FILE,
    ErrorCode.STATE_UNWRITABLE: ExitCode.FILE,
}
# The family is the first word of the code. What is not here is bad input.
_BY_FAMILY = {
    "file": ExitCode.FILE,
    "path": ExitCode.FILE,
    "threads": ExitCode.FILE,
    "configuration": ExitCode.CONFIGURATION,
    "extra": ExitCode.EXTRA,
    "release": ExitCode.RELEASE,
    "trust": ExitCode.RELEASE,
    "key": ExitCode.RELEASE,
    "canary": ExitCode.RELEASE,
}


def exit_code_of(code: ErrorCode) -> ExitCode:
    """Map an error to the exit code of the command that it ends.

    Examples
    --------
    >>> exit_code_of(ErrorCode.FILE_MISSING)
    <ExitCode.FILE: 8>
    """
    family = str(code).split("-", maxsplit=1)[0]
    return _BY_CODE.get(code) or _BY_FAMILY.get(family, ExitCode.INPUT)
