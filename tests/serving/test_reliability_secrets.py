"""What must stay inside: paths that go round the token, names that climb, secrets, connections."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import itertools
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numba
import pytest
from process_rig import server_process
from serving_rig import GOLDEN, Served, infer_body, payment, served

from sentinel.core.configuration import Configuration
from sentinel.core.errors import SentinelError
from sentinel.serving.doors.access import Access, Caller, Scope
from sentinel.serving.releases.release_source import ReleaseSource
from sentinel.serving.settings import ServerSettings
from sentinel.testing import wait_until

ROOT = Path(__file__).parents[2]
SECRET = "canary-secret-0123456789abcdefghijklmnop"
OTHER = "x" * 43
TOKENS = f'format = 1\n[[token]]\nname = "shop"\nsecret = "{SECRET}"\nscopes = ["operate"]\n'


def _tokens(folder: Path) -> Path:
    path = folder / "tokens.toml"
    path.write_text(TOKENS)
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("guarded")
    source = ReleaseSource(folder=GOLDEN, trust=None, allow_unapproved=True)
    with served(folder, tokens=_tokens(folder), source=source) as running:
        running.wait_ready()
        yield running


# --- round the token ------------------------------------------------------------------------------

GUARDED = {"/v1/release": b"", "/v1/score": payment("tricks"), "/v1/decisions/a": b""}
TRICKS = [
    "{}/", "/{}", "//{}", "/.{}", "/x/..{}", "{};x=y", "{}%20", "{}%00", "{}?", "{}#", "{}/.",
    "{}/..", "{}.json", "{}%2f", "/v2/health/live/..{}", "/v2/..{}", "http://a{}", "{}\\", "{}%3b",
    "{}/%2e",
]  # fmt: skip
HEADERS = [
    {},
    {"x_original_url": "/v2/health/live"},
    {"x_rewrite_url": "/v2"},
    {"x_forwarded_for": "127.0.0.1", "x_real_ip": "127.0.0.1"},
    {"x_http_method_override": "GET"},
    {"forwarded": "for=127.0.0.1;host=localhost"},
]


@pytest.mark.reliability("K2")
@pytest.mark.parametrize("path", GUARDED)
def test_no_spelling_of_a_path_goes_round_the_token(guarded: Served, path: str) -> None:
    """Refused as the plain path is, or not a path at all."""
    body = GUARDED[path]
    spellings = [trick.format(path) for trick in TRICKS]
    spellings += [path.upper(), path.title(), path.replace("v1", "%761"), path.replace("/", "%2f")]
    for spelling, headers in itertools.product([path, *spellings], HEADERS):
        answer = guarded.request(
            "POST" if body else "GET", spelling, body or None,
            content_type="application/json", **headers,
        )  # fmt: skip
        assert answer.status in {400, 401, 404, 405}, (spelling, headers, answer)
        if spelling == path:
            assert answer.status == 401


@pytest.mark.reliability("K2")
def test_no_spelling_of_a_call_goes_round_the_token(guarded: Served) -> None:
    spellings = [
        "/sentinel.v1.Scoring/Score", "/sentinel.v1.Scoring/score", "/sentinel.v1.scoring/Score",
        "/sentinel.v1.Scoring/Score/", "//sentinel.v1.Scoring/Score", "/sentinel.v1.Scoring//Score",
        "/grpc.health.v1.Health/../sentinel.v1.Scoring/Score", "/sentinel.v1.Scoring/Score?x",
    ]  # fmt: skip
    with grpc.insecure_channel(f"127.0.0.1:{guarded.addresses.grpc_port}") as channel:
        for spelling in spellings:
            with pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary(spelling)(b"", timeout=10)
            expected = grpc.StatusCode.UNIMPLEMENTED
            if spelling == spellings[0]:
                expected = grpc.StatusCode.UNAUTHENTICATED
            assert refused.value.code() is expected, spelling


@pytest.mark.reliability("K3", t1=4_000, t2=100_000, t3=300_000)
def test_a_token_that_is_nearly_right_is_compared_like_one_that_is_not(
    trials: Iterator[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its hash, with that of every known token, in a time that knows nothing of where they differ.

    What a hash shares with another one says nothing of what the tokens share.
    """
    pairs: list[set[bytes]] = []
    plain = hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        pairs.append({one, other})
        return plain(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    known = [hashlib.sha256(token.encode()).digest() for token in ("y" * 43, OTHER, SECRET)]
    scopes = frozenset({Scope.SCORE})
    access = Access({digest: Caller("shop", scopes) for digest in known[:2]})
    access.add_own(SECRET)
    for seed in trials:
        n_right = seed % (len(SECRET) + 1)
        token = (SECRET[:n_right] + "#" * (len(SECRET) - n_right)).encode()
        pairs.clear()
        caller = access.identify(b"Bearer " + token)
        assert (caller is not None) == (n_right == len(SECRET))
        given = hashlib.sha256(token).digest()
        assert pairs == [{digest, given} for digest in known]


# --- names that climb -----------------------------------------------------------------------------

CLIMBS = [
    "..", "../..", "../../etc/passwd", "/etc/passwd", "..%2f..%2fetc%2fpasswd", "%252e%252e%252f",
    "..\\..\\x", "a/../../b", "a\x00b", ".", "", "~", "payments-1.2.0/../..", "file:///etc/passwd",
    "\u2025/x", "\uff0e\uff0e/x", "a" * 300, "//server/share", "C:\\windows", "nul\n",
]  # fmt: skip


class _Opened:
    """Every path that this process opens while it looks; an audit hook cannot be taken away."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.addresses: list[object] = []
        self.is_looking = False
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.is_looking:
            return
        if event in {"open", "os.listdir", "os.scandir"}:
            self.paths.append(str(arguments[0]))
        elif event in {"socket.connect", "socket.getaddrinfo"}:
            self.addresses.append(arguments[1] if event == "socket.connect" else arguments[0])


@pytest.fixture(scope="module")
def opened() -> _Opened:
    return _Opened()


def _outside(opened: _Opened) -> list[str]:
    """List what was opened by a path that climbs, or lies where nothing of ours is."""
    is_outside = re.compile(r"/(etc|root|home|windows)\b").match
    # Python, this checkout and compiled kernels may lie in somebody's home.
    ours = (sys.prefix, sys.base_prefix, str(ROOT), str(numba.config.CACHE_DIR))

    def is_ours(path: str) -> bool:
        return any(Path(path).is_relative_to(folder) for folder in ours)

    return [
        path for path in opened.paths if ".." in path or (is_outside(path) and not is_ours(path))
    ]


def test_the_hook_hears_what_another_thread_opens_outside(opened: _Opened, tmp_path: Path) -> None:
    """The control: by a path that climbs and by one that is absolute, by a list and by a file."""
    opened.paths.clear()
    opened.is_looking = True
    try:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: Path("/etc/passwd").read_bytes()).result()
            pool.submit(lambda: list((tmp_path / "..").iterdir())).result()
    finally:
        opened.is_looking = False
    assert _outside(opened) == ["/etc/passwd", str(tmp_path / "..")]


@pytest.mark.reliability("K7")
@pytest.mark.parametrize("name", CLIMBS)
def test_a_name_that_climbs_opens_nothing_outside(
    guarded: Served, opened: _Opened, name: str
) -> None:
    """Decisions, explanations, models, versions, releases to stage: every name of a caller's."""
    from urllib.parse import quote

    token = f"Bearer {SECRET}"
    port = guarded.addresses.metrics_port
    opened.paths.clear()
    opened.is_looking = True
    try:
        spellings = {quote(name, safe=""), quote(quote(name, safe=""), safe="")}
        if name.isascii() and name.isprintable() and " " not in name:
            spellings.add(name)
        for spelling in spellings:
            for path in (
                f"/v1/decisions/{spelling}",
                f"/v1/decisions/{spelling}/explanation",
                f"/v2/models/{spelling}",
                f"/v2/models/payments/versions/{spelling}",
            ):
                answer = guarded.request("GET", path, authorization=token)
                assert answer.status in {400, 404}, (path, answer)
        body = json.dumps({"release": name, "by": "Olga Operator"}).encode()
        answer = guarded.request(
            "POST", "/v1/operate/releases/stage", body, port=port,
            content_type="application/json", authorization=token,
        )  # fmt: skip
        assert answer.status == 200 or 400 <= answer.status < 500, answer

        def place() -> object:
            where = "/v1/operate/releases"
            return guarded.request("GET", where, port=port, authorization=token).json()["place"]

        guarded.wait_until(lambda: place() != "staging")
        assert place() == "empty"
    finally:
        opened.is_looking = False
    assert not _outside(opened)


# --- secrets --------------------------------------------------------------------------------------


def test_the_scan_finds_a_secret_where_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"xx" + SECRET.encode() + b"yy")
    assert _found_in(tmp_path, SECRET) == ["a"]


def _found_in(folder: Path, secret: str) -> list[str]:
    forms = [secret.encode(), secret.encode("utf-16-le"), secret.encode().hex().encode()]
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and any(form in path.read_bytes() for form in forms)
    ]


@pytest.mark.reliability("K8")
def test_secrets_that_were_planted_are_found_nowhere(tmp_path: Path) -> None:
    """In the token file, the environment, headers, a query, a body; not in what comes out."""
    secrets = {
        name: f"canary-{name}-" + "0123456789abcdef" * 2
        for name in ("environment", "header", "query", "cookie", "body", "grpc")
    }
    vault = tmp_path / "vault"
    vault.mkdir()
    out = tmp_path / "out"
    out.mkdir()
    seen: list[bytes] = []
    with server_process(
        out, "--tokens", str(_tokens(vault)), "--log", str(out / "log"),
        SOME_PASSWORD=secrets["environment"],
    ) as running:  # fmt: skip
        bearer = f"Bearer {SECRET}"
        seen.append(running.post(payment("kept"), authorization=bearer)[1])
        given = (f"Bearer {secrets['header']}", f"Basic {secrets['header']}", SECRET)
        seen += [running.post(payment(), authorization=header)[1] for header in given]
        seen.append(running.post(payment(), cookie=f"a={secrets['cookie']}")[1])
        path = f"/v1/score?access_token={secrets['query']}"
        seen.append(running.post(payment(), path, authorization=bearer)[1])
        bad = json.dumps({"inputs": [{"name": secrets["body"]}]}).encode()
        running.post(bad, "/v2/models/payments/infer", authorization=bearer)
        _call_with(running.grpc_port, secrets["grpc"])
        operations = ("/metrics", "/v1/health", "/v1/operate/releases", "/v1/operate/breaker")
        seen += [running.get(path, port=running.metrics_port)[1] for path in operations]
        routes = ("/v1/release", "/openapi.json", "/v2", "/nowhere")
        seen += [running.get(path)[1] for path in routes]
        seen.append(Path(f"/proc/{running.process.pid}/cmdline").read_bytes())
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(90)
    everything = b"\n".join(seen)
    assert b'"event_id":"kept"' in everything, "the control: answers were looked at"
    for name, secret in {**secrets, "token": SECRET}.items():
        assert secret.encode() not in everything, name
        assert not _found_in(out, secret), name


def _call_with(port: int, secret: str) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/sentinel.v1.Scoring/Score")
        with pytest.raises(grpc.RpcError) as refused:
            call(b"", metadata=(("authorization", f"Bearer {secret}"),), timeout=10)
    assert secret not in str(refused.value)


@pytest.mark.reliability("K8")
def test_what_holds_tokens_shows_none_of_them(tmp_path: Path) -> None:
    path = _tokens(tmp_path)
    access = Access.read(path)
    access.add_own(OTHER)
    held = [repr(access), str(vars(access)), repr(access.identify(f"Bearer {SECRET}".encode()))]
    held.append(repr(ServerSettings(tokens=path)))
    held.append(repr(Configuration()))
    with contextlib.suppress(SentinelError):
        access.require(f"Bearer {SECRET}!".encode(), Scope.OPERATE)
        raise AssertionError("a wrong token opened it")
    path.write_text(TOKENS.replace("shop", "") + "nonsense")
    with pytest.raises(SentinelError) as refused:
        Access.read(path)
    held += [str(refused.value), repr(refused.value)]
    for text in held:
        assert SECRET not in text
        assert OTHER not in text


@pytest.mark.reliability("K8")
def test_the_store_is_shown_without_its_password(tmp_path: Path) -> None:
    """An address of Redis with a password, in the configuration and in what the start says."""
    address = f"redis://scorer:{SECRET}@127.0.0.1:1/0"
    commands = (
        ("config", "show"),
        ("config", "show", "--json"),
        ("serve", "nowhere", "--unapproved"),
    )
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", "sentinel.cli", *command],
            capture_output=True, text=True, cwd=tmp_path, check=False, timeout=60,
            env={"SENTINEL_STORE": address, "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        assert SECRET not in done.stdout + done.stderr, command


# --- connections ----------------------------------------------------------------------------------

URLS = [
    "http://127.0.0.1:9/x",
    "http://169.254.169.254/latest",
    "file:///etc/passwd",
    "gopher://a:70/",
]


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.reliability("K10")
def test_the_server_opens_no_address_that_a_request_names(tmp_path: Path) -> None:
    """Every connection that it makes under strace is to its own door."""
    trace = tmp_path / "trace"
    with server_process(tmp_path) as running:
        pid = running.process.pid
        watch = subprocess.Popen(
            ["strace", "-f", "-q", "-e", "trace=connect,openat", "-o", str(trace), "-p", str(pid)],
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(lambda: watch.poll() is not None or _is_traced(pid))
            if watch.poll() is not None:
                pytest.skip("strace may not attach to a process here")
            for url in URLS:
                running.post(payment(card_id=url[:32]))
                running.post(payment(), url)
                running.post(
                    payment(), "/v1/score", origin=url, referer=url, host="169.254.169.254"
                )
                running.post(infer_body([[1.0] * 5], id=url), "/v2/models/payments/infer")
                running.post(json.dumps({"inputs": url}).encode(), "/v2/models/payments/infer")
                running.get(f"/v1/decisions/{url.replace('/', '%2f')}")
                running.get(f"http://{url.partition('://')[2]}")
            time.sleep(5.5)  # what a request has begun may come later
            wait_until(lambda: "connect(" in trace.read_text(errors="replace"))
        finally:
            watch.send_signal(signal.SIGINT)
            watch.wait(20)
        port = running.http_port
    text = trace.read_text(errors="replace")
    connects = re.findall(r"connect\(\d+, (\{.*?\})", text)
    assert connects, "the control: the canary has connected to its own door"
    own = f'sin_port=htons({port}), sin_addr=inet_addr("127.0.0.1")'
    assert all(own in each for each in connects), connects
    assert "/etc/passwd" not in text


def _is_traced(pid: int) -> bool:
    """Whether somebody watches each of its threads."""
    try:
        states = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    except OSError:
        return False  # one of them has just ended
    return bool(states) and not any("TracerPid:\t0\n" in state for state in states)
