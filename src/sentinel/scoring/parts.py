"""What a scorer is built from, and where what it produces goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sentinel.contract.refusal import Refusal
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features import FeaturePlan
from sentinel.monitoring.log_records import LogRecords
from sentinel.monitoring.metrics import Metrics
from sentinel.monitoring.reference import Reference
from sentinel.scoring.canary import Canary
from sentinel.scoring.fallback import LinearFallback
from sentinel.scoring.policy import Policy


class RefusalSink(Protocol):
    """Where refused events are kept: a :class:`sentinel.contract.Quarantine`."""

    def put(self, refusals: Sequence[Refusal]) -> None:
        """Keep them; raises when it cannot, and then none was kept."""


class DecisionSink(Protocol):
    """Where decisions are kept: a :class:`sentinel.monitoring.decision_log.DecisionLog`."""

    def append(self, records: LogRecords) -> None:
        """Keep them; raises when it cannot, and then none was kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sinks:
    """Where things go.

    Attributes
    ----------
    refusals : RefusalSink
    decisions : DecisionSink or None
    metrics : Metrics
    """

    refusals: RefusalSink
    decisions: DecisionSink | None
    metrics: Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerParts:
    """What a release is, once verified and read.

    Attributes
    ----------
    plan : FeaturePlan
        With the contracts of events and feedback in its feature set.
    champion : bytes
        The ONNX model.
    fallback : LinearFallback
    policy : Policy
        With its thresholds resolved.
    canary : Canary
    reference : Reference or None
        What drift is measured against; None: it is not measured.
    release, release_digest : str
        Name, and digest of the manifest.

    Raises
    ------
    SentinelError
        ``policy-invalid``, ``fallback-invalid``, ``canary-invalid`` when the parts do not belong
        together.
    """

    plan: FeaturePlan
    champion: bytes
    fallback: LinearFallback
    policy: Policy
    canary: Canary
    reference: Reference | None
    release: str
    release_digest: str

    def __post_init__(self) -> None:
        """Refuse parts of different releases."""
        self.policy.thresholds()
        names = self.plan.names
        for code, at, features in (
            (ErrorCode.FALLBACK_INVALID, "fallback.features", self.fallback.features),
            (ErrorCode.CANARY_INVALID, "canary.features", self.canary.features),
        ):
            if features != names:
                raise SentinelError(
                    code, at=at, expected=f"{', '.join(names)}", got=", ".join(features)
                )

    def entity_field(self) -> str:
        """Name the field that says whose an event is, for the rule on insane outputs.

        Raises
        ------
        SentinelError
            ``policy-invalid`` when the policy names a field that the contract lacks.
        """
        schema = self.plan.features.events
        wanted = self.policy.insane.entity
        if wanted and wanted not in {field.name for field in schema.fields}:
            raise SentinelError(
                ErrorCode.POLICY_INVALID,
                at="policy.insane.entity",
                expected=f"a field of {schema.name}",
                got=wanted,
            )
        if wanted:
            return wanted
        return schema.keys[0].name if schema.keys else schema.event_id.name
