"""Rates are watched both ways, and chance is not taken for a fault."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from sentinel.scoring.decision import Outcome
from sentinel.scoring.governor import Direction, Governor, chance_bound
from sentinel.scoring.policy import GovernorRules

EXPECTED = {Outcome.DECLINE: 0.01, Outcome.REVIEW: 0.05}


def decisions(n: int, *, decline: float, review: float = 0.05, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed).random(n)
    outcome = np.full(n, Outcome.APPROVE, dtype=np.uint8)
    outcome[draw < decline + review] = Outcome.REVIEW
    outcome[draw < decline] = Outcome.DECLINE
    return outcome


def run(governor: Governor, outcomes: np.ndarray, size: int = 250) -> list[object]:
    pages: list[object] = []
    for at in range(0, len(outcomes), size):
        pages += governor.observe(outcomes[at : at + size])
    return pages


def test_ordinary_traffic_never_pages_in_a_million_decisions() -> None:
    governor = Governor(GovernorRules(), EXPECTED)
    assert run(governor, decisions(1_000_000, decline=0.01), 500) == []


@pytest.mark.parametrize(
    ("decline", "direction"), [(0.2, Direction.TOO_MANY), (0.0, Direction.TOO_FEW)]
)
def test_far_too_many_declines_and_suddenly_none_both_page(
    decline: float, direction: Direction
) -> None:
    governor = Governor(GovernorRules(), EXPECTED)
    run(governor, decisions(10_000, decline=0.01))
    pages = run(governor, decisions(10_000, decline=decline, seed=1))
    assert [(p.outcome, p.direction) for p in pages] == [(Outcome.DECLINE, direction)]  # type: ignore[attr-defined]


def test_a_flood_of_declines_pages_within_a_few_hundred_decisions() -> None:
    governor = Governor(GovernorRules(), EXPECTED)
    assert governor.observe(decisions(300, decline=0.5))


def test_declining_everything_and_approving_everything_page() -> None:
    for outcome in (Outcome.DECLINE, Outcome.APPROVE):
        governor = Governor(GovernorRules(), EXPECTED)
        assert run(governor, np.full(20_000, outcome, dtype=np.uint8))


def test_a_rare_outcome_has_a_window_long_enough_to_miss_it() -> None:
    governor = Governor(GovernorRules(), {Outcome.DECLINE: 0.0005})
    none = np.full(100_000, Outcome.APPROVE, dtype=np.uint8)
    (page,) = run(governor, none)
    assert page.direction is Direction.TOO_FEW  # type: ignore[attr-defined]


def test_many_held_decisions_page_and_few_do_not() -> None:
    governor = Governor(GovernorRules(), EXPECTED)
    held = decisions(5_000, decline=0.01)
    held[::400] = Outcome.HELD
    assert run(governor, held) == []
    held[::10] = Outcome.HELD
    assert any(p.outcome is Outcome.HELD for p in run(governor, held))  # type: ignore[attr-defined]


def test_a_page_ends_with_a_calm_window() -> None:
    governor = Governor(GovernorRules(), EXPECTED)
    run(governor, decisions(5_000, decline=0.3))
    assert governor.pages
    run(governor, decisions(20_000, decline=0.01, seed=3))
    assert governor.pages == ()


def test_an_outcome_that_nobody_expects_is_not_watched() -> None:
    governor = Governor(GovernorRules(), {Outcome.DECLINE: 0.0})
    assert run(governor, np.full(10_000, Outcome.DECLINE, dtype=np.uint8)) == []


@pytest.mark.parametrize(("n", "p"), [(500, 0.01), (2_000, 0.05), (300, 0.5)])
def test_the_bound_is_never_below_what_chance_does(n: int, p: float) -> None:
    counts = np.random.default_rng(n).binomial(n, p, size=200_000)
    for k in range(0, n + 1, max(1, n // 50)):
        tail = np.mean(counts >= k) if k > n * p else np.mean(counts <= k)
        assert chance_bound(n, k / n, p) >= tail - 0.01


def bursty(n: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Declines as fraud brings them: 0.4 % of decisions, some fifteen at a time."""
    outcomes = np.zeros(n, dtype=np.uint8)
    for start in rng.integers(0, n - 15, size=n * 4 // (15 * 1_000)):
        outcomes[start : start + 15] = Outcome.DECLINE
    return outcomes


def test_bursts_of_fraud_page_nobody_once_their_size_is_known() -> None:
    rng = np.random.default_rng(5)
    n_pages = {1.0: 0, 15.0: 0}
    for burst in n_pages:
        for _ in range(20):
            governor = Governor(GovernorRules(burst=burst), {Outcome.DECLINE: 0.004})
            for part in np.array_split(bursty(100_000, rng), 50):
                n_pages[burst] += len(governor.observe(part))
    assert n_pages[15.0] == 0
    assert n_pages[1.0] > 0, "the control: taken as independent, the same bursts page"


def test_no_decline_at_all_pages_however_bursty_they_were() -> None:
    governor = Governor(GovernorRules(burst=15.0), {Outcome.DECLINE: 0.004})
    n_decisions = 0
    while not governor.observe(np.zeros(1_000, dtype=np.uint8)):
        n_decisions += 1_000
        assert n_decisions < 100_000
    (page,) = governor.pages
    assert page.direction.value == "too few"


@pytest.mark.parametrize("size", [1, 64, 977, 4096])
def test_the_same_outcomes_page_the_same_however_they_are_cut(size: int) -> None:
    """What is judged, and when, is a matter of decisions and never of batches."""
    flood = decisions(700, decline=0.9, seed=7)
    calm = decisions(9_277, decline=0.01, seed=8)
    outcomes = np.concatenate([calm, flood, calm, calm[:1_250]])
    whole, cut = Governor(GovernorRules(), EXPECTED), Governor(GovernorRules(), EXPECTED)
    expected = run(whole, outcomes, 100)
    assert expected, "the control: the flood pages"
    assert run(cut, outcomes, size) == expected
    assert cut.pages == whole.pages
