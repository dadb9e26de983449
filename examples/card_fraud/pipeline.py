"""Card fraud: one card payment in, approve, review or decline out."""

from sentinel import contract as c
from sentinel import features as f
from sentinel.release import Label, Pipeline
from sentinel.scoring import Policy

CATEGORIES = (
    *("grocery", "restaurant", "fuel", "transport", "clothing", "electronics"),
    *("travel", "health", "entertainment", "digital", "gift_card", "cash"),
)


class Transaction(c.Contract, name="card-transaction", version="1"):
    """One card payment: where, when, how much, with what."""

    transaction_id = c.EventId(bytes_max=36)
    occurred_at = c.EventTime(unit="ms")
    card_id = c.Key(bytes_max=32)
    merchant_id = c.Key(bytes_max=32)
    device_id = c.Key(bytes_max=32, nullable=True)
    amount = c.Decimal(scale=2, minimum=0, maximum=100_000)
    currency = c.Category("EUR", "GBP", "CHF", "USD")
    merchant_category = c.Category(*CATEGORIES)
    channel = c.Category("chip", "contactless", "online")
    latitude = c.Float(minimum=-90, maximum=90)
    longitude = c.Float(minimum=-180, maximum=180)
    is_vpn_proxy = c.Boolean()


class Verdict(c.Contract, name="card-verdict", version="1"):
    """What became known of a transaction, from the moment it was known."""

    verdict_id = c.EventId(bytes_max=36)
    known_at = c.EventTime(unit="ms")
    transaction_id = c.Key(bytes_max=36)
    card_id = c.Key(bytes_max=32)
    merchant_id = c.Key(bytes_max=32)
    is_fraud = c.Boolean()
    origin = c.Category("analyst", "chargeback", "settlement")


card = f.Entity("card", key=Transaction.card_id)
merchant = f.Entity("merchant", key=Transaction.merchant_id)
device = f.Entity("device", key=Transaction.device_id)
amount, place = Transaction.amount, (Transaction.latitude, Transaction.longitude)

features = f.FeatureSet(
    "card-fraud",
    version="1.0.0",
    events=Transaction,
    feedback=Verdict,
    features=[
        f.Value("amount", of=amount),
        f.Value("is_vpn_proxy", of=Transaction.is_vpn_proxy),
        f.CategoryEncoding("channel_risk", of=Transaction.channel),
        f.CategoryEncoding("merchant_category_risk", of=Transaction.merchant_category),
        f.HourOfDay("hour"),
        f.DayOfWeek("weekday"),
        # The card: how often, how much, how far, how fast.
        f.Count("n_card_10m", by=card, over="10m"),
        f.Count("n_card_1h", by=card, over="1h"),
        f.Count("n_card_24h", by=card, over="24h"),
        f.Sum("amount_card_24h", of=amount, by=card, over="24h"),
        f.Mean("avg_amount_1h", of=amount, by=card, over="1h"),
        f.Mean("avg_amount_7d", of=amount, by=card, over="7d"),
        f.StandardDeviation("std_amount_30d", of=amount, by=card, over="30d"),
        f.Maximum("max_amount_7d", of=amount, by=card, over="7d"),
        f.DistinctCount(
            "n_merchants_24h", of=Transaction.merchant_id, by=card, over="24h", tiles=6
        ),
        f.Velocity("geo_velocity", by=card, latitude=place[0], longitude=place[1]),
        f.TimeSince("s_since_last", by=card),
        f.FirstSeen("s_card_known", by=card),
        f.Mean("vpn_share_7d", of=Transaction.is_vpn_proxy, by=card, over="7d"),
        # The merchant and the device, and what has become known of them.
        f.Count("n_merchant_1h", by=merchant, over="1h"),
        f.Mean("avg_amount_merchant_24h", of=amount, by=merchant, over="24h"),
        f.Count("n_verdicts_merchant_30d", of=Verdict.is_fraud, by=merchant, over="30d"),
        f.Mean("fraud_rate_merchant_30d", of=Verdict.is_fraud, by=merchant, over="30d"),
        f.Sum("n_frauds_card_30d", of=Verdict.is_fraud, by=card, over="30d"),
        f.Count("n_device_1h", by=device, over="1h"),
        f.FirstSeen("s_device_known", by=device),
        # This payment against the habits of its card and its merchant.
        f.Ratio("amount_to_avg_7d", numerator="amount", denominator="avg_amount_7d"),
        f.Ratio("amount_to_max_7d", numerator="amount", denominator="max_amount_7d"),
        f.Ratio("amount_to_merchant", numerator="amount", denominator="avg_amount_merchant_24h"),
        f.Ratio("burst_10m_to_24h", numerator="n_card_10m", denominator="n_card_24h"),
    ],
)

pipeline = Pipeline(
    name="card-fraud",
    features=features,
    label=Label(of=Verdict.is_fraud, event=Verdict.transaction_id, delay="7d"),
    policy=Policy(decline_share=0.004, review_share=0.012),
    model={"n_rounds_max": 200},
)
