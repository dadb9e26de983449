"""A stream worker between topics of a file log."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from sentinel.core.clock import Clock
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features.stores.embedded import Durability
from sentinel.monitoring import Metrics
from sentinel.release import LoadedRelease
from sentinel.scoring import Scorer
from sentinel.streaming.file_log.reader import FileLog
from sentinel.streaming.file_log.sink import FileLogSink
from sentinel.streaming.stream.ends import KeepsDecisions, StreamEnds
from sentinel.streaming.stream.job import Step, StreamJob, check_partition_key
from sentinel.streaming.stream.opening import assemble, nothing
from sentinel.streaming.stream.worker import StreamWorker


def open_file_log_worker(
    loaded: LoadedRelease,
    folder: Path,
    job: StreamJob,
    *,
    metrics: Metrics,
    log: KeepsDecisions | None = None,
    clock: Clock | None = None,
    on_step: Callable[[Step], None] = nothing,
) -> tuple[StreamWorker, Scorer]:
    """Put a worker and its scorer together, as `sentinel.streaming.kafka.worker` does.

    Parameters
    ----------
    loaded : LoadedRelease
    folder : Path
        Of the log, which has all the topics of the job.
    job : StreamJob
        With durability ``power``, outputs are synced before they count as safe.
    metrics : Metrics
    log : KeepsDecisions, optional
    clock : Clock, optional
    on_step : callable, optional

    Raises
    ------
    SentinelError
        ``stream-topic-missing``, ``stream-partition-key``; ``usage-invalid`` for a state in the
        folder of the log; what opening a scorer raises.
    """
    check_partition_key(loaded.parts.plan, job.partition_key)
    if job.state.resolve().is_relative_to(folder.resolve()):
        raise SentinelError(
            ErrorCode.USAGE_INVALID,
            at=str(job.state),
            expected="a folder of the state's own",
            got=f"one within {folder}, which holds topics",
        )
    with ExitStack() as stack:
        events = FileLog(folder, job.events, with_keys=job.partition_key is not None)
        stack.callback(events.close)
        feedback = None
        if job.feedback is not None:
            feedback = FileLog(folder, job.feedback)
            stack.callback(feedback.close)
        sink = FileLogSink(
            folder,
            decisions=job.decisions,
            quarantine=job.quarantine,
            syncs=job.durability is Durability.POWER,
            clock=clock,
        )
        stack.callback(sink.close)
        ends = StreamEnds(events=events, sink=sink, feedback=feedback, log=log)
        opened = assemble(loaded, ends, job, metrics=metrics, clock=clock, on_step=on_step)
        stack.pop_all()
        return opened
