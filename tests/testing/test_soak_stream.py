"""A worker and its store over very many events: memory, files and threads stay; so does meaning.

What is kept by design has its own bound and is taken off: the engine says how many bytes its state
has. Leaks live in error paths: refused and repeated events, batches of every size, sinks that fail,
workers that end and begin again are in every round.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import psutil
import pytest
from tests.memory_rig import taken_bytes, theil_sen

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features.stores.embedded import Durability
from sentinel.monitoring import Metrics
from sentinel.release import LoadedRelease
from sentinel.scoring import Scorer
from sentinel.scoring.counts import RunningCounts
from sentinel.streaming.stream.ends import StreamEnds
from sentinel.streaming.stream.job import StreamJob
from sentinel.streaming.stream.opening import assemble
from sentinel.streaming.stream.state import StreamState
from sentinel.streaming.stream.worker import StreamWorker
from sentinel.testing import ManualClock
from sentinel.testing.memory_log import MemoryLog, MemorySink, MemoryTopic

START_MS = 1_533_081_600_000
DAY_MS = 86_400_000
ROUND = 2_000
BYTES_MAX, BLOCKS_MAX = 10.0, 0.1
"""Of an event: a leak of 100 bytes each is ten times as much, of native memory or of objects."""


def payment(number: int, at_ms: int) -> bytes:
    return (
        b'{"payment_id": "p%d", "paid_at": %d, "card_id": "c%d", "amount": %d.25, "channel": "%s"}'
        % (number, at_ms, number % 40, number % 90, b"chip" if number % 3 else b"online")
    )


@dataclass
class Soak:
    """A topic of one partition, and one worker after another on one state."""

    loaded: LoadedRelease
    folder: Path
    clock: ManualClock = field(default_factory=lambda: ManualClock(1_800_000_000_000))
    first_position: int = 0

    def __post_init__(self) -> None:
        self.topic = MemoryTopic("events", 1)
        self.topic.partitions[0].low = self.first_position
        self.sink = MemorySink()
        self.n_sent = 0
        self.n_refused = 0
        self.start()

    def start(self) -> None:
        """Start a worker."""
        job = StreamJob(
            events="events",
            decisions="decisions",
            quarantine="refused",
            state=self.folder / "state",
            n_events_batch=4_096,
        )
        self.log = MemoryLog(self.topic)
        self.worker, self.scorer = self._assembled(job)
        self.worker.start()

    def _assembled(self, job: StreamJob) -> tuple[StreamWorker, Scorer]:
        def open_state(folder: Path) -> StreamState:
            self.state = StreamState(
                self.loaded.parts.plan,
                folder,
                durability=Durability.PROCESS,
                snapshot_every_events=ROUND,
            )
            return self.state

        ends = StreamEnds(events=self.log, sink=self.sink)
        return assemble(
            self.loaded,
            ends,
            job,
            metrics=Metrics(with_process=False),
            clock=self.clock,
            open_state=open_state,
        )

    def end(self) -> None:
        """End the worker."""
        self.worker.close()
        self.scorer.close()

    def send(self, lines: list[bytes], times_ms: list[int]) -> None:
        """Append events."""
        self.topic.append(0, lines, times_ms=times_ms)

    def drain(self) -> None:
        """Carry all that was sent, and make outputs safe."""
        while self.worker.turn():
            self.clock.advance(0.05)
        self.worker.commit()

    def round(self, rng: Random) -> None:
        """Carry batches of every size; good, bad, repeated."""
        lines: list[bytes] = []
        while len(lines) < ROUND:
            number = self.n_sent = self.n_sent + 1
            line = payment(number, START_MS + number * 500)
            lines.append(line)
            if number % 10 == 0:
                lines.append(rng.choice([line, b"{", b'{"amount": NaN}', b"", b"[" * 200]))
        times = [START_MS + self.n_sent * 500] * len(lines)
        while lines:
            n_events = rng.choice([1, 7, 64, 500, 4_096])
            self.send(lines[:n_events], times[:n_events])
            del lines[:n_events], times[:n_events]
            while self.worker.turn():
                pass
            self.clock.advance(rng.choice([0.0, 0.3]))
        self.drain()
        self.topic.forget(0, self.topic.ends(0).high)
        self.sink.decisions.clear()
        self.sink.refusals.clear()

    def fail(self) -> None:
        """Let the sink fail, the worker end, and another one go on."""
        number = self.n_sent = self.n_sent + 1
        self.send([payment(number, START_MS + number * 500)], [START_MS + number * 500])
        real, self.sink.flush = self.sink.flush, self._refuse  # type: ignore[method-assign]
        with pytest.raises(SentinelError):
            self.drain()
        self.sink.flush = real  # type: ignore[method-assign]
        self.end()
        self.start()
        self.drain()
        # A worker and what it calls back refer to one another.
        gc.collect()

    def _refuse(self, wait_s: float) -> bool:
        raise SentinelError(ErrorCode.STREAM_FAILED, at="decisions", expected="a broker", got="no")

    def kept_bytes(self) -> int:
        """Bytes that are taken from the C library, but for the state of the engine."""
        return taken_bytes() - self.state.store.state_bytes


@pytest.mark.reliability("L1", "L3", "L4", t1=40, t2=2_000, t3=20_000, least=40)
def test_a_worker_keeps_nothing_of_the_events_that_it_carries(
    simulated_release: LoadedRelease, tmp_path: Path, trials: Iterator[int]
) -> None:
    """No slope of memory or of objects that a leak of 100 bytes an event could hide in."""
    rng = Random(1)
    soak = Soak(simulated_release, tmp_path)
    for _ in range(5):
        soak.round(rng)
        soak.fail()
    process = psutil.Process()
    n_files, n_threads = process.num_fds(), process.num_threads()
    blocks: list[tuple[int, int]] = []
    memory: list[tuple[int, int]] = []
    for trial in trials:
        soak.round(rng)
        if trial % 10 == 9:
            soak.fail()
        blocks.append((soak.n_sent, sys.getallocatedblocks()))
        memory.append((soak.n_sent, soak.kept_bytes()))
    assert process.num_fds() <= n_files + 2
    assert process.num_threads() <= n_threads + 2
    soak.end()
    kept = slice(-400, None) if len(blocks) > 400 else slice(len(blocks) // 5, None)
    assert theil_sen(blocks[kept]) <= BLOCKS_MAX, blocks[kept]
    assert theil_sen(memory[kept]) <= BYTES_MAX, [b for _, b in memory[kept]]


LONG_LIVES = {
    "49.7 days of milliseconds": ManualClock(1_800_000_000_000, monotonic_s=2**32 / 1000 - 0.2),
    "2^31 seconds up": ManualClock(1_800_000_000_000, monotonic_s=2.0**31 - 0.2),
    "2^53 nanoseconds up": ManualClock(1_800_000_000_000, monotonic_s=2.0**53 / 1e9 - 0.2),
    "January 2038": ManualClock(2**31 * 1000 - 200),
    "February 2106": ManualClock(2**32 * 1000 - 200),
}


def life(
    loaded: LoadedRelease,
    folder: Path,
    *,
    clock: ManualClock,
    shift_ms: int = 0,
    first_position: int = 0,
) -> list[tuple[str, float, str]]:
    """Carry 300 events over a while, with a new worker in the middle; return the decisions."""
    soak = Soak(loaded, folder, clock=clock, first_position=first_position)
    for part in range(3):
        numbers = range(part * 100, part * 100 + 100)
        times = [START_MS + shift_ms + number * 60_000 for number in numbers]
        soak.send([payment(n, at) for n, at in zip(numbers, times, strict=True)], times)
        soak.drain()
        clock.advance(0.15)
        soak.end()
        soak.start()
        assert soak.worker.turn() == 0
    assert soak.state.store.position("events", 0) == first_position + 300
    soak.end()
    found = [json.loads(value) for _, value in soak.sink.decisions]
    return [(each["event_id"], each["score"], each["outcome"]) for each in found]


@pytest.mark.reliability("L5")
@pytest.mark.parametrize("name", LONG_LIVES)
def test_a_clock_that_has_run_for_very_long_changes_nothing(
    simulated_release: LoadedRelease, tmp_path: Path, name: str
) -> None:
    usual = life(simulated_release, tmp_path / "a", clock=ManualClock(1_800_000_000_000))
    assert len(usual) == 300
    assert life(simulated_release, tmp_path / "b", clock=LONG_LIVES[name]) == usual


@pytest.mark.reliability("L5")
@pytest.mark.parametrize("first_position", [2**31 - 150, 2**32 - 150, 2**53 - 150, 2**62])
def test_positions_may_be_of_any_size(
    simulated_release: LoadedRelease, tmp_path: Path, first_position: int
) -> None:
    usual = life(simulated_release, tmp_path / "a", clock=ManualClock())
    late = life(
        simulated_release, tmp_path / "b", clock=ManualClock(), first_position=first_position
    )
    assert late == usual


@pytest.mark.reliability("L5")
def test_events_around_the_end_of_32_bit_seconds_are_events(
    simulated_release: LoadedRelease, tmp_path: Path
) -> None:
    """The same payments, whole days later, on both sides of 2038-01-19 03:14:08."""
    usual = life(simulated_release, tmp_path / "a", clock=ManualClock())
    n_days = (2**31 * 1000 - START_MS) // DAY_MS
    late = life(simulated_release, tmp_path / "b", clock=ManualClock(), shift_ms=n_days * DAY_MS)
    assert late == usual


@pytest.mark.reliability("L5")
def test_counters_balance_past_2_to_the_53_and_none_goes_back() -> None:
    """Counts are exact; a metric is a double, as its format is, and stands rather than falls."""
    counts = RunningCounts()
    for n in (2**53, 1, 1, 1, 2**63):
        counts.add(read=n, decided=n, held=0, quarantined=0, deduplicated=0, late=0)
    assert counts.now().is_balanced
    assert counts.now().read == 2**53 + 3 + 2**63
    metrics = Metrics(with_process=False)
    seen = []
    for n in (2**53, 1, 1, 1, 2**60):
        metrics.add("sentinel_stream_gap_events_total", n)
        seen.append(metrics.value("sentinel_stream_gap_events_total") or 0)
    assert seen == sorted(seen)
    assert seen[0] == 2**53
