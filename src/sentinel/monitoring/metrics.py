"""One object that holds every metric of a process, over a registry of its own.

Updates are for batches: one call adds a number, no call is needed per event. What is counted
elsewhere (the decision log, the stages) is read when somebody scrapes. Label values from outside
are bounded: past the bound of a metric they are counted as ``other``.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sentinel.core import limits
from sentinel.core.errors import shorten
from sentinel.hardware.accelerators import AcceleratorProbe
from sentinel.monitoring.decision_log import LogCounts
from sentinel.monitoring.drift import DriftReport
from sentinel.monitoring.latency import BUCKETS_S, LatencyHistogram
from sentinel.monitoring.logs import LineHandler
from sentinel.monitoring.metric_table import METRICS, Kind, Metric
from sentinel.monitoring.stages import StageTimer
from sentinel.monitoring.status import Health

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric as Family

OTHER = "other"

_LabelValues = tuple[str, ...]


class Counter:
    """One series of a counter, found once: an addition is a third of a microsecond.

    Made by :meth:`Metrics.counter`.
    """

    __slots__ = ("_key", "_lock", "_series")

    def __init__(
        self, series: dict[_LabelValues, float], key: _LabelValues, lock: threading.RLock
    ) -> None:
        self._series = series
        self._key = key
        self._lock = lock

    def add(self, n: int) -> None:
        """Count ``n`` more, ``n`` not negative."""
        with self._lock:
            self._series[self._key] = self._series.get(self._key, 0.0) + n


class Durations:
    """One series of a histogram, found once. Made by :meth:`Metrics.durations`."""

    __slots__ = ("_histogram", "_lock")

    def __init__(self, histogram: LatencyHistogram, lock: threading.RLock) -> None:
        self._histogram = histogram
        self._lock = lock

    def observe(self, seconds: float, *, n: int = 1) -> None:
        """Count ``n`` events that took this long each; finite, our own clock's."""
        with self._lock:
            self._histogram.observe(seconds, n=n)


class Metrics:
    """Every metric of one process. Safe to use from several threads.

    Parameters
    ----------
    registry : CollectorRegistry, optional
        A new one by default; never the global one.
    with_process : bool
        Also export memory, processor time, open files and collections of this process.

    Examples
    --------
    >>> metrics = Metrics(with_process=False)
    >>> metrics.add("sentinel_decisions_total", 3, outcome="approve", served_by="champion")
    >>> metrics.value("sentinel_decisions_total", outcome="approve", served_by="champion")
    3.0
    """

    def __init__(
        self, registry: CollectorRegistry | None = None, *, with_process: bool = True
    ) -> None:
        from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector

        self.registry = registry if registry is not None else CollectorRegistry(auto_describe=False)
        self._lock = threading.RLock()
        self._table = {metric.name: metric for metric in METRICS}
        self._values: dict[str, dict[_LabelValues, float]] = {name: {} for name in self._table}
        self._histograms: dict[str, dict[_LabelValues, LatencyHistogram]] = {
            metric.name: {} for metric in METRICS if metric.kind is Kind.HISTOGRAM
        }
        self._before_scrape: list[Callable[[], None]] = []
        for metric in METRICS:
            if metric.kind is Kind.COUNTER and not metric.labels:
                self._values[metric.name][()] = 0.0
        self.registry.register(self)
        if with_process:
            ProcessCollector(registry=self.registry)
            GCCollector(registry=self.registry)

    # --- updates -----------------------------------------------------------------------------

    def add(self, name: str, n: float = 1, **labels: str) -> None:
        """Count ``n`` more, ``n`` not negative."""
        if not 0 <= n < math.inf:
            self._refuse()
            return
        with self._lock:
            series = self._values[name]
            key = self._key(self._of_kind(name, Kind.COUNTER), labels, series)
            series[key] = series.get(key, 0.0) + n

    def counter(self, name: str, **labels: str) -> Counter:
        """Find one series of a counter, for what adds to it with every batch."""
        with self._lock:
            series = self._values[name]
            key = self._key(self._of_kind(name, Kind.COUNTER), labels, series)
            return Counter(series, key, self._lock)

    def durations(self, name: str, **labels: str) -> Durations:
        """Find one series of a histogram, for what adds to it with every batch."""
        with self._lock:
            return Durations(self._histogram(name, labels), self._lock)

    def advance(self, name: str, total: float, **labels: str) -> None:
        """Bring a counter up to a total that is counted elsewhere; it never goes back."""
        if not 0 <= total < math.inf:
            self._refuse()
            return
        with self._lock:
            series = self._values[name]
            key = self._key(self._of_kind(name, Kind.COUNTER), labels, series)
            series[key] = max(series.get(key, 0.0), total)

    def put(self, name: str, value: float | None, **labels: str) -> None:
        """Set a gauge; None takes the series away, because unknown is not zero."""
        if value is not None and not math.isfinite(value):
            self._refuse()
            value = None
        with self._lock:
            series = self._values[name]
            key = self._key(self._of_kind(name, Kind.GAUGE), labels, series)
            if value is None:
                series.pop(key, None)
            else:
                series[key] = float(value)

    def put_state(self, name: str, current: str, states: tuple[str, ...]) -> None:
        """Set a gauge of states: 1 for the current one, 0 for the others."""
        label = self._table[name].labels[0]
        for state in states:
            self.put(name, float(state == current), **{label: state})

    def observe(self, name: str, seconds: float, *, n: int = 1, **labels: str) -> None:
        """Count ``n`` events that took this long each."""
        if not math.isfinite(seconds):
            self._refuse()
            return
        with self._lock:
            self._histogram(name, labels).observe(seconds, n=n)

    def observe_many(self, name: str, seconds: npt.NDArray[np.float64], **labels: str) -> None:
        """Count one event for each duration.

        Parameters
        ----------
        seconds : ndarray of float64, shape (n,)
        """
        is_finite = np.isfinite(seconds)
        if not is_finite.all():
            self._refuse(int((~is_finite).sum()))
            seconds = seconds[is_finite]
        with self._lock:
            self._histogram(name, labels).observe_many(seconds)

    # --- what other parts count --------------------------------------------------------------

    def before_scrape(self, callback: Callable[[], None]) -> None:
        """Call this whenever somebody scrapes, to bring in what is counted elsewhere."""
        self._before_scrape.append(callback)

    def forget(self, callback: Callable[[], None]) -> None:
        """Call this no more when somebody scrapes."""
        if callback in self._before_scrape:
            self._before_scrape.remove(callback)

    def record_drift(self, report: DriftReport) -> None:
        """Take in one closed window."""
        self.put("model_prediction_drift_score", report.prediction_score)
        for name, score in report.feature_scores.items():
            self.put("sentinel_feature_drift_score", score, feature=name)
        self.add("sentinel_drift_windows_total")
        for alarm in report.alarms:
            self.add("sentinel_drift_alarms_total", verdict=alarm.verdict)

    def record_log(self, counts: LogCounts) -> None:
        """Take in the counts of the decision log."""
        self.advance("sentinel_decision_log_decided_total", counts.decided)
        for result in ("written", "spilled", "dropped"):
            total = getattr(counts, result)
            self.advance("sentinel_decision_log_records_total", total, result=result)
        self.advance("sentinel_decision_log_ingested_total", counts.ingested)
        self.advance("sentinel_decision_log_lost_total", counts.lost)
        self.advance("sentinel_decision_log_write_errors_total", counts.n_write_errors)
        self.put("sentinel_decision_log_queue_records", counts.queued)
        self.put("sentinel_decision_log_segments", counts.n_segments)
        self.put("sentinel_decision_log_degraded", float(bool(counts.last_error)))

    def watch_stages(self, timer: StageTimer) -> None:
        """Export the histograms of a stage timer as they stand at each scrape."""
        with self._lock:
            for stage, histogram in timer.histograms.items():
                self._histograms["sentinel_stage_seconds"][(stage,)] = histogram

    def watch_stage(self, stage: str, histogram: LatencyHistogram) -> None:
        """Export the histogram of a stage that is timed outside the scorer."""
        with self._lock:
            self._histograms["sentinel_stage_seconds"][(stage,)] = histogram

    def watch_requests(self, seconds: LatencyHistogram) -> None:
        """Export a histogram of requests as it stands at each scrape."""
        with self._lock:
            self._histograms["sentinel_request_seconds"][()] = seconds

    def watch_lines(self, handler: LineHandler) -> None:
        """Export the counts of the application log as they stand at each scrape."""

        def read() -> None:
            for level, n in list(handler.n_by_level.items()):
                self.advance("sentinel_log_lines_total", n, level=level)
            self.advance("sentinel_log_lines_dropped_total", handler.n_dropped)

        self.before_scrape(read)

    def record_health(self, health: Health) -> None:
        """Take in the state of the process."""
        self.put_state("sentinel_health", health, tuple(Health))

    def record_release(self, release: str, *, digest: str, is_approved: bool) -> None:
        """Say what runs."""
        with self._lock:
            self._values["sentinel_release_info"].clear()
            self.put(
                "sentinel_release_info",
                1.0,
                release=release,
                digest=digest,
                approved=str(is_approved).lower(),
            )

    def record_accelerators(self, probe: AcceleratorProbe) -> None:
        """Take in the readings of the GPUs; a stale or missing one is absent."""
        for gpu in probe.accelerators:
            index = str(gpu.index)
            share, used = gpu.utilization_percent, gpu.memory_used_bytes
            ratio = share.value / 100 if share.value is not None and not share.is_stale else None
            self.put("sentinel_gpu_utilization_ratio", ratio, gpu=index)
            n_bytes = None if used.is_stale else used.value
            self.put("sentinel_gpu_memory_used_bytes", n_bytes, gpu=index)

    # --- reading -----------------------------------------------------------------------------

    def value(self, name: str, **labels: str) -> float | None:
        """Return one series; None where it has no value. KeyError for an unknown metric."""
        wanted = tuple(labels[label] for label in self._table[name].labels)
        with self._lock:
            return self._values[name].get(wanted)

    def quantile(self, name: str, q: float, **labels: str) -> float | None:
        """Return a quantile of a histogram, in seconds; None without events."""
        wanted = tuple(labels[label] for label in self._table[name].labels)
        with self._lock:
            histogram = self._histograms[name].get(wanted)
            return histogram.quantile(q) if histogram is not None else None

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """Return the text of all metrics and its content type.

        Parameters
        ----------
        accept : str
            The ``Accept`` header of the scraper: OpenMetrics where it asks for it.
        """
        from prometheus_client.exposition import choose_encoder

        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def collect(self) -> Iterator[Family]:
        """Give all families to the registry (the interface of a prometheus_client collector)."""
        for callback in list(self._before_scrape):
            callback()
        with self._lock:
            families = [self._family(metric) for metric in METRICS]
        yield from families

    # --- private -----------------------------------------------------------------------------

    def _of_kind(self, name: str, kind: Kind) -> Metric:
        metric = self._table[name]
        if metric.kind is not kind:
            raise TypeError(f"{name} is a {metric.kind}, not a {kind}")
        return metric

    def _refuse(self, n: int = 1) -> None:
        self.add("sentinel_metric_values_refused_total", n)

    def _histogram(self, name: str, labels: dict[str, str]) -> LatencyHistogram:
        series = self._histograms[name]
        key = self._key(self._of_kind(name, Kind.HISTOGRAM), labels, series)
        return series.setdefault(key, LatencyHistogram())

    def _key(
        self,
        metric: Metric,
        labels: dict[str, str],
        series: dict[_LabelValues, float] | dict[_LabelValues, LatencyHistogram],
    ) -> _LabelValues:
        if len(labels) != len(metric.labels):
            raise TypeError(f"{metric.name} has the labels {metric.labels}, not {tuple(labels)}")
        key = tuple(str(labels[label]) for label in metric.labels)
        if key in series or not key:
            return key
        if len(series) >= metric.n_series_max - 1:
            return (OTHER,) * len(key)
        length = limits.METRIC_LABEL_CHARACTERS_MAX
        return tuple(shorten(value, n_characters_max=length) for value in key)

    def _family(self, metric: Metric) -> Family:
        from prometheus_client.metrics_core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        labels = list(metric.labels)
        if metric.kind is Kind.HISTOGRAM:
            histograms = HistogramMetricFamily(metric.name, metric.meaning, labels=labels)
            for key, histogram in self._histograms[metric.name].items():
                pairs = [
                    (f"{bucket:g}", float(n))
                    for bucket, n in zip(BUCKETS_S, histogram.cumulative(), strict=True)
                ]
                histograms.add_metric(key, [*pairs, ("+Inf", histogram.n)], histogram.total_s)
            return histograms
        is_counter = metric.kind is Kind.COUNTER
        kind = CounterMetricFamily if is_counter else GaugeMetricFamily
        family = kind(metric.name, metric.meaning, labels=labels)
        for key, value in self._values[metric.name].items():
            family.add_metric(key, value)
        return family
