"""How soon a connection is read again after a refusal: past capacity, not at once.

Reading a request to refuse it takes time from those that are answered. So many refusals a second
are free; beyond, each has its turn, and until then nothing is read from its connection: the client
waits in its own buffer, which costs the server nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Protocol

from sentinel.serving import bounds

_WORTH_S = 0.002


class Held(Protocol):
    """A connection that is not read for a while."""

    def hold(self) -> None:
        """Read nothing from now on."""

    def let_go(self, unread_s: float) -> None:
        """Read on; what has come meanwhile may have waited for so long."""

    def be_current(self) -> None:
        """Notice that what comes from now on has not waited."""


class Pace:
    """The turns of refused connections; used in one loop.

    Parameters
    ----------
    per_s : float
        Refusals a second.
    unread_s_max : float
        The longest time that a connection is not read.

    Attributes
    ----------
    n_held : int
        Connections that are not read now.
    """

    def __init__(
        self,
        *,
        per_s: float = bounds.REFUSALS_PER_S_MAX,
        unread_s_max: float = bounds.REFUSED_UNREAD_S_MAX,
    ) -> None:
        self._each_s = 1.0 / per_s
        self._unread_s_max = unread_s_max
        self._turn_s = 0.0
        self._held: deque[tuple[float, float, Held]] = deque()
        self._is_ticking = False

    @property
    def n_held(self) -> int:
        """How many connections are not read now."""
        return len(self._held)

    def refused(self, connection: Held, now_s: float) -> None:
        """Give a connection that was refused its turn."""
        turn_s = max(self._turn_s, now_s) + self._each_s
        self._turn_s = turn_s = min(turn_s, now_s + self._unread_s_max)
        if turn_s - now_s < _WORTH_S:
            return
        connection.hold()
        self._held.append((turn_s, now_s, connection))
        if not self._is_ticking:
            self._is_ticking = True
            asyncio.get_running_loop().call_later(turn_s - now_s, self._tick)

    def _tick(self) -> None:
        now_s, held = time.monotonic(), self._held
        free: list[Held] = []
        while held and held[0][0] <= now_s:
            _, since_s, connection = held.popleft()
            connection.let_go(now_s - since_s)
            free.append(connection)
        loop = asyncio.get_running_loop()
        # What waited is read in this turn of the loop; behind it, everything is new.
        loop.call_soon(loop.call_soon, _settle, free)
        self._is_ticking = bool(held)
        if held:
            loop.call_later(max(_WORTH_S, held[0][0] - now_s), self._tick)


def _settle(connections: list[Held]) -> None:
    for connection in connections:
        connection.be_current()
