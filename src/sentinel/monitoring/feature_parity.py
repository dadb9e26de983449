"""The feature vectors of a decision log against those of a replay, while both may be growing.

1. the event ids of the log are kept as hashes, with where each record lies: 16 bytes a record;
2. each replayed vector is looked for among them; where it is found, the served vector is read from
   its segment and compared;
3. what was replayed and is not in the log yet waits, bounded, for the log's next segments.

A record whose event the replay does not have is a difference too: an event was lost, or another log
was replayed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sentinel.contract import ContractSchema, EventBatch, RawBatch
from sentinel.contract.decoder import Decoder
from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features.engine import Engine
from sentinel.features.matrix import FeatureMatrix
from sentinel.features.parity import FeatureParity, ParityCounter, hash_texts
from sentinel.features.replay import advance_log
from sentinel.monitoring.log_records import feature_vectors, fixed_bytes
from sentinel.monitoring.log_segments import SegmentMetadata, read_metadata, segment_paths
from sentinel.monitoring.metrics import Metrics

if TYPE_CHECKING:
    import pyarrow as pa

Int64Array = npt.NDArray[np.int64]

_COLUMNS = ["event_id", "position", "features", "feature_status", "features_raw"]
# A place is segment * 2^32 + row.
_ROW_BITS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """What was found so far.

    Attributes
    ----------
    n_compared, n_different : int
        Served vectors that were compared, and those with any difference.
    n_not_replayed : int
        Records of the log whose event was not replayed.
    first_not_replayed : str
        The event id of the first of them; empty where there is none.
    n_not_logged : int
        Replayed events that the log does not have: before it began, held back, or not decided.
    n_of_other_releases : int
        Records that another release decided, where one was asked for.
    features : tuple of FeatureParity
    """

    n_compared: int
    n_different: int
    n_not_replayed: int
    first_not_replayed: str
    n_not_logged: int
    n_of_other_releases: int
    features: tuple[FeatureParity, ...]

    @property
    def holds(self) -> bool:
        """Whether something was compared, nothing differs, and nothing is missing."""
        return self.n_compared > 0 and self.n_different == 0 and self.n_not_replayed == 0


@dataclass(frozen=True, slots=True)
class _Replayed:
    """Replayed rows."""

    ids: Int64Array
    values: npt.NDArray[np.float32]
    status: npt.NDArray[np.uint8]

    def rows(self, chosen: npt.NDArray[np.bool_]) -> _Replayed:
        return _Replayed(self.ids[chosen], self.values[chosen], self.status[chosen])


@dataclass(frozen=True, slots=True)
class _Served:
    """The records of one segment."""

    names: tuple[str, ...]
    ids: pa.Array
    positions: Int64Array
    values: npt.NDArray[np.float32]
    status: npt.NDArray[np.uint8]


class LogParity:
    """Compares a decision log with replayed vectors.

    Parameters
    ----------
    folder : Path
        Of the decision log.
    names : tuple of str
        Features that are computed.
    release_digest : str, optional
        Look at the records of this release only; else at all, by the names of their features.
    metrics : Metrics, optional
        Gets ``feature_parity_mismatch_total`` and ``sentinel_feature_parity_events_total``.
    n_waiting_max : int
        Replayed vectors that may wait for their record; 0: the log is whole already.
    """

    def __init__(
        self,
        folder: Path,
        names: tuple[str, ...],
        *,
        release_digest: str | None = None,
        metrics: Metrics | None = None,
        n_waiting_max: int = 0,
    ) -> None:
        self._folder = folder
        self._counter = ParityCounter(names)
        self._digest = release_digest
        self._metrics = metrics
        self._n_waiting_max = n_waiting_max
        self._n_compared = 0
        self._n_not_logged = 0
        self._n_other = 0
        self._last_segment = 0
        self._ids = np.empty(0, dtype=np.int64)
        self._places = np.empty(0, dtype=np.int64)
        self._waiting: list[_Replayed] = []
        self._served: OrderedDict[int, _Served] = OrderedDict()
        if metrics is not None:
            for name in names:
                metrics.add("feature_parity_mismatch_total", 0, feature=name)

    def read_log(self) -> int:
        """Take in the segments that are new; return how many records they have.

        Raises
        ------
        SentinelError
            ``decision-log-damaged``.
        """
        ids, places = [self._ids], [self._places]
        for number, path in segment_paths(self._folder):
            if number <= self._last_segment:
                continue
            self._last_segment = number
            metadata = read_metadata(path)
            if self._digest is not None and metadata.context.release_digest != self._digest:
                self._n_other += metadata.n_records
                continue
            served = self._open(number, metadata)
            ids.append(_hashes(served.ids))
            places.append((number << _ROW_BITS) + np.arange(len(served.ids), dtype=np.int64))
        n_new = sum(map(len, ids[1:]))
        if n_new:
            together = np.concatenate(ids)
            order = np.argsort(together, kind="stable")
            self._ids = together[order]
            self._places = np.concatenate(places)[order]
            waiting, self._waiting = self._waiting, []
            for each in waiting:
                self._match(each)
        return n_new

    def take(self, event_ids: Int64Array, matrix: FeatureMatrix) -> None:
        """Take replayed vectors; those of repeated events are passed over.

        Parameters
        ----------
        event_ids : ndarray of int64, shape (n_rows,)
            The event id's column (SipHash of its text).
        matrix : FeatureMatrix
        """
        rows = _Replayed(event_ids, matrix.values, matrix.status)
        self._match(rows.rows(~matrix.is_duplicate))
        n_waiting = sum(len(each.ids) for each in self._waiting)
        while n_waiting > self._n_waiting_max:
            n_gone = len(self._waiting.pop(0).ids)
            self._n_not_logged += n_gone
            n_waiting -= n_gone
            self._count("not-logged", n_gone)

    def has(self, event_id: int) -> bool:
        """Tell whether the log has an event, by its hash, that was not compared yet."""
        at = int(np.searchsorted(self._ids, event_id))
        return at < len(self._ids) and int(self._ids[at]) == event_id

    def report(self) -> ParityReport:
        """Say what was found so far; what waits still is not logged."""
        first = ""
        if len(self._places):
            place = int(self._places.min())
            first = str(self._open(place >> _ROW_BITS).ids[place & ((1 << _ROW_BITS) - 1)])
        return ParityReport(
            n_compared=self._n_compared,
            n_different=self._counter.n_different,
            n_not_replayed=len(self._ids),
            first_not_replayed=first,
            n_not_logged=self._n_not_logged + sum(len(each.ids) for each in self._waiting),
            n_of_other_releases=self._n_other,
            features=self._counter.features(),
        )

    def _match(self, rows: _Replayed) -> None:
        """Compare what is in the log, and keep the rest."""
        first = np.searchsorted(self._ids, rows.ids, side="left")
        n_records = np.searchsorted(self._ids, rows.ids, side="right") - first
        replayed = np.repeat(np.arange(len(rows.ids)), n_records)
        starts = np.cumsum(n_records) - n_records
        entries = np.arange(len(replayed)) - np.repeat(starts - first, n_records)
        if len(replayed):
            self._compare(rows, replayed, self._places[entries])
            is_open = np.ones(len(self._ids), dtype=np.bool_)
            is_open[entries] = False
            self._ids, self._places = self._ids[is_open], self._places[is_open]
        if (n_records == 0).any():
            self._waiting.append(rows.rows(n_records == 0))

    def _compare(self, rows: _Replayed, replayed: Int64Array, places: Int64Array) -> None:
        segments = places >> _ROW_BITS
        for number in np.unique(segments).tolist():
            served = self._open(number)
            of_segment = segments == number
            at = places[of_segment] & ((1 << _ROW_BITS) - 1)
            ours = replayed[of_segment]
            found = self._counter.compare(
                served.names,
                served.values[at],
                served.status[at],
                rows.values[ours],
                rows.status[ours],
                served.ids.take(at).to_pylist(),
                served.positions[at],
            )
            self._n_compared += len(at)
            self._count("compared", len(at))
            for name, n_different in zip(self._counter.names, found, strict=True):
                if self._metrics is not None and n_different:
                    self._metrics.add("feature_parity_mismatch_total", n_different, feature=name)

    def _count(self, result: str, n: int) -> None:
        if self._metrics is not None:
            self._metrics.add("sentinel_feature_parity_events_total", n, result=result)

    def _open(self, number: int, metadata: SegmentMetadata | None = None) -> _Served:
        """Read a segment, or take it from the few that were read last."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if number in self._served:
            self._served.move_to_end(number)
            return self._served[number]
        path = dict(segment_paths(self._folder)).get(number, self._folder)
        try:
            metadata = metadata or read_metadata(path)
            (batch,) = pq.read_table(path, columns=_COLUMNS).combine_chunks().to_batches() or [None]
        except (pa.ArrowException, OSError) as error:
            raise SentinelError(
                ErrorCode.DECISION_LOG_DAMAGED,
                at=str(path),
                expected="a whole segment",
                got=error,
                hint="Was it removed while it was read?",
            ) from error
        served = _Served(
            names=metadata.context.feature_names,
            ids=batch.column("event_id"),
            positions=batch.column("position").to_numpy(),
            values=feature_vectors(batch),
            status=fixed_bytes(batch, "feature_status"),
        )
        self._served[number] = served
        while len(self._served) > limits.PARITY_SEGMENTS_HELD:
            self._served.popitem(last=False)
        return served


def _hashes(ids: pa.Array) -> Int64Array:
    """Hash event ids as the contract does."""
    offsets = np.frombuffer(ids.buffers()[1], dtype=np.int32)
    content = np.frombuffer(ids.buffers()[2] or b"", dtype=np.uint8)
    return hash_texts(content, offsets[ids.offset : ids.offset + len(ids) + 1])


def check_parity(
    parity: LogParity,
    engine: Engine,
    events: Iterable[RawBatch],
    feedback: Iterable[RawBatch] = (),
    *,
    on_batch: Callable[[], None] = lambda: None,
) -> ParityReport:
    """Replay a log of events beside a decision log that is whole.

    Parameters
    ----------
    parity : LogParity
    engine : Engine
        As it was before the first of the events: a fresh one, or one with restored state.
    events, feedback : iterable of RawBatch
        In order of arrival; feedback in order of known-at.
    on_batch : callable
        Called after each batch.

    Returns
    -------
    ParityReport

    Raises
    ------
    SentinelError
        ``decision-log-damaged``, and as :func:`~sentinel.features.replay` does.
    """
    parity.read_log()
    features = engine.plan.features
    learned: Iterable[EventBatch] = ()
    if features.feedback is not None:
        learned = decoded_events(features.feedback, feedback)
    decoded = decoded_events(features.events, events)
    for batch, matrix in advance_log(engine, decoded, learned):
        ids = batch.column(features.events.event_id.name)
        parity.take(ids, matrix)
        on_batch()
    return parity.report()


def decoded_events(schema: ContractSchema, batches: Iterable[RawBatch]) -> Iterator[EventBatch]:
    """Decode batches; what the contract refuses takes no part, as when it was live."""
    decoder = Decoder(schema)
    for raw in batches:
        yield decoder.decode(raw).events
