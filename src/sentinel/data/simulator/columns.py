"""Simulated transactions and verdicts as columns of int64, and how each is written."""

from __future__ import annotations

from sentinel.data.json_lines import LineEncoder, LineField
from sentinel.data.simulator.contracts import (
    CHANNELS,
    CURRENCIES,
    MERCHANT_CATEGORIES,
    VERDICT_ORIGINS,
)

# Rows of the matrix of transactions; all but the last are written, in this order.
(
    NUMBER,
    TIME,
    CARD,
    MERCHANT,
    DEVICE,
    AMOUNT,
    CURRENCY,
    CATEGORY,
    CHANNEL,
    LATITUDE,
    LONGITUDE,
    VPN,
    FRAUD_KIND,
) = range(13)
N_COLUMNS = 13
CHIP, CONTACTLESS, ONLINE_CHANNEL = range(len(CHANNELS))
NO_DEVICE = -1

# Rows of the matrix of verdicts.
VERDICT_NUMBER, KNOWN_AT, VERDICT_OF, VERDICT_CARD, VERDICT_MERCHANT, IS_FRAUD, ORIGIN = range(7)
N_VERDICT_COLUMNS = 7
ANALYST, CHARGEBACK, SETTLEMENT = range(len(VERDICT_ORIGINS))

GENUINE_KIND = "genuine"
FRAUD_KINDS = ("card_testing", "impossible_travel", "compromised_merchant", "account_takeover")
"""Kinds of fraud; kind ``i + 1`` of column ``FRAUD_KIND`` is ``FRAUD_KINDS[i]``."""

_NUMBER_DIGITS = 11


def transaction_encoder() -> LineEncoder:
    """Write transactions as the contract ``card-transaction`` says."""
    return LineEncoder(
        [
            LineField.key("transaction_id", "t", digits=_NUMBER_DIGITS),
            LineField.integer("occurred_at"),
            LineField.key("card_id", "c", digits=7),
            LineField.key("merchant_id", "m", digits=6),
            LineField.key("device_id", "d", digits=12),
            LineField.fixed("amount", digits=2),
            LineField.text("currency", CURRENCIES),
            LineField.text("merchant_category", MERCHANT_CATEGORIES),
            LineField.text("channel", CHANNELS),
            LineField.fixed("latitude", digits=6),
            LineField.fixed("longitude", digits=6),
            LineField.boolean("is_vpn_proxy"),
        ]
    )


def verdict_encoder() -> LineEncoder:
    """Write verdicts as the contract ``card-verdict`` says."""
    return LineEncoder(
        [
            LineField.key("verdict_id", "v", digits=_NUMBER_DIGITS),
            LineField.integer("known_at"),
            LineField.key("transaction_id", "t", digits=_NUMBER_DIGITS),
            LineField.key("card_id", "c", digits=7),
            LineField.key("merchant_id", "m", digits=6),
            LineField.boolean("is_fraud"),
            LineField.text("origin", VERDICT_ORIGINS),
        ]
    )


def scenario_encoder() -> LineEncoder:
    """Write which kind of fraud a transaction was."""
    return LineEncoder(
        [
            LineField.key("transaction_id", "t", digits=_NUMBER_DIGITS),
            LineField.text("scenario", (GENUINE_KIND, *FRAUD_KINDS)),
        ]
    )
