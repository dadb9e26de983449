"""A file goes through the scorer: the same decisions every time, and nothing is lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from stream_rig import Case

from sentinel.contract import Refusal
from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.monitoring import DecisionLog, LogContext, LogSettings, Metrics, read_decisions
from sentinel.release import verify_release
from sentinel.scoring import (
    Counts,
    Outcome,
    Reason,
    ReplayClock,
    Scorer,
    ServedBy,
    Sinks,
    code_names,
)
from sentinel.streaming import (
    DecisionValve,
    FileJob,
    FileProgress,
    FileReport,
    FileWorker,
    RefusalValve,
    Valves,
    Watchers,
)


class Kept:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.refusals: list[Refusal] = []

    def put(self, refusals: Sequence[Refusal]) -> None:
        self.refusals.extend(refusals)


@contextmanager
def opened(
    case: Case, *, kept: Kept | None = None, log_folder: Path | None = None
) -> Iterator[tuple[Scorer, Valves]]:
    loaded = verify_release(case.release, None, now_ms=0)
    log_valve = DecisionValve() if log_folder is not None else None
    valves = Valves(refusals=RefusalValve(kept or Kept()), log=log_valve)
    assert valves.refusals is not None
    sinks = Sinks(
        refusals=valves.refusals, decisions=log_valve, metrics=Metrics(with_process=False)
    )
    scorer = loaded.open_scorer(sinks, clock=ReplayClock())
    if log_folder is None or log_valve is None:
        yield scorer, valves
        return
    context = LogContext(
        release=loaded.manifest.label,
        release_digest=loaded.digest,
        environment_digest="0" * 64,
        execution_provider=scorer.execution_provider,
        thresholds={},
        feature_names=loaded.parts.plan.names,
        contract_hash=loaded.events.schema_hash,
        outcomes=code_names(Outcome),
        served_by=code_names(ServedBy),
        reasons=code_names(Reason),
    )
    with DecisionLog(log_folder, context, LogSettings()) as log:
        log_valve.attach(log)
        yield scorer, valves


def carry(case: Case, job: FileJob, *, kept: Kept | None = None) -> FileReport:
    with opened(case, kept=kept) as (scorer, valves):
        return FileWorker(scorer, job, valves=valves).run()


def stop_after(n_events: int, stop: threading.Event) -> Watchers:
    def look(progress: FileProgress) -> None:
        if progress.counts.read >= n_events:
            stop.set()

    return Watchers(on_progress=look)


def test_every_event_gets_its_decision_in_order(case: Case, tmp_path: Path) -> None:
    out = tmp_path / "out.ndjson"
    report = carry(case, FileJob(events=case.events, feedback=case.feedback, decisions=out))
    ids = [json.loads(line)["event_id"] for line in out.read_text().splitlines()]
    assert ids == [f"p{i}" for i in range(case.n_events)]
    assert report.counts.decided == case.n_events
    assert sum(report.outcomes.values()) == case.n_events
    assert not report.is_interrupted
    assert report.next_position == case.n_events


def test_decisions_are_the_same_twice_however_the_file_is_cut(case: Case, tmp_path: Path) -> None:
    """Byte for byte, with batches of any size."""
    contents = set()
    for name, n_events_batch in (("a", 4096), ("b", 4096), ("c", 7), ("d", 97), ("e", 1999)):
        out = tmp_path / name
        job = FileJob(
            events=case.events,
            feedback=case.feedback,
            decisions=out,
            n_events_batch=n_events_batch,
        )
        carry(case, job)
        contents.add(out.read_bytes())
    assert len(contents) == 1


def test_bad_events_are_counted_and_kept_and_disturb_nobody(case: Case, tmp_path: Path) -> None:
    """Truncated, doubled, empty, hostile: each is refused or deduplicated, and all add up."""
    lines = case.events.read_bytes().splitlines(keepends=True)
    bad = [
        lines[3][: len(lines[3]) // 2] + b"\n",  # cut off
        lines[4].rstrip() + lines[4],  # two in one line
        lines[5],  # sent again
        b"\n",  # blank: no event
        b'{"payment_id":"x","paid_at":NaN}\n',
        b"\xff\xfe\n",
        b"[" * 5000 + b"\n",
        b'{"payment_id":"' + b"x" * 3_000_000 + b'"}\n',
    ]
    dirty = tmp_path / "dirty.ndjson"
    dirty.write_bytes(b"".join([*lines[:100], *bad, *lines[100:]]))
    kept = Kept()
    out, clean_out = tmp_path / "out", tmp_path / "clean"
    report = carry(case, FileJob(events=dirty, decisions=out), kept=kept)
    carry(case, FileJob(events=case.events, decisions=clean_out))
    assert report.counts == Counts(
        read=case.n_events + 7, decided=case.n_events, quarantined=6, deduplicated=1
    )
    assert out.read_bytes() == clean_out.read_bytes()
    assert [refusal.position for refusal in kept.refusals] == [100, 101, 104, 105, 106, 107]
    assert sum(report.refused.values()) == 6


def test_a_batch_in_which_every_event_is_bad_is_refused_whole(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "bad.ndjson"
    path.write_bytes(b'{"payment_id":1}\n' * 5000)
    out = tmp_path / "out"
    report = carry(case, FileJob(events=path, decisions=out))
    assert report.counts == Counts(read=5000, quarantined=5000)
    assert out.read_bytes() == b""


def test_history_brings_the_state_up_and_is_not_decided(case: Case, tmp_path: Path) -> None:
    """The decisions after the history are those of a run over everything."""
    whole, later = tmp_path / "whole", tmp_path / "later"
    job = FileJob(events=case.events, feedback=case.feedback, decisions=whole, n_events_batch=64)
    carry(case, job)
    report = carry(case, replace(job, decisions=later, first_decided=777))
    assert report.n_history == 777
    assert report.counts.read == case.n_events - 777
    assert whole.read_bytes().splitlines()[777:] == later.read_bytes().splitlines()


@pytest.mark.parametrize("n_before", [0, 1, 500, 1999])
def test_decisions_may_start_at_a_time(case: Case, tmp_path: Path, n_before: int) -> None:
    """From the first event that is as late as asked, whatever its batch."""
    times = [json.loads(line)["paid_at"] for line in case.events.read_bytes().splitlines()]
    by_time, by_position = tmp_path / "time", tmp_path / "position"
    job = FileJob(events=case.events, feedback=case.feedback, n_events_batch=300)
    report = carry(case, replace(job, decisions=by_time, first_decided_ms=times[n_before]))
    carry(case, replace(job, decisions=by_position, first_decided=n_before))
    assert report.n_history == n_before
    assert by_time.read_bytes() == by_position.read_bytes()


@pytest.mark.parametrize(("n_before", "learned"), [(0, 10**9), (1, 1), (777, 777), (10**9, 10**9)])
def test_learning_only_ends_before_the_first_decision(
    case: Case, n_before: int, learned: int
) -> None:
    """The state is then that of every event before it; 0 is all of the file."""
    job = FileJob(events=case.events, feedback=case.feedback, first_decided=n_before)
    with opened(case) as (scorer, valves):
        report = FileWorker(scorer, replace(job, is_learn_only=True), valves=valves).run()
    assert report.n_history == min(learned, case.n_events)
    assert report.counts.read == report.counts.decided == 0
    assert not report.is_interrupted


def test_a_start_after_the_end_decides_nothing(case: Case, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = carry(case, FileJob(events=case.events, decisions=out, first_decided=10**9))
    assert report.n_history == case.n_events
    assert report.counts == Counts()
    assert out.read_bytes() == b""


def test_a_stopped_run_continues_with_nothing_lost_or_twice(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decisions and decision log are those of a run that nobody stopped."""
    monkeypatch.setattr(limits, "CHECKPOINT_EVENTS", 300)
    whole, out, log_folder = tmp_path / "whole", tmp_path / "out", tmp_path / "log"
    job = FileJob(events=case.events, feedback=case.feedback, decisions=out, n_events_batch=100)
    carry(case, replace(job, decisions=whole))
    for n_events in (250, 1150, 10**9):
        stop = threading.Event()
        with opened(case, log_folder=log_folder) as (scorer, valves):
            worker = FileWorker(
                scorer,
                replace(job, resume=True),
                valves=valves,
                watchers=stop_after(n_events, stop),
                stop=stop,
            )
            report = worker.run()
        assert report.is_interrupted == (n_events < 10**9)
        assert out.exists() != report.is_interrupted
    assert out.read_bytes() == whole.read_bytes()
    assert report.counts.decided == case.n_events
    logged = read_decisions(log_folder, columns=["event_id"])
    assert logged.column("event_id").to_pylist() == [f"p{i}" for i in range(case.n_events)]


def test_a_killed_run_continues_from_its_last_checkpoint(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stood behind the checkpoint, in the file or the log, is not kept twice."""
    monkeypatch.setattr(limits, "CHECKPOINT_EVENTS", 300)
    whole, out, log_folder = tmp_path / "whole", tmp_path / "out", tmp_path / "log"
    kept = Kept()
    job = FileJob(events=case.events, feedback=case.feedback, decisions=out, n_events_batch=100)
    carry(case, replace(job, decisions=whole))

    class KilledError(Exception):
        pass

    def kill(progress: FileProgress) -> None:
        if progress.counts.read >= 1500:
            raise KilledError

    with opened(case, kept=kept, log_folder=log_folder) as (scorer, valves):
        worker = FileWorker(scorer, job, valves=valves, watchers=Watchers(on_progress=kill))
        with pytest.raises(KilledError):
            worker.run()
    assert out.with_name("out.partial").exists()
    with opened(case, kept=kept, log_folder=log_folder) as (scorer, valves):
        FileWorker(scorer, replace(job, resume=True), valves=valves).run()
    assert out.read_bytes() == whole.read_bytes()
    logged = read_decisions(log_folder, columns=["event_id"])
    assert logged.column("event_id").to_pylist() == [f"p{i}" for i in range(case.n_events)]


def stop_at(n_events: int, case: Case, job: FileJob) -> FileReport:
    stop = threading.Event()
    with opened(case) as (scorer, valves):
        watchers = stop_after(n_events, stop)
        return FileWorker(scorer, job, valves=valves, watchers=watchers, stop=stop).run()


def test_a_run_stopped_while_it_catches_up_leaves_its_checkpoint(
    case: Case, tmp_path: Path
) -> None:
    """Stopped at 1500, again while it catches up at 300, then continued: as if nobody had."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    job = FileJob(events=case.events, feedback=case.feedback, decisions=out, n_events_batch=100)
    carry(case, replace(job, decisions=whole))
    stop_at(1500, case, job)
    checkpoint = tmp_path / "out.checkpoint.json"
    before = checkpoint.read_bytes()
    for n_events in (300, 1400, 1500):
        report = stop_at(n_events, case, replace(job, resume=True))
        assert report.is_interrupted
        assert checkpoint.read_bytes() == before
    carry(case, replace(job, resume=True))
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("next_position", [300, 1600])
def test_a_position_that_does_not_fit_the_bytes_is_refused(
    case: Case, tmp_path: Path, next_position: int
) -> None:
    """The checkpoint itself was changed: neither a gap nor anything twice comes of it."""
    job = FileJob(events=case.events, decisions=tmp_path / "out", n_events_batch=100)
    stop_at(1500, case, job)
    checkpoint = tmp_path / "out.checkpoint.json"
    fields = json.loads(checkpoint.read_bytes())
    assert fields["next_position"] == fields["n_lines"] == 1500
    checkpoint.write_text(json.dumps({**fields, "next_position": next_position}))
    before = (tmp_path / "out.partial").read_bytes()
    with pytest.raises(SentinelError) as caught:
        carry(case, replace(job, resume=True))
    assert caught.value.code is ErrorCode.CHECKPOINT_MISMATCH
    assert caught.value.at == str(checkpoint)
    assert (tmp_path / "out.partial").read_bytes() == before
    assert not (tmp_path / "out").exists()


def test_events_that_end_before_the_checkpoint_are_refused(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    path.write_bytes(case.events.read_bytes())
    job = FileJob(events=path, decisions=tmp_path / "out", n_events_batch=100)
    stop_at(1500, case, job)
    path.write_bytes(b"".join(case.events.read_bytes().splitlines(keepends=True)[:700]))
    with pytest.raises(SentinelError) as caught:
        carry(case, replace(job, resume=True))
    assert caught.value.code is ErrorCode.CHECKPOINT_MISMATCH
    assert caught.value.at.endswith("out.checkpoint.json")
    assert not (tmp_path / "out").exists()


def test_another_release_or_start_cannot_continue_a_run(case: Case, tmp_path: Path) -> None:
    stop = threading.Event()
    job = FileJob(events=case.events, decisions=tmp_path / "out", n_events_batch=100)
    with opened(case) as (scorer, valves):
        watchers = stop_after(500, stop)
        FileWorker(scorer, job, valves=valves, watchers=watchers, stop=stop).run()
    with pytest.raises(SentinelError) as caught:
        carry(case, replace(job, resume=True, first_decided=5))
    assert caught.value.code is ErrorCode.CHECKPOINT_MISMATCH
    assert caught.value.at.endswith("out.checkpoint.json")
    assert (caught.value.expected, caught.value.got) == ("--from 0, as when it began", "--from 5")
    with pytest.raises(SentinelError) as caught:
        carry(case, replace(job, resume=True, n_events_batch=50))
    assert caught.value.code is ErrorCode.CHECKPOINT_MISMATCH
    assert caught.value.expected == "--batch-events 100, as when it began"
    assert "another one" in caught.value.hint


def test_an_empty_file_is_an_accident(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "empty.ndjson"
    path.touch()
    with pytest.raises(SentinelError) as caught:
        carry(case, FileJob(events=path))
    assert caught.value.code is ErrorCode.SOURCE_EMPTY
    assert caught.value.at == str(path)


@pytest.mark.parametrize("which", ["events", "feedback"])
def test_a_missing_file_is_an_error_and_leaves_no_decisions(
    case: Case, tmp_path: Path, which: str
) -> None:
    missing = tmp_path / "missing.ndjson"
    job = FileJob(events=case.events, feedback=case.feedback, decisions=tmp_path / "out")
    job = replace(job, events=missing) if which == "events" else replace(job, feedback=missing)
    with pytest.raises(SentinelError) as caught:
        carry(case, job)
    assert caught.value.code is ErrorCode.FILE_MISSING
    assert caught.value.at == str(missing)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_stops_the_run_where_it_can_be_continued(case: Case, tmp_path: Path) -> None:
    """The place of the decisions cannot be written: an error, and nothing that looks whole."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "out.partial").symlink_to("/dev/full")
    with pytest.raises(SentinelError) as caught:
        carry(case, FileJob(events=case.events, decisions=folder / "out"))
    assert caught.value.code is ErrorCode.FILE_UNWRITABLE
    assert caught.value.at.endswith("out.partial")
    assert not (folder / "out").exists()


def test_counts_that_do_not_balance_are_never_reported_as_well(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of our own is loud, and the file of decisions stays unfinished."""
    with opened(case) as (scorer, valves):
        true = scorer.counts
        monkeypatch.setattr(scorer, "counts", lambda: true().plus(Counts(read=1)))
        with pytest.raises(SentinelError) as caught:
            FileWorker(
                scorer,
                FileJob(events=case.events, decisions=tmp_path / "out"),
                valves=valves,
            ).run()
    assert caught.value.code is ErrorCode.CONSERVATION_BROKEN
    assert caught.value.at == str(case.events)
    assert not (tmp_path / "out").exists()


def test_a_file_that_grows_is_read_to_where_it_ended(case: Case, tmp_path: Path) -> None:
    """Lines written while it is read are left for the next run; none is torn."""
    path = tmp_path / "growing.ndjson"
    lines = case.events.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:1000]))
    is_grown = False

    def grow(progress: FileProgress) -> None:
        nonlocal is_grown
        if not is_grown:
            is_grown = True
            with path.open("ab") as file:
                file.write(b"".join(lines[1000:]) + lines[0][:20])

    with opened(case) as (scorer, valves):
        job = FileJob(events=path, decisions=tmp_path / "out", n_events_batch=100)
        report = FileWorker(scorer, job, valves=valves, watchers=Watchers(on_progress=grow)).run()
    assert report.counts.read == report.counts.decided == 1000
