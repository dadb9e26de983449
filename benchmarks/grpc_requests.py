"""One row a call over gRPC, and many events in a stream: how near the server comes to bare gRPC.

Each server in a process of its own on one core, the load on the other, in turns:

* *limit*: a bare ``grpc.aio`` handler with the model inline, no check at all;
* *sentinel, tensor*: ``ModelInfer`` of ``serve`` with everything on (guards, queue, deadlines);
* *sentinel, event*: ``Score`` of one event: contract, features, guards, decision log;
* *sentinel, stream*: ``ScoreStream``, one event a message or many, as fast as answers come.

Limit and ``ModelInfer`` get the same message with the same rows, and score them with the same
ONNX bytes. The load is closed: every caller sends when it has its answer; a stream has so many
messages under way. Besides requests a second stands the processor time of the server's process a
request, which a busy machine disturbs less. In a stream the unit is the event.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import uvloop
from _reference import make_data, make_release, open_release
from one_row_requests import event_load, open_session, processor_s, rows_of, run_sentinel, wait_for

from sentinel.release import LoadedRelease
from sentinel.serving.doors.grpc_messages import message

CONCURRENCIES = (1, 16, 64)
WARM_S, RUN_S, N_RUNS = 0.5, 2.0, 3
FLOOR, GOAL = 0.7, 1.0
STREAM_TIMES = 10
N_EVENTS = 64
INFER = "/inference.GRPCInferenceService/ModelInfer"
SCORE = "/sentinel.v1.Scoring/Score"
STREAM = "/sentinel.v1.Scoring/ScoreStream"

Found = tuple[float, float, float, float]


def run_bare(loaded: LoadedRelease, port: int) -> None:
    """Serve the model inline, as one would write it."""
    session = open_session(loaded)
    request = message("inference", "ModelInferRequest")
    response = message("inference", "ModelInferResponse")

    async def infer(asked: object, _: object) -> object:
        values = np.frombuffer(asked.raw_input_contents[0], dtype="<f4").reshape(1, -1)  # type: ignore[attr-defined]
        answer = response(model_name="bench")
        answer.outputs.add(name="score", datatype="FP32", shape=[1])  # type: ignore[attr-defined]
        answer.raw_output_contents.append(session.run(values).tobytes())  # type: ignore[attr-defined]
        return answer

    async def run() -> None:
        server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(
            infer, request.FromString, lambda answer: answer.SerializeToString()
        )
        service = INFER.split("/")[1]
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {"ModelInfer": handler}),)
        )
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        await server.wait_for_termination()

    uvloop.run(run())


SERVERS: dict[str, Callable[[LoadedRelease, int], None]] = {
    "limit": run_bare,
    "sentinel": lambda loaded, port: run_sentinel(loaded, port + 1, grpc_port=port),
}


def infer_messages(loaded: LoadedRelease) -> list[bytes]:
    """Write one request for each of many rows."""
    kind = message("inference", "ModelInferRequest")
    contents = []
    for row in rows_of(loaded):
        asked = kind(model_name=loaded.manifest.name)
        asked.inputs.add(name="features", datatype="FP32", shape=[1, len(row)])  # type: ignore[attr-defined]
        asked.raw_input_contents.append(row.tobytes())  # type: ignore[attr-defined]
        contents.append(asked.SerializeToString())
    return contents


class Messages:
    """Requests, one after the other: rows again and again, events new each time."""

    numbers = iter(range(int(time.time()) * 1000, 10**13))

    def __init__(self, loaded: LoadedRelease, path: str, n_events: int) -> None:
        self._rows = infer_messages(loaded) if path == INFER else []
        self._at = 0
        self._load = event_load()
        self._n_events = n_events
        self._kind = message("sentinel.v1", "ScoreRequest")

    def next(self) -> bytes:
        """Return one."""
        if self._rows:
            self._at = (self._at + 1) % len(self._rows)
            return self._rows[self._at]
        events = [self._load.body(next(self.numbers)) for _ in range(self._n_events)]
        return self._kind(events=events).SerializeToString()


async def call_again(
    channel: grpc.aio.Channel, path: str, messages: Messages, seconds: list[float]
) -> None:
    """Call, wait for the answer, call again."""
    call = channel.unary_unary(path)
    while True:
        started_s = time.perf_counter()
        await call(messages.next(), timeout=10.0)
        seconds.append(time.perf_counter() - started_s)


async def stream(
    channel: grpc.aio.Channel, messages: Messages, n_ahead: int, seconds: list[float]
) -> None:
    """Keep so many messages of one stream under way."""
    sent_s: asyncio.Queue[float] = asyncio.Queue()
    room = asyncio.Semaphore(n_ahead)

    async def requests() -> AsyncIterator[bytes]:
        while True:
            await room.acquire()
            sent_s.put_nowait(time.perf_counter())
            yield messages.next()

    async for _ in channel.stream_stream(STREAM)(requests()):
        seconds.append(time.perf_counter() - sent_s.get_nowait())
        room.release()


def measure(
    loaded: LoadedRelease, path: str, port: int, concurrency: int, n_events: int, pid: int
) -> Found:
    """Return units a second, p50 and p99 of a message in ms, and server time a unit in us."""

    async def run() -> Found:
        seconds: list[float] = []
        options = [("grpc.use_local_subchannel_pool", 1)]
        messages = Messages(loaded, path, n_events)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            if path == STREAM:
                tasks = [asyncio.ensure_future(stream(channel, messages, concurrency, seconds))]
            else:
                tasks = [
                    asyncio.ensure_future(call_again(channel, path, messages, seconds))
                    for _ in range(concurrency)
                ]
            await asyncio.sleep(WARM_S)
            seconds.clear()
            started_s, used_s = time.perf_counter(), processor_s(pid)
            await asyncio.sleep(RUN_S)
            taken = np.array(seconds) * 1e3
            n_units = max(len(taken), 1) * n_events
            rate = n_units / (time.perf_counter() - started_s)
            used_s = processor_s(pid) - used_s
            for task in tasks:
                if task.done():
                    task.result()
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        p50, p99 = (float(np.quantile(taken, q)) for q in (0.5, 0.99))
        return rate, p50, p99, used_s / n_units * 1e6

    return uvloop.run(run())


@contextmanager
def running(name: str, release: Path, port: int) -> Iterator[int]:
    """Run a server in a process of its own on the first core; give its process id.

    Spawned, not forked: this process has used gRPC, whose threads a fork would lose.
    """
    arguments = (name, release, port)
    process = multiprocessing.get_context("spawn").Process(target=_pinned, args=arguments)
    process.start()
    try:
        if name == "sentinel":
            wait_for(port + 1, path="/v2/health/ready")
        wait_for(port, path="")
        yield process.pid or 0
    finally:
        process.terminate()
        process.join()


def _pinned(name: str, release: Path, port: int) -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    SERVERS[name](open_release(release), port)


CASES: tuple[tuple[str, str, str, int, tuple[int, ...]], ...] = (
    ("limit", "limit", INFER, 1, CONCURRENCIES),
    ("sentinel, tensor", "sentinel", INFER, 1, CONCURRENCIES),
    ("sentinel, event", "sentinel", SCORE, 1, CONCURRENCIES),
    ("sentinel, stream, an event a message", "sentinel", STREAM, 1, (64,)),
    (f"sentinel, stream, {N_EVENTS} events a message", "sentinel", STREAM, N_EVENTS, (8,)),
)


def main() -> None:
    """Build a release, then measure in turns."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        loaded = make_release(folder, *make_data(folder / "data", days=9))
        cores = os.sched_getaffinity(0)
        found: dict[tuple[str, int], list[Found]] = {}
        for run in range(N_RUNS):
            for number, (name, server, path, n_events, concurrencies) in enumerate(CASES):
                port = 18_600 + 20 * run + 2 * number
                with running(server, folder / "release", port) as pid:
                    os.sched_setaffinity(0, {max(cores)})
                    for concurrency in concurrencies:
                        seen = measure(loaded, path, port, concurrency, n_events, pid)
                        found.setdefault((name, concurrency), []).append(seen)
                os.sched_setaffinity(0, cores)
    report(found, n_features=len(loaded.parts.plan.names))


def report(found: dict[tuple[str, int], list[Found]], *, n_features: int) -> None:
    """Print the table."""
    print(f"One row of {n_features} features a call; medians of {N_RUNS} interleaved runs.\n")
    print("| server | under way | rows/s | p50 ms | p99 ms | server us/row | of the limit |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    medians = {
        key: tuple(statistics.median(values) for values in zip(*runs, strict=True))
        for key, runs in found.items()
    }
    for (name, concurrency), (rate, p50, p99, used_us) in medians.items():
        limit = medians.get(("limit", concurrency))
        ratio = "" if limit is None or "stream" in name else f"{rate / limit[0]:.2f}"
        print(
            f"| {name} | {concurrency} | {rate:,.0f} | {p50:.2f} | {p99:.2f} | {used_us:.0f} "
            f"| {ratio} |"
        )
    unary = medians["sentinel, event", 64][0]
    print(f"\nFloor of `ModelInfer`: {FLOOR:.2f} of the limit; goal: {GOAL:.2f}.")
    for (name, _), (rate, *_rest) in medians.items():
        if "stream" in name:
            print(f"{name}: {rate / unary:.1f} times `Score` (goal {STREAM_TIMES})")


if __name__ == "__main__":
    main()
