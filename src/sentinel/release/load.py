"""Loading: from a folder to a scorer, everything verified before anything is parsed.

1. Every byte is read once into memory, plain files only (:mod:`sentinel.release.folder`).
2. The manifest's hashes and the set of files hold; statements are whole and of this release.
3. The statements are judged by the trust file. Without approval nothing further happens, unless
   the caller asked to look at it unapproved.
4. Only now are the files parsed: JSON in canonical form into declared types, ONNX by the
   allow-list. They must belong together, and be what the manifest says.

No step runs code of the folder or imports anything by name. The bytes that were hashed are the
bytes that are used: nothing is read twice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import msgspec

from sentinel.contract import ContractSchema
from sentinel.core.clock import Clock
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.files import sync_folder, write_atomically
from sentinel.features import Engine, FeatureSet, compile_plan
from sentinel.monitoring.drift import DriftSettings
from sentinel.monitoring.reference import Reference
from sentinel.release.approvals import (
    Judgement,
    Standing,
    Terms,
    approve,
    judge,
    read_statements,
)
from sentinel.release.explanation_data import FILE_NAME as EXPLANATION_NAME
from sentinel.release.explanation_data import ExplanationData, read_explanation
from sentinel.release.folder import Contents, parse_json, read_folder
from sentinel.release.gates.result import GateResult
from sentinel.release.keys import SigningKey
from sentinel.release.manifest import SIGNATURES_NAME, Manifest
from sentinel.release.operators import Admitted, admit
from sentinel.release.statements import Statement
from sentinel.release.trust import APPROVALS, Role, Trust
from sentinel.scoring.canary import Canary
from sentinel.scoring.fallback import LinearFallback
from sentinel.scoring.parts import ScorerParts, Sinks
from sentinel.scoring.policy import Policy
from sentinel.scoring.scorer import Scorer

T = TypeVar("T")

# Gates that a release of format 1 must have passed to be approved; later ones come with formats.
GATES_REQUIRED = frozenset(
    {
        "canary",
        "canary_notices",
        "champion_better",
        "evaluation",
        "nulls",
        "operators",
        "outputs",
        "parity",
        "schema",
        "time_travel",
        "weights",
    }
)


class Evaluation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Both models on the later part, for people.

    Attributes
    ----------
    from_ms, until_ms, trained_until_ms : int
        Milliseconds since the epoch.
    metrics : dict of str to (dict of str to float)
        By model: ``champion``, ``fallback``.
    """

    from_ms: int
    until_ms: int
    trained_until_ms: int
    metrics: dict[str, dict[str, float]]


class GateReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What ``gates.json`` holds.

    Attributes
    ----------
    format : int
    gates : tuple of GateResult
    evaluation : Evaluation
    """

    format: int
    gates: tuple[GateResult, ...]
    evaluation: Evaluation

    @property
    def failed(self) -> tuple[str, ...]:
        """Gates that failed, and gates that nobody asked."""
        asked = {gate.name for gate in self.gates}
        failed = {gate.name for gate in self.gates if not gate.passed}
        return tuple(sorted(failed | (GATES_REQUIRED - asked)))


class LabelData(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the model learned: names of fields of the feedback contract.

    Attributes
    ----------
    of, event : str
    delay_ms : int
    """

    of: str
    event: str
    delay_ms: int


class _ContractFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    events: dict[str, object]
    feedback: dict[str, object] | None
    label: LabelData


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedRelease:
    """A release in memory: verified, judged, read.

    Attributes
    ----------
    manifest : Manifest
    digest : str
        SHA-256 of the manifest; what decisions carry.
    judgement : Judgement
        Who approved it, and what is missing.
    gates : GateReport
    label : LabelData
    events, feedback : ContractSchema
        Contracts; ``feedback`` may be None.
    parts : ScorerParts
        What a scorer is made of.
    admitted : Admitted
        What is known of the champion's ONNX.
    folder : Path
        Where it was read from, for another process to read it again.
    explanation : ExplanationData or None
        What explanations need beside the model; None: it was built without.
    """

    manifest: Manifest
    digest: str
    judgement: Judgement
    gates: GateReport
    label: LabelData
    events: ContractSchema
    feedback: ContractSchema | None
    parts: ScorerParts
    admitted: Admitted
    folder: Path
    explanation: ExplanationData | None

    @property
    def standing(self) -> Standing:
        """How it stands; belongs on every page, status line and metric."""
        return self.judgement.standing

    def open_scorer(
        self,
        sinks: Sinks,
        *,
        clock: Clock | None = None,
        engine: Engine | None = None,
        drift: DriftSettings | None = None,
    ) -> Scorer:
        """Make a scorer of this release.

        Parameters
        ----------
        sinks : Sinks
            Where refused events, decisions and numbers go.
        clock : Clock, optional
        engine : Engine, optional
            Feature state to go on with; a fresh one otherwise.
        drift : DriftSettings, optional
            How drift from the release's reference is watched.
        """
        return Scorer(self.parts, sinks, clock=clock, engine=engine, drift=drift)


def load_release(
    folder: Path,
    trust: Trust | None,
    *,
    now_ms: int,
    allow_unapproved: bool = False,
    sequence_min: int = 0,
) -> LoadedRelease:
    """Verify and read a release; the only way to one.

    Parameters
    ----------
    folder : Path
        The release folder itself.
    trust : Trust or None
        Whose approvals count; None: nobody's.
    now_ms : int
        Milliseconds since the epoch.
    allow_unapproved : bool
        Read it although it is not approved; :attr:`LoadedRelease.standing` then says so.
    sequence_min : int
        Sequence number of the last deployment here.

    Raises
    ------
    SentinelError
        ``release-missing``, ``release-structure``, ``release-corrupt``,
        ``release-format-unknown``, ``release-signature-invalid``, ``release-not-approved``,
        ``release-not-admitted``, and what the parts raise.
    """
    contents = read_folder(folder)
    found = read_statements(contents.signatures, contents.manifest)
    # Gates are judged with the approvals: this one small file is parsed before, its hash holds.
    gates = _typed(contents, "gates.json", GateReport)
    judgement = judge(
        contents.manifest,
        found,
        trust,
        failed_gates=gates.failed,
        now_ms=now_ms,
        sequence_min=sequence_min,
    )
    if not allow_unapproved:
        judgement.require(contents.manifest.label)
    return _read(contents, judgement, gates, folder)


def verify_release(
    folder: Path, trust: Trust | None, *, now_ms: int, sequence_min: int = 0
) -> LoadedRelease:
    """Do everything that loading does and report how the release stands, approved or not.

    Raises
    ------
    SentinelError
        As :func:`load_release`, but never ``release-not-approved``.
    """
    return load_release(
        folder, trust, now_ms=now_ms, allow_unapproved=True, sequence_min=sequence_min
    )


def approve_release(folder: Path, key: SigningKey, *, role: Role, terms: Terms) -> Statement:
    """Sign an approval into a release folder.

    Parameters
    ----------
    folder : Path
    key : SigningKey
        Not the builder's.
    role : Role
        ``data``, ``weights`` or ``deploy``.
    terms : Terms
        Its sequence number is raised above every approval in the folder, and to the time.

    Raises
    ------
    SentinelError
        ``release-gate-failed`` for a release that failed a gate; ``release-not-approved`` when
        the builder would approve his own work, or deployment is asked before data and weights;
        all that verifying raises.
    """
    loaded = verify_release(folder, None, now_ms=terms.issued_at_ms)
    statements = loaded.judgement.statements
    label = loaded.manifest.label
    if loaded.gates.failed:
        raise SentinelError(
            ErrorCode.RELEASE_GATE_FAILED,
            at=label,
            expected="every gate passed",
            got=", ".join(loaded.gates.failed),
        )
    if role not in APPROVALS:
        raise _not_approved(f"{label}: {role}", "data, weights or deploy", role)
    build = statements.get(Role.BUILD)
    if build is None:
        raise _not_approved(f"{label}: build", "the builder's own statement", "none")
    if key.key_id == build.key_id or key.person == build.person:
        raise _not_approved(f"{label}: {role}", f"somebody other than {build.person}", key.person)
    missing = [other for other in APPROVALS[:-1] if other not in statements]
    if role is Role.DEPLOY and missing:
        raise _not_approved(f"{label}: deploy", f"an approval of {missing[0]} first", "none")
    given = [statements[other].sequence for other in APPROVALS if other in statements]
    # The time is a number that all folders share: what was approved before has a lower one.
    sequence = max(terms.sequence, max(given, default=0) + 1, terms.issued_at_ms)
    raised = replace(terms, sequence=sequence)
    content = approve(loaded.manifest, key, role=role, terms=raised)
    _put_signature(folder, f"{role}.json", content)
    return read_statements({f"{role}.json": content}, loaded.manifest)[role]


def _put_signature(folder: Path, name: str, content: bytes) -> None:
    """Write beside the release and rename into it: a crash leaves no extra file inside."""
    beside = folder.parent / f".{folder.name}.{name}"
    write_atomically(beside, content)
    try:
        (folder / SIGNATURES_NAME).mkdir(exist_ok=True)
        beside.replace(folder / SIGNATURES_NAME / name)
        sync_folder(folder / SIGNATURES_NAME)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise SentinelError(
            ErrorCode.FILE_UNWRITABLE,
            at=str(folder / SIGNATURES_NAME / name),
            expected="a release folder that this user may write",
            got=error.strerror or error,
        ) from error


def _read(
    contents: Contents, judgement: Judgement, gates: GateReport, folder: Path
) -> LoadedRelease:
    contract = _typed(contents, "contract.json", _ContractFile)
    events = ContractSchema.from_data(contract.events)
    feedback = None
    if contract.feedback is not None:
        feedback = ContractSchema.from_data(contract.feedback)
    features = FeatureSet.from_data(_json(contents, "features.json"))
    _check_identity(contents.manifest, events, feedback, features)
    model = contents.files["model.onnx"]
    admitted = admit(model, n_features=len(features.names))
    manifest = contents.manifest
    parts = ScorerParts(
        plan=compile_plan(features),
        champion=model,
        fallback=LinearFallback.from_data(_json(contents, "fallback.json")),
        policy=Policy.from_data(_json(contents, "policy.json")),
        canary=Canary.from_data(_json(contents, "canary.json")),
        reference=Reference.from_data(_json(contents, "reference.json")),
        release=manifest.label,
        release_digest=manifest.digest,
    )
    return LoadedRelease(
        manifest=manifest,
        digest=manifest.digest,
        judgement=judgement,
        gates=gates,
        label=contract.label,
        events=events,
        feedback=feedback,
        parts=parts,
        admitted=admitted,
        folder=folder,
        explanation=_explanation(contents),
    )


def _explanation(contents: Contents) -> ExplanationData | None:
    if EXPLANATION_NAME not in contents.files:
        return None
    return read_explanation(_json(contents, EXPLANATION_NAME))


def _check_identity(
    manifest: Manifest,
    events: ContractSchema,
    feedback: ContractSchema | None,
    features: FeatureSet,
) -> None:
    """Refuse files that are not those that the manifest speaks of (two releases mixed)."""
    named = manifest.identity
    pairs = {
        "contract.json: events": (named.contract_sha256, events.schema_hash),
        "contract.json: feedback": (
            named.feedback_sha256,
            feedback.schema_hash if feedback else "",
        ),
        "features.json: events": (events.schema_hash, features.events.schema_hash),
        "features.json: feedback": (
            named.feedback_sha256,
            features.feedback.schema_hash if features.feedback else "",
        ),
        "features.json": (named.features_sha256, features.identity),
    }
    for at, (expected, got) in pairs.items():
        if expected != got:
            raise SentinelError(
                ErrorCode.RELEASE_CORRUPT,
                at=at,
                expected=f"identity {expected[:16]}…",
                got=f"{got[:16]}…",
            )


def _json(contents: Contents, name: str) -> object:
    return parse_json(contents.files[name], at=name)


def _typed(contents: Contents, name: str, kind: type[T]) -> T:
    try:
        return msgspec.convert(_json(contents, name), kind)
    except msgspec.ValidationError as error:
        raise SentinelError(
            ErrorCode.RELEASE_CORRUPT,
            at=name,
            expected="its fields with their types",
            got=error,
        ) from error


def _not_approved(at: str, expected: str, got: object) -> SentinelError:
    return SentinelError(ErrorCode.RELEASE_NOT_APPROVED, at=at, expected=expected, got=got)
