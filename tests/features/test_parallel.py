"""Replay over real processes: the bits of one engine, bounded, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from feature_world import Payment
from raw_world import EVENTS, PLAN, VERDICTS, batches, payment, verdict

from sentinel.contract import RawBatch
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features import replay
from sentinel.features.history.parallel import ParallelReplay, replay_parallel
from sentinel.features.history.partition import divide
from sentinel.features.history.rounds import RoundPacker
from sentinel.features.history.slots import SlotShape, make_shared, open_slots

SMALL = SlotShape(
    n_fields=len(Payment.schema.fields),
    n_features=len(PLAN.names),
    n_parts=len(divide(PLAN.features)),
    n_events_max=64,
    n_bytes_max=64 * 1024,
)


def children() -> set[int]:
    tasks = Path("/proc/self/task").glob("*/children")
    return {int(pid) for task in tasks for pid in task.read_text().split()}


def test_processes_give_the_bits_of_one_engine() -> None:
    """Refused, repeated, late and escaped events, feedback, and batches larger than a round."""
    before = children()
    late = payment(20, payment_id="late", paid_at=json.loads(payment(20))["paid_at"] - 1_800_000)
    events = [*EVENTS[:50], b"{", payment(3), payment(300, amount="NaN"), late, *EVENTS[51:]]
    verdicts = [*VERDICTS[:30], VERDICTS[3], b"null", *VERDICTS[30:]]
    wanted = replay(PLAN, batches(events, 90), batches(verdicts, 40), keep=["amount", "tip"])
    found = replay_parallel(
        PLAN,
        batches(events, 90),
        batches(verdicts, 40),
        n_processes=3,
        keep=["amount", "tip"],
    )
    assert found.matrix.values.tobytes() == wanted.matrix.values.tobytes()
    assert found.matrix.status.tobytes() == wanted.matrix.status.tobytes()
    assert found.matrix.is_late.tobytes() == wanted.matrix.is_late.tobytes()
    for name in ("event_ids", "times_ms", "positions"):
        assert getattr(found, name).tolist() == getattr(wanted, name).tolist()
    assert found.columns["amount"].tolist() == wanted.columns["amount"].tolist()
    assert found.present["tip"].tolist() == wanted.present["tip"].tolist()
    assert found.counts == wanted.counts
    assert (found.n_refused, found.n_feedback_refused) == (2, 1)
    assert children() <= before


def test_rounds_are_bounded_and_carry_the_event_ids() -> None:
    """A round has at most what it may have; ids are texts, escapes resolved."""
    events = [*EVENTS[:100], payment(100, payment_id='"\u00e9\n')]
    run = ParallelReplay(PLAN, batches(events, 101), n_processes=2, shape=SMALL)
    rounds = list(run.rounds())
    assert [each.n_rows for each in rounds] == [64, 37]
    ids = [
        each.id_content[start:end].tobytes().decode()
        for each in rounds
        for start, end in each.id_spans
    ]
    assert ids == [*(f"p{i}" for i in range(100)), '"\u00e9\n']


def test_a_process_that_is_killed_is_named_and_the_rest_is_ended() -> None:
    """No answer is an error with the process in it; no process is left."""
    run = ParallelReplay(PLAN, batches(EVENTS, 10), n_processes=2, shape=SMALL)
    before = children()
    rounds = run.rounds()
    next(rounds)
    (first, *_) = sorted(children() - before)
    os.kill(first, signal.SIGKILL)
    with pytest.raises(SentinelError) as caught:
        list(rounds)
    assert caught.value.code is ErrorCode.REPLAY_PROCESS_ENDED
    assert str(first) in caught.value.at
    assert children() == before


def test_who_stops_listening_leaves_no_process() -> None:
    """An iteration that is given up ends its processes."""
    before = children()
    rounds = ParallelReplay(PLAN, batches(EVENTS, 10), n_processes=2, shape=SMALL).rounds()
    next(rounds)
    assert len(children() - before) == 2
    rounds.close()
    assert children() == before


def test_a_state_that_could_become_full_is_refused() -> None:
    """Who makes room is decided over all entities, so one process must do it."""
    before = children()
    run = ParallelReplay(PLAN, batches(EVENTS, 10), n_processes=2, n_entities_max=300, shape=SMALL)
    with pytest.raises(SentinelError) as caught:
        list(run.rounds())
    assert caught.value.code is ErrorCode.ENTITIES_TOO_MANY
    assert caught.value.at == "feature state"
    assert children() <= before


def test_an_empty_log_gives_an_empty_matrix() -> None:
    """Nothing in, nothing out, with all columns."""
    found = replay_parallel(PLAN, [], [verdict_batch()], n_processes=2, keep=["amount"])
    assert found.matrix.values.shape == (0, 4)
    assert found.columns["amount"].shape == (0,)


def verdict_batch() -> RawBatch:
    return RawBatch.from_events([verdict(1)])


def test_rounds_take_batches_whole_and_cut_only_what_fills_one_alone() -> None:
    """Batches keep their edges; an event that is far too large is cut to its head."""
    large = RawBatch.from_events([b"x" * 70_000, b"y"], first_position=7)
    shape = SlotShape(n_fields=1, n_features=1, n_parts=1, n_events_max=8, n_bytes_max=70_000)
    with make_shared(shape) as memory:
        slot = open_slots(memory.fileno(), shape)[0]
        packer = RoundPacker([*batches(EVENTS[:6], 3), *batches(EVENTS[:20], 20), large], shape)
        heads = [packer.pack(slot) for _ in range(4)]
        assert [(head.n_events, head.edges) for head in heads] == [
            (6, (0, 3)),
            (8, (0,)),
            (8, (0,)),
            (6, (0, 4)),
        ]
        assert slot.positions[:6].tolist() == [16, 17, 18, 19, 7, 8]
        assert slot.whole_lengths[4:6].tolist() == [70_000, 1]
        assert (slot.ends - slot.starts)[4:6].tolist() == [65_537, 1]
        assert packer.pack(slot).n_events == 0


def test_events_in_any_order_of_their_buffer_are_packed_in_theirs() -> None:
    """Spans that overlap or go back are copied event by event."""
    content = np.frombuffer(b"abcdef", dtype=np.uint8)
    starts, ends = np.array([3, 0, 1]), np.array([6, 2, 3])
    batch = RawBatch(content, starts, ends, "memory", 0, np.arange(3))
    shape = SlotShape(n_fields=1, n_features=1, n_parts=1, n_events_max=8, n_bytes_max=64)
    with make_shared(shape) as memory:
        slot = open_slots(memory.fileno(), shape)[0]
        assert RoundPacker([batch], shape).pack(slot).n_events == 3
        spans = zip(slot.starts[:3].tolist(), slot.ends[:3].tolist(), strict=True)
        assert [slot.content[a:b].tobytes() for a, b in spans] == [b"def", b"ab", b"bc"]
