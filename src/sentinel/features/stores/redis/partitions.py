"""Features by entity key where each partition of a topic has a store of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features.plan import FeaturePlan
from sentinel.features.stores.redis.reader import EntityFeatures, FeatureReader


def partition_store(name: str, partition: int) -> str:
    """Return the name of a partition's store.

    Examples
    --------
    >>> partition_store("shop", 7)
    'shop.partition-00007'
    """
    return f"{name}.partition-{partition:05d}"


def read_partitions(  # noqa: PLR0913 -- where, how many, what, when
    plan: FeaturePlan,
    *,
    url: str,
    name: str,
    n_partitions: int,
    entity: str,
    keys: Sequence[str] | Sequence[int],
    at_ms: int,
    deadline_ms: float,
) -> EntityFeatures:
    """Ask the store of every partition, one after the other; what one of them knows counts.

    A partition that has had no event yet has no store, and is passed.

    Parameters
    ----------
    plan : FeaturePlan
    url, name : str
        Of the stores; a partition's is called :func:`partition_store`.
    n_partitions : int
    entity, keys, at_ms
        As of :meth:`FeatureReader.read`.
    deadline_ms : float
        Of one store.

    Raises
    ------
    SentinelError
        As :class:`FeatureReader` and its ``read``; ``state-missing`` where no partition has a
        store.
    """
    whole: EntityFeatures | None = None
    lost: SentinelError | None = None
    for partition in range(n_partitions):
        try:
            reader = FeatureReader(
                plan, url=url, name=partition_store(name, partition), deadline_ms=deadline_ms
            )
        except SentinelError as error:
            if error.code is not ErrorCode.STATE_MISSING:
                raise
            lost = error
            continue
        try:
            found = reader.read(entity, keys, at_ms)
        finally:
            reader.close()
        whole = found if whole is None else _with(whole, found)
    if whole is None:
        raise lost if lost is not None else ValueError("n_partitions: expected 1 or more")
    return whole


def _with(whole: EntityFeatures, more: EntityFeatures) -> EntityFeatures:
    """Take the entities that another store knows."""
    chosen = more.is_known & ~whole.is_known
    return EntityFeatures(
        names=whole.names,
        values=np.where(chosen[:, None], more.values, whole.values),
        status=np.where(chosen[:, None], more.status, whole.status),
        is_known=whole.is_known | more.is_known,
        age_ms_max=np.where(chosen, more.age_ms_max, whole.age_ms_max),
    )
