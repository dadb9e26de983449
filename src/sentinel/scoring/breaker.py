"""The breaker: whether the champion may answer, as a table of states and events.

No clock, no input or output: times come in as seconds of a clock that never goes back (one that
does is held still). A caller asks :meth:`Breaker.admit` before a call of the champion and tells
:meth:`Breaker.finish` how it went; :meth:`Breaker.tick` lets time pass where nobody calls.

1. *Closed*: every call is admitted. Slow calls in an unbroken run of ``slow_for_s``, failures in
   a row, or a failed or slow share of the last calls open it. A call that has not come back
   counts as slow from its start, so a champion that never answers opens it too.
2. *Open*: nothing is admitted, for ``pause_s``.
3. *Half-open*: nothing is admitted; one probe at a time, whose answers are only judged. Enough
   good ones close it; a bad one, or ``probe_deadline_s`` without an end, opens it again.
4. *Latched*: nothing is admitted until a person resets it, and then it must be probed.

A permit belongs to the state that gave it: what comes back after the state has changed is
forgotten, so no call can cause two transitions and none can undo one.

The idea of a table from which the diagram is drawn is h11's; the states are those of Nygard,
"Release It!" (2007), with the slow calls of resilience4j.
"""

from __future__ import annotations

import enum
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.scoring.policy import BreakerRules


class State(enum.StrEnum):
    """Where the breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"
    LATCHED = "latched"


class Event(enum.StrEnum):
    """What moves it. The last four come from outside; a person's are marked in the diagram."""

    SLOW_TOO_LONG = "slow too long"
    FAILED_TOO_OFTEN = "failed too often"
    PAUSE_OVER = "pause over"
    PROBES_GOOD = "enough good probes"
    PROBE_BAD = "bad probe"
    PROBES_LATE = "probe deadline over"
    TRIP = "canary wrong or rows insane"
    FORCE_OPEN = "person: open"
    FORCE_CLOSED = "person: close"
    RESET = "person: reset"


class Call(enum.StrEnum):
    """How a call of the champion ended; whether it was slow is measured, not told."""

    GOOD = "good"
    FAILED = "failed"


TABLE: Mapping[State, Mapping[Event, State]] = {
    State.CLOSED: {
        Event.SLOW_TOO_LONG: State.OPEN,
        Event.FAILED_TOO_OFTEN: State.OPEN,
        Event.TRIP: State.LATCHED,
        Event.FORCE_OPEN: State.LATCHED,
        Event.FORCE_CLOSED: State.CLOSED,
    },
    State.OPEN: {
        Event.PAUSE_OVER: State.HALF_OPEN,
        Event.TRIP: State.LATCHED,
        Event.FORCE_OPEN: State.LATCHED,
        Event.FORCE_CLOSED: State.CLOSED,
    },
    State.HALF_OPEN: {
        Event.PROBES_GOOD: State.CLOSED,
        Event.PROBE_BAD: State.OPEN,
        Event.PROBES_LATE: State.OPEN,
        Event.TRIP: State.LATCHED,
        Event.FORCE_OPEN: State.LATCHED,
        Event.FORCE_CLOSED: State.CLOSED,
    },
    State.LATCHED: {
        Event.TRIP: State.LATCHED,
        Event.FORCE_OPEN: State.LATCHED,
        Event.RESET: State.HALF_OPEN,
    },
}


@dataclass(frozen=True, slots=True)
class Transition:
    """One step that was taken.

    Attributes
    ----------
    source, target : State
    event : Event
    at_s : float
        Reading of the caller's clock.
    cause : str
        Why, for people; empty where the event says it all.
    """

    source: State
    target: State
    event: Event
    at_s: float
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Permit:
    """The right to make one call of the champion; give it back with its end.

    Attributes
    ----------
    number : int
        Distinct for every permit of one breaker.
    generation : int
        How many transitions there had been when it was given.
    started_at_s : float
    """

    number: int
    generation: int
    started_at_s: float


# Members of enumerations are looked up by a call of Python each time; these are asked a dozen
# times a batch.
_OPEN, _HALF_OPEN, _CLOSED, _LATCHED = State.OPEN, State.HALF_OPEN, State.CLOSED, State.LATCHED
_FAILED = Call.FAILED
# What a person is told who asks for a step that the state does not have, and what can be done.
_LATCHED_ALONE = (
    "one that is not shut off",
    "Let the champion be probed again with `sentinel breaker reset`.",
)
_NOT_LATCHED = (
    "one that was shut off: nothing else is reset",
    "`sentinel breaker trip` shuts the champion off; an open breaker closes by itself.",
)


class Breaker:
    """One champion's breaker. All methods may be called from several threads.

    Parameters
    ----------
    rules : BreakerRules
    now_s : float
        Reading of the clock that all later readings come from.

    Examples
    --------
    >>> breaker = Breaker(BreakerRules(failures_in_a_row=1), now_s=0.0)
    >>> permit = breaker.admit(0.0)
    >>> breaker.finish(permit, 0.1, Call.FAILED).target
    <State.OPEN: 'open'>
    >>> breaker.admit(0.2) is None
    True
    """

    def __init__(self, rules: BreakerRules, *, now_s: float) -> None:
        self.rules = rules
        self._stuck_s = max(rules.slow_for_s, rules.latency_ms_max / 1000)
        self._lock = threading.RLock()
        self._now_s = now_s
        self._state = State.CLOSED
        self._generation = 0
        self._n_permits = 0
        self._cause = ""
        self._n_entered = dict.fromkeys(State, 0)
        self._transitions: deque[Transition] = deque(maxlen=limits.BREAKER_CALLS_MAX)
        self._begin(now_s)

    @property
    def state(self) -> State:
        """Where it stands, as of the last reading of the clock."""
        return self._state

    @property
    def cause(self) -> str:
        """Why it left the closed state; empty while closed."""
        return self._cause

    @property
    def n_entered(self) -> dict[State, int]:
        """How often each state was entered since the start."""
        with self._lock:
            return dict(self._n_entered)

    @property
    def transitions(self) -> tuple[Transition, ...]:
        """The last steps, oldest first; bounded."""
        with self._lock:
            return tuple(self._transitions)

    def admit(self, now_s: float) -> Permit | None:
        """Ask for a call whose answer will be used; None: answer without the champion."""
        with self._lock:
            self._advance(now_s)
            return self._permit() if self._state is _CLOSED else None

    def probe(self, now_s: float) -> Permit | None:
        """Ask for a call whose answer is only judged; None: not now, or one is in the air."""
        with self._lock:
            self._advance(now_s)
            wanted = self._state is _HALF_OPEN and not self._outstanding
            return self._permit() if wanted else None

    def finish(self, permit: Permit, now_s: float, call: Call) -> Transition | None:
        """Give a permit back and say how the call ended.

        Returns
        -------
        Transition or None
            The step that this call caused, if any. A permit of an earlier state, or one that was
            given back before, causes none.
        """
        with self._lock:
            before = self._generation
            self._advance(now_s)
            if self._outstanding.pop(permit.number, None) is None:
                return self._last_since(before)
            if self._state is _HALF_OPEN:
                self._judge_probe(permit, call)
            else:
                self._record(permit, call)
            return self._last_since(before)

    def cancel(self, permit: Permit) -> None:
        """Give a permit back for a call that was never made; it counts for nothing."""
        with self._lock:
            self._outstanding.pop(permit.number, None)

    def tick(self, now_s: float) -> Transition | None:
        """Let time pass: pauses and deadlines end, calls that never came back are noticed."""
        with self._lock:
            before = self._generation
            self._advance(now_s)
            return self._last_since(before)

    def trip(self, now_s: float, *, cause: str) -> Transition | None:
        """Shut the champion off until a person resets it; None when it was so already."""
        with self._lock:
            before = self._generation
            self._advance(now_s)
            if self._state is not _LATCHED:
                self._step(Event.TRIP, cause)
            return self._last_since(before)

    def force(self, event: Event, now_s: float, *, cause: str) -> Transition:
        """Do what a person asks: ``FORCE_OPEN``, ``FORCE_CLOSED`` or ``RESET``.

        Raises
        ------
        SentinelError
            ``breaker-refused`` where the table has no such step.
        """
        with self._lock:
            self._advance(now_s)
            is_asked_by_person = event in {Event.FORCE_OPEN, Event.FORCE_CLOSED, Event.RESET}
            if not is_asked_by_person or event not in TABLE[self._state]:
                expected, hint = _LATCHED_ALONE if self._state is _LATCHED else _NOT_LATCHED
                raise SentinelError(
                    ErrorCode.BREAKER_REFUSED,
                    at=f"breaker ({self._state})",
                    expected=expected,
                    got=f"one that is {self._state}",
                    hint=hint,
                )
            return self._step(event, cause)

    def _begin(self, now_s: float) -> None:
        """Start a state with nothing remembered of the one before."""
        self._since_s = now_s
        self._outstanding: dict[int, Permit] = {}
        self._recent: deque[tuple[float, bool, bool]] = deque()
        # Of the recent calls, kept up to date: counting them anew cost more than one small call.
        self._n_failed_recent = 0
        self._n_slow_recent = 0
        self._slow_since_s: float | None = None
        self._last_slow_s = now_s
        self._last_fast_s = now_s
        self._n_slow = 0
        self._n_failed_in_a_row = 0
        self._n_good = 0

    def _step(self, event: Event, cause: str = "") -> Transition:
        target = TABLE[self._state][event]
        transition = Transition(self._state, target, event, self._now_s, cause)
        self._transitions.append(transition)
        self._state = target
        self._n_entered[target] += 1
        self._generation += 1
        if target is _CLOSED:
            self._cause = ""
        elif target is _LATCHED or transition.source is _CLOSED:
            self._cause = cause or str(event)
        self._begin(self._now_s)
        return transition

    def _last_since(self, generation: int) -> Transition | None:
        return self._transitions[-1] if self._generation > generation else None

    def _permit(self) -> Permit | None:
        if len(self._outstanding) >= limits.BREAKER_CALLS_MAX:
            return None
        self._n_permits += 1
        permit = Permit(self._n_permits, self._generation, self._now_s)
        self._outstanding[permit.number] = permit
        return permit

    def _advance(self, now_s: float) -> None:
        """Move the clock, and take the step that time alone asks for."""
        self._now_s = max(self._now_s, now_s)
        age_s = self._now_s - self._since_s
        if self._state is _OPEN and age_s >= self.rules.pause_s:
            self._step(Event.PAUSE_OVER)
        elif self._state is _HALF_OPEN and age_s >= self.rules.probe_deadline_s:
            self._step(Event.PROBES_LATE)
        elif self._state is _CLOSED and self._is_stuck():
            self._step(Event.SLOW_TOO_LONG, "a call never came back")

    def _is_stuck(self) -> bool:
        """Whether a call is in the air that alone has been slow for long enough."""
        if not self._outstanding:
            return False
        oldest_s = next(iter(self._outstanding.values())).started_at_s  # they stand in order
        return self._now_s - max(oldest_s, self._last_fast_s) >= self._stuck_s

    def _is_slow(self, permit: Permit) -> bool:
        return (self._now_s - permit.started_at_s) * 1000 > self.rules.latency_ms_max

    def _judge_probe(self, permit: Permit, call: Call) -> None:
        if call is _FAILED or self._is_slow(permit):
            self._step(Event.PROBE_BAD)
            return
        self._n_good += 1
        if self._n_good >= self.rules.closes_after:
            self._step(Event.PROBES_GOOD)

    def _record(self, permit: Permit, call: Call) -> None:
        """Count one call in the closed state, and open when a rule says so."""
        is_failed = call is _FAILED
        is_slow = self._is_slow(permit)
        self._remember(is_failed=is_failed, is_slow=is_slow)
        self._n_failed_in_a_row = self._n_failed_in_a_row + 1 if is_failed else 0
        if is_slow:
            self._extend_slow_run(permit)
        elif not is_failed:
            self._slow_since_s = None
            self._n_slow = 0
            self._last_fast_s = self._now_s
        if self._has_failed_too_often():
            self._step(Event.FAILED_TOO_OFTEN)
        elif self._has_been_slow_too_long():
            self._step(Event.SLOW_TOO_LONG)

    def _remember(self, *, is_failed: bool, is_slow: bool) -> None:
        self._recent.append((self._now_s, is_failed, is_slow))
        self._n_failed_recent += is_failed
        self._n_slow_recent += is_slow
        if len(self._recent) > self.rules.window_calls:
            _, was_failed, was_slow = self._recent.popleft()
            self._n_failed_recent -= was_failed
            self._n_slow_recent -= was_slow

    def _extend_slow_run(self, permit: Permit) -> None:
        """Count a slow call; a silence as long as ``slow_for_s`` starts the run anew."""
        started_s = max(permit.started_at_s, self._last_fast_s)
        is_new = self._slow_since_s is None
        if is_new or started_s - self._last_slow_s >= self.rules.slow_for_s:
            self._slow_since_s = started_s
            self._n_slow = 0
        self._last_slow_s = self._now_s
        self._n_slow += 1

    def _has_failed_too_often(self) -> bool:
        if self._n_failed_in_a_row >= self.rules.failures_in_a_row:
            return True
        is_full = len(self._recent) == self.rules.window_calls
        return is_full and self._n_failed_recent >= self.rules.failed_share * len(self._recent)

    def _has_been_slow_too_long(self) -> bool:
        if (
            self._slow_since_s is not None
            and self._n_slow >= self.rules.slow_calls_min
            and self._now_s - self._slow_since_s >= self.rules.slow_for_s
        ):
            return True
        if len(self._recent) < self.rules.window_calls:
            return False
        spans_s = self._now_s - self._recent[0][0]
        is_long = spans_s >= self.rules.slow_for_s
        return is_long and self._n_slow_recent >= self.rules.slow_share * len(self._recent)


def diagram() -> str:
    """Draw the table as a Mermaid state diagram.

    Examples
    --------
    >>> diagram().splitlines()[:3]
    ['stateDiagram-v2', '    [*] --> closed', '    closed --> open: slow too long']
    """
    lines = ["stateDiagram-v2", f"    [*] --> {_node(State.CLOSED)}"]
    lines += [
        f"    {_node(source)} --> {_node(target)}: {event}"
        for source, row in TABLE.items()
        for event, target in row.items()
        if source is not target
    ]
    return "\n".join(lines)


def _node(state: State) -> str:
    return state.replace("-", "_")
