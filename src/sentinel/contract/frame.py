"""Everything the kernels of one batch share, as one array of int64.

Arrays that are handed from function to function cost more than the work of the functions
(``core/words.py``). So the addresses of all tables, columns and work space stand in one array,
the frame, and the kernels pass its address. The names here are indices into it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sentinel.contract.batch import BoolArray, Int64Array
from sentinel.core import limits

(
    # How far the batch is: rows and text bytes that are kept, floats that are left to Python.
    N_ROWS,
    N_TEXTS,
    N_UNRESOLVED,
    # The event that is read: its index, when it was received, the keys noted in it that are no
    # field, and the first free byte of ``TEXTS``.
    EVENT,
    RECEIVED,
    N_KEYS,
    AT,
    # Sizes.
    N_CONTENT,
    N_EVENTS,
    N_FIELDS,
    SLOT_MASK,
    # Addresses.
    CONTENT,
    RULES,
    NAMES,
    SLOTS,
    LITERALS,
    VALUES,
    PRESENT,
    SPANS,
    UNRESOLVED,
    TEXTS,
    KEYS,
    OPEN_OBJECTS,
    # For each field, the last event that had it; and the field that followed it (the entry after
    # the last is the first field of an event; the index after the last is no field).
    MARKS,
    FOLLOWING,
    # Both stand behind the frame.
    N_FRAME,
) = range(26)

DEPTH_MAX = limits.EVENT_DEPTH_MAX
# The shortest key with its value and comma takes five bytes.
KEYS_MAX = limits.EVENT_BYTES_MAX // 4
# In place of a received-at time: nobody knows it.
NO_TIME = -(1 << 62)


class Columns(NamedTuple):
    """Where the kernel writes.

    Attributes
    ----------
    values : ndarray of int64, shape (n_fields, n_events)
    present : ndarray of bool, shape (n_fields, n_events)
    spans : ndarray of int64, shape (n_text_fields, n_events, 2)
    rows : ndarray of int64, shape (n_events,)
    faults : ndarray of int64, shape (n_events,)
        Fault set of each raw event; 0 for an accepted one.
    unresolved : ndarray of int64, shape (n_events * n_float_fields, 4)
        Floats for Python: raw event, field, start and end in the content.
    """

    values: Int64Array
    present: BoolArray
    spans: npt.NDArray[np.int64]
    rows: Int64Array
    faults: Int64Array
    unresolved: Int64Array


class Scratch(NamedTuple):
    """Room to work in; untouched, and therefore free, unless it is needed.

    Attributes
    ----------
    texts : ndarray of uint8
        Where escapes are resolved; the texts that are kept stand first.
    keys : ndarray of uint64, shape (2, KEYS_MAX)
        Hashes of keys that are no field, and room to sort them.
    open_objects : ndarray of int64, shape (DEPTH_MAX + 1,)
        For each open container: position of its brace, or -1 for an array.
    """

    texts: npt.NDArray[np.uint8]
    keys: npt.NDArray[np.uint64]
    open_objects: Int64Array
