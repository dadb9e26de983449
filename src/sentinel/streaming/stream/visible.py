"""Which outputs others can see already, so that they are not sent a second time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sentinel.contract import Refusal
from sentinel.scoring import DecisionBatch


class Visible:
    """Of each place (topic and partition) the first position whose outputs are not visible.

    What was never begun is at 0: nothing of it is visible.

    Attributes
    ----------
    n_passed : int
        Decisions and refusals that were not sent for this reason; the owner takes the count.

    Examples
    --------
    >>> visible = Visible()
    >>> visible.begin({("payments", 3): 70})
    >>> visible.advanced({("payments", 3): 60, ("payments", 4): 5})
    {('payments', 3): 70, ('payments', 4): 5}
    """

    def __init__(self) -> None:
        self._first: dict[tuple[str, int], int] = {}
        self.n_passed = 0

    def begin(self, positions: Mapping[tuple[str, int], int]) -> None:
        """Take what was asked anew: another may have carried these places meanwhile."""
        self._first.update(positions)

    def advanced(self, positions: Mapping[tuple[str, int], int]) -> dict[tuple[str, int], int]:
        """Say how far these places will be visible: no less far than they are."""
        return {place: max(at, self._first.get(place, 0)) for place, at in positions.items()}

    def n_seen(self, decisions: DecisionBatch) -> int:
        """Count the decisions of a batch that are visible; they are its first ones."""
        events = decisions.events
        first = self._first.get((events.raw.source, events.raw.partition), 0)
        positions = events.raw.positions[events.rows[decisions.is_decided]]
        n_seen = int(np.searchsorted(positions, first))
        self.n_passed += n_seen
        return n_seen

    def unseen(self, refusals: Sequence[Refusal]) -> list[Refusal]:
        """Leave out the refusals that are visible."""
        found = [
            refusal
            for refusal in refusals
            if refusal.position >= self._first.get((refusal.source, refusal.partition), 0)
        ]
        self.n_passed += len(refusals) - len(found)
        return found
