"""Workers, their state and their disk in one thread; a seed decides what befalls them.

A world is a topic, a disk and up to three workers that share the partitions. One seed is one
schedule: processes are killed at a commit step or within a call to the disk, all of them by a
power cut that keeps any part of what was not synced; the disk fails and fills up; workers freeze,
lose their partitions, come and go; clocks jump; reads and writes come late, twice, in part. Then
the faults end, whoever died is started again, and the log is worked off.

What came of it is held against an undisturbed world of the same log, byte for byte: the state of
every partition, every decision and every refusal. That is `I3` of ``docs/reliability.md``; every
position has its one fate (`I1`), every id one decision (`I2`).
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features.stores.embedded import Durability
from sentinel.monitoring import Metrics
from sentinel.release import LoadedRelease
from sentinel.scoring import Scorer
from sentinel.streaming.stream.ends import StreamEnds
from sentinel.streaming.stream.job import Step, StreamJob
from sentinel.streaming.stream.opening import assemble
from sentinel.streaming.stream.state import StreamState
from sentinel.streaming.stream.worker import StreamWorker
from sentinel.testing.manual_clock import ManualClock
from sentinel.testing.memory_disk import DiskCall, MemoryDisk, PowerCut
from sentinel.testing.memory_log import MemoryTopic
from sentinel.testing.simulated_ends import Faults, SimulatedLog, SimulatedSink

_STATE = Path("state")
_N_WORKERS_MAX = 3
_N_TURNS_AFTER_MAX = 2_000
# What a worker may say under these faults; anything else is a defect.
_EXPECTED = {
    ErrorCode.STATE_UNWRITABLE,
    ErrorCode.FILE_UNWRITABLE,
    ErrorCode.FILE_UNREADABLE,
    ErrorCode.STREAM_FAILED,
}
# A disk that lies may end in a state that is refused; it is then made anew from the log.
_DAMAGE = {ErrorCode.STATE_CORRUPT, ErrorCode.STATE_GAP}


class Killed(BaseException):
    """A process was killed here. Not an Exception: nothing in the code under test may catch it."""


class SimulationError(AssertionError):
    """A promise was broken; says which seed breaks it."""


@dataclass(frozen=True, slots=True)
class EventFate:
    """An event of the log and what must become of it.

    Attributes
    ----------
    partition : int
    key, value : bytes
    time_ms : int
    event_id : str
        Empty for an event that must be refused.
    """

    partition: int
    key: bytes
    value: bytes
    time_ms: int
    event_id: str


def simulated_events(
    seed: int, *, n_events: int = 150, n_partitions: int = 3, start_ms: int = 1_533_081_600_000
) -> list[EventFate]:
    """Make payments with unique ids, whole cents and a number for each card that counts up.

    One in twelve is late, one in fifteen comes again (at once or later), one in twenty is
    nonsense.

    Parameters
    ----------
    seed, n_events, n_partitions, start_ms : int

    Examples
    --------
    >>> [fate.event_id for fate in simulated_events(3, n_events=3)]
    ['c9-0', 'c9-0', 'c8-0']
    """
    rng = Random(seed)  # noqa: S311 -- a seeded choice, not a secret
    n_of_card: dict[int, int] = {}
    fates: list[EventFate] = []
    now_ms = start_ms
    while len(fates) < n_events:
        now_ms += rng.randint(1, 400_000)
        card = rng.randrange(12)
        partition, key = card % n_partitions, f"c{card}".encode()
        if rng.random() < 1 / 20:
            value = rng.choice([b"", b"{", b'{"amount":NaN}', b"\xff", b"[" * 50])
            fates.append(EventFate(partition, key, value, now_ms, ""))
            continue
        if fates and rng.random() < 1 / 15:
            fates.append(rng.choice(fates[-40:]))
            continue
        number = n_of_card[card] = n_of_card.get(card, -1) + 1
        late_ms = rng.choice([60_000, 7_200_000]) if rng.random() < 1 / 12 else 0
        payment = {
            "payment_id": f"c{card}-{number}",
            "paid_at": now_ms - late_ms,
            "card_id": f"c{card}",
            "amount": rng.randint(1, 100_000) / 100,
            "channel": rng.choice(["chip", "online"]),
        }
        value = json.dumps(payment).encode()
        fates.append(EventFate(partition, key, value, now_ms - late_ms, f"c{card}-{number}"))
    return fates


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is left in the end.

    Attributes
    ----------
    digests : tuple of str
        Of the state of each partition, read back from the disk.
    decisions, refusals : mapping of bytes to bytes
        By event id, and by topic, partition and position.
    n_deaths, n_errors, n_repeated, n_made_anew : int
        Processes that were killed; that ended with an error; decisions that came out again; states
        that a lying disk had damaged beyond use.
    """

    digests: tuple[str, ...]
    decisions: dict[bytes, bytes]
    refusals: dict[bytes, bytes]
    n_deaths: int
    n_errors: int
    n_repeated: int
    n_made_anew: int


class _LockedState(StreamState):
    """A state whose folder is held by a process of the world until it lets go or ends."""

    locks: dict[Path, _Process]

    def close(self) -> None:
        """Close it and let others have the folder."""
        try:
            super().close()
        finally:
            self.locks.pop(self.folder, None)


@dataclass(eq=False, slots=True)
class _Process:
    """A worker and what it holds."""

    log: SimulatedLog
    sink: SimulatedSink
    worker: StreamWorker
    scorer: Scorer
    n_turns_frozen: int = 0


@dataclass(slots=True)
class _Count:
    n_deaths: int = 0
    n_errors: int = 0
    n_made_anew: int = 0
    errors: list[str] = field(default_factory=list)


class SimulatedWorld:
    """A topic, a disk, workers; see the module.

    Parameters
    ----------
    loaded : LoadedRelease
        Of payments by card: ``payment_id``, ``paid_at``, ``card_id``, ``amount``, ``channel``.
    fates : sequence of EventFate
        The log.
    seed : int or None
        None: nothing happens to anybody.
    n_partitions : int
    """

    def __init__(
        self,
        loaded: LoadedRelease,
        fates: Sequence[EventFate],
        *,
        seed: int | None,
        n_partitions: int = 3,
    ) -> None:
        self._loaded = loaded
        self._rng = Random(seed)  # noqa: S311 -- a seeded choice, not a secret
        self._seed = seed
        self._faults = Faults() if seed is None else Faults.draw(self._rng)
        self._durability = self._rng.choice(list(Durability))
        self._clock = ManualClock(1_800_000_000_000, monotonic_s=1000.0)
        self._n_partitions = n_partitions
        self._fates = list(fates)
        self._topic = MemoryTopic("events", n_partitions)
        self._n_sent = 0
        self._disk = MemoryDisk()
        self._equip_disk()
        self._decisions: list[tuple[bytes, bytes]] = []
        self._refusals: list[tuple[bytes, bytes]] = []
        self._alive: list[_Process] = []
        self._ghosts: list[SimulatedLog] = []
        self._locks: dict[Path, _Process] = {}
        self._n_wanted = 1 if seed is None else 2
        self._dies_in_next_write = False
        self._n_turns_full = 0
        self._count = _Count()

    def run(self) -> Outcome:
        """Live through the schedule, then through quiet days; say what is left.

        Raises
        ------
        SimulationError
            The promises that :func:`check` does not need to compare are broken: an error that no
            fault explains, a log that is never worked off, an entity's decisions out of order.
        """
        for _ in range(0 if self._seed is None else self._rng.randint(15, 50)):
            self._send(self._rng.randint(0, 15))
            self._disturb()
            self._turn()
        self._faults = Faults()
        self._heal()
        self._send(len(self._fates))
        for _ in range(_N_TURNS_AFTER_MAX):
            self._turn()
            if self._is_worked_off():
                break
        else:
            raise self._broken("the log is never worked off")
        for process in list(self._alive):
            self._guard(process, process.worker.finish)
        for process in list(self._alive):
            self._end(process)
        self._check_order()
        return self._outcome()

    # --- time ----------------------------------------------------------------------------------

    def _send(self, n_events: int) -> None:
        for fate in self._fates[self._n_sent : self._n_sent + n_events]:
            self._topic.append(
                fate.partition, [fate.value], keys=[fate.key], times_ms=[fate.time_ms]
            )
        self._n_sent = min(self._n_sent + n_events, len(self._fates))

    def _turn(self) -> None:
        rng = self._rng
        if len(self._alive) < self._n_wanted:
            self._start()
        for process in self._alive:
            process.n_turns_frozen = max(process.n_turns_frozen - 1, 0)
        awake = [process for process in self._alive if not process.n_turns_frozen]
        if awake:
            chosen = rng.choice(awake)
            self._guard(chosen, chosen.worker.turn)
        self._clock.advance(rng.choice([0.0, 0.01, 0.1, 0.3]))

    def _disturb(self) -> None:
        rng, faults = self._rng, self._faults
        if rng.random() < faults.power_cut:
            self._cut_power()
        if self._alive and rng.random() < faults.kill:
            if rng.random() < 0.5:
                self._bury(rng.choice(self._alive))
            else:
                self._dies_in_next_write = True
                self._disk.n_bytes_max = self._n_bytes_used() + rng.randint(0, 4_000)
        if self._alive and rng.random() < faults.freeze:
            rng.choice(self._alive).n_turns_frozen = rng.randint(2, 15)
        if self._alive and rng.random() < faults.expel:
            self._topic.group.expel(rng.choice(self._alive).log)
        if self._ghosts and rng.random() < 0.3:
            self._topic.group.expel(self._ghosts.pop())
        if rng.random() < faults.join:
            self._n_wanted = rng.randint(1, _N_WORKERS_MAX)
            if len(self._alive) > self._n_wanted:
                self._end(rng.choice(self._alive))
        if rng.random() < faults.clock:
            self._clock.jump(rng.choice([-1, 1]) * rng.choice([3600.0, 86_400.0, 31_536_000.0]))
        self._n_turns_full -= 1
        if self._n_turns_full == 0:
            self._disk.n_bytes_max = None
        elif rng.random() < faults.disk_full:
            self._disk.n_bytes_max = self._n_bytes_used() + rng.randint(0, 200_000)
            self._n_turns_full = rng.randint(1, 6)

    def _heal(self) -> None:
        self._disk.n_bytes_max = None
        self._dies_in_next_write = False
        for log in self._ghosts:
            self._topic.group.expel(log)
        self._ghosts.clear()
        for process in self._alive:
            process.n_turns_frozen = 0
            process.log.faults = process.sink.faults = self._faults
        self._n_wanted = max(self._n_wanted, 1)

    # --- processes -----------------------------------------------------------------------------

    def _start(self) -> None:
        job = StreamJob(
            events="events",
            decisions="decisions",
            quarantine="refused",
            state=_STATE,
            partition_key="card_id",
            n_events_batch=20,
            snapshot_every_events=40,
            durability=self._durability,
        )
        log = SimulatedLog(self._topic, self._faults, self._rng)
        sink = SimulatedSink(self._decisions, self._refusals, self._faults, self._rng)
        holder: list[_Process] = []
        worker, scorer = assemble(
            self._loaded,
            StreamEnds(events=log, sink=sink),
            job,
            metrics=Metrics(with_process=False),
            clock=self._clock,
            on_step=self._step,
            open_state=lambda folder: self._open(folder, holder[0]),
        )
        process = _Process(log, sink, worker, scorer)
        holder.append(process)
        self._alive.append(process)
        self._guard(process, worker.start)

    def _open(self, folder: Path, process: _Process) -> StreamState:
        if folder in self._locks:
            raise SentinelError(
                ErrorCode.STATE_LOCKED, at=str(folder), expected="a free folder", got="one in use"
            )
        self._locks[folder] = process
        is_open = False
        try:
            state = _LockedState(
                self._loaded.parts.plan,
                folder,
                durability=self._durability,
                snapshot_every_events=40,
                disk=self._disk,
            )
            state.locks = self._locks
            is_open = True
        except SentinelError as error:
            if error.code in _DAMAGE and self._disk.forgets_syncs:
                self._make_anew(folder)
            raise
        finally:
            if not is_open:
                self._locks.pop(folder, None)
        return state

    def _make_anew(self, folder: Path) -> None:
        """Do what a person does where a state is refused: remove it; the log is read again."""
        self._count.n_made_anew += 1
        before, self._disk.before_call = self._disk.before_call, None
        for name in self._disk.names(folder):
            self._disk.remove(folder / name)
        self._disk.before_call = before

    def _guard(self, process: _Process, act: Callable[[], object]) -> bool:
        """Let a process do something, and bury it when that was its end."""
        try:
            act()
        except Killed:
            self._bury(process)
        except PowerCut:
            self._cut_power()
        except SentinelError as error:
            self._check_expected(process, error)
            self._end(process)
        else:
            return True
        return False

    def _end(self, process: _Process) -> None:
        """Close a worker as its process does at its end."""
        try:
            process.worker.close()
        except SentinelError as error:
            self._check_expected(process, error)
        except (Killed, PowerCut):
            pass
        self._bury(process, is_killed=False)

    def _bury(self, process: _Process, *, is_killed: bool = True) -> None:
        if process not in self._alive:
            return
        self._alive.remove(process)
        self._count.n_deaths += is_killed
        process.sink.crash()
        process.scorer.close()
        for folder in [folder for folder, owner in self._locks.items() if owner is process]:
            del self._locks[folder]
        if self._faults.expel and self._rng.random() < 0.5:
            self._ghosts.append(process.log)
        else:
            self._topic.group.expel(process.log)

    def _cut_power(self) -> None:
        for process in list(self._alive):
            self._bury(process)
        forgets_syncs = self._disk.forgets_syncs
        self._disk = self._disk.after_power_cut(keep=self._rng.random(), rng=self._rng)
        self._disk.n_bytes_max = None
        self._dies_in_next_write = False
        self._equip_disk()
        self._disk.forgets_syncs = forgets_syncs

    # --- faults within a turn ------------------------------------------------------------------

    def _step(self, step: Step) -> None:
        if self._rng.random() < self._faults.kill / 4:
            raise Killed(step)

    def _equip_disk(self) -> None:
        self._disk.forgets_syncs = self._faults.forgets_syncs
        self._disk.before_call = self._before_call if self._seed is not None else None

    def _before_call(self, call: DiskCall) -> None:
        faults, rng = self._faults, self._rng
        if call.name == "write" and self._dies_in_next_write:
            self._dies_in_next_write = False
            self._disk.n_bytes_max = None
            raise Killed(call)
        if rng.random() < faults.kill / 10:
            raise Killed(call)
        if rng.random() < faults.power_cut / 10:
            raise PowerCut(call)
        if rng.random() < faults.disk_error / 10:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _n_bytes_used(self) -> int:
        before, self._disk.n_bytes_max = self._disk.n_bytes_max, 1 << 60
        used = (1 << 60) - (self._disk.room_bytes() or 0)
        self._disk.n_bytes_max = before
        return used

    # --- judgement -----------------------------------------------------------------------------

    def _check_expected(self, process: _Process, error: SentinelError) -> None:
        self._count.n_errors += 1
        self._count.errors.append(str(error))
        code = error.code
        if code in _EXPECTED or (code is ErrorCode.SOURCE_GAP and process.log.has_skipped):
            return
        # A list or a snapshot that cannot be read is refused by that name, too.
        is_disk_bad = self._disk.forgets_syncs or self._faults.disk_error
        if not (code in _DAMAGE and is_disk_bad):
            raise self._broken(f"an error that no fault explains: {error}")

    def _is_worked_off(self) -> bool:
        owned: dict[int, int] = {}
        for process in self._alive:
            owned.update(process.log.reading)
        ends = {p: self._topic.ends(p).high for p in range(self._n_partitions)}
        return owned == ends

    def _check_order(self) -> None:
        """See that the first decisions of each card come in the order of its events."""
        seen: dict[str, int] = {}
        ids: set[str] = set()
        for name in (key.decode() for key, _ in self._decisions):
            if name in ids:
                continue
            ids.add(name)
            card, _, number = name.partition("-")
            if int(number) != seen.get(card, -1) + 1:
                raise self._broken(f"{name} is decided after {card}-{seen.get(card)}")
            seen[card] = int(number)

    def _outcome(self) -> Outcome:
        disk = self._disk.after_kill()
        digests = []
        for partition in range(self._n_partitions):
            folder = _STATE / f"partition-{partition:05d}"
            state = StreamState(
                self._loaded.parts.plan, folder, durability=Durability.PROCESS, disk=disk
            )
            digests.append(state.store.state_digest())
            held = state.store.position("events", partition)
            state.store.close(with_snapshot=False)
            if held != self._topic.ends(partition).high:
                raise self._broken(f"partition {partition} is held up to {held}")
        return Outcome(
            tuple(digests),
            self._once("decision", self._decisions),
            self._once("refusal", self._refusals),
            self._count.n_deaths,
            self._count.n_errors,
            len(self._decisions) - len(dict(self._decisions)),
            self._count.n_made_anew,
        )

    def _once(self, what: str, records: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        for key, value in records:
            if found.setdefault(key, value) != value:
                raise self._broken(f"two different {what}s for {key!r}")
        return found

    def _broken(self, what: str) -> SimulationError:
        return SimulationError(f"seed {self._seed}: {what}")


def check(seed: int, outcome: Outcome, undisturbed: Outcome, fates: Sequence[EventFate]) -> None:
    """Hold a world against an undisturbed one, and both against the log.

    Raises
    ------
    SimulationError
    """
    expected = {fate.event_id.encode() for fate in fates if fate.event_id}
    n_refused = sum(not fate.event_id for fate in fates)
    problems = {
        "ids without a decision": expected - outcome.decisions.keys(),
        "decisions of nothing": outcome.decisions.keys() - expected,
        "other decisions": {
            key
            for key, value in outcome.decisions.items()
            if undisturbed.decisions.get(key) != value
        },
        "refusals that differ": dict(outcome.refusals.items() ^ undisturbed.refusals.items()),
        "refusals too many or too few": len(outcome.refusals) - n_refused,
        "states that differ": [
            partition
            for partition, pair in enumerate(zip(outcome.digests, undisturbed.digests, strict=True))
            if pair[0] != pair[1]
        ],
    }
    broken = {name: found for name, found in problems.items() if found}
    if broken:
        raise SimulationError(f"seed {seed}: {broken}")
