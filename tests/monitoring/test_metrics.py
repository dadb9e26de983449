"""Metrics hold what they say: bounded, finite, never going back, readable by every parser."""

from __future__ import annotations

import logging
import os
import re
import threading
from pathlib import Path

import numpy as np
import prometheus_client
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse

from sentinel.core import limits
from sentinel.hardware import AcceleratorProbe
from sentinel.hardware.accelerators import parse_query
from sentinel.monitoring import Health, LogCounts, Metrics, StageTimer
from sentinel.monitoring.drift import Cause, DriftAlarm, DriftReport, Verdict
from sentinel.monitoring.logs import LineHandler
from sentinel.monitoring.metric_table import METRICS, N_SERIES_MAX, Kind

PAGE = Path(__file__).parents[2] / "docs" / "monitoring.md"


@pytest.fixture
def metrics() -> Metrics:
    """Return metrics of their own registry."""
    return Metrics(with_process=False)


def _series(metrics: Metrics) -> dict[str, float]:
    text = metrics.exposition()[0].decode()
    return {
        sample.name + str(sorted(sample.labels.items())): sample.value
        for family in parse(text)
        for sample in family.samples
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_a_counter_takes_no_nonsense(metrics: Metrics, value: float) -> None:
    """What is not a count is counted as refused, and changes nothing."""
    metrics.add("sentinel_late_events_total", value)
    metrics.advance("sentinel_late_events_total", value)
    assert metrics.value("sentinel_late_events_total") == 0
    assert metrics.value("sentinel_metric_values_refused_total") == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_gauge_that_is_not_finite_disappears(metrics: Metrics, value: float) -> None:
    """I4: neither the nonsense nor the old value stays."""
    metrics.put("model_prediction_drift_score", 0.1)
    metrics.put("model_prediction_drift_score", value)
    assert metrics.value("model_prediction_drift_score") is None
    assert "model_prediction_drift_score[]" not in _series(metrics)


def test_a_duration_that_is_not_finite_is_not_observed(metrics: Metrics) -> None:
    """One by one, and among others."""
    metrics.observe("inference_latency_seconds", float("nan"))
    metrics.observe_many("inference_latency_seconds", np.array([0.1, np.nan, np.inf]))
    assert _series(metrics)["inference_latency_seconds_count[]"] == 1
    assert metrics.value("sentinel_metric_values_refused_total") == 3


def test_wrong_names_kinds_and_labels_are_defects(metrics: Metrics) -> None:
    """Nothing is exported under a name that the table does not have."""
    with pytest.raises(KeyError, match="sentinel_x"):
        metrics.add("sentinel_x")
    with pytest.raises(TypeError, match="is a gauge"):
        metrics.add("model_prediction_drift_score")
    with pytest.raises(TypeError, match="labels"):
        metrics.add("sentinel_decisions_total", outcome="approve")
    with pytest.raises(KeyError, match="served_by"):
        metrics.add("sentinel_decisions_total", outcome="approve", card="4111")


@pytest.mark.parametrize(
    "bomb",
    [
        lambda i: f"/data/{i}.ndjson",
        lambda i: f"4111 1111 1111 {i:04d}",
        lambda i: "x" * 10_000 + str(i),
        lambda i: f'"}}\n evil{{a="{i}',
        lambda i: f"\ud800{i}",
    ],
)
def test_label_bombs_end_in_other(metrics: Metrics, bomb: object) -> None:
    """J5: 5,000 values of a label are at most 64 series, and every count is in one of them."""
    assert callable(bomb)
    for i in range(5000):
        metrics.add("sentinel_events_read_total", source=bomb(i))
    series = {
        name: value
        for name, value in _series(metrics).items()
        if name.startswith("sentinel_events_read_total")
    }
    assert 1 <= len(series) <= limits.METRIC_LABEL_VALUES_MAX
    assert sum(series.values()) == 5000
    assert max(len(name) for name in series) < 300


def test_all_metrics_together_stay_under_the_bound_of_series() -> None:
    """The table alone decides, whatever comes in."""
    assert N_SERIES_MAX <= limits.METRIC_SERIES_MAX


def test_counters_never_go_back(metrics: Metrics) -> None:
    """A source that was restarted with smaller totals does not pull them down."""
    metrics.advance("sentinel_decision_log_decided_total", 100)
    metrics.advance("sentinel_decision_log_decided_total", 40)
    assert metrics.value("sentinel_decision_log_decided_total") == 100


def test_the_global_registry_stays_empty_of_ours(metrics: Metrics) -> None:
    """Two processes' worth of metrics can live in one test."""
    Metrics()
    metrics.add("sentinel_late_events_total", 2)
    everywhere = prometheus_client.generate_latest().decode()
    assert "sentinel" not in everywhere
    assert "inference_latency" not in everywhere


def test_both_text_formats_are_accepted_by_their_parsers(metrics: Metrics) -> None:
    """Every metric of the table, with a value, in the plain and in the open format."""
    for metric in METRICS:
        labels = dict.fromkeys(metric.labels, 'a "b" \\ c\nd')
        if metric.kind is Kind.COUNTER:
            metrics.add(metric.name, 2, **labels)
        elif metric.kind is Kind.GAUGE:
            metrics.put(metric.name, 0.5, **labels)
        else:
            metrics.observe(metric.name, 0.02, **labels)
    plain, plain_type = metrics.exposition()
    opened, open_type = metrics.exposition("application/openmetrics-text; version=1.0.0")
    names = {metric.name.removesuffix("_total") for metric in METRICS}
    assert {family.name for family in parse(plain.decode())} == names
    assert {family.name for family in parse_open(opened.decode())} == names
    assert plain_type.startswith("text/plain")
    assert open_type.startswith("application/openmetrics-text")
    values = [line.split()[-1] for line in plain.decode().splitlines() if line[0] != "#"]
    assert not [value for value in values if re.search("nan|inf", value, re.IGNORECASE)]


def test_names_follow_the_conventions_of_prometheus() -> None:
    """One prefix besides the two fixed names, base units, ``_total`` on counters alone."""
    fixed = {
        "inference_latency_seconds",
        "model_prediction_drift_score",
        "feature_parity_mismatch_total",
    }
    for metric in METRICS:
        assert metric.name in fixed or metric.name.startswith("sentinel_")
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
        assert not re.search(r"_(ms|us|minutes|kb|mb|percent)(_|$)", metric.name)
        assert (metric.kind is Kind.HISTOGRAM) <= metric.name.endswith("_seconds")
        assert metric.meaning.endswith(".")
        assert not {"le", "quantile", "job", "instance"} & set(metric.labels)
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_every_metric_has_a_row_in_the_documentation() -> None:
    """And the documentation names no other."""
    row = re.compile(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \| ([^|]*) \|$", re.MULTILINE)
    rows = row.findall(PAGE.read_text())
    documented = {name: (kind, labels.strip(), meaning) for name, kind, labels, meaning in rows}
    expected = {
        metric.name: (
            str(metric.kind),
            ", ".join(f"`{label}`" for label in metric.labels),
            metric.meaning,
        )
        for metric in METRICS
    }
    assert documented == expected


def test_scrapes_while_counting_see_whole_numbers(metrics: Metrics) -> None:
    """J5: 300 scrapes beside four threads; no count goes back, none is lost."""
    is_done = threading.Event()
    seen = [0.0]

    def count() -> None:
        for _ in range(2000):
            metrics.add("sentinel_decisions_total", outcome="approve", served_by="champion")
            metrics.observe("inference_latency_seconds", 0.001)

    def scrape() -> None:
        while not is_done.is_set():
            found = _series(metrics)
            seen.append(found["inference_latency_seconds_count[]"]) if found.get(
                "inference_latency_seconds_count[]"
            ) else None

    scraper = threading.Thread(target=scrape)
    scraper.start()
    counters = [threading.Thread(target=count) for _ in range(4)]
    for counter in counters:
        counter.start()
    for counter in counters:
        counter.join()
    is_done.set()
    scraper.join()
    assert seen == sorted(seen)
    assert _series(metrics)["inference_latency_seconds_count[]"] == 8000


def test_a_histogram_is_cumulative_up_to_its_count(metrics: Metrics) -> None:
    """The last bucket is the count, the sum is the time."""
    metrics.observe("inference_latency_seconds", 0.02, n=10)
    metrics.observe("inference_latency_seconds", 60.0)
    series = _series(metrics)
    buckets = {
        name: value for name, value in series.items() if "inference_latency_seconds_bucket" in name
    }
    assert list(buckets.values()) == sorted(buckets.values())
    assert buckets["inference_latency_seconds_bucket[('le', '+Inf')]"] == 11
    assert buckets["inference_latency_seconds_bucket[('le', '0.025')]"] == 10
    assert series["inference_latency_seconds_sum[]"] == pytest.approx(60.2)
    assert metrics.quantile("inference_latency_seconds", 0.5) == pytest.approx(0.02, rel=0.06)
    assert metrics.quantile("sentinel_stage_seconds", 0.5, stage="decode") is None


def test_a_state_is_one_and_the_others_are_zero(metrics: Metrics) -> None:
    """So that an alert can name it."""
    metrics.put_state("sentinel_breaker_state", "open", ("closed", "open", "half-open"))
    values = [
        metrics.value("sentinel_breaker_state", state=state)
        for state in ("closed", "open", "half-open")
    ]
    assert values == [0, 1, 0]


def test_the_counts_of_the_log_are_exported_and_balance(metrics: Metrics) -> None:
    """What was decided is the sum of what became of it."""
    counts = LogCounts(
        decided=21, written=10, spilled=5, dropped=3, queued=2, lost=1, ingested=4, n_segments=7,
        n_write_errors=1, n_incomplete_files=0, last_error="no room",
    )  # fmt: skip
    assert counts.is_balanced
    metrics.before_scrape(lambda: metrics.record_log(counts))
    series = _series(metrics)
    parts = [
        value
        for name, value in series.items()
        if name.startswith("sentinel_decision_log_records_total")
    ]
    queued = series["sentinel_decision_log_queue_records[]"]
    lost = series["sentinel_decision_log_lost_total[]"]
    assert sum(parts) + queued + lost == series["sentinel_decision_log_decided_total[]"]
    assert series["sentinel_decision_log_degraded[]"] == 1


def test_a_drift_window_is_exported(metrics: Metrics) -> None:
    """One score for the predictions, one for each feature, alarms by who has to act."""
    alarm = DriftAlarm("amount", 0.4, 0.0, Verdict.PIPELINE, Cause.UNIT, "")
    metrics.record_drift(DriftReport(1000, 0, 1, 0.2, {"amount": 0.4, "count": 0.0}, (alarm,)))
    assert metrics.value("model_prediction_drift_score") == 0.2
    assert metrics.value("sentinel_feature_drift_score", feature="amount") == 0.4
    assert metrics.value("sentinel_drift_alarms_total", verdict="pipeline") == 1
    assert metrics.value("sentinel_drift_windows_total") == 1


def test_the_stages_of_a_timer_are_exported_as_they_stand(metrics: Metrics) -> None:
    """No copy is made per batch."""
    timer = StageTimer(("decode",))
    metrics.watch_stages(timer)
    timer.start()
    timer.lap("decode")
    timer.lap("decode")
    assert _series(metrics)["sentinel_stage_seconds_count[('stage', 'decode')]"] == 2


def test_the_process_itself_is_exported_when_wanted() -> None:
    """Memory and processor time, for the leak watch."""
    text = Metrics().exposition()[0].decode()
    assert "process_resident_memory_bytes" in text


def test_what_runs_and_how_it_is_are_exported(metrics: Metrics) -> None:
    """One release at a time, one state at a time."""
    metrics.record_health(Health.DEGRADED)
    metrics.record_release("cards 1", digest="a" * 64, is_approved=True)
    metrics.record_release("cards 2", digest="b" * 64, is_approved=False)
    series = _series(metrics)
    assert series["sentinel_health[('state', 'DEGRADED')]"] == 1
    assert series["sentinel_health[('state', 'HEALTHY')]"] == 0
    infos = [name for name in series if name.startswith("sentinel_release_info")]
    assert len(infos) == 1
    assert "('approved', 'false')" in infos[0]
    assert "('release', 'cards 2')" in infos[0]


def test_a_stale_gpu_reading_leaves_the_metrics(metrics: Metrics) -> None:
    """A number that is old would be read as one that is new."""
    text = "0, H200, 570.1, 37, 100, 143771, 41, 213\n1, H200, 570.1, [N/A], 0, 143771, 41, 213\n"
    probe = AcceleratorProbe(parse_query(text))
    metrics.record_accelerators(probe)
    assert metrics.value("sentinel_gpu_utilization_ratio", gpu="0") == 0.37
    assert metrics.value("sentinel_gpu_utilization_ratio", gpu="1") is None
    assert metrics.value("sentinel_gpu_memory_used_bytes", gpu="1") == 0
    metrics.record_accelerators(AcceleratorProbe(tuple(g.aged() for g in probe.accelerators)))
    assert metrics.value("sentinel_gpu_utilization_ratio", gpu="0") is None
    assert metrics.value("sentinel_gpu_memory_used_bytes", gpu="0") is None


def test_log_lines_and_those_that_nobody_read_are_counted(metrics: Metrics) -> None:
    """Read at the scrape, so that logging itself pays nothing."""
    reader, writer = os.pipe()
    os.close(reader)
    handler = LineHandler(writer)
    metrics.watch_lines(handler)
    for level in (logging.INFO, logging.INFO, logging.ERROR):
        handler.emit(logging.LogRecord("sentinel", level, "", 1, "x", (), None))
    handler.close()
    os.close(writer)
    series = _series(metrics)
    assert series["sentinel_log_lines_total[('level', 'info')]"] == 2
    assert series["sentinel_log_lines_total[('level', 'error')]"] == 1
    assert series["sentinel_log_lines_dropped_total[]"] == 3
