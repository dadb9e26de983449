"""The breaker against a second one written from its documentation, and against its promises."""

from __future__ import annotations

import contextlib
import copy
import itertools
import random
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
from breaker_model import NaiveBreaker
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.scoring.breaker import TABLE, Breaker, Call, Event, Permit, State, diagram
from sentinel.scoring.policy import BreakerRules

SMALL = BreakerRules(
    latency_ms_max=500,
    slow_for_s=2.0,
    slow_calls_min=2,
    failures_in_a_row=3,
    failed_share=0.5,
    slow_share=0.5,
    window_calls=4,
    pause_s=2.0,
    probe_deadline_s=1.5,
    closes_after=2,
)
PEOPLE = {"open": Event.FORCE_OPEN, "close": Event.FORCE_CLOSED, "reset": Event.RESET}


class Pair:
    """The breaker and the model, driven together."""

    def __init__(self, rules: BreakerRules = SMALL) -> None:
        self.breaker = Breaker(rules, now_s=0.0)
        self.model = NaiveBreaker(rules)
        self.now = 0.0
        self.permits: list[Permit] = []

    def wait(self, seconds: float) -> None:
        """Let time pass unnoticed; negative seconds are a clock that steps back."""
        self.now += seconds

    def n_steps(self) -> int:
        return sum(self.breaker.n_entered.values())

    def ask(self, *, is_probe: bool) -> None:
        permit = (self.breaker.probe if is_probe else self.breaker.admit)(self.now)
        number = permit.number if permit is not None else -1
        given = (self.model.probe if is_probe else self.model.admit)(number, self.now)
        assert (permit is not None) == given
        if permit is not None:
            self.permits.append(permit)

    def finish(self, index: int, *, failed: bool) -> None:
        permit = self.permits[index % len(self.permits)]
        before = self.n_steps()
        call = Call.FAILED if failed else Call.GOOD
        transition = self.breaker.finish(permit, self.now, call)
        self.model.finish(permit.number, self.now, failed=failed)
        taken = self.n_steps() - before
        assert taken <= 2  # time may take one step, and the call one
        assert (transition is not None) == (taken > 0)

    def cancel(self, index: int) -> None:
        permit = self.permits[index % len(self.permits)]
        self.breaker.cancel(permit)
        self.model.flying.pop(permit.number, None)

    def tick(self) -> None:
        self.breaker.tick(self.now)
        self.model.time(self.now)

    def trip(self) -> None:
        self.breaker.trip(self.now, cause="canary")
        self.model.trip(self.now)

    def force(self, what: str) -> None:
        try:
            self.breaker.force(PEOPLE[what], self.now, cause="test")
            was_done = True
        except SentinelError as error:
            was_done = error.code is not ErrorCode.BREAKER_REFUSED
        assert was_done == self.model.force(what, self.now)

    def agree(self) -> None:
        assert self.breaker.state == self.model.state
        assert self.n_steps() == self.model.n_steps
        flying = {number for number in self.model.flying if number >= 0}
        assert set(self.breaker._outstanding) == flying


class BreakerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.4, 0.6, 1.0, 1.5, 2.0, 5.0, -3.0, 3600.0]))
    def wait(self, seconds: float) -> None:
        self.pair.wait(seconds)

    @rule(is_probe=st.booleans())
    def ask(self, is_probe: bool) -> None:
        self.pair.ask(is_probe=is_probe)

    @precondition(lambda self: self.pair.permits)
    @rule(index=st.integers(0, 200), failed=st.booleans())
    def finish(self, index: int, failed: bool) -> None:
        self.pair.finish(index, failed=failed)

    @precondition(lambda self: self.pair.permits)
    @rule(index=st.integers(0, 200))
    def cancel(self, index: int) -> None:
        self.pair.cancel(index)

    @rule()
    def tick(self) -> None:
        self.pair.tick()

    @rule()
    def trip(self) -> None:
        self.pair.trip()

    @rule(what=st.sampled_from(sorted(PEOPLE)))
    def force(self, what: str) -> None:
        self.pair.force(what)

    @invariant()
    def agrees(self) -> None:
        self.pair.agree()


BreakerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
TestBreakerAgainstItsModel = BreakerMachine.TestCase


@pytest.mark.reliability("G1", t1=500, t2=20_000, t3=500_000)
def test_breaker_and_model_agree_over_random_lives_of_50_steps(trials: Iterator[int]) -> None:
    for seed in trials:
        chance = random.Random(seed)
        pair = Pair()
        for _ in range(50):
            step = chance.random()
            if step < 0.3:
                pair.wait(chance.choice([0.05, 0.3, 0.6, 1.0, 2.0, -1.0, 30.0]))
            elif step < 0.55:
                pair.ask(is_probe=chance.random() < 0.4)
            elif step < 0.88 and pair.permits:
                # Mostly the newest call: old permits come back too, and must change nothing.
                is_new = chance.random() < 0.8
                pair.finish(-1 if is_new else chance.randrange(99), failed=chance.random() < 0.4)
            elif step < 0.9 and pair.permits:
                pair.cancel(chance.randrange(99))
            elif step < 0.97:
                pair.tick()
            elif step < 0.98:
                pair.trip()
            else:
                pair.force(chance.choice(sorted(PEOPLE)))
            pair.agree()


def serve(breaker: Breaker, now: float, latency_s: float) -> float:
    """Make one call; return when it ended."""
    permit = breaker.admit(now)
    if permit is not None:
        breaker.finish(permit, now + latency_s, Call.GOOD)
    return now + latency_s


def slow_until(breaker: Breaker, end_s: float) -> float:
    now = 0.0
    while now + 0.501 <= end_s + 1e-9 and breaker.state is State.CLOSED:
        now = serve(breaker, now, 0.501)
    return now


@pytest.mark.reliability("G4")
def test_calls_slow_for_ten_seconds_open_it_at_the_end_of_the_call_that_passes_them() -> None:
    breaker = Breaker(BreakerRules(), now_s=0.0)
    now = slow_until(breaker, 60.0)
    assert breaker.state is State.OPEN
    assert 10.0 <= now <= 10.0 + 0.501
    assert breaker.transitions[-1].event is Event.SLOW_TOO_LONG


@pytest.mark.reliability("G4")
def test_calls_slow_for_nine_point_nine_seconds_and_then_fast_leave_it_closed() -> None:
    breaker = Breaker(BreakerRules(), now_s=0.0)
    now = slow_until(breaker, 9.9)
    for _ in range(30):
        now = serve(breaker, now, 0.1)
    assert breaker.state is State.CLOSED


def test_calls_at_the_limit_are_not_slow() -> None:
    breaker = Breaker(BreakerRules(latency_ms_max=512.0), now_s=0.0)
    now = 0.0
    for _ in range(100):
        now = serve(breaker, now, 0.5)
    assert breaker.state is State.CLOSED


@pytest.mark.reliability("G4")
def test_a_champion_that_flaps_each_second_never_makes_the_breaker_flap() -> None:
    rules = BreakerRules(window_calls=40, slow_share=0.3)
    breaker = Breaker(rules, now_s=0.0)
    now = 0.0
    while now < 300.0:
        is_slow_second = int(now) % 2 == 0
        permit = breaker.admit(now) or breaker.probe(now)
        now += 0.6 if is_slow_second else 0.3
        if permit is not None:
            breaker.finish(permit, now, Call.GOOD)
    opened = [t.at_s for t in breaker.transitions if t.target is State.OPEN]
    assert opened, "more than a third of the calls were slow"
    gaps = [b - a for a, b in itertools.pairwise(opened)]
    assert all(gap >= rules.pause_s for gap in gaps)


def test_single_slow_calls_far_apart_are_no_run() -> None:
    breaker = Breaker(BreakerRules(slow_calls_min=2), now_s=0.0)
    for minute in range(20):
        serve(breaker, minute * 60.0, 0.9)
    assert breaker.state is State.CLOSED


@pytest.mark.reliability("G4")
def test_a_call_that_never_comes_back_opens_it_without_another_call() -> None:
    breaker = Breaker(BreakerRules(), now_s=0.0)
    assert breaker.admit(0.0) is not None
    assert breaker.tick(9.9) is None
    transition = breaker.tick(10.0)
    assert transition is not None
    assert transition.target is State.OPEN


def test_a_call_that_comes_back_after_the_breaker_opened_changes_nothing() -> None:
    breaker = Breaker(BreakerRules(failures_in_a_row=1), now_s=0.0)
    late, bad = breaker.admit(0.0), breaker.admit(0.0)
    assert late is not None
    assert bad is not None
    breaker.finish(bad, 0.1, Call.FAILED)
    assert breaker.finish(late, 0.2, Call.GOOD) is None
    assert breaker.state is State.OPEN


def half_open() -> Breaker:
    breaker = Breaker(BreakerRules(failures_in_a_row=1), now_s=0.0)
    permit = breaker.admit(0.0)
    assert permit is not None
    breaker.finish(permit, 0.0, Call.FAILED)
    breaker.tick(10.0)
    assert breaker.state is State.HALF_OPEN
    return breaker


def test_half_open_admits_no_live_call_and_one_probe_at_a_time() -> None:
    breaker = half_open()
    assert breaker.admit(10.0) is None
    first = breaker.probe(10.0)
    assert first is not None
    assert breaker.probe(10.0) is None
    breaker.finish(first, 10.1, Call.GOOD)
    assert breaker.probe(10.2) is not None


def test_a_slow_probe_is_a_bad_one() -> None:
    breaker = half_open()
    probe = breaker.probe(10.0)
    assert probe is not None
    breaker.finish(probe, 10.6, Call.GOOD)
    assert breaker.state is State.OPEN


def test_a_probe_that_never_comes_back_ends_half_open_at_its_deadline() -> None:
    breaker = half_open()
    assert breaker.probe(10.0) is not None
    assert breaker.tick(14.9) is None
    breaker.tick(15.0)
    assert breaker.state is State.OPEN


def test_enough_good_probes_close_it() -> None:
    breaker = half_open()
    for i in range(3):
        probe = breaker.probe(10.0 + i)
        assert probe is not None
        breaker.finish(probe, 10.1 + i, Call.GOOD)
    assert breaker.state is State.CLOSED
    assert breaker.cause == ""


def test_latched_stays_latched_for_a_year_and_is_probed_after_a_reset() -> None:
    breaker = Breaker(BreakerRules(), now_s=0.0)
    breaker.trip(1.0, cause="canary: scores: event 3")
    year_s = 365 * 86_400.0
    assert breaker.tick(year_s) is None
    assert (breaker.state, breaker.cause) == (State.LATCHED, "canary: scores: event 3")
    assert breaker.admit(year_s) is None
    assert breaker.probe(year_s) is None
    breaker.force(Event.RESET, year_s, cause="looked at it")
    assert breaker.state is State.HALF_OPEN
    assert breaker.admit(year_s) is None


@pytest.mark.parametrize(
    ("event", "state"),
    [(Event.FORCE_CLOSED, State.LATCHED), (Event.RESET, State.CLOSED), (Event.TRIP, State.CLOSED)],
)
def test_a_step_that_the_table_lacks_is_refused_by_name(event: Event, state: State) -> None:
    breaker = Breaker(BreakerRules(), now_s=0.0)
    if state is State.LATCHED:
        breaker.trip(0.0, cause="test")
    with pytest.raises(SentinelError) as caught:
        breaker.force(event, 0.0, cause="test")
    assert caught.value.code is ErrorCode.BREAKER_REFUSED
    assert caught.value.at == f"breaker ({state})"


def test_calls_in_the_air_are_bounded_and_the_rest_go_round_the_champion() -> None:
    breaker = Breaker(BreakerRules(), now_s=0.0)
    permits = [breaker.admit(0.0) for _ in range(limits.BREAKER_CALLS_MAX + 5)]
    assert permits[limits.BREAKER_CALLS_MAX - 1] is not None
    assert permits[limits.BREAKER_CALLS_MAX :] == [None] * 5


@pytest.mark.reliability("G1")
@pytest.mark.parametrize("n_threads", [1, 4, 16])
def test_threads_leak_no_permit_and_every_step_follows_the_table(n_threads: int) -> None:
    breaker = Breaker(SMALL, now_s=0.0)
    ticks = iter(range(10**9))

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(300):
            now = next(ticks) / 200
            permit = breaker.admit(now) or breaker.probe(now)
            if chance.random() < 0.01:
                breaker.trip(now, cause="test")
            if breaker.state is State.LATCHED and chance.random() < 0.2:
                with contextlib.suppress(SentinelError):  # another was faster
                    breaker.force(Event.RESET, now, cause="test")
            if permit is not None and chance.random() < 0.1:
                breaker.cancel(permit)
            elif permit is not None:
                call = Call.FAILED if chance.random() < 0.3 else Call.GOOD
                breaker.finish(permit, next(ticks) / 200, call)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not breaker._outstanding
    steps = breaker.transitions
    assert steps
    for one, two in itertools.pairwise(steps):
        assert one.target is two.source
    assert all(TABLE[step.source][step.event] is step.target for step in steps)


# --- liveness: an exhaustive search of the reduced graph ------------------------------------------

TINY = BreakerRules(
    latency_ms_max=500,
    slow_for_s=2.0,
    slow_calls_min=2,
    failures_in_a_row=3,
    failed_share=0.6,
    slow_share=0.6,
    window_calls=3,
    pause_s=2.0,
    probe_deadline_s=2.0,
    closes_after=3,
)


def clone(breaker: Breaker) -> Breaker:
    other = Breaker(breaker.rules, now_s=0.0)
    for name, value in vars(breaker).items():
        if name not in {"_lock", "rules"}:
            setattr(other, name, copy.copy(value))
    return other


def reduced(breaker: Breaker) -> tuple[object, ...]:
    """Say all that matters for the future, ages capped at 3 s."""
    now = breaker._now_s

    def age(at: float | None) -> float | None:
        return None if at is None else min(round(now - at, 1), 3.0)

    return (
        breaker.state,
        age(breaker._since_s),
        tuple(sorted(age(p.started_at_s) or 0.0 for p in breaker._outstanding.values())),
        tuple((age(at), failed, slow) for at, failed, slow in breaker._recent),
        age(breaker._slow_since_s),
        age(breaker._last_slow_s),
        age(breaker._last_fast_s),
        min(breaker._n_slow, 3),
        min(breaker._n_failed_in_a_row, 3),
        min(breaker._n_good, 3),
    )


def steps_from(breaker: Breaker) -> list[Breaker]:
    """Take every step that a caller, the champion, time or a person can take."""
    found = []

    def after(act: object) -> None:
        other = clone(breaker)
        act(other)  # type: ignore[operator]
        found.append(other)

    now = breaker._now_s
    after(lambda b: b.tick(now + 1.0))
    if len(breaker._outstanding) < 1:
        after(lambda b: b.admit(now) or b.probe(now))
    for permit in breaker._outstanding.values():
        after(lambda b, p=permit: b.finish(p, now, Call.GOOD))
        after(lambda b, p=permit: b.finish(p, now, Call.FAILED))
    after(lambda b: b.trip(now, cause="test"))
    for event in PEOPLE.values():
        if event in TABLE[breaker.state]:
            after(lambda b, e=event: b.force(e, now, cause="test"))
    return found


def heal(breaker: Breaker, *, with_traffic: bool) -> State:
    """Let a healthy champion serve for (pause + probe deadline), then say where it stands."""
    now = breaker._now_s
    for permit in list(breaker._outstanding.values()):
        breaker.finish(permit, now, Call.GOOD)
    end = now + TINY.pause_s + TINY.probe_deadline_s
    while now < end:
        now += 0.1
        while (probe := breaker.probe(now)) is not None:
            breaker.finish(probe, now + 0.01, Call.GOOD)
        permit = breaker.admit(now) if with_traffic else None
        if permit is not None:
            breaker.finish(permit, now + 0.01, Call.GOOD)
    return breaker.state


@pytest.mark.reliability("G2")
def test_from_every_reachable_state_a_healthy_champion_closes_it_with_or_without_traffic() -> None:
    start = Breaker(TINY, now_s=0.0)
    seen = {reduced(start): start}
    queue = deque([start])
    while queue:
        for other in steps_from(queue.popleft()):
            key = reduced(other)
            if key not in seen:
                seen[key] = other
                queue.append(other)
    assert {breaker.state for breaker in seen.values()} == set(State)
    assert len(seen) > 500, "the search went nowhere"
    for breaker in seen.values():
        for with_traffic in (True, False):
            other = clone(breaker)
            if other.state is State.LATCHED:
                other.force(Event.RESET, other._now_s, cause="test")
            assert heal(other, with_traffic=with_traffic) is State.CLOSED, reduced(breaker)


@pytest.mark.reliability("G2")
def test_every_state_has_a_row_and_can_be_left() -> None:
    assert set(TABLE) == set(State)
    for state, row in TABLE.items():
        assert any(target is not state for target in row.values()), f"{state} is a dead end"


def test_the_diagram_in_the_documentation_is_the_table() -> None:
    text = (Path(__file__).parents[2] / "docs" / "scoring.md").read_text()
    assert f"```mermaid\n{diagram()}\n```" in text
