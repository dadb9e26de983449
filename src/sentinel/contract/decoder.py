"""From raw events to columns and refusals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sentinel.contract import fault_bits
from sentinel.contract.batch import EventBatch, Int64Array, RawBatch
from sentinel.contract.codes import codes_of
from sentinel.contract.explain import explain
from sentinel.contract.frame import DEPTH_MAX, KEYS_MAX, Columns, Scratch
from sentinel.contract.refusal import Fault, Refusal
from sentinel.contract.scan_event import decode_events
from sentinel.contract.schema import ContractSchema, FieldKind
from sentinel.contract.tables import build_tables, text_fields_of
from sentinel.core import limits

_NO_TIMES: Int64Array = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Decoded:
    """A raw batch, decoded: ``events.n_rows + len(refusals)`` is what the batch held.

    Attributes
    ----------
    events : EventBatch
        What was accepted, as columns.
    refusals : tuple of Refusal
        What was refused, in the order of the batch.
    """

    events: EventBatch
    refusals: tuple[Refusal, ...]


class Decoder:
    """Decodes events by one contract; safe to share between threads.

    Parameters
    ----------
    schema : ContractSchema
        Declared in Python or read from ``contract.json``: the same tables come out.

    Notes
    -----
    One native pass reads all events (:mod:`sentinel.contract.scan_event`); about 1 µs for 340
    bytes. Only refused events are looked at again, in Python, to list all their faults
    (:mod:`sentinel.contract.explain`). That has a budget a batch, ``EXPLAINED_BYTES_MAX``: past
    it a refusal has its codes, from the native pass, without place and value. So a batch in
    which every event is bad costs no more than about twice a good one.

    Examples
    --------
    >>> from sentinel.contract import Contract, EventId, EventTime, RawBatch
    >>> class Ping(Contract, name="ping", version="1"):
    ...     ping_id = EventId()
    ...     at = EventTime()
    >>> raw = RawBatch.from_events([b'{"ping_id":"a","at":1700000000000}', b'{"ping_id":"b"}'])
    >>> decoded = Decoder(Ping.schema).decode(raw)
    >>> decoded.events.texts("ping_id"), decoded.events.column("at").tolist()
    (['a'], [1700000000000])
    >>> [(str(refusal.code), refusal.faults[0].path) for refusal in decoded.refusals]
    [('missing_field', '$.at')]
    """

    def __init__(self, schema: ContractSchema) -> None:
        self.schema = schema
        self._tables = build_tables(schema)
        self._names = tuple(field.name for field in schema.fields)
        self._text_fields = text_fields_of(schema)
        self._n_floats = sum(field.kind is FieldKind.FLOAT for field in schema.fields)

    def decode(self, raw: RawBatch) -> Decoded:
        """Decode a batch; linear in its bytes.

        Parameters
        ----------
        raw : RawBatch
            Of any content whatsoever.

        Returns
        -------
        Decoded

        Raises
        ------
        ValueError
            For a batch whose bounds lie outside its content: whoever built it is wrong.
        """
        content = np.ascontiguousarray(raw.content).view()
        content.flags.writeable = False
        columns = self._columns(raw.n_events)
        scratch = _scratch(raw)
        times = raw.received_at_ms
        n_rows, n_texts, n_unresolved = decode_events(
            content,
            _plain(raw.starts),
            _plain(raw.ends),
            _NO_TIMES if times is None else _plain(times),
            self._tables,
            columns,
            scratch,
        )
        if n_rows < 0:
            raise ValueError("a raw batch whose events lie outside its content")
        kept = np.arange(n_rows)
        if n_unresolved:
            kept = self._resolve(raw, columns, n_rows, n_unresolved)
        if raw.whole_lengths is not None:
            kept = _refuse_cut(raw, columns, kept)
        events = self._events(raw, columns, kept, scratch.texts[:n_texts])
        refused = np.flatnonzero(columns.faults) if len(kept) < raw.n_events else kept[:0]
        return Decoded(events=events, refusals=self._refusals(raw, columns.faults, refused))

    def _columns(self, n_events: int) -> Columns:
        n_fields = len(self._names)
        return Columns(
            values=np.empty((n_fields, n_events), dtype=np.int64),
            present=np.empty((n_fields, n_events), dtype=np.bool_),
            spans=np.empty((len(self._text_fields), n_events, 2), dtype=np.int64),
            rows=np.empty(n_events, dtype=np.int64),
            faults=np.empty(n_events, dtype=np.int64),
            unresolved=np.empty((n_events * self._n_floats, 4), dtype=np.int64),
        )

    def _resolve(
        self, raw: RawBatch, columns: Columns, n_rows: int, n_unresolved: int
    ) -> Int64Array:
        """Let Python round the floats that the kernel could not; return the rows to keep."""
        rows = columns.rows[:n_rows]
        for event, index, start, end in columns.unresolved[:n_unresolved].tolist():
            field = self.schema.fields[index]
            value = float(raw.content[start:end].tobytes())
            low, high = field.minimum, field.maximum
            if low is None or high is None or not low <= value <= high:
                if columns.faults[event] >= fault_bits.NON_FINITE or columns.faults[event] == 0:
                    columns.faults[event] |= fault_bits.OUT_OF_BOUNDS
                continue
            row = int(np.searchsorted(rows, event))
            if row < n_rows and rows[row] == event:
                columns.values[index, row] = np.float64(value).view(np.int64)
        kept: Int64Array = np.flatnonzero(columns.faults[rows] == 0)
        return kept

    def _events(
        self, raw: RawBatch, columns: Columns, kept: Int64Array, texts: npt.NDArray[np.uint8]
    ) -> EventBatch:
        values, present, spans = columns.values, columns.present, columns.spans
        rows = columns.rows
        if len(kept) < raw.n_events:
            n_rows = int(kept[-1]) + 1 if len(kept) else 0
            part = slice(0, n_rows) if n_rows == len(kept) else kept
            values = np.ascontiguousarray(values[:, part])
            present = np.ascontiguousarray(present[:, part])
            spans = np.ascontiguousarray(spans[:, part])
            rows = rows[part].copy()
        return EventBatch(
            names=self._names,
            values=values,
            present=present,
            rows=rows,
            raw=raw,
            text_fields=self._text_fields,
            text_spans=spans,
            text_content=np.concatenate([raw.content, texts]) if len(texts) else raw.content,
        )

    def _refusals(
        self, raw: RawBatch, faults: Int64Array, refused: Int64Array
    ) -> tuple[Refusal, ...]:
        """Explain what the budget allows, and name the codes of the rest."""
        if not len(refused):
            return ()
        content = np.ascontiguousarray(raw.content).data
        starts, ends = raw.starts[refused], raw.ends[refused]
        lengths = ends - starts if raw.whole_lengths is None else raw.whole_lengths[refused]
        heads = np.minimum(ends, starts + limits.EVENT_BYTES_MAX)
        times = raw.received_at_ms
        rows = zip(
            faults[refused].tolist(),
            starts.tolist(),
            heads.tolist(),
            lengths.tolist(),
            raw.positions[refused].tolist(),
            [None] * len(refused) if times is None else times[refused].tolist(),
            strict=True,
        )
        budget = limits.EXPLAINED_BYTES_MAX
        source, partition = raw.source, raw.partition
        by_code: dict[int, tuple[Fault, ...]] = {}
        refusals = []
        for bits, start, end, n_bytes, position, received in rows:
            event = bytes(content[start:end])
            cost = end - start if n_bytes <= limits.EVENT_BYTES_MAX else 0
            if cost <= budget:
                budget -= cost
                found = explain(self.schema, event, n_bytes=n_bytes, received_at_ms=received)
                found = found[: limits.FAULTS_PER_EVENT_MAX]
            else:
                known = by_code.get(bits)
                if known is None:
                    known = by_code[bits] = tuple(Fault(code) for code in codes_of(bits))
                found = known
            code = found[0].code
            refusals.append(Refusal(code, found, source, partition, position, event, n_bytes))
        return tuple(refusals)


def _plain(array: Int64Array) -> Int64Array:
    """Return the array as the kernel was compiled for: contiguous, and writable."""
    plain = np.ascontiguousarray(array, dtype=np.int64)
    return plain if plain.flags.writeable else plain.copy()


def _scratch(raw: RawBatch) -> Scratch:
    """Make room for escapes: never more than the events are long; untouched unless needed."""
    if raw.n_events == 1:
        n_bytes = min(max(0, int(raw.ends[0] - raw.starts[0])), limits.EVENT_BYTES_MAX)
    else:
        n_bytes = int(np.clip(raw.ends - raw.starts, 0, limits.EVENT_BYTES_MAX).sum())
    return Scratch(
        texts=np.empty(n_bytes, dtype=np.uint8),
        keys=np.empty((2, KEYS_MAX), dtype=np.uint64),
        open_objects=np.empty(DEPTH_MAX + 1, dtype=np.int64),
    )


def _refuse_cut(raw: RawBatch, columns: Columns, kept: Int64Array) -> Int64Array:
    """Refuse every event of which the reader kept only the head."""
    lengths = raw.whole_lengths
    if lengths is None or not (is_cut := lengths > raw.ends - raw.starts).any():
        return kept
    columns.faults[is_cut] = fault_bits.BODY_TOO_LARGE
    still: Int64Array = kept[columns.faults[columns.rows[kept]] == 0]
    return still
