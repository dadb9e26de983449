"""Bounded in rows, fair between tenants, and an early no."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.serving.batching.queue_of_rows import OverloadedError, RowQueue, deadline_passed
from sentinel.serving.batching.service_time import ServiceTime
from sentinel.serving.batching.work import Kind, Work


def _work(
    n_rows: int, tenant: str = "a", *, deadline_s: float = 10.0, kind: Kind = Kind.EVENTS
) -> Work:
    return Work(
        kind=kind,
        n_rows=n_rows,
        tenant=tenant,
        deadline_s=deadline_s,
        reply=lambda _: None,
        events=[b""] * n_rows,
    )


def _queue(rows_max: int = 1_000, curve: ServiceTime | None = None) -> RowQueue:
    return RowQueue(rows_max=rows_max, curve=curve or ServiceTime())


def _add(queue: RowQueue, work: Work, *, now_s: float = 0.0, busy_s: float = 0.0) -> None:
    queue.add(work, now_s=now_s, busy_s=busy_s)


def test_a_deadline_that_has_passed_is_refused_at_the_door() -> None:
    with pytest.raises(SentinelError) as refused:
        _add(_queue(), _work(1, deadline_s=1.0), now_s=1.0)
    assert (refused.value.code, refused.value.at) == (ErrorCode.DEADLINE_PASSED, "request")


def test_who_is_too_late_is_told_how_to_ask_again() -> None:
    """Rows of features have no event id."""
    assert "event id" in deadline_passed(_work(1)).hint
    assert "event id" not in deadline_passed(_work(1, kind=Kind.TENSOR)).hint


def test_a_tenant_can_not_take_the_whole_queue() -> None:
    queue = _queue(100)
    _add(queue, _work(50))
    with pytest.raises(OverloadedError) as refused:
        _add(queue, _work(1))
    assert (refused.value.code, refused.value.at) == (ErrorCode.OVERLOADED, "queue")
    _add(queue, _work(30, "b"))
    _add(queue, _work(20, "c"))
    with pytest.raises(OverloadedError):
        _add(queue, _work(1, "d"))
    assert queue.n_rows == 100


def test_who_would_wait_too_long_is_refused_and_told_when_to_come_back() -> None:
    curve = ServiceTime()
    curve.observe(100, 1.0, now_s=0.0)
    queue = _queue(curve=curve)
    _add(queue, _work(100, deadline_s=0.5))  # an empty queue admits: somebody must try
    with pytest.raises(OverloadedError) as refused:
        _add(queue, _work(10, deadline_s=1.2), busy_s=0.5)
    assert refused.value.retry_s == pytest.approx(1.5)
    _add(queue, _work(10, deadline_s=2.0), busy_s=0.5)


def test_a_measurement_ages_so_that_a_slow_past_does_not_last() -> None:
    curve = ServiceTime()
    curve.observe(100, 60.0, now_s=0.0)
    queue = _queue(curve=curve)
    _add(queue, _work(100, deadline_s=9.0))
    with pytest.raises(OverloadedError):
        _add(queue, _work(10, deadline_s=9.0))
    _add(queue, _work(10, deadline_s=20.0), now_s=10.0)


def test_a_small_request_does_not_wait_for_the_whole_of_a_large_one() -> None:
    queue = _queue(10_000)
    large, small = _work(4_000, "hog"), _work(1, "other")
    _add(queue, large)
    _add(queue, small)
    pieces = queue.take(n_rows_max=512)
    assert small in [piece.work for piece in pieces]
    same = _work(1, "hog")
    _add(queue, same)
    queue.take(n_rows_max=512)
    assert same in [piece.work for piece in queue.take(n_rows_max=512)], "one batch, not eight"


def test_tenants_get_equal_shares_of_a_batch() -> None:
    queue = _queue(100_000)
    for tenant in "abcd":
        for _ in range(300):
            _add(queue, _work(10, tenant))
    rows = dict.fromkeys("abcd", 0)
    for piece in queue.take(n_rows_max=512):
        rows[piece.work.tenant] += piece.n_rows
    assert set(rows.values()) == {128}


def test_a_batch_is_of_one_kind_and_a_canary_stays_whole() -> None:
    queue = _queue(10_000)
    _add(queue, _work(5, "a", kind=Kind.TENSOR))
    _add(queue, _work(900, "b", kind=Kind.CANARY))
    _add(queue, _work(5, "c", kind=Kind.EVENTS))
    kinds = []
    while pieces := queue.take(n_rows_max=512):
        assert len({piece.work.kind for piece in pieces}) == 1
        kinds.append(pieces[0].work.kind)
        if pieces[0].work.kind is Kind.CANARY:
            assert pieces[0].n_rows == 900
    assert sorted(kind.name for kind in kinds) == ["CANARY", "EVENTS", "TENSOR"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"), st.integers(1, 400), st.sampled_from(list(Kind)), st.booleans()
        ),
        max_size=40,
    ),
    st.integers(1, 300),
)
def test_every_row_is_taken_once_and_the_count_ends_at_zero(
    requests: list[tuple[str, int, Kind, bool]], n_rows_max: int
) -> None:
    queue = _queue(100_000)
    works = []
    for tenant, n_rows, kind, is_dropped in requests:
        work = _work(n_rows, tenant, kind=kind)
        _add(queue, work)
        if is_dropped:
            queue.drop(work)
        else:
            works.append(work)
    taken: dict[int, list[tuple[int, int]]] = {}
    while pieces := queue.take(n_rows_max=n_rows_max):
        for piece in pieces:
            taken.setdefault(id(piece.work), []).append((piece.start, piece.end))
    assert queue.n_rows == 0
    assert queue.n_works == 0
    for work in works:
        spans = taken.pop(id(work))
        assert spans[0][0] == 0
        assert spans[-1][1] == work.n_rows
        assert all(spans[i][1] == spans[i + 1][0] for i in range(len(spans) - 1))
    assert not taken
