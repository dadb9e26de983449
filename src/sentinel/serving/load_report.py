"""How busy the server is, in the words of ORCA (xDS ``OrcaLoadReport``), for balancers that ask.

``endpoint-load-metrics-format: text`` or ``json`` in a request asks for it; the answer stands in
``endpoint-load-metrics``. ``application_utilization`` is the share of the queue that is taken,
``cpu_utilization`` the processor time of this process since the last report, a core.
"""

from __future__ import annotations

import json
import time

from sentinel.core import limits
from sentinel.serving.batcher import BatcherState

REQUEST_HEADER = b"endpoint-load-metrics-format"
RESPONSE_HEADER = b"endpoint-load-metrics"
_INTERVAL_S = 1.0


class _Processor:
    """Share of one core that this process used lately; measured at most once a second."""

    def __init__(self) -> None:
        self._at_s = time.monotonic()
        self._used_s = time.process_time()
        self._share = 0.0

    def share(self) -> float:
        now_s = time.monotonic()
        if now_s - self._at_s >= _INTERVAL_S:
            used_s = time.process_time()
            self._share = (used_s - self._used_s) / (now_s - self._at_s)
            self._at_s, self._used_s = now_s, used_s
        return self._share


_PROCESSOR = _Processor()


def metrics(state: BatcherState) -> dict[str, float]:
    """Return the utilisations, by their name in ORCA."""
    return {
        "cpu_utilization": round(_PROCESSOR.share(), 4),
        "application_utilization": round(state.n_rows / limits.QUEUE_ROWS_MAX, 6),
        "named_metrics.queue_rows": float(state.n_rows),
        "named_metrics.queue_requests": float(state.n_works),
    }


def header(form: bytes, state: BatcherState) -> bytes | None:
    """Return the value of the response header; None for a form that nobody knows."""
    found = metrics(state)
    if form.strip().lower() == b"text":
        return b"TEXT " + ", ".join(f"{name}={value:g}" for name, value in found.items()).encode()
    if form.strip().lower() == b"json":
        plain: dict[str, object] = {}
        named: dict[str, float] = {}
        for name, value in found.items():
            family, _, own = name.partition(".")
            if own:
                named[own] = value
            else:
                plain[family] = value
        return b"JSON " + json.dumps({**plain, "named_metrics": named}).encode()
    return None
