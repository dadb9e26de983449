"""The immutable, code-free folder that runs: build, gates, approvals, verification."""

from __future__ import annotations

from sentinel.release.approvals import Fault, Judgement, Standing, Terms
from sentinel.release.build import BuiltRelease, build_release
from sentinel.release.candidate import (
    Candidate,
    LaterPart,
    ParitySample,
    Provenance,
    ReferenceRows,
    TimeTravel,
)
from sentinel.release.champion import Linear, OnnxModel, TreeEnsemble
from sentinel.release.gates import GATES, GateResult
from sentinel.release.keys import SigningKey, create_key, load_key
from sentinel.release.load import LoadedRelease, approve_release, load_release, verify_release
from sentinel.release.manifest import Manifest
from sentinel.release.pipeline import Label, Pipeline
from sentinel.release.registry import Current, Registry
from sentinel.release.statements import Statement
from sentinel.release.trust import Role, Rules, Trust, TrustedKey, trust_entry

__all__ = [
    "GATES",
    "BuiltRelease",
    "Candidate",
    "Current",
    "Fault",
    "GateResult",
    "Judgement",
    "Label",
    "LaterPart",
    "Linear",
    "LoadedRelease",
    "Manifest",
    "OnnxModel",
    "ParitySample",
    "Pipeline",
    "Provenance",
    "ReferenceRows",
    "Registry",
    "Role",
    "Rules",
    "SigningKey",
    "Standing",
    "Statement",
    "Terms",
    "TimeTravel",
    "TreeEnsemble",
    "Trust",
    "TrustedKey",
    "approve_release",
    "build_release",
    "create_key",
    "load_key",
    "load_release",
    "trust_entry",
    "verify_release",
]
