"""What the engine gives for a batch of events: one vector an event, and how it came about."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# Status of one feature value.
PRESENT = 0  # computed from state or taken from the event
DEFAULTED = 1  # nothing to compute it from (no history, null field): the declared default
STALE = 2  # older than the feature's limit: the declared default


@dataclass(frozen=True, slots=True)
class FeatureMatrix:
    """Feature vectors of a batch, in the order of the events given.

    Attributes
    ----------
    names : tuple of str
        Feature names; column order of ``values``.
    values : ndarray of float32, shape (n_rows, n_features), C order
        Finite or as computed: finiteness is checked by the scorer, not promised here.
    status : ndarray of uint8, shape (n_rows, n_features), C order
        ``PRESENT``, ``DEFAULTED`` or ``STALE``.
    is_late : ndarray of bool, shape (n_rows,)
        The event's tile no longer lives in some window: scored, counted, not applied there.
    is_duplicate : ndarray of bool, shape (n_rows,)
        The event id was seen within the dedupe window: not applied, and not to be decided again.
    """

    names: tuple[str, ...]
    values: npt.NDArray[np.float32]
    status: npt.NDArray[np.uint8]
    is_late: npt.NDArray[np.bool_]
    is_duplicate: npt.NDArray[np.bool_]

    @property
    def n_rows(self) -> int:
        """How many events."""
        return len(self.values)
