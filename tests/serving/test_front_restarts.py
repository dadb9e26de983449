"""Why a process ended, and how long the next one waits."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.serving import bounds
from sentinel.serving.fronts.restarts import Ended, Reason, reason_of, restart_pause_s


@given(st.integers(1, 1_000), st.floats(0, 1, exclude_max=True))
def test_a_pause_is_at_least_a_doubling_and_at_most_the_bound(n: int, draw: float) -> None:
    pause_s = restart_pause_s(n, draw)
    assert pause_s >= min(2.0 ** (n - 1), bounds.PART_RESTART_S_MAX * 0.8)
    assert pause_s <= bounds.PART_RESTART_S_MAX


@pytest.mark.parametrize(
    ("status", "was_killed", "has_refused", "n_oom", "expected"),
    [
        (0, None, False, 0, Reason.EXIT),
        (7, None, False, 0, Reason.EXIT),
        (3, None, True, 0, Reason.REFUSED),
        (-signal.SIGSEGV, None, False, 0, Reason.SIGNAL),
        (-signal.SIGKILL, None, False, 0, Reason.SIGNAL),
        (-signal.SIGKILL, None, False, 1, Reason.MEMORY),
        (-signal.SIGTERM, None, False, 1, Reason.SIGNAL),
        (-signal.SIGKILL, Reason.FROZEN, False, 1, Reason.FROZEN),
        (-signal.SIGKILL, Reason.SLOW_START, False, 0, Reason.SLOW_START),
    ],
)
def test_an_end_has_one_reason(
    status: int, was_killed: Reason | None, has_refused: bool, n_oom: int, expected: Reason
) -> None:
    found = reason_of(status, was_killed=was_killed, has_refused=has_refused, n_oom=n_oom)
    assert found is expected


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_is_a_sentence(reason: Reason) -> None:
    ended = Ended(
        part="front-1", pid=7, reason=reason, status=-11, lived_s=2.0, cause="what it said"
    )
    assert ended.sentence.endswith("after 2.0 s: what it said")
