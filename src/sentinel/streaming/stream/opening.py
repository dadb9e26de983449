"""A stream worker put together around a loaded release, whatever its two ends are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sentinel.core.clock import Clock
from sentinel.monitoring import Metrics
from sentinel.release import LoadedRelease, Standing
from sentinel.scoring import Scorer, Sinks
from sentinel.streaming.stream.ends import StreamEnds
from sentinel.streaming.stream.job import Step, StreamJob
from sentinel.streaming.stream.shelf import OpensStates
from sentinel.streaming.stream.state import StreamState
from sentinel.streaming.stream.worker import StreamWorker


def nothing(step: Step) -> None:
    """Nobody looks."""


def assemble(
    loaded: LoadedRelease,
    ends: StreamEnds,
    job: StreamJob,
    *,
    metrics: Metrics,
    clock: Clock | None = None,
    on_step: Callable[[Step], None] = nothing,
    open_state: OpensStates | None = None,
) -> tuple[StreamWorker, Scorer]:
    """Put a worker and its scorer together.

    Parameters
    ----------
    loaded : LoadedRelease
    ends : StreamEnds
    job : StreamJob
    metrics : Metrics
    clock : Clock, optional
        Of the scorer and of the worker.
    on_step : callable, optional
    open_state : callable, optional
        By default the durable state of a folder, as the job says.

    Raises
    ------
    SentinelError
        ``stream-partition-key``; what opening a scorer raises. The ends stay the caller's then.
    """
    is_approved = loaded.standing is Standing.APPROVED
    metrics.record_release(loaded.manifest.label, digest=loaded.digest, is_approved=is_approved)
    sinks = Sinks(refusals=ends.sink, decisions=ends.log, metrics=metrics)
    scorer = loaded.open_scorer(sinks, clock=clock, drift=job.drift)

    def open_folder(folder: Path) -> StreamState:
        if job.store is not None:
            from sentinel.streaming.stream.shared_state import SharedState

            part = folder.name if job.partition_key is not None else ""
            return SharedState(loaded.parts.plan, folder, job.store, part=part)
        return StreamState(
            loaded.parts.plan,
            folder,
            durability=job.durability,
            snapshot_every_events=job.snapshot_every_events,
        )

    worker = StreamWorker(
        scorer,
        ends,
        job,
        open_folder if open_state is None else open_state,
        metrics=metrics,
        clock=clock,
        on_step=on_step,
    )
    if not is_approved:
        worker.always = (f"the release is {loaded.standing}",)
    return worker, scorer
