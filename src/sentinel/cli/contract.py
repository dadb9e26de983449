"""``sentinel contract``: look at a contract, and hold a file of events against it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sentinel.cli import options
from sentinel.cli.exits import ExitCode
from sentinel.cli.output import Output, number, pairs, table, write_line
from sentinel.core.errors import ErrorCode, SentinelError

if TYPE_CHECKING:
    from sentinel.contract import ContractSchema, Refusal

group = typer.Typer(no_args_is_help=True, help="Look at a contract; hold events against it.")

Source = Annotated[
    Path,
    typer.Argument(metavar="SOURCE", help="A pipeline (.py) or a contract.json."),
]
Feedback = Annotated[
    bool, typer.Option("--feedback", help="The feedback contract of the pipeline, not the events'.")
]
# Refusals shown whole; the rest are counted.
_SHOWN_MAX = 5
_FAULTS_SHOWN_MAX = 4


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="contract")


@group.command(
    epilog=options.examples(
        "sentinel contract show examples/card_fraud/pipeline.py",
        "sentinel contract show pipeline.py --json > contract.json",
        "sentinel contract show pipeline.py --json-schema > contract.schema.json",
    ),
)
def show(
    source: Source,
    feedback: Feedback = False,
    json_schema: Annotated[
        bool, typer.Option("--json-schema", help="Print JSON Schema, draft 2020-12.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Show the fields of a contract and its schema hash; with --json, the contract as data."""
    schema = load_schema(source, feedback=feedback)
    if json_schema:
        write_line(json.dumps(schema.json_schema(), indent=2, allow_nan=False))
        return
    output = Output(as_json=as_json)
    output.document(schema.to_data())
    output.show(
        table(
            f"Contract {schema.name} {schema.version}",
            ["field", "is", "must be"],
            [(each.name, _role(each.role), each.expectation()) for each in schema.fields],
        ),
        f"schema hash {schema.schema_hash}",
    )


@group.command(
    epilog=options.examples(
        "sentinel contract check pipeline.py --events events.ndjson",
        "sentinel contract check pipeline.py --feedback --events feedback.ndjson --json",
    ),
)
def check(
    source: Source,
    events: options.EventsPath,
    feedback: Feedback = False,
    as_json: options.AsJson = False,
) -> ExitCode:
    """Decode a file of events and count what the contract refuses, by reason.

    Exit code 4 when anything was refused, and for a file of zero bytes. Nothing is written.
    """
    output = Output(as_json=as_json)
    schema = load_schema(source, feedback=feedback)
    if not feedback:
        from sentinel.data.event_file import refuse_empty

        refuse_empty(events)
    result = check_file(schema, events, output)
    output.document(
        {
            "contract": schema.name,
            "schema_hash": schema.schema_hash,
            "read": result.n_read,
            "accepted": result.n_read - result.n_refused,
            "refused": dict(result.by_code),
            "first": [_refusal_data(refusal) for refusal in result.first],
        }
    )
    output.show(
        pairs(
            f"{events.name} against {schema.name} {schema.version}",
            {"read": result.n_read, "accepted": result.n_read - result.n_refused},
        )
    )
    if result.n_refused:
        output.show(
            table("Refused", ["reason", "events"], result.by_code.most_common()),
            table(
                f"The first {len(result.first)}",
                ["line", "where", "expected", "got"],
                [
                    (number(refusal.position + 1), fault.path, fault.expected, fault.got)
                    for refusal in result.first
                    for fault in refusal.faults[:_FAULTS_SHOWN_MAX]
                ],
            ),
        )
    return ExitCode.INPUT if result.n_refused else ExitCode.OK


@dataclass(slots=True)
class CheckResult:
    """What a file came to.

    Attributes
    ----------
    n_read, n_refused : int
        Events.
    by_code : Counter of str
        Refusals by the code that counts.
    first : list of Refusal
        The first few, whole.
    """

    n_read: int = 0
    n_refused: int = 0
    by_code: Counter[str] = field(default_factory=Counter)
    first: list[Refusal] = field(default_factory=list)


def check_file(schema: ContractSchema, events: Path, output: Output) -> CheckResult:
    """Decode every event of a file."""
    from sentinel.contract import Decoder
    from sentinel.data import EventFile

    decoder = Decoder(schema)
    source = EventFile(events)
    result = CheckResult()
    with output.progress(f"decoding {events.name}", total=_n_bytes(events)) as advance:
        for raw in source.batches():
            decoded = decoder.decode(raw)
            result.n_read += raw.n_events
            result.n_refused += len(decoded.refusals)
            result.by_code.update(str(refusal.code) for refusal in decoded.refusals)
            result.first.extend(decoded.refusals[: _SHOWN_MAX - len(result.first)])
            advance(source.progress.n_bytes_read, f"{result.n_refused:,} refused")
    for sentence in source.progress.notes:
        output.note(f"{events.name}: {sentence}")
    return result


def load_schema(source: Path, *, feedback: bool) -> ContractSchema:
    """Take a contract out of a pipeline file or a ``contract.json``.

    Raises
    ------
    SentinelError
        ``file-missing``, ``pipeline-invalid``, ``contract-invalid``.
    """
    from sentinel.contract import ContractSchema
    from sentinel.core import limits
    from sentinel.core.files import read_bounded

    if source.suffix != ".py":
        return ContractSchema.from_json(
            read_bounded(source, n_bytes_max=limits.CONTRACT_FILE_BYTES_MAX)
        )
    from sentinel.release import Pipeline

    features = Pipeline.load(source).features
    if not feedback:
        return features.events
    if features.feedback is None:
        raise SentinelError(
            ErrorCode.PIPELINE_INVALID,
            at=str(source),
            expected="a feature set with a feedback contract",
            got="one without",
        )
    return features.feedback


def _role(role: object) -> str:
    return {"value": ""}.get(str(role), str(role).replace("-", " ").replace("_", " "))


def _refusal_data(refusal: Refusal) -> dict[str, object]:
    return {
        "position": refusal.position,
        "code": str(refusal.code),
        "faults": [
            {
                "code": str(fault.code),
                "path": fault.path,
                "expected": fault.expected,
                "got": fault.got,
            }
            for fault in refusal.faults
        ],
    }


def _n_bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
