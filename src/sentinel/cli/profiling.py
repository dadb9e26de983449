"""``sentinel profile``: where the time of a running server's requests goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypedDict, cast

import typer

from sentinel.cli import options, remote
from sentinel.cli.exits import ExitCode
from sentinel.cli.output import Output, pairs, table
from sentinel.cli.remote import Remote

if TYPE_CHECKING:
    from rich.console import RenderableType

_QUANTILES = ("p50_ms", "p90_ms", "p99_ms", "p99.9_ms")


class _Stage(TypedDict):
    stage: str
    ms: float
    share: float


class _Part(TypedDict):
    mean_ms: float
    stages: list[_Stage]
    collector_ms: float


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog=options.examples(
            "sentinel profile",
            "sentinel profile --url http://127.0.0.1:8082 --seconds 30 --json",
        ),
    )(profile)


def profile(
    url: remote.Url = remote.URL,
    seconds: Annotated[
        float, typer.Option("--seconds", help="How long to look; at most 60.", min=0.1, max=60.0)
    ] = 10.0,
    token_file: remote.TokenFile = None,
    as_json: options.AsJson = False,
) -> ExitCode:
    """Say where the time of requests goes, stage by stage, the slowest hundredth beside all.

    Also what is lost to the interpreter lock and to the garbage collector. Costs the server about
    a hundredth of a core while it looks, and nothing at other times.
    """
    found = Remote(url, token_file).read(f"profile?seconds={seconds:g}", wait_s=seconds)
    output = Output(as_json=as_json)
    output.document(found)
    output.show(pairs("Requests", _summary(found)))
    if "slowest" in found:
        output.show(_stages(cast("_Part", found["all"]), cast("_Part", found["slowest"])))
    lock = cast("dict[str, float]", found["interpreter_lock"])
    if lock["looks"]:
        rows = {name.replace("_", " "): value for name, value in lock.items()}
        output.show(pairs("Waiting for the interpreter lock", rows))
    collector = cast("dict[str, object]", found["collector"])
    output.show(pairs("Garbage collector", _collector(collector)))
    return ExitCode.OK


def _summary(found: dict[str, object]) -> dict[str, object]:
    names = ("seconds", "requests", "requests_per_s", "rows_per_batch", *_QUANTILES)
    rows = {name.replace("_", " "): found[name] for name in names if name in found}
    rows["share of a core"] = found["processor_share"]
    return rows


def _stages(every: _Part, slowest: _Part) -> RenderableType:
    """Put the two breakdowns side by side; a stage that only one of them has counts 0 there."""
    of_all = {each["stage"]: each for each in every["stages"]}
    of_slow = {each["stage"]: each for each in slowest["stages"]}
    rows = []
    for name, each in of_all.items():
        slow = of_slow.get(name, _Stage(stage=name, ms=0.0, share=0.0))
        rows.append((name, f"{each['ms']:.3f}", f"{each['share']:.1%}",
                     f"{slow['ms']:.3f}", f"{slow['share']:.1%}"))  # fmt: skip
    rows.append(("(collector, within)", f"{every['collector_ms']:.3f}", "",
                 f"{slowest['collector_ms']:.3f}", ""))  # fmt: skip
    rows.append(("whole", f"{every['mean_ms']:.3f}", "", f"{slowest['mean_ms']:.3f}", ""))
    headers = ("stage", "all: ms", "share", "slowest 1 %: ms", "share")
    return table("Where the time goes", headers, rows)


def _collector(found: dict[str, object]) -> dict[str, object]:
    counts = cast("dict[str, int]", found["collections"])
    rows: dict[str, object] = {f"{name} collections": n for name, n in counts.items()}
    for name in ("total_ms", "max_ms", "share"):
        rows[name.replace("_", " ")] = found[name]
    return rows
