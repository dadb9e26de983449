"""Rows C and A of the reliability plan, on a worker in this process: seeds decide what happens."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from stream_rig import Case
from worker_rig import Rig

from sentinel.contract import Quarantine, RawBatch
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features import Engine
from sentinel.monitoring import DecisionLog, LogSettings, Metrics
from sentinel.monitoring.log_settings import FullPolicy
from sentinel.release import LoadedRelease
from sentinel.release.decision_log import log_context
from sentinel.scoring import ReplayClock, Scorer, Sinks
from sentinel.streaming import DecisionValve
from sentinel.streaming.file_log.log import create_topic
from sentinel.streaming.file_log.reader import FileLog
from sentinel.streaming.file_log.sink import FileLogSink
from sentinel.streaming.stream.event_log import KeyedBatch, Read
from sentinel.streaming.stream.worker import StreamWorker
from sentinel.testing import can_mount, small_disk
from sentinel.testing.memory_log import MemoryLog, MemoryTopic


@pytest.fixture
def rig(loaded: LoadedRelease, tmp_path: Path) -> Iterator[Rig]:
    made = Rig(loaded, tmp_path)
    yield made
    made.close()


@pytest.fixture
def lines(case: Case) -> list[bytes]:
    return case.events.read_bytes().splitlines()


def balance(rig: Rig) -> dict[str, int]:
    assert rig.scorer is not None
    counts = rig.scorer.counts()
    assert counts.is_balanced
    return {
        name: getattr(counts, name)
        for name in ("read", "decided", "held", "quarantined", "deduplicated")
    }


def test_partitions_read_at_different_times_of_their_events_are_a_trouble(
    rig: Rig, lines: list[bytes]
) -> None:
    """Events too late for a window are scored and not applied: nobody is left to find out alone."""
    rig.start()
    half = len(lines) // 2
    rig.send(lines[half:], at=0)
    rig.drain()
    rig.send(lines[:half], at=1)
    rig.drain()
    assert rig.worker is not None
    assert rig.scorer is not None
    n_late = rig.scorer.counts().late
    assert n_late > len(lines) // 100
    causes = rig.worker.finish().causes
    assert [cause for cause in causes if f"{n_late:,} of" in cause and "partitions" in cause]


@pytest.mark.reliability("C1", t1=20, t2=500, t3=5_000)
def test_the_same_log_read_again_from_anywhere_changes_nothing(
    rig: Rig, lines: list[bytes], trials
) -> None:
    """Duplicates are counted, no decision comes a second time, the state is the same."""
    rig.send(lines[:600])
    worker = rig.start()
    rig.drain()
    before = rig.digest()
    n_read = 600
    for seed in trials:
        rng = Random(seed)
        for partition in range(rig.n_partitions):
            high = rig.topic.ends(partition).high
            rig.reader.seek(partition, rng.randrange(high) if seed else 0)
        n_read += rig.drain()
        assert rig.digest() == before
    worker.commit()
    counts = balance(rig)
    assert counts["read"] == n_read
    assert counts["deduplicated"] == n_read - 600
    assert sorted(rig.ids()) == sorted(f"p{i}" for i in range(600))


@pytest.mark.reliability("C1", t1=6, t2=100, t3=1_000)
def test_a_worker_that_lost_what_it_had_not_flushed_sends_the_same_bytes(
    loaded: LoadedRelease, lines: list[bytes], tmp_path: Path, trials
) -> None:
    """Ended without a commit at any turn, again and again: every event once, the same state."""
    whole = Rig(loaded, tmp_path / "whole")
    whole.send(lines[:400])
    whole.start()
    whole.drain()
    whole.worker.commit()
    expected, digest = dict(whole.sink.decisions), whole.digest()
    whole.close()
    for seed in trials:
        rng = Random(seed)
        rig = Rig(loaded, tmp_path / str(seed), job_settings={"n_events_batch": 50})
        rig.send(lines[:400])
        for _ in range(4):
            worker = rig.start()
            for _ in range(rng.randrange(1, 4)):
                worker.turn()
                rig.clock.advance(rng.choice([0.01, 0.3]))
            rig.sink.crash()
            rig.state.store.close(with_snapshot=False)
            rig.state.marker.close()
            rig.topic.group.expel(rig.reader)
            rig.scorer.close()
        rig.start()
        rig.drain()
        rig.worker.commit()
        found: dict[bytes, set[bytes]] = {}
        for key, value in rig.sink.decisions:
            found.setdefault(key, set()).add(value)
        assert {key: {value} for key, value in expected.items()} == found
        assert rig.digest() == digest
        rig.close()


@pytest.mark.reliability("C2", t1=500, t2=50_000, t3=1_000_000)
def test_a_repeated_id_counts_once_inside_the_window_and_again_past_it(
    loaded: LoadedRelease, lines: list[bytes], tmp_path: Path, trials
) -> None:
    """Of 128 ids at least (and twice as many at most): adjacent, at the edge, just past it."""
    n_window = 128
    scorer = scorer_of(loaded, tmp_path, n_dedupe_min=n_window)
    place = n_sent = 0
    for seed in trials:
        rng = Random(seed)
        between = rng.choice([0, 1, 10, n_window - 1, 2 * n_window, 2 * n_window + 50])
        events = [renamed(lines[(place + i) % 1900], f"{seed}-{i}") for i in range(between + 1)]
        batch = [*events, events[0]]
        step = rng.choice([1, 7, len(batch)]) if between < 20 else len(batch)
        before = scorer.counts().deduplicated
        for first in range(0, len(batch), step):
            part = batch[first : first + step]
            scorer.score(RawBatch.from_events(part, first_position=n_sent))
            n_sent += len(part)
        n_again = scorer.counts().deduplicated - before
        if between < n_window:
            assert n_again == 1, (seed, between)
        if between >= 2 * n_window:
            assert n_again == 0, (seed, between)
        place += between
    assert scorer.counts().is_balanced


def scorer_of(loaded: LoadedRelease, folder: Path, **engine: int) -> Scorer:
    """Open a scorer of its own, as a replay does it."""
    refusals = Quarantine(folder / "refused")
    sinks = Sinks(refusals=refusals, decisions=None, metrics=Metrics(with_process=False))
    made = Engine(loaded.parts.plan, **engine)
    return loaded.open_scorer(sinks, clock=ReplayClock(), engine=made)


def renamed(line: bytes, name: str) -> bytes:
    return json.dumps({**json.loads(line), "payment_id": name}).encode()


@pytest.mark.reliability("C3", t1=200, t2=20_000, t3=200_000)
def test_events_shuffled_inside_the_living_tiles_give_the_same_state(
    loaded: LoadedRelease, lines: list[bytes], tmp_path: Path, trials
) -> None:
    chosen = lines[:300]
    span_ms = 3_600_000  # no event of an hour is late for any window of this pipeline
    straight = scorer_of(loaded, tmp_path)
    straight.score(RawBatch.from_events(chosen))
    for seed in trials:
        rng = Random(seed)
        slots: dict[int, list[bytes]] = {}
        for line in chosen:
            slots.setdefault(json.loads(line)["paid_at"] // span_ms, []).append(line)
        shuffled = []
        for slot in sorted(slots):
            rng.shuffle(slots[slot])
            shuffled += slots[slot]
        assert shuffled != chosen or seed > 0
        other = scorer_of(loaded, tmp_path)
        n_batch = rng.choice([1, 13, 300]) if seed < 3 else 300
        for first in range(0, 300, n_batch):
            part = shuffled[first : first + n_batch]
            other.score(RawBatch.from_events(part, first_position=first))
        assert other.counts().late == 0
        assert other.engine.state_digest() == straight.engine.state_digest()


@pytest.mark.reliability("A14", t1=200, t2=4_096, t3=100_000)
def test_one_bad_event_changes_no_bit_of_its_neighbours(
    loaded: LoadedRelease, lines: list[bytes], tmp_path: Path, trials
) -> None:
    """At every position of a batch, of every kind of badness."""
    n_good = 63
    chosen = lines[:n_good]
    clean = scorer_of(loaded, tmp_path)
    decided = clean.encode(clean.score(RawBatch.from_events(chosen)))
    bad = (b"", b"{", b"\xff", b"[" * 50_000, b'{"payment_id":NaN}', b"x" * 70_000, chosen[0][:-1])
    for seed in trials:
        at = seed % (n_good + 1)
        batch = [*chosen[:at], bad[seed % len(bad)], *chosen[at:]]
        scorer = scorer_of(loaded, tmp_path)
        decisions = scorer.score(RawBatch.from_events(batch))
        assert scorer.encode(decisions) == decided
        assert scorer.counts().quarantined == 1
        assert scorer.engine.state_digest() == clean.engine.state_digest()


@pytest.mark.reliability("A12", t1=1, t2=3, t3=10)
def test_nothing_but_garbage_is_refused_said_loudly_and_forgotten_when_it_is_over(
    rig: Rig, lines: list[bytes], trials
) -> None:
    """All garbage, every second one, none: every one accounted for, and healthy again."""
    garbage = [b"", b"{}", b"\x00" * 90, b'{"payment_id": "p1", "amount": NaN}', b"<html>404"]
    worker = rig.start()
    for seed in trials:
        rng = Random(seed)
        for _ in range(30):
            rig.send([rng.choice(garbage) for _ in range(200)], at=rng.randrange(2))
            rig.drain()
        counts = balance(rig)
        assert counts["quarantined"] == counts["read"] - counts["decided"]
        assert rig.scorer.status().degraded_sources == ("events",)
        half = 500 * seed
        for number in range(half, half + 250):
            rig.send([lines[number % 2000], rng.choice(garbage)], at=0)
        rig.drain()
        assert rig.scorer.status().degraded_sources == ("events",)
        rig.clock.advance(61)
        for number in range(half + 250, half + 500):
            rig.send([lines[number % 2000]], at=0)
        rig.drain()
        assert rig.scorer.status().degraded_sources == ()
        worker.commit()
        counts = balance(rig)
        assert len(rig.sink.refusals) == counts["quarantined"]
        assert len(rig.sink.decisions) == counts["decided"]


def test_reading_pauses_while_too_much_waits_and_goes_on_when_it_was_taken(
    loaded: LoadedRelease, lines: list[bytes], tmp_path: Path
) -> None:
    """At the bound, not before; the rest stays where it is, in the log."""
    rig = Rig(loaded, tmp_path, job_settings={"n_waiting_max": 250})
    rig.send(lines[:1000])
    worker = rig.start()
    rig.sink.is_stuck = True
    n_read = sum(worker.turn() for _ in range(40))
    assert 250 < n_read <= 350
    assert rig.sink.n_waiting == n_read
    assert rig.metrics.value("sentinel_stream_paused") == 1
    rig.sink.is_stuck = False
    assert worker.turn() == 0, "it is resumed at the end of a turn"
    while n_read < 1000:
        n_read += worker.turn()
    worker.commit()
    assert n_read == 1000
    assert rig.metrics.value("sentinel_stream_paused") == 0
    assert sorted(rig.ids()) == sorted(f"p{i}" for i in range(1000))
    rig.close()


@pytest.mark.parametrize("policy", FullPolicy)
@pytest.mark.reliability("C8", t1=10, t2=100, t3=500)
def test_the_decision_log_accounts_for_every_decision_whatever_its_disk_does(
    loaded: LoadedRelease, lines: list[bytes], tmp_path: Path, policy: FullPolicy, trials
) -> None:
    """Full, then not: decided = written + spilled + dropped, to the unit."""
    if not can_mount():
        pytest.skip("needs the right to mount a disk in memory")
    for seed in trials:
        folder = tmp_path / f"{policy}-{seed}"
        (folder / "log").mkdir(parents=True)
        with small_disk(folder / "log", n_bytes=1 << 20) as disk:
            valve = DecisionValve()
            rig = Rig(loaded, folder, log=valve)
            rig.send(lines[:1200])
            rig.start()
            settings = LogSettings(
                policy=policy,
                queue_records_max=300,
                segment_records_max=100,
                segment_s_max=0.01,
                wait_s_max=0.3,
                retry_s=0.01,
                spill_folder=folder / "spill",
            )
            context = log_context(loaded, execution_provider=rig.scorer.execution_provider)
            with DecisionLog(disk, context, settings) as log:
                valve.attach(log)
                rig.drain_some(3 + seed % 5)
                fill(disk, but_for=0)
                is_stopped = policy is FullPolicy.BLOCK
                with pytest.raises(SentinelError) if is_stopped else nullcontext() as caught:
                    rig.drain()
                if caught is not None:
                    assert caught.value.code is ErrorCode.DECISION_LOG_BLOCKED
                (disk / "hog").unlink()
                assert log.flush(wait_s_max=20)
                counts = log.counts()
                assert counts.is_balanced
                assert counts.queued == 0
                decided = balance(rig)["decided"]
                if not is_stopped:
                    assert counts.decided == decided == 1200
                assert counts.decided == counts.written + counts.spilled + counts.dropped
                if policy is not FullPolicy.DROP:
                    assert counts.dropped == 0
            rig.close()


def fill(folder: Path, *, but_for: int) -> None:
    """Fill a disk with one file, but for so many bytes."""
    with (folder / "hog").open("wb", buffering=0) as hog, suppress(OSError):
        while True:
            hog.write(b"x" * 4096)
    os.truncate(folder / "hog", (folder / "hog").stat().st_size - but_for)


@pytest.mark.reliability("A13", t1=5, t2=50, t3=200)
def test_refused_events_that_cannot_be_kept_stop_the_reading_and_none_is_lost(
    loaded: LoadedRelease, lines: list[bytes], tmp_path: Path, trials
) -> None:
    """The topic of refused events has no room: it waits, then ends; later all of it is there."""
    if not can_mount():
        pytest.skip("needs the right to mount a disk in memory")
    for seed in trials:
        folder = tmp_path / str(seed)
        (folder / "out").mkdir(parents=True)
        with small_disk(folder / "out", n_bytes=512 << 10) as disk:
            for name in ("decisions", "refused"):
                create_topic(disk, name, 1)
            rig = Rig(loaded, folder, n_partitions=1, job_settings={"n_waiting_max": 50})
            rig.send([lines[i] if i % 2 else b"x" * 500 for i in range(200 + seed)], at=0)
            fill(disk, but_for=8192)
            rig.sink = sink_on(disk, rig)
            worker = rig.start()
            turn_often(worker, 20)
            n_read = rig.scorer.counts().read
            assert n_read < 200, "reading has paused"
            rig.clock.advance(31)
            with pytest.raises(SentinelError) as caught:
                turn_often(worker, 3)
            assert caught.value.code is ErrorCode.STREAM_FAILED
            rig.close()
            (disk / "hog").unlink()
            rig.sink = sink_on(disk, rig)
            worker = rig.start()
            rig.drain()
            worker.commit()
            places = {key for key, _ in rows_of(disk, "refused")}
            n_refused = (200 + seed + 1) // 2
            assert places == {b"events/0/%d" % (2 * i) for i in range(n_refused)}
            ids = {key for key, _ in rows_of(disk, "decisions")}
            assert len(ids) == 200 + seed - n_refused
            rig.close()


def sink_on(folder: Path, rig: Rig) -> FileLogSink:
    """Write to the two topics of a log of files."""
    return FileLogSink(folder, decisions="decisions", quarantine="refused", clock=rig.clock)


def turn_often(worker: StreamWorker, n_turns: int) -> None:
    for _ in range(n_turns):
        worker.turn()


def rows_of(folder: Path, topic: str) -> list[tuple[bytes | None, bytes]]:
    """Read keys and values of a topic of files."""
    log = FileLog(folder, topic, with_keys=True)
    log.add({0: 0})
    found = []
    while (read := log.read(10_000, 0.0)).batches:
        for batch in read.batches:
            raw, keys = batch.raw, batch.keys or ()
            found += [(key, raw.event_bytes(i)) for i, key in enumerate(keys)]
    log.close()
    return found


class WithMarks(MemoryLog):
    """Positions with holes, as a topic has that is written with transactions or compacted."""

    is_dense = False

    def read(self, n_events_max: int, wait_s: float) -> Read:
        """Leave out every seventh position, which holds no event."""
        found = super().read(n_events_max, wait_s)
        batches = []
        for batch in found.batches:
            kept = np.flatnonzero(batch.raw.positions % 7 != 6)
            raw = batch.raw
            if len(kept):
                batches.append(
                    KeyedBatch(
                        replace(
                            raw,
                            starts=raw.starts[kept],
                            ends=raw.ends[kept],
                            positions=raw.positions[kept],
                            received_at_ms=raw.received_at_ms[kept],
                        )
                    )
                )
        return Read(tuple(batches), found.at_end, found.out_of_range)


def test_feedback_is_learned_over_positions_without_an_event(
    loaded: LoadedRelease, lines: list[bytes], tmp_path: Path
) -> None:
    """Holes within a batch of feedback stop nothing either; what stands around them is learned."""
    rig = Rig(loaded, tmp_path, n_partitions=1)
    rig.reader_type = WithMarks
    rig.feedback_topic = MemoryTopic("verdicts", 1)
    first = json.loads(lines[0])["paid_at"]
    verdicts = [
        json.dumps(
            {
                "verdict_id": f"v{n}",
                "payment_id": json.loads(line)["payment_id"],
                "known_at": first,
                "is_fraud": n % 2 == 0,
            }
        ).encode()
        for n, line in enumerate(lines[:50])
    ]
    rig.feedback_topic.append(0, verdicts, times_ms=[first] * 50)
    rig.send(lines[:210], at=0)
    worker = rig.start()
    rig.drain()
    worker.commit()
    assert len(set(rig.ids())) == 180
    assert rig.state is not None
    assert rig.state.store.counts().feedback == 43
    assert rig.metrics.value("sentinel_stream_hole_positions_total") == 29 + 7
    rig.close()


def test_positions_without_an_event_are_passed_and_counted(
    loaded: LoadedRelease, lines: list[bytes], tmp_path: Path
) -> None:
    """The marks of transactions: at the beginning, within and at the end; lag ends at nothing."""
    rig = Rig(loaded, tmp_path, n_partitions=1)
    rig.reader_type = WithMarks
    rig.send(lines[:210], at=0)
    worker = rig.start()
    rig.drain()
    worker.commit()
    assert len(set(rig.ids())) == len(rig.ids()) == 180
    assert rig.reader.told == {0: 210}
    assert rig.metrics.value("sentinel_stream_hole_positions_total") == 29
    assert rig.metrics.value("sentinel_stream_gap_events_total") == 0
    assert worker.finish().n_holes == 29
    rig.close()
    rig.send(lines[210:280], at=0)
    rig.start()
    rig.drain()
    rig.worker.commit()
    assert len(set(rig.ids())) == len(rig.ids()) == 240
    rig.close()


@pytest.mark.reliability("B12", t1=10, t2=50, t3=200)
def test_a_log_that_has_forgotten_what_comes_next_stops_the_worker(
    loaded: LoadedRelease, lines: list[bytes], tmp_path: Path, trials
) -> None:
    """With the exact range that is missing; and goes on behind it only when told to."""
    for seed in trials:
        rng = Random(seed)
        rig = Rig(loaded, tmp_path / str(seed), n_partitions=1)
        rig.send(lines[:200], at=0)
        rig.start()
        rig.drain()
        rig.worker.commit()
        rig.close()
        rig.send(lines[200:400], at=0)
        low = rig.topic.forget(0, rng.randrange(201, 400))
        rig.start()
        with pytest.raises(SentinelError) as caught:
            rig.drain()
        assert caught.value.code is ErrorCode.SOURCE_GAP
        assert caught.value.at == "events/0"
        assert f"positions 200 to {low - 1} are missing" in caught.value.got
        rig.close()
        rig.job_settings = {"accept_gap": True}
        rig.start()
        rig.drain()
        rig.worker.commit()
        assert sorted(rig.ids()) == sorted(f"p{i}" for i in [*range(200), *range(low, 400)])
        assert rig.metrics.value("sentinel_stream_gap_events_total") == low - 200
        rig.close()
