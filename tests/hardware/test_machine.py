"""Limits are those of the process's cgroup, in both layouts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sentinel.hardware import Reading, read_machine

USABLE = len(os.sched_getaffinity(0))
MEMINFO = "MemTotal:       16000000 kB\nMemAvailable:    9000000 kB\n"


def _put(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_machine_that_says_nothing_has_its_processors(tmp_path: Path) -> None:
    """No ``/proc``, no ``/sys``: memory is not available, and that is said."""
    machine = read_machine(root=tmp_path)
    assert machine.processors == USABLE
    assert machine.memory_bytes == Reading(None)
    assert machine.memory_available_bytes == Reading(None)
    assert machine.n_threads >= 1


@pytest.mark.parametrize(
    ("files", "processors", "memory", "limited_by"),
    [
        (
            {
                "sys/fs/cgroup/cgroup.controllers": "cpu memory",
                "sys/fs/cgroup/cpu.max": "50000 100000",
                "sys/fs/cgroup/memory.max": "1073741824",
            },
            0.5,
            2**30,
            "cgroup v2",
        ),
        (
            {
                "sys/fs/cgroup/cgroup.controllers": "cpu memory",
                "sys/fs/cgroup/cpu.max": "max 100000",
                "sys/fs/cgroup/memory.max": "max",
            },
            USABLE,
            16_000_000 * 1024,
            None,
        ),
        (
            {
                "sys/fs/cgroup/cgroup.controllers": "cpu memory",
                "proc/self/cgroup": "0::/pods/one",
                "sys/fs/cgroup/pods/one/cpu.max": "max 100000",
                "sys/fs/cgroup/pods/cpu.max": "25000 100000",
                "sys/fs/cgroup/pods/one/memory.max": "4096",
                "sys/fs/cgroup/pods/memory.max": "8192",
            },
            0.25,
            4096,
            "cgroup v2",
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/a/b\n1:cpu,cpuacct:/c\n0::/",
                "sys/fs/cgroup/cpu/c/cpu.cfs_quota_us": "50000",
                "sys/fs/cgroup/cpu/c/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "1048576",
                "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": "9223372036854771712",
            },
            0.5,
            2**20,
            "cgroup v1",
        ),
        (
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            },
            USABLE,
            16_000_000 * 1024,
            None,
        ),
        (
            {
                "sys/fs/cgroup/cgroup.controllers": "",
                "sys/fs/cgroup/cpu.max": "rubbish",
                "sys/fs/cgroup/memory.max": "\x00\xff",
            },
            USABLE,
            16_000_000 * 1024,
            None,
        ),
        (
            {
                "sys/fs/cgroup/cgroup.controllers": "",
                "sys/fs/cgroup/cpu.max": "1 0",
                "proc/self/cgroup": "0::/../../etc",
            },
            USABLE,
            16_000_000 * 1024,
            None,
        ),
    ],
)
def test_the_tightest_limit_on_the_way_up_counts(
    tmp_path: Path,
    files: dict[str, str],
    processors: float,
    memory: float,
    limited_by: str | None,
) -> None:
    """Both layouts, nested groups, no limit, and rubbish."""
    machine = read_machine(root=_put(tmp_path, {"proc/meminfo": MEMINFO, **files}))
    assert machine.processors == processors
    assert machine.memory_bytes == Reading(float(memory))
    assert machine.memory_available_bytes == Reading(9_000_000 * 1024.0)
    if limited_by:
        assert machine.limited_by == limited_by


def test_half_a_processor_still_has_a_thread(tmp_path: Path) -> None:
    """Zero threads would mean "as many as the host has" to most libraries."""
    root = _put(
        tmp_path,
        {"sys/fs/cgroup/cgroup.controllers": "", "sys/fs/cgroup/cpu.max": "10000 100000"},
    )
    assert read_machine(root=root).n_threads == 1


def test_this_machine_can_be_read() -> None:
    """The real one, whatever it is."""
    machine = read_machine()
    assert 0 < machine.processors <= machine.processors_host
    assert machine.memory_bytes.value is not None
