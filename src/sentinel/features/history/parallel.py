"""Replay on all cores, equal to :func:`~sentinel.features.replay.replay` to the last bit.

The log is taken in rounds. Of each round

1. every process decodes a share of the rows;
2. this process decides what is global (:class:`~sentinel.features.history.partition.GlobalOrder`);
3. every process advances its shards, one of each part of the feature set;
4. this process hands the round on.

Steps of neighbouring rounds overlap: while the processes advance one round they have the next to
decode, and this process packs the one after. Memory is three rounds and the state, however long
the log is.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, cast

import msgspec
import numpy as np
import numpy.typing as npt

from sentinel.contract import EventBatch, RawBatch
from sentinel.contract.decoder import Decoder
from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features.engine import EngineCounts, EntityLimits
from sentinel.features.history.messages import pack_learned, receive, send, unpack_error
from sentinel.features.history.partition import GlobalOrder, divide
from sentinel.features.history.rounds import RoundHead, RoundPacker
from sentinel.features.history.slots import N_SLOTS, Slot, SlotShape, make_shared, open_slots
from sentinel.features.matrix import FeatureMatrix
from sentinel.features.plan import FeaturePlan
from sentinel.features.replay import Replayed

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedRows:
    """Some rows of a replay, in the order of the log, repeated events left out.

    Attributes
    ----------
    names : tuple of str
        Of the features.
    values : ndarray of float32, shape (n_features, n_rows)
    status : ndarray of uint8, shape (n_features, n_rows)
    is_late : ndarray of bool, shape (n_rows,)
    event_ids : ndarray of int64, shape (n_rows,)
        The event id's column (SipHash of its text).
    id_content : ndarray of uint8
        Bytes that hold the event ids, UTF-8.
    id_spans : ndarray of int64, shape (n_rows, 2)
        Start and end of each id in them.
    times_ms, positions : ndarray of int64, shape (n_rows,)
    columns : dict of str to ndarray of int64, shape (n_rows,)
    present : dict of str to ndarray of bool, shape (n_rows,)
        The event fields that were asked for.
    """

    names: tuple[str, ...]
    values: npt.NDArray[np.float32]
    status: npt.NDArray[np.uint8]
    is_late: npt.NDArray[np.bool_]
    event_ids: Int64Array
    id_content: npt.NDArray[np.uint8]
    id_spans: Int64Array
    times_ms: Int64Array
    positions: Int64Array
    columns: dict[str, Int64Array]
    present: dict[str, npt.NDArray[np.bool_]]

    @property
    def n_rows(self) -> int:
        """How many events."""
        return len(self.times_ms)


class ParallelReplay:
    """A replay that is shared out over processes; it runs once.

    Parameters
    ----------
    plan : FeaturePlan
    events, feedback : iterable of RawBatch
        In order of arrival; feedback in order of known-at.
    n_processes : int
        1 to ``REPLAY_PROCESSES_MAX``.
    keep : iterable of str
        Event fields whose columns are handed on as well.
    n_dedupe_min, n_entities_max : int
        As of :class:`~sentinel.features.Engine`. Which entities make room in a full state follows
        from all of them together, so a replay that could fill it is refused: one process can.
    shape : SlotShape, optional
        Bounds of a round.

    Attributes
    ----------
    n_processes : int
    n_refused, n_feedback_refused : int
        So far.
    """

    def __init__(  # noqa: PLR0913 -- what one engine takes, and how it is shared out
        self,
        plan: FeaturePlan,
        events: Iterable[RawBatch],
        feedback: Iterable[RawBatch] = (),
        *,
        n_processes: int,
        keep: Iterable[str] = (),
        n_dedupe_min: int = limits.DEDUPE_EVENTS_MIN,
        n_entities_max: int = limits.ENTITIES_MAX,
        shape: SlotShape | None = None,
    ) -> None:
        if not 1 <= n_processes <= limits.REPLAY_PROCESSES_MAX:
            raise ValueError(f"n_processes: expected 1 to {limits.REPLAY_PROCESSES_MAX}")
        features = plan.features
        parts = divide(features)
        self._schema = features.events
        self._shape = shape or SlotShape(
            n_fields=len(features.events.fields),
            n_features=len(features.names),
            n_parts=len(parts),
        )
        self._plan = plan
        self._packer = RoundPacker(events, self._shape)
        self._keep = [(name, self._schema.fields.index(self._schema.field(name))) for name in keep]
        self.n_processes = n_processes
        self._n_entities_max = n_entities_max
        self.n_refused = 0
        self.n_feedback_refused = 0
        self._n_late = 0
        self._n_rows_before = 0
        self._last: list[dict[str, int]] = []
        self._order = GlobalOrder(features, self._decoded(feedback), n_dedupe_min=n_dedupe_min)
        self._id_at = self._schema.fields.index(self._schema.event_id)
        self._time_at = self._schema.fields.index(self._schema.event_time)

    def rounds(self) -> Generator[ReplayedRows, None, None]:
        """Yield the rounds in order; the processes end with the iteration, or when it is closed."""
        memory = make_shared(self._shape)
        processes: list[_Process] = []
        try:
            slots = open_slots(memory.fileno(), self._shape)
            processes += (self._start(index, memory) for index in range(self.n_processes))
            yield from self._rounds(slots, processes)
        finally:
            memory.close()
            for process in processes:
                process.stop()

    def counts(self) -> EngineCounts:
        """Return what was seen so far; late feedback counts once for each entity type."""
        order = self._order
        return EngineCounts(
            events=order.n_events,
            duplicates=order.n_duplicates,
            late_events=self._n_late,
            feedback=order.n_feedback,
            feedback_duplicates=order.n_feedback_duplicates,
            late_feedback=sum(each["late_feedback"] for each in self._last),
            values_skipped=sum(each["values_skipped"] for each in self._last),
            entities_forgotten=sum(each["entities_forgotten"] for each in self._last),
        )

    def _decoded(self, feedback: Iterable[RawBatch]) -> Iterator[EventBatch]:
        schema = self._plan.features.feedback
        if schema is None:
            return
        decoder = Decoder(schema)
        for raw in feedback:
            decoded = decoder.decode(raw)
            self.n_feedback_refused += len(decoded.refusals)
            yield decoded.events

    def _start(self, index: int, memory: IO[bytes]) -> _Process:
        process = _Process(memory.fileno())
        message = {
            "shape": msgspec.to_builtins(self._shape),
            "memory": memory.fileno(),
            "index": index,
            "n_shards": self.n_processes,
            "n_entities_max": self._n_entities_max,
        }
        process.ask(message, msgspec.json.encode(self._plan.features.to_data()))
        return process

    def _rounds(self, slots: tuple[Slot, ...], processes: list[_Process]) -> Iterator[ReplayedRows]:
        """Keep the processes busy: the next round is being decoded while one is advanced."""
        number = 0
        begun = self._begin(slots[0], 0, processes)
        advanced: tuple[Slot, Int64Array] | None = None
        while begun.n_events:
            at = number % N_SLOTS
            number += 1
            following = self._begin(slots[number % N_SLOTS], number % N_SLOTS, processes)
            rows = self._share_out(slots[at], at, begun, processes)
            if advanced is not None:
                yield self._finish(*advanced, processes)
            advanced = (slots[at], rows)
            begun = following
        if advanced is not None:
            yield self._finish(*advanced, processes)

    def _begin(self, slot: Slot, number: int, processes: list[_Process]) -> RoundHead:
        """Pack a round and let it be decoded."""
        head = self._packer.pack(slot)
        if head.n_events:
            for first, end, process in zip(*self._shares(head.n_events), processes, strict=True):
                process.ask(
                    {
                        "slot": number,
                        "first": int(first),
                        "end": int(end),
                        "is_received": int(head.is_received),
                    }
                )
        return head

    def _shares(self, n_events: int) -> tuple[Int64Array, Int64Array]:
        cuts = np.arange(self.n_processes + 1) * n_events // self.n_processes
        return cuts[:-1], cuts[1:]

    def _share_out(
        self, slot: Slot, number: int, head: RoundHead, processes: list[_Process]
    ) -> Int64Array:
        """Decide what is global of a decoded round, and let it be advanced."""
        firsts, _ = self._shares(head.n_events)
        found = [np.empty(0, dtype=np.int64)]
        for first, process in zip(firsts, processes, strict=True):
            answer = process.answer()
            self.n_refused += answer["n_refused"]
            found.append(np.arange(first, first + answer["n_rows"]))
        rows = np.concatenate(found)
        ordered = self._order.take(
            slot.values[self._id_at][rows],
            slot.values[self._time_at][rows],
            np.searchsorted(slot.rows[rows], head.edges).tolist(),
        )
        live = rows[ordered.live]
        slot.live[: len(live)], slot.now_ms[: len(live)] = live, ordered.now_ms
        self._check_room(len(live) + sum(each.batch.n_rows for each in ordered.learned))
        sizes, content = pack_learned(ordered.learned)
        for process in processes:
            process.ask({"slot": number, "n_live": len(live), "learned": sizes}, content)
        return live

    def _check_room(self, n_rows: int) -> None:
        """Refuse a round that could fill the state, were all its entities new.

        The round before may be under way: so its rows count as well.
        """
        n_new = (n_rows + self._n_rows_before) * len(self._plan.tables.entities)
        self._n_rows_before = n_rows
        n_living = n_new + sum(each["n_entities"] for each in self._last)
        n_once = n_new + sum(each["n_once"] for each in self._last)
        n_max, n_once_max = EntityLimits(n_max=self._n_entities_max).words()
        if n_living > n_max or n_once > n_once_max:
            raise SentinelError(
                ErrorCode.ENTITIES_TOO_MANY,
                at="feature state",
                expected=f"room for {n_max} entities, {n_once_max} of them seen once",
                got=f"up to {n_living}, {n_once} of them seen once",
                hint="Which of them make room is decided over all: replay with one process.",
            )

    def _finish(self, slot: Slot, live: Int64Array, processes: list[_Process]) -> ReplayedRows:
        """Take over what was computed of a round."""
        self._last = [process.answer() for process in processes]
        is_late = np.asarray(slot.is_late[:, live].any(axis=0))
        self._n_late += int(is_late.sum())
        # Where nothing was refused or repeated, rows are copied as they lie.
        is_whole = len(live) > 0 and int(live[-1] - live[0]) + 1 == len(live)
        rows = slice(int(live[0]), int(live[-1]) + 1) if is_whole else live
        spans = slot.id_spans[live]
        end = int(spans.max(initial=0))
        return ReplayedRows(
            names=self._plan.names,
            values=slot.features[:, rows].copy(),
            status=slot.status[:, rows].copy(),
            is_late=is_late,
            event_ids=slot.values[self._id_at][live],
            id_content=slot.ids[:end].copy(),
            id_spans=spans,
            times_ms=slot.values[self._time_at][live],
            positions=slot.positions[slot.rows[live]],
            columns={name: slot.values[at][live] for name, at in self._keep},
            present={name: slot.present[at][live] for name, at in self._keep},
        )


class _Process:
    """The other side of :mod:`sentinel.features.history.process`."""

    def __init__(self, memory: int) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "sentinel.features.history.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(memory,),
            # Ctrl-C is for who began the replay.
            start_new_session=True,
        )
        self._input = cast("IO[bytes]", self._child.stdin)
        self._output = cast("IO[bytes]", self._child.stdout)

    def ask(self, message: dict[str, object], content: bytes = b"") -> None:
        try:
            send(self._input, message, content)
        except BrokenPipeError:
            # Why it ended stands in its last answer.
            self.answer()

    def answer(self) -> dict[str, int]:
        received = receive(self._output)
        if received is None:
            raise SentinelError(
                ErrorCode.REPLAY_PROCESS_ENDED,
                at=f"replay process {self._child.pid}",
                expected="an answer",
                got=f"its end, with {self._child.wait(limits.REPLAY_STOP_S)}",
                hint="Was it killed for memory? Fewer processes need less.",
            )
        message, _ = received
        if "error" in message:
            raise unpack_error(cast("dict[str, str]", message["error"]))
        return cast("dict[str, int]", message)

    def stop(self) -> None:
        """End it, whatever it does; what it knows was only a copy."""
        self._child.kill()
        self._child.wait(limits.REPLAY_STOP_S)
        self._output.close()
        try:
            self._input.close()
        except BrokenPipeError:
            return


def replay_parallel(
    plan: FeaturePlan,
    events: Iterable[RawBatch],
    feedback: Iterable[RawBatch] = (),
    *,
    n_processes: int,
    keep: Iterable[str] = (),
    n_dedupe_min: int = limits.DEDUPE_EVENTS_MIN,
) -> Replayed:
    """Replay as :func:`~sentinel.features.replay.replay` does, on several processes.

    Returns
    -------
    Replayed
        The same vectors, to the last bit; late feedback counts once for each entity type.

    Raises
    ------
    SentinelError
        ``replay-process-ended``; and as :func:`~sentinel.features.replay.replay`.
    """
    names = tuple(keep)
    run = ParallelReplay(
        plan, events, feedback, n_processes=n_processes, keep=names, n_dedupe_min=n_dedupe_min
    )
    parts = list(run.rounds())
    n_features = len(plan.names)
    none = np.empty(0, dtype=np.int64)
    n_rows = sum(part.n_rows for part in parts)
    return Replayed(
        matrix=FeatureMatrix(
            names=plan.names,
            values=np.concatenate(
                [np.empty((0, n_features), dtype=np.float32), *(part.values.T for part in parts)]
            ),
            status=np.concatenate(
                [np.empty((0, n_features), dtype=np.uint8), *(part.status.T for part in parts)]
            ),
            is_late=np.concatenate([none.astype(np.bool_), *(part.is_late for part in parts)]),
            is_duplicate=np.zeros(n_rows, dtype=np.bool_),
        ),
        event_ids=np.concatenate([none, *(part.event_ids for part in parts)]),
        times_ms=np.concatenate([none, *(part.times_ms for part in parts)]),
        positions=np.concatenate([none, *(part.positions for part in parts)]),
        columns={
            name: np.concatenate([none, *(part.columns[name] for part in parts)]) for name in names
        },
        present={
            name: np.concatenate([none.astype(np.bool_), *(part.present[name] for part in parts)])
            for name in names
        },
        n_refused=run.n_refused,
        n_feedback_refused=run.n_feedback_refused,
        counts=run.counts(),
    )
