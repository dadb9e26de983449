"""A worker in this process over a log in memory: everything that happens is decided by the test."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sentinel.features.stores.embedded import Durability
from sentinel.monitoring import Metrics
from sentinel.release import LoadedRelease
from sentinel.scoring import Scorer
from sentinel.streaming.file_log.sink import FileLogSink
from sentinel.streaming.stream.ends import KeepsDecisions, StreamEnds, Transactions
from sentinel.streaming.stream.job import Step, StreamJob
from sentinel.streaming.stream.opening import assemble, nothing
from sentinel.streaming.stream.state import StreamState
from sentinel.streaming.stream.worker import StreamWorker
from sentinel.testing import ManualClock
from sentinel.testing.memory_log import MemoryLog, MemorySink, MemoryTopic


@dataclass
class Rig:
    """A topic in memory, and workers on it, one after another."""

    loaded: LoadedRelease
    folder: Path
    n_partitions: int = 2
    log: KeepsDecisions | None = None
    job_settings: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.topic = MemoryTopic("events", self.n_partitions)
        self.feedback_topic: MemoryTopic | None = None
        self.sink: MemorySink | FileLogSink = MemorySink()
        self.reader_type = MemoryLog
        self.clock = ManualClock(1_800_000_000_000, monotonic_s=1000.0)
        self.metrics = Metrics(with_process=False)
        self.transactions: Transactions | None = None
        self.on_step: Callable[[Step], None] = nothing
        self.worker: StreamWorker | None = None
        self.scorer: Scorer | None = None
        self.state: StreamState | None = None

    def send(self, lines: list[bytes], *, at: int | None = None) -> None:
        """Append events; by card, or all to one partition."""
        for line in lines:
            partition, time_ms, key = at or 0, 0, None
            if line.startswith(b"{") and b"card_id" in line:
                event = json.loads(line)
                key, time_ms = event["card_id"].encode(), event["paid_at"]
                partition = int(event["card_id"][1:]) % self.n_partitions if at is None else at
            self.topic.append(partition, [line], keys=[key], times_ms=[time_ms])

    def start(self) -> StreamWorker:
        """Start a worker, on the state and the sink of the one before."""
        settings: dict[str, object] = {"n_events_batch": 100, **self.job_settings}
        job = StreamJob(
            events="events",
            decisions="decisions",
            quarantine="refused",
            feedback=self.feedback_topic.name if self.feedback_topic else None,
            state=self.folder / "state",
            **settings,
        )
        self.sink.n_decisions = self.sink.n_refusals = 0
        self.reader = self.reader_type(self.topic, with_keys=job.partition_key is not None)
        feedback = self.reader_type(self.feedback_topic) if self.feedback_topic else None
        ends = StreamEnds(
            events=self.reader,
            sink=self.sink,
            log=self.log,
            feedback=feedback,
            transactions=self.transactions,
        )

        def open_state(folder: Path) -> StreamState:
            self.state = StreamState(self.loaded.parts.plan, folder, durability=Durability.PROCESS)
            return self.state

        self.worker, self.scorer = assemble(
            self.loaded,
            ends,
            job,
            metrics=self.metrics,
            clock=self.clock,
            open_state=open_state,
            on_step=self.on_step,
        )
        self.worker.start()
        return self.worker

    def drain_some(self, n_turns: int) -> None:
        """Take so many turns."""
        assert self.worker is not None
        for _ in range(n_turns):
            self.worker.turn()

    def drain(self) -> int:
        """Turn until nothing comes; return how many events came.

        A turn may do no more than keep a batch of each partition back for the others.
        """
        assert self.worker is not None
        n_events = n_quiet = 0
        while n_quiet < 2 + 5 * self.n_partitions:
            n_new = self.worker.turn()
            n_events += n_new
            n_quiet = 0 if n_new else n_quiet + 1
            self.clock.advance(0.01)
        return n_events

    def digest(self) -> str:
        """Hash the state."""
        assert self.state is not None
        return self.state.store.state_digest()

    def ids(self) -> list[str]:
        """Return the ids of all decisions that are safe."""
        return [key.decode() for key, _ in self.sink.decisions]

    def close(self) -> None:
        """End the worker as it is."""
        if self.worker is not None:
            self.worker.close()
        if self.scorer is not None:
            self.scorer.close()
