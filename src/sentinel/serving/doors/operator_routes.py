"""What operators ask over HTTP: releases that come and go, the breaker.

These routes are on the operations port, never on the doors' ports, and answer only callers on this
machine (in a cluster: ``kubectl exec`` or ``port-forward``), with scope ``operate`` where the
server has tokens. A body is JSON and says so; ``Host`` must name this machine: no page in a
browser can ask in its user's name.

Whatever may take long runs in threads of its own; the loop goes on answering probes.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Annotated

import msgspec
from msgspec import Meta

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.scoring import Event, State
from sentinel.serving import bounds
from sentinel.serving.batching.attempt import attempt
from sentinel.serving.doors.access import Access, Scope, is_local
from sentinel.serving.doors.http_message import (
    JSON,
    HttpRequest,
    HttpResponse,
    error_response,
    json_response,
    route_unknown,
)
from sentinel.serving.plane import Plane
from sentinel.serving.profiling import Profiler
from sentinel.serving.releases.swap import Swap

PREFIX = b"/v1/operate/"
_PROFILE = PREFIX + b"profile"
_THREADS = 2
_Text = Annotated[str, Meta(max_length=bounds.OPERATOR_TEXT_CHARACTERS_MAX)]
_Act = Callable[["_Body", str], None]

# What each state of the breaker means, in words for the person who has to act.
MEANINGS = {
    State.CLOSED: "the champion answers",
    State.OPEN: "the champion was slow or failing and pauses; the fallback answers; it is probed "
    "again by itself",
    State.HALF_OPEN: "the champion is being probed with its canary and copies of live rows; the "
    "fallback answers",
    State.LATCHED: "the champion is shut off until a person resets the breaker; the fallback "
    "answers",
}


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an operator sends; every field where it is used."""

    release: _Text = ""
    by: _Text = ""
    because: _Text = ""


class OperatorRoutes:
    """The routes of operators.

    Parameters
    ----------
    plane : Plane
    swap : Swap
    access : Access
    """

    def __init__(self, plane: Plane, swap: Swap, access: Access) -> None:
        self._plane = plane
        self._swap = swap
        self._access = access
        self._loop: asyncio.AbstractEventLoop | None = None
        self._profiler = Profiler(plane)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="operator")
        self._reads: dict[bytes, Callable[[], dict[str, object]]] = {
            PREFIX + b"releases": swap.status,
            PREFIX + b"shadow": swap.shadow_report,
            PREFIX + b"breaker": self.breaker,
        }
        self._acts: dict[bytes, _Act] = {
            PREFIX + b"releases/stage": lambda body, who: swap.stage(
                body.release, who=who, why=body.because
            ),
            PREFIX + b"releases/switch": lambda body, who: swap.switch(who=who, why=body.because),
            PREFIX + b"releases/rollback": lambda body, who: swap.rollback(
                who=who, why=body.because
            ),
            PREFIX + b"releases/drop": lambda body, who: swap.drop(who=who, why=body.because),
            PREFIX + b"shadow/start": lambda body, who: swap.start_shadow(
                who=who, why=body.because
            ),
            PREFIX + b"shadow/stop": lambda body, who: swap.stop_shadow(who=who, why=body.because),
            PREFIX + b"breaker/trip": self._trip,
            PREFIX + b"breaker/reset": self._reset,
        }

    @property
    def table(self) -> dict[bytes, bytes]:
        """Every path with its method."""
        reads = dict.fromkeys((*self._reads, _PROFILE), b"GET")
        return reads | dict.fromkeys(self._acts, b"POST")

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the loop that requests come from."""
        self._loop = loop

    def close(self) -> None:
        """Take no more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def __call__(self, request: HttpRequest) -> HttpResponse | None:
        """Answer an operator, now or later."""
        try:
            self._take(request)
        except SentinelError as error:
            return _refusal(error)
        return None

    def _take(self, request: HttpRequest) -> None:
        caller = self._access.require(request.headers.get(b"authorization", b""), Scope.OPERATE)
        _check_local(request)
        method = self.table.get(request.path)
        if method is None:
            raise route_unknown()
        if request.method != method:
            raise SentinelError(
                ErrorCode.METHOD_UNSUPPORTED,
                at="request",
                expected=method.decode(),
                got=request.method.decode("ascii", "replace"),
            )
        read = self._reads.get(request.path)
        if request.path == _PROFILE:
            is_gone = threading.Event()
            request.ends_with_client = True
            request.on_abandon = is_gone.set
            self._later(request, lambda: self._profiler.answer(request.query, is_gone))
            return
        if read is not None:
            self._later(request, read)
            return
        body = _body(request)
        who = caller.name if caller is not None else body.by
        if not who:
            raise SentinelError(
                ErrorCode.REQUEST_INVALID,
                at="by",
                expected="who asks: this server has no tokens that would say it",
                got="nothing",
            )
        shown = who if caller is not None else f"{who} (no token)"
        act = self._acts[request.path]
        group = request.path[len(PREFIX) :].partition(b"/")[0]
        state = self._reads[PREFIX + group]

        def work() -> dict[str, object]:
            act(body, shown)
            return state()

        self._later(request, work)

    def breaker(self) -> dict[str, object]:
        """Say where the breaker of the release in service stands, in words."""
        release = self._plane.current
        status = release.scorer.status()
        return {
            "release": release.label,
            "state": str(status.breaker),
            "meaning": MEANINGS[status.breaker],
            "cause": status.breaker_cause,
            "entered": {str(state): n for state, n in status.n_entered.items()},
            "canary": str(status.canary.report),
            "canary_checks": status.canary.n_checks,
            "canary_failures": status.canary.n_failures,
            "operations": self._swap.operations("breaker"),
        }

    # --- private -----------------------------------------------------------------------------

    def _trip(self, body: _Body, who: str) -> None:
        if not body.because:
            raise SentinelError(
                ErrorCode.REQUEST_INVALID, at="because", expected="a reason", got="nothing"
            )
        scorer = self._plane.current.scorer
        self._swap.end_watch()
        # Straight to the breaker, which any thread may call: a champion that hangs holds the
        # scoring thread, and must not hold this.
        scorer.force(Event.FORCE_OPEN, cause=f"{who}: {body.because}")
        self._swap.note(who, "breaker trip", self._plane.current.label, why=body.because)

    def _reset(self, body: _Body, who: str) -> None:
        release = self._plane.current
        cause = f"{who}: {body.because}" if body.because else who
        done: Future[SentinelError | None] = Future()

        def reset() -> None:
            if done.set_running_or_notify_cancel():
                done.set_result(
                    attempt(lambda: release.scorer.force(Event.RESET, cause=cause), at="breaker")
                )

        self._plane.batcher.call(reset)
        found = _result(done)
        if found is not None:
            raise found
        self._swap.note(who, "breaker reset", release.label, why=body.because)

    def _later(self, request: HttpRequest, work: Callable[[], dict[str, object]]) -> None:
        loop = self._loop
        if loop is None:
            raise RuntimeError("requests before the loop was named")

        def run() -> None:
            found = attempt(work, at="operator")
            response = _response(found)
            loop.call_soon_threadsafe(request.respond, response)

        self._threads.submit(run)


def _result(done: Future[SentinelError | None]) -> SentinelError | None:
    try:
        return done.result(bounds.SWAP_S_MAX)
    except TimeoutError:
        if not done.cancel():
            return done.result(bounds.SWAP_S_MAX)
        return SentinelError(
            ErrorCode.SWITCH_REFUSED,
            at="breaker",
            expected=f"an end of the batch in the model within {bounds.SWAP_S_MAX:g} s",
            got="none",
        )


def _response(found: dict[str, object] | SentinelError) -> HttpResponse:
    return _refusal(found) if isinstance(found, SentinelError) else json_response(found)


def _refusal(error: SentinelError) -> HttpResponse:
    """Make a response that a command can turn into the same error again."""
    response = error_response(error)
    data = json.loads(response.body)
    if str(error) == data["error"]:
        parts = {"at": error.at, "expected": error.expected, "got": error.got, "hint": error.hint}
        data = {**data, **parts}
    return response._replace(body=json.dumps(data, allow_nan=False).encode())


def _check_local(request: HttpRequest) -> None:
    if not is_local(request):
        raise SentinelError(
            ErrorCode.PEER_REFUSED,
            at="operator",
            expected="a caller on this machine",
            got="another one",
        )


def _body(request: HttpRequest) -> _Body:
    kind = request.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind != JSON:
        raise SentinelError(
            ErrorCode.CONTENT_UNSUPPORTED,
            at="content-type",
            expected=JSON.decode(),
            got=kind.decode("ascii", "replace") or "none",
        )
    if len(request.body) > bounds.OPERATOR_BODY_BYTES_MAX:
        raise SentinelError(
            ErrorCode.REQUEST_TOO_LARGE,
            at="body",
            expected=f"at most {bounds.OPERATOR_BODY_BYTES_MAX} bytes",
            got=len(request.body),
        )
    try:
        body = msgspec.json.decode(request.body, type=_Body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SentinelError(
            ErrorCode.REQUEST_INVALID, at="body", expected="release, by, because", got=error
        ) from error
    return msgspec.structs.replace(body, by=body.by.strip(), because=body.because.strip())
