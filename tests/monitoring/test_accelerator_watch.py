"""GPUs in the metrics, by a program that answers as the real one does."""

from __future__ import annotations

import threading
from pathlib import Path

from sentinel.monitoring.accelerator_watch import watched_accelerators
from sentinel.monitoring.metrics import Metrics
from sentinel.testing import wait_until

USED, SHARE = "sentinel_gpu_memory_used_bytes", "sentinel_gpu_utilization_ratio"


def _program(folder: Path) -> Path:
    """Make a program that says what stands in a file beside it."""
    path = folder / "gpu-tool"
    path.write_text(f"#!/bin/sh\ncat {folder}/answer\n")
    path.chmod(0o755)
    return path


def _wait_for(metrics: Metrics, name: str, value: float | None) -> None:
    def now() -> float | None:
        return metrics.value(name, gpu="0")

    wait_until(lambda: now() == value, detail=now)


def test_readings_come_change_and_are_absent_when_they_are_old(tmp_path: Path) -> None:
    program, answer = _program(tmp_path), tmp_path / "answer"
    answer.write_text("0, NVIDIA H200, 570.86.15, 50, 1, 143771, 41, 213.52\n")
    metrics = Metrics(with_process=False)
    with watched_accelerators(metrics, command=(str(program),), every_s=0.02):
        _wait_for(metrics, SHARE, 0.5)
        _wait_for(metrics, USED, 1 << 20)
        answer.write_text("0, NVIDIA H200, 570.86.15, 75, 2, 143771, 41, 213.52\n")
        _wait_for(metrics, SHARE, 0.75)
        answer.write_text("no GPU answers\n")
        _wait_for(metrics, SHARE, None)
        _wait_for(metrics, USED, None)
    assert "accelerators" not in {thread.name for thread in threading.enumerate()}


def test_a_machine_without_the_program_has_no_thread_for_it() -> None:
    metrics = Metrics(with_process=False)
    with watched_accelerators(metrics, command=("no-such-gpu-tool",)):
        assert "accelerators" not in {thread.name for thread in threading.enumerate()}
    assert metrics.value(SHARE, gpu="0") is None
