"""Raw batches packed into rounds of shared memory, and cut where a round is full."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from sentinel.contract import RawBatch
from sentinel.core import limits
from sentinel.features.history.slots import Slot, SlotShape


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundHead:
    """What was packed into a slot.

    Attributes
    ----------
    n_events : int
        Raw events; 0 at the end of the log.
    edges : tuple of int
        Where its batches begin.
    is_received : bool
        Whether it is known when the events were received.
    """

    n_events: int
    edges: tuple[int, ...]
    is_received: bool


class RoundPacker:
    """Packs the batches of a log into rounds; a batch is cut only where it fills one alone.

    Parameters
    ----------
    batches : iterable of RawBatch
    shape : SlotShape
        Whose bounds a round has.
    """

    def __init__(self, batches: Iterable[RawBatch], shape: SlotShape) -> None:
        self._batches = iter(batches)
        self._shape = shape
        self._rest: RawBatch | None = None

    def pack(self, slot: Slot) -> RoundHead:
        """Fill a slot with the next events."""
        n_events, n_bytes, edges = 0, 0, []
        is_received = False
        while (batch := self._next()) is not None:
            if n_events and is_received != (batch.received_at_ms is not None):
                self._rest = batch
                break
            n_fit = self._n_fitting(batch, n_events, n_bytes)
            if n_fit < batch.n_events and n_events:
                self._rest = batch
                break
            if n_fit < batch.n_events:
                self._rest = _rows(batch, n_fit, batch.n_events)
                batch = _rows(batch, 0, n_fit)
            is_received = batch.received_at_ms is not None
            edges.append(n_events)
            n_bytes = _copy(batch, slot, n_events, n_bytes)
            n_events += batch.n_events
            if self._rest is not None:
                break
        return RoundHead(n_events=n_events, edges=tuple(edges), is_received=is_received)

    def _next(self) -> RawBatch | None:
        if self._rest is not None:
            batch, self._rest = self._rest, None
            return batch
        for batch in self._batches:
            if batch.n_events:
                return _in_order(batch)
        return None

    def _n_fitting(self, batch: RawBatch, n_events: int, n_bytes: int) -> int:
        room = self._shape.n_bytes_max - n_bytes
        n_fit = int(np.searchsorted(batch.ends - batch.starts[0], room, side="right"))
        return min(n_fit, self._shape.n_events_max - n_events)


def _in_order(batch: RawBatch) -> RawBatch:
    """Bring events into one order in their buffer, and cut those that are far too large."""
    lengths = batch.ends - batch.starts
    is_large = lengths > limits.EVENT_FILE_LINE_HEAD_BYTES
    if is_large.any() and batch.whole_lengths is None:
        batch = dataclasses.replace(batch, whole_lengths=lengths)
    ends = np.where(is_large, batch.starts + limits.EVENT_FILE_LINE_HEAD_BYTES, batch.ends)
    if not is_large.any() and (batch.starts[1:] >= batch.ends[:-1]).all():
        return batch
    lengths = ends - batch.starts
    spans = zip(batch.starts.tolist(), ends.tolist(), strict=True)
    content = np.concatenate([batch.content[start:end] for start, end in spans])
    own_ends = np.cumsum(lengths)
    return dataclasses.replace(batch, content=content, starts=own_ends - lengths, ends=own_ends)


def _rows(batch: RawBatch, first: int, end: int) -> RawBatch:
    part = slice(first, end)
    return dataclasses.replace(
        batch,
        starts=batch.starts[part],
        ends=batch.ends[part],
        positions=batch.positions[part],
        received_at_ms=None if batch.received_at_ms is None else batch.received_at_ms[part],
        whole_lengths=None if batch.whole_lengths is None else batch.whole_lengths[part],
    )


def _copy(batch: RawBatch, slot: Slot, at: int, n_bytes: int) -> int:
    """Copy a batch behind what is there; return how many bytes are there then."""
    rows = slice(at, at + batch.n_events)
    first, end = int(batch.starts[0]), int(batch.ends[-1])
    n_end = n_bytes + end - first
    slot.content[n_bytes:n_end] = batch.content[first:end]
    slot.starts[rows] = batch.starts - first + n_bytes
    slot.ends[rows] = batch.ends - first + n_bytes
    slot.positions[rows] = batch.positions
    whole = batch.whole_lengths
    slot.whole_lengths[rows] = batch.ends - batch.starts if whole is None else whole
    if batch.received_at_ms is not None:
        slot.received_at_ms[rows] = batch.received_at_ms
    return n_end
