"""What a gate says, and what it looks at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from sentinel.release.candidate import Candidate
from sentinel.scoring.canary import Canary
from sentinel.scoring.session import ModelSession


class GateResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One gate's verdict.

    Attributes
    ----------
    name : str
    passed : bool
    measured : float or None
        None where nothing could be measured.
    limit : float
        What ``measured`` is held against; ``detail`` says how.
    detail : str
        One sentence for people: what was looked at, and the first thing that is wrong.
    """

    name: str
    passed: bool
    measured: float | None
    limit: float
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A candidate, and what was made of it so far.

    Attributes
    ----------
    candidate : Candidate
    model : bytes
        ONNX; empty where it could not be written.
    session : ModelSession or None
        Of exactly these bytes; None where they were not admitted.
    canary : Canary or None
        None where it could not be recorded.
    problems : mapping of str to str
        Why something is missing: ``export``, ``admission``, ``canary``, ``reference``.
    """

    candidate: Candidate
    model: bytes
    session: ModelSession | None
    canary: Canary | None
    problems: Mapping[str, str]


Gate = Callable[[Draft], GateResult]


def verdict(
    name: str, *, passed: bool, measured: float | None, limit: float, detail: str
) -> GateResult:
    """Make a result; a number that is not finite counts as not measured."""
    shown = None if measured is None or not abs(measured) < float("inf") else float(measured)
    return GateResult(
        name=name, passed=bool(passed), measured=shown, limit=float(limit), detail=detail
    )
