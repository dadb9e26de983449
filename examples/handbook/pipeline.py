"""The Handbook's card payments: which of them are fraud, from amounts and what terminals did."""

from sentinel.contract import Boolean, Contract, Decimal, EventId, EventTime, Key
from sentinel.features import (
    Count,
    Difference,
    Entity,
    FeatureSet,
    Maximum,
    Mean,
    Ratio,
    StandardDeviation,
    Sum,
    TimeSince,
    Value,
)
from sentinel.release import Label, Pipeline
from sentinel.scoring import Policy


class Transaction(Contract, name="handbook-transaction", version="1"):
    """One payment of a customer at a terminal."""

    transaction_id = EventId(bytes_max=20)
    occurred_at = EventTime(unit="ms")
    customer_id = Key(integer=True)
    terminal_id = Key(integer=True)
    amount = Decimal(scale=2, minimum=0, maximum=100_000)


class Verdict(Contract, name="handbook-verdict", version="1"):
    """What became known of a payment, a week later."""

    verdict_id = EventId(bytes_max=21)
    known_at = EventTime(unit="ms")
    transaction_id = Key(bytes_max=20)
    customer_id = Key(integer=True)
    terminal_id = Key(integer=True)
    is_fraud = Boolean()


customer = Entity("customer", key=Transaction.customer_id)
terminal = Entity("terminal", key=Transaction.terminal_id)
amount, is_fraud = Transaction.amount, Verdict.is_fraud

features = [
    Value("amount", of=amount),
    # What this customer usually pays, and how far this payment is from it.
    Count("n_payments_7d", by=customer, over="7d"),
    *[Mean(f"avg_amount_{days}d", of=amount, by=customer, over=f"{days}d") for days in (7, 30, 90)],
    *[
        Maximum(f"max_amount_{days}d", of=amount, by=customer, over=f"{days}d")
        for days in (7, 14, 30, 90)
    ],
    StandardDeviation("std_amount_90d", of=amount, by=customer, over="90d"),
    Ratio("amount_to_avg_30d", numerator="amount", denominator="avg_amount_30d"),
    Ratio("amount_to_avg_90d", numerator="amount", denominator="avg_amount_90d"),
    Ratio("amount_to_max_30d", numerator="amount", denominator="max_amount_30d"),
    Ratio("amount_to_max_90d", numerator="amount", denominator="max_amount_90d"),
    Difference("amount_above_avg_90d", minuend="amount", subtrahend="avg_amount_90d"),
    Ratio("deviations_90d", numerator="amount_above_avg_90d", denominator="std_amount_90d"),
    # Whether the customer's last days were already unlike him.
    Ratio("avg_7d_to_avg_90d", numerator="avg_amount_7d", denominator="avg_amount_90d"),
    Ratio("max_7d_to_avg_90d", numerator="max_amount_7d", denominator="avg_amount_90d"),
    Ratio("max_14d_to_avg_90d", numerator="max_amount_14d", denominator="avg_amount_90d"),
    # What has become known of this terminal, a week late.
    *[
        Mean(f"terminal_fraud_rate_{days}d", of=is_fraud, by=terminal, over=f"{days}d")
        for days in (1, 3, 7, 14, 21, 28)
    ],
    *[
        Sum(f"terminal_frauds_{days}d", of=is_fraud, by=terminal, over=f"{days}d")
        for days in (7, 28)
    ],
    TimeSince("s_since_terminal_fraud", by=terminal, where=is_fraud, default=1e9),
]

pipeline = Pipeline(
    name="handbook",
    features=FeatureSet(
        "handbook", version="1.0.0", events=Transaction, feedback=Verdict, features=features
    ),
    label=Label(of=is_fraud, event=Verdict.transaction_id, delay="7d"),
    policy=Policy(decline_share=0.005, review_share=0.010),
    model={"n_rounds_max": 300, "n_leaves": 15, "feature_share": 0.5},
)
