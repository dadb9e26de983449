"""``sentinel release``: look at releases, verify them, approve them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sentinel.cli import options
from sentinel.cli.exits import ExitCode
from sentinel.cli.output import Output, number, pairs, table
from sentinel.core import limits
from sentinel.core.clock import instant
from sentinel.core.errors import ErrorCode, SentinelError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sentinel.release import GateResult, LoadedRelease, Role, Trust

# Folders below folders that are looked into for releases.
_LEVELS_MAX = 5

group = typer.Typer(no_args_is_help=True, help="Look at releases, verify and approve them.")


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="release")


@group.command(
    epilog=options.examples(
        "sentinel train pipeline.py --events e.ndjson --feedback f.ndjson --candidate c.npz",
        "sentinel release build c.npz --out releases/1.0.0 --key builder.key",
    ),
)
def build(
    candidate_file: Annotated[
        Path, typer.Argument(metavar="CANDIDATE", help="What `sentinel train --candidate` wrote.")
    ],
    *,
    out: Annotated[Path, typer.Option("--out", help="The release folder to make; it is new.")],
    key: Annotated[
        Path | None,
        typer.Option("--key", help="Builder's key. Without its signature nobody can approve."),
    ] = None,
    parity_log: Annotated[
        Path | None,
        typer.Option(
            "--parity-log", help="A decision log: its features are replayed, as one gate more."
        ),
    ] = None,
    parity_events: Annotated[
        list[Path] | None,
        typer.Option("--parity-events", help="The events of that log, from the first on."),
    ] = None,
    parity_feedback: Annotated[
        list[Path] | None, typer.Option("--parity-feedback", help="Their feedback.")
    ] = None,
    as_json: options.AsJson = False,
) -> ExitCode:
    """Build a release from a candidate and ask every gate, where the builder's key is.

    Training writes its candidate to a file; who builds from it signs the release. Exit code 6 when
    a gate fails: the release can then be looked at, and never approved.
    """
    from sentinel.cli.candidate_file import read_candidate
    from sentinel.cli.features_parity import served_parity
    from sentinel.cli.train import build_shown, refuse_taken, show_built
    from sentinel.release import load_key

    refuse_taken(out)
    builder = None if key is None else load_key(key)
    output = Output(as_json=as_json)
    candidate = read_candidate(candidate_file)
    served = None
    if parity_log is not None or parity_events:
        served = served_parity(
            candidate.features, parity_log, parity_events or [], parity_feedback or [], output
        )
    built = build_shown(candidate, out, builder, output, served=served)
    return show_built(candidate, built, output)


@group.command(
    epilog=options.examples(
        "sentinel release show my-release",
        "sentinel release show my-release --json",
    ),
)
def show(
    folder: options.ReleaseFolder,
    trust: options.TrustFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Show what a release is: origin, gates, evaluation, who approved it.

    Every hash is verified first, as always. A release that failed a gate is shown too.
    """
    loaded = verify(folder, trust)
    output = Output(as_json=as_json)
    output.document(release_data(loaded))
    output.show(
        pairs(f"Release {loaded.manifest.label}", _facts(loaded)),
        gates_table(loaded.gates.gates),
        evaluation_table(loaded.gates.evaluation.metrics),
        _statements_table(loaded),
    )


@group.command(
    name="verify",
    epilog=options.examples(
        "sentinel release verify my-release --trust trust.toml",
    ),
)
def verify_command(
    folder: options.ReleaseFolder,
    trust: options.TrustFile = None,
    as_json: options.AsJson = False,
) -> ExitCode:
    """Verify every hash, signature and gate, and say whether a release may decide.

    Exit code 0: it may. 5: it was changed, or lacks an approval. 6: it failed a gate.
    """
    loaded = verify(folder, trust)
    faults = loaded.judgement.faults
    output = Output(as_json=as_json)
    output.document(
        {
            "release": loaded.manifest.label,
            "digest": loaded.digest,
            "standing": str(loaded.standing),
            "failed_gates": list(loaded.gates.failed),
            "faults": [
                {"at": fault.at, "expected": fault.expected, "got": fault.got} for fault in faults
            ],
        }
    )
    facts = {"digest": loaded.digest, "files": "whole", "standing": str(loaded.standing)}
    output.show(pairs(f"Release {loaded.manifest.label}", facts))
    if faults:
        rows = [(fault.at, fault.expected, fault.got) for fault in faults]
        output.show(table("Not approved because", ["of", "expected", "got"], rows))
    if not (folder / "signatures" / "build.json").exists():
        output.note(
            "Built without a builder's key: nobody can approve this release. Train or build it "
            "again with --key."
        )
    if loaded.gates.failed:
        return ExitCode.GATE
    return ExitCode.RELEASE if faults else ExitCode.OK


@group.command(
    epilog=options.examples(
        "sentinel release approve my-release --role data --key ada.key",
        "sentinel release approve my-release --role weights --key wim.key --note 'seen the curves'",
        "sentinel release approve my-release --role deploy --key dede.key --days 14",
    ),
)
def approve(
    folder: options.ReleaseFolder,
    role: Annotated[
        str, typer.Option("--role", help="What you approve: data, weights or, last, deploy.")
    ],
    key: Annotated[Path, typer.Option("--key", help="Your key; never the builder's.")],
    days: Annotated[int, typer.Option("--days", help="How long the approval holds.")] = 30,
    note: Annotated[str, typer.Option("--note", help="What is to be remembered.")] = "",
    as_json: options.AsJson = False,
) -> None:
    """Sign an approval into a release. What you sign is the digest that you are shown.

    Three people look: at the data, at the weights and gates, and at whether now is the time. The
    key that built a release cannot approve it; a release that failed a gate cannot be approved.
    """
    from sentinel.release import Terms, approve_release, load_key

    if not 1 <= days <= limits.APPROVAL_DAYS_MAX:
        expected = f"1 to {limits.APPROVAL_DAYS_MAX} days"
        raise SentinelError(ErrorCode.USAGE_INVALID, at="--days", expected=expected, got=days)
    statement = approve_release(
        folder,
        load_key(key),
        role=role_named(role),
        terms=Terms(issued_at_ms=now_ms(), days=days, note=note),
    )
    output = Output(as_json=as_json)
    facts = {
        "role": str(statement.role),
        "person": statement.person,
        "key": statement.key_id,
        "sequence": statement.sequence,
        "until": instant(statement.expires_at_ms),
    }
    output.document({"release": str(folder), **facts})
    output.show(pairs(f"Approved: {folder}", facts))


@group.command(
    name="list",
    epilog=options.examples("sentinel release list releases --trust trust.toml"),
)
def list_(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder that holds release folders.")
    ] = Path(),
    trust: options.TrustFile = None,
    as_json: options.AsJson = False,
) -> None:
    """List the releases in a folder and below, and how each stands."""
    if not folder.is_dir():
        raise SentinelError(
            ErrorCode.FILE_MISSING, at=str(folder), expected="a folder", got="none there"
        )
    os.scandir(folder).close()  # what is looked for by a pattern is passed over where it is shut
    rows = [_listed(each, trust) for each in find_releases(folder)]
    output = Output(as_json=as_json)
    output.document({"releases": rows})
    header = ["folder", "release", "built", "gates", "standing"]
    output.show(table(f"Releases in {folder}", header, [[row[n] for n in header] for row in rows]))


@group.command(
    epilog=options.examples(
        "sentinel release key ada.key --person 'Ada Lovelace' --role data --role weights",
    ),
)
def key(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="File to write the key to.")],
    person: Annotated[str, typer.Option("--person", help="Whose key it is.")],
    role: Annotated[
        list[str],
        typer.Option("--role", help="What it may sign: build, data, weights, deploy. Repeatable."),
    ] = ["data"],  # noqa: B006 -- typer wants a list; it is not changed
    as_json: options.AsJson = False,
) -> None:
    """Make an Ed25519 key and print the lines that a trust file needs to know it by.

    The file holds the private key: readable by you alone, never overwritten.
    """
    from sentinel.release import create_key, trust_entry

    roles = tuple(role_named(name) for name in role)
    made = create_key(path, person=person)
    entry = trust_entry(person=made.person, key_id=made.key_id, roles=roles)
    output = Output(as_json=as_json)
    output.document({"file": str(path), "key": made.key_id, "person": person, "trust": entry})
    output.show(
        f"Private key written to {path}. For the trust file, whose first line is `format = 1`:\n",
        entry,
    )


def verify(folder: Path, trust: Path | None) -> LoadedRelease:
    """Verify and read a release, approved or not."""
    from sentinel.release import verify_release

    return verify_release(folder, load_trust(trust), now_ms=now_ms())


def load(folder: Path, trust: Path | None, *, allow_unapproved: bool) -> LoadedRelease:
    """Verify and load a release that is to decide; the trust file says whose approvals count.

    Raises
    ------
    SentinelError
        What verifying raises; ``release-not-approved``.
    """
    from sentinel.release import load_release

    trusted = load_trust(trust)
    return load_release(folder, trusted, now_ms=now_ms(), allow_unapproved=allow_unapproved)


def load_trust(path: Path | None) -> Trust | None:
    """Read a trust file; without one nobody is trusted."""
    from sentinel.release import Trust

    return None if path is None else Trust.load(path)


def role_named(name: str) -> Role:
    """Take a role by its name.

    Raises
    ------
    SentinelError
        ``usage-invalid``.
    """
    from sentinel.release import Role

    try:
        return Role(name)
    except ValueError as error:
        raise SentinelError(
            ErrorCode.USAGE_INVALID, at="--role", expected=" or ".join(Role), got=name
        ) from error


def now_ms() -> int:
    """Read the machine's clock, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def find_releases(folder: Path) -> list[Path]:
    """Find releases here and some levels below, in order of name; hidden folders are passed."""
    found = []
    for here, folders, files in os.walk(folder):
        # A folder of events has a manifest of its own; it has no model.
        is_release = {"manifest.json", "model.onnx"} <= set(files)
        if is_release:
            found.append(Path(here))
        is_deepest = len(Path(here).relative_to(folder).parts) == _LEVELS_MAX
        if is_release or is_deepest:
            folders.clear()
        folders[:] = [name for name in folders if not name.startswith(".")]
    return sorted(found)[: limits.REGISTRY_RELEASES_MAX]


def gates_table(gates: Sequence[GateResult]) -> RenderableType:
    """Show the gates; what failed stands first."""
    from rich.text import Text

    rows = [
        (
            Text("passed", style="green") if gate.passed else Text("FAILED", style="bold red"),
            gate.name,
            _measured(gate.measured),
            _measured(gate.limit),
            gate.detail,
        )
        for gate in sorted(gates, key=lambda gate: gate.passed)
    ]
    return table("Gates", ["", "gate", "measured", "limit", "looked at"], rows)


def evaluation_table(metrics: dict[str, dict[str, float]]) -> RenderableType:
    """Show both models on the later part, side by side."""
    models = list(metrics)
    names = list(dict.fromkeys(name for model in models for name in metrics[model]))
    rows = [
        [name, *(number(metrics[model].get(name), digits=4) for model in models)] for name in names
    ]
    return table("On the later part", ["metric", *models], rows)


def release_data(loaded: LoadedRelease) -> dict[str, object]:
    """Give all that is known of a release as plain data."""
    import msgspec

    manifest = loaded.manifest
    origin: dict[str, object] = msgspec.to_builtins(manifest.origin)
    identity: dict[str, object] = msgspec.to_builtins(manifest.identity)
    return {
        "release": manifest.label,
        "digest": loaded.digest,
        "created_at": instant(manifest.created_at_ms),
        "built_with": manifest.built_with,
        "standing": str(loaded.standing),
        "identity": identity,
        "origin": origin,
        "gates": [msgspec.to_builtins(gate) for gate in loaded.gates.gates],
        "evaluation": msgspec.to_builtins(loaded.gates.evaluation),
        "statements": [
            {
                "role": str(statement.role),
                "person": statement.person,
                "issued": instant(statement.issued_at_ms),
                "until": instant(statement.expires_at_ms),
            }
            for statement in loaded.judgement.statements.values()
        ],
        "faults": [str(fault) for fault in loaded.judgement.faults],
        "files": {entry.name: entry.n_bytes for entry in manifest.files},
    }


def _facts(loaded: LoadedRelease) -> dict[str, object]:
    manifest, evaluation = loaded.manifest, loaded.gates.evaluation
    rows = manifest.origin.n_rows
    return {
        "standing": str(loaded.standing),
        "digest": loaded.digest,
        "built": f"{instant(manifest.created_at_ms)}, sentinel {manifest.built_with}",
        "contract": manifest.identity.contract,
        "feature set": f"{manifest.identity.features}, {len(loaded.parts.plan.names)} features",
        "rows": ", ".join(f"{name} {n:,}" for name, n in rows.items()),
        "trained until": instant(evaluation.trained_until_ms),
        "judged on": f"{instant(evaluation.from_ms)} to {instant(evaluation.until_ms)}",
        "git commit": manifest.origin.git_commit or "unknown",
        "size": f"{sum(entry.n_bytes for entry in manifest.files):,} bytes",
    }


def _statements_table(loaded: LoadedRelease) -> RenderableType:
    rows = [
        (str(each.role), each.person, instant(each.issued_at_ms), instant(each.expires_at_ms))
        for each in loaded.judgement.statements.values()
    ]
    return table("Signed", ["statement", "by", "on", "holds until"], rows)


def _listed(folder: Path, trust: Path | None) -> dict[str, object]:
    try:
        loaded = verify(folder, trust)
    except SentinelError as error:
        return {
            "folder": str(folder),
            "release": None,
            "built": None,
            "gates": None,
            "standing": f"REFUSED: {error.code}",
        }
    failed = loaded.gates.failed
    return {
        "folder": str(folder),
        "release": loaded.manifest.label,
        "built": instant(loaded.manifest.created_at_ms),
        "gates": f"FAILED: {', '.join(failed)}" if failed else "passed",
        "standing": str(loaded.standing),
    }


def _measured(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value == int(value) else f"{value:.4g}"
