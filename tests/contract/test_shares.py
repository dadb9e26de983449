"""The refused share of a source over the last minute."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.contract import RefusedShares
from sentinel.contract.shares import OTHER_SOURCES
from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError


def test_a_source_is_degraded_while_its_share_is_over_the_limit() -> None:
    shares = RefusedShares(limit=0.1)
    shares.note("cards", n_read=100, n_refused=10, now_s=0.0)
    assert not shares.of("cards", now_s=0.0).is_degraded
    shares.note("cards", n_read=1, n_refused=1, now_s=30.0)
    assert shares.degraded(now_s=30.0) == ("cards",)
    assert shares.degraded(now_s=59.9) == ("cards",)
    assert shares.degraded(now_s=60.0) == ()


def test_one_source_does_not_degrade_another() -> None:
    shares = RefusedShares(limit=0.5)
    shares.note("bad", n_read=100, n_refused=100, now_s=1.0)
    shares.note("good", n_read=100, n_refused=0, now_s=1.0)
    assert shares.degraded(now_s=1.0) == ("bad",)
    assert shares.of("good", now_s=1.0).share == 0.0


def test_a_few_events_do_not_degrade() -> None:
    shares = RefusedShares(limit=0.01)
    shares.note("cards", n_read=limits.SHARE_READ_MIN - 1, n_refused=1, now_s=1.0)
    assert shares.degraded(now_s=1.0) == ()
    shares.note("cards", n_read=1, n_refused=0, now_s=1.0)
    assert shares.degraded(now_s=1.0) == ("cards",)


def test_an_unknown_source_has_sent_nothing() -> None:
    assert RefusedShares(limit=0.5).of("nobody", now_s=1.0).n_read == 0


def test_sources_past_the_bound_are_counted_together() -> None:
    shares = RefusedShares(limit=0.5)
    for index in range(limits.SHARE_SOURCES_MAX + 50):
        shares.note(f"s{index}", n_read=1, n_refused=1, now_s=1.0)
    assert shares.of(OTHER_SOURCES, now_s=1.0).n_read == 50


@pytest.mark.parametrize("limit", [0.0, -1.0, 1.1, float("nan")])
def test_a_limit_that_is_no_share_is_refused(limit: float) -> None:
    with pytest.raises(SentinelError) as caught:
        RefusedShares(limit=limit)
    assert caught.value.code is ErrorCode.CONTRACT_INVALID
    assert caught.value.at == "refused-share limit"


@given(
    batches=st.lists(
        st.tuples(st.floats(0, 200), st.integers(0, 50), st.integers(0, 50)), max_size=30
    ),
    later=st.floats(0, 100),
)
def test_the_window_holds_what_a_list_of_all_batches_would(
    batches: list[tuple[float, int, int]], later: float
) -> None:
    shares = RefusedShares(limit=0.5)
    batches.sort()
    for now_s, n_good, n_refused in batches:
        shares.note("cards", n_read=n_good + n_refused, n_refused=n_refused, now_s=now_s)
    now_s = (batches[-1][0] if batches else 0.0) + later
    inside = [batch for batch in batches if int(now_s) - 60 < int(batch[0])]
    found = shares.of("cards", now_s=now_s)
    assert found.n_refused == sum(batch[2] for batch in inside)
    assert found.n_read == sum(batch[1] + batch[2] for batch in inside)
