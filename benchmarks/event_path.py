"""The whole event path on one core: raw JSON in, guarded decisions out, everything on.

Contract, features of three entities, boosted trees (200 rounds of 31 leaves), sanity, breaker,
drift of every feature, decision log with the full vector (Parquet, synced), quarantine, metrics.

Beside it, in interleaved runs over the same bytes: the parts without any guard (decode, features,
model), the model alone, and the rival: a micro-batch that somebody writes by hand in an afternoon
(msgspec, windows in dictionaries, the same model, no guard, no log).
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
from _reference import make_data, make_release

from sentinel.cli.session import SessionPlan, open_session
from sentinel.contract import Decoder, RawBatch
from sentinel.core.configuration import Configuration
from sentinel.data import EventFile
from sentinel.features import Engine
from sentinel.release import LoadedRelease
from sentinel.scoring import Sinks

N_BATCH = 2048
N_RUNS = 5
FLOOR, GOAL = 80_000, 120_000
GUARDS_LIMIT = 0.15


def main() -> None:
    """Build a release, then measure."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        events, feedback = make_data(folder / "data")
        release = make_release(folder, events, feedback)
        batches = list(EventFile(events).batches(n_events=N_BATCH))[-150:]
        measure(folder, release, batches)


def measure(folder: Path, release: LoadedRelease, batches: list[RawBatch]) -> None:
    """Run everything in turns and print medians."""
    n_events = sum(batch.n_events for batch in batches)
    vectors = vectors_of(release, batches)
    stages: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {}
    state = {}

    def whole(run: int) -> float:
        plan = SessionPlan(
            folder=folder / "release",
            trust=None,
            allow_unapproved=True,
            quarantine=folder / f"quarantine-{run}",
            log=folder / f"log-{run}",
        )
        with open_session(plan, Configuration()) as session:
            # The clock of live scoring: a replay's would close a window of drift every batch.
            scorer = release.open_scorer(
                Sinks(refusals=session.quarantine, decisions=session.log, metrics=session.metrics)
            )
            started = time.process_time()
            for batch in batches:
                scorer.score(batch)
            if session.log is not None:
                session.log.flush()
            spent = time.process_time() - started
            for stage in scorer.timer.report():
                stages.setdefault(stage.stage, []).append(stage.total_s)
            status = scorer.status()
            state["entity"] = status.state_bytes / max(status.n_entities, 1)
            state["entities"] = float(status.n_entities)
        return spent

    rows: dict[str, Callable[[int], float]] = {
        "whole event path, all guards": whole,
        "decode, features, model: no guard": lambda _: unguarded(release, batches),
        "the model alone (limit)": lambda _: model_alone(release, vectors),
        "by hand: msgspec, dictionaries, model": lambda _: by_hand(release, batches),
    }
    for run in range(N_RUNS):
        for name, work in rows.items():
            seconds.setdefault(name, []).append(work(run))
    report(n_events, seconds, stages, state)


def vectors_of(release: LoadedRelease, batches: list[RawBatch]) -> list[np.ndarray]:
    """Compute the model's inputs once."""
    decoder, engine = Decoder(release.events), Engine(release.parts.plan)
    return [engine.advance(decoder.decode(batch).events).values for batch in batches]


def session_of(release: LoadedRelease) -> onnxruntime.InferenceSession:
    """Open the champion as anybody would, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        release.parts.champion, options, providers=["CPUExecutionProvider"]
    )


def unguarded(release: LoadedRelease, batches: list[RawBatch]) -> float:
    """Time Sentinel's parts in a row without a scorer around them."""
    decoder, engine = Decoder(release.events), Engine(release.parts.plan)
    session = session_of(release)
    name = session.get_inputs()[0].name
    started = time.process_time()
    for batch in batches:
        session.run(None, {name: engine.advance(decoder.decode(batch).events).values})
    return time.process_time() - started


def model_alone(release: LoadedRelease, vectors: list[np.ndarray]) -> float:
    """Time ONNX Runtime on ready vectors."""
    session = session_of(release)
    name = session.get_inputs()[0].name
    started = time.process_time()
    for values in vectors:
        session.run(None, {name: values})
    return time.process_time() - started


class Payment(msgspec.Struct):
    """What the hand-written loop decodes to."""

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


def by_hand(release: LoadedRelease, batches: list[RawBatch]) -> float:
    """Time the afternoon's work: three entities, running counts and means of 1 h and 24 h."""
    session = session_of(release)
    name = session.get_inputs()[0].name
    n_features = len(release.parts.plan.names)
    decode = msgspec.json.Decoder(Payment).decode
    windows: dict[tuple[int, str | None, int], Window] = {}
    lines = [[batch.event_bytes(i) for i in range(batch.n_events)] for batch in batches]
    started = time.process_time()
    for part in lines:
        values = np.zeros((len(part), n_features), dtype=np.float32)
        for row, line in enumerate(part):
            event = decode(line)
            vector = [event.amount, float(event.is_vpn_proxy)]
            keys = (event.card_id, event.merchant_id, event.device_id)
            for kind, key in enumerate(keys):
                for length_ms in (3_600_000, 86_400_000):
                    window = windows.get((kind, key, length_ms))
                    if window is None:
                        window = windows[kind, key, length_ms] = Window(length_ms)
                    vector += window.read(event.occurred_at)
                    window.add(event.occurred_at, event.amount)
            values[row, : len(vector)] = vector
        session.run(None, {name: values})
    return time.process_time() - started


class Window:
    """Count and sum of a sliding window, kept up to date."""

    __slots__ = ("items", "length_ms", "total")

    def __init__(self, length_ms: int) -> None:
        self.items: deque[tuple[int, float]] = deque()
        self.length_ms = length_ms
        self.total = 0.0

    def read(self, now_ms: int) -> tuple[float, float]:
        """Drop what is too old; return count and mean."""
        items = self.items
        while items and items[0][0] <= now_ms - self.length_ms:
            self.total -= items.popleft()[1]
        return len(items), self.total / max(len(items), 1)

    def add(self, now_ms: int, amount: float) -> None:
        """Take an event in."""
        self.items.append((now_ms, amount))
        self.total += amount


def report(
    n_events: int,
    seconds: dict[str, list[float]],
    stages: dict[str, list[float]],
    state: dict[str, float],
) -> None:
    """Print the tables."""
    medians = {name: statistics.median(runs) for name, runs in seconds.items()}
    whole, *_ = medians.values()
    print(
        f"{n_events:,} events in batches of {N_BATCH}, one core, processor time, "
        f"median of {N_RUNS} in turns"
    )
    print(f"{'':40} {'events/s':>10} {'us/event':>9} {'of the whole path':>18}")
    for name, spent in medians.items():
        rate = n_events / spent
        print(f"{name:40} {rate:10,.0f} {spent / n_events * 1e6:9.2f} {whole / spent:17.2f}x")
    rate = n_events / whole
    verdict = "goal met" if rate >= GOAL else "floor met" if rate >= FLOOR else "BELOW THE FLOOR"
    print(f"floor {FLOOR:,}, goal {GOAL:,}: {verdict}")
    bare = medians["decode, features, model: no guard"]
    guards = 1 - bare / whole
    kept = "kept" if guards <= GUARDS_LIMIT else "NOT kept"
    print(f"all guards together: {guards:.1%} of the path; limit {GUARDS_LIMIT:.0%}: {kept}")
    # Stages are laps of the wall clock in the scoring thread: shares are of their own sum.
    laps = {name: statistics.median(runs) for name, runs in stages.items()}
    print(f"\n{'stage, wall':12} {'us/event':>9} {'share':>7}")
    for name, spent in laps.items():
        share = spent / sum(laps.values())
        print(f"{name:12} {spent / n_events * 1e6:9.2f} {share:7.1%}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"\nstate: {state['entities']:,.0f} entities, {state['entity']:,.0f} bytes an entity; "
        f"peak memory of this process, training included: {peak:,.0f} MB"
    )


if __name__ == "__main__":
    sys.exit(main())
