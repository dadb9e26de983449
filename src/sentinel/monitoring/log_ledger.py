"""Counts that survive ``kill -9``: a few integers in a file that is mapped into memory.

What is stored to a shared mapping belongs to the kernel's page cache, so it outlives the process
(not a power cut: then the counts are those of the last sync).
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.files import unwritable

_MAGIC = 0x3152474C4E544E53
_NAMES = ("decided", "written", "spilled", "dropped", "ingested", "lost", "spill_files")
_N_BYTES = 8 * (1 + len(_NAMES))


class Ledger:
    """Counters in a file of its own.

    Parameters
    ----------
    path : Path
        Made when absent, with room reserved, so that a full disk cannot break a later count.

    Raises
    ------
    SentinelError
        ``file-unwritable``; ``decision-log-damaged`` when the file is something else.
    """

    def __init__(self, path: Path) -> None:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            try:
                n_bytes = os.fstat(handle).st_size
                os.posix_fallocate(handle, 0, _N_BYTES)
                self._map = mmap.mmap(handle, _N_BYTES)
            finally:
                os.close(handle)
        except OSError as error:
            raise unwritable(path, error) from error
        self._counts = np.frombuffer(self._map, dtype=np.int64)
        if n_bytes == 0:
            self._counts[0] = _MAGIC
        if self._counts[0] != _MAGIC or n_bytes not in {0, _N_BYTES}:
            raise SentinelError(
                ErrorCode.DECISION_LOG_DAMAGED,
                at=str(path),
                expected="the counts of a decision log",
                got=f"{n_bytes} other bytes",
            )

    def get(self, name: str) -> int:
        """Return one count."""
        return int(self._counts[1 + _NAMES.index(name)])

    def add(self, name: str, n: int) -> None:
        """Count ``n`` more."""
        self._counts[1 + _NAMES.index(name)] += n

    def put(self, name: str, n: int) -> None:
        """Set one count, when a log is opened."""
        self._counts[1 + _NAMES.index(name)] = n

    def sync(self) -> None:
        """Ask the kernel to write the counts to the disk."""
        self._map.flush()
