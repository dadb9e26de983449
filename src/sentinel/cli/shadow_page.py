"""The comparison of a challenger with the release in service, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sentinel.cli.exits import ExitCode
from sentinel.cli.output import Output, number, pairs, table

_Data = Mapping[str, object]


def show_report(found: dict[str, object], output: Output) -> ExitCode:
    """Show the report; say whether rows are missing from it."""
    output.document(found)
    output.show(pairs("Challenger", _facts(found)))
    if found["n_rows"]:
        output.show(
            table(
                "Outcomes: in service (rows) and challenger (columns)",
                ["", *_named(found["outcomes"])],
                [[name, *_named(row).values()] for name, row in _named(found["outcomes"]).items()],
            ),
            table(
                "Shares",
                ["outcome", "in service", "challenger", "difference, 95 %"],
                [_share_row(name, _named(row)) for name, row in _named(found["shares"]).items()],
            ),
        )
    is_whole = not found["n_skipped"] and not found["n_failed"]
    return ExitCode.OK if is_whole else ExitCode.DEGRADED


def _facts(found: _Data) -> dict[str, object]:
    scores, seconds = _named(found["scores"]), _named(found["challenger_seconds_a_row"])
    facts: dict[str, object] = {
        "challenger": f"{found['challenger']}, breaker {found['challenger_breaker']}",
        "in service": found["in_service"],
        "running": found["is_running"],
        "rows": found["n_rows"],
        "skipped, failed": f"{found['n_skipped']}, {found['n_failed']}",
    }
    if found["fault"]:
        facts["fault"] = found["fault"]
    if found["n_rows"]:
        facts["same outcome"] = (
            f"{_share(found['agreement'])} {_range(found['agreement_interval'])}"
        )
        facts["time a row"] = f"{_micro(seconds['mean'])} (p99 {_micro(seconds['p99'])})"
    if scores.get("n_pairs"):
        interval = _range(scores["mean_difference_interval"], digits=6)
        facts["score, mean difference"] = f"{_real(scores['mean_difference']):+.6f} {interval}"
        facts["score, mean absolute"] = number(_real(scores["mean_absolute_difference"]), digits=6)
        facts["score, largest"] = number(_real(scores["largest_difference"]), digits=6)
        facts["distributions apart"] = number(_real(scores["distance"]), digits=4)
    return facts


def _share_row(name: str, row: _Data) -> list[object]:
    interval = _range(row["difference_interval"], digits=4)
    return [name, _share(row["in_service"]), _share(row["challenger"]), interval]


def _named(value: object) -> dict[str, object]:
    return dict(value) if isinstance(value, Mapping) else {}


def _real(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def _share(value: object) -> str:
    return f"{_real(value) * 100:.2f} %"


def _micro(value: object) -> str:
    return f"{_real(value) * 1e6:,.1f} µs"


def _range(value: object, *, digits: int = 4) -> str:
    if not isinstance(value, Sequence) or len(value) != 2:
        return "–"
    return f"[{_real(value[0]):.{digits}f}, {_real(value[1]):.{digits}f}]"
