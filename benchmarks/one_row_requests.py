"""One row a request, JSON over HTTP: how near the server comes to what the machine can do.

Three servers, each in a process of its own on one core, the load on the other, in turns:

* *limit*: a bare asyncio protocol with httptools and uvloop, the model inline, no check at all;
* *uvicorn*: a raw ASGI application on uvicorn with the model inline, no check at all;
* *sentinel*: ``serve`` with everything on (guards, queue, deadlines, health, metrics).

All score the same float32 features with the same ONNX bytes (200 trees of 31 leaves), through the
Open Inference Protocol. The load is closed: each connection sends when it has its answer.
``/v1/score`` (an event: contract, features, decision) has a line of its own.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httptools
import msgspec
import numpy as np
import uvloop
from event_path import make_data, make_release

from sentinel.core.configuration import Configuration
from sentinel.data.simulator import Simulation
from sentinel.release import LoadedRelease
from sentinel.scoring import ModelSession
from sentinel.serving import ServerSettings, serve

CONCURRENCIES = (1, 16, 64)
WARM_S, RUN_S, N_RUNS = 0.5, 2.0, 3
FLOOR = 0.60


# --- the two others --------------------------------------------------------------------------


class Input(msgspec.Struct):
    """One input of the protocol."""

    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class Body(msgspec.Struct):
    """A request of the protocol."""

    inputs: list[Input]


_decode = msgspec.json.Decoder(Body).decode


def answer(session: ModelSession, body: bytes) -> bytes:
    """Do what somebody would write in an afternoon."""
    values = np.array([_decode(body).inputs[0].data], dtype=np.float32)
    score = float(session.run(values)[0])
    return b'{"model_name":"bench","outputs":[{"name":"score","shape":[1],"data":[%r]}]}' % score


def open_session(loaded: LoadedRelease) -> ModelSession:
    return ModelSession(loaded.parts.champion, n_features=len(loaded.parts.plan.names))


class Bare(asyncio.Protocol):
    """The limit: nothing but a parser and the model."""

    def __init__(self, session: ModelSession) -> None:
        self._session = session
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Feed the parser."""
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._body += body

    def on_message_complete(self) -> None:
        """Answer."""
        body = answer(self._session, self._body)
        self._body = b""
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._transport.write(head % len(body) + body)  # type: ignore[attr-defined]


def run_bare(loaded: LoadedRelease, port: int) -> None:
    session = open_session(loaded)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(lambda: Bare(session), "127.0.0.1", port)
        await listener.serve_forever()

    uvloop.run(run())


def run_uvicorn(loaded: LoadedRelease, port: int) -> None:
    import uvicorn

    session = open_session(loaded)

    async def app(scope: dict[str, object], receive: Callable, send: Callable) -> None:  # type: ignore[type-arg]
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        content = answer(session, body)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        log_level="error",
        access_log=False,
        lifespan="off",
    )


def run_sentinel(loaded: LoadedRelease, port: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        settings = ServerSettings(
            http_port=port,
            grpc_port=0,
            metrics_port=0,
            quarantine=Path(temporary) / "quarantine",
            log=Path(temporary) / "decisions",
            drain_notice_s=0.0,
        )
        serve(loaded, settings, Configuration())


SERVERS: dict[str, Callable[[LoadedRelease, int], None]] = {
    "limit": run_bare,
    "uvicorn": run_uvicorn,
    "sentinel": run_sentinel,
}


# --- the load --------------------------------------------------------------------------------


@dataclass
class Load:
    """What one run sends: the request around a number that is new each time."""

    path: str
    before: bytes
    after: bytes

    def request(self, number: int) -> bytes:
        """Write the request of a number."""
        body = self.before + (b"%012d" % number if self.after else b"") + self.after
        head = f"POST {self.path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        return head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body


class Client(asyncio.Protocol):
    """One connection that always has one request in flight."""

    numbers = iter(range(1, 10**12))

    def __init__(self, load: Load, seconds: list[float]) -> None:
        self._load = load
        self._seconds = seconds
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        """Feed the parser."""
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """Send the next one."""
        status = self._parser.get_status_code()
        if status != 200:
            raise RuntimeError(f"status {status}")
        self._seconds.append(time.perf_counter() - self._sent_s)
        self._send()

    def _send(self) -> None:
        self._sent_s = time.perf_counter()
        self._transport.write(self._load.request(next(self.numbers)))  # type: ignore[attr-defined]


def measure(load: Load, port: int, concurrency: int) -> tuple[float, float, float]:
    """Return requests a second, and the p50 and p99 in ms."""

    async def run() -> tuple[float, float, float]:
        loop = asyncio.get_running_loop()
        seconds: list[float] = []
        links = [
            await loop.create_connection(lambda: Client(load, seconds), "127.0.0.1", port)
            for _ in range(concurrency)
        ]
        await asyncio.sleep(WARM_S)
        seconds.clear()
        started_s = time.perf_counter()
        await asyncio.sleep(RUN_S)
        taken = np.array(seconds) * 1e3
        rate = len(taken) / (time.perf_counter() - started_s)
        for transport, _ in links:
            transport.abort()
        return rate, float(np.quantile(taken, 0.5)), float(np.quantile(taken, 0.99))

    return uvloop.run(run())


def load_of(loaded: LoadedRelease) -> Load:
    """Send one row of features, always the same."""
    row = loaded.parts.canary.vectors[0].astype(float).tolist()
    tensor = {"name": "features", "shape": [1, len(row)], "datatype": "FP32", "data": row}
    body = json.dumps({"inputs": [tensor]}).encode()
    return Load(f"/v2/models/{loaded.manifest.name}/infer", body, b"")


def event_load() -> Load:
    """Send one event, new each time and of this moment."""
    raw = next(
        Simulation(seed=3, n_cards=200, n_merchants=50, days=2, events_per_day=500).batches(1)
    )
    event = json.loads(raw.event_bytes(0))
    event["occurred_at"] = int(time.time() * 1000)
    event["transaction_id"] = "NUMBER"
    before, after = json.dumps(event).encode().split(b"NUMBER")
    return Load("/v1/score", before, after)


@contextmanager
def running(name: str, loaded: LoadedRelease, port: int) -> Iterator[None]:
    """Run a server in a process of its own on the first core."""
    process = multiprocessing.get_context("fork").Process(target=_pinned, args=(name, loaded, port))
    process.start()
    try:
        wait_for(port, path="/v2/health/ready" if name == "sentinel" else "")
        yield
    finally:
        process.terminate()
        process.join()


def wait_for(port: int, *, path: str) -> None:
    """Wait until a server listens, and where it can say so, until it is ready."""
    for _ in range(600):
        try:
            link = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
            link.connect()
            if not path:
                return
            link.request("GET", path)
            if link.getresponse().status == http.HTTPStatus.OK:
                return
        except OSError:
            pass
        finally:
            link.close()
        time.sleep(0.05)
    raise RuntimeError("the server did not start")


def _pinned(name: str, loaded: LoadedRelease, port: int) -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    SERVERS[name](loaded, port)


def main() -> None:
    """Build a release, then measure in turns."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        loaded = make_release(folder, *make_data(folder / "data"))
        cores = os.sched_getaffinity(0)
        rates: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
        for run in range(N_RUNS):
            for number, name in enumerate((*SERVERS, "sentinel, events")):
                server = name.partition(",")[0]
                with running(server, loaded, 18_200 + 10 * run + number):
                    os.sched_setaffinity(0, {max(cores)})
                    load = event_load() if name != server else load_of(loaded)
                    for concurrency in CONCURRENCIES:
                        found = measure(load, 18_200 + 10 * run + number, concurrency)
                        rates.setdefault((name, concurrency), []).append(found)
                os.sched_setaffinity(0, cores)
        report(rates, n_features=len(loaded.parts.plan.names))


def report(
    rates: dict[tuple[str, int], list[tuple[float, float, float]]], *, n_features: int
) -> None:
    print(f"One row of {n_features} features a request; medians of {N_RUNS} interleaved runs.\n")
    print("| server | connections | requests/s | p50 ms | p99 ms | of the limit |")
    print("| --- | --- | --- | --- | --- | --- |")
    for (name, concurrency), runs in rates.items():
        rate, p50, p99 = (statistics.median(values) for values in zip(*runs, strict=True))
        limits = [limit for limit, _, _ in rates["limit", concurrency]]
        ratio = statistics.median(
            own / limit for (own, _, _), limit in zip(runs, limits, strict=True)
        )
        note = " (below the floor)" if name == "sentinel" and ratio < FLOOR else ""
        print(
            f"| {name} | {concurrency} | {rate:,.0f} | {p50:.2f} | {p99:.2f} | {ratio:.2f}{note} |"
        )
    print(f"\nFloor of `sentinel`: {FLOOR:.2f} of the limit; goal: 1.00 at 16 and above.")


if __name__ == "__main__":
    main()
