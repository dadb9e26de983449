"""The time-travel test: vectors that were computed without the rest of the log must be the same.

1. Choose events spread over the log.
2. Run a fresh engine through the log in pieces that end just before and just after each of them.
   A piece is handed over only when the one before is done, and with it only the verdicts that
   were known by its latest event: what comes later is not there to be looked at.
3. Compare each chosen event's vector with the one of the replay that trained the model. A
   difference means that a vector knew something of the future.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from sentinel.contract import EventBatch
from sentinel.contract.decoder import Decoder
from sentinel.core import limits
from sentinel.data import EventFile
from sentinel.features import Engine, compile_plan, known_at
from sentinel.release.candidate import TimeTravel
from sentinel.training.boosted import OnProgress, no_progress
from sentinel.training.history import History, shown

Int64Array = npt.NDArray[np.int64]


def travel_in_time(
    history: History,
    *,
    n_events: int = limits.TIME_TRAVEL_EVENTS_DEFAULT,
    on_progress: OnProgress = no_progress,
) -> TimeTravel:
    """Compute the vectors of chosen events again, with the log cut at each of them.

    Parameters
    ----------
    history : History
    n_events : int
        Events chosen, spread evenly over the log.
    on_progress : callable

    Returns
    -------
    TimeTravel
        One replay of the log, whatever ``n_events`` is.
    """
    n_rows = history.replayed.n_rows
    rows = np.unique(np.linspace(0, n_rows - 1, min(n_events, n_rows)).astype(np.int64))
    expected = dict(zip(history.replayed.positions[rows].tolist(), rows.tolist(), strict=True))
    engine = Engine(compile_plan(history.features))
    verdicts = _Verdicts(history)
    different: list[str] = []
    n_checked = 0
    for piece, position in _pieces(history, set(expected), on_progress):
        verdicts.teach(engine, piece)
        vectors = engine.advance(piece)
        if position is None:
            continue
        row = expected[position]
        n_checked += 1
        now, then = vectors.values[0], history.replayed.matrix.values[row]
        same = (now.view(np.uint32) == then.view(np.uint32)).all()
        if not (same and (vectors.status[0] == history.replayed.matrix.status[row]).all()):
            different.append(_difference(history, position, now, then))
    return TimeTravel(
        n_checked=n_checked, n_different=len(different), detail=next(iter(different), "")
    )


def _difference(
    history: History,
    position: int,
    now: npt.NDArray[np.float32],
    then: npt.NDArray[np.float32],
) -> str:
    odd = np.flatnonzero(now.view(np.uint32) != then.view(np.uint32))
    if not len(odd):
        return f"event at {position}: another status"
    column = int(odd[0])
    name = history.features.names[column]
    return f"event at {position}: {name}: {then[column]} in the log, {now[column]} without the rest"


def _pieces(
    history: History, positions: set[int], on_progress: OnProgress
) -> Iterator[tuple[EventBatch, int | None]]:
    """Cut the log before and behind each chosen event; a chosen event is a piece of its own."""
    decoder = Decoder(history.features.events)
    for raw in shown(EventFile(history.events), "time travel", on_progress):
        batch = decoder.decode(raw).events
        here = raw.positions[batch.rows]
        first = 0
        for row in np.flatnonzero(np.isin(here, list(positions))).tolist():
            if row > first:
                yield rows_of(batch, np.arange(first, row)), None
            yield rows_of(batch, np.array([row])), int(here[row])
            first = row + 1
        if first < batch.n_rows:
            yield rows_of(batch, np.arange(first, batch.n_rows)), None


class _Verdicts:
    """Hands out verdicts that are known by now, and none besides."""

    def __init__(self, history: History) -> None:
        schema = history.features.feedback
        self._time_name = history.features.events.event_time.name
        self._now_ms = -(1 << 62)
        self._waiting: EventBatch | None = None
        self._batches: Iterator[EventBatch] = iter(())
        if schema is not None:
            self._schema = schema
            decoder = Decoder(schema)
            self._batches = (
                decoder.decode(raw).events for raw in EventFile(history.feedback).batches()
            )

    def teach(self, engine: Engine, piece: EventBatch) -> None:
        """Let the engine learn what was known by the latest event of the piece."""
        times = piece.column(self._time_name)
        self._now_ms = max(self._now_ms, int(times.max(initial=self._now_ms)))
        while (batch := self._waiting or next(self._batches, None)) is not None:
            # The feed is in order of known-at: what is not due ends the search.
            due = np.flatnonzero(known_at(batch, self._schema) > self._now_ms)
            n_due = int(due[0]) if len(due) else batch.n_rows
            engine.learn(rows_of(batch, np.arange(n_due)))
            self._waiting = (
                rows_of(batch, np.arange(n_due, batch.n_rows)) if n_due < batch.n_rows else None
            )
            if self._waiting is not None:
                return


def rows_of(batch: EventBatch, rows: Int64Array) -> EventBatch:
    """Take some rows of a batch, in the order given."""
    return EventBatch(
        names=batch.names,
        values=np.ascontiguousarray(batch.values[:, rows]),
        present=np.ascontiguousarray(batch.present[:, rows]),
        rows=batch.rows[rows],
        raw=batch.raw,
        text_fields=batch.text_fields,
        text_spans=np.ascontiguousarray(batch.text_spans[:, rows]),
        text_content=batch.text_content,
    )
