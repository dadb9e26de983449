"""What the demo shows: headings, broken events with their reasons, and the closing page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sentinel.cli.output import duration_ms, number, pairs, panel, table
from sentinel.cli.replay import drift_lines, report_data, shown_share
from sentinel.cli.status import status_of, status_panel

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sentinel.cli.demo_watch import DecisionWatch, Quality
    from sentinel.cli.session import Session
    from sentinel.contract import ContractSchema
    from sentinel.streaming import FileReport
    from sentinel.training.labels import Labels

# Features shown of a flagged payment: what fits on the page.
_FEATURES_SHOWN_MAX = 14


def heading(step: str, title: str, about: str) -> RenderableType:
    """Begin a step, such as ``3/7``."""
    from rich.rule import Rule
    from rich.text import Text

    text = Text.assemble((f"{step} {title}", "bold cyan"), f"  {about}")
    return Rule(text, align="left", style="cyan")


def broken_events_table(schema: ContractSchema, events: Path) -> RenderableType:
    """Break the first event of a file in six ways and show what the contract says to each."""
    from sentinel.contract import Decoder, RawBatch

    with events.open("rb") as file:
        first = file.readline().strip()
    broken = break_event(first, schema)
    decoded = Decoder(schema).decode(RawBatch.from_events(broken.values()))
    names = list(broken)
    rows = [
        (
            names[refusal.position],
            str(refusal.code),
            refusal.faults[0].path,
            refusal.faults[0].expected,
        )
        for refusal in decoded.refusals
    ]
    return table(
        f"{schema.name} {schema.version}: the first event, broken in {len(names)} ways, "
        f"{len(rows)} refused",
        ["broken", "reason", "where", "expected"],
        rows,
    )


def break_event(event: bytes, schema: ContractSchema) -> dict[str, bytes]:
    """Break a good event in the ways in which upstream systems do."""
    from sentinel.contract import FieldKind

    fields: dict[str, object] = json.loads(event)
    when = schema.event_time.name
    numbers = [each.name for each in schema.fields if each.kind is FieldKind.DECIMAL]
    amount = numbers[0] if numbers else when
    identity = schema.event_id.name
    without_time = {name: value for name, value in fields.items() if name != when}
    duplicate = f'{{"{identity}":"x",'.encode() + event[1:]
    return {
        "a number as text": _encoded({**fields, amount: "12.50"}),
        "NaN": _encoded({**fields, amount: float("nan")}),
        "seconds for milliseconds": _encoded({**fields, when: int(str(fields[when])) // 1000}),
        "no event time": _encoded(without_time),
        "a key twice": duplicate,
        "cut off": event[: len(event) // 2],
    }


def approval_panel(person: str, roles: Sequence[str]) -> RenderableType:
    """Say loudly whose key it was."""
    from rich.text import Text

    lines = Text.assemble(
        (f"{person}\n", "bold red"),
        f"signed {', '.join(roles)} of this release. In real life three people look, each with a "
        "key of their own: at the data, at the weights and gates, at whether now is the time.",
    )
    return panel("DEMO KEY – NOT FOR PRODUCTION", lines, style="red")


def closing_page(
    session: Session,
    report: FileReport,
    seen: DecisionWatch,
    labels: Labels,
    seconds: Mapping[str, float],
) -> list[RenderableType]:
    """Show what a demo came to."""
    return [
        _numbers(session, report, seconds),
        _outcomes(report),
        _quality_table(seen, labels),
        _flagged_table(seen, labels, _reasons(session, seen)),
        status_panel(status_of(session)),
    ]


def closing_data(
    session: Session,
    report: FileReport,
    seen: DecisionWatch,
    labels: Labels,
    seconds: Mapping[str, float],
) -> dict[str, object]:
    """Give the closing page as plain data."""
    return {
        "replay": report_data(session, report),
        "quality": {
            name: {"precision": each.precision, "recall": each.recall, "flagged": each.n_flagged}
            for name, each in _qualities(seen, labels).items()
        },
        "flagged": [
            {
                "event_id": each.event_id,
                "score": each.score,
                "outcome": each.outcome,
                "is_fraud": seen.is_fraud(labels, each),
                "features": each.features,
                "reasons": reasons,
            }
            for each, reasons in zip(seen.flagged(), _reasons(session, seen), strict=True)
        ],
        "status": status_of(session).to_data(),
        "seconds": dict(seconds),
    }


def _numbers(session: Session, report: FileReport, seconds: Mapping[str, float]) -> RenderableType:
    counts = report.counts
    drift = session.scorer.drift
    facts = {
        "history": f"{report.n_history:,} events learned from, at "
        f"{report.n_history / max(report.history_seconds, 1e-9):,.0f} events/s",
        "events": f"{counts.read:,} read = {counts.decided:,} decided + {counts.held:,} held + "
        f"{counts.quarantined:,} refused + {counts.deduplicated:,} repeated",
        "speed": f"{report.events_per_s:,.0f} events/s, the whole path",
        "latency": f"p50 {duration_ms(report.latency.quantile(0.5))}, "
        f"p99 {duration_ms(report.latency.quantile(0.99))} a batch",
        "stages": ", ".join(
            f"{stage.stage} {stage.share:.0%}" for stage in session.scorer.timer.report()
        ),
        "drift": drift_lines(None if drift is None else drift.latest),
        "time": ", ".join(f"{name} {spent:.0f} s" for name, spent in seconds.items()),
    }
    return pairs("", facts)


def _outcomes(report: FileReport) -> RenderableType:
    n_all = sum(report.outcomes.values())
    rows = [(name, n, shown_share(n, n_all)) for name, n in report.outcomes.items()]
    rows += [(f"by {name}", n, shown_share(n, n_all)) for name, n in report.served_by.items() if n]
    return table("Decisions", ["outcome", "events", "share"], rows)


def _qualities(seen: DecisionWatch, labels: Labels) -> dict[str, Quality]:
    from sentinel.scoring import Outcome

    return {
        "declined": seen.quality(labels, (Outcome.DECLINE,)),
        "declined or reviewed": seen.quality(labels, (Outcome.DECLINE, Outcome.REVIEW)),
    }


def _quality_table(seen: DecisionWatch, labels: Labels) -> RenderableType:
    rows = [
        (
            name,
            each.n_flagged,
            each.n_hit,
            number(each.precision),
            number(each.recall),
        )
        for name, each in _qualities(seen, labels).items()
    ]
    n_frauds = next(iter(_qualities(seen, labels).values())).n_frauds
    return table(
        f"Against the verdicts that came later ({n_frauds:,} frauds)",
        ["decision", "events", "frauds", "precision", "recall"],
        rows,
    )


def _reasons(session: Session, seen: DecisionWatch) -> list[list[str]]:
    """Say in words why each of the flagged payments was flagged."""
    from sentinel.release.explaining import open_explainer
    from sentinel.scoring.explanation import Absence

    explainer = open_explainer(session.loaded)
    found = [explainer.explain(each.scored)[0] for each in seen.flagged()]
    return [
        [] if isinstance(each, Absence) else [reason.words for reason in each.reasons]
        for each in found
    ]


def _flagged_table(seen: DecisionWatch, labels: Labels, reasons: list[list[str]]) -> RenderableType:
    """Put the flagged payments side by side: what they are, why, and what was known of them."""
    flagged = seen.flagged()
    known = {True: "fraud", False: "genuine", None: "nobody knows yet"}
    rows: list[list[str]] = [
        ["score", *(f"{each.score:.3f}" for each in flagged)],
        ["outcome", *(each.outcome for each in flagged)],
        ["verdict, later", *(known[seen.is_fraud(labels, each)] for each in flagged)],
    ]
    for place in range(max(map(len, reasons), default=0)):
        words = [each[place] if place < len(each) else "" for each in reasons]
        rows.append(["why" if place == 0 else "", *words])
    names = list(flagged[0].event_fields) if flagged else []
    rows += [[name, *(each.event_fields[name] for each in flagged)] for name in names]
    features = list(flagged[0].features) if flagged else []
    rows += [
        [f"• {name}", *(_feature(each.features[name]) for each in flagged)]
        for name in features[:_FEATURES_SHOWN_MAX]
    ]
    if len(features) > _FEATURES_SHOWN_MAX:
        n_more = len(features) - _FEATURES_SHOWN_MAX
        rows.append([f"and {n_more} more features", *("" for _ in flagged)])
    header = ["", *(f"payment {i + 1}" for i in range(len(flagged)))]
    return table("Flagged payments, and the features (•) they were scored on", header, rows)


def _feature(value: float | None) -> str:
    return "no history" if value is None else f"{value:,.4g}"


def _encoded(fields: Mapping[str, object]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()
