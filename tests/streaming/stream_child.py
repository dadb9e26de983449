"""A worker in a process of its own that dies where it is told to: a test's child."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path

from sentinel.features import Engine
from sentinel.features.stores.embedded import Durability
from sentinel.monitoring import Metrics
from sentinel.release import verify_release
from sentinel.streaming.file_log.worker import open_file_log_worker
from sentinel.streaming.kafka.settings import KafkaSettings
from sentinel.streaming.kafka.worker import open_worker
from sentinel.streaming.stream.job import Step, StreamJob


def die_in_the_kernel(position: int) -> None:
    """Die where the features of this position are advanced: after the batch was logged."""
    advance = Engine.advance

    def dying(self, events):
        if self.__class__ is not Engine and position in events.raw.positions[events.rows]:
            os.kill(os.getpid(), signal.SIGSEGV)
        return advance(self, events)

    Engine.advance = dying


def main() -> None:
    """Work until SIGTERM, or until the n-th of a step; print what it came to."""
    order = json.loads(sys.argv[1])
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    loaded = verify_release(Path(order["release"]), None, now_ms=0)
    settings = KafkaSettings(
        bootstrap=order.get("bootstrap", ""),
        group=order["group"],
        client=order.get("client", {}),
        transactional_id=order.get("transactional_id"),
    )
    job = StreamJob(
        **{
            **order["job"],
            "state": Path(order["job"]["state"]),
            "durability": Durability(order["job"].get("durability", "process")),
        }
    )
    n_left = {order.get("step"): order.get("at", 1)}
    deadly = order.get("deadly")
    deadly_kernel = order.get("deadly_kernel")

    def on_step(step: Step) -> None:
        if str(step) in n_left:
            n_left[str(step)] -= 1
            if n_left[str(step)] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    metrics = Metrics(with_process=False)
    if "file_log" in order:
        worker, scorer = open_file_log_worker(
            loaded, Path(order["file_log"]), job, metrics=metrics, on_step=on_step
        )
    else:
        worker, scorer = open_worker(loaded, settings, job, metrics=metrics, on_step=on_step)
    if deadly_kernel is not None:
        die_in_the_kernel(deadly_kernel)
    if deadly is not None:
        decode = scorer.decode

        def die_of(raw):
            if deadly.encode() in raw.content.tobytes() and raw.ends[-1] > raw.starts[-1]:
                for row in range(raw.n_events):
                    if deadly.encode() in raw.event_bytes(row):
                        os.kill(os.getpid(), signal.SIGSEGV)
            return decode(raw)

        scorer.decode = die_of
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    report = worker.run(stop)
    sys.stdout.write(
        json.dumps(
            {
                "read": report.counts.read,
                "decided": report.counts.decided,
                "held": report.counts.held,
                "quarantined": report.counts.quarantined,
                "deduplicated": report.counts.deduplicated,
                "late": report.counts.late,
                "feedback": report.counts.feedback_learned,
                "poison": report.n_poison,
                "gap": report.n_gap,
                "holes": report.n_holes,
                "feedback_waits": metrics.value("sentinel_stream_feedback_waits_total"),
                "already_visible": metrics.value("sentinel_stream_already_visible_total"),
                "positions": report.positions,
            }
        )
    )


if __name__ == "__main__":
    main()
