"""What the software stands on, as data, and the digest that every decision record carries.

Two processes with the same digest compute the same bits: same Python, same versions of the
libraries that compute, same class of processor instructions, same C library.
"""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import msgspec

from sentinel.core.hashing import sha256_of

# Distributions that take part in computing a decision; others cannot change one.
COMPUTING_PACKAGES = (
    "sentinel",
    "llvmlite",
    "msgspec",
    "numba",
    "numpy",
    "onnxruntime",
    "pyarrow",
)
# Instruction sets that change which kernel a library picks, weakest first.
_CLASSES = (
    ("x86-64-v2", ("ssse3", "sse4_1", "sse4_2", "popcnt")),
    ("x86-64-v3", ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe")),
    ("x86-64-v4", ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")),
)
_EXTENSIONS = ("avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm", "sve")
_CPU_INFO_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Environment:
    """What the software stands on.

    Attributes
    ----------
    python : str
        Implementation and version.
    system, machine : str
        Kernel name and architecture, such as ``Linux`` and ``x86_64``.
    c_library : str
        Name and version, such as ``glibc 2.36``; empty where it cannot be told.
    processor_class : str
        Micro-architecture level and the extensions that pick kernels (see :func:`processor_class`).
    packages : dict of str to str
        Version of each installed distribution of :data:`COMPUTING_PACKAGES`.
    """

    python: str
    system: str
    machine: str
    c_library: str
    processor_class: str
    packages: dict[str, str]

    def to_data(self) -> dict[str, object]:
        """Return plain data."""
        data: dict[str, object] = msgspec.to_builtins(self)
        return data

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON of the data."""
        return sha256_of(self.to_data())


def read_environment(*, cpu_info: Path = Path("/proc/cpuinfo")) -> Environment:
    """Look at what this process runs on; a few milliseconds.

    Parameters
    ----------
    cpu_info : Path
        Where the kernel describes the processors; may be absent.
    """
    try:
        with cpu_info.open(encoding="utf-8", errors="replace") as file:
            description = file.read(_CPU_INFO_BYTES_MAX)
    except OSError:
        description = ""
    return Environment(
        python=f"{platform.python_implementation()} {platform.python_version()}",
        system=platform.system(),
        machine=platform.machine(),
        c_library=" ".join(platform.libc_ver()).strip(),
        processor_class=processor_class(description, machine=platform.machine()),
        packages=versions(COMPUTING_PACKAGES),
    )


def versions(names: tuple[str, ...]) -> dict[str, str]:
    """Return the version of each of these distributions that is installed."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def processor_class(description: str, *, machine: str) -> str:
    """Name the class of instructions that a processor offers.

    Parameters
    ----------
    description : str
        Text of ``/proc/cpuinfo``.
    machine : str
        Architecture, for a processor that says nothing.

    Returns
    -------
    str
        The highest level of the x86-64 psABI whose flags are all there, followed by the
        extensions that matter to matrix kernels.

    Examples
    --------
    >>> processor_class("flags : ssse3 sse4_1 sse4_2 popcnt", machine="x86_64")
    'x86-64-v2'
    """
    flags: set[str] = set()
    for line in description.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"flags", "Features"}:
            flags = set(value.split())
            break
    level = machine
    for name, needed in _CLASSES:
        if not flags.issuperset(needed):
            break
        level = name
    return "+".join([level, *(name for name in _EXTENSIONS if name in flags)])


def python_version() -> str:
    """Return the version of the interpreter, for people."""
    return ".".join(str(part) for part in sys.version_info[:3])
