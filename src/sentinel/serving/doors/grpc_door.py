"""The gRPC door: Open Inference Protocol, events, health, reflection; it only translates."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import unquote

import grpc
import grpc.aio
import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.serving import bounds
from sentinel.serving.batching.attempt import attempt, attempt_async
from sentinel.serving.batching.gate import Gate
from sentinel.serving.batching.queue_of_rows import OverloadedError
from sentinel.serving.batching.work import EventAnswers, Reply, Result, TensorAnswers, Work
from sentinel.serving.door_plane import DoorPlane
from sentinel.serving.doors import load_report, tensors
from sentinel.serving.doors.access import Access, Scope
from sentinel.serving.doors.asked import Asked, Submit, ask, ask_patiently
from sentinel.serving.doors.gathering import Gathering, ProcessorShare
from sentinel.serving.doors.grpc_messages import (
    FILES,
    HEALTH_SERVICE,
    INFERENCE_SERVICE,
    REFLECTION_SERVICE,
    SCORING_SERVICE,
    SERVICES,
    SERVING_STATUSES,
    file_name,
    message,
)
from sentinel.serving.doors.http_message import error_data, retry_after_s
from sentinel.serving.doors.listening import check_address
from sentinel.serving.doors.status_codes import GRPC_STATUS
from sentinel.serving.doors.tensor_answer import binary_output, require_answered, wanted_outputs
from sentinel.serving.doors.tls import Tls
from sentinel.serving.plane import Limit
from sentinel.serving.settings import ServerSettings

_Proto = Any  # messages of a pool of our own have no static type
_Context = Any
_Unary = Callable[[_Proto, _Context], Awaitable[_Proto]]
_Stream = Callable[[_Proto, _Context], AsyncIterator[_Proto]]
_Metadata = tuple[tuple[str, str | bytes], ...]
_Trailers = Callable[[], _Metadata]

_WATCH_S = 1.0
_STREAMS_MAX = 1024
# Messages of one stream that are read before the answer to the first is sent: they share batches,
# and their order stays.
_AHEAD_MAX = 64
_SCORING_METHODS = frozenset({"ModelInfer", "Score", "ScoreStream"})
_INFER_RESPONSE = message("inference", "ModelInferResponse")
# ``raw_output_contents``: field 6, a length and so many bytes.
_RAW_TAG = b"\x32"
_SHAPES_REMEMBERED_MAX = 256


class GrpcDoor:
    """The services over one plane.

    Parameters
    ----------
    plane : DoorPlane
    access : Access
    timeout_ms : int
        Deadline of a call that has none.
    gate : Gate, optional
        Asked before a message is read; None: only the queue refuses.
    """

    def __init__(
        self, plane: DoorPlane, access: Access, *, timeout_ms: int, gate: Gate | None = None
    ) -> None:
        self._plane = plane
        self._access = access
        self._timeout_s = timeout_ms / 1000
        self._gate = gate
        self._gathering = Gathering(ProcessorShare(bounds.GATHER_SHARE_S))
        self._server: grpc.aio.Server | None = None
        self._trailer = load_report.Trailer(plane.load)

    async def start(
        self, settings: ServerSettings, tls: Tls | None = None, *, is_shared: bool = False
    ) -> int:
        """Listen; return the port. A shared one may have other processes behind it.

        Raises
        ------
        SentinelError
            ``address-unusable``.
        """
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", bounds.REQUEST_BODY_BYTES_MAX),
                ("grpc.max_concurrent_streams", _STREAMS_MAX),
                ("grpc.max_metadata_size", bounds.REQUEST_HEAD_BYTES_MAX),
                ("grpc.so_reuseport", int(is_shared)),
            ]
        )
        server.add_generic_rpc_handlers(tuple(self._handlers()))
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        address = f"{host}:{settings.grpc_port}"
        if not is_shared:
            check_address(settings.host, settings.grpc_port)
        try:
            if tls is not None:
                port: int = server.add_secure_port(address, tls.grpc_credentials())
            else:
                port = server.add_insecure_port(address)
        except (OSError, RuntimeError) as error:
            raise SentinelError(
                ErrorCode.ADDRESS_UNUSABLE,
                at=address,
                expected="an address to listen at",
                got=type(error).__name__,
            ) from error
        await server.start()
        self._server = server
        return port

    async def stop(self, *, grace_s: float) -> None:
        """Take nothing new, and let calls end."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(grace_s)

    # --- inference ---------------------------------------------------------------------------

    async def _server_live(self, _: _Proto, __: _Context) -> _Proto:
        return _answer("ServerLive", live=self._plane.health().is_live)

    async def _server_ready(self, _: _Proto, __: _Context) -> _Proto:
        return _answer("ServerReady", ready=self._plane.health().is_ready)

    async def _model_ready(self, request: _Proto, _: _Context) -> _Proto:
        self._plane.require_model(request.name, request.version)
        return _answer("ModelReady", ready=self._plane.health().is_ready)

    async def _server_metadata(self, _: _Proto, __: _Context) -> _Proto:
        return _answer("ServerMetadata", **self._plane.server_metadata())

    async def _model_metadata(self, request: _Proto, _: _Context) -> _Proto:
        self._plane.require_model(request.name, request.version)
        metadata = self._plane.model_metadata()
        response: _Proto = _answer(
            "ModelMetadata",
            name=metadata.name,
            versions=metadata.versions,
            platform=metadata.platform,
        )
        for tensor in metadata.inputs:
            response.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        for tensor in metadata.outputs:
            response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        return response

    async def _model_infer(self, request: _Proto, context: _Context) -> bytes:
        limit = self._limit(context)
        if "timeout" in request.parameters:
            limit = _shortened(limit, request.parameters["timeout"], context)
        plane = self._plane
        plane.require_model(request.model_name, request.model_version)
        values = read_values(request, n_features=plane.n_features)
        names = wanted_outputs([wish.name for wish in request.outputs] or None)
        await self._gathering.join(limit.timeout_s)
        result = await self._wait(lambda reply: plane.infer(values, limit, reply))
        if not isinstance(result, TensorAnswers):
            raise TypeError("events where tensors were asked for")
        require_answered(result)
        head = _INFER_RESPONSE(
            model_name=plane.model_name, model_version=result.version, id=request.id
        )
        contents = [binary_output(result, name) for name in names]
        # Messages written one behind the other are one message (Protocol Buffers, encoding).
        return b"".join(
            [
                head.SerializeToString(),
                _outputs(tuple(names), len(result.scores)),
                *(_RAW_TAG + _length(len(content)) + content for content in contents),
            ]
        )

    # --- events ------------------------------------------------------------------------------

    async def _score(self, request: _Proto, context: _Context) -> _Proto:
        return await self._score_events(request, self._limit(context))

    async def _score_stream(self, requests: _Proto, context: _Context) -> AsyncIterator[_Proto]:
        """Answer messages in their order; the next ones are on their way meanwhile."""
        tenant = self._tenant(context)
        answers: asyncio.Queue[asyncio.Future[_Proto] | None] = asyncio.Queue(_AHEAD_MAX)
        reader = asyncio.ensure_future(self._read_ahead(requests, tenant, answers))
        try:
            while (answer := await answers.get()) is not None:
                yield await answer
            await reader
        finally:
            reader.cancel()
            while not answers.empty():
                left = answers.get_nowait()
                if left is not None and not left.cancel() and not left.cancelled():
                    left.exception()  # looked at: nobody is told of a fault after the first

    async def _read_ahead(
        self,
        requests: _Proto,
        tenant: str,
        answers: asyncio.Queue[asyncio.Future[_Proto] | None],
    ) -> None:
        """Submit each message as it comes, as far ahead as the queue of answers has room."""
        kind = message("sentinel.v1", "ScoreRequest")
        turn = asyncio.Lock()
        try:
            async for content in requests:
                scored = self._score_in_turn(list(_parse(kind, content).events), tenant, turn)
                await answers.put(asyncio.ensure_future(scored))
        finally:
            await answers.put(None)

    async def _score_in_turn(self, events: list[bytes], tenant: str, turn: asyncio.Lock) -> _Proto:
        """Score a message of a stream, with the deadline of a request; the stream has its own.

        Where the queue has no room, or no time, it waits, and all behind it: who sends faster than
        is scored gets slower, not refused.
        """

        def submit(reply: Reply) -> Work:
            return self._plane.score(events, Limit.from_now(tenant, self._timeout_s), reply)

        await self._gathering.join(self._timeout_s)
        while True:
            try:
                async with turn:
                    asked = await ask_patiently(submit)
                return _decisions(await self._answer(asked))
            except OverloadedError:  # a front is told so later
                await asyncio.sleep(bounds.STREAM_RETRY_S)

    async def _score_events(self, request: _Proto, limit: Limit) -> _Proto:
        events = list(request.events)
        await self._gathering.join(limit.timeout_s)
        return _decisions(await self._wait(lambda reply: self._plane.score(events, limit, reply)))

    # --- health and reflection ---------------------------------------------------------------

    async def _check(self, request: _Proto, _: _Context) -> _Proto:
        status = self._serving_status(request.service)
        if status == SERVING_STATUSES.index("SERVICE_UNKNOWN"):
            raise SentinelError(
                ErrorCode.MODEL_UNKNOWN, at="service", expected="one of this server", got="another"
            )
        return message("grpc.health.v1", "HealthCheckResponse")(status=status)

    async def _watch(self, request: _Proto, _: _Context) -> AsyncIterator[_Proto]:
        last = None
        while True:
            status = self._serving_status(request.service)
            if status != last:
                last = status
                yield message("grpc.health.v1", "HealthCheckResponse")(status=status)
            await asyncio.sleep(_WATCH_S)

    def _serving_status(self, service: str) -> int:
        if service not in {"", *SERVICES}:
            return SERVING_STATUSES.index("SERVICE_UNKNOWN")
        is_ready = self._plane.health().is_ready
        return SERVING_STATUSES.index("SERVING" if is_ready else "NOT_SERVING")

    async def _reflect(self, requests: _Proto, _: _Context) -> AsyncIterator[_Proto]:
        kind = message("grpc.reflection.v1alpha", "ServerReflectionRequest")
        async for content in requests:
            yield reflect(_parse(kind, content))

    # --- private -----------------------------------------------------------------------------

    async def _wait(self, submit: Submit) -> Result:
        """Submit, and wait for the reply; a call that is cancelled is abandoned."""
        return await self._answer(ask(submit))

    async def _answer(self, asked: Asked) -> Result:
        try:
            result = await asked.result()
        except asyncio.CancelledError:
            self._plane.abandon(asked.work)
            raise
        if isinstance(result, SentinelError):
            raise result
        return result

    def _tenant(self, context: _Context) -> str:
        sent = b""
        for key, value in context.invocation_metadata() or ():
            if key == "authorization":
                sent = value if isinstance(value, bytes) else value.encode()
        caller = self._access.require(sent, Scope.SCORE)
        return caller.name if caller is not None else _host(context.peer())

    def _limit(self, context: _Context) -> Limit:
        left_s = context.time_remaining()
        most_s = limits.REQUEST_TIMEOUT_MS_MAX / 1000
        timeout_s = self._timeout_s if left_s is None else min(left_s, most_s)
        return Limit.from_now(self._tenant(context), timeout_s)

    def _check_room(self, context: _Context) -> None:
        """Refuse a call that would wait longer than it has, before its message is read."""
        gate = self._gate
        if gate is None or not gate.is_crowded:
            return
        limit = self._limit(context)
        retry_s = gate.refuses(limit.tenant, limit.timeout_s)
        if retry_s:
            raise OverloadedError(
                expected=f"an answer within {limit.timeout_s:.3f} s",
                got=f"a wait of {retry_s:.3f} s",
                retry_s=retry_s,
            )

    def _trailers_of(self, method: str) -> _Trailers:
        """Say what stands behind every answer of a method: how busy the server is, where asked."""
        if method not in _SCORING_METHODS:
            return tuple
        return lambda: (self._trailer(),)

    def _handlers(self) -> list[grpc.GenericRpcHandler]:
        unary: dict[str, _Unary] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
            "Score": self._score,
            "Check": self._check,
        }
        streams: dict[str, _Stream] = {
            "Watch": self._watch,
            "ScoreStream": self._score_stream,
            "ServerReflectionInfo": self._reflect,
        }
        handlers = []
        for service, methods in SERVICES.items():
            package = service.rpartition(".")[0]
            table: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {}
            for name, (request, _, streams_in, streams_out) in methods.items():
                kind = None if streams_in else message(package, request)
                if streams_in:
                    table[name] = grpc.stream_stream_rpc_method_handler(
                        _streaming(streams[name], kind, self._trailers_of(name))
                    )
                elif streams_out:
                    table[name] = grpc.unary_stream_rpc_method_handler(
                        _streaming(streams[name], kind, self._trailers_of(name))
                    )
                else:
                    check = self._check_room if name in _SCORING_METHODS else None
                    table[name] = grpc.unary_unary_rpc_method_handler(
                        _unary(unary[name], kind, self._trailers_of(name), check)
                    )
            handlers.append(grpc.method_handlers_generic_handler(service, table))
        return handlers


def _shortened(limit: Limit, timeout: _Proto, context: _Context) -> Limit:
    """Wait as long as a parameter says, and no longer than the call itself."""
    kind = timeout.WhichOneof("choice")
    asked_s = tensors.read_timeout_s(None if kind is None else getattr(timeout, kind))
    is_free = context.time_remaining() is None
    return limit._replace(timeout_s=asked_s if is_free else min(asked_s, limit.timeout_s))


def read_values(request: _Proto, *, n_features: int) -> npt.NDArray[np.float32]:
    """Read the one input of a ModelInferRequest, raw or typed.

    Raises
    ------
    SentinelError
        ``tensor-invalid``, ``request-too-large``.
    """
    if len(request.inputs) != 1:
        raise _invalid("inputs", f"one input, {tensors.INPUT}", f"{len(request.inputs)} inputs")
    tensor = request.inputs[0]
    tensors.check_name(tensor.name)
    n_rows = tensors.check_shape(tensor.datatype, tensor.shape, n_features=n_features)
    typed = tensor.contents.fp32_contents
    raw = request.raw_input_contents
    if len(raw) > 1 or (raw and tensor.HasField("contents")):
        raise _invalid("raw_input_contents", "one, or typed contents", "both or more")
    if raw:
        return tensors.from_bytes(raw[0], n_rows, n_features)
    return tensors.from_numbers(typed, n_rows, n_features)


def reflect(request: _Proto) -> _Proto:
    """Answer a question about the services (gRPC Server Reflection)."""
    response: _Proto = message("grpc.reflection.v1alpha", "ServerReflectionResponse")(
        valid_host=request.host, original_request=request
    )
    asked = request.WhichOneof("choice")
    if asked == "list_services":
        for service in SERVICES:
            response.list_services_response.service.add(name=service)
        return response
    packages = list(FILES)
    if asked == "file_by_filename":
        found = [name for name in packages if file_name(name) == request.file_by_filename]
    elif asked == "file_containing_symbol":
        symbol = request.file_containing_symbol
        found = [name for name in packages if symbol.startswith(f"{name}.")]
    else:
        found = []
    if found:
        response.file_descriptor_response.file_descriptor_proto.append(FILES[found[0]])
    else:
        response.error_response.error_code = grpc.StatusCode.NOT_FOUND.value[0]
        response.error_response.error_message = "no such file or symbol"
    return response


@functools.lru_cache(maxsize=_SHAPES_REMEMBERED_MAX)
def _outputs(names: tuple[str, ...], n_rows: int) -> bytes:
    """Write what describes the outputs: the same for every answer of so many rows."""
    response: _Proto = _INFER_RESPONSE()
    for name in names:
        datatype = "FP32" if name == "score" else "BYTES"
        response.outputs.add(name=name, datatype=datatype, shape=[n_rows])
    content: bytes = response.SerializeToString()
    return content


def _length(n_bytes: int) -> bytes:
    """Write a length as Protocol Buffers do: seven bits a byte, the lowest first."""
    parts = bytearray()
    while n_bytes > 0x7F:
        parts.append(n_bytes & 0x7F | 0x80)
        n_bytes >>= 7
    parts.append(n_bytes)
    return bytes(parts)


def _unary(
    handle: _Unary,
    kind: Any,
    trailers: _Trailers,
    check: Callable[[_Context], None] | None,
) -> Callable[[bytes, _Context], Awaitable[bytes]]:
    async def call(content: bytes, context: _Context) -> bytes:
        async def answer() -> bytes:
            if check is not None:
                check(context)
            response = await handle(_parse(kind, content), context)
            encoded: bytes = (
                response if isinstance(response, bytes) else response.SerializeToString()
            )
            return encoded

        result = await attempt_async(answer(), at="call")
        if isinstance(result, SentinelError):
            await _abort(context, result, trailers())
            raise result
        if behind := trailers():
            context.set_trailing_metadata(behind)
        return result

    return call


def _decisions(result: Result) -> _Proto:
    """Answer events."""
    if not isinstance(result, EventAnswers):
        raise TypeError("tensors where events were asked for")
    lines = [
        json.dumps(error_data(line), allow_nan=False).encode()
        if isinstance(line, SentinelError)
        else line
        for line in result.lines
    ]
    releases = [label for label, _ in result.served]
    return message("sentinel.v1", "ScoreResponse")(decisions=lines, releases=releases)


def _streaming(
    handle: _Stream, kind: Any, trailers: _Trailers
) -> Callable[[Any, _Context], AsyncIterator[bytes]]:
    async def call(content: Any, context: _Context) -> AsyncIterator[bytes]:
        asked = content
        if kind is not None:
            asked = attempt(lambda: _parse(kind, content), at="stream")
        if isinstance(asked, SentinelError):
            await _abort(context, asked, trailers())
        responses = handle(asked, context)
        while True:
            response = await attempt_async(anext(responses, None), at="stream")
            if isinstance(response, SentinelError):
                await _abort(context, response, trailers())
                return
            if response is None:
                if behind := trailers():
                    context.set_trailing_metadata(behind)
                return
            yield response.SerializeToString()

    return call


async def _abort(context: _Context, error: SentinelError, trailers: _Metadata) -> None:
    if isinstance(error, OverloadedError):
        trailers = (*trailers, ("retry-after", str(retry_after_s(error))))
    status = grpc.StatusCode[GRPC_STATUS[error.code]]
    await context.abort(status, str(error_data(error)["error"]), trailers)


def _parse(kind: Any, content: bytes) -> _Proto:
    try:
        return kind.FromString(content)
    except DecodeError as error:
        raise SentinelError(
            ErrorCode.REQUEST_INVALID,
            at="request",
            expected="a protobuf message",
            got="others",
        ) from error


def _answer(kind: str, /, **fields: object) -> _Proto:
    return message("inference", f"{kind}Response")(**fields)


def _host(peer: str) -> str:
    """Leave family and port out of a peer: its connections at both doors are one tenant."""
    return unquote(peer.partition(":")[2]).rpartition(":")[0].strip("[]") or peer


def _invalid(at: str, expected: str, got: object) -> SentinelError:
    return SentinelError(ErrorCode.TENSOR_INVALID, at=at, expected=expected, got=got)


__all__ = [
    "HEALTH_SERVICE",
    "INFERENCE_SERVICE",
    "REFLECTION_SERVICE",
    "SCORING_SERVICE",
    "GrpcDoor",
    "read_values",
    "reflect",
]
