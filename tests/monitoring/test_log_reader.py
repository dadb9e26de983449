"""What was decided can be found, reproduced and proved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.monitoring import (
    DecisionLog,
    LogContext,
    LogHead,
    LogRecords,
    LogSettings,
    read_decisions,
    verify_chain,
)
from sentinel.monitoring.log_records import feature_hashes, feature_vectors
from sentinel.monitoring.log_segments import HEAD_NAME, read_metadata, segment_paths

Make = Callable[..., LogRecords]
N_SEGMENT = 60


@pytest.fixture
def log_head(tmp_path: Path, context: LogContext, make_records: Make) -> LogHead:
    """Write three segments of 60 records each."""
    with DecisionLog(tmp_path, context, LogSettings()) as log:
        for i in range(3):
            log.append(make_records(N_SEGMENT, first=N_SEGMENT * i))
            log.flush()
    return log.head


def _rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    table = pq.read_table(path)
    changed = change(table)
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), path)


def _with(table: pa.Table, name: str, row: int, value: object) -> pa.Table:
    values = table[name].to_pylist()
    values[row] = value
    index = table.schema.get_field_index(name)
    field = table.schema.field(name)
    if not pa.types.is_dictionary(field.type):
        return table.set_column(index, field, pa.array(values, field.type))
    return table.set_column(index, field, pa.array(values).cast(field.type))


def test_a_folder_without_segments_reads_as_nothing(tmp_path: Path) -> None:
    """No log is not an error; nothing was decided."""
    assert read_decisions(tmp_path / "absent").num_rows == 0
    assert verify_chain(tmp_path / "absent").first_bad is None


def test_a_file_that_is_no_segment_is_an_error(tmp_path: Path) -> None:
    """Foreign bytes under a segment's name are named."""
    path = tmp_path / "decisions-000000000001.parquet"
    path.write_bytes(b"PAR1 no, not really PAR1")
    with pytest.raises(SentinelError) as error:
        read_decisions(tmp_path)
    assert error.value.code is ErrorCode.DECISION_LOG_DAMAGED
    assert error.value.at == str(path)


@pytest.mark.usefixtures("log_head")
def test_decisions_are_found_by_id_time_and_outcome(tmp_path: Path) -> None:
    """Filters hold together."""
    by_id = read_decisions(tmp_path, event_ids=["event-3", "event-170", "nobody"])
    assert by_id["record"].to_pylist() == [3, 170]
    start = 1_700_000_000_000
    by_time = read_decisions(tmp_path, since_ms=start + 60_000, until_ms=start + 62_000)
    assert by_time["record"].to_pylist() == [60, 61]
    held = read_decisions(tmp_path, outcomes=["held"], columns=["score", "outcome"])
    assert held.num_rows > 0
    assert held["score"].null_count == held.num_rows
    assert held.column_names == ["score", "outcome"]


def test_logs_of_two_feature_sets_are_read_together(
    tmp_path: Path, context: LogContext, make_records: Make
) -> None:
    """A feature that a release did not have is null there."""
    with DecisionLog(tmp_path, context, LogSettings()) as log:
        log.append(make_records(2))
    other = replace(context, feature_names=("feature_0", "b", "c", "d", "e"))
    with DecisionLog(tmp_path, other, LogSettings()) as log:
        log.append(make_records(2, first=2))
    features = read_decisions(tmp_path)["features"].to_pylist()
    assert features[0]["b"] is None
    assert features[3]["feature_1"] is None
    assert features[3]["b"] is not None
    assert verify_chain(tmp_path).n_records == 4


def test_a_thousand_records_are_reproduced_to_the_last_bit(
    tmp_path: Path, context: LogContext, make_records: Make
) -> None:
    """J3: every array that went in comes out, also where values are not finite."""
    records = make_records(1000)
    features = records.features.copy()
    odd = np.array([0x7FC00001, 0xFFC00000, 0x7F800000, 0xFF800000, 0x80000000], dtype=np.uint32)
    features[7] = odd.view(np.float32)
    features[500, 2] = np.float32("-inf")
    records = replace(records, features=features, feature_hash=feature_hashes(features))
    with DecisionLog(tmp_path, context, LogSettings()) as log:
        log.append(records)
    table = read_decisions(tmp_path)
    batch = table.combine_chunks().to_batches()[0]
    assert feature_vectors(batch).tobytes() == features.tobytes()
    assert table["score"].fill_null(0.0).to_numpy().tobytes() == records.score.tobytes()
    assert table["outcome"].to_pylist() == [context.outcomes[i] for i in records.outcome]
    assert table["served_by"].to_pylist() == [context.served_by[i] for i in records.served_by]
    assert table["feature_hash"].to_numpy().tolist() == records.feature_hash.tolist()
    assert b"".join(table["feature_status"].to_pylist()) == records.feature_status.tobytes()
    assert table["position"].to_numpy().tolist() == records.positions.tolist()
    assert table["event_time"].cast(pa.int64()).to_pylist() == records.event_time_ms.tolist()
    (_, path), *_ = segment_paths(tmp_path)
    assert read_metadata(path).context == context
    assert verify_chain(tmp_path).first_bad is None


def test_columns_hold_no_value_that_is_not_finite(
    tmp_path: Path, context: LogContext, make_records: Make
) -> None:
    """I4: NaN and infinity are null in every column that can be queried."""
    records = make_records(4)
    features = np.full_like(records.features, np.nan)
    records = replace(records, features=features, feature_hash=feature_hashes(features))
    with DecisionLog(tmp_path, context, LogSettings()) as log:
        log.append(records)
    for row in read_decisions(tmp_path)["features"].to_pylist():
        assert set(row.values()) == {None}


CHANGES: dict[str, Callable[[pa.Table, int], pa.Table]] = {
    "score": lambda table, row: _with(table, "score", row, 0.123),
    "event id": lambda table, row: _with(table, "event_id", row, "event-x"),
    "outcome": lambda table, row: _with(
        table, "outcome", row, "review" if table["outcome"][row].as_py() != "review" else "decline"
    ),
    "position": lambda table, row: _with(table, "position", row, 10**9),
    "status": lambda table, row: _with(table, "feature_status", row, b"\x07" * 5),
    "feature": lambda table, row: _with(
        table, "features", row, {**table["features"][row].as_py(), "feature_3": 1.5}
    ),
    "hash": lambda table, row: _with(table, "record_hash", row, 1),
    "removed": lambda table, row: pa.concat_tables([table[:row], table[row + 1 :]]),
    "swapped": lambda table, row: table.take(
        [*range(row), row + 1, row, *range(row + 2, table.num_rows)]
    ),
    "doubled": lambda table, row: table.take([*range(row), row - 1, *range(row, table.num_rows)]),
}


@pytest.mark.usefixtures("log_head")
@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("seed", range(3))
def test_the_first_bad_record_is_named(tmp_path: Path, kind: str, seed: int) -> None:
    """J6: a record that was changed, removed, moved or added is found, and where."""
    rng = np.random.default_rng([seed, len(kind)])
    segment, row = int(rng.integers(0, 3)), int(rng.integers(1, N_SEGMENT - 1))
    _rewrite(segment_paths(tmp_path)[segment][1], lambda table: CHANGES[kind](table, row))
    bad = verify_chain(tmp_path).first_bad
    assert bad is not None
    assert (bad.segment, bad.record) == (segment + 1, segment * N_SEGMENT + row)


@pytest.mark.usefixtures("log_head")
def test_records_appended_to_a_segment_are_named(tmp_path: Path) -> None:
    """The record after the last true one is the bad one."""
    path = segment_paths(tmp_path)[2][1]
    _rewrite(path, lambda table: pa.concat_tables([table, table[:1]]))
    bad = verify_chain(tmp_path).first_bad
    assert bad is not None
    assert (bad.segment, bad.record) == (3, 3 * N_SEGMENT)


@pytest.mark.usefixtures("log_head")
def test_the_last_records_cut_off_are_named(tmp_path: Path) -> None:
    """The first missing record is the bad one."""
    path = segment_paths(tmp_path)[2][1]
    _rewrite(path, lambda table: table[:-2])
    bad = verify_chain(tmp_path).first_bad
    assert bad is not None
    assert (bad.segment, bad.record) == (3, 3 * N_SEGMENT - 2)


@pytest.mark.usefixtures("log_head")
def test_every_flipped_byte_of_a_segment_is_found(tmp_path: Path) -> None:
    """200 flips anywhere in the files, metadata and padding included."""
    rng = np.random.default_rng(5)
    for _ in range(200):
        number, path = segment_paths(tmp_path)[int(rng.integers(0, 3))]
        content = path.read_bytes()
        place = int(rng.integers(0, len(content)))
        path.write_bytes(
            content[:place] + bytes([content[place] ^ (1 << int(rng.integers(0, 8)))])
            + content[place + 1 :]
        )  # fmt: skip
        bad = verify_chain(tmp_path).first_bad
        assert bad is not None, f"byte {place} of segment {number}"
        path.write_bytes(content)
    assert verify_chain(tmp_path).first_bad is None


@pytest.mark.usefixtures("log_head")
def test_a_missing_segment_is_named(tmp_path: Path) -> None:
    """A hole in the middle is no retention."""
    segment_paths(tmp_path)[1][1].unlink()
    bad = verify_chain(tmp_path).first_bad
    assert bad is not None
    assert (bad.segment, bad.record) == (2, N_SEGMENT)


def test_cutting_off_the_end_is_found_with_a_head_kept_elsewhere(
    tmp_path: Path, log_head: LogHead
) -> None:
    """Who can write the folder can also write its head; a copy outside cannot be cut."""
    segment_paths(tmp_path)[2][1].unlink()
    bad = verify_chain(tmp_path).first_bad
    assert bad is not None
    assert bad.segment == 3
    (tmp_path / HEAD_NAME).unlink()
    assert verify_chain(tmp_path).first_bad is None
    bad = verify_chain(tmp_path, head=log_head).first_bad
    assert bad is not None
    assert (bad.segment, bad.record) == (3, 2 * N_SEGMENT)


def test_a_log_rewritten_with_a_valid_chain_is_found_with_a_head_kept_elsewhere(
    tmp_path: Path, context: LogContext, make_records: Make, log_head: LogHead
) -> None:
    """The chain's key is public, so a forger can chain; the hash of the end tells."""
    forged = tmp_path / "forged"
    with DecisionLog(forged, context, LogSettings()) as log:
        for i in range(3):
            log.append(make_records(N_SEGMENT, first=N_SEGMENT * i, seed=1))
            log.flush()
    assert verify_chain(forged).first_bad is None
    bad = verify_chain(forged, head=log_head).first_bad
    assert bad is not None
    assert bad.segment == 3


@pytest.mark.usefixtures("log_head")
def test_plain_sql_reads_the_segments(tmp_path: Path) -> None:
    """DuckDB, without any code of Sentinel, finds a decision with a feature's value."""
    duckdb = pytest.importorskip("duckdb")
    rows = duckdb.sql(
        "select event_id, outcome, features.feature_2 from read_parquet($files) "
        "where event_id = 'event-77'",
        params={"files": f"{tmp_path}/decisions-*.parquet"},
    ).fetchall()
    assert len(rows) == 1
    assert rows[0][0] == "event-77"
    assert np.isfinite(rows[0][2])
