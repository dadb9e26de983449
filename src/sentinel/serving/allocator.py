"""What the C library keeps for itself: one heap for all threads, and no large pieces in it.

By default every thread may get a heap of its own, up to eight a core, and what counts as large
grows with what is freed, up to 32 MiB: then a batch's arrays lie between what stays, and a heap
that is mostly free goes on growing, by some bytes a request. A server's threads hold the
interpreter lock while they ask for memory, so one heap costs them no time; large pieces go back to
the system as they are freed.
"""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
_LARGE_BYTES = 128 << 10


def keep_heap_small() -> bool:
    """Ask the C library for it; call it before threads are started.

    Returns
    -------
    bool
        False where the C library knows no such wish: then nothing is changed.
    """
    try:
        wish = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(wish(_M_ARENA_MAX, 1) and wish(_M_MMAP_THRESHOLD, _LARGE_BYTES))
