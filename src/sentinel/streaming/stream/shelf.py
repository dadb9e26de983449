"""The states of a worker: one for all partitions, or one for each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from sentinel.streaming.stream.job import StreamJob
from sentinel.streaming.stream.state import StreamState

_ALL = -1


class OpensStates(Protocol):
    """Opens the state of a folder."""

    def __call__(self, folder: Path, /) -> StreamState:
        """Open it; ``state-locked`` while another has it."""


class Shelf:
    """Opens and closes states as partitions come and go.

    Parameters
    ----------
    job : StreamJob
        With a partition key, each partition has a state of its own.
    open_state : callable
    on_applied : callable
        Called when a batch has been applied.
    """

    def __init__(
        self, job: StreamJob, open_state: OpensStates, *, on_applied: Callable[[], None]
    ) -> None:
        self._job = job
        self._open_state = open_state
        self._on_applied = on_applied
        self._states: dict[int, StreamState] = {}

    def open(self, partition: int) -> StreamState:
        """Open the state of a partition, unless it is open.

        Raises
        ------
        SentinelError
            ``state-locked``, and what else opening a state raises.
        """
        place = self._place(partition)
        if place not in self._states:
            folder = self._job.state
            if place != _ALL:
                folder = folder / f"partition-{partition:05d}"
            state = self._open_state(folder)
            state.store.on_applied = self._on_applied
            self._states[place] = state
        return self._states[place]

    def state(self, partition: int) -> StreamState:
        """Return the open state of a partition; KeyError where it is not open."""
        return self._states[self._place(partition)]

    def states(self) -> tuple[StreamState, ...]:
        """Return all open states."""
        return tuple(self._states.values())

    def close(self, partition: int) -> None:
        """Close the state of a partition; outputs must be safe and marked."""
        state = self._states.pop(self._place(partition), None)
        if state is not None:
            state.close()

    def close_all(self) -> None:
        """Close every state."""
        while self._states:
            _, state = self._states.popitem()
            state.close()

    def _place(self, partition: int) -> int:
        return _ALL if self._job.partition_key is None else partition
