"""The champion behind its guards, and who decides whether it may answer.

Three things can take it out of service: its breaker (slow, failing), its sanity (outputs that
cannot be), its canary (known questions answered wrongly). The first heals by itself, through
probes; the other two latch, until a person resets the breaker.

Canary checks and probes run beside scoring (:mod:`sentinel.scoring.runners`): when the champion
is loaded, every ``canary_every_s`` while serving, when the governor pages or the output has been
constant for long, and in the half-open breaker. A probe is the canary first, then copies of live
rows, whose answers are judged and go nowhere.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sentinel.core import limits
from sentinel.core.clock import Clock
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.scoring.breaker import Breaker, Call, Event, State
from sentinel.scoring.canary import Canary, CanaryPath, CanaryReport, Step
from sentinel.scoring.guards import (
    BreakerGuard,
    Guard,
    Predict,
    Rows,
    SanityGuard,
    answer_with_fallback,
    hold_unusable,
    run_in_slices,
    stack,
)
from sentinel.scoring.policy import Policy
from sentinel.scoring.runners import InlineRunner, Runner
from sentinel.scoring.sanity import Sanity

Float32Array = npt.NDArray[np.float32]
Lap = Callable[[str], None]
_HALF_OPEN, _CLOSED = State.HALF_OPEN, State.CLOSED


@dataclass(frozen=True, slots=True)
class CanaryState:
    """What the canary last said.

    Attributes
    ----------
    report : CanaryReport
    at_s : float
        When, on the scorer's clock.
    n_checks, n_failures : int
        Since the start.
    """

    report: CanaryReport
    at_s: float
    n_checks: int
    n_failures: int


class GuardedChampion:
    """One champion with its guards.

    Parameters
    ----------
    path : CanaryPath
        The way that the canary goes; its ``champion`` is the one that answers, its ``fallback``
        the one that stands in.
    canary : Canary
    policy : Policy
    clock : Clock
    runner : Runner
        Where checks and probes run.
    lap : callable
        Told the name of each stage when it ends (:meth:`StageTimer.lap`).

    Attributes
    ----------
    predict : callable
        ``Rows -> Answer``: the champion inside its guards.
    """

    def __init__(
        self,
        path: CanaryPath,
        *,
        canary: Canary,
        policy: Policy,
        clock: Clock,
        runner: Runner,
        lap: Lap,
    ) -> None:
        self._path = path
        self._canary = canary
        self._policy = policy
        self._clock = clock
        self._runner = runner
        self._lap = lap
        self._is_check_wanted = False
        self._lock = threading.Lock()
        self.breaker = Breaker(policy.breaker, now_s=clock.monotonic_s())
        self._sanity_guard = SanityGuard(
            Sanity(policy.outputs, path.champion, policy.canary_tolerance),
            policy.insane,
            shut_off=self._shut_off,
            on_constant=self.want_check,
        )
        # The whole architecture of a decision, the outermost guard first.
        guards: list[Guard] = [
            hold_unusable(policy.stale),
            answer_with_fallback(path.fallback),
            BreakerGuard(self.breaker, clock),
        ]
        self.predict: Predict = stack(guards, self._sanity_guard(self._ask))
        self.canary_state = CanaryState(CanaryReport(passed=False), clock.monotonic_s(), 0, 0)
        self.check()

    def want_check(self) -> None:
        """Ask for a canary check at the next :meth:`tick`."""
        self._is_check_wanted = True

    def tick(self, rows: Rows | None = None) -> None:
        """Let time pass: start a check or a probe when one is due. Cheap when none is.

        Parameters
        ----------
        rows : Rows, optional
            Live rows that a probe may copy.
        """
        now_s = self._clock.monotonic_s()
        self.breaker.tick(now_s)
        if self.breaker.state is _HALF_OPEN:
            self._start_probe(rows)
            return
        is_serving = self.breaker.state is _CLOSED
        age_s = now_s - self.canary_state.at_s
        is_due = age_s >= self._policy.canary_every_s and not isinstance(self._runner, InlineRunner)
        if is_serving and (self._is_check_wanted or is_due) and self._runner.start(self.check):
            self._is_check_wanted = False

    def check(self) -> CanaryReport:
        """Run the canary now; a champion that answers wrongly is shut off."""
        try:
            report = self._canary.check(self._path)
        except SentinelError as error:
            if error.code is not ErrorCode.MODEL_FAILED:
                raise
            report = CanaryReport(False, Step.CHAMPION, "champion", "scores", str(error))
        with self._lock:  # a check beside scoring and one that a person asked for may meet
            before = self.canary_state
            self.canary_state = CanaryState(
                report,
                self._clock.monotonic_s(),
                before.n_checks + 1,
                before.n_failures + (not report.passed),
            )
        if not report.passed:
            self._shut_off(f"canary: {report}")
        return report

    def force(self, event: Event, *, cause: str) -> None:
        """Do what a person asks: open, close or reset; see :meth:`Breaker.force`.

        After a reset the champion is probed at once.

        Raises
        ------
        SentinelError
            ``breaker-refused`` where the breaker's table has no such step.
        """
        self.breaker.force(event, self._clock.monotonic_s(), cause=cause)
        if event is Event.RESET:
            self._sanity_guard.insane_rows.clear()
            self.tick()

    def _ask(self, rows: Rows) -> npt.NDArray[np.generic]:
        self._lap("sanity")
        output = run_in_slices(self._path.champion, rows.values)
        self._lap("model")
        return output

    def _shut_off(self, cause: str) -> None:
        self.breaker.trip(self._clock.monotonic_s(), cause=cause)

    def _start_probe(self, rows: Rows | None) -> None:
        copies: Float32Array | None = None
        if rows is not None and rows.n_rows:
            values = rows.values[: limits.PROBE_ROWS_MAX]
            copies = values[np.isfinite(values).all(axis=1)]
        self._runner.start(lambda: self._probe(copies))

    def _probe(self, copies: Float32Array | None) -> None:
        """Probe until the breaker has made up its mind, or its deadline ends the state."""
        is_first = True
        while (permit := self.breaker.probe(self._clock.monotonic_s())) is not None:
            if is_first or copies is None or not len(copies):
                call = Call.GOOD if self.check().passed else Call.FAILED
            else:
                call = self._probe_live(copies)
            is_first = False
            self.breaker.finish(permit, self._clock.monotonic_s(), call)

    def _probe_live(self, copies: Float32Array) -> Call:
        sanity = Sanity(self._policy.outputs, self._path.champion, self._policy.canary_tolerance)
        try:
            verdict = sanity.judge(copies, self._path.champion(copies))
        except SentinelError as error:
            if error.code is not ErrorCode.MODEL_FAILED:
                raise
            return Call.FAILED
        return Call.FAILED if verdict.n_bad else Call.GOOD
