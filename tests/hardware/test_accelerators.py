"""GPU readings are values, stale values, or not available; never a made-up zero."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from sentinel.hardware import AcceleratorProbe, Reading, probe_accelerators
from sentinel.hardware.accelerators import COMMAND, parse_cuda_version, parse_query

RECORDED = "0, NVIDIA H200, 570.86.15, 37, 18023, 143771, 41, 213.52\n"
BANNER = "| NVIDIA-SMI 570.86.15   Driver Version: 570.86.15   CUDA Version: 12.8     |\n"


def _program(folder: Path, script: str) -> str:
    path = folder / "gpu-tool"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("exit 9", "ended with status 9"),
        ("sleep 60", "did not answer within"),
        ("echo 'No devices were found'", "expected 8 fields"),
        ("echo 'a, b, c, 1, 2, 3, 4, 5'", "invalid literal"),
        ("printf '\\377\\376\\000'", "expected 8 fields"),
        ("yes | head -c 5000000", "expected 8 fields"),
    ],
)
def test_a_tool_that_fails_is_no_reading(tmp_path: Path, script: str, why: str) -> None:
    """It says why; it does not raise, and does not wait."""
    probe = probe_accelerators(command=(_program(tmp_path, script),), s_max=1.0)
    assert probe.accelerators == ()
    assert why in probe.why


def test_a_machine_without_the_tool_says_so() -> None:
    """No GPU is an answer."""
    probe = probe_accelerators(command=("no-such-gpu-tool",))
    assert probe == AcceleratorProbe(why="no-such-gpu-tool is not installed")


def test_recorded_text_is_read_with_its_units() -> None:
    """MiB become bytes, the rest stays."""
    (gpu,) = parse_query(RECORDED)
    assert (gpu.index, gpu.name, gpu.driver) == (0, "NVIDIA H200", "570.86.15")
    assert gpu.utilization_percent == Reading(37.0)
    assert gpu.memory_used_bytes == Reading(18023 * 1024.0 * 1024)
    assert gpu.temperature_c == Reading(41.0)
    assert gpu.power_w == Reading(213.52)


@pytest.mark.parametrize(
    "text",
    ["[N/A]", "[Not Supported]", "N/A", "[Unknown Error]", "", "nan", "inf", "-60",
     "9223372036854775794"],
)  # fmt: skip
def test_what_the_tool_does_not_know_is_not_available(text: str) -> None:
    """Neither zero nor 9223372036854775794 degrees."""
    (gpu,) = parse_query(f"0, H200, 570.1, {text}, {text}, 143771, {text}, {text}\n")
    assert gpu.utilization_percent.value is None
    assert gpu.temperature_c.value is None
    assert gpu.power_w.value is None
    assert gpu.temperature_c.text("°C") == "not available"


def test_zero_is_a_value() -> None:
    """An idle GPU is idle, not unknown."""
    (gpu,) = parse_query("0, H200, 570.1, 0, 0, 143771, 30, 70\n")
    assert gpu.utilization_percent == Reading(0.0)
    assert gpu.utilization_percent.text("%") == "0 %"


def test_a_probe_that_fails_after_one_that_worked_leaves_stale_values(tmp_path: Path) -> None:
    """Old numbers are shown as old."""
    script = f"if [ $# -gt 0 ]; then printf '{RECORDED}'; else printf '{BANNER}'; fi"
    program = _program(tmp_path, script)
    before = probe_accelerators(command=(program, "--query"), s_max=5.0)
    assert before.why == ""
    assert before.cuda == "12.8"
    _program(tmp_path, "exit 1")
    after = probe_accelerators(command=(program, "--query"), before=before, s_max=5.0)
    assert after.why
    assert after.cuda == "12.8"
    assert after.accelerators[0].utilization_percent == Reading(37.0, is_stale=True)
    assert after.accelerators[0].utilization_percent.text("%") == "37 % (stale)"


def test_a_missing_value_does_not_become_stale() -> None:
    """Nothing ages into nothing."""
    assert Reading(None).aged() == Reading(None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BANNER, "12.8"),
        ("CUDA UMD Version: 13.0 |", "13.0"),
        ("CUDA Version: N/A", ""),
        ("CUDA Version:", ""),
        ("", ""),
    ],
)
def test_the_cuda_version_is_found_in_the_banner(text: str, expected: str) -> None:
    """In its old and new spelling; nothing is made of anything else."""
    assert parse_cuda_version(text) == expected


def test_the_real_command_asks_for_what_is_parsed() -> None:
    """As many columns as the parser expects, without header and units."""
    query = COMMAND[1].removeprefix("--query-gpu=").split(",")
    assert len(query) == len(RECORDED.split(","))
    assert COMMAND[2] == "--format=csv,noheader,nounits"
