"""Releases that come and go while the doors are open.

1. *stage*: a release of the folder is verified, loaded, warmed and asked its canary, first alone
   and then through the queue and the scoring thread; all in a thread of its own. The doors go on
   with the release in service.
2. *switch*: between two batches the staged release takes over; the other one is kept.
3. *rollback*: the kept one takes over again, at once: it was never unloaded.

For ``SWAP_WATCH_S`` after a switch the canary goes through the door every ``SWAP_CHECK_S``. When
the new release answers it wrongly, or its champion is latched, the kept one takes over by itself,
once: what was taken back is not kept, so nothing goes to and fro.

A release can take over only where it reads and keeps the same feature state: the same features and
contracts (:func:`sentinel.serving.releases.staging.keeps_state_of`). It goes on with the engine as
it stands. Another feature set needs a state of its own, built by a replay, and a process of its
own.
"""

from __future__ import annotations

import asyncio
import enum
import gc
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.release import Role, Standing
from sentinel.scoring import State
from sentinel.serving import bounds
from sentinel.serving.batching.attempt import attempt
from sentinel.serving.batching.scoring_worker import ScoringWorker
from sentinel.serving.batching.work import EventAnswers, Result
from sentinel.serving.door_canary import Finding, compare_canary, known_events
from sentinel.serving.opening import Opened
from sentinel.serving.plane import Limit, Plane
from sentinel.serving.releases.release_source import ReleaseSource
from sentinel.serving.releases.shadow import Shadow
from sentinel.serving.releases.staging import check_fits, warm
from sentinel.serving.releases.working_release import WorkingRelease

T = TypeVar("T")
_LOG = logging.getLogger("sentinel.serving.releases.swap")
_ITSELF = "the server itself"


class Place(enum.StrEnum):
    """What the second place holds."""

    EMPTY = "empty"
    STAGING = "staging"
    STAGED = "staged"


class Step(enum.StrEnum):
    """What happens to it."""

    STAGE = "stage"
    LOADED = "loaded"
    FAILED = "failed"
    SWITCH = "switch"
    DROP = "drop"


TABLE: Mapping[Place, Mapping[Step, Place]] = {
    Place.EMPTY: {Step.STAGE: Place.STAGING},
    Place.STAGING: {Step.LOADED: Place.STAGED, Step.FAILED: Place.EMPTY},
    Place.STAGED: {Step.STAGE: Place.STAGING, Step.SWITCH: Place.EMPTY, Step.DROP: Place.EMPTY},
}


@dataclass(frozen=True, slots=True)
class Operation:
    """What somebody did.

    Attributes
    ----------
    at_ms : int
    who : str
        Name of the token, or how the caller called himself.
    what : str
    release : str
    result : str
        ``done``, ``begun`` for what ends later with an entry of its own, or why not.
    """

    at_ms: int
    who: str
    what: str
    release: str
    result: str

    def to_data(self) -> dict[str, object]:
        """Return plain data."""
        return {
            "at_ms": self.at_ms,
            "who": self.who,
            "what": self.what,
            "release": self.release,
            "result": self.result,
        }


class Swap:
    """The releases of one server: in service, kept, staged.

    Parameters
    ----------
    opened : Opened
    plane : Plane
    worker : ScoringWorker
    loop : asyncio loop
        Of the door.
    source : ReleaseSource or None
        None: nothing can be staged.
    """

    def __init__(
        self,
        opened: Opened,
        plane: Plane,
        worker: ScoringWorker,
        loop: asyncio.AbstractEventLoop,
        *,
        source: ReleaseSource | None,
    ) -> None:
        self._opened = opened
        self._plane = plane
        self._worker = worker
        self._loop = loop
        self._source = source
        self._lock = threading.RLock()
        self._place = Place.EMPTY
        self._staging = ""
        self._fault = ""
        self._staged: WorkingRelease | None = None
        self._kept: WorkingRelease | None = None
        self._taken_back = ""
        self._report: dict[str, object] | None = None
        self._watch_until_s = float("-inf")
        self._in_service_since_ms = _now_ms()
        self._operations: deque[Operation] = deque(maxlen=bounds.OPERATIONS_KEPT)
        self.on_switch: Callable[[], None] = lambda: None

    # --- what an operator asks ---------------------------------------------------------------

    def stage(self, name: str, *, who: str, why: str = "") -> None:
        """Begin to make a release ready; :meth:`status` says how far it is.

        Raises
        ------
        SentinelError
            ``stage-refused`` while another one is being staged, or when the server has no folder
            of releases.
        """
        with self._lock:
            if self._source is None:
                raise _refused(
                    ErrorCode.STAGE_REFUSED,
                    expected="a server that was told where releases stand",
                    got="none",
                    hint="Start it with --releases FOLDER.",
                )
            self._move(Step.STAGE, code=ErrorCode.STAGE_REFUSED)
            self._end_shadow()
            self._staged, self._staging, self._fault = None, name, ""
            self._note(who, "stage", name, result=_words("begun", why))
        threading.Thread(
            target=self._stage, args=(self._source, name, who, why), name="staging", daemon=True
        ).start()

    def switch(self, *, who: str, why: str = "") -> None:
        """Let the staged release take over.

        Raises
        ------
        SentinelError
            ``switch-refused`` when none is staged, when its canary is no longer right, or when
            the scoring thread does not come to an end of its batch.
        """
        with self._lock:
            after = self._staged
            if after is None or self._place is not Place.STAGED:
                raise _refused(
                    ErrorCode.SWITCH_REFUSED,
                    expected="a staged release",
                    got=str(self._place),
                    hint="Stage one first: sentinel serving stage VERSION.",
                )
            before = self._plane.current
            self._end_shadow()
            self._try(who, "switch", after, lambda: self._ask_canary(after))
            self._try(who, "switch", after, lambda: self._put_in_service(after))
            self._move(Step.SWITCH, code=ErrorCode.SWITCH_REFUSED)
            self._staged, self._kept, self._taken_back = None, before, ""
            self._watch_until_s = time.monotonic() + bounds.SWAP_WATCH_S
            self._count("switch")
            self._note(who, "switch", after.label, result=_done(why))

    def rollback(self, *, who: str, why: str = "") -> None:
        """Let the kept release take over again.

        Raises
        ------
        SentinelError
            ``switch-refused`` when none is kept.
        """
        with self._lock:
            after = self._kept
            if after is None:
                raise _refused(
                    ErrorCode.SWITCH_REFUSED, expected="a release that is kept", got="none"
                )
            self._try(who, "rollback", after, lambda: self._put_in_service(after))
            # What was left is no way back: asking twice must not bring it into service again.
            self._kept, self._taken_back = None, ""
            self._watch_until_s = float("-inf")
            self._count("rollback")
            self._note(who, "rollback", after.label, result=_done(why))

    def drop(self, *, who: str, why: str = "") -> None:
        """Forget the staged release.

        Raises
        ------
        SentinelError
            ``switch-refused`` when none is staged.
        """
        with self._lock:
            self._move(Step.DROP, code=ErrorCode.SWITCH_REFUSED)
            label = self._staged.label if self._staged is not None else ""
            self._end_shadow()
            self._staged = None
            self._note(who, "drop", label, result=_done(why))

    def start_shadow(self, *, who: str, why: str = "") -> None:
        """Let the staged release score live rows beside the one in service.

        Raises
        ------
        SentinelError
            ``switch-refused`` when none is staged.
        """
        with self._lock:
            challenger = self._staged
            if challenger is None:
                raise _refused(
                    ErrorCode.SWITCH_REFUSED, expected="a staged release", got=str(self._place)
                )
            self._end_shadow()
            against = self._plane.current
            self._worker.shadow = Shadow(challenger, self._opened.metrics, against=against)
            self._note(who, "shadow start", challenger.label, result=_done(why))

    def stop_shadow(self, *, who: str, why: str = "") -> None:
        """Let it score no more; its report stays until another one begins.

        Raises
        ------
        SentinelError
            ``switch-refused`` when none runs.
        """
        with self._lock:
            shadow = self._worker.shadow
            if shadow is None:
                raise _refused(
                    ErrorCode.SWITCH_REFUSED, expected="a challenger that scores", got="none"
                )
            self._end_shadow()
            self._note(who, "shadow stop", shadow.challenger.label, result=_done(why))

    def shadow_report(self) -> dict[str, object]:
        """Say how the challenger compares, or did.

        Raises
        ------
        SentinelError
            ``switch-refused`` when there was none.
        """
        shadow = self._worker.shadow
        report = self._report if shadow is None else shadow.report()
        if report is None:
            raise _refused(
                ErrorCode.SWITCH_REFUSED,
                expected="a challenger",
                got="none",
                hint="Stage a release, then: sentinel serving shadow start.",
            )
        return report | {"operations": self.operations("shadow")}

    def end_watch(self) -> None:
        """Leave the release in service to people: one of them has acted on it."""
        self._watch_until_s = float("-inf")

    def close(self) -> None:
        """End what runs beside serving."""
        shadow, self._worker.shadow = self._worker.shadow, None
        if shadow is not None:
            shadow.stop()

    def status(self) -> dict[str, object]:
        """Say what is in service, kept and staged, and what was done by whom."""
        with self._lock:
            watch_s = self._watch_until_s - time.monotonic()
            return {
                "in_service": _data(self._plane.current)
                | {"since_ms": self._in_service_since_ms, "watched_for_s": max(0.0, watch_s)},
                "kept": None if self._kept is None else _data(self._kept),
                "staged": None if self._staged is None else _data(self._staged),
                "place": str(self._place),
                "staging": self._staging if self._place is Place.STAGING else "",
                "is_shadowed": self._worker.shadow is not None,
                "fault": self._fault,
                "taken_back": self._taken_back,
                "operations": [operation.to_data() for operation in self._operations],
            }

    def staged(self) -> WorkingRelease | None:
        """Return the staged release."""
        return self._staged

    def operations(self, kind: str) -> list[dict[str, object]]:
        """Return what was done of one kind, as plain data."""
        return [each.to_data() for each in list(self._operations) if each.what.startswith(kind)]

    def note(self, who: str, what: str, release: str, *, why: str = "") -> None:
        """Remember, and log, what somebody did."""
        with self._lock:
            self._note(who, what, release, result=_done(why))

    # --- what the server's own canary tells --------------------------------------------------

    @property
    def is_watching(self) -> bool:
        """Whether a switch is so young that a wrong canary undoes it."""
        return time.monotonic() < self._watch_until_s

    @property
    def causes(self) -> tuple[str, ...]:
        """What is not as it should be."""
        return (self._taken_back,) if self._taken_back else ()

    def judge(self, finding: Finding) -> None:
        """Undo a young switch when the release that came with it is wrong."""
        if not self.is_watching or self._kept is None:
            return
        current = self._plane.current
        breaker = current.scorer.status()
        if finding.is_release_wrong and finding.label == current.label:
            cause = finding.cause
        elif breaker.breaker is State.LATCHED:
            cause = f"its champion is latched: {breaker.breaker_cause}"
        else:
            return
        with self._lock:
            if self.is_watching and self._plane.current is current and self._kept is not None:
                attempt(lambda: self._take_back(current, cause), at="taking a release back")

    def _take_back(self, wrong: WorkingRelease, cause: str) -> None:
        kept = self._kept
        if kept is None:
            return
        self._put_in_service(kept)
        self._kept, self._watch_until_s = None, float("-inf")
        self._taken_back = f"{wrong.label} was taken back, {kept.label} serves again: {cause}"
        self._count("take back")
        self._note(_ITSELF, "take back", wrong.label, result=cause)
        _LOG.error("a release was taken back", extra={"release": wrong.label, "cause": cause})

    # --- staging -----------------------------------------------------------------------------

    def _stage(self, source: ReleaseSource, name: str, who: str, why: str) -> None:
        made = attempt(lambda: self._prepare(source, name), at="staging")
        with self._lock:
            if isinstance(made, SentinelError):
                self._fault = str(made)
                self._move(Step.FAILED, code=ErrorCode.STAGE_REFUSED)
                self._note(who, "stage", name, result=f"refused: {self._fault}")
                return
            self._staged = made
            self._move(Step.LOADED, code=ErrorCode.STAGE_REFUSED)
            self._note(who, "staged", made.label, result=_done(why))

    def _prepare(self, source: ReleaseSource, name: str) -> WorkingRelease:
        gc.collect()  # what earlier releases left: the heap of the start is frozen
        current = self._plane.current.loaded
        statement = current.judgement.statements.get(Role.DEPLOY)
        is_approved = current.standing is Standing.APPROVED
        sequence = statement.sequence if is_approved and statement is not None else 0
        loaded = source.load(name, sequence_min=sequence)
        check_fits(loaded, current, self._opened.scorer.engine)
        release = self._opened.open_release(loaded)
        report = release.scorer.champion.canary_state.report
        if not report.passed:
            raise _refused(
                ErrorCode.STAGE_REFUSED, expected="the canary's recorded answers", got=report
            )
        warm(release)
        self._ask_canary(release)
        return release

    def _ask_canary(self, release: WorkingRelease) -> None:
        """Take the canary of a release the way of every batch; live state stays as it is."""
        canary = release.loaded.parts.canary
        found: Future[Result] = Future()
        limit = Limit.from_now("staging", bounds.SWAP_CANARY_S_MAX)

        def submit() -> None:
            try:
                self._plane.score_canary(
                    known_events(canary), limit, found.set_result, release=release
                )
            except SentinelError as error:
                found.set_result(error)

        self._loop.call_soon_threadsafe(submit)
        result = _within(found, bounds.SWAP_CANARY_S_MAX, what="an answer to the canary")
        if isinstance(result, SentinelError):
            raise result
        lines = result.lines if isinstance(result, EventAnswers) else ()
        body = b"\n".join(line for line in lines if isinstance(line, bytes))
        wrong, who = compare_canary(canary, body)
        if wrong or who != {"champion"}:
            raise _refused(
                ErrorCode.STAGE_REFUSED,
                expected="the canary's recorded answers, from the champion",
                got=wrong or "answers of the fallback",
            )

    # --- the switch --------------------------------------------------------------------------

    def _put_in_service(self, release: WorkingRelease) -> None:
        """Change the release between two batches, then what the door says of it."""
        done: Future[None] = Future()

        def change() -> None:
            if done.set_running_or_notify_cancel():
                self._worker.put_in_service(release)
                done.set_result(None)

        self._plane.batcher.call(change)
        _within(done, bounds.SWAP_S_MAX, what="an end of the batch in the model")
        shown: Future[None] = Future()

        def show() -> None:
            self._plane.put_in_service(release)
            shown.set_result(None)

        self._loop.call_soon_threadsafe(show)
        _within(shown, bounds.SWAP_S_MAX, what="a turn of the door's loop")
        self._opened.metrics.record_release(
            release.label,
            digest=release.digest,
            is_approved=release.loaded.standing is Standing.APPROVED,
        )
        self._in_service_since_ms = _now_ms()
        self.on_switch()

    # --- private -----------------------------------------------------------------------------

    def _end_shadow(self) -> None:
        """Take the challenger away from live rows; its thread must have left it before it serves.

        Raises
        ------
        SentinelError
            ``switch-refused`` when it does not come to an end of its slice.
        """
        shadow, self._worker.shadow = self._worker.shadow, None
        if shadow is None:
            return
        shadow.stop()
        self._report = shadow.report()
        if not shadow.has_ended:
            raise _refused(
                ErrorCode.SWITCH_REFUSED,
                expected=f"a challenger that ends its slice within {bounds.SWAP_S_MAX:g} s",
                got="one that does not",
            )

    def _move(self, step: Step, *, code: ErrorCode) -> None:
        target = TABLE[self._place].get(step)
        if target is None:
            expected = " or ".join(str(place) for place in Place if step in TABLE[place])
            raise _refused(code, expected=f"a second place that is {expected}", got=self._place)
        self._place = target

    def _try(self, who: str, what: str, release: WorkingRelease, act: Callable[[], None]) -> None:
        try:
            act()
        except SentinelError as error:
            self._note(who, what, release.label, result=str(error))
            raise

    def _count(self, kind: str) -> None:
        self._opened.metrics.add("sentinel_release_changes_total", kind=kind.replace(" ", "_"))

    def _note(self, who: str, what: str, release: str, *, result: str = "done") -> None:
        self._operations.append(Operation(_now_ms(), who, what, release, result))
        _LOG.warning(
            "operation", extra={"who": who, "what": what, "release": release, "result": result}
        )


def _data(release: WorkingRelease) -> dict[str, object]:
    return {
        "release": release.label,
        "digest": release.digest,
        "standing": str(release.loaded.standing),
        "breaker": str(release.scorer.status().breaker),
    }


def _within(future: Future[T], seconds: float, *, what: str) -> T:
    try:
        return future.result(seconds)
    except TimeoutError as error:
        if not future.cancel():  # it came in this very moment
            return future.result(seconds)
        raise _refused(
            ErrorCode.SWITCH_REFUSED, expected=f"{what} within {seconds:g} s", got="none"
        ) from error


def _refused(code: ErrorCode, *, expected: str, got: object, hint: str = "") -> SentinelError:
    return SentinelError(code, at="release", expected=expected, got=got, hint=hint)


def _done(why: str) -> str:
    return _words("done", why)


def _words(result: str, why: str) -> str:
    return f"{result}: {why}" if why else result


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
