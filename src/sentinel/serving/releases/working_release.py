"""A release that can decide: loaded, with its scorer, and what the worker needs of it at hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sentinel.release import LoadedRelease
from sentinel.scoring import Scorer


@dataclass(frozen=True, slots=True, eq=False)
class WorkingRelease:
    """One release at work, or ready for it.

    A request of features is pinned to the one it was admitted under; events go to the one in
    service when their batch is formed. A batch never has two.

    Attributes
    ----------
    loaded : LoadedRelease
    scorer : Scorer
        Used by one thread at a time.
    label : str
        ``name@version``; what answers say served them.
    event_id, entity : str
        Fields of the event contract.
    thresholds : ndarray of float64, shape (2, 2)
        As :meth:`sentinel.scoring.Policy.thresholds` has them.
    n_features : int
    """

    loaded: LoadedRelease
    scorer: Scorer
    label: str
    event_id: str
    entity: str
    thresholds: npt.NDArray[np.float64]
    n_features: int

    @classmethod
    def of(cls, loaded: LoadedRelease, scorer: Scorer) -> WorkingRelease:
        """Put a release and its scorer together."""
        parts = loaded.parts
        return cls(
            loaded=loaded,
            scorer=scorer,
            label=loaded.manifest.label,
            event_id=parts.plan.features.events.event_id.name,
            entity=parts.entity_field(),
            thresholds=parts.policy.thresholds(),
            n_features=len(parts.plan.names),
        )

    @property
    def version(self) -> str:
        """Version of the release."""
        return self.loaded.manifest.version

    @property
    def digest(self) -> str:
        """Of the manifest."""
        return self.loaded.digest
