"""Breaker, sanity, shut-off and governor against chance: many seeds of each promise."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pytest

from sentinel.scoring.breaker import Breaker, Call, State
from sentinel.scoring.decision import Outcome, Reason
from sentinel.scoring.governor import Direction, Governor
from sentinel.scoring.policy import BreakerRules, GovernorRules, InsaneRules, OutputRules
from sentinel.scoring.sanity import InsaneRows, Sanity

Float32Array = npt.NDArray[np.float32]


# --- who shuts the champion off -------------------------------------------------------------------


@pytest.mark.reliability("G3", t1=200, t2=5_000, t3=50_000)
def test_few_entities_never_shut_it_off_and_many_do_within_their_share(
    trials: Iterator[int],
) -> None:
    """However batches are cut: fewer entities than the rule names, at any rate; and one in 100."""
    rules = InsaneRules()
    for seed in trials:
        chance = np.random.default_rng(seed)
        few = InsaneRows(rules)
        n_hostile = int(chance.integers(1, 3))
        for _ in range(30):
            n_rows = int(chance.integers(1, 400))
            bad = np.flatnonzero(chance.random(n_rows) < chance.random())
            owners = chance.integers(0, n_hostile, size=len(bad))
            assert few.observe(n_rows, bad, owners.astype(np.int64)) is None, seed
        many, n_seen = InsaneRows(rules), 0
        while True:
            n_rows = int(chance.integers(1, 400))
            bad = np.flatnonzero(chance.random(n_rows) < 0.01)
            n_seen += n_rows
            if many.observe(n_rows, bad, n_seen * 400 + bad) is not None:
                break
            assert n_seen < 20_000, seed


# --- slow champions -------------------------------------------------------------------------------


@pytest.mark.reliability("G4", t1=200, t2=5_000, t3=50_000)
def test_it_opens_when_it_was_slow_for_its_time_and_not_before(trials: Iterator[int]) -> None:
    """Fast for a while, slow for a while, fast again: it opens exactly when the while is over."""
    rules = BreakerRules()
    for seed in trials:
        chance = random.Random(seed)
        breaker = Breaker(rules, now_s=0.0)
        now = _serve(breaker, 0.0, until_s=chance.uniform(0, 30), latency_s=lambda: 0.05)
        since = now
        length = chance.choice([3.0, 9.0, 9.9, 10.5, 12.0, 30.0])
        now = _serve(
            breaker, now, until_s=now + length, latency_s=lambda c=chance: c.uniform(0.501, 2.0)
        )
        if breaker.state is State.OPEN:
            opened_at = breaker.transitions[-1].at_s
            assert opened_at - since >= rules.slow_for_s - 1e-9, seed
            assert opened_at - since <= rules.slow_for_s + 2.0 + 0.051, seed
        else:
            assert now - since < rules.slow_for_s + 1e-9, seed
            _serve(breaker, now, until_s=now + 20, latency_s=lambda: 0.05)
            assert breaker.state is State.CLOSED


def _serve(
    breaker: Breaker, now: float, *, until_s: float, latency_s: Callable[[], float]
) -> float:
    while now < until_s and breaker.state is State.CLOSED:
        permit = breaker.admit(now)
        ends = now + latency_s()
        if ends > until_s:
            if permit is not None:
                breaker.cancel(permit)
            break
        now = ends
        if permit is not None:
            breaker.finish(permit, now, Call.GOOD)
    return now


@pytest.mark.reliability("G4", t1=50, t2=1_000, t3=10_000)
def test_no_rhythm_of_slow_and_fast_makes_it_flap(trials: Iterator[int]) -> None:
    rules = BreakerRules(window_calls=40, slow_share=0.3)
    for seed in trials:
        chance = random.Random(seed)
        breaker = Breaker(rules, now_s=0.0)
        period, now = chance.uniform(0.3, 5.0), 0.0
        while now < 120.0:
            is_slow = (now % (2 * period)) < period
            permit = breaker.admit(now) or breaker.probe(now)
            now += chance.uniform(0.51, 0.9) if is_slow else chance.uniform(0.01, 0.3)
            if permit is not None:
                breaker.finish(permit, now, Call.GOOD)
        opened = [step.at_s for step in breaker.transitions if step.target is State.OPEN]
        assert all(b - a >= rules.pause_s - 1e-9 for a, b in itertools.pairwise(opened)), seed


# --- outputs --------------------------------------------------------------------------------------

BAD = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, 1.0000001, -1e-7, -3, 3e38], dtype=np.float32)


@pytest.mark.reliability("G6", t1=500, t2=20_000, t3=200_000)
def test_every_bad_output_is_caught_in_its_row_and_no_other_is_touched(
    trials: Iterator[int],
) -> None:
    for seed in trials:
        chance = np.random.default_rng(seed)
        n_rows = int(chance.integers(1, 300))
        values = chance.random((n_rows, 3), dtype=np.float32)
        good = chance.random(n_rows, dtype=np.float32) * np.float32(0.99) + np.float32(0.001)
        outputs = good.copy()
        bad = np.flatnonzero(chance.random(n_rows) < chance.choice([0.0, 0.05, 0.5, 1.0]))
        outputs[bad] = chance.choice(BAD, size=len(bad))

        def run(
            asked: Float32Array, known: Float32Array = outputs, of: Float32Array = values
        ) -> Float32Array:
            places = [np.flatnonzero((of == row).all(axis=1))[0] for row in asked]
            return known[places]

        verdict = Sanity(OutputRules(), run, 1e-4).judge(values, outputs)
        assert np.flatnonzero(verdict.reasons != Reason.OK).tolist() == bad.tolist(), seed
        kept = verdict.reasons == Reason.OK
        assert verdict.scores[kept].tobytes() == good[kept].tobytes()
        assert np.isfinite(verdict.scores).all()
        assert not verdict.is_row_of_another


# --- rates ----------------------------------------------------------------------------------------

EXPECTED = {Outcome.DECLINE: 0.02, Outcome.REVIEW: 0.10}


@pytest.mark.reliability("G10", "G11", t1=50, t2=500, t3=5_000)
def test_traffic_as_expected_pages_nobody_and_a_champion_that_says_one_thing_does(
    trials: Iterator[int],
) -> None:
    """The same, approving all, declining all, twenty times the fraud for a while, then calm."""
    for seed in trials:
        chance = np.random.default_rng(seed)
        for name in ("the same", "approves all", "declines all", "a wave"):
            governor = Governor(GovernorRules(), EXPECTED)
            pages = [page for part in _outcomes(chance, name) for page in governor.observe(part)]
            found = {(page.outcome, page.direction) for page in pages}
            if name == "the same":
                assert not found, seed
            elif name == "approves all":
                assert (Outcome.DECLINE, Direction.TOO_FEW) in found
            else:
                assert (Outcome.DECLINE, Direction.TOO_MANY) in found
            if name == "a wave":
                assert not governor.pages, "the wave is over, and so is the page"


def _outcomes(chance: np.random.Generator, name: str) -> Iterator[npt.NDArray[np.uint8]]:
    for number in range(40):
        n = int(chance.integers(1, 2_000))
        is_wave = name == "a wave" and 5 <= number < 12
        decline = {"approves all": 0.0, "declines all": 1.0}.get(name, 0.4 if is_wave else 0.02)
        review = 0.0 if name in {"approves all", "declines all"} else 0.10
        draw = chance.random(n)
        outcomes = np.full(n, Outcome.APPROVE, dtype=np.uint8)
        outcomes[draw < decline + review] = Outcome.REVIEW
        outcomes[draw < decline] = Outcome.DECLINE
        yield outcomes
