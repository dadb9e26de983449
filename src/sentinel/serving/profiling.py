"""Where the time of requests goes, while somebody asks: ``sentinel profile``.

For each request that is answered meanwhile:

    received ─ parse ─▶ queued ─ queue ─▶ its batch begins ─ stages ─▶ scored ─ answer ─▶ answered

The stages of its batch are what the scorer's own laps say (decode, features, model, sanity, …);
what is left of the batch's time is ``encode``: matching rows with their callers and writing
answers. A batch's time counts in full for each of its rows, because each of them waited for all of
it. The report sets the slowest hundredth beside all requests, stage by stage.

Two things stop everybody and belong to no stage: the garbage collector (:mod:`gc` says when it
runs) and the interpreter lock (:mod:`sentinel.serving.interpreter_lock`). What of a request's time
a collection overlaps is counted inside the stages it fell into, and said beside them.
"""

from __future__ import annotations

import gc
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import numpy as np

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.serving import bounds
from sentinel.serving.batching.queue_of_rows import OverloadedError
from sentinel.serving.interpreter_lock import LockProbe

if TYPE_CHECKING:
    from sentinel.serving.batching.work import Piece, Work
    from sentinel.serving.plane import Plane

SECONDS_DEFAULT = 10.0
_SLOW_SHARE = 0.01
_Stages = dict[str, float]


@dataclass(slots=True)
class _Batch:
    """One batch: when, how many rows, and the seconds of its stages."""

    started_s: float
    ended_s: float
    n_rows: int
    stages: _Stages


@dataclass(frozen=True, slots=True)
class Answered:
    """One request that was answered; instants on the monotonic clock."""

    received_s: float
    queued_s: float
    answered_s: float
    batch: _Batch

    @property
    def total_s(self) -> float:
        """From its whole content to its answer."""
        return self.answered_s - self.received_s

    def stages(self) -> _Stages:
        """Return where its time went; the values add up to the total."""
        batch = self.batch
        taken_s = batch.ended_s - batch.started_s
        return {
            "parse": self.queued_s - self.received_s,
            "queue": batch.started_s - self.queued_s,
            **batch.stages,
            "encode": taken_s - sum(batch.stages.values()),
            "answer": self.answered_s - batch.ended_s,
        }


class Recorder:
    """What the batcher tells while a profile is taken; used in the threads that score and answer.

    Parameters
    ----------
    totals : callable
        Seconds of each of the scorer's stages so far.
    """

    def __init__(self, totals: Callable[[], _Stages]) -> None:
        self._totals = totals
        self._before = totals()
        self._batch_of: dict[Work, _Batch] = {}
        self.batches: list[_Batch] = []
        self.answered: list[Answered] = []
        self.n_beyond = 0

    def scored(self, pieces: Sequence[Piece], started_s: float, ended_s: float) -> None:
        """Note a batch that has ended."""
        totals = self._totals()
        stages = {name: total - self._before.get(name, 0.0) for name, total in totals.items()}
        self._before = totals
        if len(self.batches) >= bounds.PROFILE_REQUESTS_MAX:
            return
        taken = {name: seconds for name, seconds in stages.items() if seconds > 0}
        batch = _Batch(started_s, ended_s, sum(piece.n_rows for piece in pieces), taken)
        self.batches.append(batch)
        for piece in pieces:
            self._batch_of[piece.work] = batch

    def replied(self, work: Work, now_s: float) -> None:
        """Note a request that has its answer."""
        batch = self._batch_of.pop(work, None)
        if batch is None:
            return
        if len(self.answered) >= bounds.PROFILE_REQUESTS_MAX:
            self.n_beyond += 1
            return
        self.answered.append(Answered(work.received_s, work.queued_s, now_s, batch))


@dataclass(slots=True)
class _Collections:
    """When the garbage collector ran."""

    spans_s: list[tuple[float, float]] = field(default_factory=list)
    n_by_generation: list[int] = field(default_factory=lambda: [0, 0, 0])
    _since_s: float = 0.0

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        """Be told by :mod:`gc`."""
        if phase == "start":
            self._since_s = time.monotonic()
        elif self._since_s:
            self.spans_s.append((self._since_s, time.monotonic()))
            self.n_by_generation[info["generation"]] += 1

    def overlap_s(self, from_s: float, until_s: float) -> float:
        """Sum what of a time was spent collecting."""
        total_s = 0.0
        at = bisect_left(self.spans_s, (from_s,))
        for start_s, end_s in self.spans_s[max(0, at - 1) :]:
            if start_s >= until_s:
                break
            total_s += max(0.0, min(end_s, until_s) - max(start_s, from_s))
        return total_s


class Profiler:
    """Take profiles of a running server, one at a time.

    Parameters
    ----------
    plane : Plane
        Its batcher is told to record while a profile is taken.
    """

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._end_s = 0.0

    def answer(self, query: bytes, is_gone: threading.Event) -> dict[str, object]:
        """Take a profile as a request asks for it (``seconds=10``), unless who asked goes away.

        Raises
        ------
        SentinelError
            ``request-invalid``; ``overloaded`` while another profile is taken.
        """
        return self.take(read_seconds(query), is_gone)

    def take(self, seconds: float, is_gone: threading.Event) -> dict[str, object]:
        """Record for a while, then report; only the thread that calls it waits.

        Parameters
        ----------
        seconds : float
        is_gone : Event
            Set when nobody waits for it any more: then it ends.

        Returns
        -------
        dict
            Plain data: ``docs/serving.md`` has the fields.
        """
        batcher = self._plane.batcher
        recorder = Recorder(self._totals)
        if not batcher.record(recorder):
            left_s = max(0.0, self._end_s - time.monotonic())
            raise OverloadedError(
                at="profile",
                expected="one at a time",
                got=f"another, for {left_s:.0f} s more",
                retry_s=left_s,
            )
        collections, probe = _Collections(), LockProbe()
        gc.callbacks.append(collections)
        started_s, used_s = time.monotonic(), time.process_time()
        try:
            probe.start()
            self._end_s = started_s + seconds
            is_gone.wait(seconds)
        finally:
            batcher.record(None)
            gc.callbacks.remove(collections)
            probe.stop()
        taken_s = time.monotonic() - started_s
        return {
            "seconds": round(taken_s, 3),
            "processor_share": round((time.process_time() - used_s) / taken_s, 4),
            **_requests(recorder, collections, taken_s),
            "interpreter_lock": _waits(probe.waits_ns),
            "collector": _collector(collections, taken_s),
        }

    def _totals(self) -> _Stages:
        return self._plane.current.scorer.timer.totals()


def read_seconds(query: bytes) -> float:
    """Read how long a profile shall take.

    Raises
    ------
    SentinelError
        ``request-invalid``.

    Examples
    --------
    >>> read_seconds(b"seconds=2.5"), read_seconds(b"")
    (2.5, 10.0)
    """
    given = parse_qs(query.decode("ascii", "replace"), keep_blank_values=True)
    texts = given.pop("seconds", [str(SECONDS_DEFAULT)])
    most_s = bounds.PROFILE_S_MAX
    try:
        seconds = float(texts[0])
    except ValueError:
        seconds = -1.0
    if given or len(texts) != 1 or not 0 < seconds <= most_s:
        raise SentinelError(
            ErrorCode.REQUEST_INVALID,
            at="query",
            expected=f"seconds, more than 0 and at most {most_s:g}",
            got=query.decode("ascii", "replace"),
        )
    return seconds


def _requests(recorder: Recorder, collections: _Collections, taken_s: float) -> dict[str, object]:
    answered = sorted(recorder.answered, key=lambda each: each.total_s)
    batches = recorder.batches
    found: dict[str, object] = {
        "requests": len(answered) + recorder.n_beyond,
        "requests_per_s": round((len(answered) + recorder.n_beyond) / taken_s, 1),
        "batches": len(batches),
        "rows_per_batch": round(sum(each.n_rows for each in batches) / max(len(batches), 1), 2),
    }
    if not answered:
        return found
    totals = np.array([each.total_s for each in answered])
    slow = answered[int(len(answered) * (1 - _SLOW_SHARE)) :]
    quantiles = {f"p{q:g}_ms": round(float(np.quantile(totals, q / 100)) * 1e3, 3)
                 for q in (50, 90, 99, 99.9)}  # fmt: skip
    return {
        **found,
        **quantiles,
        "all": _stages(answered, collections),
        "slowest": {"share": _SLOW_SHARE, "requests": len(slow), **_stages(slow, collections)},
    }


def _stages(answered: Sequence[Answered], collections: _Collections) -> dict[str, object]:
    """Average where requests' time went, in ms, and as shares of their whole time."""
    sums: _Stages = {}
    for each in answered:
        for name, seconds in each.stages().items():
            sums[name] = sums.get(name, 0.0) + seconds
    n, whole_s = len(answered), sum(sums.values()) or 1.0
    collected_s = sum(collections.overlap_s(each.received_s, each.answered_s) for each in answered)
    return {
        "mean_ms": round(whole_s / n * 1e3, 3),
        "stages": [
            {"stage": name, "ms": round(total_s / n * 1e3, 4), "share": round(total_s / whole_s, 4)}
            for name, total_s in sums.items()
        ],
        "collector_ms": round(collected_s / n * 1e3, 4),
    }


def _waits(waits_ns: Sequence[int]) -> dict[str, object]:
    if not waits_ns:
        return {"looks": 0}
    waits_ms = np.array(waits_ns) / 1e6
    return {
        "looks": len(waits_ms),
        "mean_ms": round(float(waits_ms.mean()), 4),
        "p50_ms": round(float(np.quantile(waits_ms, 0.5)), 4),
        "p99_ms": round(float(np.quantile(waits_ms, 0.99)), 4),
        "max_ms": round(float(waits_ms.max()), 4),
    }


def _collector(collections: _Collections, taken_s: float) -> dict[str, object]:
    lengths_s = [end_s - start_s for start_s, end_s in collections.spans_s]
    return {
        "collections": dict(
            zip(("young", "middle", "old"), collections.n_by_generation, strict=True)
        ),
        "total_ms": round(sum(lengths_s) * 1e3, 3),
        "max_ms": round(max(lengths_s, default=0.0) * 1e3, 3),
        "share": round(sum(lengths_s) / taken_s, 5),
    }
