"""Segments of the decision log: names, metadata, the head, and how they are written and found.

A segment is one Parquet file, whole or absent. Its metadata hold what is the same for all its
records, where it stands in the chain, and what was written before it, so that a log can be
continued, and its counts rebuilt, from its last segment alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.files import read_bounded, write_atomically
from sentinel.core.hashing import canonical_json, sha256_file, sha256_hex
from sentinel.monitoring.log_records import LogContext

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = "sentinel-decisions-1"
HEAD_NAME = "head.json"
SPILL_FOLDER = "spill"
METADATA_KEY = b"sentinel"
# Nothing before it: the hash that the first segment carries as its previous one.
NO_SEGMENT = "0" * 64

_SEGMENT_NAME = re.compile(r"decisions-(\d{12})\.parquet")
_HEAD_BYTES_MAX = 4096
# Numbers near the one before them.
_RISING = ("record", "event_time", "decided_at", "position")


@dataclass(frozen=True, slots=True)
class LogHead:
    """Where the chain ends: the next segment continues from here.

    Attributes
    ----------
    segment : int
        Number of the last segment, from 1; 0 for an empty log.
    n_records : int
        Records in all segments so far, those of removed segments included.
    sha256 : str
        SHA-256 of the last segment's file.
    record_hash : int
        Chained hash of the last record.
    """

    segment: int = 0
    n_records: int = 0
    sha256: str = NO_SEGMENT
    record_hash: int = 0


@dataclass(frozen=True, slots=True)
class SegmentMetadata:
    """What a segment says about itself, under the key ``sentinel`` of its Parquet metadata.

    Attributes
    ----------
    format : str
        :data:`FORMAT`.
    segment, first_record, n_records : int
        Its number, the number of its first record, and how many it holds.
    previous_sha256, previous_record_hash, last_record_hash
        Its place in the chain.
    written, ingested : int
        Records written straight, and from spilled files, up to and with this segment.
    spill_files : tuple of str
        The spilled files whose records this segment holds.
    context : LogContext
    """

    format: str
    segment: int
    first_record: int
    n_records: int
    previous_sha256: str
    previous_record_hash: int
    last_record_hash: int
    written: int
    ingested: int
    spill_files: tuple[str, ...]
    context: LogContext


def segment_path(folder: Path, number: int) -> Path:
    """Return where segment ``number`` of a log is kept."""
    return folder / f"decisions-{number:012d}.parquet"


def segment_paths(folder: Path) -> list[tuple[int, Path]]:
    """List the whole segments of a log with their numbers, in order."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _SEGMENT_NAME.fullmatch(path.name)
        if match:
            found.append((int(match.group(1)), path))
    return sorted(found)


def encode_segment(
    batches: Sequence[pa.RecordBatch],
    metadata: SegmentMetadata,
    *,
    rest: Callable[[], None] = lambda: None,
) -> memoryview:
    """Encode one segment as Parquet, in memory; the bytes are those of Arrow, not a copy.

    Each record costs time of a core that has decisions to make. ``lz4`` after encodings that
    suit the columns: measured at 32 features, 77 bytes a record in 0.29 µs, 96 bytes in 0.32 µs
    without them; ``zstd`` at level 1 took 59 bytes and 0.39 µs.
    Statistics are kept for the columns that are filtered by time.

    Parameters
    ----------
    batches : sequence of pyarrow.RecordBatch
        One or more, of one schema; each is a row group.
    metadata : SegmentMetadata
    rest : callable, optional
        Called after each row group.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = canonical_json(msgspec.to_builtins(metadata))
    schema = batches[0].schema.with_metadata({METADATA_KEY: text})
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        schema,
        compression="lz4",
        use_dictionary=["outcome", "served_by", "reason", "source", "feature_status"],
        column_encoding=dict.fromkeys(_RISING, "DELTA_BINARY_PACKED"),
        write_statistics=["event_time", "decided_at", "record"],
    ) as writer:
        for batch in batches:
            writer.write_batch(batch.replace_schema_metadata(schema.metadata))
            rest()
    return memoryview(sink.getvalue())


def read_metadata(path: Path) -> SegmentMetadata:
    """Read what a segment says about itself.

    Raises
    ------
    SentinelError
        ``decision-log-damaged`` when the file is no segment.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = pq.read_schema(path).metadata or {}
        return msgspec.json.decode(found.get(METADATA_KEY, b""), type=SegmentMetadata)
    except (pa.ArrowException, OSError, ValueError, msgspec.MsgspecError) as error:
        raise SentinelError(
            ErrorCode.DECISION_LOG_DAMAGED,
            at=str(path),
            expected="a segment of a decision log",
            got=error,
        ) from error


def write_head(folder: Path, head: LogHead) -> None:
    """Keep where the chain ends, beside the segments."""
    write_atomically(folder / HEAD_NAME, canonical_json(msgspec.to_builtins(head)))


def read_head(folder: Path) -> LogHead:
    """Read where the chain ends; the empty head where there is none.

    Raises
    ------
    SentinelError
        ``decision-log-damaged`` when the file is no head.
    """
    path = folder / HEAD_NAME
    if not path.exists():
        return LogHead()
    try:
        return msgspec.json.decode(read_bounded(path, n_bytes_max=_HEAD_BYTES_MAX), type=LogHead)
    except (ValueError, msgspec.MsgspecError) as error:
        raise SentinelError(
            ErrorCode.DECISION_LOG_DAMAGED, at=str(path), expected="the head of a log", got=error
        ) from error


def find_head(folder: Path) -> tuple[LogHead, SegmentMetadata | None]:
    """Find where a log continues: after its last segment, or after its head.

    A process killed between writing a segment and writing the head leaves one segment more than
    the head says; it continues the chain, so it is taken. Who continues the log writes the head
    first, so there is never more than one.

    Raises
    ------
    SentinelError
        ``decision-log-damaged`` when the last segment does not continue the chain.
    """
    head = read_head(folder)
    segments = segment_paths(folder)
    if not segments:
        return head, None
    number, path = segments[-1]
    metadata = read_metadata(path)
    found = LogHead(
        segment=number,
        n_records=metadata.first_record + metadata.n_records,
        sha256=sha256_file(path),
        record_hash=metadata.last_record_hash,
    )
    continues = (
        head.segment == 0
        or found == head
        or (number == head.segment + 1 and metadata.previous_sha256 == head.sha256)
    )
    if not continues:
        raise SentinelError(
            ErrorCode.DECISION_LOG_DAMAGED,
            at=str(path),
            expected=f"segment {head.segment} with SHA-256 {head.sha256[:12]}…, or the next one",
            got=f"segment {number} with SHA-256 {found.sha256[:12]}…",
            hint="Move the folder away and find the first bad record with verify_chain.",
        )
    return found, metadata


def sha256_of_segment(content: bytes | memoryview) -> str:
    """Hash an encoded segment, as :func:`find_head` hashes its file."""
    return sha256_hex(content)
