"""Live, started, ready, degraded: what each means, and why it does not hold.

* *live*: a restart would change nothing for the better;
* *started*: the release is verified and loaded, and the canary gave its answers once;
* *ready*: this process has just given the canary's answers through its own door;
* *degraded*: ready, and something is not as it should be.

The state is written by the door's own canary (:mod:`sentinel.serving.door_canary`) on its own
clock. A probe reads what is there, so probing often costs next to nothing: every probe looks at all
of it, without a lock, and while nothing is wrong the report is made once.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from sentinel.core import limits
from sentinel.serving import bounds
from sentinel.serving.batching.batcher import Vital

# How old the canary's last answer may be: two periods and the time one may take.
_AGE_S_MAX = 2 * bounds.DOOR_CANARY_S + bounds.DOOR_CANARY_WAIT_S
# The scoring thread is between two batches at least so often, or it hangs.
_HANGING_S = 2 * bounds.DOOR_CANARY_S
# The door's loop beats once a second.
_BLOCKED_S = 3 * limits.HEARTBEAT_S


@dataclass(frozen=True, slots=True)
class HealthReport:
    """The state of the process, with causes by name.

    Attributes
    ----------
    is_live, is_started, is_ready, is_degraded : bool
    causes : tuple of str
        Why it is not ready; or why it is degraded. Empty when all is well.
    degraded_callers : tuple of str
        Who is refused too often; not everybody may know.
    """

    is_live: bool
    is_started: bool
    is_ready: bool
    is_degraded: bool
    causes: tuple[str, ...]
    degraded_callers: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """One word: ``ready``, ``degraded``, ``starting``, ``not-ready`` or ``dead``."""
        if not self.is_live:
            return "dead"
        if not self.is_started:
            return "starting"
        if not self.is_ready:
            return "not-ready"
        return "degraded" if self.is_degraded else "ready"

    def with_callers(self, callers: tuple[str, ...]) -> HealthReport:
        """Return the same, degraded where some callers are refused too often."""
        if not callers:
            return self
        return replace(self, is_degraded=True, degraded_callers=callers)

    def to_data(self, *, names_callers: bool) -> dict[str, object]:
        """Return plain data for a body: who is refused too often, or how many they are.

        Examples
        --------
        >>> report = _well(is_started=True, degraded=()).with_callers(("shop",))
        >>> report.to_data(names_callers=True)["causes"]
        ['caller shop is refused too often']
        >>> report.to_data(names_callers=False)["causes"]
        ['1 caller is refused too often']
        """
        callers = self.degraded_callers
        who = [f"caller {caller} is" for caller in callers]
        if callers and not names_callers:
            who = ["1 caller is" if len(callers) == 1 else f"{len(callers)} callers are"]
        return {
            "state": self.state,
            "live": self.is_live,
            "started": self.is_started,
            "ready": self.is_ready,
            "degraded": self.is_degraded,
            "causes": [*self.causes, *(f"{each} refused too often" for each in who)],
        }


@dataclass(frozen=True, slots=True)
class DoorCheck:
    """What the canary through the door found, and when (monotonic seconds)."""

    cause: str
    at_s: float


class Health:
    """Where the parts of the process say how they are; any thread may ask.

    One assignment is one change, so nobody sees half of one.
    """

    def __init__(self) -> None:
        self.is_started = False
        self.is_draining = False
        self._beat_s = time.monotonic()
        self._check = DoorCheck("the canary has not been asked yet", time.monotonic())
        self._well = _well(is_started=False, degraded=())

    def beat(self) -> None:
        """Let the door's loop show that it runs."""
        self._beat_s = time.monotonic()

    def door_checked(self, cause: str) -> None:
        """Note what the canary found; an empty cause is the right answer."""
        self._check = DoorCheck(cause, time.monotonic())
        if not cause:
            self.is_started = True

    def report(self, vital: Vital, degraded: tuple[str, ...]) -> HealthReport:
        """Put the state together.

        Parameters
        ----------
        vital : Vital
            Of the batcher.
        degraded : tuple of str
            What the scorer and the log say is not as it should be.
        """
        now_s = time.monotonic()
        check, well = self._check, self._well
        is_well = (
            not vital.failure
            and vital.is_alive
            and vital.busy_for_s <= _HANGING_S
            and not self.is_draining
            and now_s - self._beat_s <= _BLOCKED_S
            and not check.cause
            and now_s - check.at_s <= _AGE_S_MAX
        )
        if not is_well:
            return self._unwell(vital, degraded, check, now_s)
        if well.causes != degraded or well.is_started != self.is_started:
            well = self._well = _well(is_started=self.is_started, degraded=degraded)
        return well

    # --- private -----------------------------------------------------------------------------

    def _unwell(
        self, vital: Vital, degraded: tuple[str, ...], check: DoorCheck, now_s: float
    ) -> HealthReport:
        """Say what is wrong."""
        dead = []
        if vital.failure:
            dead.append(f"the scorer is closed: {vital.failure}")
        if not vital.is_alive:
            dead.append("the scoring thread has ended")
        not_ready = list(dead)
        if self.is_draining:
            not_ready.append("the server is stopping")
        if vital.busy_for_s > _HANGING_S:
            not_ready.append(f"a batch has been in the model for {vital.busy_for_s:.0f} s")
        blocked_s = now_s - self._beat_s
        if blocked_s > _BLOCKED_S:
            not_ready.append(f"the door's loop has been blocked for {blocked_s:.0f} s")
        age_s = now_s - check.at_s
        if check.cause:
            not_ready.append(check.cause)
        elif age_s > _AGE_S_MAX:
            not_ready.append(f"the canary was last right {age_s:.0f} s ago")
        return HealthReport(
            is_live=not dead or self.is_draining,
            is_started=self.is_started,
            is_ready=self.is_started and not not_ready,
            is_degraded=bool(degraded),
            causes=tuple(not_ready) + degraded,
        )


def _well(*, is_started: bool, degraded: tuple[str, ...]) -> HealthReport:
    return HealthReport(
        is_live=True,
        is_started=is_started,
        is_ready=is_started,
        is_degraded=bool(degraded),
        causes=degraded,
    )
