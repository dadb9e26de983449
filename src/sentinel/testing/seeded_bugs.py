"""Sixteen faults, put into the running code on purpose: what finds none of them detects nothing.

Each is a context manager that replaces one real function for a while, in a test build only; the
product knows nothing of it. ``tests/testing/test_seeded_bugs.py`` runs, for each, a test that must
pass without it and fail with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sentinel.core.disk import Disk, DiskFile

_Bytes = list[bytes]


@contextmanager
def _replaced(owner: object, name: str, made: object) -> Iterator[None]:
    """Replace a function of a module or a class for a while."""
    real = vars(owner)[name]
    setattr(owner, name, made)
    try:
        yield
    finally:
        setattr(owner, name, real)


@contextmanager
def skip_fsync() -> Iterator[None]:
    """Say that records are on the disk, and never sync them."""
    from sentinel.features.stores.embedded.write_ahead_log import WriteAheadLog

    def sync(self: WriteAheadLog) -> None:
        self._synced = self.sequence

    with _replaced(WriteAheadLog, "_sync", sync):
        yield


@contextmanager
def rename_before_fsync() -> Iterator[None]:
    """Give a snapshot its name before its content is on the disk."""
    from sentinel.features.stores.embedded import snapshot as module
    from sentinel.features.stores.embedded import store

    real = module.write_snapshot

    def write_snapshot(disk: Disk, folder: Path, snapshot: module.Snapshot) -> Path:
        return real(_LateSync(disk), folder, snapshot)

    with (
        _replaced(module, "write_snapshot", write_snapshot),
        _replaced(store, "write_snapshot", write_snapshot),
    ):
        yield


class _LateFile:
    """A file whose sync is put off."""

    def __init__(self, file: DiskFile, put_off: list[DiskFile]) -> None:
        self._file, self._put_off = file, put_off

    def write(self, content: bytes | memoryview) -> None:
        self._file.write(content)

    def sync(self) -> None:
        self._put_off.append(self._file)

    def close(self) -> None:
        """Stay open."""


class _LateSync:
    """A disk that syncs files when their folder has been synced."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._put_off: list[DiskFile] = []
        self.replace, self.remove, self.append = disk.replace, disk.remove, disk.append
        self.read, self.truncate, self.names = disk.read, disk.truncate, disk.names
        self.make_folder, self.boot_id = disk.make_folder, disk.boot_id

    def create(self, path: Path) -> DiskFile:
        return _LateFile(self._disk.create(path), self._put_off)

    def sync_folder(self, folder: Path) -> None:
        self._disk.sync_folder(folder)
        for file in self._put_off:
            file.sync()
            file.close()
        self._put_off.clear()


@contextmanager
def commit_position_before_state() -> Iterator[None]:
    """Mark outputs as safe before they are."""
    from sentinel.streaming.stream.worker import StreamWorker

    real = vars(StreamWorker)["_commit"]

    def commit(self: StreamWorker) -> None:
        for state in self._shelf.states():
            state.mark(self._log.topic, self._places.next)
        real(self)

    with _replaced(StreamWorker, "_commit", commit):
        yield


@contextmanager
def drop_the_dedupe_window() -> Iterator[None]:
    """Forget the ids of events at once."""
    from sentinel.features import kernel

    real = kernel.new_registers

    def new_registers(n_dedupe_min: int, n_head: int) -> npt.NDArray[np.int64]:
        return real(1, n_head)

    with _replaced(kernel, "new_registers", new_registers):
        yield


@contextmanager
def apply_twice_on_retry() -> Iterator[None]:
    """Apply again what a source sends again."""
    from sentinel.contract import EventBatch
    from sentinel.features.stores.embedded.store import EmbeddedStore

    def is_new(self: EmbeddedStore, batch: EventBatch) -> npt.NDArray[np.bool_]:
        return np.ones(batch.n_rows, dtype=np.bool_)

    with _replaced(EmbeddedStore, "_is_new", is_new):
        yield


@contextmanager
def breaker_ignores_slow_calls() -> Iterator[None]:
    """Call every call fast, however late it came back."""
    from sentinel.scoring.breaker import Breaker, Permit

    def is_slow(self: Breaker, permit: Permit) -> bool:
        return False

    with _replaced(Breaker, "_is_slow", is_slow):
        yield


@contextmanager
def half_open_without_deadline() -> Iterator[None]:
    """Leave the breaker half open for ever after a probe that never comes back."""
    from sentinel.scoring.breaker import Breaker, State

    real = vars(Breaker)["_advance"]

    def advance(self: Breaker, now_s: float) -> None:
        if self._state is State.HALF_OPEN:
            self._since_s = now_s
        real(self, now_s)

    with _replaced(Breaker, "_advance", advance):
        yield


@contextmanager
def leak_a_hundred_bytes() -> Iterator[None]:
    """Keep 100 bytes of every event that a worker carries."""
    from sentinel.streaming.stream.event_log import KeyedBatch
    from sentinel.streaming.stream.state import StreamState
    from sentinel.streaming.stream.worker import StreamWorker

    real = vars(StreamWorker)["_carry"]
    kept: _Bytes = []

    def carry(
        self: StreamWorker, batch: KeyedBatch, state: StreamState, *, is_poison: bool
    ) -> None:
        kept.extend(bytes(67) for _ in range(batch.raw.n_events))
        real(self, batch, state, is_poison=is_poison)

    with _replaced(StreamWorker, "_carry", carry):
        yield


@contextmanager
def log_queue_without_bound() -> Iterator[None]:
    """Have room in the queue of the decision log, always."""
    from sentinel.monitoring.decision_log import DecisionLog

    def has_room(self: DecisionLog, n_records: int) -> bool:
        return True

    with _replaced(DecisionLog, "_has_room", has_room):
        yield


@contextmanager
def retry_without_budget() -> Iterator[None]:
    """Try every call to a store again, however often calls fail."""
    from sentinel.features.stores.redis.link import Patience

    real = Patience.waits_for_another

    def waits_for_another(self: Patience, n_tries: int, deadline: float) -> bool:
        self._budget = 10.0
        return real(self, n_tries, deadline)

    def lose(self: Patience) -> None:
        self.n_losses += 1

    with (
        _replaced(Patience, "waits_for_another", waits_for_another),
        _replaced(Patience, "lose", lose),
    ):
        yield


@contextmanager
def readiness_is_a_constant() -> Iterator[None]:
    """Be ready, whatever the canary says."""
    from dataclasses import replace

    from sentinel.serving.batching.batcher import Vital
    from sentinel.serving.health import Health, HealthReport

    real = Health.report

    def report(self: Health, vital: Vital, degraded: tuple[str, ...]) -> HealthReport:
        return replace(real(self, vital, degraded), is_started=True, is_ready=True)

    with _replaced(Health, "report", report):
        yield


@contextmanager
def canary_bypasses_access() -> Iterator[None]:
    """Know the canary's own token at the door, whatever has become of access."""
    from sentinel.serving.doors.access import Access, Caller

    real_add, real_identify = Access.add_own, Access.identify
    known: dict[bytes, Caller] = {}

    def add_own(self: Access, secret: str) -> None:
        real_add(self, secret)
        if self._own is not None:
            known[b"Bearer " + secret.encode()] = self._own[1]

    def identify(self: Access, authorization: bytes) -> Caller | None:
        return known.get(authorization) or real_identify(self, authorization)

    with _replaced(Access, "add_own", add_own), _replaced(Access, "identify", identify):
        yield


@contextmanager
def verify_after_parse() -> Iterator[None]:
    """Parse the files of a release, and hold them against the manifest later."""
    from sentinel.release import load as module
    from sentinel.release.folder import Contents
    from sentinel.release.manifest import Manifest

    real_check, real_read = Manifest.check, vars(module)["_read"]

    def check(self: Manifest, contents: dict[str, bytes]) -> None:
        """Put it off."""

    def read(contents: Contents, *rest: object) -> module.LoadedRelease:
        loaded: module.LoadedRelease = real_read(contents, *rest)
        real_check(contents.manifest, contents.files)
        return loaded

    with _replaced(Manifest, "check", check), _replaced(module, "_read", read):
        yield


@contextmanager
def ignore_one_file() -> Iterator[None]:
    """Hold all files of a release but one against the manifest."""
    from sentinel.release.manifest import Manifest

    real = Manifest.check

    def check(self: Manifest, contents: dict[str, bytes]) -> None:
        import msgspec

        others = tuple(entry for entry in self.files if entry.name != "model.onnx")
        ignored = {name: content for name, content in contents.items() if name != "model.onnx"}
        real(msgspec.structs.replace(self, files=others), ignored)

    with _replaced(Manifest, "check", check):
        yield


@contextmanager
def accept_nan_as_text() -> Iterator[None]:
    """Take the text "NaN" for a number."""
    from dataclasses import replace

    from sentinel.contract import Decoded, Decoder, RawBatch

    real = Decoder.decode

    def decode(self: Decoder, raw: RawBatch) -> Decoded:
        content = bytes(raw.content).replace(b'"NaN"', b"0    ")
        return real(self, replace(raw, content=np.frombuffer(content, dtype=np.uint8)))

    with _replaced(Decoder, "decode", decode):
        yield


@contextmanager
def clip_nan_to_zero() -> Iterator[None]:
    """Call an output 0 that is not a number."""
    from sentinel.scoring.sanity import Sanity, Verdict

    real = Sanity.judge

    def judge(
        self: Sanity, values: npt.NDArray[np.float32], output: npt.NDArray[np.generic]
    ) -> Verdict:
        if output.dtype == np.float32:
            output = np.nan_to_num(output, nan=0.0, posinf=0.0, neginf=0.0)
        return real(self, values, output)

    with _replaced(Sanity, "judge", judge):
        yield


BUGS: dict[str, Callable[[], object]] = {
    bug.__name__.replace("_", "-"): bug
    for bug in (
        skip_fsync,
        rename_before_fsync,
        commit_position_before_state,
        drop_the_dedupe_window,
        apply_twice_on_retry,
        breaker_ignores_slow_calls,
        half_open_without_deadline,
        leak_a_hundred_bytes,
        log_queue_without_bound,
        retry_without_budget,
        readiness_is_a_constant,
        canary_bypasses_access,
        verify_after_parse,
        ignore_one_file,
        accept_nan_as_text,
        clip_nan_to_zero,
    )
}
"""Name of each bug, as :func:`contextlib.contextmanager` without parameters."""
