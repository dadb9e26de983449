"""Feature values in words, held against the declared example features."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from sentinel.features import (
    DEFAULTED,
    PRESENT,
    STALE,
    CategoryEncoding,
    Difference,
    FeatureSet,
    HourOfDay,
    LastValue,
)
from sentinel.features.definitions import KINDS
from sentinel.features.words import FeatureWords

EXAMPLE = Path(__file__).parents[2] / "examples" / "card_fraud" / "pipeline.py"


def example_features() -> FeatureSet:
    spec = importlib.util.spec_from_file_location("card_fraud_pipeline", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    declared: FeatureSet = module.features
    amount = next(each for each in declared.features if each.name == "amount")
    card = next(each for each in declared.features if each.name == "n_card_1h")
    fitted = [
        dataclasses.replace(each, values={each.of.values[0]: 0.1, each.of.values[2]: 0.7})
        if isinstance(each, CategoryEncoding)
        else each
        for each in declared.features
    ]
    more = [
        Difference("amount_above", minuend="amount", subtrahend="avg_amount_7d"),
        LastValue("last_amount", of=amount.of, by=card.by),
        HourOfDay("hour_sine", encoding="sine"),
    ]
    return declared.with_features([*fitted, *more])


FEATURES = example_features()
WORDS = FeatureWords(FEATURES)


def said(name: str, value: float, status: int = PRESENT, **others: float) -> str:
    values = np.zeros(len(FEATURES.names), dtype=np.float32)
    found = np.full(len(FEATURES.names), DEFAULTED, dtype=np.uint8)
    for other, number in {**others, name: value}.items():
        values[FEATURES.names.index(other)] = number
        found[FEATURES.names.index(other)] = PRESENT
    found[FEATURES.names.index(name)] = status
    return WORDS.say(FEATURES.names.index(name), values, found)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("amount", 523.1, "amount 523.10"),
        ("is_vpn_proxy", 1.0, "vpn proxy: yes"),
        ("channel_risk", 0.7, "channel online"),
        ("hour", 3.0, "at 03 o'clock"),
        ("hour_sine", 0.5, "the time of day"),
        ("weekday", 1.0, "on a Tuesday"),
        ("n_card_10m", 1.0, "1 event of this card in the last 10 minutes"),
        ("n_card_24h", 0.0, "no events of this card in the last 24 hours"),
        ("amount_card_24h", 1812.4, "this card's total amount of the last 24 hours is 1,812.40"),
        ("avg_amount_1h", 71.204, "this card's mean amount of the last hour is 71.20"),
        ("std_amount_30d", 9.5, "this card's usual spread of amount of the last 30 days is 9.50"),
        ("max_amount_7d", 99.0, "this card's largest amount of the last 7 days is 99.00"),
        ("n_merchants_24h", 6.0, "6 different merchants of this card in the last 24 hours"),
        ("geo_velocity", 3412.2, "3,412 km/h from this card's last place"),
        ("s_since_last", 4.0, "4 seconds since this card's last event"),
        ("s_card_known", 259_200.0, "this card was first seen 3 days ago"),
        ("vpn_share_7d", 0.35, "vpn proxy in 35 % of this card's events in the last 7 days"),
        ("n_verdicts_merchant_30d", 2.0, "2 verdicts of this merchant in the last 30 days"),
        ("n_frauds_card_30d", 1.0, "1 verdict of fraud for this card in the last 30 days"),
        (
            "fraud_rate_merchant_30d",
            0.125,
            "fraud in 12 % of this merchant's verdicts in the last 30 days",
        ),
        ("amount_to_avg_7d", 7.4, "amount 7.4 times this card's mean amount of the last 7 days"),
        (
            "amount_to_merchant",
            0.2,
            "amount 20 % of this merchant's mean amount of the last 24 hours",
        ),
        ("amount_above", -4.0, "amount 4.00 below this card's mean amount of the last 7 days"),
        ("last_amount", 12.0, "this card's last amount is 12.00"),
    ],
)
def test_a_value_is_said_in_words(name: str, value: float, expected: str) -> None:
    """One line for every kind of feature."""
    assert said(name, value) == expected


@pytest.mark.parametrize(
    ("name", "status", "expected"),
    [
        ("avg_amount_7d", STALE, "this card's mean amount of the last 7 days is out of date"),
        (
            "avg_amount_7d",
            DEFAULTED,
            "no history of this card yet for this card's mean amount of the last 7 days",
        ),
        ("s_card_known", DEFAULTED, "this card was never seen before"),
        ("n_device_1h", DEFAULTED, "no device is given"),
        ("s_device_known", DEFAULTED, "no device is given, or it was never seen before"),
        ("channel_risk", DEFAULTED, "channel of a kind that was not seen in training"),
        (
            "amount_to_avg_7d",
            DEFAULTED,
            "no history of this card yet for this card's mean amount of the last 7 days",
        ),
    ],
)
def test_a_default_says_that_it_is_one(name: str, status: int, expected: str) -> None:
    """No number is shown where there was none."""
    assert said(name, 0.0, status, amount=5.0) == expected


def test_an_amount_is_held_against_the_longest_mean_that_the_row_has() -> None:
    """The sentence that a person asked for."""
    words = said("amount", 523.1, avg_amount_1h=100.0, avg_amount_7d=70.69)
    assert words == "amount 523.10, 7.4 times this card's mean amount of the last 7 days"


def test_every_kind_of_feature_is_in_the_example_and_has_words() -> None:
    """A kind that comes later needs words of its own."""
    shown = {type(feature) for feature in FEATURES.features}
    assert {kind.__name__ for kind in set(KINDS.values()) - shown} <= {
        "Minimum",
        "Distance",
    }
    for name in FEATURES.names:
        for status in (PRESENT, DEFAULTED, STALE):
            words = said(name, 0.5, status)
            assert (words and name not in words) or "_" not in name
