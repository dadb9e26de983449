"""What is answered while Redis is lost, and which events were answered before."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from sentinel.contract import EventBatch
from sentinel.core import limits
from sentinel.features.checks import entities_of
from sentinel.features.engine import Engine
from sentinel.features.matrix import STALE, FeatureMatrix
from sentinel.features.plan import FeaturePlan


class RecentIds:
    """Two generations of ids, the older one dropped when the newer is full.

    Parameters
    ----------
    n_max : int
        Ids that are always remembered; at most twice as many are.

    Examples
    --------
    >>> recent = RecentIds()
    >>> recent.add([1, 2, 2]), recent.add([2, 3])
    ([False, False, True], [True, False])
    """

    def __init__(self, *, n_max: int = limits.DECISIONS_REMEMBERED_MAX) -> None:
        self._n_max = n_max
        self._newer: set[int] = set()
        self._older: set[int] = set()

    def add(self, ids: Iterable[int]) -> list[bool]:
        """Remember ids, and say of each whether it was remembered before."""
        found = []
        for each in ids:
            found.append(each in self._newer or each in self._older)
            self._newer.add(each)
            if len(self._newer) >= self._n_max:
                self._older, self._newer = self._newer, set()
        return found


class StaleAnswers:
    """Feature vectors without the state.

    Parameters
    ----------
    plan : FeaturePlan
    """

    def __init__(self, plan: FeaturePlan) -> None:
        self._plan = plan
        self._recent = RecentIds()
        by_name = {feature.name: feature for feature in plan.features.features}
        # What an event says by itself is known without Redis.
        self._own_columns = np.flatnonzero(
            [not entities_of(feature, by_name) for feature in plan.features.features]
        )

    def note(self, events: EventBatch) -> list[bool]:
        """Remember events that are answered; says which were before."""
        return self._recent.add(events.column(self._plan.features.events.event_id.name).tolist())

    def fill(self, events: EventBatch, matrix: FeatureMatrix) -> FeatureMatrix:
        """Make of declared defaults what events get while the state is lost.

        Parameters
        ----------
        events : EventBatch
        matrix : FeatureMatrix
            Declared defaults; changed. What is of an entity is marked stale, what the event says
            itself is present, and events that were answered lately are marked as duplicates.
        """
        matrix.status[:] = STALE
        matrix.is_duplicate[:] = self.note(events)
        if self._own_columns.size and events.n_rows:
            own, columns = Engine(self._plan).advance(events), self._own_columns
            matrix.values[:, columns] = own.values[:, columns]
            matrix.status[:, columns] = own.status[:, columns]
        return matrix
