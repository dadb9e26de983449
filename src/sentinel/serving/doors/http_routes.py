"""The routes: from a request to a call of the plane, and back."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from urllib.parse import unquote_to_bytes

import msgspec

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.monitoring.latency import LatencyHistogram
from sentinel.serving.batching.gate import Gate
from sentinel.serving.batching.work import EventAnswers, Reply, Result, TensorAnswers, Work
from sentinel.serving.door_plane import DoorPlane, Told
from sentinel.serving.doors import load_report
from sentinel.serving.doors.access import Access, Scope
from sentinel.serving.doors.health_route import health_response
from sentinel.serving.doors.http_message import (
    JSON,
    NDJSON,
    HttpHead,
    HttpRequest,
    HttpResponse,
    error_response,
    json_response,
    refusal,
    route_unknown,
    written_lines,
)
from sentinel.serving.doors.line_stream import LineStream
from sentinel.serving.doors.tensor_answer import encode_infer
from sentinel.serving.doors.tensors import InferBody, InferRequest, read_infer, read_timeout_s
from sentinel.serving.plane import Limit

_NDJSON_TYPES = frozenset({NDJSON, b"application/ndjson", b"application/jsonl"})
_INFER_TYPES = frozenset({b"", JSON, b"application/octet-stream"})
_TIMEOUT_HEADERS = (b"sentinel-timeout-ms", b"x-envoy-expected-rq-timeout-ms")
_MODEL_PATH = re.compile(rb"/v2/models/([^/]+)(?:/versions/([^/]+))?(?:/(?:ready|infer|explain))?")
_SCORE = b"/v1/score"
_DECISIONS = b"/v1/decisions/"
_EXPLANATION = b"/explanation"
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
CANARY_HEADER = b"sentinel-canary"
RELEASE_HEADER = b"sentinel-release"


@dataclass(slots=True, eq=False)
class _Meaning:
    """What a head asks for: found out once for all requests that begin with the same bytes."""

    routes: dict[bytes, dict[bytes, Handle]]
    handle: Handle
    authorization: bytes
    load_form: bytes | None
    is_scored: bool
    content_type: bytes | None = None
    json_bytes: int | None = None
    timeout_s: float | None = None


Handle = Callable[[HttpRequest, _Meaning], HttpResponse | None]


class HttpRoutes:
    """The public routes of one plane.

    Parameters
    ----------
    plane : DoorPlane
    access : Access
    timeout_ms : int
        Deadline of a request that names none.
    gate : Gate, optional
        Asked before a body is read; None: only the queue refuses.

    Attributes
    ----------
    seconds : LatencyHistogram
        Of requests that were scored, from the whole request to its response.
    n_by_status : dict of int to int
        Responses since the start.
    """

    def __init__(
        self,
        plane: DoorPlane,
        access: Access,
        *,
        timeout_ms: int = limits.REQUEST_TIMEOUT_MS_DEFAULT,
        gate: Gate | None = None,
    ) -> None:
        self._plane = plane
        self._access = access
        self._timeout_s = timeout_ms / 1000
        self._gate = gate
        self.seconds = LatencyHistogram()
        self.n_by_status: dict[int, int] = {}
        self._routes = self._table()
        self._name = plane.model_name
        self._openapi = b""
        plane.on_change(self._renew)

    @property
    def table(self) -> dict[bytes, tuple[bytes, ...]]:
        """Every path with its methods; a decision's ends in an event id."""
        table = {path: tuple(methods) for path, methods in self._routes.items()}
        decision = _DECISIONS + b"{event_id}"
        return table | {decision: (b"GET",), decision + _EXPLANATION: (b"GET",)}

    def __call__(self, request: HttpRequest) -> HttpResponse | None:
        """Answer a request, now or later."""
        try:
            meaning = request.head.meaning
            if not isinstance(meaning, _Meaning) or meaning.routes is not self._routes:
                meaning = self._meaning_of(request.head)
            gate = self._gate
            if gate is not None and gate.is_crowded and meaning.is_scored:
                response = self._turn_away(gate, request, meaning)
                response = response or meaning.handle(request, meaning)
            else:
                response = meaning.handle(request, meaning)
        except SentinelError as error:
            response = error_response(error)
        if response is not None:
            response = self._finish(request, response)
        return response

    def _meaning_of(self, head: HttpHead) -> _Meaning:
        """Find out what a head asks for, or refuse it; another release has other routes."""
        headers, handle = head.headers, self._handler(head)
        found = head.meaning = _Meaning(
            self._routes,
            handle,
            headers.get(b"authorization", b""),
            headers.get(load_report.REQUEST_HEADER),
            is_scored=handle in {self._score, self._infer, self._explain},
        )
        return found

    def _turn_away(
        self, gate: Gate, request: HttpRequest, meaning: _Meaning
    ) -> HttpResponse | None:
        """Refuse what would wait longer than it has, whatever its body says."""
        limit = self._limit(request, meaning)
        retry_s = gate.refuses(limit.tenant, limit.timeout_s)
        return refusal(retry_s) if retry_s else None

    def _handler(self, request: HttpHead) -> Handle:
        """Find who answers a request, or refuse it."""
        methods = self._routes.get(request.path)
        if methods is None:
            methods = self._unusual(request)
        handle = methods.get(b"GET" if request.method == b"HEAD" else request.method)
        if handle is None:
            raise SentinelError(
                ErrorCode.METHOD_UNSUPPORTED,
                at="request",
                expected=", ".join(sorted(known.decode() for known in methods)),
                got=request.method.decode("ascii", "replace"),
            )
        encoding = request.headers.get(b"content-encoding", b"identity")
        if encoding != b"identity":
            raise _content("content-encoding", "none", encoding)
        return handle

    # --- the table ---------------------------------------------------------------------------

    def _table(self) -> dict[bytes, dict[bytes, Handle]]:
        plane = self._plane
        model = b"/v2/models/" + plane.model_name.encode()
        version = model + b"/versions/" + plane.model_version.encode()
        table: dict[bytes, dict[bytes, Handle]] = {
            _SCORE: {b"POST": self._score},
            b"/v1/feedback": {b"POST": self._feedback},
            b"/v1/release": {b"GET": self._release},
            b"/v1/health": {b"GET": self._health},
            b"/openapi.json": {b"GET": self._document},
            b"/v2": {b"GET": lambda *_: json_response(plane.server_metadata())},
            b"/v2/health/live": {b"GET": lambda *_: probe("live", plane.health().is_live)},
            b"/v2/health/ready": {b"GET": lambda *_: probe("ready", plane.health().is_ready)},
            b"/v2/models": {b"GET": lambda *_: json_response({"models": [plane.model_name]})},
        }
        for path in (model, version):
            table[path] = {b"GET": lambda *_: json_response(_metadata(plane))}
            table[path + b"/ready"] = {b"GET": lambda *_: probe("", plane.health().is_ready)}
            table[path + b"/infer"] = {b"POST": self._infer}
            table[path + b"/explain"] = {b"POST": self._explain}
        return table

    def _renew(self) -> None:
        """Name the release that is in service now."""
        self._routes, self._openapi = self._table(), b""
        self._name = self._plane.model_name

    def _unusual(self, request: HttpHead) -> dict[bytes, Handle]:
        """Find the routes of paths that hold a name of the caller's."""
        if request.path.startswith(_DECISIONS):
            is_why = request.path.endswith(_EXPLANATION)
            return {b"GET": self._explanation if is_why else self._decision}
        match = _MODEL_PATH.fullmatch(request.path)
        if match is not None:
            name, version = match[1], match[2]
            self._plane.require_model(
                name.decode("ascii", "replace"),
                version.decode("ascii", "replace") if version else None,
            )
        raise route_unknown()

    # --- events ------------------------------------------------------------------------------

    def _score(self, request: HttpRequest, meaning: _Meaning) -> None:
        events, limit, reply = self._events(request, meaning)
        if CANARY_HEADER in request.headers:
            self._access.require(request.headers.get(b"authorization", b""), Scope.OPERATE)
            self._watch(request, self._plane.score_canary(events, limit, reply))
        else:
            self._watch(request, self._plane.score(events, limit, reply))

    def _feedback(self, request: HttpRequest, meaning: _Meaning) -> None:
        events, limit, reply = self._events(request, meaning)
        self._watch(request, self._plane.learn(events, limit, reply))

    def _events(self, request: HttpRequest, meaning: _Meaning) -> tuple[list[bytes], Limit, Reply]:
        """Read a body of one event or of lines, who may wait how long, and the way back."""
        content_type = meaning.content_type
        if content_type is None:
            content_type = meaning.content_type = _content_type(request)
        is_many = content_type in _NDJSON_TYPES
        if not is_many and content_type != JSON:
            raise _content("content-type", f"{JSON.decode()} or {NDJSON.decode()}", content_type)
        limit = self._limit(request, meaning)
        if is_many:
            write = _many
            events = [line for line in request.body.split(b"\n") if line and not line.isspace()]
        elif request.body[:1] == b"[":
            write, events = _array, _elements(request.body)
        else:
            write, events = _one, [request.body]
        return events, limit, partial(self._reply, request, limit.at_s, write)

    def open_stream(self, request: HttpRequest) -> LineStream | None:
        """Answer lines while they come, where a request asks for that; None: its body is read.

        It does with lines in chunks for ``/v1/score``.

        Raises
        ------
        SentinelError
            ``caller-unknown``, ``scope-missing``, ``content-unsupported``, ``request-invalid``.
        """
        headers = request.headers
        is_streamed = request.path == _SCORE and request.method == b"POST"
        if not is_streamed or CANARY_HEADER in headers or b"transfer-encoding" not in headers:
            return None
        if _content_type(request) not in _NDJSON_TYPES:
            return None
        meaning = self._meaning_of(request.head)
        request.head.meaning = meaning
        self._limit(request, meaning)
        self.n_by_status[200] = self.n_by_status.get(200, 0) + 1

        def submit(events: Sequence[bytes], reply: Reply) -> Work:
            return self._plane.score(events, self._limit(request, meaning), reply)

        return LineStream(submit, self._plane.abandon)

    def _decision(self, request: HttpRequest, meaning: _Meaning) -> None:
        self._access.require(meaning.authorization, Scope.READ)
        raw = unquote_to_bytes(request.path[len(_DECISIONS) :])
        self._plane.find_decision(raw.decode("utf-8", "replace"), self._teller(request))

    def _explanation(self, request: HttpRequest, meaning: _Meaning) -> None:
        self._access.require(meaning.authorization, Scope.READ)
        raw = unquote_to_bytes(request.path[len(_DECISIONS) : -len(_EXPLANATION)])
        event_id = raw.decode("utf-8", "replace")
        self._plane.find_explanation(event_id, self._teller(request, event_id))

    def _teller(self, request: HttpRequest, event_id: str = "") -> Told:
        """Make the way back of what is looked up: JSON, an error, or not yet."""

        def told(found: bytes | SentinelError | None) -> None:
            if isinstance(found, SentinelError):
                response = error_response(found)
            elif found is not None:
                response = HttpResponse(200, found)
            else:
                body = json.dumps({"event_id": event_id, "status": "pending"}).encode()
                response = HttpResponse(202, body, headers=((b"retry-after", b"1"),))
            request.respond(self._finish(request, response))

        return told

    # --- tensors -----------------------------------------------------------------------------

    def _infer(self, request: HttpRequest, meaning: _Meaning) -> None:
        (body, values), limit = self._read_tensors(request, meaning)
        write = partial(_tensors, body, self._name)
        reply = partial(self._reply, request, limit.at_s, write)
        self._watch(request, self._plane.infer(values, limit, reply))

    def _explain(self, request: HttpRequest, meaning: _Meaning) -> None:
        asked, limit = self._read_tensors(request, meaning)
        told = self._teller(request)
        work = self._plane.explain(asked.values, limit, told, request_id=asked.body.id)
        self._watch(request, work)

    def _read_tensors(self, request: HttpRequest, meaning: _Meaning) -> tuple[InferRequest, Limit]:
        """Read a request of features, and how long its caller waits."""
        if meaning.content_type is None:
            content_type = _content_type(request)
            if content_type not in _INFER_TYPES:
                raise _content("content-type", JSON.decode(), content_type)
            meaning.json_bytes = _json_bytes(request)
            meaning.content_type = content_type
        limit = self._limit(request, meaning)
        plane = self._plane
        asked = read_infer(request.body, json_bytes=meaning.json_bytes, n_features=plane.n_features)
        body = asked.body
        if body.model_name is not None or body.model_version is not None:
            plane.require_model(body.model_name or plane.model_name, body.model_version)
        if body.parameters and "timeout" in body.parameters:
            limit = limit._replace(timeout_s=read_timeout_s(body.parameters["timeout"]))
        return asked, limit

    # --- how it is ---------------------------------------------------------------------------

    def _release(self, request: HttpRequest, meaning: _Meaning) -> None:
        self._access.require(meaning.authorization, Scope.READ)
        self._plane.find_release(self._teller(request))

    def _document(self, *_: object) -> HttpResponse:
        if not self._openapi:
            self._openapi = self._plane.document()
        return HttpResponse(200, self._openapi)

    def _health(self, request: HttpRequest, _: _Meaning) -> HttpResponse:
        return health_response(self._plane.health(), request, self._access)

    # --- private -----------------------------------------------------------------------------

    def _watch(self, request: HttpRequest, work: Work) -> None:
        if not work.is_settled:
            request.on_abandon = partial(self._plane.abandon, work)

    def _reply(
        self,
        request: HttpRequest,
        started_s: float,
        write: Callable[[EventAnswers | TensorAnswers], HttpResponse],
        result: Result,
    ) -> None:
        if isinstance(result, SentinelError):
            response = error_response(result)
        else:
            try:
                response = write(result)
            except SentinelError as error:
                response = error_response(error)
            self.seconds.observe(time.monotonic() - started_s)
        request.respond(self._finish(request, response))

    def _finish(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        """Count the response, and say how busy the server is where somebody asks."""
        counts = self.n_by_status
        counts[response.status] = counts.get(response.status, 0) + 1
        meaning = request.head.meaning
        form = meaning.load_form if isinstance(meaning, _Meaning) else None
        if form is None:
            return response
        value = load_report.header(form, self._plane.load())
        if value is None:
            return response
        header = (load_report.RESPONSE_HEADER, value)
        return response._replace(headers=(*response.headers, header))

    def _limit(self, request: HttpRequest, meaning: _Meaning) -> Limit:
        """Say whose a request to score is, and how long its caller waits."""
        caller = self._access.require(meaning.authorization, Scope.SCORE)
        timeout_s = meaning.timeout_s
        if timeout_s is None:
            timeout_s = meaning.timeout_s = _timeout_s(request.headers, self._timeout_s)
        tenant = request.peer if caller is None else caller.name
        return Limit(tenant, timeout_s - request.unread_s, time.monotonic())


def _tensors(body: InferBody, model: str, result: EventAnswers | TensorAnswers) -> HttpResponse:
    if isinstance(result, EventAnswers):
        raise TypeError("events where tensors were asked for")
    return encode_infer(result, body, model=model)


def _one(result: EventAnswers | TensorAnswers) -> HttpResponse:
    if isinstance(result, TensorAnswers):
        raise TypeError("tensors where events were asked for")
    line = result.lines[0]
    if isinstance(line, SentinelError):
        return error_response(line)
    return HttpResponse(200, line, headers=_served(result))


def _many(result: EventAnswers | TensorAnswers) -> HttpResponse:
    if isinstance(result, TensorAnswers):
        raise TypeError("tensors where events were asked for")
    body = b"\n".join(written_lines(result.lines)) + b"\n"
    return HttpResponse(200, body, content_type=NDJSON, headers=_served(result))


def _array(result: EventAnswers | TensorAnswers) -> HttpResponse:
    if isinstance(result, TensorAnswers):
        raise TypeError("tensors where events were asked for")
    body = b"[" + b",".join(written_lines(result.lines)) + b"]"
    return HttpResponse(200, body, headers=_served(result))


def _elements(body: bytes) -> list[bytes]:
    """Cut a JSON array into its elements, as they came."""
    try:
        return [bytes(element) for element in _decode_array(body)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        is_deep = isinstance(error, RecursionError)
        raise SentinelError(
            ErrorCode.REQUEST_INVALID,
            at="request",
            expected="an event, or an array of events",
            got="one that is nested too deeply" if is_deep else error,
        ) from error


def _served(answers: EventAnswers) -> tuple[tuple[bytes, bytes], ...]:
    """Name the release that answered; of a request that saw two, how many lines each."""
    if len(answers.served) == 1:
        return ((RELEASE_HEADER, answers.served[0][0].encode()),)
    text = ", ".join(f"{label};lines={n}" for label, n in answers.served)
    return ((RELEASE_HEADER, text.encode()),)


def probe(name: str, holds: bool) -> HttpResponse:
    """Answer a probe: by the status, and with a word where the protocol's clients read one."""
    body = b'{"%b":%b}' % (name.encode(), b"true" if holds else b"false") if name else b""
    return HttpResponse(200 if holds else 503, body)


def _metadata(plane: DoorPlane) -> object:
    return msgspec.to_builtins(plane.model_metadata())


def _content_type(request: HttpRequest) -> bytes:
    kind, _, parameters = request.headers.get(b"content-type", b"").partition(b";")
    charset = parameters.strip().lower().replace(b'"', b"")
    if charset.startswith(b"charset=") and charset != b"charset=utf-8":
        raise _content("content-type", "charset=utf-8", charset)
    return kind.strip().lower()


def _json_bytes(request: HttpRequest) -> int | None:
    text = request.headers.get(b"inference-header-content-length")
    if text is None:
        return None
    if not text.isdigit() or len(text) > 12:
        raise SentinelError(
            ErrorCode.REQUEST_INVALID,
            at="inference-header-content-length",
            expected="a number of bytes",
            got=text.decode("ascii", "replace"),
        )
    return int(text)


def _timeout_s(headers: dict[bytes, bytes], usual_s: float) -> float:
    for name in _TIMEOUT_HEADERS:
        text = headers.get(name)
        if text is not None:
            return _timeout_ms(text) / 1000
    return usual_s


def _timeout_ms(text: bytes) -> int:
    if not text.isdigit() or len(text) > 12 or not int(text):
        raise SentinelError(
            ErrorCode.REQUEST_INVALID,
            at="timeout",
            expected=f"milliseconds, 1 to {limits.REQUEST_TIMEOUT_MS_MAX}",
            got=text.decode("ascii", "replace"),
        )
    return min(int(text), limits.REQUEST_TIMEOUT_MS_MAX)


def _content(at: str, expected: str, got: bytes) -> SentinelError:
    return SentinelError(
        ErrorCode.CONTENT_UNSUPPORTED,
        at=at,
        expected=expected,
        got=got.decode("ascii", "replace") or "none",
    )
