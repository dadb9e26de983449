"""``sentinel simulate``: a world of cards, merchants and fraud, for those who have no data."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sentinel.cli import options
from sentinel.cli.output import Output, pairs
from sentinel.core.errors import ErrorCode, SentinelError

if TYPE_CHECKING:
    from sentinel.data import EventFolder

# Settings of the simulator that the command line calls otherwise.
_FLAGS = {
    "seed": "--seed",
    "n_cards": "--cards",
    "n_merchants": "--merchants",
    "days": "--days",
    "events_per_day": "--events-per-day",
    "fraud_share": "--fraud-share",
    "first_day": "--first-day",
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog=options.examples(
            "sentinel simulate --out my-data",
            "sentinel simulate --out small --days 20 --cards 500 --events-per-day 1000 --seed 7",
        ),
    )(simulate)


def simulate(  # noqa: PLR0913 -- one parameter a flag
    *,
    out: Annotated[Path, typer.Option("--out", help="Folder to write to; made when missing.")],
    days: Annotated[int, typer.Option("--days", help="Days to simulate.")] = 60,
    events_per_day: Annotated[
        int, typer.Option("--events-per-day", help="Mean number of transactions a day.")
    ] = 10_000,
    cards: Annotated[int, typer.Option("--cards", help="Cards in the world.")] = 5_000,
    merchants: Annotated[int, typer.Option("--merchants", help="Merchants in the world.")] = 2_000,
    fraud_share: Annotated[
        float, typer.Option("--fraud-share", help="Expected share of fraud, 0 to 0.5.")
    ] = 0.008,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same bytes.")] = 0,
    first_day: Annotated[
        str, typer.Option("--first-day", help="First day, YYYY-MM-DD, in UTC.")
    ] = "2025-01-06",
    force: options.Force = False,
    as_json: options.AsJson = False,
) -> None:
    """Write transactions and, as they become known, verdicts on them.

    Four kinds of fraud hide among daily life: bursts of card testing, impossible travel,
    compromised merchants, account take-over. A folder that was made with the same settings is
    left as it is; files that stand there and are something else are refused.
    """
    from sentinel.data.simulator import Simulation

    try:
        simulation = Simulation(
            seed=seed,
            n_cards=cards,
            n_merchants=merchants,
            days=days,
            events_per_day=events_per_day,
            fraud_share=fraud_share,
            first_day=_day(first_day),
        )
    except SentinelError as error:
        raise _of_flag(error) from error
    output = Output(as_json=as_json)
    with output.progress("simulating", total=days) as advance:
        folder = simulation.write(
            out,
            overwrite=force,
            progress=lambda done, total: advance(done, f"day {done} of {total}"),
        )
    show_folder(folder, output)


def show_folder(folder: EventFolder, output: Output) -> None:
    """Say what a folder of events holds."""
    facts = {
        "events": str(folder.events),
        "feedback": None if folder.feedback is None else str(folder.feedback),
        "n_events": folder.n_events,
        "n_feedback": folder.n_feedback,
        "n_frauds": folder.n_frauds,
        "was_there": folder.was_there,
    }
    output.document(facts)
    shown: dict[str, object] = {str(folder.events): f"{folder.n_events:,} events"}
    if folder.feedback is not None:
        shown[str(folder.feedback)] = f"{folder.n_feedback:,} verdicts, {folder.n_frauds:,} frauds"
    output.show(pairs("Left as it was" if folder.was_there else "Written", shown))


def _of_flag(error: SentinelError) -> SentinelError:
    """Name the flag where the simulator names its own setting."""
    flag = _FLAGS.get(error.at)
    if flag is None:
        return error
    return SentinelError(
        error.code, at=flag, expected=error.expected, got=error.got, hint=error.hint
    )


def _day(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError as error:
        raise SentinelError(
            ErrorCode.USAGE_INVALID, at="--first-day", expected="a day, YYYY-MM-DD", got=text
        ) from error
