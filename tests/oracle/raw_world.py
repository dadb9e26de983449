"""The world of payments as raw events, for the tests of replay."""

from __future__ import annotations

import json

import numpy as np
from feature_world import HOUR_MS, START_MS, Payment, Verdict, card, merchant

from sentinel.contract import RawBatch
from sentinel.features import Count, FeatureSet, Mean, TimeSince, compile_plan

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
