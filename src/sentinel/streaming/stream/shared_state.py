"""The state of a stream worker whose features live in Redis.

Feature state and positions are in the store. A folder on this machine holds what is of this worker
alone: how far its outputs are safe, what it was doing when it died, which events kill. A folder
that is lost costs decisions that come out a second time, with the same ids, and nothing else.

Two workers of one partition cannot spoil anything, frozen ones included: the store takes each
position once, whoever sends it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sentinel.core.files import lock_folder
from sentinel.features import FeaturePlan
from sentinel.features.stores.choice import StoreChoice, redis_settings
from sentinel.features.stores.embedded import Durability
from sentinel.streaming.stream.state import StreamState
from sentinel.streaming.stream.stores import SharedStreamStore


class SharedState(StreamState):
    """A store in Redis, and the folder of this worker.

    Parameters
    ----------
    plan : FeaturePlan
    folder : Path
        Of this worker alone.
    choice : StoreChoice
        Of a store in Redis.
    part : str
        Of the topic: each has a store of its own, with this behind its name; empty for the whole.
    wait : callable, optional
        Waits so many seconds after a death in mid-batch; by default it sleeps.

    Raises
    ------
    SentinelError
        What :class:`RedisStore` raises; ``state-locked`` while another worker has the folder.
    """

    def __init__(
        self,
        plan: FeaturePlan,
        folder: Path,
        choice: StoreChoice,
        *,
        part: str = "",
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        settings = redis_settings(choice, plan)
        name = f"{settings.name}.{part}" if part else settings.name
        self._settings = replace(settings, name=name)
        # A mark that a power cut takes costs decisions that come out twice: it is not synced.
        super().__init__(plan, folder, durability=Durability.PROCESS, wait=wait)

    def _open(self, plan: FeaturePlan) -> SharedStreamStore:
        """Lock the folder and open it; then the store."""
        self._lock = lock_folder(
            self.folder,
            owner="worker",
            hint="Stop the other worker, or give this one a folder of its own: worker_folder.",
        )
        is_open = False
        try:
            self._open_folder()
            store = SharedStreamStore(plan, self._settings)
            is_open = True
        finally:
            if not is_open:
                os.close(self._lock)
        return store

    def close(self) -> None:
        """Let go of the store and of the folder."""
        if self._is_closed:
            return
        try:
            super().close()
        finally:
            os.close(self._lock)
