"""One look at the system: what runs, on what, how fast, and whether anything is wrong.

The state is derived from a list of what is wrong, and from nothing else: the line
``all systems nominal`` stands there only when that list is empty and everything was known.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from sentinel.core.errors import shorten
from sentinel.environment.fingerprint import python_version
from sentinel.hardware.accelerators import AcceleratorProbe

NOMINAL = "all systems nominal"
# A feature's whole name and what is wrong with it fit; what is longer came from outside.
_TROUBLE_CHARACTERS_MAX = 500


class Health(enum.StrEnum):
    """State of the system, from best to worst."""

    HEALTHY = "HEALTHY"  # the champion answers, nothing is wrong
    DEGRADED = "DEGRADED"  # answers are right, but something is not as it should be
    DOWN = "DOWN"  # no right answers can be given


class Severity(enum.StrEnum):
    """How bad one thing is."""

    DEGRADED = "degraded"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is wrong.

    Attributes
    ----------
    what : str
        One line, for a person.
    severity : Severity
    """

    what: str
    severity: Severity = Severity.DEGRADED


@dataclass(frozen=True, slots=True)
class Status:
    """The status block, as data.

    Attributes
    ----------
    health : Health
    release : str
        Name and version of what runs; empty when nothing is loaded.
    python : str
    cuda : str
        The version the driver supports, or why there is none.
    gpu : str
        Utilisation of each GPU, or that it is not available.
    p99_s : float or None
        99th percentile of ``inference_latency_seconds``; None before the first event.
    drift_score : float or None
        ``model_prediction_drift_score``; None before the first window.
    troubles : tuple of str
        Everything that is wrong.
    """

    health: Health
    release: str
    python: str
    cuda: str
    gpu: str
    p99_s: float | None
    drift_score: float | None
    troubles: tuple[str, ...]

    @property
    def is_nominal(self) -> bool:
        """Whether nothing is wrong."""
        return self.health is Health.HEALTHY and not self.troubles

    def to_data(self) -> dict[str, object]:
        """Return plain data, for JSON."""
        data: dict[str, object] = msgspec.to_builtins(self)
        return data | {"is_nominal": self.is_nominal}

    def rows(self) -> list[tuple[str, str]]:
        """Return each line in two: what stands before a value, and the value."""
        p99 = "no events yet" if self.p99_s is None else f"{self.p99_s * 1000:.2f} ms"
        drift = "no window yet" if self.drift_score is None else f"{self.drift_score:.3f}"
        rows = [
            ("System Status: ", str(self.health)),
            ("  Model version    ", shorten(self.release) or "none loaded"),
            ("  Python           ", self.python),
            ("  CUDA             ", self.cuda),
            ("  GPU utilisation  ", self.gpu),
            ("  Latency p99      ", p99),
            ("  Prediction drift ", drift),
        ]
        rows += [
            ("  ! ", shorten(trouble, n_characters_max=_TROUBLE_CHARACTERS_MAX))
            for trouble in self.troubles
        ]
        if self.is_nominal:
            rows.append(("  ", NOMINAL))
        return rows

    def text(self) -> str:
        """Render it for a terminal: plain lines, no colour."""
        return "\n".join(before + value for before, value in self.rows())


def build_status(
    *,
    release: str,
    p99_s: float | None,
    drift_score: float | None,
    troubles: Sequence[Trouble],
    accelerators: AcceleratorProbe,
) -> Status:
    """Put the status block together; the state follows from the troubles.

    Parameters
    ----------
    release : str
        Empty when nothing is loaded, which is a trouble of its own.
    p99_s, drift_score : float or None
    troubles : sequence of Trouble
        All that is known to be wrong, worst first.
    accelerators : AcceleratorProbe
        A machine without a GPU is no trouble; a GPU that stopped answering is.

    Examples
    --------
    >>> status = build_status(release="2.5.0", p99_s=0.004, drift_score=0.02, troubles=(),
    ...                       accelerators=AcceleratorProbe(why="nvidia-smi is not installed"))
    >>> status.text().splitlines()[0], status.is_nominal
    ('System Status: HEALTHY', True)
    """
    found = list(troubles)
    if not release:
        found.insert(0, Trouble("no release is loaded", Severity.DOWN))
    if accelerators.accelerators and accelerators.why:
        found.append(Trouble(f"GPU readings are stale: {accelerators.why}"))
    is_down = any(trouble.severity is Severity.DOWN for trouble in found)
    return Status(
        health=Health.DOWN if is_down else Health.DEGRADED if found else Health.HEALTHY,
        release=release,
        python=python_version(),
        cuda=accelerators.cuda or _absent(accelerators),
        gpu=_utilisation(accelerators),
        p99_s=p99_s,
        drift_score=drift_score,
        troubles=tuple(trouble.what for trouble in found),
    )


def _absent(probe: AcceleratorProbe) -> str:
    return f"not available ({probe.why})" if probe.why else "not available"


def _utilisation(probe: AcceleratorProbe) -> str:
    if not probe.accelerators:
        return _absent(probe)
    return ", ".join(
        f"{gpu.index}: {gpu.utilization_percent.text('%')}" for gpu in probe.accelerators
    )
