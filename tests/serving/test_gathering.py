"""Calls that wait for each other: only where it is worth it, never for long, never for ever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine

import pytest

from sentinel.serving import bounds
from sentinel.serving.doors.gathering import Gathering, ProcessorShare

LEFT_S = 1.0


def run(work: Coroutine[object, object, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


async def rounds(gathering: Gathering, n_calls: int, n_rounds: int) -> None:
    """So many callers that each call again once all are answered."""
    for _ in range(n_rounds):
        await asyncio.gather(*(gathering.join(LEFT_S) for _ in range(n_calls)))


def test_a_server_with_time_to_spare_lets_nobody_wait() -> None:
    async def work() -> None:
        gathering = Gathering(lambda: 0.5)
        await rounds(gathering, 8, 10 * bounds.GATHER_TRY_EVERY)
        assert gathering.n_expected == 1
        assert gathering._n_until_try == bounds.GATHER_TRY_EVERY, "it was not tried"

    run(work())


def test_callers_of_a_busy_server_come_to_wait_for_as_many_as_they_are() -> None:
    async def work() -> None:
        gathering = Gathering(lambda: 1.0)
        n_together: list[int] = []

        async def call_again() -> None:
            for _ in range(100):
                await gathering.join(LEFT_S)
                n_together.append(gathering.n_expected)
                await asyncio.sleep(0)

        await asyncio.gather(*(call_again() for _ in range(8)))
        assert n_together[0] == 1
        assert max(n_together) >= 6
        assert gathering._waiting == []

    run(work())


def test_more_are_waited_for_only_when_it_was_full_again_and_again() -> None:
    async def work() -> None:
        gathering = Gathering(lambda: 1.0)
        gathering.n_expected = 4
        await rounds(gathering, 4, bounds.GATHER_FULL_MIN)
        assert gathering.n_expected > 4
        await rounds(gathering, 4, 1)
        assert gathering.n_expected == 4, "the timer said how many there are"

    run(work())


def test_who_is_alone_is_tried_ever_more_seldom() -> None:
    async def work() -> None:
        gathering = Gathering(lambda: 1.0)
        n_waited = 0
        for _ in range(20 * bounds.GATHER_TRY_EVERY):
            before = gathering._try_every
            await gathering.join(LEFT_S)
            n_waited += gathering._try_every != before
        assert n_waited == 4  # after 61, 123, 247 and 495 calls
        assert gathering.n_expected == 1

    run(work())


def test_a_server_that_has_become_idle_lets_nobody_wait_any_more() -> None:
    async def work() -> None:
        share = 1.0
        gathering = Gathering(lambda: share)
        gathering.n_expected = 8
        share = 0.2
        await gathering.join(LEFT_S)
        assert gathering.n_expected == 1
        assert gathering._timer is None

    run(work())


@pytest.mark.parametrize("left_s", [-1.0, 0.0, bounds.GATHER_LEFT_S_MIN / 2])
def test_who_is_in_a_hurry_is_not_kept(left_s: float) -> None:
    async def work() -> None:
        gathering = Gathering(lambda: 1.0)
        gathering.n_expected = 8
        await gathering.join(left_s)
        assert gathering._waiting == []

    run(work())


def test_calls_that_are_cancelled_keep_nobody_and_are_not_counted() -> None:
    async def work() -> None:
        gathering = Gathering(lambda: 1.0)
        gathering.n_expected = 8
        calls = [asyncio.ensure_future(gathering.join(LEFT_S)) for _ in range(4)]
        await asyncio.sleep(0)
        for call in calls[:3]:
            call.cancel()
        await calls[3]
        assert gathering.n_expected == 1
        assert all(call.cancelled() for call in calls[:3])

    run(work())


def test_the_share_of_a_process_that_works_is_about_one_core() -> None:
    share = ProcessorShare(0.05)
    end_s = time.process_time() + 0.2
    while time.process_time() < end_s:
        pass
    busy = share()
    assert 0.0 < busy < 4.0
    time.sleep(0.2)
    assert share() < busy
