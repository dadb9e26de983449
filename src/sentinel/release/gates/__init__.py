"""The gates: what a release must pass before anybody is asked to approve it.

One visible list. A release that fails one can be looked at, never approved.
"""

from __future__ import annotations

from sentinel.release.gates.declared import evaluation, nulls, schema, time_travel
from sentinel.release.gates.model import champion_better, operators, outputs, parity, weights
from sentinel.release.gates.result import Draft, Gate, GateResult
from sentinel.release.gates.served import feature_parity
from sentinel.release.gates.watching import canary, canary_notices

GATES: tuple[Gate, ...] = (
    schema,
    nulls,
    time_travel,
    evaluation,
    weights,
    operators,
    parity,
    outputs,
    champion_better,
    canary,
    canary_notices,
)


def run_gates(draft: Draft) -> tuple[GateResult, ...]:
    """Ask every gate; none is skipped because another failed."""
    return tuple(gate(draft) for gate in GATES)


__all__ = ["GATES", "Draft", "Gate", "GateResult", "feature_parity", "run_gates"]
