"""$name: one card payment in, approve, review or decline out. Everything here is yours to change."""

from sentinel.contract import Boolean, Category, Contract, Decimal, EventId, EventTime, Float, Key
from sentinel.features import (
    Count,
    Entity,
    FeatureSet,
    HourOfDay,
    Mean,
    Ratio,
    TimeSince,
    Value,
    Velocity,
)
from sentinel.release import Label, Pipeline
from sentinel.scoring import Policy


class Transaction(Contract, name="card-transaction", version="1"):
    """What comes in. An event that is not exactly this is refused and kept with its reason."""

    transaction_id = EventId(bytes_max=36)
    occurred_at = EventTime(unit="ms")
    card_id = Key(bytes_max=32)
    merchant_id = Key(bytes_max=32)
    device_id = Key(bytes_max=32, nullable=True)
    amount = Decimal(scale=2, minimum=0, maximum=100_000)
    currency = Category("EUR", "GBP", "CHF", "USD")
    merchant_category = Category(
        *("grocery", "restaurant", "fuel", "transport", "clothing", "electronics"),
        *("travel", "health", "entertainment", "digital", "gift_card", "cash"),
    )
    channel = Category("chip", "contactless", "online")
    latitude = Float(minimum=-90, maximum=90)
    longitude = Float(minimum=-180, maximum=180)
    is_vpn_proxy = Boolean()


class Verdict(Contract, name="card-verdict", version="1"):
    """What became known of a transaction, from the moment it was known."""

    verdict_id = EventId(bytes_max=36)
    known_at = EventTime(unit="ms")
    transaction_id = Key(bytes_max=36)
    card_id = Key(bytes_max=32)
    merchant_id = Key(bytes_max=32)
    is_fraud = Boolean()
    origin = Category("analyst", "chargeback", "settlement")


card = Entity("card", key=Transaction.card_id)
merchant = Entity("merchant", key=Transaction.merchant_id)
amount = Transaction.amount

features = FeatureSet(
    "$name",
    version="1.0.0",
    events=Transaction,
    feedback=Verdict,
    features=[
        Value("amount", of=amount),
        Value("is_vpn_proxy", of=Transaction.is_vpn_proxy),
        HourOfDay("hour"),
        Count("n_card_1h", by=card, over="1h"),
        Count("n_card_24h", by=card, over="24h"),
        Mean("avg_amount_7d", of=amount, by=card, over="7d"),
        Velocity(
            "geo_velocity", by=card, latitude=Transaction.latitude, longitude=Transaction.longitude
        ),
        TimeSince("s_since_last", by=card),
        Mean("fraud_rate_merchant_30d", of=Verdict.is_fraud, by=merchant, over="30d"),
        Ratio("amount_to_avg_7d", numerator="amount", denominator="avg_amount_7d"),
    ],
)

pipeline = Pipeline(
    name="$name",
    features=features,
    label=Label(of=Verdict.is_fraud, event=Verdict.transaction_id, delay="7d"),
    policy=Policy(decline_share=0.004, review_share=0.012),
)
