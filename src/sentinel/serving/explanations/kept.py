"""Explanations on disk, beside the decision log: lines of JSON, in files of bounded size.

One process writes, each into files of its own (``explanations-<first instant>-<process>.jsonl``).
A line is whole or it is the last one, cut by a crash: readers pass it over. Nothing is removed
here, as nothing of the decision log is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from sentinel.serving import bounds

# Inside the folder of the decision log.
EXPLANATIONS_FOLDER = "explanations"
_PATTERN = "explanations-*.jsonl"


class _Head(msgspec.Struct):
    event_id: str


class ExplanationFiles:
    """Where one explainer keeps what it found.

    Parameters
    ----------
    folder : Path
        Made when absent.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: BinaryIO | None = None

    def keep(self, documents: Sequence[bytes]) -> None:
        """Write documents, one a line; empty ones are passed over.

        A disk that does not take them loses them: an explanation can be made again from the
        decision log, so it never stops the explainer.
        """
        lines = b"".join(document + b"\n" for document in documents if document)
        if not lines:
            return
        try:
            file = self._opened()
            file.write(lines)
            file.flush()
            if file.tell() >= bounds.EXPLANATION_SEGMENT_BYTES_MAX:
                self.close()
        except OSError:
            self._file = None

    def close(self) -> None:
        """Sync and close the open file."""
        if self._file is None:
            return
        try:
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError:
            pass
        self._file = None

    def _opened(self) -> BinaryIO:
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            name = f"explanations-{time.time_ns():020d}-{os.getpid()}.jsonl"
            self._file = (self._folder / name).open("xb")
        return self._file


def find_explanation(folder: Path, event_id: str) -> bytes | None:
    """Find the kept explanation of an event, the newest where there are several; O(bytes).

    Parameters
    ----------
    folder : Path
    event_id : str

    Returns
    -------
    bytes or None
        The document; None when there is none.
    """
    decoder = msgspec.json.Decoder(_Head)
    needle = msgspec.json.encode(event_id)
    for path in sorted(folder.glob(_PATTERN), reverse=True):
        found = None
        with path.open("rb") as file:
            while line := file.readline(bounds.EXPLANATION_LINE_BYTES_MAX):
                if not line.endswith(b"\n") or needle not in line:
                    continue
                try:
                    if decoder.decode(line).event_id == event_id:
                        found = line.rstrip(b"\n")
                except msgspec.DecodeError:
                    continue
        if found is not None:
            return found
    return None
