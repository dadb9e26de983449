"""What a door asks of a plane, wherever that is: in this process, or behind a socket."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from sentinel.core.errors import SentinelError

if TYPE_CHECKING:
    from sentinel.serving.batching.batcher import BatcherState
    from sentinel.serving.batching.work import Reply, Work
    from sentinel.serving.health import HealthReport
    from sentinel.serving.plane import Limit, ModelMetadata

Told = Callable[[bytes | SentinelError | None], None]
"""Told what was found, once, in the thread of the door; None: it is on its way."""


class DoorPlane(Protocol):
    """A served release, as doors see it.

    What scores takes a reply, called once in the thread of the door, and returns the work that may
    be abandoned; it raises where it refuses at once. What is looked up is told at once, or later.
    """

    @property
    def model_name(self) -> str:
        """Name of the release."""

    @property
    def model_version(self) -> str:
        """Version of the release."""

    @property
    def n_features(self) -> int:
        """Columns of the model."""

    def score(self, events: Sequence[bytes], limit: Limit, reply: Reply) -> Work:
        """Decide events."""

    def score_canary(self, events: Sequence[bytes], limit: Limit, reply: Reply) -> Work:
        """Take known events the whole way beside the live state."""

    def learn(self, feedback: Sequence[bytes], limit: Limit, reply: Reply) -> Work:
        """Learn feedback events."""

    def infer(self, values: npt.NDArray[np.float32], limit: Limit, reply: Reply) -> Work:
        """Score rows of features."""

    def explain(
        self,
        values: npt.NDArray[np.float32],
        limit: Limit,
        told: Told,
        *,
        request_id: str | None,
    ) -> Work:
        """Score rows of features, and tell why, as JSON."""

    def abandon(self, work: Work) -> None:
        """Forget a request whose caller went away."""

    def find_decision(self, event_id: str, told: Told) -> None:
        """Tell the decision of an event, as it was sent."""

    def find_explanation(self, event_id: str, told: Told) -> None:
        """Tell why the decision of an event is what it is, as JSON."""

    def find_release(self, told: Told) -> None:
        """Tell what runs, how it stands, and how it is, as JSON."""

    def document(self) -> bytes:
        """Return the OpenAPI document of the release."""

    def require_model(self, name: str, version: str | None) -> None:
        """Refuse a model that is not the one served."""

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call this in the thread of the door when another release is in service."""

    def model_metadata(self) -> ModelMetadata:
        """Describe the model."""

    def server_metadata(self) -> dict[str, object]:
        """Describe the server."""

    def health(self) -> HealthReport:
        """Return live, started, ready, degraded, with causes."""

    def load(self) -> BatcherState:
        """Return what waits and what is being done."""
