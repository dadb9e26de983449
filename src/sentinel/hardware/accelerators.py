"""What the GPUs say, through ``nvidia-smi``: bounded in time and bytes, never believed blindly.

``nvidia-smi`` writes ``[N/A]``, ``[Not Supported]`` or ``[Unknown Error]`` where it does not know;
such a field is *not available*. A probe that fails leaves the values of the one before, *stale*.
"""

from __future__ import annotations

import csv
import io
import math
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from sentinel.core import limits
from sentinel.core.errors import shorten
from sentinel.hardware.reading import Reading

_QUERY = (
    "index", "name", "driver_version", "utilization.gpu", "memory.used", "memory.total",
    "temperature.gpu", "power.draw",
)  # fmt: skip
COMMAND = ("nvidia-smi", f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits")
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One GPU at one moment.

    Attributes
    ----------
    index : int
    name, driver : str
    utilization_percent, memory_used_bytes, memory_total_bytes, temperature_c, power_w : Reading
    """

    index: int
    name: str
    driver: str
    utilization_percent: Reading
    memory_used_bytes: Reading
    memory_total_bytes: Reading
    temperature_c: Reading
    power_w: Reading

    def aged(self) -> Accelerator:
        """Return it as what is left after a failed probe."""
        return replace(
            self,
            utilization_percent=self.utilization_percent.aged(),
            memory_used_bytes=self.memory_used_bytes.aged(),
            memory_total_bytes=self.memory_total_bytes.aged(),
            temperature_c=self.temperature_c.aged(),
            power_w=self.power_w.aged(),
        )


@dataclass(frozen=True, slots=True)
class AcceleratorProbe:
    """What a probe gave.

    Attributes
    ----------
    accelerators : tuple of Accelerator
    cuda : str
        The CUDA version that the driver supports; empty where it is not known.
    why : str
        Why nothing, or nothing new, is known; empty when the probe worked.
    """

    accelerators: tuple[Accelerator, ...] = ()
    cuda: str = ""
    why: str = ""


def probe_accelerators(
    *,
    command: tuple[str, ...] = COMMAND,
    before: AcceleratorProbe | None = None,
    s_max: float = limits.PROBE_S_MAX,
) -> AcceleratorProbe:
    """Ask the GPUs how they are; never raises, never waits longer than told.

    Parameters
    ----------
    command : tuple of str
        A program that answers like ``nvidia-smi --query-gpu=… --format=csv,noheader,nounits``.
    before : AcceleratorProbe, optional
        What is shown, as stale, when this probe fails.
    s_max : float
        Seconds.
    """
    program, name = shutil.which(command[0]), Path(command[0]).name
    if program is None:
        return _failed(f"{name} is not installed", before)
    try:
        answer = _ask((program, *command[1:]), s_max)
        accelerators = parse_query(answer)
        cuda = parse_cuda_version(_ask((program,), s_max)) if accelerators else ""
    except subprocess.TimeoutExpired:
        return _failed(f"{name} did not answer within {s_max:g} s", before)
    except subprocess.CalledProcessError as error:
        return _failed(f"{name} ended with status {error.returncode}", before)
    except (OSError, ValueError) as error:
        return _failed(shorten(f"{name}: {error}"), before)
    return AcceleratorProbe(accelerators, cuda)


def parse_query(text: str) -> tuple[Accelerator, ...]:
    """Read the rows of ``nvidia-smi --query-gpu``.

    Raises
    ------
    ValueError
        For a row with another number of fields, or an index that is no number.
    """
    found = []
    for row in csv.reader(io.StringIO(text), skipinitialspace=True):
        if not row:
            continue
        if len(row) != len(_QUERY):
            raise ValueError(f"expected {len(_QUERY)} fields, got {len(row)}")
        index, name, driver, *values = (field.strip() for field in row)
        utilization, used, total, temperature, power = (_number(value) for value in values)
        found.append(
            Accelerator(
                index=int(index),
                name=shorten(name),
                driver=shorten(driver),
                utilization_percent=_reading(utilization, high=100),
                memory_used_bytes=_reading(used, factor=_MIB),
                memory_total_bytes=_reading(total, factor=_MIB),
                temperature_c=_reading(temperature, low=-50, high=200),
                power_w=_reading(power, high=10_000),
            )
        )
    return tuple(found[: limits.ACCELERATORS_MAX])


def parse_cuda_version(text: str) -> str:
    """Find the CUDA version in the banner of ``nvidia-smi``; empty where there is none."""
    for label in ("CUDA Version:", "CUDA UMD Version:"):
        _, found, rest = text.partition(label)
        if found and rest.split():
            version = rest.split()[0]
            return version if version.replace(".", "").isdigit() else ""
    return ""


def _ask(command: tuple[str, ...], s_max: float) -> str:
    done = subprocess.run(  # noqa: S603 -- a fixed program with fixed arguments
        command, capture_output=True, timeout=s_max, check=True, stdin=subprocess.DEVNULL
    )
    return done.stdout[: limits.PROBE_BYTES_MAX].decode(errors="replace")


def _failed(why: str, before: AcceleratorProbe | None) -> AcceleratorProbe:
    kept = before or AcceleratorProbe()
    return AcceleratorProbe(tuple(a.aged() for a in kept.accelerators), kept.cuda, why)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _reading(
    value: float | None, *, factor: float = 1, low: float = 0, high: float = 1e9
) -> Reading:
    """Keep a value that can be; 9223372036854775794 degrees cannot."""
    return Reading(value * factor if value is not None and low <= value <= high else None)
