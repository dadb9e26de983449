"""The queue: bounded in rows, fair between tenants, and it says no early.

* Rows are counted, never requests. A tenant may hold ``rows_max / (active tenants + 1)`` of them,
  so there is always room for one who has nothing here yet.
* A batch takes rows from every tenant in turn, an equal share each (deficit round robin with a
  quantum of the share; Shreedhar and Varghese, 1995). Of one tenant the request that was served
  goes to the back, so a request of one row never waits for the whole of one of ten thousand.
* Admission: who would wait longer than its deadline is refused at once, and told when to come
  back. An empty queue admits everybody whose deadline has not passed.

No threads in here: :mod:`sentinel.serving.batching.batcher` holds the lock.
"""

from __future__ import annotations

from collections import deque

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.serving import bounds
from sentinel.serving.batching.service_time import ServiceTime
from sentinel.serving.batching.work import Kind, Piece, Work

_OTHERS = "other"


class OverloadedError(SentinelError):
    """No room, or no time.

    Attributes
    ----------
    retry_s : float
        When to come back, in seconds.
    """

    def __init__(self, *, expected: str, got: object, retry_s: float, at: str = "queue") -> None:
        super().__init__(ErrorCode.OVERLOADED, at=at, expected=expected, got=got)
        self.retry_s = retry_s


class RowQueue:
    """Requests that wait for the scoring thread.

    Parameters
    ----------
    rows_max : int
    curve : ServiceTime

    Attributes
    ----------
    n_rows : int
        Rows that wait.
    """

    def __init__(self, *, rows_max: int, curve: ServiceTime) -> None:
        self.n_rows = 0
        self._rows_max = rows_max
        self._curve = curve
        self._tenants: dict[str, deque[Work]] = {}
        self._n_rows_of: dict[str, int] = {}
        self._sure_wait_s = 0.0
        self._sure_until_s = float("-inf")

    @property
    def n_works(self) -> int:
        """How many requests wait, in whole or in part."""
        return sum(map(len, self._tenants.values()))

    def add(self, work: Work, *, now_s: float, busy_s: float) -> None:
        """Admit a request, or refuse it.

        Parameters
        ----------
        work : Work
        now_s : float
        busy_s : float
            How long the batch that is being scored will still take.

        Raises
        ------
        SentinelError
            ``overloaded``, ``deadline-passed``.
        """
        if now_s >= work.deadline_s:
            raise deadline_passed(work)
        tenant = work.tenant
        if tenant not in self._tenants and len(self._tenants) >= bounds.TENANTS_MAX:
            tenant = work.tenant = _OTHERS
        is_alone = not self.n_rows and work.n_rows <= self._rows_max
        if not is_alone and not self._is_sure_of(work, now_s, busy_s):
            self._check_room(work, now_s, busy_s)
            wait_s = self.wait_s(work, now_s=now_s) + busy_s
            if wait_s > bounds.ADMITTED_SHARE * (work.deadline_s - now_s):
                expected = f"an answer within {work.deadline_s - now_s:.3f} s"
                raise OverloadedError(
                    expected=expected, got=f"a wait of {wait_s:.3f} s", retry_s=wait_s
                )
        waiting = self._tenants.get(tenant)
        if waiting is None:
            waiting = self._tenants[tenant] = deque()
        waiting.append(work)
        self._n_rows_of[tenant] = self._n_rows_of.get(tenant, 0) + work.n_rows
        self.n_rows += work.n_rows

    def wait_s(self, work: Work, *, now_s: float) -> float:
        """Estimate how long a new request would take, its own rows included."""
        own = self._n_rows_of.get(work.tenant, 0) + work.n_rows
        n_active = len(self._tenants) + (work.tenant not in self._tenants)
        ahead = min(self.n_rows + work.n_rows, own * n_active)
        return self._curve.wait_s(ahead, now_s=now_s)

    def n_rows_before(self, tenant: str) -> int:
        """Count the rows that are done once one more row of this tenant is."""
        own = self._n_rows_of.get(tenant, 0) + 1
        n_active = len(self._tenants) + (tenant not in self._tenants)
        return min(self.n_rows + 1, own * n_active)

    def take(self, *, n_rows_max: int) -> list[Piece]:
        """Take the pieces of the next batch, all of one kind; empty when nothing waits."""
        if not self._tenants:
            return []
        pieces: list[Piece] = []
        kind = next(iter(self._tenants.values()))[0].kind
        if len(self._tenants) == 1:
            self._take_from(next(iter(self._tenants)), kind, n_rows_max, pieces)
            return pieces
        share = max(1, n_rows_max // len(self._tenants))
        room = n_rows_max
        for tenant in list(self._tenants):
            if room <= 0:
                break
            room -= self._take_from(tenant, kind, min(share, room), pieces)
        while room > 0 and len(self._tenants) and self._is_first_of(kind):
            took = 0
            for tenant in list(self._tenants):
                took += self._take_from(tenant, kind, room - took, pieces)
                if took >= room:
                    break
            if not took:
                break
            room -= took
        return pieces

    def drop(self, work: Work) -> None:
        """Forget a request that nobody waits for any more."""
        waiting = self._tenants.get(work.tenant)
        if waiting is None or work.n_taken >= work.n_rows:
            return
        try:
            waiting.remove(work)
        except ValueError:
            return
        self._count_out(work.tenant, work.n_rows - work.n_taken)

    def works(self) -> list[Work]:
        """Return all that wait."""
        return [work for waiting in self._tenants.values() for work in waiting]

    # --- private -----------------------------------------------------------------------------

    def _is_sure_of(self, work: Work, now_s: float, busy_s: float) -> bool:
        """Whether there is room and time for a work however it is looked at.

        Nearly always; so one estimate of many rows, good for a moment, stands for those of few.
        """
        n_rows = self.n_rows + work.n_rows
        if n_rows > bounds.SURE_ROWS_MAX:
            return False
        if now_s >= self._sure_until_s:
            sizes = (1 << k for k in range(bounds.SURE_ROWS_MAX.bit_length()))
            self._sure_wait_s = max(self._curve.wait_s(n, now_s=now_s) for n in sizes)
            self._sure_until_s = now_s + bounds.SURE_S
        left_s = bounds.ADMITTED_SHARE * (work.deadline_s - now_s)
        is_in_time = self._sure_wait_s + busy_s <= left_s
        return is_in_time and n_rows * (len(self._tenants) + 2) <= self._rows_max

    def _check_room(self, work: Work, now_s: float, busy_s: float) -> None:
        n_active = len(self._tenants) + (work.tenant not in self._tenants)
        own = self._n_rows_of.get(work.tenant, 0)
        room = min(self._rows_max // (n_active + 1) - own, self._rows_max - self.n_rows)
        if work.n_rows > room and (self.n_rows or work.n_rows > self._rows_max):
            retry_s = busy_s + self._curve.seconds(self.n_rows, now_s=now_s)
            raise OverloadedError(
                expected=f"room for {work.n_rows} rows", got=max(room, 0), retry_s=retry_s
            )

    def _is_first_of(self, kind: Kind) -> bool:
        return any(waiting[0].kind is kind for waiting in self._tenants.values())

    def _take_from(self, tenant: str, kind: Kind, n_rows_max: int, pieces: list[Piece]) -> int:
        """Take rows of one tenant, and put the tenant at the end of the turn."""
        waiting = self._tenants.pop(tenant)
        took = 0
        while waiting and took < n_rows_max and waiting[0].kind is kind:
            work = waiting.popleft()
            start = work.n_taken
            room = work.n_rows if kind is Kind.CANARY else n_rows_max - took
            end = min(work.n_rows, start + room)
            work.n_taken = end
            took += end - start
            pieces.append(Piece(work, start, end))
            if end < work.n_rows:
                waiting.append(work)
                break
        if waiting:
            self._tenants[tenant] = waiting
        self._count_out(tenant, took)
        return took

    def _count_out(self, tenant: str, n_rows: int) -> None:
        self.n_rows -= n_rows
        left = self._n_rows_of.get(tenant, 0) - n_rows
        if self._tenants.get(tenant):
            self._n_rows_of[tenant] = left
        else:
            self._tenants.pop(tenant, None)
            self._n_rows_of.pop(tenant, None)


def deadline_passed(work: Work) -> SentinelError:
    """Say that it is too late for an answer."""
    again = "Ask again with the same event id: the answer is the same."
    if work.kind is Kind.TENSOR:
        again = "Ask again: rows of features change nothing."
    return SentinelError(
        ErrorCode.DEADLINE_PASSED,
        at="request",
        expected="an answer before the deadline",
        got=f"{work.n_rows - work.n_taken} of {work.n_rows} rows not begun",
        hint=again,
    )
