"""``sentinel config``: what this deployment is set to, and by whom."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from sentinel.cli import options
from sentinel.cli.output import Output, table

if TYPE_CHECKING:
    from sentinel.core.configuration import LoadedConfiguration
    from sentinel.features.stores.choice import StoreChoice

group = typer.Typer(no_args_is_help=True, help="Settings of this deployment.")


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="config")


def load(
    flags: dict[str, str | int | float | None] | None = None,
    *,
    file: Path | None = None,
    flag_of: dict[str, str] | None = None,
) -> LoadedConfiguration:
    """Read the configuration of this process: flag, environment, file, default."""
    from sentinel.core.configuration import load_configuration

    return load_configuration(flags or {}, os.environ, folder=Path(), file=file, flag_of=flag_of)


def store_of(loaded: LoadedConfiguration, durability: str | None = None) -> StoreChoice:
    """Return where feature state is kept, as flag, environment, file or default say it.

    Raises
    ------
    SentinelError
        As :func:`sentinel.features.stores.choice.parse_store`.
    """
    from sentinel.features.stores.choice import parse_store

    origin = loaded.origins["store"]
    at = "--store" if origin == "flag" else f"{origin}: store"
    return parse_store(loaded.value.store, at=at, durability=durability)


@group.command(
    epilog=options.examples(
        "sentinel config show",
        "SENTINEL_BATCH_EVENTS=512 sentinel config show --json",
    ),
)
def show(file: options.ConfigFile = None, as_json: options.AsJson = False) -> None:
    """Show every setting: its value, where that came from, and what it means.

    The first that is given counts: flag, environment (SENTINEL_ and the name in capitals), file
    (sentinel.toml, or the one that SENTINEL_CONFIG names), default. A key that does not exist is an
    error.
    """
    settings = load(file=file).settings()
    output = Output(as_json=as_json)
    output.document(
        {
            "settings": [
                {
                    "name": setting.name,
                    "value": setting.value,
                    "origin": setting.origin,
                    "meaning": setting.meaning,
                }
                for setting in settings
            ]
        }
    )
    rows = [
        (setting.name, str(setting.value) or "(empty)", setting.origin, setting.meaning)
        for setting in settings
    ]
    output.show(table("Settings", ["setting", "value", "from", "meaning"], rows))
