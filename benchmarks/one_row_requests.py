"""One row a request, JSON over HTTP: how near the server comes to what the machine can do.

Each server in a process of its own on one core, the load on the other, in turns:

* *limit*: a bare asyncio protocol with httptools and uvloop, the model inline, no check at all;
* *uvicorn*: a raw ASGI application on uvicorn with the model inline, no check at all;
* *FastAPI*: the usual service by hand, Pydantic and onnxruntime, from an environment of its own
  (``SENTINEL_RIVALS`` names its Python; without it the row is left out);
* *sentinel*: ``serve`` with everything on (guards, queue, deadlines, health, metrics, log).

All score the same float32 rows, another one each time, with the same ONNX bytes (200 trees of 31
leaves), through the Open Inference Protocol. One row sent again and again would flatter everybody:
the processor learns the way of a row through the trees. The load is closed: each connection sends
when it has its answer. ``/v1/score`` (an event: contract, features, decision, log) has lines of its
own: nobody else does that work. Besides requests a second stands the processor time of the
server's process a request, which a busy machine disturbs less.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import multiprocessing
import os
import statistics
import subprocess
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
from _reference import make_data, make_release

from sentinel.core.configuration import Configuration
from sentinel.data.simulator import Simulation
from sentinel.release import LoadedRelease
from sentinel.scoring import ModelSession
from sentinel.serving import ServerSettings, serve

CONCURRENCIES = (1, 16, 64)
WARM_S, RUN_S, N_RUNS = 0.5, 2.0, 3
FLOOR = 0.60
# Names the Python of an environment with fastapi, uvicorn, uvloop, httptools and onnxruntime.
RIVALS = "SENTINEL_RIVALS"


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


def run_sentinel(loaded: LoadedRelease, port: int, *, grpc_port: int = 0) -> None:
    """Serve with everything on."""
    with tempfile.TemporaryDirectory() as temporary:
        settings = ServerSettings(
            http_port=port,
            grpc_port=grpc_port,
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
    """What one run sends: bodies in turn, with a number that is new each time put in."""

    path: str
    bodies: list[tuple[bytes, bytes]]
    is_numbered: bool

    def body(self, number: int) -> bytes:
        """Write the body of a number."""
        before, after = self.bodies[number % len(self.bodies)]
        return before + b"%013d" % number + after if self.is_numbered else before

    def request(self, number: int) -> bytes:
        """Write the request of a number."""
        body = self.body(number)
        head = f"POST {self.path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        return head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body


class Client(asyncio.Protocol):
    """One connection that always has one request in flight."""

    numbers = iter(range(int(time.time()) * 1000, 10**13))

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


Found = tuple[float, float, float, float]


def measure(load: Load, port: int, concurrency: int, pid: int) -> Found:
    """Return requests a second, the p50 and p99 in ms, and server time a request in us."""

    async def run() -> Found:
        loop = asyncio.get_running_loop()
        seconds: list[float] = []
        links = [
            await loop.create_connection(lambda: Client(load, seconds), "127.0.0.1", port)
            for _ in range(concurrency)
        ]
        await asyncio.sleep(WARM_S)
        seconds.clear()
        started_s, used_s = time.perf_counter(), processor_s(pid)
        await asyncio.sleep(RUN_S)
        taken = np.array(seconds) * 1e3
        rate = len(taken) / (time.perf_counter() - started_s)
        used_s = processor_s(pid) - used_s
        for transport, _ in links:
            transport.abort()
        p50, p99 = (float(np.quantile(taken, q)) for q in (0.5, 0.99))
        return rate, p50, p99, used_s / len(taken) * 1e6

    return uvloop.run(run())


def processor_s(pid: int) -> float:
    """Return the processor time that a process has used, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rows_of(loaded: LoadedRelease) -> list[np.ndarray]:
    """Return rows as traffic has them: those of the canary."""
    return list(loaded.parts.canary.vectors)


def load_of(loaded: LoadedRelease) -> Load:
    """Send rows of features, another one each time."""
    bodies = []
    for row in rows_of(loaded):
        data = row.astype(float).tolist()
        tensor = {"name": "features", "shape": [1, len(data)], "datatype": "FP32", "data": data}
        bodies.append((json.dumps({"inputs": [tensor]}).encode(), b""))
    return Load(f"/v2/models/{loaded.manifest.name}/infer", bodies, is_numbered=False)


def event_load() -> Load:
    """Send events of many cards, each with an id of its own and of this moment."""
    bodies = []
    world = Simulation(seed=3, n_cards=2_000, n_merchants=200, days=2, events_per_day=500)
    for raw in world.batches(500):
        for number in range(raw.n_events):
            event = json.loads(raw.event_bytes(number))
            event["occurred_at"] = int(time.time() * 1000)
            event["transaction_id"] = "NUMBER"
            before, after = json.dumps(event).encode().split(b"NUMBER")
            bodies.append((before, after))
    return Load("/v1/score", bodies, is_numbered=True)


@contextmanager
def running(name: str, loaded: LoadedRelease, port: int) -> Iterator[int]:
    """Run a server in a process of its own on the first core; give its process id."""
    process = multiprocessing.get_context("fork").Process(target=_pinned, args=(name, loaded, port))
    process.start()
    try:
        wait_for(port, path="/v2/health/ready" if name == "sentinel" else "")
        yield process.pid or 0
    finally:
        process.terminate()
        process.join()


@contextmanager
def running_fastapi(loaded: LoadedRelease, port: int) -> Iterator[int]:
    """Run the service that one writes by hand, from its own environment, on the first core."""
    with tempfile.TemporaryDirectory() as temporary:
        model = Path(temporary) / "model.onnx"
        model.write_bytes(loaded.parts.champion)
        server = Path(__file__).with_name("_fastapi_server.py")
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(cores)})
        process = subprocess.Popen(
            [os.environ[RIVALS], str(server), str(model), str(port)],
            env={"PATH": os.environ["PATH"]},
        )
        os.sched_setaffinity(0, cores)
        try:
            wait_for(port, path="")
            yield process.pid
        finally:
            process.terminate()
            process.wait()


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
        loaded = make_release(folder, *make_data(folder / "data", days=9))
        cores = os.sched_getaffinity(0)
        found: dict[tuple[str, int], list[Found]] = {}
        names = [*SERVERS, "sentinel, events"]
        if RIVALS in os.environ:
            names.insert(2, "FastAPI")
        for run in range(N_RUNS):
            for number, name in enumerate(names):
                port = 18_200 + 10 * run + number
                server = name.partition(",")[0]
                started = (
                    running_fastapi(loaded, port)
                    if name == "FastAPI"
                    else running(server, loaded, port)
                )
                with started as pid:
                    os.sched_setaffinity(0, {max(cores)})
                    load = event_load() if name != server else load_of(loaded)
                    for concurrency in CONCURRENCIES:
                        seen = measure(load, port, concurrency, pid)
                        found.setdefault((name, concurrency), []).append(seen)
                os.sched_setaffinity(0, cores)
        report(found, n_features=len(loaded.parts.plan.names))


def report(found: dict[tuple[str, int], list[Found]], *, n_features: int) -> None:
    """Print the table."""
    print(f"One row of {n_features} features a request; medians of {N_RUNS} interleaved runs.\n")
    print_table(found)
    print(f"\nFloor of `sentinel`: {FLOOR:.2f} of the limit; goal: 1.00 at 16 and above.")


def print_table(found: dict[tuple[str, int], list[Found]]) -> None:
    """Print the medians of each server, and of its ratios to the limit within a run."""
    print("| server | connections | requests/s | p50 ms | p99 ms | server us | of the limit |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for (name, concurrency), runs in found.items():
        rate, p50, p99, used_us = (statistics.median(part) for part in zip(*runs, strict=True))
        limits = [limit[0] for limit in found["limit", concurrency]]
        ratio = statistics.median(own[0] / limit for own, limit in zip(runs, limits, strict=True))
        note = " (below the floor)" if name.startswith("sentinel") and ratio < FLOOR else ""
        print(
            f"| {name} | {concurrency} | {rate:,.0f} | {p50:.2f} | {p99:.2f} | {used_us:.0f} "
            f"| {ratio:.2f}{note} |"
        )


if __name__ == "__main__":
    main()
