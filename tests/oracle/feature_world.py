"""A small world of payments and verdicts, as columns, for the tests of features."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from sentinel.contract import (
    Boolean,
    Category,
    Contract,
    ContractSchema,
    Decimal,
    EventBatch,
    EventId,
    EventTime,
    Float,
    Integer,
    Key,
    RawBatch,
)
from sentinel.features import (
    CategoryEncoding,
    Count,
    DayOfWeek,
    Difference,
    Distance,
    DistinctCount,
    Entity,
    FeatureSet,
    FirstSeen,
    HourOfDay,
    LastValue,
    Maximum,
    Mean,
    Minimum,
    Ratio,
    StandardDeviation,
    Sum,
    TimeSince,
    Value,
    Velocity,
)

Int64Array = npt.NDArray[np.int64]
START_MS = 1_700_000_000_000
HOUR_MS = 3_600_000


class Payment(Contract, name="payment", version="1"):
    payment_id = EventId(bytes_max=36)
    paid_at = EventTime(unit="ms")
    card_id = Key(bytes_max=32)
    merchant_id = Key(bytes_max=32)
    device_id = Key(bytes_max=32, nullable=True)
    amount = Decimal(scale=2, minimum=-100_000, maximum=100_000)
    tip = Float(minimum=-1e6, maximum=1e6, nullable=True)
    latitude = Float(minimum=-90, maximum=90)
    longitude = Float(minimum=-180, maximum=180)
    is_vpn = Boolean()
    channel = Category("chip", "online", "contactless")
    n_items = Integer(minimum=0, maximum=1000, nullable=True)


class Verdict(Contract, name="verdict", version="1"):
    verdict_id = EventId(bytes_max=36)
    known_at = EventTime(unit="ms")
    payment_id = Key(bytes_max=36)
    card_id = Key(bytes_max=32)
    merchant_id = Key(bytes_max=32)
    is_fraud = Boolean()


card = Entity("card", key=Payment.card_id)
merchant = Entity("merchant", key=Payment.merchant_id)
device = Entity("device", key=Payment.device_id)


def batch_of(
    schema: ContractSchema,
    values: Int64Array,
    present: npt.NDArray[np.bool_] | None = None,
    *,
    received_at_ms: Int64Array | None = None,
) -> EventBatch:
    """Make a decoded batch from columns."""
    n_rows = values.shape[1]
    raw = RawBatch(
        content=np.zeros(0, dtype=np.uint8),
        starts=np.zeros(n_rows, dtype=np.int64),
        ends=np.zeros(n_rows, dtype=np.int64),
        source="memory",
        partition=0,
        positions=np.arange(n_rows, dtype=np.int64),
        received_at_ms=received_at_ms,
    )
    return EventBatch(
        names=tuple(field.name for field in schema.fields),
        values=np.ascontiguousarray(values),
        present=np.ones(values.shape, dtype=np.bool_)
        if present is None
        else np.ascontiguousarray(present),
        rows=np.arange(n_rows, dtype=np.int64),
        raw=raw,
        text_fields=(),
        text_spans=np.zeros((0, n_rows, 2), dtype=np.int64),
        text_content=np.zeros(0, dtype=np.uint8),
    )


def rows_of(batch: EventBatch, schema: ContractSchema, chosen: object) -> EventBatch:
    """Take some rows of a batch, in the order given."""
    return batch_of(schema, batch.values[:, chosen], batch.present[:, chosen])


def split(batch: EventBatch, schema: ContractSchema, cuts: list[int]) -> list[EventBatch]:
    """Cut a batch at the places given."""
    edges = [0, *sorted(cuts), batch.n_rows]
    return [rows_of(batch, schema, slice(a, b)) for a, b in itertools.pairwise(edges)]


def payments(
    n_rows: int,
    seed: int,
    *,
    span_ms: int = 6 * HOUR_MS,
    late_ms: int = 0,
    late_share: float = 0.3,
    duplicate_share: float = 0.0,
    n_cards: int = 5,
    grain_ms: int = 1000,
) -> EventBatch:
    """Draw payments: mostly in order of time; some late, some repeated, some at one instant.

    ``late_share`` of the events is up to ``late_ms`` late; times are multiples of ``grain_ms``.
    """
    rng = np.random.default_rng(seed)
    schema = Payment.schema
    times = START_MS + np.sort(rng.integers(0, span_ms, n_rows)) // grain_ms * grain_ms
    if late_ms:
        is_late = rng.random(n_rows) < late_share
        times = times - is_late * (rng.integers(0, late_ms, n_rows) // grain_ms * grain_ms)
    reals = {
        "tip": np.round(rng.normal(0, 10, n_rows), 3),
        "latitude": rng.uniform(-80, 80, n_rows),
        "longitude": rng.uniform(-179, 179, n_rows),
    }
    # A card that stays where it is.
    stays = rng.random(n_rows) < 0.3
    reals["latitude"][stays], reals["longitude"][stays] = 52.5, 13.4
    columns = {
        "payment_id": rng.permutation(n_rows) + 1_000_003,
        "paid_at": times,
        "card_id": rng.integers(0, n_cards, n_rows) * 7919 - 3,
        "merchant_id": rng.integers(0, 3, n_rows),
        "device_id": rng.integers(0, 4, n_rows),
        "amount": rng.integers(-500, 100_000, n_rows),
        "is_vpn": rng.integers(0, 2, n_rows),
        "channel": rng.integers(0, 3, n_rows),
        "n_items": rng.integers(0, 1001, n_rows),
        **{name: column.view(np.int64) for name, column in reals.items()},
    }
    values = np.stack([columns[field.name] for field in schema.fields])
    present = np.ones(values.shape, dtype=np.bool_)
    for i, field in enumerate(schema.fields):
        if field.nullable:
            present[i] = rng.random(n_rows) < 0.8
            values[i][~present[i]] = 0
    batch = batch_of(schema, values, present)
    if duplicate_share:
        repeats = np.flatnonzero(rng.random(n_rows) < duplicate_share)
        order = np.sort(np.concatenate([np.arange(n_rows), repeats]))
        batch = rows_of(batch, schema, order)
    return batch


def verdicts(events: EventBatch, seed: int, *, delay_ms: int = HOUR_MS) -> EventBatch:
    """Draw a verdict on two thirds of the payments, known around ``delay_ms`` later."""
    rng = np.random.default_rng(seed)
    chosen = np.flatnonzero(rng.random(events.n_rows) < 0.66)
    n = len(chosen)
    known = events.column("paid_at")[chosen] + rng.integers(0, 2 * delay_ms, n) // 1000 * 1000
    columns = {
        "verdict_id": rng.permutation(n) + 5_000_011,
        "known_at": known,
        "payment_id": events.column("payment_id")[chosen],
        "card_id": events.column("card_id")[chosen],
        "merchant_id": events.column("merchant_id")[chosen],
        "is_fraud": rng.integers(0, 2, n),
    }
    order = np.argsort(known, kind="stable")
    values = np.stack([columns[field.name][order] for field in Verdict.schema.fields])
    return batch_of(Verdict.schema, values)


def log_of(seed: int, n_events: int, *, batch: int) -> list[EventBatch]:
    """Make batches of events with feedback between, each with its positions."""
    events = payments(n_events, seed, late_ms=HOUR_MS, duplicate_share=0.1)
    feedback = verdicts(events, seed)
    n_parts = -(-n_events // batch)
    steps = []
    for k in range(n_parts):
        for whole, schema in ((feedback, Verdict), (events, Payment)):
            first, end = (whole.n_rows * part // n_parts for part in (k, k + 1))
            part = batch_of(schema.schema, whole.values[:, first:end], whole.present[:, first:end])
            part.raw.positions[:] = np.arange(first, end)
            object.__setattr__(part.raw, "source", schema.__name__)
            steps.append(part)
    return steps


def every_kind(*, tiles: int = 12) -> FeatureSet:
    """Declare a feature of every kind, over short windows, so that all rings turn."""
    of, w = Payment, "1h"
    amount_mean = Mean("amount_mean", of=of.amount, by=card, over=w, tiles=tiles)
    amount = Value("amount", of=of.amount)
    features = [
        amount,
        Value("tip", of=of.tip, default=-1.0),
        Value("is_vpn", of=of.is_vpn),
        HourOfDay("hour"),
        HourOfDay("hour_sine", encoding="sine"),
        HourOfDay("hour_cosine", encoding="cosine", utc_offset_minutes=330),
        DayOfWeek("weekday"),
        DayOfWeek("weekday_sine", encoding="sine"),
        CategoryEncoding("channel", of=of.channel, values={"chip": 0.5, "online": 2.0}),
        Count("n", by=card, over=w, tiles=tiles),
        Count("n_ever", by=card),
        Count("n_tips", of=of.tip, by=card, over=w, tiles=tiles),
        Count("n_vpn", by=card, over=w, where=of.is_vpn, tiles=tiles),
        Sum("amount_sum", of=of.amount, by=card, over=w, tiles=tiles),
        Sum("tip_sum", of=of.tip, by=card, over=w, tiles=tiles, default=-7.0),
        Sum("vpn_amount", of=of.amount, by=merchant, over=w, where=of.is_vpn, tiles=tiles),
        amount_mean,
        Mean("vpn_share", of=of.is_vpn, by=device, over=w, tiles=tiles),
        Mean("tip_mean", of=of.tip, by=merchant, over="2h", tiles=tiles),
        Minimum("amount_least", of=of.amount, by=card, over=w, tiles=tiles),
        Maximum("amount_most", of=of.amount, by=card, over=w, tiles=tiles),
        Minimum("tip_least", of=of.tip, by=device, over=w, tiles=tiles),
        Maximum("tip_most", of=of.tip, by=merchant, over=w, tiles=tiles),
        StandardDeviation("amount_spread", of=of.amount, by=card, over=w, tiles=tiles),
        StandardDeviation("tip_spread", of=of.tip, by=merchant, over=w, tiles=tiles),
        DistinctCount("n_merchants", of=of.merchant_id, by=card, over=w, tiles=tiles),
        DistinctCount("n_amounts", of=of.amount, by=merchant),
        LastValue("amount_last", of=of.amount, by=card),
        LastValue("tip_last", of=of.tip, by=card, stale_after="10m", default=-2.0),
        TimeSince("since", by=card, default=-1.0),
        TimeSince("since_vpn", by=merchant, where=of.is_vpn, default=-1.0),
        FirstSeen("age", by=device),
        Distance("km", latitude=of.latitude, longitude=of.longitude, by=card),
        Velocity("kmh", latitude=of.latitude, longitude=of.longitude, by=card),
        Ratio("amount_ratio", numerator="amount", denominator=amount_mean, default=1.0),
        Difference("amount_difference", minuend=amount, subtrahend="amount_mean"),
        Mean("fraud_share", of=Verdict.is_fraud, by=merchant, over="3h", tiles=tiles),
        Sum("n_fraud", of=Verdict.is_fraud, by=card),
        Count("n_verdicts", of=Verdict.is_fraud, by=merchant, over=w, tiles=tiles),
        TimeSince("since_fraud", by=card, where=Verdict.is_fraud, default=-1.0),
        Mean("amount_fresh", of=of.amount, by=card, over="6h", tiles=tiles, stale_after="20m"),
    ]
    return FeatureSet(
        "every-kind", version="1", events=Payment, feedback=Verdict, features=features
    )
