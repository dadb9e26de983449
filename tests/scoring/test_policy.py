"""A policy is refused where it makes no sense, and is the same after a round through data."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.scoring.policy import (
    BreakerRules,
    GovernorRules,
    InsaneRules,
    OutputRules,
    Policy,
    StalePolicy,
)

GOOD: dict[str, object] = {"review_above": 0.5, "decline_above": 0.9}
NAN = float("nan")


@pytest.mark.parametrize(
    ("changes", "at"),
    [
        ({"review_above": NAN}, "policy.review_above"),
        ({"decline_above": 1.1}, "policy.decline_above"),
        ({"review_above": 0.95}, "policy.review_above"),
        ({"decline_above": None}, "policy.decline_above"),
        ({"decline_share": -0.1}, "policy.decline_share"),
        ({"fallback_review_above": 0.5}, "policy.fallback_review_above"),
        ({"refused_share_max": 0.0}, "policy.refused_share_max"),
        ({"canary_tolerance": 0.02}, "policy.canary_tolerance"),
        ({"canary_tolerance": NAN}, "policy.canary_tolerance"),
        ({"canary_every_s": 0}, "policy.canary_every_s"),
        ({"breaker": BreakerRules(pause_s=0)}, "policy.breaker.pause_s"),
        ({"breaker": BreakerRules(failed_share=2)}, "policy.breaker.failed_share"),
        ({"breaker": BreakerRules(latency_ms_max=NAN)}, "policy.breaker.latency_ms_max"),
        ({"breaker": BreakerRules(closes_after=0)}, "policy.breaker.closes_after"),
        ({"breaker": BreakerRules(window_calls=10**6)}, "policy.breaker.window_calls"),
        ({"insane": InsaneRules(entities=1)}, "policy.insane.entities"),
        (
            {"insane": InsaneRules(window_rows=100, rows_per_entity=10)},
            "policy.insane.rows_per_entity",
        ),
        ({"governor": GovernorRules(factor=1.0)}, "policy.governor.factor"),
        ({"governor": GovernorRules(chance=0.5)}, "policy.governor.chance"),
        ({"outputs": OutputRules(minimum=1.0, maximum=1.0)}, "policy.outputs"),
        ({"outputs": OutputRules(constant_rows=0)}, "policy.outputs.constant_rows"),
    ],
)
def test_a_number_that_makes_no_sense_is_refused_by_name(
    changes: dict[str, object], at: str
) -> None:
    with pytest.raises(SentinelError) as caught:
        Policy(**{**GOOD, **changes})  # type: ignore[arg-type]
    assert (caught.value.code, caught.value.at) == (ErrorCode.POLICY_INVALID, at)


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {**GOOD, "unknown": 1},
        {**GOOD, "review_above": "0.5"},
        {**GOOD, "stale": "guess"},
        {**GOOD, "breaker": {"pause": 1}},
        {**GOOD, "refused_events_min": 1.5},
    ],
)
def test_data_that_is_no_policy_is_refused(data: object) -> None:
    with pytest.raises(SentinelError) as caught:
        Policy.from_data(data)
    assert (caught.value.code, caught.value.at) == (ErrorCode.POLICY_INVALID, "policy")


def test_numbers_are_checked_in_data_too() -> None:
    with pytest.raises(SentinelError) as caught:
        Policy.from_data({**GOOD, "breaker": {"pause_s": -1.0}})
    assert caught.value.at == "policy.breaker.pause_s"


def test_a_policy_is_the_same_after_a_round_through_json() -> None:
    policy = Policy(
        review_share=0.02,
        decline_share=0.001,
        stale=StalePolicy.HOLD,
        breaker=BreakerRules(pause_s=3.5),
        insane=InsaneRules(entity="merchant_id"),
    )
    assert Policy.from_data(json.loads(json.dumps(policy.to_data()))) == policy


def test_shares_cannot_decide_before_they_are_resolved() -> None:
    policy = Policy(review_share=0.02, decline_share=0.001)
    assert not policy.is_resolved
    with pytest.raises(SentinelError) as caught:
        policy.thresholds()
    assert (caught.value.code, caught.value.at) == (ErrorCode.POLICY_INVALID, "policy")


@given(
    scores=st_numpy.arrays(np.float64, st.integers(1, 300), elements=st.floats(0, 1)),
    review=st.floats(0, 1),
    decline=st.floats(0, 1),
)
def test_no_more_than_the_asked_share_lies_above_a_threshold(
    scores: np.ndarray, review: float, decline: float
) -> None:
    policy = Policy(review_share=review, decline_share=decline).resolve(scores, scores**2)
    (review_above, decline_above), (_, fallback_decline) = policy.thresholds()
    assert np.mean(scores > decline_above) <= decline + 1e-12
    assert np.mean(scores > review_above) <= min(1.0, review + decline) + 1e-12
    assert review_above <= decline_above
    assert np.mean(scores**2 > fallback_decline) <= np.mean(scores > decline_above) + 1e-12
    assert policy.is_resolved
    assert policy.decline_share == np.mean(scores > decline_above)


def test_given_scores_stay_when_resolved_and_the_fallback_follows() -> None:
    scores = np.linspace(0, 1, 1_001)
    policy = Policy(review_above=0.8, decline_above=0.95).resolve(scores, scores / 10)
    assert policy.thresholds()[0].tolist() == [0.8, 0.95]
    assert policy.thresholds()[1] == pytest.approx([0.08, 0.095], abs=2e-4)


@pytest.mark.parametrize("scores", [np.array([]), np.array([NAN]), np.array([1.5])])
def test_scores_that_are_no_probabilities_cannot_resolve_a_policy(scores: np.ndarray) -> None:
    with pytest.raises(SentinelError) as caught:
        Policy(**GOOD).resolve(scores, scores)  # type: ignore[arg-type]
    assert caught.value.at == "policy.champion_scores"


def test_resolve_measures_how_declines_come_together() -> None:
    rng = np.random.default_rng(3)
    scores = rng.random(100_000) * 0.5
    independent = Policy(review_share=0.01, decline_share=0.004).resolve(scores, scores)
    assert independent.governor.burst < 3
    for start in range(0, 100_000, 12_500):
        scores[start : start + 50] = 0.9
    together = Policy(review_share=0.01, decline_share=0.004).resolve(scores, scores)
    assert together.governor.burst > 20
