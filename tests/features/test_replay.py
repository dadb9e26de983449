"""Replay of raw logs: decoded, in order, feedback in time, nothing refused or doubled in it."""

from __future__ import annotations

import json

import numpy as np
from feature_world import HOUR_MS, START_MS, Payment, Verdict, card, merchant
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.contract import RawBatch
from sentinel.contract.decoder import Decoder
from sentinel.features import (
    Count,
    Engine,
    FeatureSet,
    FeedbackOrder,
    Mean,
    TimeSince,
    compile_plan,
    replay,
    time_travel,
)

FEATURES = FeatureSet(
    "replayed",
    version="1",
    events=Payment,
    feedback=Verdict,
    features=[
        Count("n", by=card, over="1h"),
        Mean("amount", of=Payment.amount, by=card, over="24h"),
        TimeSince("since", by=merchant),
        Mean("fraud_share", of=Verdict.is_fraud, by=merchant, over="24h"),
    ],
)
PLAN = compile_plan(FEATURES)


def payment(i: int, **other: object) -> bytes:
    rng = np.random.default_rng(i)
    return json.dumps(
        {
            "payment_id": f"p{i}",
            "paid_at": START_MS + i * 60_000,
            "card_id": f"c{rng.integers(5)}",
            "merchant_id": f"m{rng.integers(3)}",
            "device_id": None,
            "amount": int(rng.integers(10_000)) / 100,
            "tip": None,
            "latitude": 1.5,
            "longitude": 2.5,
            "is_vpn": False,
            "channel": "chip",
            "n_items": 3,
            **other,
        }
    ).encode()


def verdict(i: int) -> bytes:
    rng = np.random.default_rng(i)
    return json.dumps(
        {
            "verdict_id": f"v{i}",
            "known_at": START_MS + i * 60_000 + HOUR_MS,
            "payment_id": f"p{i}",
            "card_id": f"c{rng.integers(5)}",
            "merchant_id": f"m{rng.integers(3)}",
            "is_fraud": bool(rng.integers(2)),
        }
    ).encode()


def batches(events: list[bytes], size: int) -> list[RawBatch]:
    return [
        RawBatch.from_events(events[at : at + size], first_position=at)
        for at in range(0, len(events), size)
    ]


EVENTS = [payment(i) for i in range(200)]
VERDICTS = [verdict(i) for i in range(0, 200, 2)]


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
    assert report.is_clean
    assert report.n_checked == 50


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
