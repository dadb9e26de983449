"""The refused share of each source over the last minute: an upstream change must be loud.

Each source has one pair of counters (read, refused) for each of the last 60 seconds, in a ring:
at time ``t`` the window is the seconds ``⌊t⌋ - 59 … ⌊t⌋``, so it looks back between 59 s and
60 s. Noting and asking cost the same whatever the traffic.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError

OTHER_SOURCES = "other"


@dataclass(slots=True)
class _Ring:
    """Counters by second; ``seconds[i]`` says which second slot ``i`` holds."""

    seconds: list[int] = field(default_factory=lambda: [-1] * limits.SHARE_WINDOW_S)
    read: list[int] = field(default_factory=lambda: [0] * limits.SHARE_WINDOW_S)
    refused: list[int] = field(default_factory=lambda: [0] * limits.SHARE_WINDOW_S)


@dataclass(frozen=True, slots=True)
class RefusedShare:
    """What a source sent in the last minute.

    Attributes
    ----------
    n_read, n_refused : int
    share : float
        In [0, 1]; 0 where nothing was read.
    is_degraded : bool
        Whether the share is over the limit, of at least ``SHARE_READ_MIN`` events.
    """

    n_read: int
    n_refused: int
    share: float
    is_degraded: bool


class RefusedShares:
    """Tracks the refused share of every source.

    Parameters
    ----------
    limit : float
        Share from which on a source is degraded, in (0, 1]; it belongs to the policy.

    Raises
    ------
    SentinelError
        ``contract-invalid`` for a limit outside (0, 1].

    Examples
    --------
    >>> shares = RefusedShares(limit=0.05)
    >>> shares.note("cards", n_read=1000, n_refused=90, now_s=10.0)
    >>> shares.degraded(now_s=11.0), shares.degraded(now_s=71.0)
    (('cards',), ())
    """

    def __init__(self, *, limit: float) -> None:
        if not 0 < limit <= 1:
            raise SentinelError(
                ErrorCode.CONTRACT_INVALID,
                at="refused-share limit",
                expected="a share over 0 and at most 1",
                got=limit,
            )
        self.limit = limit
        self._rings: dict[str, _Ring] = {}

    def note(self, source: str, *, n_read: int, n_refused: int, now_s: float) -> None:
        """Count a batch.

        Parameters
        ----------
        source : str
            Past ``SHARE_SOURCES_MAX`` sources, new ones are counted together as ``other``.
        n_read, n_refused : int
            Refused is a part of read.
        now_s : float
            Monotonic seconds.
        """
        if source not in self._rings and len(self._rings) >= limits.SHARE_SOURCES_MAX:
            source = OTHER_SOURCES
        ring = self._rings.setdefault(source, _Ring())
        second = int(now_s)
        slot = second % limits.SHARE_WINDOW_S
        if ring.seconds[slot] != second:
            ring.seconds[slot], ring.read[slot], ring.refused[slot] = second, 0, 0
        ring.read[slot] += n_read
        ring.refused[slot] += n_refused

    def of(self, source: str, *, now_s: float) -> RefusedShare:
        """Return what a source sent in the last minute; nothing for one never seen."""
        ring = self._rings.get(source)
        if ring is None:
            return RefusedShare(0, 0, 0.0, is_degraded=False)
        oldest = int(now_s) - limits.SHARE_WINDOW_S
        slots = [i for i, second in enumerate(ring.seconds) if oldest < second <= int(now_s)]
        n_read = sum(ring.read[i] for i in slots)
        n_refused = sum(ring.refused[i] for i in slots)
        share = n_refused / n_read if n_read else 0.0
        is_degraded = n_read >= limits.SHARE_READ_MIN and share > self.limit
        return RefusedShare(n_read, n_refused, share, is_degraded=is_degraded)

    def degraded(self, *, now_s: float) -> tuple[str, ...]:
        """Name the degraded sources, sorted."""
        return tuple(
            source for source in sorted(self._rings) if self.of(source, now_s=now_s).is_degraded
        )
