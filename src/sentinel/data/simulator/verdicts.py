"""When it becomes known what a transaction was.

A fraud is found by an analyst within hours, or charged back by its victim 3 to 30 days later
(log-normal in between). A genuine transaction is settled after seven days without a complaint.
One verdict for each transaction, an event of its own with its own time.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from sentinel.data.simulator.columns import (
    ANALYST,
    CARD,
    CHARGEBACK,
    FRAUD_KIND,
    IS_FRAUD,
    KNOWN_AT,
    MERCHANT,
    N_VERDICT_COLUMNS,
    NUMBER,
    ORIGIN,
    SETTLEMENT,
    TIME,
    VERDICT_CARD,
    VERDICT_MERCHANT,
    VERDICT_NUMBER,
    VERDICT_OF,
)
from sentinel.data.simulator.world import STREAM_VERDICTS, Int64Array, generator

_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS
SETTLEMENT_MS = 7 * _DAY_MS
_ANALYST_SHARE = 0.35
_ANALYST_HOURS_MEDIAN, _ANALYST_SPREAD, _ANALYST_HOURS = 6.0, 0.8, (0.2, 72.0)
_CHARGEBACK_DAYS_MEDIAN, _CHARGEBACK_SPREAD, _CHARGEBACK_DAYS = 8.0, 0.5, (3.0, 30.0)
VERDICT_DAYS_MAX = 30


def draw_verdicts(seed: int, part: int, transactions: Int64Array) -> Int64Array:
    """Draw the verdict on each transaction of one part of the simulation.

    Parameters
    ----------
    seed, part : int
        Choose the random numbers.
    transactions : ndarray of int64, shape (N_COLUMNS, n)

    Returns
    -------
    ndarray of int64, shape (N_VERDICT_COLUMNS, n)
        In the order of the transactions.
    """
    is_fraud = transactions[FRAUD_KIND] > 0
    frauds = np.flatnonzero(is_fraud)
    delay = np.full(len(is_fraud), SETTLEMENT_MS, dtype=np.int64)
    origin = np.full(len(is_fraud), SETTLEMENT, dtype=np.int64)
    if len(frauds):
        random = generator(seed, STREAM_VERDICTS, part)
        by_analyst = random.random(len(frauds)) < _ANALYST_SHARE
        hours = random.lognormal(np.log(_ANALYST_HOURS_MEDIAN), _ANALYST_SPREAD, len(frauds))
        days = random.lognormal(np.log(_CHARGEBACK_DAYS_MEDIAN), _CHARGEBACK_SPREAD, len(frauds))
        delay[frauds] = np.where(
            by_analyst,
            np.clip(hours, *_ANALYST_HOURS) * _HOUR_MS,
            np.clip(days, *_CHARGEBACK_DAYS) * _DAY_MS,
        )
        origin[frauds] = np.where(by_analyst, ANALYST, CHARGEBACK)
    verdicts = np.empty((N_VERDICT_COLUMNS, len(is_fraud)), dtype=np.int64)
    verdicts[VERDICT_NUMBER] = transactions[NUMBER]
    verdicts[KNOWN_AT] = transactions[TIME] + delay
    verdicts[VERDICT_OF] = transactions[NUMBER]
    verdicts[VERDICT_CARD] = transactions[CARD]
    verdicts[VERDICT_MERCHANT] = transactions[MERCHANT]
    verdicts[IS_FRAUD] = is_fraud
    verdicts[ORIGIN] = origin
    return verdicts


class PendingVerdicts:
    """Verdicts that are drawn and not yet known, given out in the order of their time.

    Settlements all come after the same delay, so they wait in a queue of parts; only the frauds
    have to be searched. Memory: seven days of transactions, thirty of frauds.
    """

    def __init__(self) -> None:
        self._settlements: deque[Int64Array] = deque()
        self._frauds = _NO_VERDICTS

    def add(self, verdicts: Int64Array) -> None:
        """Take verdicts on transactions that are later than all before, and in order."""
        is_fraud = verdicts[IS_FRAUD] > 0
        if is_fraud.any():
            self._frauds = np.concatenate([self._frauds, verdicts[:, is_fraud]], axis=1)
            verdicts = verdicts[:, ~is_fraud]
        if verdicts.shape[1]:
            self._settlements.append(verdicts)

    def known_before(self, time_ms: int) -> Int64Array:
        """Give out what is known before a time."""
        parts = [_NO_VERDICTS]
        while self._settlements and self._settlements[0][KNOWN_AT, 0] < time_ms:
            first = self._settlements.popleft()
            n_known = int(np.searchsorted(first[KNOWN_AT], time_ms))
            parts.append(first[:, :n_known])
            if n_known < first.shape[1]:
                self._settlements.appendleft(first[:, n_known:])
        is_known = self._frauds[KNOWN_AT] < time_ms
        parts.append(self._frauds[:, is_known])
        self._frauds = self._frauds[:, ~is_known]
        known = np.concatenate(parts, axis=1)
        order = np.lexsort((known[VERDICT_NUMBER], known[KNOWN_AT]))
        return np.ascontiguousarray(known[:, order])


_NO_VERDICTS = np.empty((N_VERDICT_COLUMNS, 0), dtype=np.int64)
