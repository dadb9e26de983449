"""Building: from a candidate to a folder that is whole or absent.

1. The champion becomes ONNX and is admitted; the canary is recorded from the files alone.
2. Every gate is asked.
3. All files are written into a temporary folder beside the target, synced, and the folder is
   renamed into place. Nothing depends on the time but ``created_at_ms``, which comes in: the same
   candidate and the same time give the same bytes, and the same digest.

A candidate that fails a gate still becomes a folder, so that people can look at it; it cannot be
approved. Only without a model that may be opened, a canary or a reference is there none.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

import sentinel
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.files import sync_folder
from sentinel.core.hashing import canonical_json
from sentinel.monitoring.feature_parity import ParityReport
from sentinel.monitoring.reference import Reference
from sentinel.release.approvals import Terms, approve
from sentinel.release.candidate import Candidate
from sentinel.release.explanation_data import FILE_NAME as EXPLANATION_NAME
from sentinel.release.explanation_data import explanation_data
from sentinel.release.export import to_onnx
from sentinel.release.folder import Contents, read_folder
from sentinel.release.gates import Draft, GateResult, feature_parity, run_gates
from sentinel.release.keys import SigningKey
from sentinel.release.manifest import (
    FORMAT,
    MANIFEST_NAME,
    SIGNATURES_NAME,
    Identity,
    Manifest,
    Origin,
    entries,
)
from sentinel.release.operators import admit
from sentinel.release.reproduction import canary_vectors, open_path
from sentinel.release.trust import Role
from sentinel.scoring.canary import Canary
from sentinel.scoring.session import ModelSession

# The builder's own statement does not expire in practice: that it was built stays true.
_BUILD_DAYS = 36_500


@dataclass(frozen=True, slots=True)
class BuiltRelease:
    """What was built.

    Attributes
    ----------
    folder : Path
    manifest : Manifest
    gates : tuple of GateResult
    """

    folder: Path
    manifest: Manifest
    gates: tuple[GateResult, ...]

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the gates that failed; empty when approval may be asked for."""
        return tuple(gate.name for gate in self.gates if not gate.passed)


def build_release(
    candidate: Candidate,
    folder: Path,
    *,
    created_at_ms: int,
    builder: SigningKey | None = None,
    served: ParityReport | None = None,
) -> BuiltRelease:
    """Build the release folder of a candidate.

    Parameters
    ----------
    candidate : Candidate
    folder : Path
        The release itself, such as ``releases/card-fraud/2.5.0``; its parent is created.
    created_at_ms : int
        Milliseconds since the epoch.
    builder : SigningKey, optional
        Signs that it built this release. A release without that cannot be approved.
    served : ParityReport, optional
        Past decisions against the candidate's features: the gate ``feature_parity`` is asked, too.

    Raises
    ------
    SentinelError
        ``release-exists`` when something else stands there; ``release-gate-failed`` when there
        is nothing that could be a release; ``file-unwritable``; ``extra-missing``.
    """
    draft = make_draft(candidate)
    gates = run_gates(draft)
    if served is not None:
        gates += (feature_parity(served),)
    files = _files(draft, gates)
    manifest = _manifest(candidate, files, created_at_ms)
    signatures = {}
    if builder is not None:
        terms = Terms(issued_at_ms=created_at_ms, days=_BUILD_DAYS)
        statement = approve(manifest, builder, role=Role.BUILD, terms=terms)
        signatures[f"{Role.BUILD}.json"] = statement
    write_release(folder, Contents(manifest, files, signatures))
    return BuiltRelease(folder, manifest, gates)


def make_draft(candidate: Candidate) -> Draft:
    """Make of a candidate what the gates look at; what cannot be made is named, not raised."""
    problems: dict[str, str] = {}
    model, session, canary = b"", None, None
    n_features = len(candidate.features.names)
    try:
        model = to_onnx(candidate.champion)
    except SentinelError as error:
        if error.code is ErrorCode.EXTRA_MISSING:
            raise
        problems["export"] = str(error)
    if model:
        try:
            admit(model, n_features=n_features)
            session = ModelSession(model, n_features=n_features)
        except SentinelError as error:
            problems["admission"] = str(error)
    if session is not None:
        try:
            canary = _record(candidate, model)
        except SentinelError as error:
            problems["canary"] = str(error)
    try:
        _reference(candidate)
    except SentinelError as error:
        problems["reference"] = str(error)
    return Draft(
        candidate=candidate, model=model, session=session, canary=canary, problems=problems
    )


def write_release(folder: Path, contents: Contents) -> None:
    """Write a release so that a reader, or a crash, sees all of it or nothing.

    Raises
    ------
    SentinelError
        ``release-exists`` when another release, or anything else, stands there. The same release
        may be written again: then nothing is done, and signatures that stand there stay.
    """
    if folder.exists() or folder.is_symlink():
        if read_folder(folder).manifest == contents.manifest:
            return
        raise SentinelError(
            ErrorCode.RELEASE_EXISTS,
            at=str(folder),
            expected=f"nothing, or {contents.manifest.digest[:16]}…",
            got="another release",
            hint="Releases never change: choose another version.",
        )
    temporary: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        _write_files(temporary, contents)
        temporary.rename(folder)
        temporary = None
        sync_folder(folder.parent)
    except OSError as error:
        raise SentinelError(
            ErrorCode.FILE_UNWRITABLE,
            at=str(folder),
            expected="a new folder with room that this user may write",
            got=error.strerror or error,
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _write_files(folder: Path, contents: Contents) -> None:
    folder.chmod(0o755)
    (folder / SIGNATURES_NAME).mkdir()
    files = {**contents.files, MANIFEST_NAME: contents.manifest.encode()}
    files |= {f"{SIGNATURES_NAME}/{name}": file for name, file in contents.signatures.items()}
    for name, content in files.items():
        with (folder / name).open("xb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
    sync_folder(folder / SIGNATURES_NAME)
    sync_folder(folder)


def _record(candidate: Candidate, model: bytes) -> Canary:
    path = open_path(
        features=candidate.features.to_data(),
        model=model,
        fallback=candidate.fallback.to_data(),
        policy=candidate.policy.to_data(),
    )
    return Canary.record(
        path,
        events=candidate.canary_events,
        vectors=canary_vectors(candidate.champion, candidate.reference.values),
        tolerance=candidate.policy.canary_tolerance,
    )


def _reference(candidate: Candidate) -> Reference:
    return Reference.build(
        candidate.features.names,
        features=candidate.reference.values,
        status=candidate.reference.status,
        scores=candidate.reference.scores,
    )


def _files(draft: Draft, gates: tuple[GateResult, ...]) -> dict[str, bytes]:
    candidate, canary = draft.candidate, draft.canary
    if canary is None or draft.problems:
        failed = [gate for gate in gates if not gate.passed]
        raise SentinelError(
            ErrorCode.RELEASE_GATE_FAILED,
            at=f"{candidate.pipeline.name}@{candidate.pipeline.version}",
            expected="a model that may be opened, a canary and a reference",
            got="; ".join(draft.problems.values()) or "no canary",
            hint="Gates that failed: " + ", ".join(gate.name for gate in failed) + ".",
        )
    features, label = candidate.features, candidate.pipeline.label
    n_features = len(features.names)
    contract = {
        "events": features.events.to_data(),
        "feedback": features.feedback.to_data() if features.feedback else None,
        "label": {"of": label.of.name, "event": label.event.name, "delay_ms": label.delay_ms},
    }
    data: dict[str, object] = {
        "contract.json": contract,
        "features.json": features.to_data(),
        "policy.json": candidate.policy.to_data(),
        "fallback.json": candidate.fallback.to_data(),
        "reference.json": _reference(candidate).to_data(),
        "canary.json": canary.to_data(),
        "gates.json": _report(candidate, gates),
    }
    if candidate.record:
        data["feature_set.json"] = dict(candidate.record)
    explanation = explanation_data(
        candidate, draft.model, admit(draft.model, n_features=n_features)
    )
    if explanation is not None:
        data[EXPLANATION_NAME] = msgspec.to_builtins(explanation)
    files = {name: canonical_json(content) for name, content in data.items()}
    return {**files, "model.onnx": draft.model}


def _report(candidate: Candidate, gates: tuple[GateResult, ...]) -> dict[str, object]:
    later = candidate.later
    metrics: dict[str, Mapping[str, float]] = {
        model: dict(numbers) for model, numbers in later.metrics.items()
    }
    return {
        "format": 1,
        "gates": msgspec.to_builtins(gates),
        "evaluation": {
            "from_ms": later.from_ms,
            "until_ms": later.until_ms,
            "trained_until_ms": later.trained_until_ms,
            "metrics": metrics,
        },
    }


def _manifest(candidate: Candidate, files: Mapping[str, bytes], created_at_ms: int) -> Manifest:
    features, provenance = candidate.features, candidate.provenance
    feedback = features.feedback
    manifest = Manifest(
        format=FORMAT,
        name=candidate.pipeline.name,
        version=candidate.pipeline.version,
        created_at_ms=created_at_ms,
        built_with=sentinel.__version__,
        identity=Identity(
            contract=f"{features.events.name}@{features.events.version}",
            contract_sha256=features.events.schema_hash,
            feedback=f"{feedback.name}@{feedback.version}" if feedback else "",
            feedback_sha256=feedback.schema_hash if feedback else "",
            features=f"{features.name}@{features.version}",
            features_sha256=features.identity,
        ),
        origin=Origin(
            git_commit=provenance.git_commit,
            data_sha256=provenance.data_sha256,
            environment_sha256=provenance.environment_sha256,
            seeds=dict(provenance.seeds),
            hyper_parameters=dict(provenance.hyper_parameters),
            library_versions=dict(provenance.library_versions),
            n_rows=dict(provenance.n_rows),
            parents=provenance.parents,
        ),
        files=entries(files),
    )
    return Manifest.decode(manifest.encode())
