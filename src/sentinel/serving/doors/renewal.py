"""Files that may change while the server runs: TLS and tokens, renewed on SIGHUP or by themselves.

A file is looked at every ``RENEWAL_S``: its inode, size and time of change. What cannot be read or
does not fit changes nothing: the server goes on with what it had, and says so in its health until
it is right.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sentinel.core.errors import SentinelError
from sentinel.serving import bounds

_LOG = logging.getLogger("sentinel.serving.doors.renewal")
_Look = tuple[tuple[int, int, int] | None, ...]


@dataclass(slots=True)
class _Watched:
    """Files that are read together."""

    name: str
    paths: tuple[Path, ...]
    renew: Callable[[], None]
    seen: _Look
    fault: str = ""


@dataclass(slots=True)
class Renewal:
    """What is watched; used by one thread, its causes read by others."""

    _watched: list[_Watched] = field(default_factory=list)
    _due_s: float = 0.0

    def watch(self, name: str, paths: tuple[Path, ...], renew: Callable[[], None]) -> None:
        """Renew something when one of its files changes."""
        self._watched.append(_Watched(name, paths, renew, _look(paths)))

    def tick(self) -> None:
        """Look at the files, when it is time to."""
        now_s = time.monotonic()
        if now_s < self._due_s:
            return
        self._due_s = now_s + bounds.RENEWAL_S
        for watched in self._watched:
            look = _look(watched.paths)
            if look != watched.seen:
                _renew(watched, look)

    def now(self) -> None:
        """Read everything again, changed or not."""
        for watched in self._watched:
            _renew(watched, _look(watched.paths))

    @property
    def causes(self) -> tuple[str, ...]:
        """What could not be renewed."""
        return tuple(watched.fault for watched in self._watched if watched.fault)


def _renew(watched: _Watched, look: _Look) -> None:
    watched.seen = look
    try:
        watched.renew()
    except SentinelError as error:
        watched.fault = f"{watched.name} could not be renewed: {error}"
        _LOG.error("could not be renewed", extra={"what": watched.name, "cause": str(error)})
    else:
        watched.fault = ""
        _LOG.warning("renewed", extra={"what": watched.name})


def _look(paths: tuple[Path, ...]) -> _Look:
    found: list[tuple[int, int, int] | None] = []
    for path in paths:
        try:
            state = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((state.st_ino, state.st_size, state.st_mtime_ns))
    return tuple(found)
