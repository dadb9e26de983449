"""Servers in this process and raw sockets to them: real listeners, real threads, no mocks."""

from __future__ import annotations

import http.client
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import uvloop

from sentinel.core.configuration import Configuration
from sentinel.release import LoadedRelease, load_release
from sentinel.scoring.champion import GuardedChampion
from sentinel.serving.batching.queue_of_rows import OverloadedError
from sentinel.serving.batching.work import Work
from sentinel.serving.opening import Opened, open_parts
from sentinel.serving.plane import Plane
from sentinel.serving.releases.release_source import ReleaseSource
from sentinel.serving.server import Addresses, Server
from sentinel.serving.settings import ServerSettings
from sentinel.testing import wait_until

GOLDEN = Path(__file__).parent.parent / "golden" / "releases" / "format-1"
MODEL = "payments"
N_FEATURES = 5
# For what another thread does on a machine that is busy with other tests.
_WAIT_S = 90.0

# A connection that should end and does not is waited for no longer than this.
QUIET_S = 20.0

Champion = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]


def golden_release() -> LoadedRelease:
    """Load the golden release, approved by nobody."""
    return load_release(
        GOLDEN / "payments-1.2.0", None, now_ms=time.time_ns() // 1_000_000, allow_unapproved=True
    )


_NUMBERS = iter(range(10**9))


def payment(event_id: str | None = None, **fields: object) -> bytes:
    """Write an event that keeps the contract, of this moment."""
    event: dict[str, object] = {
        "payment_id": event_id or f"t{next(_NUMBERS)}",
        "paid_at": time.time_ns() // 1_000_000,
        "card_id": "c25",
        "amount": 19.56,
        "channel": "chip",
        **fields,
    }
    return json.dumps(event).encode()


def payments(prefix: str) -> Callable[[int], bytes]:
    """Return what writes the payments of a load, by their numbers: quick, of this moment."""
    stamp = time.time_ns() // 1_000_000

    def body(number: int) -> bytes:
        return (
            f'{{"payment_id":"{prefix}{number}","paid_at":{stamp},"card_id":"c{number % 50}",'
            '"amount":19.56,"channel":"chip"}'
        ).encode()

    return body


def refuses_often(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Let the queue have no room half of the time; says of each request whether it was refused."""
    chance, score, said = random.Random(5), Plane.score, []

    def score_or_refuse(plane: Plane, *asked: Any) -> Work:
        said.append(chance.random() < 0.5)
        if said[-1]:
            raise OverloadedError(expected="room", got="none", retry_s=1.0)
        return score(plane, *asked)

    monkeypatch.setattr(Plane, "score", score_or_refuse)
    return said


def verdict(verdict_id: str) -> bytes:
    """Write feedback that keeps its contract, of this moment."""
    now_ms = time.time_ns() // 1_000_000
    event = {"verdict_id": verdict_id, "known_at": now_ms, "payment_id": "t", "is_fraud": False}
    return json.dumps(event).encode()


@dataclass(frozen=True)
class Answered:
    """A response, read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.body)
        return found

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.body.splitlines()]


class Served:
    """A running server."""

    def __init__(self, opened: Opened, plane: Plane, addresses: Addresses, server: Server) -> None:
        self.opened = opened
        self.plane = plane
        self.addresses = addresses
        self.server = server
        self.champion = opened.scorer.champion._path.champion

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        port: int | None = None,
        timeout_s: float = 60.0,
        **headers: str,
    ) -> Answered:
        """Ask over a connection of its own."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", port or self.addresses.http_port, timeout=timeout_s
        )
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body=body, headers=named)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answered(response.status, found, response.read())
        finally:
            connection.close()

    def score(self, *events: bytes, **headers: str) -> Answered:
        """Score one event as JSON, several as lines."""
        if len(events) == 1:
            return self.request(
                "POST", "/v1/score", events[0], content_type="application/json", **headers
            )
        body = b"\n".join(events) + b"\n"
        return self.request(
            "POST", "/v1/score", body, content_type="application/x-ndjson", **headers
        )

    def infer(self, rows: Sequence[Sequence[float]], **more: object) -> Answered:
        """Score rows of features."""
        return self.request(
            "POST",
            f"/v2/models/{MODEL}/infer",
            infer_body(rows, **more),
            content_type="application/json",
        )

    def raw(self, content: bytes, *, port: int | None = None, half_close: bool = False) -> bytes:
        """Send bytes as they are; return all that comes until the server ends the connection."""
        with socket.create_connection(
            ("127.0.0.1", port or self.addresses.http_port), timeout=QUIET_S
        ) as link:
            link.sendall(content)
            if half_close:
                link.shutdown(socket.SHUT_WR)
            found = b""
            try:
                while chunk := link.recv(65_536):
                    found += chunk
            except (TimeoutError, ConnectionResetError):
                pass
            return found

    def operate(self, what: str, **body: object) -> Answered:
        """Do what an operator does; ``what`` is the end of a path, and without a body read it."""
        port = self.addresses.metrics_port
        if not body:
            return self.request("GET", f"/v1/operate/{what}", port=port)
        content = json.dumps({"by": "Olga Operator", **body}).encode()
        return self.request(
            "POST", f"/v1/operate/{what}", content, port=port, content_type="application/json"
        )

    def stage(self, name: str) -> dict[str, object]:
        """Stage a release and wait until it is, or is not."""
        assert self.operate("releases/stage", release=name).status == 200
        self.wait_until(lambda: self.operate("releases").json()["place"] != "staging")
        return self.operate("releases").json()

    def break_champion(self, champion: Champion) -> None:
        """Put another model where the champion is."""
        self.break_champion_of(self.opened.scorer.champion, champion)

    def break_champion_of(self, guarded: GuardedChampion, champion: Champion) -> None:
        """Put another model where the champion of a release is."""
        guarded._path = replace(guarded._path, champion=champion)

    @contextmanager
    def scoring_held(self) -> Iterator[None]:
        """Keep the scoring thread busy from the first line inside to the last."""
        is_held, is_over = threading.Event(), threading.Event()

        def hold() -> None:
            is_held.set()
            is_over.wait(60)

        self.plane.batcher.call(hold)
        try:
            # A request that came before this would be scored before the call is made.
            assert is_held.wait(_WAIT_S)
            yield
        finally:
            is_over.set()

    def wait_until(self, holds: Callable[[], bool], *, wait_s: float = _WAIT_S) -> None:
        """Wait for something that another thread does."""
        wait_until(holds, wait_s=wait_s, detail=self.plane.health)

    def wait_ready(self) -> None:
        self.wait_until(lambda: self.plane.health().is_ready)

    def stop(self) -> None:
        loop = self.plane.batcher._loop
        loop.call_soon_threadsafe(self.server.stop)


def infer_body(rows: Sequence[Sequence[float]], **more: object) -> bytes:
    """Write a request of the REST protocol."""
    document: dict[str, object] = {
        "inputs": [
            {
                "name": "features",
                "shape": [len(rows), N_FEATURES],
                "datatype": "FP32",
                "data": [number for row in rows for number in row],
            }
        ],
        **more,
    }
    return json.dumps(document).encode()


@contextmanager
def served(
    folder: Path,
    *,
    loaded: LoadedRelease | None = None,
    source: ReleaseSource | None = None,
    **settings: object,
) -> Iterator[Served]:
    """Serve a release, the golden one by default, in a thread of this process."""
    plain: dict[str, object] = {
        "http_port": 0,
        "grpc_port": 0,
        "metrics_port": 0,
        "quarantine": folder / "quarantine",
        "drain_notice_s": 0.0,
        "canary_s": 0.25,
        # At the priority of the tests: beside them, what is below it would wait for minutes.
        "explainer_nice": 0,
        "timeout_ms": 9_000,
        **settings,
    }
    started = threading.Event()
    found: list[tuple[Addresses, Plane]] = []
    faults: list[BaseException] = []
    with ExitStack() as stack:
        chosen = ServerSettings(**plain)  # type: ignore[arg-type]
        opened = open_parts(loaded or golden_release(), chosen, Configuration(), stack)
        server = Server(opened, chosen, source=source)

        def on_started(addresses: Addresses, plane: Plane) -> None:
            found.append((addresses, plane))
            started.set()

        def run() -> None:
            try:
                uvloop.run(server.run(on_started))
            except BaseException as fault:  # noqa: BLE001 -- told to the test
                faults.append(fault)
            finally:
                started.set()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        assert started.wait(_WAIT_S)
        if faults:
            thread.join()
            raise faults[0]
        running = Served(opened, found[0][1], found[0][0], server)
        try:
            yield running
        finally:
            if thread.is_alive():
                running.stop()
            thread.join(_WAIT_S)
        assert not thread.is_alive()
        assert not faults
