"""Every metric of Sentinel, as a table; ``docs/monitoring.md`` has a row for each."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from sentinel.core import limits


class Kind(enum.StrEnum):
    """What Prometheus calls the type."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes
    ----------
    name : str
        As it is exported; counters end in ``_total``, units are base units.
    kind : Kind
    labels : tuple of str
    meaning : str
        Its help text, one sentence.
    n_series_max : int
        Series at most; a label value beyond is counted under ``other``.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    meaning: str
    n_series_max: int = 32


def _counter(name: str, meaning: str, *labels: str, n_series_max: int = 32) -> Metric:
    return Metric(name, Kind.COUNTER, labels, meaning, n_series_max)


def _gauge(name: str, meaning: str, *labels: str, n_series_max: int = 32) -> Metric:
    return Metric(name, Kind.GAUGE, labels, meaning, n_series_max)


def _histogram(name: str, meaning: str, *labels: str, n_series_max: int = 32) -> Metric:
    return Metric(name, Kind.HISTOGRAM, labels, meaning, n_series_max)


METRICS = (
    # events
    _counter("sentinel_events_read_total", "Events taken from a source.", "source",
             n_series_max=limits.METRIC_LABEL_VALUES_MAX),
    _counter("sentinel_events_refused_total", "Events the contract refused, by reason.", "code"),
    _counter("sentinel_events_duplicate_total", "Events decided before, by event id."),
    _counter("sentinel_late_events_total", "Events too late for some window: scored, not applied."),
    _counter("sentinel_feedback_events_total", "Label events by what became of them.", "result"),
    _gauge("sentinel_source_degraded", "1 while a source's refused share is over its limit.",
           "source", n_series_max=limits.METRIC_LABEL_VALUES_MAX),
    _gauge("sentinel_callers_degraded", "Callers whose refused share is over the limit."),
    # decisions
    _counter("sentinel_decisions_total", "Decisions.", "outcome", "served_by"),
    _counter("sentinel_decision_reasons_total", "Decisions by the reason for who served them.",
             "reason"),
    _counter("sentinel_not_finite_total", "Values that were NaN or infinite and went nowhere.",
             "where"),
    _histogram("inference_latency_seconds", "Time from the raw batch to its decisions, an event."),
    _histogram("sentinel_stage_seconds",
               "Time in each stage: of a batch; in parse and queue of a request.", "stage"),
    _gauge("sentinel_breaker_state", "1 for the state the breaker is in.", "state"),
    _counter("sentinel_breaker_transitions_total", "Changes of the breaker's state.", "state"),
    _counter("sentinel_canary_failures_total", "Canary runs that did not give the known answers."),
    # features
    _counter("sentinel_feature_values_total", "Feature values that were not present, by status.",
             "status"),
    _counter("feature_parity_mismatch_total",
             "Served values of a feature that a replay does not give again.", "feature",
             n_series_max=limits.FEATURES_MAX),
    _counter("sentinel_feature_parity_events_total",
             "Replayed events by whether the decision log had them.", "result"),
    _gauge("sentinel_entities", "Entities with state.", "entity"),
    # drift
    _gauge("model_prediction_drift_score",
           "Jensen-Shannon distance of the last window's scores to the reference, 0 to 1."),
    _gauge("sentinel_feature_drift_score",
           "Jensen-Shannon distance of a feature in the last window to the reference, 0 to 1.",
           "feature", n_series_max=limits.FEATURES_MAX),
    _counter("sentinel_drift_windows_total", "Windows held against the reference."),
    _counter("sentinel_drift_alarms_total", "Drift alarms, by who has to act.", "verdict"),
    # decision log
    _counter("sentinel_decision_log_decided_total",
             "Decisions given to the log: written + spilled + dropped + queued + lost."),
    _counter("sentinel_decision_log_records_total", "Decisions by what the log did with them.",
             "result"),
    _counter("sentinel_decision_log_ingested_total", "Spilled decisions since taken in."),
    _counter("sentinel_decision_log_lost_total",
             "Decisions that killed processes held in memory, counted at the next start."),
    _counter("sentinel_decision_log_write_errors_total", "Segments that could not be written."),
    _gauge("sentinel_decision_log_queue_records", "Decisions that wait to be written."),
    _gauge("sentinel_decision_log_segments", "Number of the last segment."),
    _gauge("sentinel_decision_log_degraded", "1 while the log cannot write."),
    # serving
    _histogram("sentinel_request_seconds", "Time from a whole request to its answer."),
    _counter("sentinel_responses_total", "Responses of the HTTP door, by status.", "status"),
    _counter("sentinel_queue_refused_total", "Requests refused at the queue, by error code.",
             "code"),
    _counter("sentinel_batches_total", "Batches of the scoring thread."),
    _counter("sentinel_rows_scored_total", "Rows in those batches."),
    _counter("sentinel_answers_late_total", "Answers that nobody waited for any more."),
    _gauge("sentinel_queue_rows", "Rows that wait to be scored."),
    _gauge("sentinel_fronts", "Front processes that are connected to the scoring process."),
    _counter("sentinel_process_restarts_total", "Processes that ended and were replaced, by why.",
             "part", "reason"),
    _gauge("sentinel_ready", "1 while the canary has just gone right through the door."),
    _counter("sentinel_release_changes_total", "Changes of the release in service.", "kind",
             n_series_max=4),
    _counter("sentinel_explanations_total", "Rows to be explained, by what became of them.",
             "result"),
    _counter("sentinel_explainer_starts_total", "Starts of the explainer's process."),
    _gauge("sentinel_explanation_queue_rows", "Rows that wait to be explained."),
    _counter("sentinel_shadow_rows_total", "Live rows for a challenger, by what became of them.",
             "result", n_series_max=4),
    # stream
    _gauge("sentinel_stream_lag_events", "Events of a partition that were not read yet.",
           "topic", "partition", n_series_max=limits.METRIC_LABEL_VALUES_MAX),
    _gauge("sentinel_stream_paused", "1 while reading waits for outputs to be taken."),
    _gauge("sentinel_stream_aligning",
           "Partitions that wait for others that are behind in event time."),
    _gauge("sentinel_stream_partitions", "Partitions that this worker reads."),
    _counter("sentinel_stream_rebalances_total", "Changes of the assignment.", "change"),
    _counter("sentinel_stream_commits_total", "Commit cycles, by how the broker answered.",
             "result"),
    _counter("sentinel_stream_gap_events_total", "Positions of accepted gaps."),
    _counter("sentinel_stream_hole_positions_total",
             "Positions without an event: marks of transactions, compaction."),
    _counter("sentinel_stream_already_visible_total",
             "Outputs not sent again: a transaction had made them visible."),
    _gauge("sentinel_stream_oldest_event_age_seconds",
           "Age of the oldest event that was not read yet, about; 0 without lag."),
    _histogram("sentinel_stream_commit_seconds", "Time of making outputs safe, and saying so."),
    _counter("sentinel_stream_poison_total", "Events passed because the process died at them."),
    _counter("sentinel_stream_feedback_waits_total",
             "Batches that went on without all feedback that they may know."),
    # process
    _counter("sentinel_log_lines_total", "Application log lines by level.", "level"),
    _counter("sentinel_log_lines_dropped_total", "Log lines dropped because nobody read them."),
    _counter("sentinel_metric_values_refused_total", "Values not finite, kept out of metrics."),
    _gauge("sentinel_health", "1 for the state the process is in.", "state"),
    _gauge("sentinel_release_info", "1; the labels say what runs.", "release", "digest",
           "approved", n_series_max=8),
    _gauge("sentinel_gpu_utilization_ratio", "Share of time the GPU computed, 0 to 1.", "gpu"),
    _gauge("sentinel_gpu_memory_used_bytes", "Memory of the GPU in use.", "gpu"),
)  # fmt: skip

N_SERIES_MAX = sum(metric.n_series_max if metric.labels else 1 for metric in METRICS)
if N_SERIES_MAX > limits.METRIC_SERIES_MAX:
    raise AssertionError("monitoring/metric_table.py: more series than METRIC_SERIES_MAX")
