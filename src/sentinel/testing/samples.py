"""Sample events that keep the contract, from the simulator: the same for the same seed."""

from __future__ import annotations

from sentinel.contract.batch import RawBatch
from sentinel.data.simulator import Simulation

_EVENTS_A_DAY = 2_000


def sample_simulation(n: int, *, seed: int = 0) -> Simulation:
    """Describe a small world, rich in fraud, of at least ``n`` transactions.

    Parameters
    ----------
    n : int
        At least 1.
    seed : int
        Another seed, another world.
    """
    # A day's number is random: half as many again is enough for the smallest world, too.
    days = max(2, -(-3 * n // (2 * _EVENTS_A_DAY)))
    return Simulation(
        seed=seed,
        n_cards=200,
        n_merchants=150,
        days=days,
        events_per_day=_EVENTS_A_DAY,
        fraud_share=0.03,
    )


def sample_events(n: int, *, seed: int = 0) -> RawBatch:
    """Make ``n`` transactions of the contract ``card-transaction`` in order of time.

    Parameters
    ----------
    n : int
        1 to ``EVENT_FILE_BATCH_EVENTS_MAX``.
    seed : int
        The same seed gives the same bytes.

    Examples
    --------
    >>> sample_events(3).n_events
    3
    """
    return next(sample_simulation(n, seed=seed).batches(n))


def sample_feedback(n: int, *, seed: int = 0) -> RawBatch:
    """Make ``n`` verdicts of the contract ``card-verdict``, in the order of their time.

    They are on the transactions of ``sample_events`` with the same seed and the same ``n``, and
    on some that come after those.

    Parameters
    ----------
    n, seed
        As for :func:`sample_events`.
    """
    return next(sample_simulation(n, seed=seed).feedback(n))
