"""The gate before the queue, and the pace of connections that were refused."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import pytest

from sentinel.serving import bounds
from sentinel.serving.batching.gate import Gate
from sentinel.serving.batching.queue_of_rows import RowQueue
from sentinel.serving.batching.service_time import ServiceTime
from sentinel.serving.batching.work import Kind, Work
from sentinel.serving.doors.http_message import refusal
from sentinel.serving.doors.pace import Pace

ROW_S = 0.001


def _gate(n_rows: int, *, tenant: str = "a") -> tuple[Gate, RowQueue]:
    """Make a gate before a queue where each row takes a millisecond, and so many wait."""
    curve = ServiceTime()
    now_s = time.monotonic()
    curve.observe(bounds.SERVE_BATCH_ROWS_MAX, bounds.SERVE_BATCH_ROWS_MAX * ROW_S, now_s=now_s)
    queue = RowQueue(rows_max=bounds.QUEUE_ROWS_MAX, curve=curve)
    gate = Gate(queue, curve)
    if n_rows:
        work = Work(
            kind=Kind.EVENTS,
            n_rows=n_rows,
            tenant=tenant,
            deadline_s=now_s + 60.0,
            reply=lambda _: None,
        )
        queue.add(work, now_s=now_s, busy_s=0.0)
    gate.turn_ended(now_s)
    return gate, queue


def test_a_short_queue_refuses_nobody() -> None:
    gate, _ = _gate(bounds.GATE_ROWS_MIN - 1)
    assert not gate.is_crowded
    assert gate.refuses("a", 0.0) == 0.0
    assert gate.n_refused == 0


def test_who_has_less_time_than_the_queue_takes_is_refused_and_counted() -> None:
    gate, _ = _gate(999)
    time_s = 1.0 / bounds.ADMITTED_SHARE
    assert gate.refuses("a", 0.9 * time_s) == pytest.approx(1.0)
    assert gate.refuses("a", 1.1 * time_s) == 0.0
    assert gate.n_refused == 1


def test_a_tenant_who_has_nothing_there_does_not_wait_for_the_rows_of_another() -> None:
    gate, _ = _gate(9_999, tenant="greedy")
    assert gate.refuses("greedy", 1.0) > 0.0
    assert gate.refuses("modest", 1.0) == 0.0


def test_the_batch_in_the_model_and_the_turn_of_the_loop_count_as_waited() -> None:
    gate, _ = _gate(999)
    gate.busy_until_s = time.monotonic() + 5.0
    assert gate.refuses("a", 5.5) > 5.5
    gate.busy_until_s = 0.0
    gate.lag_s = 0.5
    assert gate.refuses("a", 1.4) == pytest.approx(1.5)


def test_the_lag_is_the_turn_before_while_the_loop_is_busy() -> None:
    gate, _ = _gate(0)
    now_s = time.monotonic() + 100.0
    gate.turn_began(now_s)
    assert gate.lag_s == 0.0
    gate.turn_began(now_s + 0.01)  # the same turn
    gate.turn_ended(now_s + 0.03)
    gate.turn_began(now_s + 0.0301)
    assert gate.lag_s == pytest.approx(0.0301)
    gate.turn_ended(now_s + 0.04)
    gate.turn_began(now_s + 0.2)  # it has waited for somebody
    assert gate.lag_s == 0.0


def test_what_lies_between_batches_is_part_of_the_wait_but_not_of_the_batch() -> None:
    curve = ServiceTime()
    curve.observe(64, 0.064, now_s=0.0)
    curve.observe_beside(64, 0.032, now_s=0.0)
    curve.observe_beside(1, 9.0, now_s=0.0)  # a thread that woke up late
    assert curve.seconds(64, now_s=1.0) == pytest.approx(0.064)
    assert curve.wait_s(64, now_s=1.0) == pytest.approx(0.096)
    assert curve.wait_s(64, now_s=99.0) == 0.0


def test_an_early_refusal_says_why_and_when_and_not_the_same_to_all() -> None:
    answers = [refusal(0.3) for _ in range(9)]
    assert {answer.status for answer in answers} == {503}
    assert all(answer.is_paced for answer in answers)
    assert all(b'"code": "overloaded"' in answer.body for answer in answers)
    told = {dict(answer.headers)[b"retry-after"] for answer in answers}
    assert told == {b"1", b"2"}
    assert all(1 <= int(after) <= 30 for after in told)
    assert dict(refusal(1e9).headers)[b"retry-after"] == b"30"


class _Connection:
    """What a pace does to a connection."""

    def __init__(self) -> None:
        self.is_held = False
        self.unread_s = 0.0
        self.released_s = 0.0

    def hold(self) -> None:
        self.is_held = True

    def let_go(self, unread_s: float) -> None:
        self.is_held, self.unread_s, self.released_s = False, unread_s, time.monotonic()

    def be_current(self) -> None:
        self.unread_s = 0.0


def test_a_few_refusals_are_free_and_many_are_read_in_turn() -> None:
    async def refuse() -> None:
        pace = Pace(per_s=1_000, unread_s_max=0.05)
        connections = [_Connection() for _ in range(100)]
        now_s = time.monotonic()
        for connection in connections:
            pace.refused(connection, now_s)
        assert not connections[0].is_held
        assert all(connection.is_held for connection in connections[2:])
        seen_s = 0.0
        while pace.n_held:
            await asyncio.sleep(0.001)
            seen_s = max(seen_s, *(connection.unread_s for connection in connections))
        assert seen_s > 0.0
        order = [connection.released_s for connection in connections]
        assert order == sorted(order)
        await asyncio.sleep(0.01)
        assert not any(connection.is_held or connection.unread_s for connection in connections)

    asyncio.run(refuse())


def test_no_connection_is_unread_for_longer_than_the_bound() -> None:
    async def refuse() -> None:
        pace = Pace(per_s=1.0, unread_s_max=0.01)
        connections = [_Connection() for _ in range(1_000)]
        for connection in connections:
            pace.refused(connection, time.monotonic())
        # A thousand seconds of turns, were there no bound.
        async with asyncio.timeout(10.0):
            while pace.n_held:
                await asyncio.sleep(0.005)

    asyncio.run(refuse())


def test_the_c_library_is_asked_before_there_are_threads() -> None:
    """In a process of its own: the wish holds for all of it."""
    call = "from sentinel.serving.allocator import keep_heap_small as keep; print(keep())"
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
