"""Where refused events are kept: append-only segments of JSON lines, bounded in every way.

One line is one refusal: when, code, faults, source, partition, position, and the event itself,
as text where it is UTF-8 and as base64 where it is not. A segment is closed when it is large or
old enough, and the oldest is removed when there are too many.

Past ``kept_per_minute_max`` refusals of one code within a minute, every ``sample_every``-th is
kept and the others are counted; the counts of the minute are written as a line of their own. So
a source that sends nothing but garbage can neither fill the disk nor push out the rest, and
``kept + sampled_out + dropped`` is always the number of refusals.

A batch is one write. Where it fails, the segment is cut back to its last whole line: a batch is
kept whole or not at all. What is written survives the process; what survives a power cut is what
stood in a segment that was closed.
"""

from __future__ import annotations

import base64
import enum
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType

import msgspec

from sentinel.contract.codes import RefusalCode
from sentinel.contract.refusal import Fault, Refusal
from sentinel.core import limits
from sentinel.core.clock import Clock, SystemClock
from sentinel.core.disk import Disk, DiskFile, SystemDisk
from sentinel.core.errors import ErrorCode, SentinelError

_SEGMENT = re.compile(r"refusals-(\d{10})\.jsonl")
_MINUTE_MS = 60_000


class UnwritablePolicy(enum.StrEnum):
    """What happens when refused events cannot be kept."""

    STOP = "stop"
    COUNT = "count"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineRules:
    """The bounds of a quarantine.

    Attributes
    ----------
    segment_bytes_max : int
        A segment is closed before it would be longer.
    segment_age_ms_max : int
        A segment is closed when its first line is older.
    segments_max : int
        The oldest segment is removed when there would be more.
    kept_per_minute_max : int
        Refusals of one code kept whole within a minute.
    sample_every : int
        Of those beyond, one in so many is kept.
    unwritable : UnwritablePolicy
        ``stop`` raises and nothing is skipped; ``count`` drops and counts.
    """

    segment_bytes_max: int = limits.QUARANTINE_SEGMENT_BYTES_MAX
    segment_age_ms_max: int = limits.QUARANTINE_SEGMENT_AGE_MS_MAX
    segments_max: int = limits.QUARANTINE_SEGMENTS_MAX
    kept_per_minute_max: int = limits.QUARANTINE_KEPT_PER_MINUTE_MAX
    sample_every: int = limits.QUARANTINE_SAMPLE_EVERY
    unwritable: UnwritablePolicy = UnwritablePolicy.STOP


class QuarantineRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line: a refusal that was kept, or the counts of those that were not.

    Attributes
    ----------
    at_ms : int
        When it was written; milliseconds since the epoch.
    code, faults, source, partition, position, n_bytes
        See :class:`~sentinel.contract.refusal.Refusal`; ``code`` is None in a line of counts.
    text : str or None
        The event, where it is UTF-8.
    base64 : str or None
        The event, where it is not.
    sampled_out : dict
        Line of counts only: refusals by code that were counted and not kept.
    """

    at_ms: int
    code: RefusalCode | None = None
    source: str = ""
    partition: int = 0
    position: int = 0
    faults: tuple[Fault, ...] = ()
    n_bytes: int = 0
    text: str | None = None
    base64: str | None = None
    sampled_out: dict[str, int] = {}

    @property
    def content(self) -> bytes:
        """The event as it came, or its head where it was cut."""
        if self.base64 is not None:
            return base64.b64decode(self.base64)
        return (self.text or "").encode()


@dataclass(frozen=True, slots=True)
class QuarantineCounts:
    """What became of the refusals; ``kept + sampled_out + dropped`` is their number.

    Attributes
    ----------
    by_code : dict of RefusalCode to int
        All refusals, whatever became of them.
    kept : int
        Written whole.
    sampled_out : int
        Counted only, past the limit of a minute.
    dropped : int
        Counted only, because the folder could not be written (policy ``count``).
    segments_removed : int
        Old segments that made room.
    """

    by_code: dict[RefusalCode, int] = field(default_factory=dict)
    kept: int = 0
    sampled_out: int = 0
    dropped: int = 0
    segments_removed: int = 0


@dataclass(slots=True)
class _Minute:
    """What was seen of each code in the minute that started at ``start_ms``."""

    start_ms: int = 0
    seen: dict[RefusalCode, int] = field(default_factory=dict)
    sampled_out: dict[str, int] = field(default_factory=dict)


class Quarantine:
    """Keeps refusals in a folder; one writer a folder object, any number of readers.

    Parameters
    ----------
    folder : Path
        Created where missing.
    rules : QuarantineRules, optional
    clock : Clock, optional
        Wall time for stamps, ages and minutes.
    disk : Disk, optional

    Raises
    ------
    SentinelError
        ``quarantine-unwritable`` where the folder cannot be made and the policy is ``stop``.
    """

    def __init__(
        self,
        folder: Path,
        *,
        rules: QuarantineRules | None = None,
        clock: Clock | None = None,
        disk: Disk | None = None,
    ) -> None:
        self.folder = folder
        self.rules = rules or QuarantineRules()
        self._clock = clock or SystemClock()
        self._disk = disk or SystemDisk()
        self._file: DiskFile | None = None
        self._path = folder
        self._n_bytes = 0
        self._opened_at_ms = 0
        self._minute = _Minute()
        self._counts = QuarantineCounts()
        self._must_cut = False
        try:
            self._disk.make_folder(folder)
        except OSError as error:
            self._refuse(error)

    def counts(self) -> QuarantineCounts:
        """Return what became of the refusals so far."""
        return replace(self._counts, by_code=dict(self._counts.by_code))

    def put(self, refusals: Sequence[Refusal]) -> None:
        """Keep the refusals of a batch: all of them, or none.

        Raises
        ------
        SentinelError
            ``quarantine-unwritable`` under policy ``stop``: none was kept or counted, and the
            same refusals may come again.
        """
        now_ms = self._clock.now_ms()
        if not refusals and not self._is_due(now_ms):
            return
        minute, lines, n_kept = self._select(refusals, now_ms)
        try:
            self._write(lines, now_ms)
        except OSError as error:
            self._refuse(error)
            self._count(refusals, dropped=n_kept)
        else:
            self._count(refusals, kept=n_kept)
        self._minute = minute

    def close(self) -> None:
        """Write the open counts, sync and release; safe to call twice.

        Raises
        ------
        SentinelError
            ``quarantine-unwritable`` under policy ``stop``.
        """
        now_ms = self._clock.now_ms()
        lines = _counts_line(self._minute, now_ms)
        try:
            if lines:
                self._write(lines, now_ms)
            self._minute = _Minute()
            self._close_segment()
        except OSError as error:
            self._refuse(error)

    def __enter__(self) -> Quarantine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _refuse(self, error: OSError) -> None:
        """Stop, where the policy says so."""
        if self.rules.unwritable is UnwritablePolicy.STOP:
            raise SentinelError(
                ErrorCode.QUARANTINE_UNWRITABLE,
                at=str(self.folder),
                expected="a folder with room that this user may write",
                got=error.strerror or error,
                hint="No refused event was skipped; start again when there is room.",
            ) from error

    def _is_due(self, now_ms: int) -> bool:
        """Tell whether counts of a past minute wait to be written."""
        is_past = now_ms // _MINUTE_MS != self._minute.start_ms // _MINUTE_MS
        return is_past and bool(self._minute.sampled_out)

    def _select(self, refusals: Sequence[Refusal], now_ms: int) -> tuple[_Minute, list[bytes], int]:
        """Choose what is kept; return the minute after it, the lines and how many are kept."""
        lines: list[bytes] = []
        old = self._minute
        if now_ms // _MINUTE_MS != old.start_ms // _MINUTE_MS:
            lines += _counts_line(old, now_ms)
            minute = _Minute(start_ms=now_ms)
        else:
            minute = _Minute(old.start_ms, dict(old.seen), dict(old.sampled_out))
        n_kept = 0
        for refusal in refusals:
            n_seen = minute.seen.get(refusal.code, 0) + 1
            minute.seen[refusal.code] = n_seen
            n_over = n_seen - self.rules.kept_per_minute_max
            if n_over <= 0 or n_over % self.rules.sample_every == 0:
                lines.append(quarantine_record(refusal, now_ms) + b"\n")
                n_kept += 1
            else:
                code = str(refusal.code)
                minute.sampled_out[code] = minute.sampled_out.get(code, 0) + 1
        return minute, lines, n_kept

    def _count(self, refusals: Sequence[Refusal], *, kept: int = 0, dropped: int = 0) -> None:
        counts = self._counts
        by_code = counts.by_code
        for refusal in refusals:
            by_code[refusal.code] = by_code.get(refusal.code, 0) + 1
        self._counts = replace(
            counts,
            kept=counts.kept + kept,
            dropped=counts.dropped + dropped,
            sampled_out=counts.sampled_out + len(refusals) - kept - dropped,
        )

    def _write(self, lines: list[bytes], now_ms: int) -> None:
        """Append lines to the segment, or to a new one; whole or not at all."""
        if not lines:
            return
        content = b"".join(lines)
        if self._must_cut:
            self._disk.truncate(self._path, self._n_bytes)
            self._must_cut = False
        is_full = self._n_bytes + len(content) > self.rules.segment_bytes_max
        is_old = now_ms - self._opened_at_ms > self.rules.segment_age_ms_max
        if self._file is not None and self._n_bytes and (is_full or is_old):
            self._close_segment()
        file = self._file or self._open_segment(now_ms)
        try:
            file.write(content)
        except OSError:
            self._must_cut = True
            self._cut_back()
            raise
        self._n_bytes += len(content)

    def _cut_back(self) -> None:
        """Remove the half-written lines; where even that fails, the next write does it first."""
        try:
            self._disk.truncate(self._path, self._n_bytes)
        except OSError:
            return
        self._must_cut = False

    def _open_segment(self, now_ms: int) -> DiskFile:
        self._disk.make_folder(self.folder)
        numbers = _segment_numbers(self._disk.names(self.folder))
        n_removed = 0
        for number in numbers[: max(0, len(numbers) + 1 - self.rules.segments_max)]:
            self._disk.remove(self.folder / _segment_name(number))
            n_removed += 1
        self._path = self.folder / _segment_name(numbers[-1] + 1 if numbers else 0)
        self._file = self._disk.create(self._path)
        self._disk.sync_folder(self.folder)
        self._n_bytes = 0
        self._opened_at_ms = now_ms
        removed = self._counts.segments_removed + n_removed
        self._counts = replace(self._counts, segments_removed=removed)
        return self._file

    def _close_segment(self) -> None:
        if self._file is None:
            return
        file, self._file = self._file, None
        try:
            file.sync()
        finally:
            file.close()


def _segment_name(number: int) -> str:
    return f"refusals-{number:010d}.jsonl"


def _segment_numbers(names: list[str]) -> list[int]:
    return sorted(int(match[1]) for name in names if (match := _SEGMENT.fullmatch(name)))


def _counts_line(minute: _Minute, now_ms: int) -> list[bytes]:
    if not minute.sampled_out:
        return []
    record = QuarantineRecord(at_ms=now_ms, sampled_out=minute.sampled_out)
    return [msgspec.json.encode(record) + b"\n"]


def quarantine_record(refusal: Refusal, now_ms: int) -> bytes:
    """Write a refusal as it is kept: one JSON object, without a line end.

    Parameters
    ----------
    refusal : Refusal
        Its content is kept as text where it is UTF-8, else in base64.
    now_ms : int
    """
    text: str | None
    encoded: str | None
    try:
        text, encoded = refusal.content.decode(), None
    except UnicodeDecodeError:
        text, encoded = None, base64.b64encode(refusal.content).decode()
    record = QuarantineRecord(
        at_ms=now_ms,
        code=refusal.code,
        source=refusal.source,
        partition=refusal.partition,
        position=refusal.position,
        faults=refusal.faults,
        n_bytes=refusal.n_bytes,
        text=text,
        base64=encoded,
    )
    return msgspec.json.encode(record)


def _unreadable(path: Path, error: OSError) -> SentinelError:
    is_missing = isinstance(error, FileNotFoundError)
    code = ErrorCode.FILE_MISSING if is_missing else ErrorCode.FILE_UNREADABLE
    expected = "a quarantine that this user may read"
    return SentinelError(code, at=str(path), expected=expected, got=error.strerror or error)


def next_segment(folder: Path) -> int:
    """Give the number that the next segment of a quarantine gets; 0 where there is no folder."""
    try:
        numbers = _segment_numbers(SystemDisk().names(folder))
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise _unreadable(folder, error) from error
    return numbers[-1] + 1 if numbers else 0


def read_quarantine(
    folder: Path, *, first_segment: int = 0, disk: Disk | None = None
) -> Iterator[QuarantineRecord]:
    """Read a quarantine back, oldest line first; one segment in memory at a time.

    Segments with a number below ``first_segment`` are left out.

    A last line without its line end is what a killed process left: it is passed over, for its
    refusals were never counted as kept.

    Raises
    ------
    SentinelError
        ``quarantine-damaged`` with file and line; ``file-missing`` where there is no folder;
        ``file-unreadable`` where the disk refuses.
    """
    disk = disk or SystemDisk()
    try:
        numbers = _segment_numbers(disk.names(folder))
    except OSError as error:
        raise _unreadable(folder, error) from error
    decoder = msgspec.json.Decoder(QuarantineRecord)
    for number in numbers:
        if number < first_segment:
            continue
        path = folder / _segment_name(number)
        try:
            lines = disk.read(path).split(b"\n")[:-1]
        except FileNotFoundError:
            continue  # removed by its writer while we read
        except OSError as error:
            raise _unreadable(path, error) from error
        for index, line in enumerate(lines):
            try:
                yield decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise SentinelError(
                    ErrorCode.QUARANTINE_DAMAGED,
                    at=f"{path}:{index + 1}",
                    expected="a line as the quarantine writes it",
                    got=error,
                ) from error
