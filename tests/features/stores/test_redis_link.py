"""One connection: whatever ends a call, no later call reads what was an answer to it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from random import Random

import pytest

from sentinel.core.errors import SentinelError
from sentinel.features.stores.redis.link import RedisLink
from sentinel.testing.redis_server import RedisServer


class _CancelledError(Exception):
    """What ends a call from outside, anywhere in it."""


# An exception may come between the making of a socket and its being known to anybody.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.reliability("D8", t1=300_000, t2=3_000_000, t3=30_000_000)
def test_cancelled_calls_never_give_one_key_the_answer_of_another(
    server: RedisServer, trials: Iterator[int]
) -> None:
    """A signal's exception, or a deadline, at any instruction of a call; values name their keys."""
    link = RedisLink(server.url, deadline_ms=1_000)
    n_keys = 64
    link.call([("SET", f"key-{k}", f"value-{k}" * (1 + k)) for k in range(n_keys)])
    rng = Random(8)
    n_cancelled = n_answered = 0
    is_calling = False

    def cancel(number: int, frame: object) -> None:
        if is_calling:  # a signal that another thread took may be handled after the call
            raise _CancelledError

    before = signal.signal(signal.SIGALRM, cancel)
    try:
        for _ in trials:
            k = rng.randrange(n_keys)
            link.patience._quiet_until_s = 0.0  # the pause after a loss is not what is tried
            try:
                try:
                    is_calling = True
                    if rng.random() < 0.8:
                        signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, 80e-6))
                    (reply,) = link.call([("GET", f"key-{k}")])
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0.0)
                    is_calling = False
            except (_CancelledError, SentinelError):
                n_cancelled += 1
                continue
            assert reply == (f"value-{k}" * (1 + k)).encode()
            n_answered += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
        link.close()
    assert n_cancelled > 0.2 * (n_cancelled + n_answered)
    assert n_answered > 100
