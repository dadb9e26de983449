"""What goes into the contract and what comes out of it: columns, not rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class RawBatch:
    """Events as they came: bytes, with where each came from.

    Attributes
    ----------
    content : ndarray of uint8, shape (n_bytes,)
        All events of the batch in one buffer.
    starts, ends : ndarray of int64, shape (n_events,)
        Each event is ``content[starts[i]:ends[i]]``. Line ends are outside.
    source : str
        Name of the file or topic.
    partition : int
        Partition within the source; 0 for a file.
    positions : ndarray of int64, shape (n_events,)
        Position in the partition: Kafka offset, or 0-based line number.
    received_at_ms : ndarray of int64, shape (n_events,), or None
        When the broker or the server received each event; None where nobody knows (a file),
        and then event time is held only against the contract's own bounds.
    whole_lengths : ndarray of int64, shape (n_events,), or None
        Length in bytes of each event as it came. It is more than ``ends[i] - starts[i]`` where a
        reader kept only the head of an event far over ``EVENT_BYTES_MAX`` (the head is itself
        over it, so the contract refuses it). None where nothing was cut.
    """

    content: npt.NDArray[np.uint8]
    starts: Int64Array
    ends: Int64Array
    source: str
    partition: int
    positions: Int64Array
    received_at_ms: Int64Array | None = None
    whole_lengths: Int64Array | None = None

    @property
    def n_events(self) -> int:
        """How many events the batch holds."""
        return len(self.starts)

    def event_bytes(self, index: int) -> bytes:
        """Return one event, whole, as it came."""
        return self.content[self.starts[index] : self.ends[index]].tobytes()

    @classmethod
    def from_events(
        cls,
        events: Iterable[bytes],
        *,
        source: str = "memory",
        partition: int = 0,
        first_position: int = 0,
        received_at_ms: Int64Array | None = None,
    ) -> RawBatch:
        """Build a batch from separate messages; copies once."""
        parts = list(events)
        lengths = np.fromiter((len(part) for part in parts), dtype=np.int64, count=len(parts))
        ends = np.cumsum(lengths, dtype=np.int64)
        return cls(
            content=np.frombuffer(b"".join(parts), dtype=np.uint8),
            starts=ends - lengths,
            ends=ends,
            source=source,
            partition=partition,
            positions=np.arange(first_position, first_position + len(parts), dtype=np.int64),
            received_at_ms=received_at_ms,
        )


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Accepted events as columns. Row ``i`` is event ``rows[i]`` of the raw batch.

    Every field is one int64 column, so that kernels take one matrix:

    ========== =====================================================================
    kind       what the int64 holds
    ========== =====================================================================
    integer    the integer
    decimal    integer of minor units (``12.34`` at scale 2 is 1234)
    boolean    0 or 1
    time       milliseconds since the epoch, UTC
    text, key  SipHash-2-4 of the UTF-8 bytes (:mod:`sentinel.core.siphash`), as int64
    category   index into the declared values
    float      the bits of the float64 (view the column as float64)
    ========== =====================================================================

    Attributes
    ----------
    names : tuple of str
        Field names, in the order of the contract; row order of ``values``.
    values : ndarray of int64, shape (n_fields, n_rows), C order
    present : ndarray of bool, shape (n_fields, n_rows), C order
        False where the value is null or absent and the contract allows it; the int64 is then 0.
    rows : ndarray of int64, shape (n_rows,)
        Index of each accepted event in the raw batch, ascending.
    raw : RawBatch
        The batch they came from.
    text_spans : ndarray of int64, shape (n_text_fields, n_rows, 2)
        Start and end of the value's bytes in ``text_content``, without quotes, escapes resolved.
    text_fields : tuple of str
        Row order of ``text_spans``: the fields of kind text, key and event id.
    text_content : ndarray of uint8
        ``raw.content``, followed by the values whose escapes had to be resolved.
    """

    names: tuple[str, ...]
    values: Int64Array
    present: BoolArray
    rows: Int64Array
    raw: RawBatch
    text_fields: tuple[str, ...]
    text_spans: npt.NDArray[np.int64]
    text_content: npt.NDArray[np.uint8] = field(repr=False)

    @property
    def n_rows(self) -> int:
        """How many events were accepted."""
        return len(self.rows)

    def column(self, name: str) -> Int64Array:
        """Return the int64 column of a field; KeyError for an unknown name."""
        column: Int64Array = self.values[self._index(name)]
        return column

    def floats(self, name: str) -> npt.NDArray[np.float64]:
        """Return the column of a float field as float64."""
        column: npt.NDArray[np.float64] = self.values[self._index(name)].view(np.float64)
        return column

    def texts(self, name: str) -> list[str]:
        """Return the text of a text field, row by row (slow: for people and logs)."""
        spans = self.text_spans[self.text_fields.index(name)]
        content = self.text_content
        return [content[start:end].tobytes().decode() for start, end in spans]

    def _index(self, name: str) -> int:
        try:
            return self.names.index(name)
        except ValueError:
            raise KeyError(name) from None
