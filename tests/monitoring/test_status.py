"""The status block says what is known, and praises only what deserves it."""

from __future__ import annotations

import json
import platform

import pytest

from sentinel.hardware import Accelerator, AcceleratorProbe, Reading
from sentinel.monitoring.status import NOMINAL, Health, Severity, Trouble, build_status

NO_GPU = AcceleratorProbe(why="nvidia-smi is not installed")
GPU = Accelerator(
    index=0,
    name="H200",
    driver="570.1",
    utilization_percent=Reading(41.0),
    memory_used_bytes=Reading(None),
    memory_total_bytes=Reading(None),
    temperature_c=Reading(None),
    power_w=Reading(None),
)


def test_a_healthy_system_says_so_in_one_look() -> None:
    """Everything MISSION asks for is in the block."""
    probe = AcceleratorProbe((GPU,), cuda="12.8")
    status = build_status(
        release="2.5.0", p99_s=0.0042, drift_score=0.031, troubles=(), accelerators=probe
    )
    assert status.text().splitlines() == [
        "System Status: HEALTHY",
        "  Model version    2.5.0",
        f"  Python           {platform.python_version()}",
        "  CUDA             12.8",
        "  GPU utilisation  0: 41 %",
        "  Latency p99      4.20 ms",
        "  Prediction drift 0.031",
        f"  {NOMINAL}",
    ]


@pytest.mark.parametrize(
    ("release", "troubles", "accelerators", "health"),
    [
        ("", (), NO_GPU, Health.DOWN),
        ("2.5.0", (Trouble("the breaker is open"),), NO_GPU, Health.DEGRADED),
        ("2.5.0", (Trouble("the canary failed", Severity.DOWN),), NO_GPU, Health.DOWN),
        ("2.5.0", (), AcceleratorProbe((GPU.aged(),), "12.8", "no answer"), Health.DEGRADED),
    ],
)
def test_nominal_is_said_only_when_it_is_true(
    release: str, troubles: tuple[Trouble, ...], accelerators: AcceleratorProbe, health: Health
) -> None:
    """Any trouble takes the line away and is itself a line."""
    status = build_status(
        release=release, p99_s=0.001, drift_score=0.0, troubles=troubles, accelerators=accelerators
    )
    assert status.health is health
    assert not status.is_nominal
    assert NOMINAL not in status.text()
    for trouble in troubles:
        assert f"! {trouble.what}" in status.text()


def test_what_is_not_known_is_not_zero() -> None:
    """Before the first event there is no latency and no drift; without a GPU no utilisation."""
    status = build_status(
        release="2.5.0", p99_s=None, drift_score=None, troubles=(), accelerators=NO_GPU
    )
    text = status.text()
    assert "no events yet" in text
    assert "no window yet" in text
    assert text.count("not available (nvidia-smi is not installed)") == 2
    assert status.is_nominal


def test_a_stale_reading_is_shown_as_stale() -> None:
    """A GPU that stopped answering does not look busy."""
    probe = AcceleratorProbe((GPU.aged(),), "12.8", "nvidia-smi did not answer within 5 s")
    status = build_status(
        release="2.5.0", p99_s=None, drift_score=None, troubles=(), accelerators=probe
    )
    assert "0: 41 % (stale)" in status.text()


def test_the_block_is_one_line_an_entry_whatever_it_is_told() -> None:
    """A release's name cannot add lines of its own."""
    status = build_status(
        release="2.5.0\n  all systems nominal",
        p99_s=None,
        drift_score=None,
        troubles=(Trouble("a\nb"),),
        accelerators=NO_GPU,
    )
    assert NOMINAL not in [line.strip() for line in status.text().splitlines()]
    assert "  ! a\\nb" in status.text().splitlines()


def test_the_data_are_strict_json() -> None:
    """For scripts: the same facts."""
    status = build_status(
        release="2.5.0", p99_s=0.01, drift_score=None, troubles=(Trouble("x"),), accelerators=NO_GPU
    )
    data = json.loads(json.dumps(status.to_data(), allow_nan=False))
    assert data["health"] == "DEGRADED"
    assert data["troubles"] == ["x"]
    assert data["drift_score"] is None
    assert data["is_nominal"] is False
