"""Memory that a replay shares with its processes: rounds of the log as columns, in slots.

A slot holds one round: the raw events, what decoding makes of them, and the features. Each
process writes its own rows, or its own columns, and nobody writes what another one writes.
The memory has no name: it is gone with the processes that have it open, however they end.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from dataclasses import dataclass
from typing import IO

import numpy as np
import numpy.typing as npt

from sentinel.core import limits
from sentinel.core.native import native

# One round is read while one is decoded and one advanced.
N_SLOTS = 3
_ALIGNMENT_BYTES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotShape:
    """What the size of a slot follows from.

    Attributes
    ----------
    n_fields, n_features, n_parts : int
        Of the event contract, of the feature set, and parts that it is cut into.
    n_events_max, n_bytes_max : int
        Of one round.
    """

    n_fields: int
    n_features: int
    n_parts: int
    n_events_max: int = limits.REPLAY_ROUND_EVENTS
    n_bytes_max: int = limits.REPLAY_ROUND_BYTES

    def arrays(self) -> dict[str, tuple[tuple[int, ...], type[np.generic]]]:
        """Name the arrays of a slot, with shape and type."""
        n, n_bytes = self.n_events_max, self.n_bytes_max
        one = ((n,), np.int64)
        return {
            "content": ((n_bytes,), np.uint8),
            "starts": one,
            "ends": one,
            "positions": one,
            "received_at_ms": one,
            "whole_lengths": one,
            "rows": one,
            "values": ((self.n_fields, n), np.int64),
            "present": ((self.n_fields, n), np.bool_),
            "ids": ((n_bytes,), np.uint8),
            "id_spans": ((n, 2), np.int64),
            "live": one,
            "now_ms": one,
            "features": ((self.n_features, n), np.float32),
            "status": ((self.n_features, n), np.uint8),
            "is_late": ((self.n_parts, n), np.bool_),
        }

    @property
    def n_slot_bytes(self) -> int:
        """Bytes of one slot, whole pages."""
        total = sum(
            _aligned(math.prod(shape) * np.dtype(kind).itemsize)
            for shape, kind in self.arrays().values()
        )
        return -(-total // mmap.PAGESIZE) * mmap.PAGESIZE


@dataclass(frozen=True, slots=True)
class Slot:
    """The arrays of one round; :meth:`SlotShape.arrays` says which."""

    content: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    received_at_ms: npt.NDArray[np.int64]
    whole_lengths: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    values: npt.NDArray[np.int64]
    present: npt.NDArray[np.bool_]
    ids: npt.NDArray[np.uint8]
    id_spans: npt.NDArray[np.int64]
    live: npt.NDArray[np.int64]
    now_ms: npt.NDArray[np.int64]
    features: npt.NDArray[np.float32]
    status: npt.NDArray[np.uint8]
    is_late: npt.NDArray[np.bool_]


def make_shared(shape: SlotShape) -> IO[bytes]:
    """Make the memory of all slots, as a file without a name; untouched pages take no room."""
    if hasattr(os, "memfd_create"):
        file: IO[bytes] = os.fdopen(os.memfd_create("sentinel-replay"), "r+b", buffering=0)
    else:
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 -- its user closes it
    file.truncate(N_SLOTS * shape.n_slot_bytes)
    return file


def open_slots(handle: int, shape: SlotShape) -> tuple[Slot, ...]:
    """Map the slots of a file that :func:`make_shared` made."""
    memory = mmap.mmap(handle, N_SLOTS * shape.n_slot_bytes)
    slots = []
    for i in range(N_SLOTS):
        at = i * shape.n_slot_bytes
        arrays: dict[str, npt.NDArray[np.generic]] = {}
        for name, (extent, kind) in shape.arrays().items():
            count = math.prod(extent)
            array = np.frombuffer(memory, dtype=kind, count=count, offset=at)
            arrays[name] = array.reshape(extent)
            at += _aligned(array.nbytes)
        slots.append(Slot(**arrays))  # type: ignore[arg-type]
    return tuple(slots)


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES


@native
def copy_spans(
    content: npt.NDArray[np.uint8],
    spans: npt.NDArray[np.int64],
    out: npt.NDArray[np.uint8],
    at: int,
    out_spans: npt.NDArray[np.int64],
) -> int:
    """Copy scattered texts one after the other into ``out`` from ``at`` on; return where it ends.

    ``out_spans`` gets where each text stands in ``out``.
    """
    for row in range(len(spans)):
        out_spans[row, 0] = at
        for i in range(spans[row, 0], spans[row, 1]):
            out[at] = content[i]
            at += 1
        out_spans[row, 1] = at
    return at
