"""The routes are the same whoever holds the doors: one process, or fronts before another one."""

from __future__ import annotations

import http.client
import json
import random
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from fronts_rig import parts
from process_rig import ServerProcess, server_process
from serving_rig import GOLDEN, MODEL, N_FEATURES, golden_release, infer_body, payment, verdict
from test_tls import issue

from sentinel.scoring.session import ModelSession
from sentinel.serving.doors.grpc_messages import message
from sentinel.testing import wait_until

ROWS = np.array([[19.5, 1, 20, 60, 1], [900, 3, 20, 5, 0]], dtype=np.float32)


@pytest.fixture(scope="module", params=["0", "2"], ids=["one process", "two fronts"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("fronts")
    releases = str(GOLDEN)
    with server_process(
        folder, "--fronts", request.param, "--releases", releases, "--log", str(folder / "log"),
        SENTINEL_SERVE_EXPLAIN="all", SENTINEL_SERVE_TIMEOUT_MS="10000",
    ) as running:  # fmt: skip
        yield running


def ask(
    server: ServerProcess, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    link = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=10)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        link.request(method, path, body or None, named)
        response = link.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return response.status, found, response.read()
    finally:
        link.close()


def score(server: ServerProcess, *events: bytes, path: str = "/v1/score") -> tuple[int, bytes]:
    kind = "application/json" if len(events) == 1 else "application/x-ndjson"
    status, _, body = ask(server, "POST", path, b"\n".join(events), content_type=kind)
    return status, body


def test_one_event_is_decided_and_remembered(server: ServerProcess) -> None:
    status, headers, body = ask(
        server, "POST", "/v1/score", payment("one"), content_type="application/json"
    )
    assert status == 200
    assert headers["sentinel-release"] == "payments@1.2.0"
    assert json.loads(body)["event_id"] == "one"
    assert ask(server, "GET", "/v1/decisions/one")[::2] == (200, body)
    assert score(server, payment("one")) == (200, body)
    status, _, body = ask(server, "GET", "/v1/decisions/nobody")
    assert (status, json.loads(body)["code"]) == (404, "decision-unknown")


def test_lines_are_answered_line_by_line_with_their_refusals(server: ServerProcess) -> None:
    status, body = score(
        server, payment("l-1"), payment("l-2", amount="much"), b"{", payment("l-3")
    )
    lines = [json.loads(line) for line in body.splitlines()]
    assert status == 200
    assert [line.get("event_id") for line in lines] == ["l-1", None, None, "l-3"]
    assert lines[1]["code"] == lines[2]["code"] == "event-refused"
    assert lines[1]["line"] == 1
    assert lines[1]["faults"][0]["path"] == "$.amount"
    status, body = score(server, payment("l-4", amount="much"))
    assert (status, json.loads(body)["refusal"]) == (422, lines[1]["refusal"])


def test_feedback_is_learned(server: ServerProcess) -> None:
    status, body = score(server, verdict("v-1"), path="/v1/feedback")
    expected = golden_release().parts.plan.features.feedback
    if expected is None:
        assert (status, json.loads(body)["code"]) == (400, "request-invalid")
    else:
        assert (status, json.loads(body)) == (200, {"learned": True})


def test_rows_of_features_are_scored(server: ServerProcess) -> None:
    path = f"/v2/models/{MODEL}/infer"
    body = infer_body(ROWS.tolist(), id="seven")
    status, _, answer = ask(server, "POST", path, body, content_type="application/json")
    outputs = {output["name"]: output["data"] for output in json.loads(answer)["outputs"]}
    assert (status, json.loads(answer)["id"]) == (200, "seven")
    assert outputs["served_by"] == ["champion"] * 2
    wrong = infer_body([[float(n) for n in range(5)]]).replace(b"[1, 5]", b"[2, 5]")
    status, _, answer = ask(server, "POST", path, wrong, content_type="application/json")
    assert (status, json.loads(answer)["code"]) == (400, "tensor-invalid")
    status, _, answer = ask(server, "POST", "/v2/models/other/infer", body)
    assert (status, json.loads(answer)["code"]) == (404, "model-unknown")


def test_explanations_are_told_through_every_door(server: ServerProcess) -> None:
    """The release carries none to make them by, and says so at each of its doors."""
    assert score(server, payment("why"))[0] == 200
    wait_until(lambda: ask(server, "GET", "/v1/decisions/why/explanation")[0] not in {202, 429})
    status, _, answer = ask(server, "GET", "/v1/decisions/why/explanation")
    assert (status, json.loads(answer)["code"]) == (410, "explanation-unavailable")
    status, _, answer = ask(server, "GET", "/v1/decisions/nobody/explanation")
    assert (status, json.loads(answer)["code"]) == (404, "decision-unknown")
    path, body = f"/v2/models/{MODEL}/explain", infer_body(ROWS.tolist())
    status, _, answer = ask(server, "POST", path, body, content_type="application/json")
    assert (status, json.loads(answer)["explanations"]) == (200, [{"absence": "no-data"}] * 2)


def test_metadata_release_document_and_load_are_the_same_words(server: ServerProcess) -> None:
    assert json.loads(ask(server, "GET", "/v2")[2])["name"] == "sentinel"
    metadata = json.loads(ask(server, "GET", f"/v2/models/{MODEL}")[2])
    assert metadata["inputs"] == [{"name": "features", "datatype": "FP32", "shape": [-1, 5]}]
    release = json.loads(ask(server, "GET", "/v1/release")[2])
    assert (release["name"], release["health"]["ready"]) == (MODEL, True)
    document = json.loads(ask(server, "GET", "/openapi.json")[2])
    assert f"/v2/models/{MODEL}/infer" in document["paths"]
    _, headers, _ = ask(server, "GET", "/v2", endpoint_load_metrics_format="text")
    assert headers["endpoint-load-metrics"].startswith("TEXT cpu_utilization=")


def test_what_operators_do_reaches_every_front(server: ServerProcess) -> None:
    """A tripped breaker and a staged release are seen through the doors."""

    def operate(what: str, **body: object) -> tuple[int, bytes]:
        link = http.client.HTTPConnection("127.0.0.1", server.metrics_port, timeout=10)
        try:
            content = json.dumps({"by": "Olga Operator", **body}).encode()
            kind = {"content-type": "application/json"}
            link.request("POST", f"/v1/operate/{what}", content, kind)
            response = link.getresponse()
            return response.status, response.read()
        finally:
            link.close()

    status, body = operate("breaker/trip", because="a rehearsal")
    assert status == 200, body

    def served_by() -> str:
        return str(json.loads(score(server, payment())[1])["served_by"])

    wait_until(lambda: served_by() == "fallback")
    status, body = operate("breaker/reset", because="it is over")
    assert status == 200, body
    wait_until(lambda: served_by() == "champion")


def test_the_public_clients_work_unchanged(server: ServerProcess) -> None:
    web = triton_http.InferenceServerClient(f"127.0.0.1:{server.http_port}")
    wait_until(lambda: bool(web.is_server_ready() and web.is_model_ready(MODEL, "1.2.0")))
    given = triton_http.InferInput("features", list(ROWS.shape), "FP32")
    given.set_data_from_numpy(ROWS, binary_data=True)
    by_http = web.infer(MODEL, [given]).as_numpy("score")
    web.close()
    calls = triton_grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")
    asked = triton_grpc.InferInput("features", list(ROWS.shape), "FP32")
    asked.set_data_from_numpy(ROWS)
    by_grpc = calls.infer(MODEL, [asked]).as_numpy("score")
    calls.close()
    np.testing.assert_array_equal(by_http, by_grpc)
    assert np.isfinite(by_http).all()


def test_events_are_decided_over_grpc_one_by_one_and_in_a_stream(server: ServerProcess) -> None:
    kind, answer = message("sentinel.v1", "ScoreRequest"), message("sentinel.v1", "ScoreResponse")
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        unary = channel.unary_unary("/sentinel.v1.Scoring/Score")
        first = answer.FromString(
            unary(kind(events=[payment("g-1"), b"{"]).SerializeToString(), timeout=10)
        )
        assert json.loads(first.decisions[0])["event_id"] == "g-1"
        assert json.loads(first.decisions[1])["code"] == "event-refused"
        stream = channel.stream_stream("/sentinel.v1.Scoring/ScoreStream")
        names = [f"s-{number}" for number in range(50)]
        sent = (kind(events=[payment(name)]).SerializeToString() for name in names)
        answers = [answer.FromString(content) for content in stream(sent, timeout=20)]
        assert [json.loads(found.decisions[0])["event_id"] for found in answers] == names
        with pytest.raises(grpc.RpcError) as refused:
            unary(b"\xff\xff", timeout=10)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def _ask_release(link: http.client.HTTPConnection) -> int:
    link.request("GET", "/v2")
    return link.getresponse().status


def test_tls_tokens_and_the_canary_go_through_the_fronts(tmp_path: Path) -> None:
    """Mutual TLS and tokens: ready means that the server came through its own front with both."""
    ca = issue("ca")
    certificate, key = issue("server", ca).write(tmp_path, "server")
    authority, _ = ca.write(tmp_path, "ca")
    tokens, secret = tmp_path / "tokens.toml", "s" * 40
    tokens.write_text(
        f'format = 1\n[[token]]\nname = "till"\nsecret = "{secret}"\nscopes = ["score"]\n'
    )
    tokens.chmod(0o600)
    with server_process(
        tmp_path, "--fronts", "1", "--tokens", str(tokens),
        SENTINEL_SERVE_CERTIFICATE_FILE=str(certificate),
        SENTINEL_SERVE_PRIVATE_KEY_FILE=str(key),
        SENTINEL_SERVE_CLIENT_CA_FILE=str(authority),
    ) as running:  # fmt: skip
        context = ssl.create_default_context(cafile=str(authority))
        context.load_cert_chain(*issue("till", ca).write(tmp_path, "till"))

        def post(authorization: str) -> int:
            link = http.client.HTTPSConnection(
                "localhost", running.http_port, timeout=20, context=context
            )
            kind = {"content-type": "application/json", "authorization": authorization}
            try:
                link.request("POST", "/v1/score", payment(), kind)
                return link.getresponse().status
            finally:
                link.close()

        assert post(f"Bearer {secret}") == 200
        assert post("Bearer " + "x" * 40) == 401
        stranger = ssl.create_default_context(cafile=str(authority))
        link = http.client.HTTPSConnection(
            "localhost", running.http_port, timeout=20, context=stranger
        )
        with pytest.raises(OSError, match=r"."):
            _ask_release(link)
        link.close()
        line = " ".join(psutil.Process(running.process.pid).children()[0].cmdline())
        assert secret not in line


def test_rows_of_one_caller_never_reach_another(server: ServerProcess) -> None:
    """Callers at once with rows of their own: events by their ids, features by their scores."""
    champion = ModelSession(golden_release().parts.champion, n_features=N_FEATURES).run
    for seed in range(8):
        faults: list[str] = []

        def call(caller: int, seed: int = seed, faults: list[str] = faults) -> None:
            draw = random.Random(seed * 1_000 + caller)
            link = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=20)
            try:
                for turn in range(6):
                    fault = _ask_own(link, draw, f"{seed}-{caller}-{turn}")
                    if fault:
                        faults.append(fault)
            finally:
                link.close()

        def _ask_own(link: http.client.HTTPConnection, draw: random.Random, name: str) -> str:
            n_rows = draw.randint(1, 40)
            if draw.random() < 0.5:
                names = [f"own-{name}-{row}" for row in range(n_rows)]
                body = b"\n".join(payment(each) for each in names)
                link.request("POST", "/v1/score", body, {"content-type": "application/x-ndjson"})
                lines = link.getresponse().read().splitlines()
                found = [json.loads(line).get("event_id") for line in lines]
                return "" if found == names else f"{name}: {found[:3]}"
            rows = np.array(
                [[draw.random() * 900, draw.randint(0, 5), 20, 60, 1] for _ in range(n_rows)],
                dtype=np.float32,
            )
            kind = {"content-type": "application/json"}
            link.request("POST", f"/v2/models/{MODEL}/infer", infer_body(rows.tolist()), kind)
            answer = json.loads(link.getresponse().read())
            scores = np.array(answer["outputs"][0]["data"], dtype=np.float32)
            return "" if np.array_equal(scores, champion(rows)) else f"{name}: other scores"

        threads = [threading.Thread(target=call, args=(caller,)) for caller in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not faults


def test_what_the_fronts_count_stands_at_the_metrics_port(server: ServerProcess) -> None:
    def asked() -> float:
        found = server.metrics()
        return sum(n for name, n in found.items() if name.startswith("sentinel_responses_total"))

    before = asked()
    for _ in range(20):
        assert score(server, payment())[0] == 200
    wait_until(lambda: asked() >= before + 20)
    assert server.metrics().get("sentinel_fronts", 0) == len(parts(server)) - bool(parts(server))
