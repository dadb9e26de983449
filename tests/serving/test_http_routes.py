"""What callers of the HTTP door get."""

from __future__ import annotations

import json
from urllib.parse import quote

import numpy as np
import pytest
from serving_rig import GOLDEN, MODEL, N_FEATURES, Served, infer_body, payment, verdict

from sentinel.serving import bounds

ROW = [19.5, 1.0, 20.0, 60.0, 1.0]


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"", "application/json", 422, "event-refused"),
        (b"{", "application/json", 422, "event-refused"),
        (b"[" * 100_000, "application/json", 400, "request-invalid"),
        (b"[]", "application/json", 400, "request-invalid"),
        (b'[{"a":1},', "application/json", 400, "request-invalid"),
        (b'[{"a":"\xff"}', "application/json", 400, "request-invalid"),
        (b" {", "application/json", 422, "event-refused"),
        (b'{"amount":NaN}', "application/json", 422, "event-refused"),
        (b"\xff\xfe", "application/json", 422, "event-refused"),
        (b"{}", "text/plain", 415, "content-unsupported"),
        (b"{}", "", 415, "content-unsupported"),
        (b"{}", "application/json; charset=latin-1", 415, "content-unsupported"),
        (b"\n\n", "application/x-ndjson", 400, "request-invalid"),
        (b"{}\n" * (bounds.REQUEST_ROWS_MAX + 1), "application/x-ndjson", 413, "request-too-large"),
    ],
)
def test_bad_events_are_refused_with_a_reason(
    server: Served, body: bytes, content_type: str, status: int, code: str
) -> None:
    answer = server.request("POST", "/v1/score", body, content_type=content_type)
    assert answer.status == status
    assert answer.json()["code"] == code
    assert isinstance(answer.json()["error"], str)


def test_a_refused_event_names_every_fault(server: Served) -> None:
    answer = server.score(payment("t-bad", amount="12", extra=1))
    assert answer.status == 422
    faults = {(fault["code"], fault["path"]) for fault in answer.json()["faults"]}  # type: ignore[attr-defined]
    assert {("wrong_type", "$.amount"), ("unknown_field", "$.extra")} <= faults


def test_an_event_gets_a_decision(server: Served) -> None:
    decision = server.score(payment("t-one")).json()
    assert decision["event_id"] == "t-one"
    assert 0 <= float(str(decision["score"])) <= 1
    assert decision["served_by"] == "champion"


def test_an_array_of_events_gets_an_array_of_decisions(server: Served) -> None:
    """In their order; what is no event has its own error, with its place."""
    events = [payment("t-a1"), b"{}", b"7", b"[ ]", payment("t-a2")]
    body = b"[" + b" , ".join(events) + b"]\n"
    answer = server.request("POST", "/v1/score", body, content_type="application/json")
    found = json.loads(answer.body)
    assert answer.status == 200
    assert [each.get("event_id") for each in found] == ["t-a1", None, None, None, "t-a2"]
    assert [each.get("line") for each in found] == [None, 1, 2, 3, None]
    assert {each["code"] for each in found[1:4]} == {"event-refused"}


def test_an_array_has_as_many_events_as_lines_may_have(server: Served) -> None:
    body = b"[" + b",".join([b"{}"] * (bounds.REQUEST_ROWS_MAX + 1)) + b"]"
    answer = server.request("POST", "/v1/score", body, content_type="application/json")
    assert (answer.status, answer.json()["code"]) == (413, "request-too-large")


def test_lines_are_answered_in_their_order_good_and_bad(server: Served) -> None:
    answer = server.score(payment("t-l1"), b"{}", payment("t-l2"), b"nonsense", payment("t-l3"))
    lines = answer.lines()
    assert [line.get("event_id") for line in lines] == ["t-l1", None, "t-l2", None, "t-l3"]
    assert [line.get("line") for line in lines] == [None, 1, None, 3, None]


def test_a_repeated_event_gets_its_first_answer(server: Served) -> None:
    event = payment("t-twice")
    first = server.score(event)
    again = server.score(payment("t-twice", amount=99_000.0))
    assert (again.status, again.body) == (200, first.body)
    assert len({line["score"] for line in server.score(event, event).lines()}) == 1


def test_an_id_with_escapes_is_matched_with_its_event(server: Served) -> None:
    body = payment("ESC").replace(b'"ESC"', b'"a\\u0041\\"b"')
    assert server.score(body).json()["event_id"] == 'aA"b'


def test_a_decision_is_found_by_its_event(server: Served) -> None:
    sent = server.score(payment("t/ä?"))
    found = server.request("GET", "/v1/decisions/" + quote("t/ä?", safe=""))
    assert found.body == sent.body
    assert server.request("GET", "/v1/decisions/nobody").json()["code"] == "decision-unknown"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/", "route-unknown"),
        ("/V1/score", "route-unknown"),
        ("/v1/score/", "route-unknown"),
        ("/v1/%73core", "route-unknown"),
        ("/v1/../v2", "route-unknown"),
        ("/%2e%2e/etc/passwd", "route-unknown"),
        ("/v2/models/..%2f..%2fetc/ready", "model-unknown"),
        ("/v2/models/payments%00/ready", "model-unknown"),
        ("/v2/models/p%D0%B0yments/ready", "model-unknown"),
        (f"/v2/models/{MODEL}/versions/9/ready", "model-unknown"),
        (f"/v2/models/{'x' * 10_000}/ready", "model-unknown"),
        (f"/v2/models/{MODEL}/explains", "route-unknown"),
    ],
)
def test_unknown_paths_are_not_found(server: Served, path: str, code: str) -> None:
    head = f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode("latin-1")
    answer = server.raw(head)
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == code


def test_a_wrong_method_is_told_the_right_one(server: Served) -> None:
    answer = server.request("GET", "/v1/score")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")


def test_a_compressed_body_is_not_taken(server: Served) -> None:
    answer = server.score(b"\x1f\x8b", content_encoding="gzip")
    assert (answer.status, answer.json()["code"]) == (415, "content-unsupported")


# --- tensors ---------------------------------------------------------------------------------


def _tensor(**changes: object) -> bytes:
    tensor = {"name": "features", "shape": [1, N_FEATURES], "datatype": "FP32", "data": ROW}
    return json.dumps({"inputs": [{**tensor, **changes}]}).encode()


@pytest.mark.parametrize(
    ("body", "code", "at"),
    [
        (b"", "request-invalid", "request"),
        (b"[]", "request-invalid", "request"),
        (b"{}", "request-invalid", "request"),
        (b"[" * 5_000, "request-invalid", "request"),
        (b'{"inputs":[]}', "tensor-invalid", "inputs"),
        (_tensor(name="other"), "tensor-invalid", "features.name"),
        (_tensor(datatype="INT64"), "tensor-invalid", "features.datatype"),
        (_tensor(shape=[5]), "tensor-invalid", "features.shape"),
        (_tensor(shape=[0, 5]), "tensor-invalid", "features.shape"),
        (_tensor(shape=[-1, 5]), "tensor-invalid", "features.shape"),
        (_tensor(shape=[1, 6]), "tensor-invalid", "features.shape"),
        (_tensor(shape=[2, 5]), "tensor-invalid", "features.data"),
        (_tensor(shape=[10**9, 5]), "request-too-large", "features.shape"),
        (_tensor(shape=[10**30, 5]), "request-invalid", "request"),
        (
            _tensor().replace(b"[1, 5]", b"[1" + b"0" * 5_000 + b", 5]"),
            "request-invalid",
            "request",
        ),
        (_tensor(shape=["1", 5]), "request-invalid", "request"),
        (_tensor(data=ROW[:4]), "tensor-invalid", "features.data"),
        (_tensor(data=["1", *ROW[1:]]), "tensor-invalid", "features.data"),
        (_tensor(data=[None, *ROW[1:]]), "tensor-invalid", "features.data"),
        (_tensor(data=[[*ROW, 1.0]]), "tensor-invalid", "features.data"),
        (_tensor(data=[1e39, *ROW[1:]]), "tensor-invalid", "features.data[0][0]"),
        (_tensor().replace(b"19.5", b"1e999"), "tensor-invalid", "features.data"),
        (_tensor().replace(b"19.5", b"NaN"), "request-invalid", "request"),
        (
            _tensor(parameters={"binary_data_size": 20}),
            "tensor-invalid",
            "features.binary_data_size",
        ),
        (infer_body([ROW], outputs=[{"name": "no"}]), "tensor-invalid", "outputs"),
        (infer_body([ROW], unknown=1), "request-invalid", "request"),
    ],
)
def test_bad_tensors_are_refused_with_a_place(
    server: Served, body: bytes, code: str, at: str
) -> None:
    answer = server.request(
        "POST", f"/v2/models/{MODEL}/infer", body, content_type="application/json"
    )
    error = answer.json()
    assert error["code"] == code
    assert answer.status == (413 if code == "request-too-large" else 400)
    assert str(error["error"]).startswith(f"{code}: {at}:")


@pytest.mark.parametrize("size", ["-1", "999999", "x", "1" * 40])
def test_lying_sizes_of_binary_data_are_refused(server: Served, size: str) -> None:
    answer = server.request(
        "POST",
        f"/v2/models/{MODEL}/infer",
        _tensor(),
        content_type="application/octet-stream",
        inference_header_content_length=size,
    )
    assert answer.status == 400


@pytest.mark.parametrize("timeout", ["x", "1000000", -1, 0, 1.5, True])
def test_a_timeout_that_cannot_be_read_is_refused_in_tensors_too(
    server: Served, timeout: object
) -> None:
    answer = server.infer([ROW], parameters={"timeout": timeout})
    assert (answer.status, answer.json()["code"]) == (400, "request-invalid")
    assert str(answer.json()["error"]).startswith("request-invalid: parameters.timeout: ")
    assert server.infer([ROW], parameters={"timeout": 5_000_000}).status == 200


def test_what_is_wrong_with_a_request_is_said_so_that_it_can_be_found(server: Served) -> None:
    """A row that is short, a number that is a text, brackets without end, a path that is none."""
    infer = f"/v2/models/{MODEL}/infer"
    ragged = _tensor(shape=[2, N_FEATURES], data=[ROW, ROW[:-1]])
    binary = _tensor(data=[], parameters={"binary_data_size": "20"}).replace(b', "data": []', b"")
    json_bytes = {"inference_header_content_length": str(len(binary))}
    asked: list[tuple[str, bytes, dict[str, str], str]] = [
        (infer, ragged, {}, "expected 2 rows of 5 numbers, got 4 numbers in row 1"),
        (infer, binary + bytes(20), json_bytes, 'JSON part, got the text "20"'),
        ("/v1/score", b"[" * 100_000, {}, "got one that is nested too deeply"),
        ("/v1/scores", b"{}", {}, "got an unknown path"),
    ]
    for path, body, headers, words in asked:
        answer = server.request("POST", path, body, content_type="application/json", **headers)
        assert words in str(answer.json()["error"])


def test_rows_get_the_scores_that_the_release_recorded(server: Served) -> None:
    expected = json.loads((GOLDEN / "expected.json").read_text())
    answer = server.infer(expected["vectors"], id="seven")
    document = answer.json()
    assert document["id"] == "seven"
    outputs = {output["name"]: output for output in document["outputs"]}  # type: ignore[attr-defined]
    scores = np.array(outputs["score"]["data"], dtype=np.float32)
    np.testing.assert_array_equal(scores, np.array(expected["scores"], dtype=np.float32))
    assert outputs["score"]["shape"] == [len(scores)]
    assert set(outputs["served_by"]["data"]) == {"champion"}


def test_only_the_outputs_asked_for_come_back(server: Served) -> None:
    document = server.infer([ROW], outputs=[{"name": "outcome"}]).json()
    assert [output["name"] for output in document["outputs"]] == ["outcome"]  # type: ignore[attr-defined]


# --- what is served --------------------------------------------------------------------------


def test_metadata_name_the_model_and_its_tensors(server: Served) -> None:
    found = server.request("GET", f"/v2/models/{MODEL}/versions/1.2.0").json()
    assert found["inputs"] == [{"name": "features", "datatype": "FP32", "shape": [-1, 5]}]
    assert server.request("GET", "/v2").json()["extensions"] == ["binary_tensor_data"]


def test_the_release_says_that_nobody_approved_it(server: Served) -> None:
    found = server.request("GET", "/v1/release").json()
    assert found["is_approved"] is False
    assert found["digest"] == server.opened.loaded.digest


def test_a_model_named_in_the_body_is_the_one_that_is_served(server: Served) -> None:
    row = [19.5, 1.0, 20.0, 60.0, 1.0]
    assert server.infer([row], model_name=MODEL, model_version="1.2.0").status == 200
    for wrong in ({"model_name": "other"}, {"model_version": "9.9.9"}):
        answer = server.infer([row], **wrong)
        assert (answer.status, answer.json()["code"]) == (404, "model-unknown")


def test_probes_answer_by_their_status_and_in_the_words_of_the_protocol(server: Served) -> None:
    server.wait_ready()
    bodies = {
        "/v2/health/live": b'{"live":true}',
        "/v2/health/ready": b'{"ready":true}',
        f"/v2/models/{MODEL}/ready": b"",
    }
    for path, body in bodies.items():
        answer = server.request("GET", path)
        assert (answer.status, answer.body) == (200, body)
        if "health" in path:
            there = server.request("GET", path, port=server.addresses.metrics_port)
            assert there.body == body


def test_load_is_reported_where_it_is_asked_for(server: Served) -> None:
    text = server.score(payment(), endpoint_load_metrics_format="text")
    assert text.headers["endpoint-load-metrics"].startswith("TEXT cpu_utilization=")
    plain = server.score(payment(), endpoint_load_metrics_format="json")
    kind, _, content = plain.headers["endpoint-load-metrics"].partition(" ")
    assert kind == "JSON"
    assert "queue_rows" in json.loads(content)["named_metrics"]
    assert "endpoint-load-metrics" not in server.score(payment()).headers


def test_metrics_and_health_have_a_port_of_their_own(server: Served) -> None:
    server.wait_ready()
    port = server.addresses.metrics_port
    text = server.request("GET", "/metrics", port=port).body.decode()
    assert "sentinel_ready 1.0" in text
    assert 'sentinel_responses_total{status="200"}' in text
    assert server.request("GET", "/v2/health/ready", port=port).status == 200
    assert server.request("POST", "/metrics", port=port).status == 405
    assert server.request("GET", "/metrics").status == 404


def test_a_deadline_that_cannot_be_read_is_refused(server: Served) -> None:
    for text in ("0", "-1", "soon", "1" * 30):
        answer = server.score(payment(), sentinel_timeout_ms=text)
        assert (answer.status, answer.json()["code"]) == (400, "request-invalid")


def test_every_counter_balances_after_all_of_this(server: Served) -> None:
    assert server.opened.scorer.counts().is_balanced


def test_feedback_is_learned_once_each_good_and_bad_in_their_order(server: Served) -> None:
    """An id that comes again changes nothing; a refused line keeps its place and its faults."""
    scorer = server.opened.scorer
    before = scorer.counts()
    lines = b"\n".join([verdict("v1"), b"{}", verdict("v1"), verdict("v2")])
    answer = server.request("POST", "/v1/feedback", lines, content_type="application/x-ndjson")
    found = answer.lines()
    assert [line.get("learned") for line in found] == [True, None, True, True]
    assert (found[1]["line"], found[1]["code"]) == (1, "event-refused")
    after = scorer.counts()
    assert after.feedback_read - before.feedback_read == 4
    assert after.feedback_quarantined - before.feedback_quarantined == 1
    assert after.read == before.read


def test_one_refused_feedback_event_is_an_error(server: Served) -> None:
    answer = server.request("POST", "/v1/feedback", b"{}", content_type="application/json")
    assert (answer.status, answer.json()["code"]) == (422, "event-refused")
    plain = server.request("POST", "/v1/feedback", b"{}", content_type="text/plain")
    assert (plain.status, plain.json()["code"]) == (415, "content-unsupported")
