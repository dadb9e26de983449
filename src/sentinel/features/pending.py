"""Feedback that waits for its known-at time: bounded, in order of known-at."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features.layout import Feed


class Digest(Protocol):
    """A hash that takes bytes."""

    def update(self, content: bytes, /) -> None:
        """Take bytes."""


class Pending:
    """A queue in order of known-at; what is known at the same time stays in order of arrival.

    Parameters
    ----------
    n_fields : int
        Fields of the feedback contract; 0 without one.
    """

    def __init__(self, n_fields: int) -> None:
        values = np.empty((n_fields, 0), dtype=np.int64)
        present = np.empty((n_fields, 0), dtype=np.bool_)
        times = np.empty(0, dtype=np.int64)
        self.feed = Feed(values, values.view(np.float64), present, times)

    @property
    def n_rows(self) -> int:
        """How much waits."""
        return len(self.feed.times)

    @property
    def n_bytes(self) -> int:
        """Memory that it takes."""
        feed = self.feed
        return feed.values.nbytes + feed.present.nbytes + feed.times.nbytes

    def check_room(self, n_more: int) -> None:
        """Refuse more than may wait.

        Raises
        ------
        SentinelError
            ``feedback-too-much``.
        """
        if self.n_rows + n_more > limits.FEEDBACK_PENDING_MAX:
            raise SentinelError(
                ErrorCode.FEEDBACK_TOO_MUCH,
                at="feedback",
                expected=f"at most {limits.FEEDBACK_PENDING_MAX} waiting",
                got=self.n_rows + n_more,
                hint="Feed events and feedback side by side, in order of time.",
            )

    def add(self, feed: Feed, chosen: npt.NDArray[np.bool_]) -> None:
        """Put the chosen rows in their places."""
        own = self.feed
        times = np.concatenate([own.times, feed.times[chosen]])
        order = np.argsort(times, kind="stable")
        values = np.concatenate([own.values, feed.values[:, chosen]], axis=1)[:, order]
        present = np.concatenate([own.present, feed.present[:, chosen]], axis=1)[:, order]
        self._set(values, present, times[order])

    def drop(self, n_first: int) -> None:
        """Take out the first rows: they were applied."""
        if n_first:
            feed = self.feed
            self._set(feed.values[:, n_first:], feed.present[:, n_first:], feed.times[n_first:])

    def n_due(self, now_ms: int) -> int:
        """Count what is known by a time."""
        return int(np.searchsorted(self.feed.times, now_ms, side="right"))

    def restore(
        self,
        values: npt.NDArray[np.int64],
        present: npt.NDArray[np.bool_],
        times: npt.NDArray[np.int64],
    ) -> None:
        """Take over a queue: ``feed`` of another one."""
        self._set(values, present, times)

    def update(self, digest: Digest) -> None:
        """Take the queue into a hash, by known-at and then by content."""
        feed = self.feed
        rows = np.concatenate([feed.times[np.newaxis], feed.values, feed.present], axis=0)
        order = np.lexsort(rows[::-1])
        digest.update(np.ascontiguousarray(rows[:, order]).tobytes())

    def _set(
        self,
        values: npt.NDArray[np.int64],
        present: npt.NDArray[np.bool_],
        times: npt.NDArray[np.int64],
    ) -> None:
        # One layout and writable, whoever made them: the kernel is compiled for that alone.
        values = np.require(values, requirements=["C", "W"])
        self.feed = Feed(
            values,
            values.view(np.float64),
            np.require(present, requirements=["C", "W"]),
            np.require(times, requirements=["C", "W"]),
        )
