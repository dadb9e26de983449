"""Memory, descriptors and threads over many requests; and a leak on purpose, which must be seen.

What keeps something of a request by design (decisions remembered, ids, entities) has its own bound,
reached after hundreds of thousands of events. So the requests here are those that must leave
nothing: rows of features, refused events, unknown paths. Leaks live in error paths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from process_rig import ServerProcess, server_process
from serving_rig import MODEL, infer_body
from tests.memory_rig import theil_sen

from sentinel.testing.load_generator import Traffic, saturate

# Bytes a request that are told from noise after so many requests; more requests, fewer bytes.
BOUND_BYTES, BOUND_REQUESTS, BOUND_BYTES_MIN = 80.0, 30_000, 1.0
ROUND = 1_000
LEAK = """
from sentinel.serving.doors.http_routes import HttpRoutes
kept, plain = [], HttpRoutes.__call__
def leaking(self, request):
    kept.append(bytes(67))  # 100 bytes with its head
    return plain(self, request)
HttpRoutes.__call__ = leaking
from sentinel.cli.__main__ import main
main()
"""


def _kinds(running: ServerProcess) -> list[Traffic]:
    row = infer_body([[19.5, 1.0, 20.0, 60.0, 1.0]])
    many = infer_body([[19.5, 1.0, 20.0, 60.0, 1.0]] * 64)
    bodies: list[tuple[str, Callable[[int], bytes]]] = [
        (f"/v2/models/{MODEL}/infer", lambda number: many if number % 8 == 0 else row),
        ("/v1/score", lambda number: b'{"payment_id": "r%d", "nonsense": 1}' % number),
        ("/v1/score", lambda number: b"{" * (number % 7)),
        ("/v2/models/nobody/infer", lambda _: row),
    ]
    return [Traffic(port=running.http_port, path=path, body=body) for path, body in bodies]


def _soak(running: ServerProcess, rounds: Iterator[int]) -> tuple[float, int]:
    """Return the slope of the memory, in bytes a request, and how many requests there were."""
    kinds, n_requests = _kinds(running), 0
    for traffic in kinds * 3:
        saturate(traffic, connections=8, seconds=0.1)
    process = psutil.Process(running.process.pid)
    n_fds, n_threads = process.num_fds(), process.num_threads()
    seen: list[tuple[int, int]] = []
    for number in rounds:
        while n_requests < ROUND * (number + 1):
            for traffic in kinds:
                n_requests += saturate(traffic, connections=8, seconds=0.05).n_due
        seen.append((n_requests, running.memory_bytes()))
    assert process.num_fds() <= n_fds + 10
    assert process.num_threads() <= n_threads + 2
    return theil_sen(seen[len(seen) // 5 :]), n_requests


def _bound(n_requests: int) -> float:
    return max(BOUND_BYTES_MIN, BOUND_BYTES * BOUND_REQUESTS / n_requests)


@pytest.mark.reliability("L1", "L3", t1=30, t2=1_000, t3=10_000, least=30)
def test_requests_that_must_leave_nothing_leave_nothing(
    tmp_path: Path, trials: Iterator[int]
) -> None:
    with server_process(tmp_path) as running:
        slope, n_requests = _soak(running, iter(trials))
        assert slope <= _bound(n_requests), (slope, n_requests)
        running.wait_ready()


@pytest.mark.reliability("L2", t1=30, t2=200, t3=1_000, least=30)
def test_a_leak_of_a_hundred_bytes_a_request_is_seen(tmp_path: Path, trials: Iterator[int]) -> None:
    """The control: the same server with a leak on purpose fails the same bound."""
    with server_process(tmp_path, program=("-c", LEAK)) as running:
        slope, n_requests = _soak(running, iter(trials))
        assert slope > _bound(n_requests), (slope, n_requests)


def test_the_slope_is_the_slope() -> None:
    assert theil_sen([(0, 0), (10, 1_000), (20, 2_000), (30, 90_000)]) == pytest.approx(100, rel=30)
    assert theil_sen([(n, 7) for n in range(10)]) == 0
