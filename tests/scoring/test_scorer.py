"""The scorer as a whole: real contract, real features, real ONNX champions, good and bad."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from bad_champions import failing_model, lying_model, reversing_model
from scoring_rig import (
    N_FEATURES,
    POLICY,
    START_MS,
    KeptDecisions,
    KeptRefusals,
    Tree,
    batch,
    make_canary,
    make_parts,
    make_sinks,
    payment,
    payments,
    tree_model,
)

from sentinel.core.clock import SystemClock
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.monitoring.log_records import LogRecords
from sentinel.scoring import (
    BreakerRules,
    DecisionBatch,
    Event,
    Health,
    InsaneRules,
    LinearFallback,
    Outcome,
    Policy,
    Reason,
    ReplayClock,
    Scorer,
    ScorerParts,
    ServedBy,
    Sinks,
    State,
)
from sentinel.scoring.governor import Direction
from sentinel.scoring.guards import Answer
from sentinel.scoring.runners import InlineRunner
from sentinel.scoring.scorer import outcomes
from sentinel.testing import ManualClock


def open_scorer(parts: ScorerParts | None = None, sinks: Sinks | None = None) -> Scorer:
    return Scorer(
        parts if parts is not None else make_parts(),
        sinks if sinks is not None else make_sinks(),
        clock=ReplayClock(),
    )


def served(decisions: DecisionBatch) -> set[int]:
    return set(decisions.served_by[decisions.is_decided].tolist())


def strict_lines(content: bytes) -> list[dict[str, object]]:
    def refuse(name: str) -> object:
        raise ValueError(name)

    return [json.loads(line, parse_constant=refuse) for line in content.splitlines()]


# --- the clean path -------------------------------------------------------------------------------


def test_ordinary_events_are_answered_by_the_champion() -> None:
    scorer = open_scorer()
    decisions = scorer.score(batch(payments(500)))
    assert served(decisions) == {ServedBy.CHAMPION}
    assert set(decisions.reason.tolist()) == {Reason.OK}
    assert set(decisions.outcome.tolist()) > {Outcome.APPROVE}
    assert scorer.status().health is Health.HEALTHY
    lines = strict_lines(scorer.encode(decisions))
    assert [line["event_id"] for line in lines] == [f"p-{i}" for i in range(500)]


def test_everything_read_is_decided_held_quarantined_or_deduplicated() -> None:
    sinks = make_sinks()
    scorer = open_scorer(make_parts(lying_model(math.nan)), sinks)
    events = payments(300)
    events[10] = b"{"
    events[20] = payment(20, amount="12")
    events[30] = events[29]
    events[40] = payment(40, risk=1e300)  # infinite as float32: nobody may answer
    events[50] = payment(50, risk=200.0)  # NaN from the champion
    scorer.score(batch(events))
    scorer.score(batch(events, first_position=300))
    counts = scorer.counts()
    assert counts.is_balanced
    assert (counts.read, counts.quarantined, counts.held) == (600, 4, 1)
    assert counts.deduplicated == 1 + 298
    assert counts.decided == 600 - 4 - 1 - 299
    assert isinstance(sinks.refusals, KeptRefusals)
    assert isinstance(sinks.decisions, KeptDecisions)
    assert [refusal.position for refusal in sinks.refusals.refusals] == [10, 20, 310, 320]
    n_logged = sum(record.n_records for record in sinks.decisions.records)
    assert n_logged == counts.decided + counts.held
    value = sinks.metrics.value
    assert value("sentinel_events_read_total", source="till") == 600
    assert value("sentinel_events_duplicate_total") == 299


@pytest.mark.parametrize("content", [tree_model(), lying_model(math.nan), failing_model()])
def test_decisions_are_the_same_twice(content: bytes) -> None:
    events = trouble(1_500)
    written = []
    for _ in range(2):
        scorer = open_scorer(make_parts(content))
        parts = [scorer.score(batch(events[at : at + 256])) for at in range(0, 1_500, 256)]
        written.append(b"".join(scorer.encode(part) for part in parts))
    assert written[0] == written[1]


@pytest.mark.parametrize("content", [tree_model(), lying_model(math.nan), lying_model(-1.0)])
def test_decisions_do_not_depend_on_how_events_were_batched(content: bytes) -> None:
    """Rows that pass the shut-off rule in mid-batch included: the rule counts rows, not calls."""
    events = trouble(1_500)
    written = set()
    for size in (1, 7, 64, 500, 1_500):
        scorer = open_scorer(make_parts(content))
        parts = [scorer.score(batch(part)) for part in cut(events, size)]
        written.add(b"".join(scorer.encode(part) for part in parts))
    assert len(written) == 1


def trouble(n: int) -> list[bytes]:
    """Write events of which some make bad champions lie, one repeats, one is refused."""
    events = payments(n)
    for i in range(100, n, 97):
        events[i] = payment(i, risk=500.0)
    events[5] = events[4]
    events[6] = b"[]"
    return events


def cut(events: Sequence[bytes], size: int) -> list[list[bytes]]:
    return [list(events[at : at + size]) for at in range(0, len(events), size)]


def test_one_bad_event_leaves_its_neighbours_bit_for_bit_as_they_were() -> None:
    clean = payments(64)
    expected = {line["event_id"]: line for line in score_lines(clean)}
    for place in (0, 1, 31, 63):
        spoiled = [*clean[:place], b'{"payment_id": NaN}', *clean[place:]]
        lines = score_lines(spoiled)
        assert {line["event_id"]: line for line in lines} == expected


def score_lines(events: Sequence[bytes]) -> list[dict[str, object]]:
    scorer = open_scorer()
    return strict_lines(scorer.encode(scorer.score(batch(events))))


def test_late_events_are_decided_and_counted() -> None:
    scorer = open_scorer()
    scorer.score(batch([payment(100_001), payment(200_001)]))
    decisions = scorer.score(batch([payment(1)]))
    assert decisions.is_late.tolist() == [True]
    assert decisions.is_decided.tolist() == [True]
    assert decisions.outcome[0] != Outcome.HELD
    assert scorer.counts().late == 1


@pytest.mark.parametrize("events", [[], [b""], [b"nonsense"] * 50])
def test_a_batch_without_a_good_event_is_only_quarantined(events: list[bytes]) -> None:
    scorer = open_scorer()
    decisions = scorer.score(batch(events))
    assert decisions.n_rows == 0
    assert scorer.encode(decisions) == b""
    assert scorer.counts().quarantined == len(events)
    assert scorer.counts().is_balanced


# --- features that no model may see ---------------------------------------------------------------


def test_a_vector_that_is_not_finite_is_held_and_seen_by_no_model() -> None:
    scorer = open_scorer()
    decisions = scorer.score(batch([payment(1), payment(2, risk=1e200), payment(3)]))
    assert decisions.outcome.tolist()[1] == Outcome.HELD
    assert decisions.reason.tolist() == [Reason.OK, Reason.FEATURE_NOT_FINITE, Reason.OK]
    assert decisions.served_by.tolist()[1] == ServedBy.NONE
    lines = strict_lines(scorer.encode(decisions))
    assert lines[1]["score"] is None
    assert b"nan" not in scorer.encode(decisions).lower()


# --- insane outputs -------------------------------------------------------------------------------

# Negative zero is tried on the check itself: ONNX Runtime's Where makes a positive one of it.
LIES = [math.nan, math.inf, -math.inf, 1e-45, 1.0000001, -1e-7, -3.0, 3e38]


@pytest.mark.parametrize("lie", LIES)
def test_an_insane_row_is_answered_by_the_fallback_and_its_neighbours_by_the_champion(
    lie: float,
) -> None:
    scorer = open_scorer(make_parts(lying_model(lie)))
    decisions = scorer.score(batch([payment(1), payment(2, risk=200.0), payment(3)]))
    assert decisions.served_by.tolist() == [
        ServedBy.CHAMPION,
        ServedBy.FALLBACK,
        ServedBy.CHAMPION,
    ]
    assert decisions.reason[1] in {Reason.OUTPUT_NOT_FINITE, Reason.OUTPUT_OUT_OF_RANGE}
    assert 0.0 <= decisions.score[1] <= 1.0
    assert scorer.status().breaker is State.CLOSED


@pytest.mark.reliability("G3")
def test_one_hostile_entity_does_not_take_the_champion_from_everyone() -> None:
    scorer = open_scorer(make_parts(lying_model(math.nan)))
    for start in range(0, 20_000, 1_000):
        events = payments(1_000, first=start)
        for i in range(0, 1_000, 2):
            events[i] = payment(start + i, card_id="hostile", risk=200.0)
        decisions = scorer.score(batch(events))
        assert set(decisions.served_by[1::2].tolist()) == {ServedBy.CHAMPION}
        assert set(decisions.served_by[::2].tolist()) == {ServedBy.FALLBACK}
    assert scorer.status().breaker is State.CLOSED


@pytest.mark.reliability("G3")
def test_a_hundredth_of_rows_from_many_entities_shuts_the_champion_off_latched() -> None:
    scorer = open_scorer(make_parts(lying_model(math.nan)))
    events = payments(2_000)
    for i in range(0, 2_000, 100):
        events[i] = payment(i, card_id=f"v-{i}", risk=200.0)
    decisions = scorer.score(batch(events))
    last = POLICY.insane.entities * 100 - 100  # the row of the last entity that it took
    assert set(decisions.served_by[last + 1 :].tolist()) == {ServedBy.FALLBACK}
    assert set(decisions.reason[last + 1 :].tolist()) == {Reason.CHAMPION_LATCHED}
    status = scorer.status()
    assert status.breaker is State.LATCHED
    assert "8 entities" in status.breaker_cause
    assert status.health is Health.DEGRADED
    later = scorer.score(batch(payments(100, first=500_000)))
    assert served(later) == {ServedBy.FALLBACK}


def test_a_latched_champion_comes_back_through_a_reset_and_good_probes() -> None:
    scorer = open_scorer()
    scorer.force(Event.FORCE_OPEN, cause="a person looks at it")
    assert served(scorer.score(batch(payments(10)))) == {ServedBy.FALLBACK}
    with pytest.raises(SentinelError) as caught:
        scorer.force(Event.FORCE_CLOSED, cause="impatience")
    assert caught.value.code is ErrorCode.BREAKER_REFUSED
    scorer.force(Event.RESET, cause="it was the network")
    decisions = scorer.score(batch(payments(10, first=100)))
    assert served(decisions) == {ServedBy.CHAMPION}, "probed in the same call, then asked"
    assert scorer.status().health is Health.HEALTHY


@pytest.mark.reliability("G6")
def test_a_champion_that_mixes_its_rows_is_shut_off_and_nothing_of_the_batch_leaves() -> None:
    scorer = open_scorer(make_parts(reversing_model()))
    assert served(scorer.score(batch(payments(20)))) == {ServedBy.CHAMPION}
    decisions = scorer.score(batch(payments(200, first=1_000)))
    assert served(decisions) == {ServedBy.FALLBACK}
    assert set(decisions.reason.tolist()) == {Reason.OUTPUT_NOT_OF_ROW}
    assert scorer.status().breaker is State.LATCHED


# --- the breaker ----------------------------------------------------------------------------------


def test_a_failing_champion_is_bypassed_after_failures_in_a_row_and_probed_later() -> None:
    scorer = open_scorer(make_parts(failing_model()))
    bad = [payment(i, risk=500.0) for i in range(5)]
    for event in bad:
        decisions = scorer.score(batch([event]))
        assert served(decisions) == {ServedBy.FALLBACK}
        assert set(decisions.reason.tolist()) == {Reason.CHAMPION_ERROR}
    assert scorer.status().breaker is State.OPEN
    soon = scorer.score(batch([payment(6)]))
    assert soon.reason.tolist() == [Reason.BREAKER_OPEN]
    later = scorer.score(batch([payment(60)]))
    assert served(later) == {ServedBy.CHAMPION}, "the pause is over, the probes were good"


class SlowClock(ReplayClock):
    """A clock on which everything takes 0.3 s to look at, so every call 0.3 s at least."""

    def monotonic_s(self) -> float:
        self.readings = getattr(self, "readings", 0) + 1
        return 0.3 * self.readings


def test_a_slow_champion_is_bypassed_and_its_slow_answers_are_used_until_then() -> None:
    policy = Policy(
        review_above=0.5,
        decline_above=0.9,
        breaker=BreakerRules(latency_ms_max=100, slow_for_s=5.0, pause_s=1_000.0),
    )
    scorer = Scorer(make_parts(policy=policy), make_sinks(), clock=SlowClock())
    seen = [served(scorer.score(batch([payment(i)]))) for i in range(30)]
    assert seen[0] == {ServedBy.CHAMPION}
    assert seen[-1] == {ServedBy.FALLBACK}
    assert scorer.status().breaker is State.OPEN


def test_a_replay_never_opens_for_slowness() -> None:
    policy = Policy(
        review_above=0.5,
        decline_above=0.9,
        breaker=BreakerRules(latency_ms_max=0.001, slow_for_s=0.001, slow_calls_min=1),
    )
    scorer = open_scorer(make_parts(policy=policy))
    for i in range(20):
        assert served(scorer.score(batch([payment(i)]))) == {ServedBy.CHAMPION}


def test_probes_run_beside_scoring_where_time_is_real() -> None:
    rules = BreakerRules(pause_s=0.02, probe_deadline_s=5.0)
    policy = Policy(review_above=0.5, decline_above=0.9, breaker=rules)
    scorer = Scorer(make_parts(policy=policy), make_sinks(), clock=SystemClock())
    runner = scorer.champion._runner
    assert not isinstance(runner, InlineRunner)
    scorer.force(Event.FORCE_OPEN, cause="test")
    scorer.force(Event.RESET, cause="test")
    scorer.tick()
    runner.wait(wait_s_max=30)  # type: ignore[attr-defined]
    assert scorer.status().breaker is State.CLOSED


# --- the canary -----------------------------------------------------------------------------------


def test_a_champion_that_fails_its_canary_never_answers() -> None:
    other = (Tree(0, 100.0, -2.0, 1.01), *[Tree(0, 1_000.0, -0.5, 1.5)] * 4)
    parts = make_parts(tree_model(other), canary=make_canary(tree_model()))
    scorer = open_scorer(parts)
    status = scorer.status()
    assert status.breaker is State.LATCHED
    assert status.health is Health.DEGRADED
    assert status.breaker_cause.startswith("canary: scores: event ")
    decisions = scorer.score(batch(payments(10)))
    assert set(decisions.reason.tolist()) == {Reason.CHAMPION_LATCHED}


def test_a_reset_cannot_put_a_wrong_champion_back() -> None:
    other = tree_model([Tree(0, 100.0, -2.0, 2.0)])
    scorer = open_scorer(make_parts(other, canary=make_canary(tree_model())))
    scorer.force(Event.RESET, cause="hope")
    scorer.tick()
    assert scorer.status().breaker is State.LATCHED


@pytest.mark.reliability("G11")
def test_a_wave_of_declines_pages_and_the_champion_still_serves() -> None:
    scorer = open_scorer()
    attack = [payment(i, amount=5_000, risk=0.9, card_id=f"a-{i % 5}") for i in range(2_000)]
    decisions = scorer.score(batch(attack))
    assert (decisions.outcome == Outcome.DECLINE).mean() > 0.5
    status = scorer.status()
    pages = {page.outcome: page.direction for page in status.pages}
    assert pages[Outcome.DECLINE] is Direction.TOO_MANY
    n_checks = status.canary.n_checks
    again = scorer.score(batch(payments(100, first=5_000)))
    assert served(again) == {ServedBy.CHAMPION}
    assert scorer.status().canary.n_checks == n_checks + 1, "the canary was asked, and agreed"
    assert scorer.status().breaker is State.CLOSED


def test_the_canary_is_asked_again_while_serving_in_real_time() -> None:
    policy = Policy(review_above=0.5, decline_above=0.9, canary_every_s=0.1)
    clock = ManualClock()
    scorer = Scorer(make_parts(policy=policy), make_sinks(), clock=clock)
    assert scorer.status().canary.n_checks == 1
    clock.advance(0.2)
    scorer.tick()
    scorer.champion._runner.wait(wait_s_max=30)  # type: ignore[attr-defined]
    assert scorer.status().canary.n_checks == 2
    assert scorer.status().health is Health.HEALTHY


# --- when nobody may answer -----------------------------------------------------------------------


@pytest.mark.reliability("G5")
def test_without_champion_and_fallback_the_decision_is_held_with_its_reason() -> None:
    """A fallback that gives nonsense cannot be built; a broken one is put in by force."""
    parts = make_parts()
    broken = parts.fallback
    object.__setattr__(broken, "coefficients", np.full(N_FEATURES, np.nan))
    scorer = open_scorer(parts)
    scorer.force(Event.FORCE_OPEN, cause="test") if scorer.status().breaker is State.CLOSED else 0
    decisions = scorer.score(batch(payments(20)))
    assert set(decisions.outcome.tolist()) == {Outcome.HELD}
    assert set(decisions.reason.tolist()) == {Reason.FALLBACK_FAILED}
    assert all(line["score"] is None for line in strict_lines(scorer.encode(decisions)))
    assert scorer.counts().held == 20
    assert scorer.counts().is_balanced


def test_a_fallback_with_nan_coefficients_is_refused() -> None:
    with pytest.raises(SentinelError) as caught:
        LinearFallback.of(("a",), centre=[0.0], scale=[1.0], coefficients=[math.nan])
    assert caught.value.code is ErrorCode.FALLBACK_INVALID
    assert caught.value.at == "fallback.coefficients"


# --- sources, sinks, parts ------------------------------------------------------------------------


@pytest.mark.reliability("G12")
def test_a_source_that_sends_garbage_is_marked_and_others_are_not() -> None:
    scorer = open_scorer()
    for start in range(0, 1_000, 100):
        scorer.score(batch(payments(100, first=start), source="good"))
        bad = [b"{}"] * 90 + payments(10, first=100_000 + start)
        scorer.score(batch(bad, source="bad"))
    status = scorer.status()
    assert status.degraded_sources == ("bad",)
    assert status.health is Health.DEGRADED
    assert scorer._sinks.metrics.exposition()[0].count(b'source_degraded{source="bad"} 1.0') == 1


class FullQuarantine:
    def put(self, refusals: Sequence[object]) -> None:
        raise SentinelError(
            ErrorCode.FILE_UNWRITABLE, at="quarantine", expected="room", got="no space left"
        )


class FullLog:
    def append(self, records: LogRecords) -> None:
        raise SentinelError(
            ErrorCode.FILE_UNWRITABLE, at="log", expected="room", got="no space left"
        )


def test_a_quarantine_that_cannot_write_leaves_everything_as_it_was() -> None:
    good = make_sinks()
    full = Sinks(refusals=FullQuarantine(), decisions=good.decisions, metrics=good.metrics)
    scorer = open_scorer(sinks=full)
    before = scorer.engine.state_digest()
    for _ in range(2):
        with pytest.raises(SentinelError) as caught:
            scorer.score(batch([payment(1), b"{}"]))
        assert caught.value.at == "quarantine"
    assert scorer.engine.state_digest() == before
    assert scorer.counts().read == 0


def test_a_decision_log_that_cannot_write_closes_the_scorer() -> None:
    good = make_sinks()
    sinks = Sinks(refusals=good.refusals, decisions=FullLog(), metrics=good.metrics)
    scorer = open_scorer(sinks=sinks)
    with pytest.raises(SentinelError) as caught:
        scorer.score(batch([payment(1)]))
    assert caught.value.at == "log"
    with pytest.raises(SentinelError) as caught:
        scorer.score(batch([payment(2)]))
    assert (caught.value.code, caught.value.at) == (ErrorCode.SCORER_CLOSED, "payments-1")
    assert scorer.counts().is_balanced


def test_a_closed_scorer_is_shown_no_more_in_metrics_that_it_shared() -> None:
    """What it counted stays; the next one's gauges are not those of the one that has gone."""
    sinks = make_sinks()
    first = open_scorer(sinks=sinks)
    first.score(batch([payment(0), payment(1)]))
    first.close()
    assert sinks.metrics.value("sentinel_entities", entity="all") == first.engine.n_entities > 0
    second = open_scorer(sinks=sinks)
    unseen = Scorer(make_parts(), sinks, is_in_service=False)
    unseen.close()
    first.close()
    sinks.metrics.exposition()
    assert sinks.metrics.value("sentinel_entities", entity="all") == 0
    assert sinks.metrics.value("sentinel_events_read_total", source="till") == 2
    second.close()


def test_a_closed_scorer_answers_nothing() -> None:
    scorer = open_scorer()
    scorer.close()
    calls: list[Callable[[], object]] = [
        lambda: scorer.decode(batch([])),
        lambda: scorer.score(batch([])),
        lambda: scorer.learn(batch([])),
        scorer.tick,
    ]
    for call in calls:
        with pytest.raises(SentinelError) as caught:
            call()
        assert caught.value.code is ErrorCode.SCORER_CLOSED


def test_feedback_without_a_feedback_contract_is_refused() -> None:
    with pytest.raises(SentinelError) as caught:
        open_scorer().learn(batch([b"{}"]))
    assert (caught.value.code, caught.value.at) == (
        ErrorCode.FEATURE_BATCH_MISMATCH,
        "feedback",
    )


def test_the_log_has_what_reproduces_a_decision() -> None:
    sinks = make_sinks()
    parts = make_parts()
    scorer = open_scorer(parts, sinks)
    decisions = scorer.score(batch(payments(100)))
    assert isinstance(sinks.decisions, KeptDecisions)
    (records,) = sinks.decisions.records
    assert np.array_equal(records.features, decisions.features)
    assert records.positions.tolist() == list(range(100))
    assert records.event_time_ms.tolist() == [START_MS + 1_000 * i for i in range(100)]
    again = scorer.champion._path.champion(records.features).astype(np.float64)
    assert np.array_equal(again, records.score)


def test_parts_of_different_releases_are_refused() -> None:
    parts = make_parts()
    other = LinearFallback.of(("x",), centre=[0.0], scale=[1.0], coefficients=[1.0])
    with pytest.raises(SentinelError) as caught:
        make_parts_with(parts, fallback=other)
    assert (caught.value.code, caught.value.at) == (
        ErrorCode.FALLBACK_INVALID,
        "fallback.features",
    )


def make_parts_with(parts: ScorerParts, *, fallback: LinearFallback) -> ScorerParts:
    return ScorerParts(
        plan=parts.plan,
        champion=parts.champion,
        fallback=fallback,
        policy=parts.policy,
        canary=parts.canary,
        reference=parts.reference,
        release=parts.release,
        release_digest=parts.release_digest,
    )


def test_an_entity_rule_on_an_unknown_field_is_refused() -> None:
    policy = Policy(review_above=0.5, decline_above=0.9, insane=InsaneRules(entity="merchant_id"))
    with pytest.raises(SentinelError) as caught:
        open_scorer(make_parts(policy=policy))
    assert (caught.value.code, caught.value.at) == (
        ErrorCode.POLICY_INVALID,
        "policy.insane.entity",
    )


# --- thresholds -----------------------------------------------------------------------------------


def test_scores_at_a_threshold_belong_to_the_milder_outcome() -> None:
    half = float(np.float32(0.5))
    above = float(np.nextafter(np.float32(0.5), np.float32(1)))
    answer = Answer(
        np.array([half, above, 0.9, 0.95, 0.3, 0.0]),
        np.array([0, 0, 0, 0, 1, 2], np.uint8),
        np.zeros(6, np.uint8),
    )
    thresholds = np.array([[0.5, 0.9], [0.2, 0.4]])
    assert outcomes(answer, thresholds).tolist() == [
        Outcome.APPROVE,
        Outcome.REVIEW,
        Outcome.REVIEW,
        Outcome.DECLINE,
        Outcome.REVIEW,
        Outcome.HELD,
    ]


def test_no_answer_log_or_metric_ever_says_nan_or_infinity() -> None:
    """Everything that leaves is read strictly, whatever the champion and the events did."""
    sinks = make_sinks()
    for lie in LIES:
        scorer = open_scorer(make_parts(lying_model(lie)), sinks)
        events = trouble(600)
        events[77] = payment(77, risk=1e308)
        decisions = scorer.score(batch(events))
        strict_lines(scorer.encode(decisions))
        answered = decisions.outcome != Outcome.HELD
        assert np.isfinite(decisions.score).all()
        assert not decisions.score[~answered].any()
    for line in sinks.metrics.exposition()[0].decode().splitlines():
        if not line.startswith("#"):
            assert math.isfinite(float(line.rsplit(" ", 1)[1])), line
