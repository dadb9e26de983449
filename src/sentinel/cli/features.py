"""``sentinel features``: the group, and ``get``: features of entities, read from a store."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sentinel.cli import config, options
from sentinel.cli.output import Output, number, span, table
from sentinel.cli.release import load, now_ms
from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError

if TYPE_CHECKING:
    from sentinel.contract import Field
    from sentinel.features import Feature
    from sentinel.features.plan import FeaturePlan
    from sentinel.features.stores.redis.reader import EntityFeatures

group = typer.Typer(
    no_args_is_help=True,
    help="Read features from a store, replay a history, compare what was served.",
)

# A person waits; a scorer does not.
_DEADLINE_MS = 2000.0


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="features")


@group.command(
    epilog=options.examples(
        "sentinel features get card c-1 c-2 --store redis://cache:6379 --release my-release",
        "sentinel features get card c-1 c-2 --store @redis.url --release my-release",
        "sentinel features get card c-1 --store @redis.url --partitions 8 --release my-release",
    )
)
def get(  # noqa: PLR0913 -- one parameter a flag
    entity: Annotated[str, typer.Argument(help="The type of entity: card, merchant.")],
    keys: Annotated[list[str], typer.Argument(metavar="KEY...", help="Keys as in events.")],
    *,
    release: Annotated[
        Path, typer.Option("--release", help="The release whose feature set the state is of.")
    ],
    at_ms: Annotated[
        int | None, typer.Option("--at", help="Milliseconds since 1970; now, where not given.")
    ] = None,
    store: options.Store = None,
    partitions: Annotated[
        int | None,
        typer.Option(
            "--partitions",
            min=1,
            max=limits.STREAM_PARTITIONS_MAX,
            help="Of the topic, where sentinel stream ran with --partition-key: each has a store.",
        ),
    ] = None,
    trust: options.TrustFile = None,
    unapproved: options.Unapproved = False,
    config_file: options.ConfigFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Show what the next event of each entity would read; changes nothing.

    Distance and velocity are left out: they need an event.
    """
    from sentinel.features.stores.choice import StoreKind
    from sentinel.features.stores.redis.partitions import read_partitions

    chosen = config.store_of(config.load({"store": store}, file=config_file))
    if chosen.kind is not StoreKind.REDIS:
        raise SentinelError(
            ErrorCode.STORE_ADDRESS_INVALID,
            at="--store",
            expected="a store in Redis",
            got=chosen.shown,
            hint="State in memory or in a folder is read by the process that has it open.",
        )
    loaded = load(release, trust, allow_unapproved=unapproved)
    plan = loaded.parts.plan
    name = chosen.name or plan.features.name
    fields = {each.name: each.key for each in plan.features.entities}
    asked = _keys_of(fields.get(entity), keys)
    at = now_ms() if at_ms is None else _checked_time(at_ms, plan.features.events.event_time)
    if partitions is not None:
        found = read_partitions(
            plan,
            url=chosen.url,
            name=name,
            n_partitions=partitions,
            entity=entity,
            keys=asked,
            at_ms=at,
            deadline_ms=_DEADLINE_MS,
        )
    else:
        found = _read(plan, chosen.url, name, entity, asked, at)
    output = Output(as_json=as_json)
    output.document(
        {"entity": entity, "entities": [_data(found, k, i) for i, k in enumerate(keys)]}
    )
    defined = {each.name: each for each in plan.features.features}
    for i, key in enumerate(keys):
        rows = [
            (name, shown_value(defined[name], value), status)
            for name, (value, status) in _values(found, i).items()
        ]
        output.show(table(f"{entity} {key}: {_age(found, i)}", ["feature", "value", "is"], rows))


def shown_value(feature: Feature, value: float) -> str:
    """Show the value of a feature; a length of time with its unit."""
    from sentinel.features import FirstSeen, TimeSince

    is_time = isinstance(feature, FirstSeen | TimeSince) and math.isfinite(value)
    return span(value) if is_time else number(value)


def _read(
    plan: FeaturePlan,
    url: str,
    name: str,
    entity: str,
    keys: list[str] | list[int],
    at_ms: int,
) -> EntityFeatures:
    from sentinel.features.stores.redis.reader import FeatureReader

    try:
        reader = FeatureReader(plan, url=url, name=name, deadline_ms=_DEADLINE_MS)
    except SentinelError as error:
        if error.code is not ErrorCode.STATE_MISSING:
            raise
        raise SentinelError(
            error.code,
            at=error.at,
            expected="a store",
            got="nothing",
            hint="State of a stream with --partition-key is read with --partitions N.",
        ) from error
    try:
        return reader.read(entity, keys, at_ms)
    finally:
        reader.close()


def _checked_time(at_ms: int, field: Field) -> int:
    """Refuse a time that no event of the contract may have: seconds, most often."""
    first, last = field.minimum, field.maximum
    if (first is None or at_ms >= first) and (last is None or at_ms <= last):
        return at_ms
    is_seconds = (first or 0) <= 1000 * at_ms <= (last or limits.TIME_MS_MAX)
    raise SentinelError(
        ErrorCode.USAGE_INVALID,
        at="--at",
        expected=f"milliseconds since 1970, {first} to {last} as the contract's {field.name}",
        got=at_ms,
        hint=f"In seconds? Then it is {1000 * at_ms}." if is_seconds else "",
    )


def _keys_of(field: Field | None, keys: list[str]) -> list[str] | list[int]:
    """Take keys as their contract has them."""
    from sentinel.contract import FieldKind

    if "" in keys:
        raise SentinelError(
            ErrorCode.ENTITY_KEYS_INVALID,
            at="KEY",
            expected="keys as in events",
            got="an empty one",
        )
    if field is None or field.kind is not FieldKind.INTEGER:
        return keys
    try:
        return [int(key) for key in keys]
    except ValueError:
        return keys  # refused by the reader, with the field's name


def _data(found: EntityFeatures, key: str, i: int) -> dict[str, object]:
    age_ms = int(found.age_ms_max[i])
    return {
        "key": key,
        "is_known": bool(found.is_known[i]),
        "age_ms_max": None if age_ms < 0 else age_ms,
        "features": {
            name: {"value": value, "status": status}
            for name, (value, status) in _values(found, i).items()
        },
    }


def _values(found: EntityFeatures, i: int) -> dict[str, tuple[float, str]]:
    """Give value and status of each feature of an entity, by name."""
    from sentinel.features.words import STATUS_NAMES

    states = (STATUS_NAMES[state] for state in found.status[i].tolist())
    return dict(zip(found.names, zip(found.values[i].tolist(), states, strict=True), strict=True))


def _age(found: EntityFeatures, i: int) -> str:
    if not found.is_known[i]:
        return "not known"
    age_ms = int(found.age_ms_max[i])
    return "known" if age_ms < 0 else f"latest event at most {span(age_ms / 1000)} ago"
