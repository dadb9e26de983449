"""Spilled records: Arrow files that wait, outside the chain, until the log has room again."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.files import write_atomically
from sentinel.core.hashing import canonical_json
from sentinel.monitoring.log_records import LogContext, arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa

_SPILL_NAME = re.compile(r"spill-(\d{12})-(\d{9})\.arrow")
_KEY = b"sentinel"


@dataclass(frozen=True, slots=True)
class SpillFile:
    """One spilled batch.

    Attributes
    ----------
    number : int
        Order in which it was spilled, from 1.
    n_records, n_bytes : int
    path : Path
    """

    number: int
    n_records: int
    n_bytes: int
    path: Path


def list_spilled(folder: Path) -> list[SpillFile]:
    """List what waits in a spill folder, oldest first."""
    found = []
    for path in folder.iterdir():
        match = _SPILL_NAME.fullmatch(path.name)
        if match:
            n_bytes = path.stat().st_size
            found.append(SpillFile(int(match.group(1)), int(match.group(2)), n_bytes, path))
    return sorted(found, key=lambda file: file.number)


def write_spilled(
    folder: Path, batch: pa.RecordBatch, context: LogContext, *, number: int, n_bytes_max: int
) -> SpillFile:
    """Write one batch to the spill folder, whole or not at all.

    Parameters
    ----------
    n_bytes_max : int
        Room left; a larger file is not written.

    Raises
    ------
    SentinelError
        ``file-unwritable`` when there is no room, on the disk or under the bound.
    """
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    schema = batch.schema.with_metadata({_KEY: canonical_json(msgspec.to_builtins(context))})
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_file(sink, schema, options=options) as writer:
        writer.write_batch(batch.replace_schema_metadata(schema.metadata))
    content: bytes = sink.getvalue().to_pybytes()
    path = folder / f"spill-{number:012d}-{batch.num_rows:09d}.arrow"
    if len(content) > n_bytes_max:
        raise SentinelError(
            ErrorCode.FILE_UNWRITABLE,
            at=str(path),
            expected=f"at most {n_bytes_max} bytes more in the spill folder",
            got=f"{len(content)} bytes",
        )
    write_atomically(path, content)
    return SpillFile(number, batch.num_rows, len(content), path)


def read_spilled(path: Path) -> tuple[pa.RecordBatch, LogContext]:
    """Read one spilled batch and what it was decided with.

    Raises
    ------
    SentinelError
        ``decision-log-damaged`` when the file is no spilled batch.
    """
    import pyarrow as pa

    try:
        reader = pa.ipc.open_file(pa.py_buffer(path.read_bytes()))
        context = msgspec.json.decode(reader.schema.metadata[_KEY], type=LogContext)
        batch = reader.get_batch(0).replace_schema_metadata(None)
        batch.validate(full=True)
    except (
        pa.ArrowException, OSError, KeyError, TypeError, ValueError, msgspec.MsgspecError
    ) as error:  # fmt: skip
        raise _damaged(path, error) from error
    if not batch.schema.equals(arrow_schema(context)):
        raise _damaged(path, "other columns")
    return batch, context


def _damaged(path: Path, got: object) -> SentinelError:
    return SentinelError(
        ErrorCode.DECISION_LOG_DAMAGED, at=str(path), expected="a spilled batch", got=got
    )
