"""A folder of events ready to be read: transactions, verdicts, and what each fraud was.

======================= ==================================================================
``events.ndjson``       one event a line, in order of time
``feedback.ndjson``     verdicts, in the order in which they become known; may be missing
``scenarios.ndjson``    which scenario each fraud belongs to; never an input, only for breaking
                        results down; may be missing
``manifest.json``       what the folder was made from, and the size of each file
======================= ==================================================================

The manifest is written last and removed first: with it the folder is whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.files import read_bounded, sync_folder, unwritable, write_atomically
from sentinel.core.hashing import canonical_json

if TYPE_CHECKING:
    from sentinel.data.json_lines import EncodedLines

EVENTS, FEEDBACK, SCENARIOS = "events.ndjson", "feedback.ndjson", "scenarios.ndjson"
MANIFEST = "manifest.json"
_NAMES = (EVENTS, FEEDBACK, SCENARIOS)
_WRITE_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class EventFolder:
    """Where the files are and what they hold.

    Attributes
    ----------
    events : Path
    feedback, scenarios : Path or None
        None where the data have no labels.
    n_events, n_feedback, n_frauds : int
    was_there : bool
        The folder had been made before from the same source, and was left as it was.
    """

    events: Path
    feedback: Path | None
    scenarios: Path | None
    n_events: int
    n_feedback: int
    n_frauds: int
    was_there: bool = False


def read_scenarios(path: Path) -> dict[str, str]:
    """Read which scenario each fraud belongs to; a transaction that is not there is genuine.

    Parameters
    ----------
    path : Path
        A ``scenarios.ndjson``.

    Returns
    -------
    dict
        Scenario by transaction id.

    Raises
    ------
    SentinelError
        ``file-missing``; ``file-unreadable`` for a file that is not what this house writes.
    """
    content = read_bounded(path, n_bytes_max=limits.SCENARIOS_FILE_BYTES_MAX)
    found: dict[str, str] = {}
    for i, line in enumerate(content.splitlines()):
        try:
            item = json.loads(line)
            found[item["transaction_id"]] = item["scenario"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise SentinelError(
                ErrorCode.FILE_UNREADABLE,
                at=f"{path}, line {i}",
                expected="an object with transaction_id and scenario",
                got=line.decode(errors="replace"),
            ) from error
    return found


class FolderWriter:
    """Writes the files of a folder beside their names and puts them in place when all is there.

    Parameters
    ----------
    folder : Path
        Made where it is missing.
    made_from : dict
        Plain data that names the source and every setting; equal data, equal folder.
    overwrite : bool
        Whether files that stand there, and were not made from the same, may be replaced.
    """

    def __init__(
        self, folder: Path, *, made_from: dict[str, object], overwrite: bool = True
    ) -> None:
        self._folder = folder
        self._overwrite = overwrite
        self._made_from = json.loads(canonical_json(made_from))
        self._files: dict[str, IO[bytes]] = {}
        self._counts = dict.fromkeys(_NAMES, 0)
        self._sizes = dict.fromkeys(_NAMES, 0)

    def existing(self) -> EventFolder | None:
        """Return the folder as it is, where it is whole and made from the same.

        Raises
        ------
        SentinelError
            ``output-exists`` where other files stand there and may not be replaced.
        """
        found = self._found()
        if found is None and not self._overwrite:
            self._refuse_taken()
        return found

    def _refuse_taken(self) -> None:
        for name in (*_NAMES, MANIFEST):
            path = self._folder / name
            if path.exists() or path.is_symlink():
                raise SentinelError(
                    ErrorCode.OUTPUT_EXISTS,
                    at=str(path),
                    expected="a new folder, or one made with the same settings",
                    got="a file that was not",
                    hint="Choose another folder, or --force to replace its files.",
                )

    def _found(self) -> EventFolder | None:
        try:
            content = read_bounded(
                self._folder / MANIFEST, n_bytes_max=limits.FOLDER_MANIFEST_BYTES_MAX
            )
            manifest = json.loads(content)
            if manifest["made_from"] != self._made_from:
                return None
            counts, sizes = manifest["counts"], manifest["sizes"]
            for name, size in sizes.items():
                if name not in _NAMES or (self._folder / name).stat().st_size != size:
                    return None
            return self._describe({name: int(counts[name]) for name in sizes}, was_there=True)
        except (SentinelError, OSError, ValueError, KeyError, TypeError, AttributeError):
            # Whatever is there, it is not a folder of ours.
            return None

    def __enter__(self) -> FolderWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self._files.values():
            # What could not be flushed is thrown away here anyhow.
            with contextlib.suppress(OSError):
                file.close()
            Path(file.name).unlink(missing_ok=True)
        self._files = {}

    def add_events(self, lines: EncodedLines) -> None:
        """Append events."""
        self._add(EVENTS, lines)

    def add_feedback(self, lines: EncodedLines) -> None:
        """Append verdicts."""
        self._add(FEEDBACK, lines)

    def add_scenarios(self, lines: EncodedLines) -> None:
        """Append what frauds were."""
        self._add(SCENARIOS, lines)

    def finish(self) -> EventFolder:
        """Put all files in place, then the manifest.

        Raises
        ------
        SentinelError
            ``file-unwritable``.
        """
        try:
            (self._folder / MANIFEST).unlink(missing_ok=True)
            for name in _NAMES:
                if name not in self._files:
                    (self._folder / name).unlink(missing_ok=True)
            for name, file in self._files.items():
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).replace(self._folder / name)
            sync_folder(self._folder)
        except OSError as error:
            raise unwritable(self._folder, error) from error
        names = tuple(self._files)
        manifest = {
            "made_from": self._made_from,
            "counts": {name: self._counts[name] for name in names},
            "sizes": {name: self._sizes[name] for name in names},
        }
        write_atomically(self._folder / MANIFEST, canonical_json(manifest))
        return self._describe({name: self._counts[name] for name in names}, was_there=False)

    def _add(self, name: str, lines: EncodedLines) -> None:
        try:
            if name not in self._files:
                self._files[name] = self._open(name)
            self._files[name].write(lines.content.data)
        except OSError as error:
            raise unwritable(self._folder, error) from error
        self._counts[name] += len(lines.ends)
        self._sizes[name] += lines.content.nbytes

    def _open(self, name: str) -> IO[bytes]:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._sweep(name)
        handle, path = tempfile.mkstemp(dir=self._folder, prefix=f".{name}.")
        os.fchmod(handle, 0o644)
        os.close(handle)
        return Path(path).open("wb", buffering=_WRITE_BUFFER_BYTES)

    def _sweep(self, name: str) -> None:
        """Remove what a killed writer left; a living one has touched its file lately."""
        oldest_s = time.time() - limits.FOLDER_ORPHAN_AGE_S
        for orphan in self._folder.glob(f".{name}.*"):
            if orphan.is_file() and orphan.stat().st_mtime < oldest_s:
                orphan.unlink(missing_ok=True)

    def _describe(self, counts: dict[str, int], *, was_there: bool) -> EventFolder:
        return EventFolder(
            events=self._folder / EVENTS,
            feedback=self._folder / FEEDBACK if FEEDBACK in counts else None,
            scenarios=self._folder / SCENARIOS if SCENARIOS in counts else None,
            n_events=counts[EVENTS],
            n_feedback=counts.get(FEEDBACK, 0),
            n_frauds=counts.get(SCENARIOS, 0),
            was_there=was_there,
        )
