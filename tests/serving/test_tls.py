"""TLS and mutual TLS at both doors: who gets in, and what happens when certificates change."""

from __future__ import annotations

import datetime as dt
import http.client
import socket
import ssl
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from serving_rig import Served, payment, served

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.serving.doors.grpc_messages import message
from sentinel.serving.doors.tls import Tls
from sentinel.serving.settings import ServerSettings

DAY = dt.timedelta(days=1)


@dataclass(frozen=True)
class Issued:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        certificate.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        key.touch(mode=0o600)
        key.write_bytes(
            self.key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return certificate, key


def issue(
    name: str, by: Issued | None = None, *, host: str = "localhost", days: tuple[int, int] = (-2, 2)
) -> Issued:
    """Issue a certificate; of nobody else: a CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if by is None else by.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + days[0] * DAY)
        .not_valid_after(now + days[1] * DAY)
        .add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
    )
    if by is not None:
        uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
    signer = key if by is None else by.key
    return Issued(builder.sign(signer, hashes.SHA256()), key)


@dataclass(frozen=True)
class House:
    """A server with mutual TLS, and the certificates around it."""

    folder: Path
    ca: Issued
    running: Served

    def context(self, client: Issued | None, *, trusts: Issued | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context()
        context.load_verify_locations(
            cadata=(trusts or self.ca)
            .certificate.public_bytes(serialization.Encoding.PEM)
            .decode("ascii")
        )
        if client is not None:
            context.load_cert_chain(*client.write(self.folder, "client"))
        return context

    def ask(self, context: ssl.SSLContext) -> int:
        link = http.client.HTTPSConnection(
            "localhost", self.running.addresses.http_port, timeout=10, context=context
        )
        try:
            link.request("POST", "/v1/score", payment(), {"content-type": "application/json"})
            return link.getresponse().status
        finally:
            link.close()

    def call(self, client: Issued | None) -> bytes:
        pair: tuple[bytes | None, bytes | None] = (None, None)
        if client is not None:
            certificate, key = client.write(self.folder, "caller")
            pair = (key.read_bytes(), certificate.read_bytes())
        root = self.ca.certificate.public_bytes(serialization.Encoding.PEM)
        credentials = grpc.ssl_channel_credentials(root, *pair)
        content = message("sentinel.v1", "ScoreRequest")(events=[payment()]).SerializeToString()
        address = f"localhost:{self.running.addresses.grpc_port}"
        with grpc.secure_channel(address, credentials) as channel:
            found: bytes = channel.unary_unary("/sentinel.v1.Scoring/Score")(content, timeout=5)
            return found


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("tls")
    ca = issue("ca")
    certificate, key = issue("server", ca).write(folder, "server")
    trusted, _ = ca.write(folder, "ca")
    with served(folder, certificate=certificate, private_key=key, client_ca=trusted) as running:
        running.wait_ready()
        yield House(folder, ca, running)


REFUSED = (ssl.SSLError, ConnectionResetError, BrokenPipeError, http.client.RemoteDisconnected)


@pytest.mark.reliability("K4", t1=1)
def test_a_client_with_a_certificate_of_the_ca_gets_in_at_both_doors(house: House) -> None:
    client = issue("client", house.ca)
    assert house.ask(house.context(client)) == 200
    assert b"event_id" in house.call(client)
    house.running.wait_ready()  # the server comes through its own door


@pytest.mark.reliability("K4", t1=1)
@pytest.mark.parametrize("kind", ["none", "self-signed", "another ca", "expired", "not yet valid"])
def test_other_clients_are_refused_in_the_handshake(house: House, kind: str) -> None:
    clients = {
        "none": lambda: None,
        "self-signed": lambda: issue("client"),
        "another ca": lambda: issue("client", issue("ca")),
        "expired": lambda: issue("client", house.ca, days=(-9, -3)),
        "not yet valid": lambda: issue("client", house.ca, days=(3, 9)),
    }
    client = clients[kind]()
    with pytest.raises(REFUSED):
        house.ask(house.context(client))
    with pytest.raises(grpc.RpcError) as refused:
        house.call(client)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


WEAK = "NULL:aNULL:3DES:@SECLEVEL=0"


def _old(house: House, version: str) -> ssl.SSLContext:
    """Make a client that speaks one old version, and whatever ciphers it has."""
    context = house.context(issue("client", house.ca))
    _speak(context, version)
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


def _speak(context: ssl.SSLContext, version: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion[version]
        context.maximum_version = ssl.TLSVersion[version]


def _weak(house: House) -> ssl.SSLContext:
    """Make a client that has no cipher but weak ones."""
    context = house.context(issue("client", house.ca))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(WEAK)
    return context


def _shake(context: ssl.SSLContext, port: int) -> tuple[str, str]:
    """Make a handshake; return version and cipher."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as link,
        context.wrap_socket(link, server_hostname="localhost") as secured,
    ):
        return str(secured.version()), str(secured.cipher())


@contextmanager
def _permissive(house: House, version: str) -> Iterator[int]:
    """Listen once with all that the library has, old and weak; the control of those who refuse."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*issue("server", house.ca).write(house.folder, "permissive"))
    _speak(context, version)
    context.set_ciphers("ALL:COMPLEMENTOFALL:@SECLEVEL=0")

    def answer() -> None:
        link, _ = listener.accept()
        with link, context.wrap_socket(link, server_side=True) as secured:
            secured.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer)
        thread.start()
        yield int(listener.getsockname()[1])
        thread.join(10)


def _doors(house: House) -> tuple[int, int]:
    return house.running.addresses.http_port, house.running.addresses.grpc_port


@pytest.mark.reliability("K4", t1=1)
@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
def test_old_versions_are_refused_at_both_doors(house: House, version: str) -> None:
    for port in _doors(house):
        with pytest.raises(REFUSED, match=r"(?i)version|protocol|reset|closed|EOF"):
            _shake(_old(house, version), port)


@pytest.mark.parametrize(("version", "name"), [("TLSv1", "TLSv1"), ("TLSv1_1", "TLSv1.1")])
def test_the_client_of_old_versions_speaks_them(house: House, version: str, name: str) -> None:
    with _permissive(house, version) as port:
        assert _shake(_old(house, version), port)[0] == name


@pytest.mark.reliability("K4", t1=1)
def test_weak_ciphers_are_refused_at_both_doors(house: House) -> None:
    for port in _doors(house):
        with pytest.raises(REFUSED):
            _shake(_weak(house), port)


def test_the_client_of_weak_ciphers_has_some(house: House) -> None:
    with _permissive(house, "TLSv1_2") as port:
        cipher = _shake(_weak(house), port)[1]
        assert any(word in cipher for word in ("NULL", "ADH", "AECDH", "3DES")), cipher


@pytest.mark.reliability("K4", t1=1)
@pytest.mark.parametrize("kind", ["wrong host", "expired", "self-signed", "another ca"])
def test_clients_see_through_a_wrong_server(tmp_path: Path, kind: str) -> None:
    ca = issue("ca")
    shown = {
        "wrong host": lambda: issue("server", ca, host="elsewhere.example"),
        "expired": lambda: issue("server", ca, days=(-9, -3)),
        "self-signed": lambda: issue("server"),
        "another ca": lambda: issue("server", issue("ca")),
    }[kind]()
    certificate, key = shown.write(tmp_path, "server")
    with served(tmp_path, certificate=certificate, private_key=key) as running:
        context = House(tmp_path, ca, running).context(None)
        with pytest.raises(ssl.SSLCertVerificationError):
            House(tmp_path, ca, running).ask(context)
        expired = "certificate has expired" if kind == "expired" else ""
        running.wait_until(lambda: running.plane.health().is_ready or bool(expired))


def test_http_without_tls_gets_nothing_from_a_door_with_it(house: House) -> None:
    assert b"200" not in house.running.raw(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")


@pytest.mark.reliability("K4", t1=1)
def test_certificates_are_renewed_under_load_and_nobody_notices(tmp_path: Path) -> None:
    """Another certificate and another CA of clients: both doors take them, no request is lost."""
    ca = issue("ca")
    certificate, key = issue("first", ca).write(tmp_path, "server")
    trusted, _ = ca.write(tmp_path, "clients")
    with served(tmp_path, certificate=certificate, private_key=key, client_ca=trusted) as running:
        house = House(tmp_path, ca, running)
        client = issue("client", ca)
        context = house.context(client)
        stop = threading.Event()
        statuses: list[int] = []
        faults: list[str] = []

        def ask_on_and_on() -> None:
            while not stop.is_set():
                try:
                    statuses.append(house.ask(context))
                except OSError as fault:
                    faults.append(repr(fault))

        threads = [threading.Thread(target=ask_on_and_on) for _ in range(2)]
        for thread in threads:
            thread.start()
        for number in range(5):
            issue(f"server-{number}", ca).write(tmp_path, "server")
            _on_loop(running, running.server.renew)
            n_before = len(statuses)
            running.wait_until(lambda n=n_before: len(statuses) > n or bool(faults))  # type: ignore[misc]
        stop.set()
        for thread in threads:
            thread.join()
        assert faults == []
        assert set(statuses) == {200}
        assert _shown(running, context) == "server-4"
        # The CA of clients goes too: who was let in before is not any more.
        other = issue("other ca")
        other.write(tmp_path, "clients")
        _on_loop(running, running.server.renew)
        with pytest.raises(REFUSED):
            house.ask(context)
        with pytest.raises(grpc.RpcError):
            house.call(client)
        newcomer = issue("newcomer", other)
        assert house.ask(house.context(newcomer)) == 200
        assert b"event_id" in house.call(newcomer)
        running.wait_until(lambda: running.plane.health().is_ready)


def test_files_that_do_not_fit_change_nothing_and_health_says_so(tmp_path: Path) -> None:
    ca = issue("ca")
    certificate, key = issue("good", ca).write(tmp_path, "server")
    with served(tmp_path, certificate=certificate, private_key=key) as running:
        context = House(tmp_path, ca, running).context(None)
        issue("stranger", ca).write(tmp_path, "half")
        certificate.write_bytes((tmp_path / "half.pem").read_bytes())  # and the key of another one
        _on_loop(running, running.server.renew)
        assert _shown(running, context) == "good"
        running.wait_until(lambda: "TLS could not be renewed" in str(running.plane.health().causes))
        assert running.plane.health().is_ready
        key.write_bytes((tmp_path / "half.key").read_bytes())
        _on_loop(running, running.server.renew)
        assert _shown(running, context) == "stranger"
        running.wait_until(lambda: "TLS" not in str(running.plane.health().causes))


def test_tokens_are_renewed_too(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.toml"

    def write(secret: str) -> None:
        tokens.write_text(
            f'format = 1\n[[token]]\nname = "x"\nsecret = "{secret}"\nscopes = ["score"]\n'
        )
        tokens.chmod(0o600)

    write("a" * 40)
    with served(tmp_path, tokens=tokens) as running:
        assert running.score(payment(), authorization="Bearer " + "a" * 40).status == 200
        write("b" * 40)
        _on_loop(running, running.server.renew)
        assert running.score(payment(), authorization="Bearer " + "a" * 40).status == 401
        assert running.score(payment(), authorization="Bearer " + "b" * 40).status == 200
        tokens.write_text("nonsense")
        _on_loop(running, running.server.renew)
        assert running.score(payment(), authorization="Bearer " + "b" * 40).status == 200
        running.wait_until(lambda: "tokens could not be" in str(running.plane.health().causes))


@pytest.mark.parametrize("content", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_files_that_are_none_are_refused_by_name(tmp_path: Path, content: bytes) -> None:
    ca = issue("ca")
    certificate, key = issue("server", ca).write(tmp_path, "server")
    bad = tmp_path / "bad.pem"
    bad.touch(mode=0o600)
    bad.write_bytes(content)
    for paths in ((bad, key, None), (certificate, bad, None), (certificate, key, bad)):
        with pytest.raises(SentinelError) as refused:
            Tls(*paths)
        assert refused.value.code is ErrorCode.CONFIGURATION_INVALID
    with pytest.raises(SentinelError, match="certificate of the server"):
        ServerSettings(client_ca=bad)


@pytest.mark.parametrize(("mode", "is_taken"), [(0o440, True), (0o640, True), (0o644, False)])
def test_a_key_that_others_may_read_is_refused(tmp_path: Path, mode: int, is_taken: bool) -> None:
    """At the start, and when it is renewed; modes with the group are those of ``fsGroup``."""
    certificate, key = issue("server", issue("ca")).write(tmp_path, "server")
    tls = Tls(certificate, key, None)
    key.chmod(mode)
    if is_taken:
        tls.renew()
        return
    for act in (tls.renew, lambda: Tls(certificate, key, None)):
        with pytest.raises(SentinelError) as refused:
            act()
        assert (refused.value.code, refused.value.at) == (ErrorCode.FILE_EXPOSED, str(key))
        assert f"chmod 600 {key}" in refused.value.hint


def test_files_are_read_through_the_links_of_a_volume(tmp_path: Path) -> None:
    """As Kubernetes mounts a secret; what is written behind the links is renewed."""
    ca = issue("ca")
    real = tmp_path / "..data"
    real.mkdir()
    named = []
    for path in issue("server", ca).write(real, "server"):
        (tmp_path / path.name).symlink_to(path)
        named.append(tmp_path / path.name)
    certificate, key = named
    tls = Tls(certificate, key, None)
    issue("another", ca).write(real, "server")
    tls.renew()
    (real / certificate.name).write_bytes(b"nonsense")
    with pytest.raises(SentinelError) as refused:
        tls.renew()
    assert (refused.value.code, refused.value.at) == (
        ErrorCode.CONFIGURATION_INVALID,
        str(certificate),
    )


def _on_loop(running: Served, act: object) -> None:
    done = threading.Event()

    def run() -> None:
        act()  # type: ignore[operator]
        done.set()

    running.plane.batcher._loop.call_soon_threadsafe(run)
    assert done.wait(90)


def _shown(running: Served, context: ssl.SSLContext) -> str:
    """Return who the server says it is in a new handshake."""
    address = ("127.0.0.1", running.addresses.http_port)
    with (
        socket.create_connection(address, timeout=10) as link,
        context.wrap_socket(link, server_hostname="localhost") as secured,
    ):
        content = secured.getpeercert(binary_form=True)
    assert content is not None
    name = x509.load_der_x509_certificate(content).subject
    return str(name.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
