"""What tests of memory measure with: bytes taken from the C library, and a slope without noise."""

from __future__ import annotations

import ctypes
import itertools
import statistics


class MallInfo(ctypes.Structure):
    """What ``mallinfo2`` of the C library gives: exact, and blind to pages not yet touched."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


_mallinfo2 = ctypes.CDLL(None).mallinfo2
_mallinfo2.restype = MallInfo


def taken_bytes() -> int:
    """Return the bytes that this process has taken from the C library and not given back."""
    info = _mallinfo2()
    taken: int = info.uordblks + info.hblkhd
    return taken


def theil_sen(points: list[tuple[int, int]]) -> float:
    """Return the median of the slopes of all pairs: a step or an outlier does not move it."""
    pairs = itertools.combinations(points, 2)
    return statistics.median((y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in pairs if x2 > x1)
