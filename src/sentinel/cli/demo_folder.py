"""The demo's folder: one demo at a time, and its results take the place of the last at its end.

A demo works beside what the one before it made:

1. ``.making``: it makes everything there; ended early, it leaves what was there before;
2. ``.made``: renamed at once when all is whole; from here on the new results are to stand;
3. the old results are removed, and ``.made`` is renamed to ``.moving``;
4. one by one the new ones are moved out of ``.moving``, which is then removed.

Whatever ends it, the next demo begins where that one ended: it goes on at 3 or 4.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.files import lock_folder

# In the demo's folder, so that nothing else is ever removed.
_MARKER = ".sentinel-demo"
_MAKING, _MADE, _MOVING = ".making", ".made", ".moving"
_MADE_BY_EACH_RUN = (
    *("release", "quarantine", "log", "decisions.ndjson", "trust.toml", "state-replay"),
    *("state-live", "live-quarantine", "live-log", "server.log"),
)


@dataclass(frozen=True, slots=True)
class DemoFolder:
    """Where a demo works.

    Attributes
    ----------
    home : Path
        What stays from demo to demo: data and keys; the results stand here at the end.
    work : Path
        Where this one makes its results.
    """

    home: Path
    work: Path

    def keep(self) -> None:
        """Let what was made take the place of what an earlier demo made."""
        self.work.rename(self.home / _MADE)
        _finish(self.home)


@contextmanager
def demo_folder(home: Path) -> Iterator[DemoFolder]:
    """Take the demo's folder for as long as the block runs; what is not kept is removed.

    Raises
    ------
    SentinelError
        ``output-exists`` for a folder that is not the demo's; ``state-locked`` while another demo
        works there. Nothing was changed.
    """
    if home.exists() and any(home.iterdir()) and not (home / _MARKER).is_file():
        raise SentinelError(
            ErrorCode.OUTPUT_EXISTS,
            at=str(home),
            expected="a new or empty folder, or one that the demo made",
            got="something else",
            hint="Name another with --out; nothing was changed.",
        )
    home.mkdir(parents=True, exist_ok=True)
    (home / _MARKER).touch()
    lock = lock_folder(
        home, owner="demo", hint="Wait until it ends, or name another folder with --out."
    )
    try:
        _finish(home)
        work = home / _MAKING
        _remove(work)
        work.mkdir()
        try:
            yield DemoFolder(home, work)
        finally:
            _remove(work)
    finally:
        os.close(lock)


def _finish(home: Path) -> None:
    """Put in place what a demo has made in full; nothing where there is no such thing."""
    made, moving = home / _MADE, home / _MOVING
    if made.is_dir():
        for name in _MADE_BY_EACH_RUN:
            _remove(home / name)
        made.rename(moving)
    if moving.is_dir():
        for name in _MADE_BY_EACH_RUN:
            with suppress(FileNotFoundError):
                (moving / name).rename(home / name)
        _remove(moving)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
