"""How busy the server is, in the words of ORCA (xDS ``OrcaLoadReport``), for balancers.

``endpoint-load-metrics-format: text`` or ``json`` in a request asks for it; the answer stands in
``endpoint-load-metrics``. ``application_utilization`` is the share of the queue that is taken,
``cpu_utilization`` the processor time of this process since the last report, a core.

Calls of gRPC get the report as a message in the trailer ``endpoint-load-metrics-bin``, asked for or
not, as gRPC does it (gRFC A51, per-query reporting).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from sentinel.serving import bounds
from sentinel.serving.batching.batcher import BatcherState
from sentinel.serving.doors.gathering import ProcessorShare

REQUEST_HEADER = b"endpoint-load-metrics-format"
RESPONSE_HEADER = b"endpoint-load-metrics"
TRAILER = "endpoint-load-metrics-bin"
_INTERVAL_S = 1.0
# How long a trailer is good for: a call of a tenth of a millisecond must not pay for a new one.
_TRAILER_S = 0.01


_processor_share = ProcessorShare(_INTERVAL_S)


def metrics(state: BatcherState) -> dict[str, float]:
    """Return the utilisations, by their name in ORCA."""
    return {
        "cpu_utilization": round(_processor_share(), 4),
        "application_utilization": round(state.n_rows / bounds.QUEUE_ROWS_MAX, 6),
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


class Trailer:
    """The trailer of calls, written anew at most a hundred times a second.

    Parameters
    ----------
    read : callable
        Asked how the queue is.
    """

    def __init__(self, read: Callable[[], BatcherState]) -> None:
        self._read = read
        self._until_s = float("-inf")
        self._value = b""

    def __call__(self) -> tuple[str, bytes]:
        """Return key and value."""
        now_s = time.monotonic()
        if now_s >= self._until_s:
            self._until_s = now_s + _TRAILER_S
            self._value = to_message(metrics(self._read()))
        return TRAILER, self._value


def to_message(found: dict[str, float]) -> bytes:
    """Write an ``OrcaLoadReport`` (package ``xds.data.orca.v3``).

    Parameters
    ----------
    found : dict of str to float
        By name; those of ``named_metrics`` with that word before a point.

    Examples
    --------
    >>> to_message({"cpu_utilization": 1.0}).hex()
    '09000000000000f03f'
    """
    from sentinel.serving.doors.grpc_messages import message

    plain = {name: value for name, value in found.items() if "." not in name}
    named = {name.partition(".")[2]: value for name, value in found.items() if name not in plain}
    report = message("xds.data.orca.v3", "OrcaLoadReport")(**plain, named_metrics=named)
    content: bytes = report.SerializeToString()
    return content
