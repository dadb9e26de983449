"""Positions that are missing before or within a batch of a source."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from sentinel.core.errors import ErrorCode, SentinelError


def first_hole(
    positions: npt.NDArray[np.int64], held: int | None, accepted: Collection[int]
) -> tuple[int, int] | None:
    """Find the first hole that nobody knows of.

    Parameters
    ----------
    positions : ndarray of int64, shape (n_events,)
        Of a batch, ascending; at least one.
    held : int or None
        First position that the state does not hold; None: nothing of the source is held, and it
        begins where the batch does.
    accepted : collection of int
        Ends of holes that may be passed.

    Returns
    -------
    tuple of int or None
        First position that is missing, and the one that came instead.

    Examples
    --------
    >>> first_hole(np.array([4, 5, 8]), 4, ())
    (6, 8)
    >>> first_hole(np.array([4, 5, 8]), 4, (8,)) is None
    True
    >>> first_hole(np.array([4, 5, 8]), 8, ()) is None  # read again
    True
    """
    first = int(positions[0])
    begin = first if held is None else held
    last = int(positions[-1])
    if first <= begin and last - first + 1 == len(positions):
        return None
    before = np.concatenate([[begin - 1], positions[:-1]])
    for at in np.flatnonzero(positions > before + 1).tolist():
        end = int(positions[at])
        if end > begin and end not in accepted:
            return int(before[at]) + 1, end
    return None


def refuse_hole(
    source: str,
    partition: int,
    positions: npt.NDArray[np.int64],
    held: int | None,
    accepted: Collection[int],
) -> None:
    """Refuse a batch with a hole; as :func:`first_hole`.

    Raises
    ------
    SentinelError
        ``source-gap``.
    """
    hole = first_hole(positions, held, accepted)
    if hole is None:
        return
    raise SentinelError(
        ErrorCode.SOURCE_GAP,
        at=f"{source}/{partition}",
        expected=f"position {hole[0]}",
        got=hole[1],
        hint="The source has lost events. Accept the gap, or replay from another source.",
    )
