"""Whole workers under every fault at once, decided by a seed: the bits of an undisturbed run."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from sentinel.release import LoadedRelease
from sentinel.testing.simulated_ends import Faults
from sentinel.testing.simulated_world import (
    EventFate,
    Outcome,
    SimulatedWorld,
    SimulationError,
    check,
    simulated_events,
)

N_LOGS = 16
FOUND = {
    2: "outputs that a failed sink had lost were marked as safe when the worker closed",
    10: "after a death, outputs that the state was ahead of were marked as safe",
    24: "a power cut took the end of a log that a later segment follows",
    25: "a segment whose head a power cut had taken was called corrupt",
    485: "all snapshots damaged and nothing in the log: an empty state, silently",
    31: "a refused event behind events that were held left a hole in the positions",
}
"""Seeds that broke a promise, and how; they are tried in every run."""


@pytest.fixture(scope="module")
def undisturbed(simulated_release: LoadedRelease) -> object:
    """Give log and outcome of an undisturbed world; each made once."""

    @functools.cache
    def of(number: int) -> tuple[list[EventFate], Outcome]:
        fates = simulated_events(number)
        return fates, SimulatedWorld(simulated_release, fates, seed=None).run()

    return of


def commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def live(loaded: LoadedRelease, undisturbed, seed: int) -> Outcome:
    """Live through one seed and judge it."""
    fates, expected = undisturbed(seed % N_LOGS)
    try:
        outcome = SimulatedWorld(loaded, fates, seed=seed).run()
        check(seed, outcome, expected, fates)
    except SimulationError as error:
        raise SimulationError(f"{error} (commit {commit()})") from error
    return outcome


@pytest.mark.reliability(
    "B1", "B4", "B8", "B9", "C1", "C4", "C5", "C7", "C8",
    t1=500, t2=10_000, t3=200_000, least=50, simulated=True,
)  # fmt: skip
def test_whatever_befalls_workers_state_and_decisions_are_those_of_an_undisturbed_run(
    simulated_release: LoadedRelease, undisturbed, trials: Iterator[int]
) -> None:
    """Killed, cut off, refused, frozen, full, doubled, late: byte for byte the same in the end."""
    n_deaths = n_errors = n_repeated = n_worlds = 0
    for seed in trials:
        outcome = live(simulated_release, undisturbed, seed)
        n_worlds += 1
        n_deaths += outcome.n_deaths
        n_errors += outcome.n_errors
        n_repeated += outcome.n_repeated
    assert n_deaths > n_worlds, "the faults happen"
    assert n_errors > n_worlds
    assert n_repeated > n_worlds


@pytest.mark.parametrize("seed", FOUND, ids=[f"{seed}-{why[:40]}" for seed, why in FOUND.items()])
def test_a_seed_that_broke_a_promise_once_keeps_it_now(
    simulated_release: LoadedRelease, undisturbed, seed: int
) -> None:
    live(simulated_release, undisturbed, seed)


def test_an_undisturbed_world_gives_every_event_the_fate_that_it_was_made_for(
    undisturbed,
) -> None:
    """The log holds all that it should: repeats, nonsense, late events; nothing comes twice."""
    for number in range(N_LOGS):
        fates, outcome = undisturbed(number)
        check(-1, outcome, outcome, fates)
        ids = [fate.event_id for fate in fates if fate.event_id]
        assert 0 < len(set(ids)) < len(ids)
        assert len(ids) < len(fates)
        assert outcome.n_deaths == outcome.n_errors == outcome.n_repeated == 0


def test_the_same_seed_is_the_same_life(simulated_release: LoadedRelease) -> None:
    fates = simulated_events(5)
    lives = [SimulatedWorld(simulated_release, fates, seed=5).run() for _ in range(2)]
    assert lives[0] == lives[1]
    assert simulated_events(5) == fates
    assert Faults.draw(Random(5)) == Faults.draw(Random(5))


@pytest.mark.parametrize("what", ["a decision", "a refusal", "a state", "a changed decision"])
def test_the_judge_sees_what_is_missing_and_what_is_changed(undisturbed, what: str) -> None:
    fates, good = undisturbed(1)
    decisions, refusals, digests = dict(good.decisions), dict(good.refusals), list(good.digests)
    if what == "a decision":
        decisions.popitem()
    elif what == "a changed decision":
        decisions[next(iter(decisions))] += b" "
    elif what == "a refusal":
        refusals.popitem()
    else:
        digests[1] = "0" * 64
    bad = Outcome(tuple(digests), decisions, refusals, 0, 0, 0, 0)
    with pytest.raises(SimulationError, match="seed 7"):
        check(7, bad, good, fates)
