"""The GPUs of a machine in the metrics: asked now and then, in a thread that nobody waits for."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sentinel.core import limits
from sentinel.hardware import AcceleratorProbe, probe_accelerators
from sentinel.hardware.accelerators import COMMAND
from sentinel.monitoring.metrics import Metrics


@contextmanager
def watched_accelerators(
    metrics: Metrics,
    *,
    command: tuple[str, ...] = COMMAND,
    every_s: float = limits.ACCELERATOR_PROBE_S,
) -> Iterator[None]:
    """Keep the readings of the GPUs in the metrics; without the program that knows them, nothing.

    Parameters
    ----------
    metrics : Metrics
    command : tuple of str
        As :func:`probe_accelerators` takes it.
    every_s : float
        Seconds between two probes.
    """
    if shutil.which(command[0]) is None:
        yield
        return
    stop = threading.Event()

    def watch() -> None:
        probe = AcceleratorProbe()
        while not stop.is_set():
            probe = probe_accelerators(command=command, before=probe)
            metrics.record_accelerators(probe)
            stop.wait(every_s)

    thread = threading.Thread(target=watch, name="accelerators", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(2 * limits.PROBE_S_MAX)
