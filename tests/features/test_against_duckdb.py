"""The engine against SQL: another language, another engine, the same definitions."""

from __future__ import annotations

import numpy as np
import pytest
from duckdb_oracle import Oracle
from feature_world import HOUR_MS, Payment, Verdict, every_kind, payments, split, verdicts

from sentinel.features import PRESENT, Engine, FeatureMatrix, advance_log, compile_plan

PLAN = compile_plan(every_kind())
HOP = {"hop_ms": HOUR_MS // 12, "tiles": 12}
HAVERSINE = """
  2 * 6371.0088 * asin(sqrt(least(1.0,
    pow(sin(radians(any_value(e.latitude) - {last}.latitude) / 2), 2)
    + cos(radians(any_value(e.latitude))) * cos(radians({last}.latitude))
    * pow(sin(radians(any_value(e.longitude) - {last}.longitude) / 2), 2))))
"""
LAST = "arg_max(p, {'at': p.t_ms, 'id': p.payment_id})"
KM = HAVERSINE.format(last=LAST)
HOURS = f"abs(any_value(e.t_ms) - ({LAST}).t_ms) / 3600000.0"
KMH = f"""CASE WHEN count(p.seq) = 0 THEN NULL WHEN {KM} < 1e-9 THEN 0
  WHEN {HOURS} = 0 THEN 100000 ELSE least(100000, ({KM}) / ({HOURS})) END"""
SINCE = """CASE WHEN count(p.seq) > 0
  THEN greatest(0, any_value(e.t_ms) - max(p.t_ms)) / 1000 END"""

# Feature: the expression, where it looks, and how many parts in a million it may differ.
ASKED: dict[str, tuple[str, dict[str, object], float]] = {
    "n": ("count(p.seq)", {"key": "card_id", **HOP}, 0),
    "n_ever": ("count(p.seq)", {"key": "card_id"}, 0),
    "n_tips": ("count(p.tip)", {"key": "card_id", **HOP}, 0),
    "n_vpn": ("count(p.seq)", {"key": "card_id", "where": "p.is_vpn = 1", **HOP}, 0),
    "amount_sum": ("sum(p.amount) / 100", {"key": "card_id", **HOP}, 0),
    "tip_sum": ("sum(p.tip)", {"key": "card_id", **HOP}, 1),
    "vpn_amount": (
        "sum(p.amount) / 100",
        {"key": "merchant_id", "where": "p.is_vpn = 1", **HOP},
        0,
    ),
    "amount_mean": ("sum(p.amount) / count(p.amount) / 100", {"key": "card_id", **HOP}, 0),
    "vpn_share": ("avg(p.is_vpn)", {"key": "device_id", **HOP}, 0),
    "tip_mean": ("avg(p.tip)", {"key": "merchant_id", "hop_ms": HOUR_MS // 6, "tiles": 12}, 1),
    "amount_least": ("min(p.amount) / 100", {"key": "card_id", **HOP}, 0),
    "amount_most": ("max(p.amount) / 100", {"key": "card_id", **HOP}, 0),
    "tip_least": ("min(p.tip)", {"key": "device_id", **HOP}, 0),
    "tip_most": ("max(p.tip)", {"key": "merchant_id", **HOP}, 0),
    "amount_spread": ("stddev_samp(p.amount) / 100", {"key": "card_id", **HOP}, 1),
    "tip_spread": ("stddev_samp(p.tip)", {"key": "merchant_id", **HOP}, 1),
    "n_merchants": ("count(DISTINCT p.merchant_id)", {"key": "card_id", **HOP}, 0),
    "n_amounts": ("count(DISTINCT p.amount)", {"key": "merchant_id"}, 200_000),
    "amount_last": (f"({LAST}).amount / 100", {"key": "card_id"}, 0),
    "since": (SINCE, {"key": "card_id"}, 0),
    "since_vpn": (SINCE, {"key": "merchant_id", "where": "p.is_vpn = 1"}, 0),
    "age": (SINCE.replace("max(p.t_ms)", "min(p.t_ms)"), {"key": "device_id"}, 0),
    "km": (f"CASE WHEN count(p.seq) > 0 THEN {KM} END", {"key": "card_id"}, 1),
    "kmh": (KMH, {"key": "card_id"}, 1),
    "fraud_share": (
        "avg(p.is_fraud)",
        {"key": "merchant_id", "feed": "verdicts", "hop_ms": HOUR_MS // 4, "tiles": 12},
        0,
    ),
    "n_fraud": ("sum(p.is_fraud)", {"key": "card_id", "feed": "verdicts"}, 0),
    "n_verdicts": ("count(p.seq)", {"key": "merchant_id", "feed": "verdicts", **HOP}, 0),
    "since_fraud": (
        SINCE,
        {"key": "card_id", "feed": "verdicts", "where": "p.is_fraud = 1"},
        0,
    ),
}

World = tuple[FeatureMatrix, Oracle]


@pytest.fixture(
    scope="module", params=[0, HOUR_MS // 2, 3 * HOUR_MS], ids=["on-time", "late", "very-late"]
)
def world(request: pytest.FixtureRequest) -> World:
    """One log, through the engine and into DuckDB; events repeated, simultaneous, null."""
    late_ms: int = request.param
    seed = late_ms // HOUR_MS
    events = payments(350, seed, late_ms=late_ms, duplicate_share=0.1, span_ms=6 * HOUR_MS)
    feedback = verdicts(events, seed)
    keys = ("card_id", "merchant_id", "device_id")
    oracle = Oracle(events, feedback, Payment.schema, Verdict.schema, keys)
    [(_, matrix)] = advance_log(Engine(PLAN), [events], split(feedback, Verdict.schema, [60, 150]))
    return matrix, oracle


@pytest.mark.parametrize("name", ASKED)
def test_sql_gives_the_same(world: World, name: str) -> None:
    """Value for value: exact where it is exact, the status where there is none."""
    matrix, oracle = world
    expression, where, millionths = ASKED[name]
    told = oracle.ask(expression, **where)  # type: ignore[arg-type]
    once = ~matrix.is_duplicate
    at = matrix.names.index(name)
    values, status = matrix.values[once, at], matrix.status[once, at]
    np.testing.assert_array_equal(status == PRESENT, ~np.ma.getmaskarray(told), name)
    is_there = status == PRESENT
    assert is_there.sum() > 50
    if millionths == 0:
        np.testing.assert_array_equal(values[is_there], told.data[is_there].astype(np.float32))
    else:
        np.testing.assert_allclose(
            values[is_there], told.data[is_there], rtol=millionths * 1e-6, atol=2e-5
        )
