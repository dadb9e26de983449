"""Replay of raw logs: decoded, in order, feedback in time, nothing refused or doubled in it."""

from __future__ import annotations

import numpy as np
from feature_world import Payment, Verdict
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_world import EVENTS, PLAN, VERDICTS, batches, payment

from sentinel.contract.decoder import Decoder
from sentinel.features import (
    Engine,
    FeedbackOrder,
    replay,
    time_travel,
)


@settings(max_examples=20, deadline=None)
@given(size=st.integers(1, 200), verdict_size=st.integers(1, 100))
def test_replay_does_not_see_where_logs_are_cut(size: int, verdict_size: int) -> None:
    """Any batches of either log give the same vectors, to the last bit."""
    expected = replay(PLAN, batches(EVENTS, 200), batches(VERDICTS, 100))
    actual = replay(PLAN, batches(EVENTS, size), batches(VERDICTS, verdict_size))
    assert actual.matrix.values.tobytes() == expected.matrix.values.tobytes()
    assert actual.matrix.status.tobytes() == expected.matrix.status.tobytes()
    assert actual.times_ms.tolist() == expected.times_ms.tolist()
    assert actual.counts == expected.counts


def test_refused_and_repeated_events_reach_no_row() -> None:
    """What the contract refuses, and what comes again, is counted and left out."""
    events = [*EVENTS[:50], b"{", payment(3), payment(50, amount="NaN"), *EVENTS[51:100]]
    refusals: list[object] = []
    replayed = replay(
        PLAN,
        batches(events, 7),
        [*batches(VERDICTS[:20], 6), *batches([b"null"], 1)],
        keep=["amount", "tip"],
        on_refusals=refusals.extend,
    )
    assert replayed.n_rows == 99
    assert (replayed.n_refused, replayed.n_feedback_refused) == (2, 1)
    assert len(refusals) == 3
    assert replayed.counts.duplicates == 1
    assert not replayed.matrix.is_duplicate.any()
    assert replayed.positions.tolist() == [*range(50), *range(53, 102)]
    assert len(np.unique(replayed.event_ids)) == 99
    assert replayed.columns["amount"].min() >= 0
    assert not replayed.present["tip"].any()


def test_an_empty_log_gives_an_empty_matrix() -> None:
    """Nothing in, nothing out, with all columns."""
    replayed = replay(PLAN, [], [], keep=["amount"])
    assert replayed.matrix.values.shape == (0, 4)
    assert replayed.columns["amount"].shape == (0,)


def test_replay_goes_on_from_an_engine() -> None:
    """Two halves through one engine are the whole."""
    whole = replay(PLAN, batches(EVENTS, 50), batches(VERDICTS, 50))
    engine = Engine(PLAN)
    first = replay(PLAN, batches(EVENTS[:100], 50), batches(VERDICTS, 50), engine=engine)
    second = replay(PLAN, batches(EVENTS[100:], 50), batches(VERDICTS, 50), engine=engine)
    joined = np.concatenate([first.matrix.values, second.matrix.values])
    assert joined.tobytes() == whole.matrix.values.tobytes()


def test_replayed_vectors_pass_the_time_travel_test() -> None:
    """The gate's way: the same raw logs, decoded once more."""
    replayed = replay(PLAN, batches(EVENTS, 64), batches(VERDICTS, 64))
    events, feedback = Decoder(Payment.schema), Decoder(Verdict.schema)
    report = time_travel(
        PLAN,
        (events.decode(raw).events for raw in batches(EVENTS, 32)),
        (feedback.decode(raw).events for raw in batches(VERDICTS, 10)),
        replayed.matrix,
        n_samples=50,
    )
    assert (report.n_checked, report.n_different) == (50, 0)


@given(st.lists(st.integers(0, 50), max_size=30), st.lists(st.integers(0, 60), max_size=10))
def test_feedback_is_handed_out_in_time(known: list[int], nows: list[int]) -> None:
    """After every call all that is known by then was handed out, and at most one batch more."""
    batches_of = [[at] for at in sorted(known)]
    order = FeedbackOrder(batches_of, latest_ms=max)
    handed: list[int] = []
    for now in sorted(nows):
        handed += [batch[0] for batch in order.due(now)]
        assert handed[: sum(at <= now for at in known)] == [at for at in sorted(known) if at <= now]
        assert sum(at > now for at in handed) <= 1
