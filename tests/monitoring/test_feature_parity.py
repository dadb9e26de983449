"""Served vectors against a replay: whatever differs is found, counted and named."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from raw_world import EVENTS, FEATURES, PLAN, VERDICTS, batches

from sentinel.contract import EventBatch, RawBatch
from sentinel.contract.decoder import Decoder
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features import Engine, FeatureMatrix, FeatureSet, Mean, compile_plan
from sentinel.monitoring import DecisionLog, LogContext, LogRecords, LogSettings, Metrics
from sentinel.monitoring.feature_parity import LogParity, ParityReport, check_parity
from sentinel.monitoring.log_records import feature_hashes
from sentinel.monitoring.log_segments import segment_paths

DIGEST = "d" * 64


def context(names: tuple[str, ...], digest: str = DIGEST) -> LogContext:
    return LogContext(
        release="payments-1",
        release_digest=digest,
        environment_digest="e" * 64,
        execution_provider="CPUExecutionProvider",
        thresholds={"review_above": 0.5},
        feature_names=names,
        contract_hash=FEATURES.events.schema_hash,
        outcomes=("approve",),
        served_by=("champion",),
        reasons=("ok",),
    )


def records(batch: EventBatch, matrix: FeatureMatrix) -> LogRecords:
    """Make the log's records of decided events."""
    n = batch.n_rows
    at = batch.text_fields.index(FEATURES.events.event_id.name)
    zeros = np.zeros(n, dtype=np.uint8)
    return LogRecords(
        id_content=batch.text_content,
        id_spans=batch.text_spans[at],
        event_time_ms=batch.column(FEATURES.events.event_time.name),
        decided_at_ms=np.full(n, 1_700_000_000_000),
        score=np.full(n, 0.25),
        is_held=np.zeros(n, dtype=np.bool_),
        outcome=zeros,
        served_by=zeros,
        reason=zeros,
        features=matrix.values,
        feature_status=matrix.status,
        feature_hash=feature_hashes(matrix.values),
        source="payments",
        partition=0,
        positions=batch.raw.positions[batch.rows],
    )


def serve(
    folder: Path,
    events: Iterable[RawBatch],
    feedback: Iterable[RawBatch],
    *,
    digest: str = DIGEST,
    nudge: tuple[int, int] | None = None,
    names: tuple[str, ...] = PLAN.names,
) -> None:
    """Decide events and keep a log, three segments of it; nudge one value by one bit, if asked."""
    engine = Engine(PLAN)
    for raw in feedback:
        engine.learn(Decoder(FEATURES.feedback or FEATURES.events).decode(raw).events)
    decoder = Decoder(FEATURES.events)
    with DecisionLog(folder, context(names, digest), LogSettings()) as log:
        for raw in events:
            batch = decoder.decode(raw).events
            matrix = engine.advance(batch)
            if nudge is not None and batch.n_rows > nudge[0]:
                row, column = nudge
                value = matrix.values[row, column]
                matrix.values[row, column] = np.nextafter(value, np.float32(np.inf))
                nudge = None
            log.append(records(batch, matrix))
            log.flush()


def compare(
    folder: Path, events: Iterable[RawBatch], *, features: FeatureSet = FEATURES, **settings: object
) -> ParityReport:
    plan = compile_plan(features)
    parity = LogParity(folder, plan.names, **settings)  # type: ignore[arg-type]
    return check_parity(parity, Engine(plan), events, batches(VERDICTS, 100))


def different(report: ParityReport) -> dict[str, int]:
    return {each.feature: each.n_different for each in report.features if each.n_different}


def test_parity_holds_where_the_log_is_what_the_kernel_gives(tmp_path: Path) -> None:
    """Any batches, a history before the log, non-finite values too."""
    serve(tmp_path, batches(EVENTS, 64), batches(VERDICTS, 100))
    metrics = Metrics()
    report = compare(tmp_path, batches(EVENTS, 33), release_digest=DIGEST, metrics=metrics)
    assert report.holds
    assert (report.n_compared, report.n_different, report.n_not_logged) == (200, 0, 0)
    assert [each.n_compared for each in report.features] == [200] * 4
    for name in PLAN.names:
        assert metrics.value("feature_parity_mismatch_total", feature=name) == 0
    assert metrics.value("sentinel_feature_parity_events_total", result="compared") == 200


def test_a_value_nudged_by_one_bit_is_found_and_named(tmp_path: Path) -> None:
    """One unit in the last place of one feature of one event: no other is blamed."""
    serve(tmp_path, batches(EVENTS, 64), batches(VERDICTS, 100), nudge=(17, 1))
    metrics = Metrics()
    report = compare(tmp_path, batches(EVENTS, 50), metrics=metrics)
    assert not report.holds
    assert different(report) == {"amount": 1}
    first = next(each.first for each in report.features if each.feature == "amount")
    assert first is not None
    assert (first.event_id, first.position) == ("p17", 17)
    assert np.float32(first.served) == np.nextafter(np.float32(first.computed), np.float32(np.inf))
    assert (first.served_status, first.computed_status) == ("present", "present")
    assert metrics.value("feature_parity_mismatch_total", feature="amount") == 1


def test_a_changed_definition_is_found_and_named(tmp_path: Path) -> None:
    """The same name over another window: it alone differs."""
    serve(tmp_path, batches(EVENTS, 64), batches(VERDICTS, 100))
    changed = [
        dataclasses.replace(each, over="1h") if isinstance(each, Mean) and each.name == "amount"
        else each
        for each in FEATURES.features
    ]  # fmt: skip
    report = compare(tmp_path, batches(EVENTS, 64), features=FEATURES.with_features(changed))
    assert set(different(report)) == {"amount"}
    assert different(report)["amount"] > 10
    assert not report.holds


def test_a_dropped_event_is_found_and_named(tmp_path: Path) -> None:
    """Its decision has no event, and later events of its card and merchant differ."""
    serve(tmp_path, batches(EVENTS, 64), batches(VERDICTS, 100))
    report = compare(tmp_path, batches([*EVENTS[:40], *EVENTS[41:]], 64))
    assert (report.n_not_replayed, report.first_not_replayed) == (1, "p40")
    assert different(report)["n"] > 0
    assert not report.holds


def test_an_event_that_was_never_decided_is_no_difference(tmp_path: Path) -> None:
    """History before the log counts as not logged."""
    events = batches(EVENTS, 50)
    serve(tmp_path, events, batches(VERDICTS, 100))
    for _, path in segment_paths(tmp_path)[:2]:
        path.unlink()
    report = compare(tmp_path, batches(EVENTS, 64))
    assert report.holds
    assert (report.n_compared, report.n_not_logged) == (100, 100)


def test_decisions_of_another_release_are_counted_apart(tmp_path: Path) -> None:
    """With a digest they are passed over; without one they are compared by name."""
    serve(tmp_path, batches(EVENTS, 100), batches(VERDICTS, 100), digest="o" * 64)
    report = compare(tmp_path, batches(EVENTS, 64), release_digest=DIGEST)
    assert (report.n_compared, report.n_of_other_releases) == (0, 200)
    assert not report.holds, "nothing was compared"
    assert compare(tmp_path, batches(EVENTS, 64)).holds


def test_features_that_were_not_served_are_passed_over(tmp_path: Path) -> None:
    """Without a digest, a feature of a later release has nothing to be compared with."""
    served = ("n", "amount", "since_before", "fraud_share")
    serve(tmp_path, batches(EVENTS, 100), batches(VERDICTS, 100), names=served)
    report = compare(tmp_path, batches(EVENTS, 64))
    assert report.holds
    assert [each.n_compared for each in report.features] == [200, 200, 0, 200]


def test_vectors_wait_for_their_records_and_no_more_than_allowed(tmp_path: Path) -> None:
    """A log that grows behind the replay: matched when it comes, dropped past the bound."""
    parity = LogParity(tmp_path, PLAN.names, n_waiting_max=150)
    engine, decoder = Engine(PLAN), Decoder(FEATURES.events)
    for raw in batches(VERDICTS, 100):
        engine.learn(Decoder(FEATURES.feedback or FEATURES.events).decode(raw).events)
    for raw in batches(EVENTS, 50):
        events = decoder.decode(raw).events
        parity.take(events.column("payment_id"), engine.advance(events))
    assert parity.report().n_not_logged == 200
    serve(tmp_path, batches(EVENTS, 64), batches(VERDICTS, 100))
    assert parity.read_log() == 200
    assert parity.read_log() == 0
    report = parity.report()
    assert (report.n_compared, report.n_different) == (150, 0)
    assert (report.n_not_replayed, report.n_not_logged) == (50, 50)


def test_a_segment_that_is_none_is_named(tmp_path: Path) -> None:
    """Damage is an error, not a difference."""
    serve(tmp_path, batches(EVENTS, 100), batches(VERDICTS, 100))
    path = segment_paths(tmp_path)[0][1]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SentinelError) as caught:
        compare(tmp_path, batches(EVENTS, 64))
    assert caught.value.code is ErrorCode.DECISION_LOG_DAMAGED
    assert caught.value.at == str(path)
