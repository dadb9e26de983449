"""Kafka in, decisions out, one worker process on one core; the cluster and the load on the other.

The rivals read the same topic, keep two windows of the card in dictionaries (Sentinel: 30 features
of three entities) and run the same model: a loop that takes one message at a time, and a
micro-batch; neither has a guard, durable state or a position of its own. The limit is a consumer
that does nothing with what it reads.

Every run is a process of its own, pinned to one core; its clock starts with its first event and
stops when the broker has acknowledged its last decision. Where others use the machine, the second
column counts: events a second in which the process had the core.

The events come at 50,000 a second of their own time, as live ones do. The last row is another task:
eight days of 17 events a minute, caught up with over all partitions. In the order in which they are
read most events would be too late for every window; the worker carries partitions at one time.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import deque
from pathlib import Path

import _reference
import confluent_kafka as kafka
import msgspec
import numpy as np
from _reference import make_data

from sentinel.cli.release import now_ms
from sentinel.release import LoadedRelease, load_release
from sentinel.testing.mock_kafka import MockKafka

N_RUNS = 3
N_EVENTS = 200_000
N_PARTITIONS = 32
N_BATCH = 2048
EVENTS_PER_MS = 50
FLOOR, GOAL = 50_000, 80_000
SECONDS_MAX = 120
KINDS = {
    "bare": "bare consumer (limit)",
    "loop": "by hand, one message at a time",
    "micro": "by hand, micro-batch, no guard",
    "worker": "sentinel stream",
    "history": "sentinel stream, 8 days",
}


def main() -> None:
    """Build a release, then measure in turns."""
    if len(sys.argv) > 1:
        work(json.loads(sys.argv[1]))
        return
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[0]})
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        history = make_release(folder)
        live = at_full_rate(history)
        rates: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
        for run in range(N_RUNS):
            for kind in KINDS if run == 0 else list(KINDS)[:-1]:  # history takes its time
                lines = history if kind == "history" else live
                rates[kind].append(measure(folder, lines, kind, run, core=cores[-1]))
        report(N_EVENTS, rates)


def make_release(folder: Path) -> list[tuple[bytes, bytes, int]]:
    """Build the reference release; return value, key and time of the events to carry."""
    events, feedback = make_data(folder / "data")
    _reference.make_release(folder, events, feedback)
    found = []
    with events.open("rb") as file:
        for line in list(file)[-N_EVENTS:]:
            event = json.loads(line)
            found.append((line.rstrip(), event["card_id"].encode(), event["occurred_at"]))
    return found


def at_full_rate(lines: list[tuple[bytes, bytes, int]]) -> list[tuple[bytes, bytes, int]]:
    """Give events the times of a stream of 50,000 a second, in their order."""
    first, found = lines[0][2], []
    for number, (value, key, _) in enumerate(lines):
        at_ms = first + number // EVENTS_PER_MS
        moved = re.sub(rb'("occurred_at": ?)\d+', rb"\g<1>%d" % at_ms, value, count=1)
        found.append((moved, key, at_ms))
    return found


def measure(
    folder: Path, lines: list[tuple[bytes, bytes, int]], kind: str, run: int, *, core: int
) -> tuple[float, float]:
    """Fill a fresh cluster, let one process work on it; events a second, by clock and busy."""
    topics = {"events": N_PARTITIONS, "decisions": N_PARTITIONS, "quarantine": 1}
    with MockKafka(topics) as mock:
        producer = kafka.Producer(
            {
                "bootstrap.servers": mock.bootstrap,
                "linger.ms": 50,
                "compression.type": "lz4",
                "queue.buffering.max.messages": 1_000_000,
            }
        )
        for value, key, at_ms in lines:
            producer.produce("events", value, key=key, timestamp=at_ms)
        if producer.flush(SECONDS_MAX):
            raise RuntimeError("the mock cluster did not take the events")
        order = {
            "kind": kind,
            "bootstrap": mock.bootstrap,
            "release": str(folder / "release"),
            "state": str(folder / f"state-{kind}-{run}"),
            "n_events": len(lines),
            "core": core,
        }
        done = subprocess.run(
            [sys.executable, __file__, json.dumps(order)],
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        sys.stderr.write(done.stderr)
        spent = json.loads(done.stdout.splitlines()[-1])
        return len(lines) / spent["seconds"], len(lines) / spent["busy"]


def work(order: dict[str, object]) -> None:
    """Be one of the kinds, in a process of its own, on one core."""
    os.sched_setaffinity(0, {int(str(order["core"]))})
    carriers = {"bare": bare, "loop": loop, "micro": micro, "worker": worker, "history": worker}
    seconds, busy = carriers[str(order["kind"])](order)
    print(json.dumps({"seconds": seconds, "busy": busy}))


def now() -> tuple[float, float]:
    """Read the clock, and the processor time of all threads of this process."""
    return time.perf_counter(), time.process_time()


def since(started: tuple[float, float] | None) -> tuple[float, float]:
    """Tell how long it took by both."""
    if started is None:
        raise RuntimeError("nothing was read")
    ended = now()
    return ended[0] - started[0], ended[1] - started[1]


def consumer_of(order: dict[str, object]) -> kafka.Consumer:
    """Read all partitions from their beginning, as one who runs alone does."""
    client = kafka.Consumer(
        {
            "bootstrap.servers": order["bootstrap"],
            "group.id": uuid.uuid4().hex,
            "enable.auto.commit": False,
        }
    )
    client.assign(
        [kafka.TopicPartition("events", p, kafka.OFFSET_BEGINNING) for p in range(N_PARTITIONS)]
    )
    return client


def producer_of(order: dict[str, object]) -> kafka.Producer:
    """Send with the settings that Sentinel uses."""
    return kafka.Producer(
        {
            "bootstrap.servers": order["bootstrap"],
            "linger.ms": 5,
            "enable.idempotence": True,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 400_000,
        }
    )


def bare(order: dict[str, object]) -> tuple[float, float]:
    """Read, and nothing else."""
    client = consumer_of(order)
    n_read, started = 0, None
    while n_read < int(str(order["n_events"])):
        messages = client.consume(N_BATCH, 0.05)
        started = started or (now() if messages else None)
        n_read += len(messages)
    return since(started)


class Payment(msgspec.Struct):
    """What the hand-written loops decode to."""

    transaction_id: str
    occurred_at: int
    card_id: str
    merchant_id: str
    device_id: str | None
    amount: float
    currency: str
    merchant_category: str
    channel: str
    latitude: float
    longitude: float
    is_vpn_proxy: bool


class Windows:
    """Counts and sums of 1 h and 24 h of the card alone, kept up to date in dictionaries."""

    def __init__(self) -> None:
        self._windows: dict[tuple[str, int], tuple[deque[tuple[int, float]], list[float]]] = {}

    def vector(self, event: Payment) -> list[float]:
        """Read the features of an event, then apply it."""
        vector = [event.amount, float(event.is_vpn_proxy)]
        for length_ms in (3_600_000, 86_400_000):
            key = (event.card_id, length_ms)
            window = self._windows.get(key)
            if window is None:
                window = self._windows[key] = (deque(), [0.0])
            events, total = window
            oldest = event.occurred_at - length_ms
            while events and events[0][0] <= oldest:
                total[0] -= events.popleft()[1]
            vector += [len(events), total[0], total[0] / max(len(events), 1)]
            events.append((event.occurred_at, event.amount))
            total[0] += event.amount
        return vector


class Model:
    """The champion as anybody would run it."""

    def __init__(self, order: dict[str, object]) -> None:
        import onnxruntime

        release = loaded(order)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            release.parts.champion, options, providers=["CPUExecutionProvider"]
        )
        self._name = self._session.get_inputs()[0].name
        self._n_features = len(release.parts.plan.names)

    def score(self, vectors: list[list[float]]) -> list[float]:
        """Score rows; what is missing is zero."""
        values = np.zeros((len(vectors), self._n_features), dtype=np.float32)
        values[:, : len(vectors[0])] = vectors
        outputs = self._session.run(None, {self._name: values})
        scores: list[float] = np.asarray(outputs[-1]).reshape(len(vectors), -1)[:, -1].tolist()
        return scores


def loop(order: dict[str, object]) -> tuple[float, float]:
    """Do everything message by message."""
    model, windows = Model(order), Windows()
    decode = msgspec.json.Decoder(Payment).decode
    encode = msgspec.json.Encoder().encode
    client, producer = consumer_of(order), producer_of(order)
    n_read, started = 0, None
    while n_read < int(str(order["n_events"])):
        message = client.poll(0.05)
        if message is None:
            continue
        started = started or now()
        event = decode(message.value())
        score = model.score([windows.vector(event)])[0]
        producer.produce(
            "decisions",
            encode({"event_id": event.transaction_id, "score": score}),
            key=event.transaction_id,
        )
        producer.poll(0)
        n_read += 1
    producer.flush(SECONDS_MAX)
    return since(started)


def micro(order: dict[str, object]) -> tuple[float, float]:
    """Do everything in micro-batches."""
    model, windows = Model(order), Windows()
    decode = msgspec.json.Decoder(Payment).decode
    encode = msgspec.json.Encoder().encode
    client, producer = consumer_of(order), producer_of(order)
    n_read, started = 0, None
    while n_read < int(str(order["n_events"])):
        messages = client.consume(N_BATCH, 0.05)
        if not messages:
            continue
        started = started or now()
        events = [decode(message.value()) for message in messages]
        scores = model.score([windows.vector(event) for event in events])
        for event, score in zip(events, scores, strict=True):
            producer.produce(
                "decisions",
                encode({"event_id": event.transaction_id, "score": score}),
                key=event.transaction_id,
            )
        producer.poll(0)
        n_read += len(messages)
    producer.flush(SECONDS_MAX)
    return since(started)


def worker(order: dict[str, object]) -> tuple[float, float]:
    """Be `sentinel stream`: contract, durable state, all guards, outputs marked."""
    from sentinel.monitoring import Metrics
    from sentinel.streaming.kafka.settings import KafkaSettings
    from sentinel.streaming.kafka.worker import open_worker
    from sentinel.streaming.stream.job import Step, StreamJob

    stop = threading.Event()
    n_events = int(str(order["n_events"]))
    times: list[tuple[float, float]] = []

    def on_step(step: Step) -> None:
        if step is Step.READ and not times:
            times.append(now())
        if step is Step.COMMITTED and scorer.counts().read >= n_events:
            times.append(now())
            stop.set()

    job = StreamJob(
        events="events",
        decisions="decisions",
        quarantine="quarantine",
        state=Path(str(order["state"])),
        n_events_batch=N_BATCH,
    )
    settings = KafkaSettings(bootstrap=str(order["bootstrap"]), group=uuid.uuid4().hex)
    metrics = Metrics()
    carrier, scorer = open_worker(loaded(order), settings, job, metrics=metrics, on_step=on_step)
    report = carrier.run(stop)
    if report.counts.decided + report.counts.held != n_events:
        raise RuntimeError(f"not everything was decided: {report.counts}")
    stages = {
        stage.stage: round(stage.total_s / n_events * 1e6, 2) for stage in scorer.timer.report()
    }
    print(f"us/event: {stages}", file=sys.stderr)
    return times[1][0] - times[0][0], times[1][1] - times[0][1]


def loaded(order: dict[str, object]) -> LoadedRelease:
    """Load the release."""
    return load_release(Path(str(order["release"])), None, now_ms=now_ms(), allow_unapproved=True)


def report(n_events: int, rates: dict[str, list[tuple[float, float]]]) -> None:
    """Print the table."""
    by_clock = {kind: statistics.median(r for r, _ in found) for kind, found in rates.items()}
    by_core = {kind: statistics.median(r for _, r in found) for kind, found in rates.items()}
    ours = by_core["worker"]
    print(f"{n_events:,} events, {N_PARTITIONS} partitions, median of {N_RUNS} runs in turns;")
    print("a second of the core is one in which this process had it, all its threads together")
    print(f"{'':32} {'events/s':>9} {'a core s':>9} {'us/event':>9} {'ours is':>8}  least to most")
    for kind, rate in by_core.items():
        found = [r for _, r in rates[kind]]
        print(
            f"{KINDS[kind]:32} {by_clock[kind]:9,.0f} {rate:9,.0f} {1e6 / rate:9.2f} "
            f"{ours / rate:7.2f}x  {min(found):,.0f} to {max(found):,.0f}"
        )
    verdict = "goal met" if ours >= GOAL else "floor met" if ours >= FLOOR else "BELOW THE FLOOR"
    print(f"floor {FLOOR:,}, goal {GOAL:,}: {verdict}")


if __name__ == "__main__":
    main()
