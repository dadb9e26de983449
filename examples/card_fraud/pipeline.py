"""Card fraud: one card payment in, approve, review or decline out."""

from sentinel.contract import (
    Boolean,
    Category,
    Contract,
    Decimal,
    EventId,
    EventTime,
    Float,
    Key,
)
from sentinel.features import (
    CategoryEncoding,
    Count,
    DayOfWeek,
    DistinctCount,
    Entity,
    FeatureSet,
    FirstSeen,
    HourOfDay,
    Maximum,
    Mean,
    Ratio,
    StandardDeviation,
    Sum,
    TimeSince,
    Value,
    Velocity,
)
from sentinel.release import Label, Pipeline
from sentinel.scoring import Policy

CATEGORIES = (
    *("grocery", "restaurant", "fuel", "transport", "clothing", "electronics"),
    *("travel", "health", "entertainment", "digital", "gift_card", "cash"),
)


class Transaction(Contract, name="card-transaction", version="1"):
    """One card payment: where, when, how much, with what."""

    transaction_id = EventId(bytes_max=36)
    occurred_at = EventTime(unit="ms")
    card_id = Key(bytes_max=32)
    merchant_id = Key(bytes_max=32)
    device_id = Key(bytes_max=32, nullable=True)
    amount = Decimal(scale=2, minimum=0, maximum=100_000)
    currency = Category("EUR", "GBP", "CHF", "USD")
    merchant_category = Category(*CATEGORIES)
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
device = Entity("device", key=Transaction.device_id)
amount, place = Transaction.amount, (Transaction.latitude, Transaction.longitude)

features = FeatureSet(
    "card-fraud",
    version="1.0.0",
    events=Transaction,
    feedback=Verdict,
    features=[
        Value("amount", of=amount),
        Value("is_vpn_proxy", of=Transaction.is_vpn_proxy),
        CategoryEncoding("channel_risk", of=Transaction.channel),
        CategoryEncoding("merchant_category_risk", of=Transaction.merchant_category),
        HourOfDay("hour"),
        DayOfWeek("weekday"),
        # The card: how often, how much, how far, how fast.
        Count("n_card_10m", by=card, over="10m"),
        Count("n_card_1h", by=card, over="1h"),
        Count("n_card_24h", by=card, over="24h"),
        Sum("amount_card_24h", of=amount, by=card, over="24h"),
        Mean("avg_amount_1h", of=amount, by=card, over="1h"),
        Mean("avg_amount_7d", of=amount, by=card, over="7d"),
        StandardDeviation("std_amount_30d", of=amount, by=card, over="30d"),
        Maximum("max_amount_7d", of=amount, by=card, over="7d"),
        DistinctCount("n_merchants_24h", of=Transaction.merchant_id, by=card, over="24h", tiles=6),
        Velocity("geo_velocity", by=card, latitude=place[0], longitude=place[1]),
        TimeSince("s_since_last", by=card),
        FirstSeen("s_card_known", by=card),
        Mean("vpn_share_7d", of=Transaction.is_vpn_proxy, by=card, over="7d"),
        # The merchant and the device, and what has become known of them.
        Count("n_merchant_1h", by=merchant, over="1h"),
        Mean("avg_amount_merchant_24h", of=amount, by=merchant, over="24h"),
        Count("n_verdicts_merchant_30d", of=Verdict.is_fraud, by=merchant, over="30d"),
        Mean("fraud_rate_merchant_30d", of=Verdict.is_fraud, by=merchant, over="30d"),
        Sum("n_frauds_card_30d", of=Verdict.is_fraud, by=card, over="30d"),
        Count("n_device_1h", by=device, over="1h"),
        FirstSeen("s_device_known", by=device),
        # This payment against the habits of its card and its merchant.
        Ratio("amount_to_avg_7d", numerator="amount", denominator="avg_amount_7d"),
        Ratio("amount_to_max_7d", numerator="amount", denominator="max_amount_7d"),
        Ratio("amount_to_merchant", numerator="amount", denominator="avg_amount_merchant_24h"),
        Ratio("burst_10m_to_24h", numerator="n_card_10m", denominator="n_card_24h"),
    ],
)

pipeline = Pipeline(
    name="card-fraud",
    features=features,
    label=Label(of=Verdict.is_fraud, event=Verdict.transaction_id, delay="7d"),
    policy=Policy(decline_share=0.004, review_share=0.012),
)
