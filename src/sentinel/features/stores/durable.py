"""What every engine can do whose state outlives the process, wherever that state is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable


@runtime_checkable
class DurableStore(Protocol):
    """An engine that knows how far it has read each source."""

    def position(self, source: str, partition: int = 0) -> int:
        """Return the first position of a source that was not taken; 0 at first."""

    def positions(self) -> Mapping[tuple[str, int], int]:
        """Return the next position of every source that the state outlives the process with."""

    def snapshot_position(self, source: str, partition: int = 0) -> int:
        """Return the first position from which on the store answers again as it did."""

    def accept_gap(self, source: str, partition: int, position: int) -> None:
        """Go on at a later position of a source."""

    def maintain(self) -> bool:
        """Do what is due between batches, outputs being safe; say whether a snapshot was taken."""

    def close(self, *, with_snapshot: bool = True) -> None:
        """Let go of the state."""


class Losses(Protocol):
    """What a store that is elsewhere has counted."""

    @property
    def unapplied_events(self) -> int:
        """Events that found no room to wait, and never reach the state."""


@runtime_checkable
class RemoteStore(Protocol):
    """A store that is elsewhere, and may be lost for a while."""

    @property
    def trouble(self) -> str:
        """Why state is not where it should be, for people; empty when all is well."""

    @property
    def n_backlog(self) -> int:
        """Events and feedback that wait for the place, in this process only."""

    @property
    def store_counts(self) -> Losses:
        """What happened between this process and the place; every number only grows."""

    def tend(self) -> None:
        """Ask whether the place answers, and apply what waits; where no batch comes."""
