"""The shared engine: state in Redis, one compare-and-set a batch, the same kernel.

The process holds a cache of rows, valid as of one version of the state. A batch is advanced in
the cache by the kernel that every engine uses; then one transaction in Redis writes the changed
rows, event ids, positions and scalars, if and only if the state still has that version. So batches
of all writers have one order, and the state is that of an engine in memory that was fed in it.

Commit steps of ``advance``, and what a crash after each means:

1. rows that are not held are read (none, where the entities were seen by this process): nothing
   happened.
2. the batch is applied in the cache: nothing happened.
3. the commit runs in Redis: the batch is in the state, with its positions and its
   vectors; how safe it is there is the choice of Redis' own log. A source that reads it again
   gets the vectors that were given, for the last ``STORE_ANSWERS_KEPT`` commits.
4. the reply arrives and the batch is answered: as 3. Where it does not arrive, the writer's last
   commit number in Redis says whether 3 took place; the same number is never applied twice.
"""

from __future__ import annotations

import enum
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sentinel.contract import EventBatch
from sentinel.core import limits
from sentinel.core.clock import Clock, SystemClock
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features.engine import Engine, known_at
from sentinel.features.layout import (
    R_ARENA,
    R_ENTITIES,
    R_GENERATION,
    R_IDS_FULL,
)
from sentinel.features.matrix import FeatureMatrix
from sentinel.features.plan import FeaturePlan
from sentinel.features.stores.embedded.records import select_rows
from sentinel.features.stores.holes import first_hole, refuse_hole
from sentinel.features.stores.redis.cache import RowCache
from sentinel.features.stores.redis.changes import Undo, id_changes, is_same, sums_after
from sentinel.features.stores.redis.link import RedisLink
from sentinel.features.stores.redis.replica import Commit, Partition, RedisReplica, parts_of
from sentinel.features.stores.redis.script import EVENT_IDS, FEEDBACK_IDS, Change
from sentinel.features.stores.redis.stale import StaleAnswers
from sentinel.features.stores.redis.state import encode_answers, encode_changes, encode_pending

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

# What may pass, or be put right elsewhere, while decisions go on.
_LOSSES = {
    ErrorCode.STORE_UNREACHABLE,
    ErrorCode.STORE_DENIED,
    ErrorCode.STORE_REFUSED,
    ErrorCode.STATE_MISSING,
    ErrorCode.STATE_CORRUPT,
}


class OnLoss(enum.StrEnum):
    """What happens to a batch while Redis does not answer."""

    HOLD = "hold"  # it is refused, and may come again
    DEFAULTS = "defaults"  # it gets declared defaults, marked stale, and is applied later


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisSettings:
    """Where a store is, and how it behaves.

    Attributes
    ----------
    url : str
        As of :func:`sentinel.features.stores.redis.address.parse_address`, or of ``parse_cluster``.
    name : str
        Of the store; its keys begin with ``sentinel:{name}:``.
    on_loss : OnLoss
    deadline_ms : float
        Of one call of a batch; each row adds ``STORE_ROW_MS``.
    rows_held_max : int
        Rows in the process; past that all are forgotten and read again as they are needed.
    is_fenced : bool
        Whether positions of raw batches are those of a log that is read again after a crash.
    wait_s : float
        How long a batch that can neither be applied nor put off waits before it is refused.
    """

    url: str
    name: str
    on_loss: OnLoss = OnLoss.HOLD
    deadline_ms: float = limits.STORE_DEADLINE_MS
    rows_held_max: int = limits.STORE_ROWS_HELD_MAX
    is_fenced: bool = True
    wait_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class StoreCounts:
    """What happened between this process and Redis; every number only grows.

    Attributes
    ----------
    commits : int
    redone : int
        Batches computed anew, because another writer was first.
    stale_events : int
        Answered with declared defaults, marked stale.
    unapplied_events : int
        Of those, how many found the backlog full and never reach the state.
    """

    commits: int = 0
    redone: int = 0
    stale_events: int = 0
    unapplied_events: int = 0


class RedisStore(RedisReplica):
    """An engine whose state is in Redis, shared with other writers, exact.

    Parameters
    ----------
    plan : FeaturePlan
    settings : RedisSettings
    n_dedupe_min : int
        As of :class:`Engine`; of a state that exists, its own number holds.
    clock : Clock

    Raises
    ------
    SentinelError
        ``store-unreachable``, ``store-denied``, ``store-unfit``, ``state-missing`` (parts of a
        state without its head), ``state-of-another-feature-set``, ``state-format``.
    """

    def __init__(
        self,
        plan: FeaturePlan,
        settings: RedisSettings,
        *,
        n_dedupe_min: int = limits.DEDUPE_EVENTS_MIN,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(
            plan,
            name=settings.name,
            url=settings.url,
            deadline_ms=settings.deadline_ms,
            n_dedupe_min=n_dedupe_min,
            clock=clock,
        )
        self.settings = settings
        self.store_counts = StoreCounts()
        self.fault: SentinelError | None = None
        self._clock = clock or SystemClock()
        self._number = 0
        self._accepted: dict[Partition, set[int]] = {}
        self._backlog: deque[tuple[bool, EventBatch]] = deque()
        self._n_backlog = 0
        self._stale = StaleAnswers(plan)
        # Bytes of the answers of each commit since outputs were last safe.
        self._answer_bytes: deque[int] = deque()
        self._n_answer_bytes = 0
        self._tend_at_s = 0.0
        is_open = False
        try:
            self._open()
            is_open = True
        finally:
            if not is_open:
                self.link.close()

    # --- what an engine does -----------------------------------------------------------------

    def advance(self, events: EventBatch) -> FeatureMatrix:
        """Advance in the cache and commit; see :meth:`Engine.advance`.

        Rows that the state holds already (a source that reads again) change nothing: they get the
        vectors they got, or are marked duplicates when those are no longer kept.

        Raises
        ------
        SentinelError
            ``source-gap``; ``store-contended``; as :meth:`Engine.advance`. While Redis is lost:
            ``store-unreachable``, ``store-denied``, ``store-refused``, ``state-missing``; with
            ``OnLoss.DEFAULTS`` only when a fenced batch no longer fits into the backlog.
        """
        is_applied, matrix = self._take(events, is_feedback=False)
        if not is_applied:
            self.store_counts.stale_events += events.n_rows
            return self._stale.fill(events, self.defaults(events.n_rows))
        self._stale.note(events)
        return matrix if matrix is not None else self.defaults(events.n_rows)

    def learn(self, feedback: EventBatch) -> None:
        """Take feedback and commit it; see :meth:`Engine.learn`. What is held is left out."""
        self._take(feedback, is_feedback=True)

    def position(self, source: str, partition: int = 0) -> int:
        """Return the first position of a source that was not taken; 0 at first.

        What waits in this process for Redis was taken.
        """
        where = (source, partition)
        waiting = [
            int(batch.raw.positions[-1]) + 1
            for _, batch in self._backlog
            if (batch.raw.source, batch.raw.partition) == where and len(batch.raw.positions)
        ]
        return max(self._held(where), *self._accepted.get(where, ()), *waiting[-1:], 0)

    def positions(self) -> Mapping[Partition, int]:
        """Return the next position of every source that is in Redis."""
        return dict(self._next)

    def snapshot_position(self, source: str, partition: int = 0) -> int:
        """Return the first position from which on vectors are answered as they were given."""
        where = (source, partition)
        known = [a.positions[0] for a in self._answers_of(where) if len(a.positions)]
        return int(min(known, default=self._held(where)))

    def maintain(self) -> bool:
        """Note that outputs are safe: answers until here need be given no more.

        Returns
        -------
        bool
            False: there are no snapshots.
        """
        self._answer_bytes.clear()
        self._n_answer_bytes = 0
        return False

    @property
    def trouble(self) -> str:
        """Why state is not where it should be, for people; empty when all is well."""
        if self.fault is None and not self._backlog:
            return ""
        cause = f"{self.fault.code}: {self.fault.got}" if self.fault is not None else "catching up"
        waiting = f"{self._n_backlog} events wait for it"
        if n_dropped := self.store_counts.unapplied_events:
            waiting += f", {n_dropped} found no room to wait"
        return f"store {self.link.address.shown}: {cause}; {waiting}"

    def tend(self) -> None:
        """Ask whether Redis answers, every ``STORE_TEND_S``, and apply what waits."""
        now_s = self._clock.monotonic_s()
        if now_s < self._tend_at_s:
            return
        self._tend_at_s = now_s + limits.STORE_TEND_S
        try:
            self._drain()
            if self._must_load:
                self._load()
            if self._shards is not None:
                self._shards.finish()
            self.link.call([("EXISTS", self._keys.head)])
        except SentinelError as error:
            if error.code not in _LOSSES:
                raise
            self.fault = error
        else:
            self.fault = None

    def accept_gap(self, source: str, partition: int, position: int) -> None:
        """Go on at a later position of a source; what was between is lost to the state."""
        self._accepted.setdefault((source, partition), set()).add(position)

    @property
    def n_backlog(self) -> int:
        """Events and feedback that wait for Redis, in this process only."""
        return self._n_backlog

    def state_digest(self) -> str:
        """Hash the state in Redis; see :meth:`Engine.state_digest`. Reads every row."""
        self._load()
        keys = self._all_keys()
        whole = RowCache(self.plan)
        whole.bring_in(keys, self._fetch, sum(map(len, keys)))
        registers = whole._state.registers  # noqa: SLF001 -- an engine of its own
        own = (int(registers[R_ARENA]), int(registers[R_ENTITIES]))
        registers[:] = self._state.registers
        registers[R_ARENA], registers[R_ENTITIES] = own
        whole._pending.feed = self._pending.feed  # noqa: SLF001 -- the same
        return Engine.state_digest(whole)

    def erase(self) -> None:
        """Delete everything of this store in Redis, and begin an empty state of a new epoch.

        Sources are then replayed from their beginning; what waited in the backlog is dropped.
        """
        self._backlog.clear()
        self._n_backlog = 0
        self._accepted.clear()
        self._begin_anew()
        self.fault = None

    def close(self, *, with_snapshot: bool = True) -> None:
        """Close the connection; the state is in Redis."""
        if self._shards is not None:
            # What cannot be written now is finished by whoever opens the store next.
            with suppress(SentinelError):
                self._shards.finish()
        self.link.close()

    # --- a transaction ---------------------------------------------------------------------------

    def _take(self, batch: EventBatch, *, is_feedback: bool) -> tuple[bool, FeatureMatrix | None]:
        """Apply a batch, or put it off; wait where it can be neither. Says whether it is applied.

        Raises
        ------
        SentinelError
            As :meth:`advance`.
        """
        end_s = self._clock.monotonic_s() + self.settings.wait_s
        while True:
            if isinstance(self.link, RedisLink):
                self.link.n_tries_spent = 0
            try:
                self._drain()
                matrix = self._transact(batch, is_feedback=is_feedback)
            except SentinelError as error:
                if self._keeps(batch, error, is_feedback=is_feedback):
                    return False, None
                if error.code not in _LOSSES or self._clock.monotonic_s() >= end_s:
                    raise
                time.sleep(limits.STORE_PAUSE_MS / 1000)
                continue
            self.fault = None
            return True, matrix

    def _transact(self, batch: EventBatch, *, is_feedback: bool) -> FeatureMatrix | None:
        """Apply a batch exactly once, whoever else writes."""
        number = self._number_for(batch)
        has_lost = False
        for _ in range(limits.STORE_REDO_MAX):
            if self._must_load:
                self._load()
            if self._settled is not None and self._settled.number == number:
                settled, self._settled = self._settled, None
                return settled.matrix
            if self._hole(batch) is not None:
                self._load()  # another writer may have taken what is missing
            is_new = self._is_new(batch)
            where, position = self._position_after(batch)
            # Events that the contract refused have a position and no row: it moves on for them.
            if batch.n_rows and not is_new.any() and position <= self._held(where):
                return None if is_feedback else self._answer_again(batch, ~is_new)
            try:
                is_done, matrix = self._attempt(number, batch, is_new, is_feedback=is_feedback)
            except SentinelError as error:
                if not self._goes_on_after(error, batch.n_rows, is_second=has_lost):
                    raise
                has_lost = True
                continue
            if is_done:
                return matrix
            self.store_counts.redone += 1
        raise SentinelError(
            ErrorCode.STORE_CONTENDED,
            at=self.link.address.shown,
            expected=f"a turn within {limits.STORE_REDO_MAX} tries",
            got="other writers each time",
            hint="Use fewer writers for one store, or larger batches.",
        )

    def _goes_on_after(self, error: SentinelError, n_rows: int, *, is_second: bool) -> bool:
        """Whether a commit that may have been lost is looked up at once: one try of three."""
        link = self.link
        if not isinstance(link, RedisLink) or link.n_tries_spent != 1:
            return False
        if error.code is ErrorCode.STORE_UNREACHABLE:
            deadline = link.deadline_of(n_rows)
            if not is_second and link.patience.waits_for_another(1, deadline):
                return True
            link.patience.lose()
        return False

    def _number_for(self, batch: EventBatch) -> int:
        """Give a commit its number; a batch that comes again after an unsure commit keeps it."""
        for known in (self._unsure, self._settled):
            if known is not None and is_same(known.batch, batch):
                return known.number
        self._settled = None
        self._number += 1
        return self._number

    def _attempt(
        self, number: int, batch: EventBatch, is_new: BoolArray, *, is_feedback: bool
    ) -> tuple[bool, FeatureMatrix | None]:
        """Apply a batch to the cache and commit it; False where another writer was first."""
        chosen = batch if is_new.all() else select_rows(batch, is_new)
        version = b"%d:%s:%d" % (self._n_version + 1, self._writer.encode(), number)
        where, position = self._position_after(batch)
        change = Change(expected=self._version, version=version, number=number, where=where)
        change.positions = {f"{where[1]}/{where[0]}": position} if self.settings.is_fenced else {}
        matrix = None
        if is_feedback:
            undo = self._learn(chosen, change)
        else:
            matrix, undo = self._advance(chosen, change)
            matrix = self._completed(batch, is_new, matrix)
            if self.settings.is_fenced:
                change.answers = encode_answers(batch, matrix)
                change.n_answers_kept = self._n_answers_kept(len(change.answers))
        try:
            status, found = self._commit(change)
        except SentinelError:
            self._take_back(undo)
            self._unsure = Commit(number, batch, matrix)
            self._must_load = True
            raise
        if found != version or status not in {b"done", b"applied"}:
            self._take_back(undo)
            self._must_load = True
            return False, None
        self._version = version
        if self._shards is not None and change.intended is not None:
            self._shards.committed(change.intended)
        self._pending_mark = change.pending_mark or self._pending_mark
        if change.answers:
            self._answer_bytes.append(len(change.answers))
            self._n_answer_bytes += len(change.answers)
        if self.settings.is_fenced:
            self._next[where] = position
            self._accepted[where] = {at for at in self._accepted.get(where, ()) if at > position}
        self._unsure = None
        self._answers.clear()
        self.store_counts.commits += 1
        return True, matrix

    def _n_answers_kept(self, n_bytes: int) -> int:
        """Say how many answers to keep: those since outputs were safe, as far as they fit."""
        while self._answer_bytes and (
            self._n_answer_bytes + n_bytes > limits.STORE_ANSWERS_BYTES_MAX
        ):
            self._n_answer_bytes -= self._answer_bytes.popleft()
        return max(limits.STORE_ANSWERS_KEPT, len(self._answer_bytes) + 1)

    @property
    def _n_version(self) -> int:
        return int(self._version.split(b":")[0])

    def _advance(self, events: EventBatch, change: Change) -> tuple[FeatureMatrix, Undo]:
        """Advance in the cache, and write down what that changed."""
        keys = self.keys_of(events)
        self.bring_in(keys, self._fetch, self.settings.rows_held_max)
        self.make_room(events)
        before = self.note(keys)
        turns = self._turns
        matrix = Engine.advance(self, events)
        ids = events.column(self.plan.features.events.event_id.name)[~matrix.is_duplicate]
        window = before.registers[R_GENERATION : R_IDS_FULL + 1]
        change.ids, n_turns = id_changes(window, ids, EVENT_IDS)
        self._turns = (turns[0] + n_turns, turns[1])
        sums, self._id_sums = self._id_sums, sums_after(self._id_sums, change.ids)
        change.n_pending_dropped = len(before.feed.times) - self._pending.n_rows
        changed = self.changed(before)
        change.changed = encode_changes(change.version, [found for found, _ in changed])
        if self._shards is not None:
            intent = self._shards.intend(self._n_version + 1, changed)
            change.intended = intent
            change.intent = intent.encode()
            change.shards = self._shards.numbers_with(intent).tobytes()
            change.n_unfinished = 1 + len(self._shards.unwritten)
        else:
            change.rows = [
                (entity, found, rows) for entity, (found, rows) in enumerate(changed) if len(found)
            ]
        self._finish(change)
        return matrix, Undo(before, ids, ids[:0], turns, sums, self._feedback_sequence)

    def _learn(self, feedback: EventBatch, change: Change) -> Undo:
        """Put feedback into the queue, and write down what that changed."""
        before = self.note([np.empty(0, dtype=np.int64) for _ in self._ttls_ms])
        turns, sequence = self._turns, self._feedback_sequence
        is_new = self._take_feedback(feedback)
        schema = self.plan.features.feedback or self.plan.features.events
        ids = feedback.column(schema.event_id.name)[is_new]
        change.ids, n_turns = id_changes(before.feedback_window, ids, FEEDBACK_IDS)
        self._turns = (turns[0], turns[1] + n_turns)
        sums, self._id_sums = self._id_sums, sums_after(self._id_sums, change.ids)
        change.pending = encode_pending(feedback, known_at(feedback, schema), is_new, sequence)
        self._feedback_sequence += len(ids)
        change.changed = encode_changes(change.version, before.keys)
        self._finish(change)
        return Undo(before, ids[:0], ids, turns, sums, sequence)

    def _finish(self, change: Change) -> None:
        change.turns = self._turns
        change.state = self._scalars().encode()
        if change.n_pending_dropped or change.pending:
            change.pending_mark = change.version

    def _take_back(self, undo: Undo) -> None:
        if not self.undo(undo.before, undo.event_ids, undo.feedback_ids):
            self._must_load_all = True
        self._turns = undo.turns
        self._id_sums = undo.id_sums
        self._feedback_sequence = undo.feedback_sequence

    def _completed(
        self, events: EventBatch, is_new: BoolArray, matrix: FeatureMatrix
    ) -> FeatureMatrix:
        """Put the vectors of rows that were held already beside the new ones."""
        if is_new.all():
            return matrix
        whole = self._answer_again(events, ~is_new)
        for old, new in zip(parts_of(whole), parts_of(matrix), strict=True):
            old[is_new] = new
        return whole

    # --- positions -------------------------------------------------------------------------------

    def _held(self, where: Partition) -> int:
        """Return the first position of a source that the state does not hold."""
        return self._next.get(where, 0)

    def _hole(self, batch: EventBatch) -> tuple[int, int] | None:
        """Find positions that are missing between the state and a batch, or within it."""
        raw = batch.raw
        where = (raw.source, raw.partition)
        if not self.settings.is_fenced or not len(raw.positions):
            return None
        return first_hole(raw.positions, self._next.get(where), self._accepted.get(where, ()))

    def _is_new(self, batch: EventBatch) -> BoolArray:
        """Mark the rows that the state does not hold, or raise where a source has a hole."""
        raw = batch.raw
        if not self.settings.is_fenced or not len(raw.positions):
            return np.ones(batch.n_rows, dtype=np.bool_)
        where = (raw.source, raw.partition)
        refuse_hole(*where, raw.positions, self._next.get(where), self._accepted.get(where, ()))
        return raw.positions[batch.rows] >= self._held(where)

    def _position_after(self, batch: EventBatch) -> tuple[Partition, int]:
        raw = batch.raw
        held = self._held((raw.source, raw.partition))
        last = int(raw.positions[-1]) + 1 if len(raw.positions) else held
        return (raw.source, raw.partition), max(held, last)

    # --- while Redis is lost ---------------------------------------------------------------------

    def _drain(self) -> None:
        """Apply what waited; all of a log, of requests as much as a deadline lets, two at least.

        One batch comes for each call: two that go are an end to what waits.
        """
        end_s = self._clock.monotonic_s() + self.settings.deadline_ms / 1000
        n_drained = 0
        while self._backlog:
            is_feedback, batch = self._backlog[0]
            try:
                self._transact(batch, is_feedback=is_feedback)
            except SentinelError as error:
                if error.code not in _LOSSES:
                    self._forget_first()
                    self.store_counts.unapplied_events += batch.n_rows
                raise
            self._forget_first()
            n_drained += 1
            is_late = n_drained > 1 and self._clock.monotonic_s() >= end_s
            if self._backlog and is_late and not self.settings.wait_s:
                raise SentinelError(
                    ErrorCode.STORE_UNREACHABLE,
                    at=self.link.address.shown,
                    expected="nothing that waits",
                    got=f"{self._n_backlog} events that wait",
                )

    def _forget_first(self) -> None:
        _, batch = self._backlog.popleft()
        self._n_backlog -= batch.n_rows

    def _keeps(self, batch: EventBatch, error: SentinelError, *, is_feedback: bool) -> bool:
        """Let a batch wait, where the policy says so; False where the error stands."""
        if error.code in _LOSSES:
            self.fault = error
        if error.code not in _LOSSES or self.settings.on_loss is OnLoss.HOLD:
            return False
        if self._n_backlog + batch.n_rows > limits.STORE_BACKLOG_EVENTS_MAX:
            if self.settings.is_fenced:
                return False
            self.store_counts.unapplied_events += batch.n_rows
            return True
        self._backlog.append((is_feedback, batch))
        self._n_backlog += batch.n_rows
        return True
