"""``sentinel data``: published data sets become events that keep their contracts."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from sentinel.cli import options
from sentinel.cli.output import Output
from sentinel.cli.simulate import show_folder

group = typer.Typer(no_args_is_help=True, help="Published data sets as events.")


class DataSet(enum.StrEnum):
    """The sets that are known."""

    HANDBOOK = "handbook"
    PURCHASING_CARDS = "purchasing-cards"


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="data")


@group.callback()
def root() -> None:
    """Turn published data sets into events."""


@group.command(
    epilog=options.examples(
        "sentinel data prepare handbook --out data/handbook",
        "sentinel data prepare purchasing-cards --from purchasing.parquet --out data/cards",
    ),
)
def prepare(
    data_set: Annotated[DataSet, typer.Argument(metavar="SET", help="handbook, purchasing-cards")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write to; made when missing.")],
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Parquet or CSV file, or a folder of them; see docs/data.md."),
    ] = None,
    delay_days: Annotated[
        int,
        typer.Option(
            "--delay-days", min=0, max=365, help="Handbook: days until a verdict is known."
        ),
    ] = 7,
    force: options.Force = False,
    as_json: options.AsJson = False,
) -> None:
    """Write a published set as lines of events and, where it has labels, of verdicts.

    Looked for in the folder that SENTINEL_DATA names, else in ../shared/data beside the
    repository. A folder that was made from the same file is left as it is; files that stand there
    and are something else are refused.
    """
    from sentinel.data.handbook import prepare_handbook
    from sentinel.data.purchasing_cards import prepare_purchasing_cards

    output = Output(as_json=as_json)
    with output.progress(f"preparing {data_set}", total=1) as advance:

        def progress(done: int, total: int) -> None:
            advance(done / max(total, 1), f"{done:,} of {total:,}")

        if data_set is DataSet.HANDBOOK:
            folder = prepare_handbook(
                out, source=source, delay_days=delay_days, overwrite=force, progress=progress
            )
        else:
            folder = prepare_purchasing_cards(
                out, source=source, overwrite=force, progress=progress
            )
    show_folder(folder, output)
