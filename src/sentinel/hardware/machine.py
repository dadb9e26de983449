"""What this process may use: processors and memory by its cgroup, not by the host.

Both layouts are read: v2 (``cpu.max``, ``memory.max``) and v1 (``cpu.cfs_quota_us``,
``memory.limit_in_bytes``), from the cgroup of the process up to the root; the tightest limit
counts.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sentinel.hardware.reading import Reading

# Limits at or above this mean "none": v1 writes the largest page-aligned int64.
_NO_LIMIT_BYTES = 1 << 60
_MIB = 1024 * 1024
_LEVELS_MAX = 64


@dataclass(frozen=True, slots=True)
class Machine:
    """What this process may use.

    Attributes
    ----------
    processors : float
        Of the quota and the affinity, the smaller; may be a fraction.
    processors_host : int
    memory_bytes : Reading
        Of the limit and the memory of the host, the smaller.
    memory_available_bytes : Reading
        Free for new work on the host, now.
    limited_by : str
        ``cgroup v2``, ``cgroup v1``, ``affinity`` or ``nothing``.
    """

    processors: float
    processors_host: int
    memory_bytes: Reading
    memory_available_bytes: Reading
    limited_by: str

    @property
    def n_threads(self) -> int:
        """Threads that compute at once: whole processors, at least one."""
        return max(1, int(self.processors))


def read_machine(*, root: Path = Path("/")) -> Machine:
    """Look at the limits of this process.

    Parameters
    ----------
    root : Path
        Where ``proc`` and ``sys`` are; another in tests.
    """
    quotas = _limits_v2(root) or _limits_v1(root)
    usable = len(os.sched_getaffinity(0))
    host = os.cpu_count() or usable
    processors, limited_by = float(usable), "affinity" if usable < host else "nothing"
    memory = _memory(root, "MemTotal")
    if quotas is not None:
        version, quota, limit = quotas
        if quota is not None and quota < processors:
            processors, limited_by = quota, version
        if limit is not None and (memory is None or limit < memory):
            memory = limit
    return Machine(
        processors=processors,
        processors_host=host,
        memory_bytes=Reading(memory),
        memory_available_bytes=Reading(_memory(root, "MemAvailable")),
        limited_by=limited_by,
    )


_Limits = tuple[str, float | None, float | None]


def _limits_v2(root: Path) -> _Limits | None:
    folder = root / "sys/fs/cgroup"
    if not (folder / "cgroup.controllers").exists():
        return None
    quotas, sizes = [], []
    for level in _levels(folder, _own_group(root, "")):
        quota, _, period = _read(level / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit() and int(period) > 0:
            quotas.append(int(quota) / int(period))
        sizes.append(_size(level / "memory.max"))
    return "cgroup v2", min(quotas, default=None), _least(sizes)


def _limits_v1(root: Path) -> _Limits | None:
    folder = root / "sys/fs/cgroup"
    if not (folder / "cpu").exists() and not (folder / "memory").exists():
        return None
    quotas = []
    for level in _levels(folder / "cpu", _own_group(root, "cpu")):
        quota = _read(level / "cpu.cfs_quota_us")
        period = _read(level / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period) > 0:
            quotas.append(int(quota) / int(period))
    sizes = [
        _size(level / "memory.limit_in_bytes")
        for level in _levels(folder / "memory", _own_group(root, "memory"))
    ]
    return "cgroup v1", min(quotas, default=None), _least(sizes)


def _own_group(root: Path, controller: str) -> str:
    """Return the path of this process's group; empty where it cannot be told."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if controller in names.split(","):
            return path.strip("/")
    return ""


def _levels(folder: Path, group: str) -> list[Path]:
    """List a group's folder and those above it; in a container only the mount may be there."""
    parts = [part for part in group.split("/") if part not in {"", ".", ".."}][:_LEVELS_MAX]
    return [folder.joinpath(*parts[:n]) for n in range(len(parts), -1, -1)]


def _least(sizes: list[float | None]) -> float | None:
    return min((size for size in sizes if size is not None), default=None)


def _size(path: Path) -> float | None:
    text = _read(path)
    return float(text) if text.isdigit() and int(text) < _NO_LIMIT_BYTES else None


def _memory(root: Path, name: str) -> float | None:
    for line in _read(root / "proc/meminfo").splitlines():
        key, _, value = line.partition(":")
        number = value.split()
        if key == name and number and number[0].isdigit():
            return float(number[0]) * 1024
    return None


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(_MIB).strip()
    except OSError:
        return ""
