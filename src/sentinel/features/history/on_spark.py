"""The same replay on Spark, for histories that outgrow one machine; equal to the last bit.

Every step that computes is the code of the local replay, called with Arrow batches; Spark sorts,
shuffles and spills. What travels to the executors is the feature set as its data.

1. Raw events are decoded by the contract, anywhere.
2. One task goes through (position, event id, event time) in order, 24 bytes an event: it marks
   repeated events and gives each row the running maximum of event time.
3. One task goes through feedback in order of known-at, beside the rows at which running time moved
   on: it says before which event each becomes known.
4. For each part of the set (:mod:`sentinel.features.history.partition`) rows and feedback are
   partitioned by entity key and sorted by position; each partition is a shard.
5. The parts' rows are brought together by position.
"""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

import numpy as np
import numpy.typing as npt

from sentinel.contract import ContractSchema, RawBatch
from sentinel.contract.decoder import Decoder
from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features.engine import known_at
from sentinel.features.feature_set import FeatureSet
from sentinel.features.history.partition import (
    LONG_AGO_MS,
    Learned,
    ReplayPart,
    SeenIds,
    batch_of,
    divide,
)
from sentinel.features.history.shard import NOT_A_CLOCK, Shard, ShardRows

if TYPE_CHECKING:
    import pyarrow as pa

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Batches = Iterator["pa.RecordBatch"]
Scalar = TypeVar("Scalar", bound=np.generic)
OfBatches = Callable[[Batches], Batches]

# Kinds of rows of a shard, in the order in which they stand at one position.
_FEEDBACK, _EVENT = 0, 1

_DECODED = (
    "position long, id long, time_ms long, known_ms long, event_id string, "
    "values binary, present binary"
)
_ORDERED = "position long, now_ms long, is_repeated boolean"
_KNOWN = "at long, rank long, now_ms long, known_ms long, values binary, present binary"
_COMPUTED = (
    "position long, part int, event_id string, time_ms long, is_late boolean, "
    "vector binary, status binary"
)


class Frame(Protocol):
    """What is used of a Spark DataFrame."""

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""

    def selectExpr(self, *expressions: str) -> Frame:  # noqa: N802 -- Spark's name
        """Select by SQL."""

    def where(self, condition: str) -> Frame:
        """Keep rows by SQL."""

    def join(self, other: Frame, on: str) -> Frame:
        """Join by a column of both."""

    def unionByName(self, other: Frame) -> Frame:  # noqa: N802 -- Spark's name
        """Put rows together."""

    def repartition(self, n: int, *columns: str) -> Frame:
        """Shuffle, by columns."""

    def sortWithinPartitions(self, *columns: str) -> Frame:  # noqa: N802 -- Spark's name
        """Sort each partition."""

    def mapInArrow(self, function: OfBatches, schema: str) -> Frame:  # noqa: N802 -- Spark's name
        """Map partitions as Arrow batches."""


def replay_on_spark(
    features: FeatureSet,
    events: Frame,
    feedback: Frame | None = None,
    *,
    n_shards: int,
    n_dedupe_min: int = limits.DEDUPE_EVENTS_MIN,
) -> Frame:
    """Compute the feature vector of every event of a history on Spark.

    Parameters
    ----------
    features : FeatureSet
        Every encoding fitted.
    events, feedback : pyspark.sql.DataFrame
        With ``position`` (long: the order of arrival, each once), ``event`` (binary or string: the
        JSON), and, where it is known, ``received_at_ms`` (long). Feedback is taken in order of
        known-at, then of position.
    n_shards : int
        Partitions of each part: a few for each core of the cluster.
    n_dedupe_min : int
        As of :class:`~sentinel.features.Engine`.

    Returns
    -------
    pyspark.sql.DataFrame
        ``position``, ``event_id``, ``event_time``, ``is_late``, ``features`` (a struct of float),
        ``feature_status`` (a byte a feature), in no order. Refused and repeated events have no
        row. It is lazy; each part decodes the log anew.

    Raises
    ------
    SentinelError
        ``feature-unfitted``; in the tasks ``entities-too-many``.
    """
    document = json.dumps(features.to_data())
    parts = divide(features)
    decoded = _decoded(events, document, is_feedback=False)
    ordered = (
        decoded.selectExpr("position", "id", "time_ms")
        .repartition(1)
        .sortWithinPartitions("position")
        .mapInArrow(functools.partial(order_events, n_dedupe_min=n_dedupe_min), _ORDERED)
    )
    live = decoded.join(ordered.where("not is_repeated"), "position")
    known = None
    if feedback is not None and features.feedback is not None:
        known = _known(feedback, ordered, document, n_dedupe_min)
    found: Frame | None = None
    for number, part in enumerate(parts):
        computed = _part(part, number, live, known, document, n_shards)
        found = computed if found is None else found.unionByName(computed)
    if found is None:
        raise ValueError("a feature set without features")
    names = ", ".join(f"`{name}`: float" for name in features.names)
    schema = (
        "position long, event_id string, event_time timestamp, is_late boolean, "
        f"features struct<{names}>, feature_status binary"
    )
    return (
        found.repartition(n_shards, "position")
        .sortWithinPartitions("position", "part")
        .mapInArrow(functools.partial(assemble, document=document), schema)
    )


def lines_on_spark(spark: object, path: str) -> Frame:
    """Read an event file as :func:`replay_on_spark` takes it; positions are line numbers.

    Parameters
    ----------
    spark : pyspark.sql.SparkSession
    path : str
        Anything that Spark reads as text.

    Raises
    ------
    SentinelError
        ``extra-missing`` without PySpark.
    """
    require_spark()
    context = spark.sparkContext  # type: ignore[attr-defined]
    numbered = context.textFile(path, use_unicode=False).zipWithIndex()
    rows = numbered.filter(lambda pair: bool(pair[0].strip())).map(lambda pair: (pair[1], pair[0]))
    frame = spark.createDataFrame(rows, "position long, event binary")  # type: ignore[attr-defined]
    return cast("Frame", frame)


def require_spark() -> None:
    """Say how PySpark is installed, where it is not.

    Raises
    ------
    SentinelError
        ``extra-missing``.
    """
    try:
        importlib.import_module("pyspark")
    except ImportError as error:
        raise SentinelError(
            ErrorCode.EXTRA_MISSING,
            at="pyspark",
            expected="PySpark, and Java 17 or later",
            got=error,
            hint="Run: pip install 'sentinel[spark]'",
        ) from error


def _decoded(frame: Frame, document: str, *, is_feedback: bool) -> Frame:
    has_received = "received_at_ms" in frame.columns
    received = "received_at_ms" if has_received else "cast(null as long) as received_at_ms"
    decode = functools.partial(decode_lines, document=document, is_feedback=is_feedback)
    selected = frame.selectExpr("position", "cast(event as binary) as event", received)
    return selected.mapInArrow(decode, _DECODED)


def _known(feedback: Frame, ordered: Frame, document: str, n_dedupe_min: int) -> Frame:
    """Say of feedback before which event it becomes known."""
    decoded = _decoded(feedback, document, is_feedback=True).selectExpr(
        "known_ms as at_ms", "0 as kind", "position", "id", "known_ms", "values", "present"
    )
    moved = ordered.where("not is_repeated").selectExpr(
        "now_ms as at_ms",
        "1 as kind",
        "position",
        "0L as id",
        "0L as known_ms",
        "cast(null as binary) as values",
        "cast(null as binary) as present",
    )
    return (
        decoded.unionByName(moved)
        .repartition(1)
        .sortWithinPartitions("at_ms", "kind", "position")
        .mapInArrow(functools.partial(order_feedback, n_dedupe_min=n_dedupe_min), _KNOWN)
    )


def _part(
    part: ReplayPart, number: int, live: Frame, known: Frame | None, document: str, n_shards: int
) -> Frame:
    """Replay one part in its shards."""
    rows = live.selectExpr(
        "position",
        f"{_EVENT} as kind",
        "0L as rank",
        f"{_long_at('values', part.key)} as entity_key",
        "now_ms",
        "time_ms",
        "0L as known_ms",
        "event_id" if number == 0 else "cast(null as string) as event_id",
        "values",
        "present",
    )
    if known is not None and (part.key < 0 or part.feedback_key >= 0):
        at = part.feedback_key
        own = known if at < 0 else known.where(f"substring(present, {at + 1}, 1) = X'01'")
        rows = rows.unionByName(
            own.selectExpr(
                "at as position",
                f"{_FEEDBACK} as kind",
                "rank",
                f"{_long_at('values', at)} as entity_key",
                "now_ms",
                "now_ms as time_ms",
                "known_ms",
                "cast(null as string) as event_id",
                "values",
                "present",
            )
        )
    n_own = 1 if part.key < 0 else n_shards
    return (
        rows.repartition(n_own, "entity_key")
        .sortWithinPartitions("position", "kind", "rank")
        .mapInArrow(functools.partial(advance_shard, document=document, number=number), _COMPUTED)
    )


def _long_at(column: str, field: int) -> str:
    """Write SQL for the bytes of one field: equal where the keys are equal."""
    return "X'00'" if field < 0 else f"substring({column}, {8 * field + 1}, 8)"


def decode_lines(batches: Batches, *, document: str, is_feedback: bool) -> Batches:
    """Decode raw events; what the contract refuses has no row."""
    import pyarrow as pa

    features = FeatureSet.from_data(json.loads(document))
    schema = features.events
    if is_feedback and features.feedback is not None:
        schema = features.feedback
    decoder = Decoder(schema)
    for batch in batches:
        received = batch.column("received_at_ms")
        has_received = len(batch) > 0 and received.null_count == 0
        raw = RawBatch.from_events(
            (each or b"" for each in batch.column("event").to_pylist()),
            received_at_ms=received.to_numpy() if has_received else None,
        )
        events = decoder.decode(raw).events
        known = known_at(events, schema)
        columns = [
            batch.column("position").take(pa.array(events.rows)),
            pa.array(events.column(schema.event_id.name)),
            pa.array(events.column(schema.event_time.name)),
            pa.array(known),
            pa.array(events.texts(schema.event_id.name), pa.string()),
            _rows_to_binary(np.ascontiguousarray(events.values.T)),
            _rows_to_binary(np.ascontiguousarray(events.present.T)),
        ]
        yield pa.RecordBatch.from_arrays(columns, names=_names(_DECODED))


def order_events(batches: Batches, *, n_dedupe_min: int) -> Batches:
    """Mark repeated events, and give each row the running maximum of event time."""
    import pyarrow as pa

    seen, now = SeenIds(n_dedupe_min), LONG_AGO_MS
    for batch in batches:
        repeated = seen.mark(_longs(batch, "id"))
        times = np.where(repeated, LONG_AGO_MS, _longs(batch, "time_ms"))
        running = np.maximum(np.maximum.accumulate(times), now)
        now = int(running[-1]) if len(running) else now
        columns = [batch.column("position"), pa.array(running), pa.array(repeated)]
        yield pa.RecordBatch.from_arrays(columns, names=_names(_ORDERED))


def order_feedback(batches: Batches, *, n_dedupe_min: int) -> Batches:
    """Give feedback the position of the first row whose running time has reached its known-at.

    Rows come in order of time, feedback before rows of the same time. What no row reaches is
    never known.
    """
    import pyarrow as pa

    seen, rank = SeenIds(n_dedupe_min), 0
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        is_row = _longs(batch, "kind") == 1
        at = np.flatnonzero(is_row)
        mine = np.flatnonzero(~is_row)
        mine = mine[~seen.mark(_longs(batch, "id")[mine])]
        if len(at) and waiting:
            for each in waiting:
                yield _placed(each, _longs(batch, "position")[at[0]], _longs(batch, "at_ms")[at[0]])
            waiting = []
        following = np.searchsorted(at, mine)
        reached = following < len(at)
        ranked = batch.take(pa.array(mine)).append_column(
            "rank", pa.array(np.arange(rank, rank + len(mine)))
        )
        rank += len(mine)
        if (~reached).any():
            waiting.append(ranked.filter(pa.array(~reached)))
        rows = at[following[reached]]
        yield _placed(
            ranked.filter(pa.array(reached)),
            _longs(batch, "position")[rows],
            _longs(batch, "at_ms")[rows],
        )


def _placed(feedback: pa.RecordBatch, at: Int64Array, now_ms: Int64Array) -> pa.RecordBatch:
    import pyarrow as pa

    n = feedback.num_rows
    columns = [
        pa.array(np.broadcast_to(at, n).astype(np.int64)),
        feedback.column("rank"),
        pa.array(np.broadcast_to(now_ms, n).astype(np.int64)),
        feedback.column("known_ms"),
        feedback.column("values"),
        feedback.column("present"),
    ]
    return pa.RecordBatch.from_arrays(columns, names=_names(_KNOWN))


def advance_shard(batches: Batches, *, document: str, number: int) -> Batches:
    """Replay the rows of one shard, feedback among them, in order."""
    import pyarrow as pa

    features = FeatureSet.from_data(json.loads(document))
    shard = Shard(divide(features)[number])
    now = LONG_AGO_MS
    for batch in batches:
        if not batch.num_rows:
            continue
        given, is_event = _shard_rows(batch, features, now)
        now = int(_longs(batch, "now_ms")[-1])
        values, status, is_late = shard.advance(given)
        rows = pa.array(np.flatnonzero(is_event))
        columns = [
            batch.column("position").take(rows),
            pa.array(np.full(len(rows), number, dtype=np.int32)),
            batch.column("event_id").take(rows),
            batch.column("time_ms").take(rows),
            pa.array(is_late & shard.part.marks_late),
            _rows_to_binary(np.ascontiguousarray(values)),
            _rows_to_binary(np.ascontiguousarray(status)),
        ]
        yield pa.RecordBatch.from_arrays(columns, names=_names(_COMPUTED))


def _shard_rows(
    batch: pa.RecordBatch, features: FeatureSet, now: int
) -> tuple[ShardRows, BoolArray]:
    """Put clock rows before late events and behind feedback; feedback itself is learned."""
    is_event = _longs(batch, "kind") == _EVENT
    now_ms, times = _longs(batch, "now_ms"), _longs(batch, "time_ms")
    before = np.concatenate([[now], now_ms[:-1]])
    is_behind = is_event & (times < now_ms) & (before < now_ms)
    n_out = 1 + is_behind.astype(np.int64)
    ends = np.cumsum(n_out)
    n_rows = int(ends[-1])
    clock_ms = np.full(n_rows, NOT_A_CLOCK, dtype=np.int64)
    last = ends - 1
    clock_ms[last[~is_event]] = now_ms[~is_event]
    clock_ms[last[is_behind] - 1] = now_ms[is_behind]
    n_fields = len(features.events.fields)
    values = np.zeros((n_fields, n_rows), dtype=np.int64)
    present = np.zeros((n_fields, n_rows), dtype=np.bool_)
    events = np.flatnonzero(is_event)
    values[:, last[events]] = _matrix(batch, "values", events, np.int64, n_fields).T
    present[:, last[events]] = _matrix(batch, "present", events, np.bool_, n_fields).T
    # A clock row has an id of its own and no key; the columns beside are those of any row.
    learned = (
        []
        if features.feedback is None or is_event.all()
        else list(_learned(batch, features.feedback, np.flatnonzero(~is_event), last))
    )
    rows = ShardRows(values=values, present=present, clock_ms=clock_ms, learned=tuple(learned))
    return rows, is_event


def _learned(
    batch: pa.RecordBatch, schema: ContractSchema, rows: Int64Array, places: Int64Array
) -> Iterable[Learned]:
    """Take runs of feedback as one each: what becomes known later waits in the engine."""
    n_fields = len(schema.fields)
    for run in np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1):
        known = _longs(batch, "known_ms")[run]
        values = _matrix(batch, "values", run, np.int64, n_fields).T
        present = _matrix(batch, "present", run, np.bool_, n_fields).T
        taken = batch_of(schema, values, present, received_at_ms=known)
        yield Learned(at=int(places[run[0]]), batch=taken, known_at_ms=known)


def assemble(batches: Batches, *, document: str) -> Batches:
    """Put the parts of each row together: they stand one behind the other."""
    import pyarrow as pa

    features = FeatureSet.from_data(json.loads(document))
    parts = divide(features)
    rest: pa.Table | None = None
    for batch in batches:
        table = pa.Table.from_batches([batch])
        rest = table if rest is None else pa.concat_tables([rest, table])
        n_rows = rest.num_rows // len(parts)
        if n_rows:
            whole = rest.slice(0, n_rows * len(parts)).combine_chunks().to_batches()[0]
            rest = rest.slice(n_rows * len(parts))
            yield _assembled(whole, features, parts)


def _assembled(
    batch: pa.RecordBatch, features: FeatureSet, parts: tuple[ReplayPart, ...]
) -> pa.RecordBatch:
    import pyarrow as pa

    n_parts = len(parts)
    first = np.arange(0, batch.num_rows, n_parts)
    n_rows = len(first)
    values = np.empty((len(features.names), n_rows), dtype=np.float32)
    status = np.empty((n_rows, len(features.names)), dtype=np.uint8)
    for number, part in enumerate(parts):
        rows, n_own = first + number, len(part.columns)
        values[part.columns] = _matrix(batch, "vector", rows, np.float32, n_own).T
        status[:, part.columns] = _matrix(batch, "status", rows, np.uint8, n_own)
    is_late = np.asarray(batch.column("is_late").to_numpy(zero_copy_only=False))
    times = _longs(batch, "time_ms")[first] * 1000
    fields = [pa.field(name, pa.float32()) for name in features.names]
    at = pa.array(first)
    columns = [
        batch.column("position").take(at),
        batch.column("event_id").take(at),
        pa.array(times).cast(pa.timestamp("us", "UTC")),
        pa.array(is_late.reshape(n_rows, n_parts).any(axis=1)),
        pa.StructArray.from_arrays([pa.array(column) for column in values], fields=fields),
        _rows_to_binary(status),
    ]
    names = ["position", "event_id", "event_time", "is_late", "features", "feature_status"]
    return pa.RecordBatch.from_arrays(columns, names=names)


def _names(schema: str) -> list[str]:
    return [part.split()[0] for part in schema.split(", ")]


def _longs(batch: pa.RecordBatch, name: str) -> Int64Array:
    column: Int64Array = batch.column(name).to_numpy(zero_copy_only=False)
    return column.astype(np.int64)


def _rows_to_binary(rows: npt.NDArray[np.generic]) -> pa.Array:
    """Make one binary value of each row of a matrix."""
    import pyarrow as pa

    n_rows = len(rows)
    width = rows.shape[1] * rows.dtype.itemsize
    offsets = np.arange(n_rows + 1, dtype=np.int32) * np.int32(width)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(rows.tobytes())]
    return pa.Array.from_buffers(pa.binary(), n_rows, buffers)


def _matrix(
    batch: pa.RecordBatch, name: str, rows: Int64Array, kind: type[Scalar], width: int
) -> npt.NDArray[Scalar]:
    """Read some rows of binary values back as a matrix."""
    import pyarrow as pa

    column = batch.column(name).take(pa.array(rows))
    flat = b"".join(column.to_pylist())
    return np.frombuffer(flat, dtype=kind).reshape(len(rows), width)
