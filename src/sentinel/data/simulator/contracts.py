"""The contracts of the simulated card world: what a transaction and a verdict on it look like."""

from __future__ import annotations

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

CHANNELS = ("chip", "contactless", "online")
CURRENCIES = ("EUR", "GBP", "CHF", "USD")
MERCHANT_CATEGORIES = (
    "grocery",
    "restaurant",
    "fuel",
    "transport",
    "clothing",
    "electronics",
    "travel",
    "health",
    "entertainment",
    "digital",
    "gift_card",
    "cash",
)
VERDICT_ORIGINS = ("analyst", "chargeback", "settlement")


class Transaction(Contract, name="card-transaction", version="1"):
    """One card payment: where, when, how much, with what."""

    transaction_id = EventId(bytes_max=36)
    occurred_at = EventTime(unit="ms")
    card_id = Key(bytes_max=32)
    merchant_id = Key(bytes_max=32)
    device_id = Key(bytes_max=32, nullable=True)
    amount = Decimal(scale=2, minimum=0, maximum=100_000)
    currency = Category(*CURRENCIES)
    merchant_category = Category(*MERCHANT_CATEGORIES)
    channel = Category(*CHANNELS)
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
    origin = Category(*VERDICT_ORIGINS)
