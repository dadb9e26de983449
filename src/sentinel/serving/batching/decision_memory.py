"""The last decisions, by event id: a repeated event gets the answer it got the first time."""

from __future__ import annotations

from collections import deque

from sentinel.core import limits


class DecisionMemory:
    """Decisions as they were sent, the oldest forgotten first.

    Parameters
    ----------
    n_max : int
        Decisions that are remembered.

    Examples
    --------
    >>> memory = DecisionMemory(n_max=1)
    >>> memory.put(b"a", b'{"event_id":"a"}')
    >>> memory.put(b"b", b'{"event_id":"b"}')
    >>> memory.get(b"a"), memory.get(b"b")
    (None, b'{"event_id":"b"}')
    """

    def __init__(self, *, n_max: int = limits.DECISIONS_REMEMBERED_MAX) -> None:
        self._n_max = n_max
        self._lines: dict[bytes, bytes] = {}
        self._order: deque[bytes] = deque()

    def put(self, event_id: bytes, line: bytes) -> None:
        """Remember one; the first decision of an id is the one that counts."""
        if event_id in self._lines:
            return
        self._lines[event_id] = line
        self._order.append(event_id)
        if len(self._order) > self._n_max:
            del self._lines[self._order.popleft()]

    def get(self, event_id: bytes) -> bytes | None:
        """Return the decision as JSON without a line end; None when it is not remembered."""
        return self._lines.get(event_id)
