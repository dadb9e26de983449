"""What a scorer tells the metrics: a few additions a batch, gauges when somebody looks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from sentinel.contract.decoder import Decoded
from sentinel.monitoring.metrics import Counter as Series
from sentinel.monitoring.metrics import Metrics
from sentinel.monitoring.stages import StageTimer
from sentinel.scoring.breaker import State
from sentinel.scoring.decision import DecisionBatch, Outcome, Reason, ServedBy, code_names
from sentinel.scoring.status import ScorerStatus
from sentinel.scoring.tally import Tally

_OUTCOMES = code_names(Outcome)
_SERVED_BY = code_names(ServedBy)
_REASONS = code_names(Reason)
_STATES = tuple(str(state) for state in State)
_CANARY = "canary"
_NOT_FINITE = (
    ("feature", int(Reason.FEATURE_NOT_FINITE)),
    ("output", int(Reason.OUTPUT_NOT_FINITE)),
)


class Measures:
    """Count the batches of one scorer.

    Parameters
    ----------
    metrics : Metrics
    timer : StageTimer
        Its histograms are exported; what it counted since the last batch is the batch's time.
    status : callable
        Asked at each scrape.
    """

    def __init__(
        self, metrics: Metrics, timer: StageTimer, status: Callable[[], ScorerStatus]
    ) -> None:
        self._metrics = metrics
        self._timer = timer
        self._status = status
        self._total_s = 0.0
        self._is_shown = False
        self._sources: set[str] = set()
        self._counters: dict[tuple[str, ...], Series] = {}
        self._latency = metrics.durations("inference_latency_seconds")
        # What the counters stood at, less what this scorer had counted by then.
        self._before = dict.fromkeys((*_STATES, _CANARY), 0.0)

    def show(self) -> None:
        """Let scrapes see this scorer; counters go on from where others have brought them."""
        metrics, status = self._metrics, self._status()
        self._is_shown = True
        for state, n in status.n_entered.items():
            counted = metrics.value("sentinel_breaker_transitions_total", state=state)
            self._before[state] = (counted or 0.0) - n
        counted = metrics.value("sentinel_canary_failures_total")
        self._before[_CANARY] = (counted or 0.0) - status.canary.n_failures
        self._total_s = self._timer.total_s
        metrics.watch_stages(self._timer)
        metrics.before_scrape(self._show)

    def hide(self) -> None:
        """Let scrapes see this scorer no more, once they have the last of it; again: nothing."""
        if self._is_shown:
            self._is_shown = False
            self._metrics.forget(self._show)
            self._show()

    def batch(self, decoded: Decoded, decisions: DecisionBatch, tally: Tally) -> None:
        """Count one batch."""
        raw = decoded.events.raw
        self._sources.add(raw.source)
        self._add("sentinel_events_read_total", raw.n_events, source=raw.source)
        if decoded.refusals:
            for code, n in Counter(refusal.code for refusal in decoded.refusals).items():
                self._metrics.add("sentinel_events_refused_total", n, code=code)
        self._add("sentinel_events_duplicate_total", decisions.n_rows - tally.n_decided)
        self._add("sentinel_late_events_total", tally.n_late)
        self._count_codes(tally)
        self._add("sentinel_feature_values_total", tally.n_defaulted, status="defaulted")
        self._add("sentinel_feature_values_total", tally.n_stale, status="stale")
        total_s = self._timer.total_s
        self._latency.observe(total_s - self._total_s, n=tally.n_decided)
        self._total_s = total_s

    def feedback(self, decoded: Decoded) -> None:
        """Count one batch of feedback."""
        for result, n in (
            ("learned", decoded.events.n_rows),
            ("refused", len(decoded.refusals)),
        ):
            self._metrics.add("sentinel_feedback_events_total", n, result=result)

    def _count_codes(self, tally: Tally) -> None:
        for pair, n in enumerate(tally.pairs):
            if n:
                outcome, served_by = divmod(pair, len(_SERVED_BY))
                self._add(
                    "sentinel_decisions_total",
                    n,
                    outcome=_OUTCOMES[outcome],
                    served_by=_SERVED_BY[served_by],
                )
        for reason, n in enumerate(tally.reasons):
            if n:
                self._add("sentinel_decision_reasons_total", n, reason=_REASONS[reason])
        for where, code in _NOT_FINITE:
            self._add("sentinel_not_finite_total", tally.reasons[code], where=where)

    def _add(self, name: str, n: int, **labels: str) -> None:
        """Add to a series; which one it is, is looked up once."""
        place = (name, *labels.values())
        counter = self._counters.get(place)
        if counter is None:
            counter = self._counters[place] = self._metrics.counter(name, **labels)
        elif not n:
            return
        counter.add(n)

    def _show(self) -> None:
        """Set the gauges."""
        status, metrics, before = self._status(), self._metrics, self._before
        metrics.put_state("sentinel_breaker_state", status.breaker, _STATES)
        for state, n in status.n_entered.items():
            total = max(0.0, before[state] + n)
            metrics.advance("sentinel_breaker_transitions_total", total, state=state)
        total = max(0.0, before[_CANARY] + status.canary.n_failures)
        metrics.advance("sentinel_canary_failures_total", total)
        metrics.put("sentinel_entities", status.n_entities, entity="all")
        metrics.put("sentinel_callers_degraded", len(status.degraded_callers))
        for source in sorted(self._sources):
            metrics.put(
                "sentinel_source_degraded",
                float(source in status.degraded_sources),
                source=source,
            )
