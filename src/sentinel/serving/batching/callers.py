"""Whose events are read and refused: all callers are one source of events, and one may be bad.

A batch has rows of many callers. What each has sent is added up as batches go by, one addition a
piece; who sent what was refused is looked up in those batches only that have a refusal. The sums
are told once a second.
"""

from __future__ import annotations

import bisect
import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Protocol

from sentinel.core import limits
from sentinel.serving.batching.work import Piece


class WatchesCallers(Protocol):
    """Who judges callers by their share of refused events."""

    def watch_callers(self, n_read: Mapping[str, int], n_refused: Mapping[str, int]) -> None:
        """Be told what each caller sent since the last time."""


class CallersCount:
    """Events of each caller since they were last told; used by one thread."""

    def __init__(self) -> None:
        self._n_read: defaultdict[str, int] = defaultdict(int)
        self._n_refused: defaultdict[str, int] = defaultdict(int)

    @property
    def is_full(self) -> bool:
        """Whether it must be told before further callers are counted."""
        return len(self._n_read) >= limits.SOURCES_WATCHED_MAX

    def read(self, pieces: Sequence[Piece]) -> None:
        """Count the rows of a batch."""
        n_read = self._n_read
        for work, start, end in pieces:
            n_read[work.tenant] += end - start

    def refused(self, pieces: Sequence[Piece], rows: Sequence[int]) -> None:
        """Count rows of a batch that were refused, by their number in it."""
        ends = list(itertools.accumulate(end - start for _, start, end in pieces))
        for row in rows:
            self._n_refused[pieces[bisect.bisect_right(ends, row)].work.tenant] += 1

    def tell(self, watch: WatchesCallers) -> None:
        """Tell the sums, and begin anew."""
        if self._n_read:
            watch.watch_callers(self._n_read, self._n_refused)
            self._n_read.clear()
            self._n_refused.clear()
