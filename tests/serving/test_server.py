"""Start and end of a server: addresses, tokens, TLS, signals, load."""

from __future__ import annotations

import contextlib
import datetime as dt
import http.client
import signal
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from process_rig import server_process
from serving_rig import GOLDEN, payment, served

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.monitoring.log_segments import read_metadata, segment_paths
from sentinel.serving.doors.access import Access, Scope
from sentinel.serving.doors.status_codes import GRPC_STATUS, HTTP_STATUS
from sentinel.serving.settings import ServerSettings
from sentinel.testing import wait_until

SECRET = "s" * 43
READER = "r" * 43


def _tokens(path: Path, text: str | None = None) -> Path:
    content = text or (
        "format = 1\n"
        f'[[token]]\nname = "checkout"\nsecret = "{SECRET}"\nscopes = ["score"]\n'
        f'[[token]]\nname = "reader"\nsecret = "{READER}"\nscopes = ["read"]\n'
    )
    path.write_text(content)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.org"])  # noqa: S104 -- refused
def test_an_open_address_without_tokens_is_refused(host: str) -> None:
    with pytest.raises(SentinelError) as refused:
        ServerSettings(host=host)
    assert (refused.value.code, refused.value.at) == (ErrorCode.BIND_REFUSED, host)
    assert ServerSettings(host=host, insecure_bind=True).host == host


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("nonsense", ""),
        ("format = 2\ntoken = []", "format"),
        ("format = 1\ntoken = []", "token"),
        ('format = 1\n[[token]]\nname = "a"\nsecret = "short"\nscopes = ["read"]', "secret"),
        (f'format = 1\n[[token]]\nname = "a"\nsecret = "{SECRET}"\nscopes = ["all"]', ""),
        (f'format = 1\n[[token]]\nname = "a"\nsecret = "{SECRET}"\nscopes = []', "scopes"),
        (f'format = 1\n[[token]]\nname = ""\nsecret = "{SECRET}"\nscopes = ["read"]', "name"),
        ('format = 1\n[[token]]\nname = "a"\nsha256 = "xyz"\nscopes = ["read"]', "sha256"),
        ('format = 1\n[[token]]\nname = "a"\nscopes = ["read"]', "token 1"),
    ],
)
def test_a_token_file_that_cannot_be_used_is_refused_by_its_place(
    tmp_path: Path, text: str, at: str
) -> None:
    path = _tokens(tmp_path / "tokens.toml", text)
    with pytest.raises(SentinelError) as refused:
        Access.read(path)
    assert refused.value.code is ErrorCode.TOKENS_INVALID
    assert refused.value.at.endswith(at)
    assert SECRET not in str(refused.value)


def test_a_token_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = _tokens(tmp_path / "tokens.toml")
    path.chmod(0o644)
    with pytest.raises(SentinelError) as refused:
        Access.read(path)
    assert (refused.value.code, refused.value.at) == (ErrorCode.FILE_EXPOSED, str(path))
    assert "chmod 600" in refused.value.hint


def test_the_operator_may_do_everything() -> None:
    access = Access({})
    access.add_own(SECRET)
    caller = access.identify(f"Bearer {SECRET}".encode())
    assert caller is not None
    assert all(caller.may(scope) for scope in Scope)


def test_tokens_open_what_their_scopes_say(tmp_path: Path) -> None:
    with served(tmp_path, tokens=_tokens(tmp_path / "tokens.toml")) as running:
        running.wait_ready()  # the server's own canary has a token of its own
        assert running.score(payment()).status == 401
        assert running.score(payment(), authorization="Bearer " + "x" * 43).status == 401
        assert running.score(payment(), authorization=f"Basic {SECRET}").status == 401
        assert running.score(payment(), authorization=f"Bearer {READER}").status == 403
        scored = running.score(payment("open"), authorization=f"Bearer {SECRET}")
        assert scored.status == 200
        found = running.request("GET", "/v1/decisions/open", authorization=f"Bearer {READER}")
        assert found.body == scored.body
        assert running.request("GET", "/v1/release").status == 401
        assert running.request("GET", "/v2/health/ready").status == 200
        own = running.score(payment(), authorization=f"Bearer {SECRET}", sentinel_canary="1")
        assert own.status == 403


def _certificate(folder: Path) -> tuple[Path, Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].touch(mode=0o600)
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


def test_the_door_speaks_tls_and_asks_itself_through_it(tmp_path: Path) -> None:
    certificate, key = _certificate(tmp_path)
    with served(tmp_path, certificate=certificate, private_key=key) as running:
        running.wait_ready()
        context = ssl.create_default_context(cafile=str(certificate))
        link = http.client.HTTPSConnection(
            "localhost", running.addresses.http_port, context=context, timeout=5
        )
        link.request("GET", "/v2")
        assert link.getresponse().status == 200
        link.close()
        assert running.raw(b"GET /v2 HTTP/1.1\r\nhost: a\r\n\r\n") == b""


def test_a_certificate_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "no.pem"
    path.touch(mode=0o600)
    path.write_text("no")
    with (
        pytest.raises(SentinelError) as refused,
        served(tmp_path, certificate=path, private_key=path),
    ):
        pass
    assert refused.value.code is ErrorCode.CONFIGURATION_INVALID


@pytest.mark.reliability("F14")
@pytest.mark.parametrize("which", ["http_port", "grpc_port", "metrics_port"])
def test_a_port_that_is_taken_is_named(tmp_path: Path, which: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SentinelError) as refused, served(tmp_path, **{which: port}):
            pass
    assert refused.value.code is ErrorCode.ADDRESS_UNUSABLE
    assert str(port) in refused.value.at
    assert refused.value.got == "Address already in use"
    assert f"--{which.replace('_', '-')}" in refused.value.hint


def test_every_code_has_a_status_in_both_protocols() -> None:
    import grpc

    assert set(HTTP_STATUS) == set(GRPC_STATUS) == set(ErrorCode)
    assert all(400 <= status < 600 for status in HTTP_STATUS.values())
    assert all(name in grpc.StatusCode.__members__ for name in GRPC_STATUS.values())


@pytest.mark.reliability("F12")
def test_sigterm_under_load_turns_readiness_first_and_loses_no_answer(tmp_path: Path) -> None:
    """Whatever the end cuts off was not begun: the log of decisions is what callers were told.

    A thousand events a request, so that some of them are in the model when the end begins.
    """
    faults: list[str] = []
    answered: list[int] = []
    is_over = threading.Event()

    def ask(port: int, number: int) -> None:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as link:
            ask_until_the_end(number, link)

    headers = {"content-type": "application/x-ndjson", "sentinel-timeout-ms": "20000"}

    def ask_until_the_end(number: int, link: http.client.HTTPConnection) -> None:
        for n in range(10_000):
            body = b"\n".join(payment(f"{number}-{n}-{row}") for row in range(1_000))
            try:
                link.request("POST", "/v1/score", body, headers=headers)
            except OSError:
                return  # the door is closed: nothing was sent whole
            try:
                response = link.getresponse()
                content = response.read()
            except (http.client.HTTPException, OSError) as error:
                # A connection closed between two requests is the usual race of HTTP/1.1.
                if is_over.is_set():
                    return
                faults.append(repr(error))
                return
            if response.status != 200 and not is_over.is_set():
                faults.append(f"{response.status} {content!r}")
                return
            answered.append(content.count(b'"event_id"') * (response.status == 200))
            if response.will_close:
                return

    options = ("--log", str(tmp_path / "log"))
    with server_process(tmp_path, *options, SENTINEL_SERVE_DRAIN_NOTICE_S="5") as running:
        threads = [
            threading.Thread(target=ask, args=(running.http_port, number)) for number in range(4)
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: sum(answered) > 0)
        running.process.send_signal(signal.SIGTERM)
        is_over.set()
        wait_until(lambda: running.status() == 503)
        for thread in threads:
            thread.join(90)
        assert running.process.wait(90) == 0, running.stderr.read_text()
    assert not faults
    assert sum(answered) > 0
    log = segment_paths(tmp_path / "log")
    assert sum(read_metadata(path).n_records for _, path in log) == sum(answered)


@pytest.mark.reliability("F14")
def test_a_server_that_cannot_start_says_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [
                *(sys.executable, "-m", "sentinel.cli", "serve", str(GOLDEN / "payments-1.2.0")),
                *("--unapproved", "--http-port", port, "--quarantine", str(tmp_path)),
            ],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
            timeout=120,
        )
    assert done.returncode not in {0, 1}
    assert done.stderr.startswith("sentinel: address-unusable: ")
    assert len(done.stderr.strip().splitlines()) == 1


def test_events_of_the_past_need_a_rehearsal_and_health_says_it_is_one(tmp_path: Path) -> None:
    old = payment("t-old", paid_at=1_600_000_000_000)
    with served(tmp_path / "live") as live:
        refused = live.score(old)
        assert (refused.status, refused.json()["refusal"]) == (422, "time_skew")
    with served(tmp_path / "rehearsal", is_rehearsal=True) as rehearsal:
        rehearsal.wait_ready()
        assert rehearsal.score(old).json()["event_id"] == "t-old"
        report = rehearsal.request("GET", "/v1/health").json()
        assert report["degraded"] is True
        assert any("rehearsal" in cause for cause in report["causes"])  # type: ignore[attr-defined]
