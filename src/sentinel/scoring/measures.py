"""What a scorer tells the metrics: a few additions a batch, gauges when somebody looks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from sentinel.contract.decoder import Decoded
from sentinel.features.matrix import DEFAULTED, STALE
from sentinel.monitoring.metrics import Metrics
from sentinel.monitoring.stages import StageTimer
from sentinel.scoring.breaker import State
from sentinel.scoring.decision import DecisionBatch, Outcome, Reason, ServedBy, code_names
from sentinel.scoring.status import ScorerStatus

_OUTCOMES = code_names(Outcome)
_SERVED_BY = code_names(ServedBy)
_REASONS = code_names(Reason)
_STATES = tuple(str(state) for state in State)
_CANARY = "canary"


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
        self._sources: set[str] = set()
        # What the counters stood at, less what this scorer had counted by then.
        self._before = dict.fromkeys((*_STATES, _CANARY), 0.0)

    def show(self) -> None:
        """Let scrapes see this scorer; counters go on from where others have brought them."""
        metrics, status = self._metrics, self._status()
        for state, n in status.n_entered.items():
            counted = metrics.value("sentinel_breaker_transitions_total", state=state)
            self._before[state] = (counted or 0.0) - n
        counted = metrics.value("sentinel_canary_failures_total")
        self._before[_CANARY] = (counted or 0.0) - status.canary.n_failures
        self._total_s = self._timer_s()
        metrics.watch_stages(self._timer)
        metrics.before_scrape(self._show)

    def hide(self) -> None:
        """Let scrapes see this scorer no more, once they have the last of it."""
        self._metrics.forget(self._show)
        self._show()

    def batch(self, decoded: Decoded, decisions: DecisionBatch) -> None:
        """Count one batch."""
        metrics, raw = self._metrics, decoded.events.raw
        metrics.add("sentinel_events_read_total", raw.n_events, source=raw.source)
        for code, n in Counter(refusal.code for refusal in decoded.refusals).items():
            metrics.add("sentinel_events_refused_total", n, code=code)
        self._sources.add(raw.source)
        is_decided = decisions.is_decided
        n_decided = int(np.count_nonzero(is_decided))
        metrics.add("sentinel_events_duplicate_total", decisions.n_rows - n_decided)
        metrics.add("sentinel_late_events_total", int(np.count_nonzero(decisions.is_late)))
        self._count_codes(decisions)
        for status, name in ((DEFAULTED, "defaulted"), (STALE, "stale")):
            n_values = int(np.count_nonzero(decisions.feature_status == status))
            metrics.add("sentinel_feature_values_total", n_values, status=name)
        total_s = self._timer_s()
        metrics.observe("inference_latency_seconds", total_s - self._total_s, n=n_decided)
        self._total_s = total_s

    def feedback(self, decoded: Decoded) -> None:
        """Count one batch of feedback."""
        for result, n in (
            ("learned", decoded.events.n_rows),
            ("refused", len(decoded.refusals)),
        ):
            self._metrics.add("sentinel_feedback_events_total", n, result=result)

    def _timer_s(self) -> float:
        return sum(histogram.total_s for histogram in self._timer.histograms.values())

    def _count_codes(self, decisions: DecisionBatch) -> None:
        is_decided = decisions.is_decided
        pairs = decisions.outcome[is_decided] * len(ServedBy) + decisions.served_by[is_decided]
        for pair, n in enumerate(np.bincount(pairs).tolist()):
            if n:
                outcome, served_by = divmod(pair, len(ServedBy))
                self._metrics.add(
                    "sentinel_decisions_total",
                    n,
                    outcome=_OUTCOMES[outcome],
                    served_by=_SERVED_BY[served_by],
                )
        reasons = np.bincount(decisions.reason[is_decided], minlength=len(Reason))
        for reason, n in enumerate(reasons.tolist()):
            if n:
                self._metrics.add("sentinel_decision_reasons_total", n, reason=_REASONS[reason])
        for where, code in (
            ("feature", Reason.FEATURE_NOT_FINITE),
            ("output", Reason.OUTPUT_NOT_FINITE),
        ):
            self._metrics.add("sentinel_not_finite_total", int(reasons[code]), where=where)

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
        for source in sorted(self._sources):
            metrics.put(
                "sentinel_source_degraded",
                float(source in status.degraded_sources),
                source=source,
            )
