"""The durable engine: state in this process, a write-ahead log and snapshots on its disk.

A batch is logged, committed, and then applied, so what was answered is on the disk. Recovery is
the newest whole snapshot and the log behind it, applied by the same kernel: state and vectors come
back to the last bit. The state carries the position of its source. What a source sends again is
not applied again, and a hole in a source, before a batch or within it, stops with its name.

Commit steps of ``advance``, and what a crash after each means:

1. positions are compared with the state's; the folder must still be this process's: nothing
   happened.
2. the batch is appended to the log in memory: nothing happened.
3. the log is written (class ``process``) and synced (class ``power``): the batch is in the state
   of the next start. Its answer was not given; the vectors of the log behind the snapshot are
   remembered at recovery, so the source's second reading of it gets the same answer.
4. the batch is applied in memory and answered: as 3.

Durability classes: ``process`` survives ``kill -9`` without loss and a power cut with the loss of
what the kernel had not written back (30 s at Linux's defaults), state and position moving back
together; ``power`` loses nothing that was answered.

An event that kills the process while it is applied is found and passed at the next starts:
:mod:`sentinel.features.stores.embedded.apply_marker`.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sentinel.contract import EventBatch
from sentinel.core import limits
from sentinel.core.disk import Disk, SystemDisk
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.files import lock_folder
from sentinel.features.engine import Engine, EntityLimits, known_at
from sentinel.features.layout import R_LIVING_MAX, R_ONCE_MAX
from sentinel.features.matrix import FeatureMatrix
from sentinel.features.plan import FeaturePlan
from sentinel.features.stores.embedded.apply_marker import ApplyMarker, PassedEvent
from sentinel.features.stores.embedded.boot_mark import BootMark
from sentinel.features.stores.embedded.migration import arrays_of
from sentinel.features.stores.embedded.records import (
    EVENTS,
    FEEDBACK,
    LIMITS,
    LIMITS_LAYOUT,
    AppliedBatch,
    decode_batch,
    encode_batch,
    select_rows,
)
from sentinel.features.stores.embedded.snapshot import (
    Snapshot,
    read_snapshot,
    snapshot_paths,
    write_snapshot,
)
from sentinel.features.stores.embedded.write_ahead_log import TornTail, WalRecord, WriteAheadLog
from sentinel.features.stores.holes import refuse_hole

Partition = tuple[str, int]


class Durability(enum.StrEnum):
    """What the state survives."""

    PROCESS = "process"
    POWER = "power"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """What a start found.

    Attributes
    ----------
    snapshot : str
        Name of the snapshot that was used; empty when there was none.
    skipped : tuple of str
        Newer snapshots that were damaged, each with its fault.
    n_batches, n_events : int
        Applied from the log behind the snapshot.
    torn_tail : TornTail or None
        The interrupted write that was cut off.
    n_bytes_fenced : int
        Of the log, written by an owner that had been replaced; passed over.
    passed : tuple of PassedEvent
        Events that are logged and were not applied: they kill the process.
    """

    snapshot: str
    skipped: tuple[str, ...]
    n_batches: int
    n_events: int
    torn_tail: TornTail | None
    n_bytes_fenced: int = 0
    passed: tuple[PassedEvent, ...] = ()


@dataclass(slots=True)
class _Remembered:
    """Vectors of the log behind the snapshot, for a source that reads it again."""

    positions: list[npt.NDArray[np.int64]] = field(default_factory=list)
    matrices: list[FeatureMatrix] = field(default_factory=list)


class EmbeddedStore(Engine):
    """An engine whose state survives.

    Parameters
    ----------
    plan : FeaturePlan
    folder : Path
        Of this store alone; locked while it is open.
    durability : Durability
    is_fenced : bool
        Whether the positions of raw batches are those of a log that is read again after a crash
        (a topic, a file). False where they mean nothing (requests).
    snapshot_every_events : int
        :meth:`maintain` takes a snapshot when so many events were logged since the last.
    disk : Disk
    entities : EntityLimits
        How many may live. A change is logged: recovery applies each batch under the limits that
        it was answered under.

    Raises
    ------
    SentinelError
        ``state-locked``; ``state-corrupt``, ``state-format``, ``state-gap``,
        ``state-of-another-feature-set``, ``state-unwritable``.
    """

    def __init__(
        self,
        plan: FeaturePlan,
        folder: Path,
        *,
        durability: Durability = Durability.PROCESS,
        is_fenced: bool = True,
        snapshot_every_events: int = limits.SNAPSHOT_EVENTS,
        disk: Disk | None = None,
        entities: EntityLimits | None = None,
    ) -> None:
        super().__init__(plan)
        self.limits = entities or EntityLimits()
        self.durability = durability
        self._folder = folder
        self._disk = disk or SystemDisk()
        self._is_fenced = is_fenced
        self._snapshot_every_events = snapshot_every_events
        self._next: dict[Partition, int] = {}
        self._snapshot_next: dict[Partition, int] = {}
        self._remembered: dict[Partition, _Remembered] = {}
        self._n_since_snapshot = 0
        self._accepted: dict[Partition, set[int]] = {}
        self._identity = bytes.fromhex(plan.identity)
        self._lock = -1
        self._marker: ApplyMarker | None = None
        is_recovered = False
        try:
            self._open()
            is_recovered = True
        except OSError as error:
            raise SentinelError(
                ErrorCode.STATE_UNWRITABLE,
                at=str(folder),
                expected="a disk that reads and writes",
                got=error.strerror or error,
                hint="Nothing was changed that a later start could not recover.",
            ) from error
        finally:
            if not is_recovered:
                self._unlock()

    def _open(self) -> None:
        """Take the folder, recover, and bring the limits up to date."""
        if isinstance(self._disk, SystemDisk):
            self._lock = lock_folder(
                self._folder,
                owner="process",
                hint="Stop the other process, or give this one a folder of its own.",
            )
            self._marker = ApplyMarker(self._folder)
        self._disk.make_folder(self._folder)
        self.recovery = self._recover()
        self._set_limits()

    # --- what an engine does -----------------------------------------------------------------

    def advance(self, events: EventBatch) -> FeatureMatrix:
        """Log, commit, and advance; see :meth:`Engine.advance`.

        Rows that the state holds already (a source that reads again) change nothing: they get the
        vectors they got, or are marked duplicates when those are no longer remembered.

        Raises
        ------
        SentinelError
            ``state-unwritable``: nothing was applied, the same batch may come again;
            ``source-gap``: positions are missing; and as :meth:`Engine.advance`.
        """
        is_new = self._is_new(events)
        if is_new.all():
            return self._apply(events)
        matrix = self._answer_again(events, ~is_new)
        # Events that the contract refused have a position and no row: it moves on for them, too.
        held = self._next[events.raw.source, events.raw.partition]
        if is_new.any() or int(events.raw.positions[-1]) >= held:
            fresh = self._apply(select_rows(events, is_new))
            for old, new in zip(_parts(matrix), _parts(fresh), strict=True):
                old[is_new] = new
        return matrix

    def learn(self, feedback: EventBatch) -> None:
        """Log, commit, and learn; see :meth:`Engine.learn`. What is held already is left out."""
        is_new = self._is_new(feedback)
        chosen = feedback if is_new.all() else select_rows(feedback, is_new)
        schema = self.plan.features.feedback
        if schema is not None:
            self._pending.check_room(chosen.n_rows)
            self._log(FEEDBACK, chosen, known_at(chosen, schema))
        super().learn(chosen)

    def position(self, source: str, partition: int = 0) -> int:
        """Return the first position of a source that the state does not hold; 0 at first."""
        where = (source, partition)
        return max(self._next.get(where, 0), *self._accepted.get(where, ()), 0)

    def positions(self) -> Mapping[Partition, int]:
        """Return the next position of every source and partition."""
        return dict(self._next)

    def snapshot_position(self, source: str, partition: int = 0) -> int:
        """Return the first position of a source that the newest snapshot does not hold.

        A source may be read again from there: every row that the state holds is answered as it
        was. Before it, rows count as duplicates.
        """
        return self._snapshot_next.get((source, partition), 0)

    def accept_gap(self, source: str, partition: int, position: int) -> None:
        """Go on at a later position of a source; what was between is lost to the state."""
        self._accepted.setdefault((source, partition), set()).add(position)

    # --- durability --------------------------------------------------------------------------

    def maintain(self) -> bool:
        """Take a snapshot when one is due; call it between batches, outputs being safe.

        Returns
        -------
        bool
            Whether one was taken.
        """
        if self._n_since_snapshot < self._snapshot_every_events:
            return False
        self.snapshot()
        return True

    def snapshot(self) -> Path:
        """Write the whole state, and drop the log that the snapshot before it covers.

        Raises
        ------
        SentinelError
            ``state-unwritable``: the log still holds everything.
        """
        arrays, values = self.capture()
        for (source, partition), position in self._next.items():
            values[f"position/{partition}/{source}"] = position
        self._check_owner()
        path = write_snapshot(
            self._disk,
            self._folder,
            Snapshot(self._identity, self._wal.sequence, self._wal.epoch, values, arrays),
        )
        self._snapshot_next = dict(self._next)
        self._n_since_snapshot = 0
        self._remembered.clear()
        try:
            self._wal.rotate()
            self._drop_old()
        except OSError as error:
            raise self._unwritable(error) from error
        return path

    def close(self, *, with_snapshot: bool = True) -> None:
        """Take a snapshot, so that the next start is fast, and release the folder.

        Parameters
        ----------
        with_snapshot : bool
            False where outputs may be missing: the log then still answers what is read again.
        """
        try:
            if self._n_since_snapshot and with_snapshot:
                self.snapshot()
        finally:
            self._wal.close()
            self._unlock()

    @property
    def passed(self) -> tuple[PassedEvent, ...]:
        """Events that are logged and were never applied: each killed the process."""
        return self.recovery.passed

    # --- private -----------------------------------------------------------------------------

    def _apply(self, events: EventBatch) -> FeatureMatrix:
        self.check_room(events)
        times = events.column(self.plan.features.events.event_time.name)
        self._log(EVENTS, events, times)
        if self._marker is None:
            return super().advance(events)
        self._marker.enter(self._wal.sequence)
        matrix = super().advance(events)
        self._marker.leave()
        return matrix

    def _log(self, kind: int, batch: EventBatch, times: npt.NDArray[np.int64]) -> None:
        raw = batch.raw
        where = (raw.source, raw.partition)
        held = self._next.get(where, 0)
        next_position = max(held, int(raw.positions[-1]) + 1 if len(raw.positions) else held)
        self._commit(kind, encode_batch(batch, times=times, next_position=next_position))
        self._next[where] = next_position
        if where in self._accepted:
            self._accepted[where] = {at for at in self._accepted[where] if at > next_position}
        self._n_since_snapshot += max(1, batch.n_rows)

    def _commit(self, kind: int, payload: bytes) -> None:
        self._check_owner()
        self._wal.append(kind, payload)
        try:
            self._wal.commit()
        except SentinelError:
            self._wal.abandon()
            raise

    def _check_owner(self) -> None:
        """Refuse to write where another process has taken the folder while this one slept."""
        if self._lock < 0:
            return
        try:
            found = os.stat(self._folder / "lock")  # noqa: PTH116 -- beside fstat
        except OSError as error:
            raise self._unwritable(error) from error
        own = os.fstat(self._lock)
        if (found.st_dev, found.st_ino) != (own.st_dev, own.st_ino):
            raise SentinelError(
                ErrorCode.STATE_LOCKED,
                at=str(self._folder),
                expected="the folder that this process holds",
                got="one that was taken by another",
                hint="This process was replaced: end it.",
            )

    def _unwritable(self, error: OSError) -> SentinelError:
        return SentinelError(
            ErrorCode.STATE_UNWRITABLE,
            at=str(self._folder),
            expected="a disk that reads and writes",
            got=error.strerror or error,
            hint="Nothing that was acknowledged is lost; make room or replace the disk.",
        )

    def _set_limits(self) -> None:
        """Bring the limits on entities up to date; a change is a record of the log."""
        wanted = self.limits.words()
        registers = self._state.registers
        if tuple(registers[[R_LIVING_MAX, R_ONCE_MAX]].tolist()) != wanted:
            self._commit(LIMITS, LIMITS_LAYOUT.pack(*wanted))
            registers[[R_LIVING_MAX, R_ONCE_MAX]] = wanted

    def _is_new(self, batch: EventBatch) -> npt.NDArray[np.bool_]:
        """Mark the rows that the state does not hold, or raise where a source has a hole."""
        raw = batch.raw
        if not self._is_fenced or not len(raw.positions):
            return np.ones(batch.n_rows, dtype=np.bool_)
        where = (raw.source, raw.partition)
        held = self._next.get(where)
        refuse_hole(*where, raw.positions, held, self._accepted.get(where, ()))
        return raw.positions[batch.rows] >= (raw.positions[0] if held is None else held)

    def _answer_again(self, events: EventBatch, is_held: npt.NDArray[np.bool_]) -> FeatureMatrix:
        """Make a matrix in which the rows that are held have the vectors they got."""
        matrix = self.defaults(events.n_rows)
        remembered = self._remembered.get((events.raw.source, events.raw.partition))
        if remembered is None:
            return matrix
        wanted = np.where(is_held, events.raw.positions[events.rows], -1)
        for positions, known in zip(remembered.positions, remembered.matrices, strict=True):
            found, here, there = np.intersect1d(
                wanted, positions, assume_unique=False, return_indices=True
            )
            if len(found):
                for old, new in zip(_parts(matrix), _parts(known), strict=True):
                    old[here] = new[there]
        return matrix

    def _recover(self) -> Recovery:
        self._remove_unfinished()
        snapshot, skipped = self._newest_snapshot()
        if snapshot is not None:
            self.restore(arrays_of(self.plan, snapshot), snapshot.values)
            self._next = _positions_of(snapshot.values)
            self._snapshot_next = dict(self._next)
        after = 0 if snapshot is None else snapshot.sequence
        boot = BootMark(self._folder, self._disk.boot_id())
        log = WriteAheadLog(
            self._disk,
            self._folder,
            identity=self._identity,
            syncs=self.durability is Durability.POWER,
            is_same_boot=boot.is_same,
        )
        n_batches = n_events = 0
        for record in log.recover(after=after):
            n_batches += 1
            n_events += self._apply_record(record)
        self._check_reached(log)
        boot.renew()
        log.epoch = max(log.epoch_found, 0 if snapshot is None else snapshot.epoch) + 1
        self._wal = log
        self._n_since_snapshot = n_events
        return Recovery(
            snapshot="" if snapshot is None else f"{snapshot.sequence}",
            skipped=skipped,
            n_batches=n_batches,
            n_events=n_events,
            torn_tail=log.torn_tail,
            n_bytes_fenced=log.n_bytes_fenced,
            passed=() if self._marker is None else self._marker.passed,
        )

    def _check_reached(self, log: WriteAheadLog) -> None:
        """Refuse a state that is older than a snapshot which is there, and damaged."""
        newest = [path.stem for path in snapshot_paths(self._disk, self._folder)[:1]]
        for name in newest:
            sequence = int(name.removeprefix("snapshot-"))
            if log.sequence < sequence:
                raise SentinelError(
                    ErrorCode.STATE_GAP,
                    at=f"{name}.state",
                    expected=f"a whole snapshot, or a log that reaches record {sequence}",
                    got=f"a damaged one, and record {log.sequence}",
                    hint="Restore it, or move the state folder away and replay the source.",
                )

    def _apply_record(self, record: WalRecord) -> int:
        features = self.plan.features
        if record.kind == LIMITS:
            found = LIMITS_LAYOUT.unpack(record.payload)
            self._state.registers[[R_LIVING_MAX, R_ONCE_MAX]] = found
            return 0
        schema = features.events if record.kind == EVENTS else features.feedback
        if schema is None:
            return 0
        applied: AppliedBatch = decode_batch(record.payload, schema)
        raw = applied.events.raw
        where = (raw.source, raw.partition)
        self._next[where] = applied.next_position
        if record.kind != EVENTS:
            super().learn(applied.events)
            return applied.events.n_rows
        remembered = self._remembered.setdefault(where, _Remembered())
        for part in self._parts_of(record.sequence, applied.events):
            remembered.positions.append(part.raw.positions[part.rows])
            remembered.matrices.append(super().advance(part))
        if self._marker is not None:
            self._marker.leave()
        return applied.events.n_rows

    def _parts_of(self, sequence: int, events: EventBatch) -> Iterator[EventBatch]:
        """Cut a batch in whose application a process died into single events, poison left out."""
        marker = self._marker
        if marker is None:
            yield events
            return
        suspect = marker.suspect
        known = {event.row for event in marker.passed if event.sequence == sequence}
        if not known and (suspect is None or suspect.sequence != sequence):
            marker.enter(sequence)
            yield events
            return
        for row in range(events.n_rows):
            if row not in known and marker.is_poison(sequence, row):
                raw = events.raw
                position = int(raw.positions[events.rows[row]])
                found = PassedEvent(sequence, row, raw.source, raw.partition, position)
                marker.pass_event(found)
                known.add(row)
            if row not in known:
                marker.enter(sequence, row)
                yield select_rows(events, np.arange(events.n_rows) == row)

    def _newest_snapshot(self) -> tuple[Snapshot | None, tuple[str, ...]]:
        """Read the newest snapshot that is whole; another feature set's is refused."""
        skipped: list[str] = []
        for path in snapshot_paths(self._disk, self._folder):
            try:
                return read_snapshot(self._disk, path, identity=self._identity), tuple(skipped)
            except SentinelError as error:
                if error.code is not ErrorCode.STATE_CORRUPT:
                    raise
                skipped.append(str(error))
        return None, tuple(skipped)

    def _remove_unfinished(self) -> None:
        for name in self._disk.names(self._folder):
            if name.endswith(".new"):
                self._disk.remove(self._folder / name)

    def _drop_old(self) -> None:
        paths = snapshot_paths(self._disk, self._folder)
        for path in paths[limits.SNAPSHOTS_KEPT :]:
            self._disk.remove(path)
        kept = paths[: limits.SNAPSHOTS_KEPT]
        if len(kept) == limits.SNAPSHOTS_KEPT:
            oldest = int(kept[-1].stem.removeprefix("snapshot-"))
            self._wal.drop_through(oldest)

    def _unlock(self) -> None:
        if self._marker is not None:
            self._marker.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _parts(matrix: FeatureMatrix) -> tuple[npt.NDArray[np.generic], ...]:
    return (matrix.values, matrix.status, matrix.is_late, matrix.is_duplicate)


def _positions_of(values: Mapping[str, int]) -> dict[Partition, int]:
    positions = {}
    for name, position in values.items():
        if name.startswith("position/"):
            _, partition, source = name.split("/", 2)
            positions[source, int(partition)] = position
    return positions
