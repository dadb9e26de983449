"""The public client of the Open Inference Protocol, unchanged, over both doors."""

from __future__ import annotations

import json

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
import wire_rig
from serving_rig import MODEL, N_FEATURES, Served, payment, refuses_often
from tritonclient.utils import InferenceServerException

from sentinel.serving import bounds
from sentinel.serving.doors.grpc_messages import message

ROWS = np.array([[19.5, 1, 20, 60, 1], [900, 3, 20, 5, 0]], dtype=np.float32)


def _expected(server: Served) -> np.ndarray:
    return server.champion(ROWS)


@pytest.mark.reliability("F11", t1=1)
@pytest.mark.parametrize("is_binary", [True, False])
def test_the_http_client_works_unchanged(server: Served, is_binary: bool) -> None:
    server.wait_ready()
    client = triton_http.InferenceServerClient(f"127.0.0.1:{server.addresses.http_port}")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL, "1.2.0")
    assert client.get_server_metadata()["name"] == "sentinel"
    assert client.get_model_metadata(MODEL)["inputs"][0]["shape"] == [-1, N_FEATURES]
    given = triton_http.InferInput("features", list(ROWS.shape), "FP32")
    given.set_data_from_numpy(ROWS, binary_data=is_binary)
    wanted = [
        triton_http.InferRequestedOutput(name, binary_data=is_binary)
        for name in ("score", "reason")
    ]
    result = client.infer(MODEL, [given], outputs=wanted, request_id="seven")
    np.testing.assert_array_equal(result.as_numpy("score"), _expected(server))
    reasons = [
        text if isinstance(text, str) else text.decode() for text in result.as_numpy("reason")
    ]
    assert reasons == ["ok", "ok"]
    assert result.get_response()["id"] == "seven"
    assert result.as_numpy("outcome") is None
    client.close()


def test_the_http_client_sees_errors_as_errors(server: Served) -> None:
    client = triton_http.InferenceServerClient(f"127.0.0.1:{server.addresses.http_port}")
    given = triton_http.InferInput("features", [1, 3], "FP32")
    given.set_data_from_numpy(np.zeros((1, 3), np.float32))
    with pytest.raises(InferenceServerException, match=r"tensor-invalid: features\.shape"):
        client.infer(MODEL, [given])
    client.close()


@pytest.mark.reliability("F11", t1=1)
def test_the_grpc_client_works_unchanged(server: Served) -> None:
    server.wait_ready()
    client = triton_grpc.InferenceServerClient(f"127.0.0.1:{server.addresses.grpc_port}")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL, "1.2.0")
    assert client.get_server_metadata().name == "sentinel"
    assert list(client.get_model_metadata(MODEL).inputs[0].shape) == [-1, N_FEATURES]
    given = triton_grpc.InferInput("features", list(ROWS.shape), "FP32")
    given.set_data_from_numpy(ROWS)
    result = client.infer(MODEL, [given], request_id="seven")
    np.testing.assert_array_equal(result.as_numpy("score"), _expected(server))
    assert list(result.as_numpy("served_by")) == [b"champion", b"champion"]
    assert result.get_response().id == "seven"
    client.close()


# --- gRPC without a client library -----------------------------------------------------------


def _call(server: Served, method: str, content: bytes, **options: object) -> bytes:
    with grpc.insecure_channel(f"127.0.0.1:{server.addresses.grpc_port}") as channel:
        answer: bytes = channel.unary_unary(method)(content, timeout=10, **options)
        return answer


def _request(**changes: object) -> bytes:
    fields: dict[str, object] = {"name": "features", "datatype": "FP32", "shape": [1, 5], **changes}
    request = message("inference", "ModelInferRequest")(model_name=MODEL)
    typed = fields.pop("typed", [1.0] * 5)
    tensor = request.inputs.add(**fields)
    tensor.contents.fp32_contents.extend(typed)
    content: bytes = request.SerializeToString()
    return content


def _timed(**parameter: object) -> bytes:
    request = message("inference", "ModelInferRequest").FromString(_request())
    for name, value in parameter.items():
        setattr(request.parameters["timeout"], name, value)
    content: bytes = request.SerializeToString()
    return content


INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"\xff\xff\xff", "INVALID_ARGUMENT", "request-invalid"),
        (b"", "NOT_FOUND", "model-unknown"),
        (_request(name="other"), "INVALID_ARGUMENT", "tensor-invalid"),
        (_request(shape=[-1, 5]), "INVALID_ARGUMENT", "tensor-invalid"),
        (_request(shape=[2, 5]), "INVALID_ARGUMENT", "tensor-invalid"),
        (_request(shape=[1 << 62, 5]), "RESOURCE_EXHAUSTED", "request-too-large"),
        (_request(datatype="FP64"), "INVALID_ARGUMENT", "tensor-invalid"),
        (_request(typed=[float("nan")] * 5), "INVALID_ARGUMENT", "tensor-invalid"),
        (_request(typed=[float("inf")] * 5), "INVALID_ARGUMENT", "tensor-invalid"),
        (_timed(string_param="x"), "INVALID_ARGUMENT", "request-invalid: parameters.timeout"),
        (_timed(int64_param=-1), "INVALID_ARGUMENT", "request-invalid: parameters.timeout"),
        (_timed(int64_param=1), "DEADLINE_EXCEEDED", "deadline-passed"),
    ],
)
def test_bad_calls_are_refused_with_a_status(
    server: Served, content: bytes, status: str, code: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        _call(server, INFER, content)
    assert refused.value.code().name == status
    assert refused.value.details().startswith(code)


def test_a_call_that_says_how_long_it_waits_is_answered(server: Served) -> None:
    assert _call(server, INFER, _timed(int64_param=5_000_000))


def test_a_message_over_the_limit_is_refused(server: Served) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        _call(server, INFER, bytes(bounds.REQUEST_BODY_BYTES_MAX + 1))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_an_unknown_method_is_unimplemented(server: Served) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        _call(server, "/inference.GRPCInferenceService/ModelUnload", b"")
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_events_are_scored_in_a_call_and_in_a_stream(server: Served) -> None:
    kind = message("sentinel.v1", "ScoreRequest")
    answer = message("sentinel.v1", "ScoreResponse")
    first = kind(events=[payment("g-1"), b"{}", payment("g-2")]).SerializeToString()
    found = answer.FromString(_call(server, "/sentinel.v1.Scoring/Score", first)).decisions
    assert b'"event_id":"g-1"' in found[0]
    assert b'"code": "event-refused"' in found[1]
    assert b'"event_id":"g-2"' in found[2]
    requests = [kind(events=[payment(f"s-{n}")]).SerializeToString() for n in range(20)]
    with grpc.insecure_channel(f"127.0.0.1:{server.addresses.grpc_port}") as channel:
        stream = channel.stream_stream("/sentinel.v1.Scoring/ScoreStream")(iter(requests))
        answers = [answer.FromString(content).decisions[0] for content in stream]
    assert [b'"event_id":"s-%d"' % n in line for n, line in enumerate(answers)] == [True] * 20


def test_the_health_service_says_what_readiness_says(server: Served) -> None:
    server.wait_ready()
    kind = message("grpc.health.v1", "HealthCheckRequest")
    response = message("grpc.health.v1", "HealthCheckResponse")
    for service in ("", "inference.GRPCInferenceService"):
        content = kind(service=service).SerializeToString()
        answer = _call(server, "/grpc.health.v1.Health/Check", content)
        assert response.FromString(answer).status == 1
    with pytest.raises(grpc.RpcError) as refused:
        _call(server, "/grpc.health.v1.Health/Check", kind(service="no").SerializeToString())
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert refused.value.details().startswith("model-unknown: service")


def test_reflection_lists_the_services_and_their_files(server: Served) -> None:
    kind = message("grpc.reflection.v1alpha", "ServerReflectionRequest")
    answer = message("grpc.reflection.v1alpha", "ServerReflectionResponse")
    asked = [
        kind(list_services="*"),
        kind(file_containing_symbol="inference.GRPCInferenceService"),
        kind(file_by_filename="nothing.proto"),
    ]
    with grpc.insecure_channel(f"127.0.0.1:{server.addresses.grpc_port}") as channel:
        stream = channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        )(iter([request.SerializeToString() for request in asked]))
        listed, file, unknown = (answer.FromString(content) for content in stream)
    names = {service.name for service in listed.list_services_response.service}
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= names
    assert b"ModelInferRequest" in file.file_descriptor_response.file_descriptor_proto[0]
    assert unknown.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


@pytest.mark.parametrize("method", ["sentinel.v1.Scoring/Score", "sentinel.v1.Scoring/ScoreStream"])
@pytest.mark.parametrize("is_good", [True, False])
def test_every_scoring_call_says_how_busy_the_server_is(
    server: Served, method: str, is_good: bool
) -> None:
    """ORCA's trailer stands behind answers and refusals; gRPC's own client takes it out."""
    report = message("xds.data.orca.v3", "OrcaLoadReport")
    good = message("sentinel.v1", "ScoreRequest")(events=[payment()]).SerializeToString()
    trailers = wire_rig.call(server.addresses.grpc_port, f"/{method}", good if is_good else b"\xff")
    found = report.FromString(wire_rig.binary_header(trailers, "endpoint-load-metrics-bin"))
    assert 0.0 <= found.application_utilization <= 1.0
    assert set(found.named_metrics) == {"queue_rows", "queue_requests"}


def test_other_calls_do_not_say_it(server: Served) -> None:
    """A probe of health must not look like load."""
    trailers = wire_rig.call(server.addresses.grpc_port, "/grpc.health.v1.Health/Check", b"")
    assert wire_rig.binary_header(trailers, "endpoint-load-metrics-bin") is None


def test_a_stream_answers_in_order_however_far_it_is_ahead(server: Served) -> None:
    """Hundreds of messages under way: answer k belongs to message k, one or many events each."""
    kind = message("sentinel.v1", "ScoreRequest")
    answer = message("sentinel.v1", "ScoreResponse")
    ids = [[f"ahead-{i}-{j}" for j in range(1 + i % 3)] for i in range(300)]
    sent = [kind(events=[payment(name) for name in names]).SerializeToString() for names in ids]
    with grpc.insecure_channel(f"127.0.0.1:{server.addresses.grpc_port}") as channel:
        stream = channel.stream_stream("/sentinel.v1.Scoring/ScoreStream")(iter(sent))
        given = [answer.FromString(content).decisions for content in stream]
    assert [[json.loads(line)["event_id"] for line in lines] for lines in given] == ids


def test_messages_that_find_no_room_wait_for_it_in_their_order(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue that has no room half of the time: the stream gets slower, nothing is refused."""
    said = refuses_often(monkeypatch)
    kind = message("sentinel.v1", "ScoreRequest")
    answer = message("sentinel.v1", "ScoreResponse")
    names = [f"room-{i}" for i in range(60)]
    sent = [kind(events=[payment(name)]).SerializeToString() for name in names]
    with grpc.insecure_channel(f"127.0.0.1:{server.addresses.grpc_port}") as channel:
        stream = channel.stream_stream("/sentinel.v1.Scoring/ScoreStream")(iter(sent))
        given = [answer.FromString(content).decisions[0] for content in stream]
    assert [json.loads(line)["event_id"] for line in given] == names
    assert sum(said) > 5


def test_a_stream_ends_at_its_first_bad_message_after_the_answers_before_it(server: Served) -> None:
    """What was sent before is answered; nothing behind is."""
    kind = message("sentinel.v1", "ScoreRequest")
    good = [kind(events=[payment(f"before-{i}")]).SerializeToString() for i in range(5)]
    sent = [*good, b"\xff\xff", kind(events=[payment("behind")]).SerializeToString()]
    with grpc.insecure_channel(f"127.0.0.1:{server.addresses.grpc_port}") as channel:
        stream = channel.stream_stream("/sentinel.v1.Scoring/ScoreStream")(iter(sent))
        given = []
        with pytest.raises(grpc.RpcError) as refused:
            given.extend(content for content in stream)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert len(given) == 5


@pytest.mark.parametrize("n_rows", [1, 2, 3_000])
def test_an_answer_of_any_length_is_one_message(server: Served, n_rows: int) -> None:
    """What is written piece by piece is read as the message that the protocol describes."""
    rows = np.resize(ROWS, (n_rows, N_FEATURES)).astype(np.float32)
    request = message("inference", "ModelInferRequest")(model_name=MODEL, id="r-1")
    request.inputs.add(name="features", datatype="FP32", shape=list(rows.shape))
    request.raw_input_contents.append(rows.tobytes())
    for name in ("reason", "score"):
        request.outputs.add(name=name)
    content = _call(server, INFER, request.SerializeToString())
    found = message("inference", "ModelInferResponse").FromString(content)
    assert (found.model_name, found.id) == (MODEL, "r-1")
    assert [(each.name, list(each.shape)) for each in found.outputs] == [
        ("reason", [n_rows]),
        ("score", [n_rows]),
    ]
    scores = np.frombuffer(found.raw_output_contents[1], dtype="<f4")
    np.testing.assert_array_equal(scores, server.champion(rows))
    assert found.raw_output_contents[0] == b"\x02\x00\x00\x00ok" * n_rows
    assert found.SerializeToString(deterministic=True) == content
