"""Named places before, in the middle of, and after each call that changes durable state.

A test sets a hook and stops the process there, once at every place (as SQLite's tests stop at the
n-th operation). Nothing is called, and nothing is paid, while no hook is set.

A name is ``<what> <call> <before|half|after>``, as ``wal write half``. ``half`` is in the middle of
the bytes of one write.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

Hook = Callable[[str], None]

_SUFFIXES = {".log": "wal", ".new": "snapshot", ".state": "snapshot"}
_hooks: list[Hook] = []


def set_hook(hook: Hook | None) -> None:
    """Call ``hook`` with the name of each place that is passed; None for nothing."""
    _hooks[:] = [] if hook is None else [hook]


def is_watched() -> bool:
    """Whether a hook is set."""
    return bool(_hooks)


def passing(call: str, path: Path, when: str) -> None:
    """Pass a place.

    Parameters
    ----------
    call : str
        The system call, as ``write`` or ``sync``.
    path : Path
        What it is made on: its suffix says what that is.
    when : str
        ``before``, ``half`` or ``after``.
    """
    for hook in _hooks:
        what = _SUFFIXES.get(path.suffix, "file" if path.suffix else "folder")
        hook(f"{what} {call} {when}")
