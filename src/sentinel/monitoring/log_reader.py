"""Reading decisions back, and proving that nothing in the log was changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.hashing import sha256_file
from sentinel.monitoring.log_records import arrow_schema, chain, feature_hashes, feature_vectors
from sentinel.monitoring.log_segments import (
    LogHead,
    SegmentMetadata,
    read_head,
    read_metadata,
    segment_paths,
)

if TYPE_CHECKING:
    import pyarrow as pa


def read_decisions(
    folder: Path,
    *,
    event_ids: Sequence[str] | None = None,
    outcomes: Sequence[str] | None = None,
    since_ms: int | None = None,
    until_ms: int | None = None,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """Read decisions from the segments of a log, those that pass every filter given.

    Parameters
    ----------
    folder : Path
    event_ids, outcomes : sequence of str, optional
        Keep these only.
    since_ms, until_ms : int, optional
        Bounds of event time, milliseconds, ``[since, until)``.
    columns : sequence of str, optional
        Columns to read; all by default. A feature of a release that did not have it is null.

    Returns
    -------
    pyarrow.Table
        In the order of the log. Empty, without columns, for a log without segments.

    Raises
    ------
    SentinelError
        ``decision-log-damaged`` for a segment that cannot be read.

    Notes
    -----
    The files are plain Parquet: DuckDB reads them with ``read_parquet('…/decisions-*.parquet')``
    and a feature as ``features.avg_amount_1h``.
    """
    import pyarrow as pa
    import pyarrow.dataset as ds

    condition = _condition(event_ids, outcomes, since_ms, until_ms)
    groups: list[tuple[pa.Schema, list[str]]] = []
    for _, path in segment_paths(folder):
        schema = _schema(path)
        if not groups or not groups[-1][0].equals(schema):
            groups.append((schema, []))
        groups[-1][1].append(str(path))
    try:
        tables = [
            ds.dataset(paths, schema=schema, format="parquet").to_table(
                filter=condition, columns=list(columns) if columns is not None else None
            )
            for schema, paths in groups
        ]
    except (pa.ArrowException, OSError) as error:
        raise SentinelError(
            ErrorCode.DECISION_LOG_DAMAGED, at=str(folder), expected="whole segments", got=error
        ) from error
    return pa.concat_tables(tables, promote_options="permissive") if tables else pa.table({})


def _schema(path: Path) -> pa.Schema:
    import pyarrow.parquet as pq

    read_metadata(path)
    return pq.read_schema(path).remove_metadata()


def _condition(
    event_ids: Sequence[str] | None,
    outcomes: Sequence[str] | None,
    since_ms: int | None,
    until_ms: int | None,
) -> pa.compute.Expression | None:
    import pyarrow as pa
    import pyarrow.compute as pc

    terms = []
    if event_ids is not None:
        terms.append(pc.field("event_id").isin(pa.array(event_ids, pa.string())))
    if outcomes is not None:
        terms.append(pc.field("outcome").cast(pa.string()).isin(pa.array(outcomes, pa.string())))
    moment = pa.timestamp("ms", "UTC")
    if since_ms is not None:
        terms.append(pc.field("event_time") >= pa.scalar(since_ms, moment))
    if until_ms is not None:
        terms.append(pc.field("event_time") < pa.scalar(until_ms, moment))
    condition = None
    for term in terms:
        condition = term if condition is None else condition & term
    return condition


@dataclass(frozen=True, slots=True)
class BadRecord:
    """The first place where a log is not what was written.

    Attributes
    ----------
    segment : int
        Number of the segment.
    record : int
        Number of the record in the log; of the segment's first where the segment as a whole is
        wrong.
    why : str
        What does not hold.
    """

    segment: int
    record: int
    why: str


@dataclass(frozen=True, slots=True)
class ChainReport:
    """What :func:`verify_chain` found.

    Attributes
    ----------
    n_segments, n_records : int
        Checked and right, up to the first bad one.
    first_bad : BadRecord or None
        None when the log is what was written.
    """

    n_segments: int
    n_records: int
    first_bad: BadRecord | None


def verify_chain(folder: Path, *, head: LogHead | None = None) -> ChainReport:
    """Check a log from its first segment on: every file hash, record hash and feature vector.

    Parameters
    ----------
    folder : Path
    head : LogHead, optional
        Where the chain must end, when that was kept elsewhere; else what the folder says.

    Returns
    -------
    ChainReport
        Names the first record that was changed, removed, moved or added.

    Notes
    -----
    Segments that were removed from the front, oldest first, are retention, not damage. Cutting
    off the end is found only with a ``head`` that was kept outside the folder.
    """
    end = head if head is not None else read_head(folder)
    segments = segment_paths(folder)
    expected: LogHead | None = None
    n_records = 0
    for index, (number, path) in enumerate(segments):
        bad, expected, n_checked = _check_segment(number, path, expected)
        if bad is None:
            bad = _check_file(path, expected, segments[index + 1 :], end)
        if bad is not None:
            return ChainReport(index, n_records, bad)
        n_records += n_checked
    last = expected or LogHead()
    if last.segment < end.segment:
        bad = BadRecord(last.segment + 1, last.n_records, "the segments after this are missing")
        return ChainReport(len(segments), n_records, bad)
    return ChainReport(len(segments), n_records, None)


def _check_segment(
    number: int, path: Path, expected: LogHead | None
) -> tuple[BadRecord | None, LogHead, int]:
    """Check one segment against the end of the one before, and give its own end."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    before = expected or LogHead()
    if expected is not None and number != expected.segment + 1:
        missing = BadRecord(expected.segment + 1, expected.n_records, "the segment is missing")
        return missing, before, 0
    try:
        metadata = read_metadata(path)
        table = pq.read_table(path)
        first = before.n_records if expected is not None else metadata.first_record
        bad = _check_records(table, metadata, number, first, expected)
    except (SentinelError, pa.ArrowException, OSError, ValueError) as error:
        return BadRecord(number, before.n_records, f"the file cannot be read: {error}"), before, 0
    end = LogHead(
        segment=number,
        n_records=first + metadata.n_records,
        sha256=sha256_file(path),
        record_hash=metadata.last_record_hash,
    )
    return bad, end, metadata.n_records


def _check_records(
    table: pa.Table, metadata: SegmentMetadata, number: int, first: int, expected: LogHead | None
) -> BadRecord | None:
    if expected is not None and metadata.previous_sha256 != expected.sha256:
        return BadRecord(number, first, "the segment does not continue the one before")
    table.validate(full=True)
    if not table.schema.remove_metadata().equals(arrow_schema(metadata.context, is_chained=True)):
        return BadRecord(number, first, "the columns are not those of the log")
    previous = expected.record_hash if expected is not None else metadata.previous_record_hash
    start = first
    for batch in table.combine_chunks().to_batches():
        hashes = chain(batch, metadata.context, first_record=start, previous=previous)
        stored = batch.column("record_hash").to_numpy()
        vectors = feature_hashes(feature_vectors(batch))
        wrong = (hashes != stored) | (vectors != batch.column("feature_hash").to_numpy())
        wrong |= batch.column("record").to_numpy() != np.arange(start, start + len(stored))
        wrong |= np.arange(start, start + len(stored)) >= first + metadata.n_records
        if wrong.any():
            record = start + int(np.argmax(wrong))
            return BadRecord(number, record, "the record does not fit its chained hash")
        start += batch.num_rows
        previous = int(stored[-1])
    if start != first + metadata.n_records:
        return BadRecord(number, start, "records are missing from here")
    if metadata.last_record_hash != previous:
        return BadRecord(number, first, "the segment's last hash is not that of its last record")
    return None


def _check_file(
    path: Path, own: LogHead, later: list[tuple[int, Path]], end: LogHead
) -> BadRecord | None:
    """Hold a file whose records fit against the SHA-256 that its successor, or the head, keeps."""
    if later:
        try:
            kept = read_metadata(later[0][1]).previous_sha256
        except SentinelError:
            return None  # the next segment is the bad one, and will be named
        is_next = later[0][0] == own.segment + 1
    else:
        kept, is_next = end.sha256, end.segment == own.segment
        if 0 < end.segment < own.segment - 1:
            return BadRecord(own.segment, end.n_records, "the segment was added after the end")
    if is_next and kept != own.sha256:
        first = read_metadata(path).first_record
        return BadRecord(own.segment, first, "the file was changed outside its records")
    return None
