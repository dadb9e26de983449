"""What operators do, over their routes and by their commands; who may, route by route."""

from __future__ import annotations

import http.client
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from fronts_rig import log_lines
from process_rig import freeze, server_process
from release_rig import load, source
from serving_rig import MODEL, Served, infer_body, payment, served

from sentinel.cli.boundary import run_command
from sentinel.cli.exits import ExitCode
from sentinel.cli.main import app
from sentinel.serving.doors.grpc_messages import SERVICES, message
from sentinel.serving.doors.operator_routes import MEANINGS
from sentinel.testing import wait_until

SECRETS = {name: (name[0] * 40) for name in ("score", "read", "operate")}
TOKENS = "format = 1\n" + "".join(
    f'[[token]]\nname = "{name}-er"\nsecret = "{secret}"\nscopes = ["{name}"]\n'
    for name, secret in SECRETS.items()
)

# Every route, and the scope that it needs; a route that is missing here fails a test.
DOORS = {
    "/v1/score": "score",
    "/v1/feedback": "score",
    "/v1/decisions/{event_id}": "read",
    "/v1/decisions/{event_id}/explanation": "read",
    "/v1/release": "read",
    "/v1/health": None,
    "/openapi.json": None,
    "/v2": None,
    "/v2/health/live": None,
    "/v2/health/ready": None,
    "/v2/models": None,
    f"/v2/models/{MODEL}": None,
    f"/v2/models/{MODEL}/ready": None,
    f"/v2/models/{MODEL}/infer": "score",
    f"/v2/models/{MODEL}/explain": "score",
    f"/v2/models/{MODEL}/versions/1.2.0": None,
    f"/v2/models/{MODEL}/versions/1.2.0/ready": None,
    f"/v2/models/{MODEL}/versions/1.2.0/infer": "score",
    f"/v2/models/{MODEL}/versions/1.2.0/explain": "score",
}
OPERATIONS = {
    "/v1/operate/releases",
    "/v1/operate/releases/stage",
    "/v1/operate/releases/switch",
    "/v1/operate/releases/rollback",
    "/v1/operate/releases/drop",
    "/v1/operate/shadow",
    "/v1/operate/shadow/start",
    "/v1/operate/shadow/stop",
    "/v1/operate/breaker",
    "/v1/operate/breaker/trip",
    "/v1/operate/breaker/reset",
    "/v1/operate/profile",
}
CALLS = {
    "inference.GRPCInferenceService/ModelInfer": "score",
    "sentinel.v1.Scoring/Score": "score",
    "sentinel.v1.Scoring/ScoreStream": "score",
}
OPEN_CALLS = {
    *(f"inference.GRPCInferenceService/{name}" for name in ("ServerLive", "ServerReady")),
    *(f"inference.GRPCInferenceService/{name}" for name in ("ModelReady", "ModelMetadata")),
    "inference.GRPCInferenceService/ServerMetadata",
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/Watch",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
}
METHODS = {
    f"{service}/{name}": streams_in
    for service, table in SERVICES.items()
    for name, (_, _, streams_in, _) in table.items()
}
BAD_TOKENS = {
    "none": None,
    "empty": "",
    "scheme alone": "Bearer",
    "scheme and nothing": "Bearer ",
    "wrong": "Bearer " + "x" * 40,
    "one character short": "Bearer " + SECRETS["operate"][:-1],
    "one character more": "Bearer " + SECRETS["operate"] + "o",
    "another case": "Bearer " + SECRETS["operate"].upper(),
    "its hash": "Bearer " + "0" * 64,
    "another scheme": "Basic " + SECRETS["operate"],
    "no scheme": SECRETS["operate"],
    "two at once": f"Bearer {SECRETS['score']}, Bearer {SECRETS['operate']}",
    "alg none": "Bearer eyJhbGciOiJub25lIn0.eyJzY29wZSI6Im9wZXJhdGUifQ.",
    "too long": "Bearer " + "o" * 4_000,
}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("guarded")
    tokens = folder / "tokens.toml"
    tokens.write_text(TOKENS)
    tokens.chmod(0o600)
    with served(folder, tokens=tokens) as running:
        running.wait_ready()
        yield running


def _ask(running: Served, path: str, authorization: str | None, **more: str) -> tuple[int, bytes]:
    is_operator = path.startswith("/v1/operate/")
    port = running.addresses.metrics_port if is_operator else running.addresses.http_port
    name = path.replace("{event_id}", "nobody")
    if name.endswith("/profile"):
        name += "?seconds=0.1"
    headers = dict(more) if authorization is None else {"authorization": authorization, **more}
    bodies = {"/v1/score": payment(), "/v1/feedback": b"{}", "infer": infer_body([[1.0] * 5])}
    bodies["explain"] = bodies["infer"]
    plain = name.partition("?")[0]
    body = next((content for end, content in bodies.items() if plain.endswith(end)), None)
    if is_operator and plain.count("/") > 3:
        body = b"{}"
    method = "GET" if body is None else "POST"
    answer = running.request(
        method, name, body, port=port, content_type="application/json", **headers
    )
    return answer.status, answer.body


def test_every_route_has_a_row_here(guarded: Served) -> None:
    routes = guarded.server.routes
    operator = guarded.server.operator
    assert routes is not None
    assert operator is not None
    assert {path.decode() for path in routes.table} == set(DOORS)
    assert {path.decode() for path in operator.table} == OPERATIONS
    assert not any(path.startswith(b"/v1/operate") for path in routes.table)
    assert set(CALLS) | OPEN_CALLS == set(METHODS)
    assert not set(CALLS) & OPEN_CALLS


@pytest.mark.reliability("K1", t1=1)
@pytest.mark.parametrize("path", [*(path for path, scope in DOORS.items() if scope), *OPERATIONS])
def test_no_bad_token_opens_a_route(guarded: Served, path: str) -> None:
    answers = {kind: _ask(guarded, path, sent) for kind, sent in BAD_TOKENS.items()}
    assert {status for status, _ in answers.values()} == {401}, answers
    assert len({body for _, body in answers.values()}) == 1
    good = SECRETS["operate"]
    for elsewhere in (
        _ask(guarded, f"{path}?access_token={good}", None),
        _ask(guarded, path, None, cookie=f"authorization=Bearer {good}"),
        _ask(guarded, path, None, x_authorization=f"Bearer {good}"),
    ):
        assert elsewhere[0] == 401
    wanted = DOORS.get(path, "operate")
    for name, secret in SECRETS.items():
        status, body = _ask(guarded, path, f"Bearer {secret}")
        is_allowed = name in {wanted, "operate"}
        assert (status == 403) is not is_allowed, (name, status, body)
        assert status != 401


@pytest.mark.reliability("K1", t1=1)
def test_two_tokens_in_two_headers_are_no_request(guarded: Served) -> None:
    token = f"Authorization: Bearer {SECRETS['operate']}\r\n"
    head = f"GET /v1/release HTTP/1.1\r\nHost: x\r\n{token}{token}\r\n"
    assert guarded.raw(head.encode()).startswith(b"HTTP/1.1 400")


@pytest.mark.reliability("K1", t1=1)
def test_no_bad_token_opens_a_call(guarded: Served) -> None:
    content = message("sentinel.v1", "ScoreRequest")(events=[payment()]).SerializeToString()
    sent: list[tuple[tuple[str, str], ...]] = [()]
    sent += [(("authorization", text),) for text in BAD_TOKENS.values() if text]
    with grpc.insecure_channel(f"127.0.0.1:{guarded.addresses.grpc_port}") as channel:
        for method in CALLS:
            for metadata in sent:
                with pytest.raises(grpc.RpcError) as refused:
                    _call(channel, method, content, metadata)
                assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.reliability("K1", t1=1)
@pytest.mark.parametrize("method", CALLS)
def test_a_token_of_another_scope_opens_no_call(guarded: Served, method: str) -> None:
    """And one of its own, or an operator's, does: it then looks at the message."""
    content = message("sentinel.v1", "ScoreRequest")(events=[b"{}"]).SerializeToString()
    with grpc.insecure_channel(f"127.0.0.1:{guarded.addresses.grpc_port}") as channel:
        for name, secret in SECRETS.items():
            metadata = (("authorization", f"Bearer {secret}"),)
            code = grpc.StatusCode.OK
            try:
                _call(channel, method, content, metadata)
            except grpc.RpcError as error:
                code = error.code()
            is_allowed = name in {CALLS[method], "operate"}
            assert (code is grpc.StatusCode.PERMISSION_DENIED) is not is_allowed, (name, code)
            assert code is not grpc.StatusCode.UNAUTHENTICATED


def _call(
    channel: grpc.Channel,
    method: str,
    content: bytes,
    metadata: tuple[tuple[str, str], ...],
) -> None:
    if METHODS[method]:
        list(channel.stream_stream(f"/{method}")(iter([content]), timeout=10, metadata=metadata))
    else:
        channel.unary_unary(f"/{method}")(content, timeout=10, metadata=metadata)


def test_operators_are_on_this_machine_and_no_page_in_a_browser(tmp_path: Path) -> None:
    with served(tmp_path) as running:
        port = running.addresses.metrics_port
        body = b'{"by":"x"}'
        path = "/v1/operate/breaker/reset"
        refused = running.request(
            "POST", path, body, port=port, content_type="application/json", host="evil.example"
        )
        assert (refused.status, refused.json()["code"]) == (403, "peer-refused")
        refused = running.request("POST", path, body, port=port, content_type="text/plain")
        assert (refused.status, refused.json()["code"]) == (415, "content-unsupported")
        for bad in (b"", b"[]", b"{", b'{"by":1}', b'{"other":"x"}', b'{"by":"%s"}' % (b"x" * 999)):
            refused = running.request("POST", path, bad, port=port, content_type="application/json")
            assert (refused.status, refused.json()["code"]) == (400, "request-invalid")
        refused = running.request("POST", path, b"{}", port=port, content_type="application/json")
        assert refused.json()["at"] == "by"
        refused = running.request("GET", path, port=port)
        assert refused.status == 405
        assert running.request("GET", "/v1/operate/nothing", port=port).status == 404
        assert running.request("GET", "/v1/operate/breaker").status == 404


def test_a_folder_of_releases_that_is_not_there_ends_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or nobody would learn of it before the day when a release shall take over."""
    nowhere = tmp_path / "nope"
    code, found = _run(capsys, "serve", str(tmp_path), "--releases", str(nowhere))
    assert code is ExitCode.FILE
    assert found["error"]["code"] == "file-missing"  # type: ignore[index]
    assert found["error"]["at"] == str(nowhere)  # type: ignore[index]


# --- the breaker -----------------------------------------------------------------------------


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[ExitCode, dict[str, object]]:
    capsys.readouterr()
    code = run_command(app, [*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_person_trips_and_resets_the_breaker(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(tmp_path) as running:
        running.wait_ready()
        url = ("--url", f"http://127.0.0.1:{running.addresses.metrics_port}")
        code, found = _run(capsys, "breaker", "show", *url)
        assert (code, found["state"]) == (ExitCode.OK, "closed")
        who = ("--by", "Olga", "--because", "scores look wrong")
        code, found = _run(capsys, "breaker", "trip", *url, "--because", " \t")
        assert found["error"]["at"] == "because"  # type: ignore[index]
        code, found = _run(capsys, "breaker", "trip", *url, *who)
        assert (code, found["state"]) == (ExitCode.OK, "latched")
        assert run_command(app, ["breaker", "show", *url]) is ExitCode.DEGRADED
        assert found["cause"] == "Olga (no token): scores look wrong"
        assert running.score(payment()).json()["served_by"] == "fallback"
        running.wait_until(lambda: "Olga" in str(running.plane.health().causes))
        code, found = _run(capsys, "breaker", "reset", *url, "--by", "Olga")
        assert (code, found["state"] in {"half-open", "closed"}) == (ExitCode.OK, True)
        running.wait_until(lambda: str(running.opened.scorer.status().breaker) == "closed")
        assert running.score(payment()).json()["served_by"] == "champion"
        code, found = _run(capsys, "breaker", "reset", *url, "--by", "Olga")
        assert found["error"]["code"] == "breaker-refused"  # type: ignore[index]
        assert "sentinel breaker trip" in found["error"]["hint"]  # type: ignore[index]
        _, found = _run(capsys, "breaker", "show", *url)
        whats = [each["what"] for each in found["operations"]]  # type: ignore[attr-defined]
        assert whats == ["breaker trip", "breaker reset"]
        assert run_command(app, ["breaker", "show", *url]) is ExitCode.OK
        assert MEANINGS["closed"] in capsys.readouterr().out  # type: ignore[index]


def test_a_token_of_another_scope_trips_nothing(
    guarded: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = ("--url", f"http://127.0.0.1:{guarded.addresses.metrics_port}")
    file = tmp_path / "token"
    file.write_text(SECRETS["score"] + "\n")
    file.chmod(0o644)
    _, found = _run(capsys, "breaker", "show", *url, "--token-file", str(file))
    assert found["error"]["code"] == "file-exposed"  # type: ignore[index]
    assert "chmod 600" in found["error"]["hint"]  # type: ignore[index]
    file.chmod(0o600)
    named = ("--token-file", str(file), "--because", "no")
    _, found = _run(capsys, "breaker", "trip", *url, *named)
    assert found["error"]["code"] == "scope-missing"  # type: ignore[index]
    assert str(guarded.opened.scorer.status().breaker) == "closed"
    file.write_text(SECRETS["operate"])
    _, found = _run(capsys, "breaker", "show", *url, "--token-file", str(file))
    assert found["state"] == "closed"


def test_a_server_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = _run(capsys, "breaker", "show", "--url", "http://127.0.0.1:9")
    assert (code, found["error"]["code"]) == (ExitCode.INPUT, "server-unreachable")  # type: ignore[index]


@pytest.mark.parametrize(
    "url",
    [
        "ftp://op:hunter2@x",
        "http://op:hunter2@127.0.0.1:99999",
        "http://op:hunter2@127.0.0.1:port",
        "http://op:hunter2@[::1",
        "http://op:hunter2@127.0.0.1:1/path",
    ],
)
def test_an_address_that_is_none_is_refused_without_its_password(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(app, ["breaker", "show", "--json", "--url", url]) is ExitCode.USAGE
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert (error["code"], error["at"]) == ("usage-invalid", "--url")
    assert "hunter2" not in out + err


def test_an_address_shows_no_password_where_nobody_answers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["breaker", "show", "--url", "http://op:hunter2@127.0.0.1:9"]
    assert run_command(app, command) is ExitCode.INPUT
    said = capsys.readouterr().err
    assert "hunter2" not in said
    assert "http://…@127.0.0.1:9" in said
    assert "got Connection refused" in said


def test_a_server_that_is_frozen_is_found_out_in_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped by a signal: its port takes connections, and nobody answers them."""
    with server_process(tmp_path) as running:
        freeze(running.process.pid)
        url = f"http://127.0.0.1:{running.metrics_port}"
        assert run_command(app, ["breaker", "show", "--url", url]) is ExitCode.INPUT
        running.process.send_signal(signal.SIGCONT)
    said = capsys.readouterr().err
    assert "got no answer within 5 s" in said
    assert "frozen" in said


# --- releases, by the commands ---------------------------------------------------------------


def test_the_commands_stage_switch_and_roll_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(tmp_path, loaded=load("1.2.0"), source=source()) as running:
        running.wait_ready()
        url = ("--url", f"http://127.0.0.1:{running.addresses.metrics_port}", "--by", "Olga")
        code, found = _run(capsys, "serving", "stage", "9.9.9", *url)
        assert code is ExitCode.RELEASE
        assert "release-missing" in str(found["fault"])
        told = [(each["what"], each["result"]) for each in found["operations"]]  # type: ignore[attr-defined]
        assert told == [("stage", "begun"), ("stage", f"refused: {found['fault']}")]
        assert run_command(app, ["serving", "stage", "9.9.9", *url]) is ExitCode.RELEASE
        assert "".join(str(found["fault"]).split()) in "".join(capsys.readouterr().out.split())
        code, found = _run(capsys, "serving", "switch", *url)
        assert (code, found["error"]["code"]) == (ExitCode.RELEASE, "switch-refused")  # type: ignore[index]
        code, found = _run(capsys, "serving", "stage", "1.3.0", *url, "--because", "weekly")
        assert code is ExitCode.OK
        told = [(each["what"], each["result"]) for each in found["operations"]]  # type: ignore[attr-defined]
        assert told[-2:] == [("stage", "begun: weekly"), ("staged", "done: weekly")]
        assert _run(capsys, "serving", "drop", *url)[1]["place"] == "empty"
        assert _run(capsys, "serving", "stage", "1.3.0", *url)[0] is ExitCode.OK
        _, found = _run(capsys, "serving", "switch", *url, "--because", "weekly")
        assert found["in_service"]["release"] == "payments@1.3.0"  # type: ignore[index]
        assert found["operations"][-1]["result"] == "done: weekly"  # type: ignore[index]
        _, found = _run(capsys, "serving", "rollback", *url)
        assert found["in_service"]["release"] == "payments@1.2.0"  # type: ignore[index]
        assert run_command(app, ["serving", "status", *url[:2]]) is ExitCode.OK
        shown = capsys.readouterr().out
        assert "payments@1.3.0" in shown
        assert "Olga" in shown


def test_what_operators_do_is_in_the_log_of_the_process(tmp_path: Path) -> None:
    """One line of JSON each, with who asked; a renewal on SIGHUP too."""
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(TOKENS)
    tokens.chmod(0o600)
    secret = {"authorization": f"Bearer {SECRETS['operate']}", "content-type": "application/json"}
    with server_process(tmp_path, "--tokens", str(tokens)) as running:
        link = http.client.HTTPConnection("127.0.0.1", running.metrics_port, timeout=30)
        link.request("POST", "/v1/operate/breaker/trip", b'{"because":"a drill"}', secret)
        assert link.getresponse().status == 200
        link.close()
        running.process.send_signal(signal.SIGHUP)
        wait_until(lambda: any(line["message"] == "renewed" for line in log_lines(running)))
        running.process.terminate()
        assert running.process.wait(90) in {0, ExitCode.TERMINATED}
    lines = log_lines(running)
    told = [line for line in lines if line["message"] == "operation"]
    assert len(told) == 1
    assert (told[0]["who"], told[0]["what"]) == ("operate-er", "breaker trip")
    assert any(line["message"] == "renewed" and line["what"] == "tokens" for line in lines)
    assert not any(secret in running.stderr.read_text() for secret in SECRETS.values())
