"""``sentinel serve``: a release behind its doors."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sentinel.cli import config, options
from sentinel.cli.exits import ExitCode
from sentinel.cli.output import Output, pairs
from sentinel.cli.release import load
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.threads import require_threads, threads_to_serve

if TYPE_CHECKING:
    from sentinel.core.configuration import Configuration
    from sentinel.features.stores.choice import StoreChoice
    from sentinel.monitoring.logs import LineHandler
    from sentinel.serving import Addresses, ServerSettings
    from sentinel.serving.fronts.control import Served
    from sentinel.serving.plane import Plane

# The flags of settings that have another name.
_FLAG_OF = {
    "serve_host": "--host",
    "serve_http_port": "--http-port",
    "serve_grpc_port": "--grpc-port",
    "serve_metrics_port": "--metrics-port",
    "serve_tokens_file": "--tokens",
    "quarantine_folder": "--quarantine",
    "serve_fronts": "--fronts",
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog=options.examples(
            "sentinel serve my-release --trust trust.toml",
            "sentinel serve my-release --unapproved --http-port 0 --json",
        ),
    )(serve)


def serve(  # noqa: PLR0913, PLR0917 -- one parameter an option
    folder: options.ReleaseFolder,
    trust: options.TrustFile = None,
    unapproved: options.Unapproved = False,
    host: Annotated[
        str | None, typer.Option(help=r"Address to listen at. \[default: 127.0.0.1]")
    ] = None,
    http_port: Annotated[
        int | None, typer.Option(help="Port of the HTTP door; 0: any free one.")
    ] = None,
    grpc_port: Annotated[
        int | None, typer.Option(help="Port of the gRPC door; 0: any free one.")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Port of metrics and health; 0: any free one.")
    ] = None,
    tokens: Annotated[
        Path | None, typer.Option(help="Token file: who may ask. See docs/serving.md.")
    ] = None,
    insecure_bind: Annotated[
        bool,
        typer.Option(
            "--insecure-bind", help="Listen beyond loopback although nobody needs a token."
        ),
    ] = False,
    store: options.Store = None,
    durability: options.DurabilityClass = None,
    log: Annotated[
        Path | None, typer.Option(help="Folder of the decision log; without it there is none.")
    ] = None,
    releases: Annotated[
        Path | None,
        typer.Option(
            help="Folder of releases that may take over while serving; "
            "see `sentinel serving stage`."
        ),
    ] = None,
    rehearsal: Annotated[
        bool,
        typer.Option(
            "--rehearsal",
            help="Take events of the past: their times are not held against the clock. Health and "
            "status say so.",
        ),
    ] = False,
    quarantine: Annotated[Path | None, typer.Option(help="Where refused events are kept.")] = None,
    fronts: Annotated[
        int | None,
        typer.Option(
            help="Processes that hold the doors, beside one that scores; all are watched, and "
            r"started again. 0: one process does everything. \[default: 0]"
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> ExitCode:
    """Serve a release over HTTP and gRPC until SIGTERM or Ctrl-C.

    Readiness is true once the release's canary has gone the whole way through the server's own
    door and come back right; it is asked again every few seconds.

    Exit code 7 when answers never reached the state: its store was away until the end, or for
    longer than answers may wait.
    """
    flags: dict[str, str | int | float | None] = {
        "serve_host": host,
        "serve_http_port": http_port,
        "serve_grpc_port": grpc_port,
        "serve_metrics_port": metrics_port,
        "serve_tokens_file": None if tokens is None else str(tokens),
        "quarantine_folder": None if quarantine is None else str(quarantine),
        "store": store,
        "serve_fronts": fronts,
    }
    if releases is not None and not releases.is_dir():
        raise SentinelError(
            ErrorCode.FILE_MISSING,
            at=str(releases),
            expected="a folder of releases",
            got="none there",
        )
    loaded_configuration = config.load(flags, flag_of=_FLAG_OF)
    configuration = loaded_configuration.value
    require_threads(threads_to_serve(n_fronts=configuration.serve_fronts), at="sentinel serve")
    chosen = config.store_of(loaded_configuration, durability)
    settings = settings_of(configuration, insecure_bind=insecure_bind, store=chosen, log=log)
    settings = dataclasses.replace(settings, is_rehearsal=rehearsal)
    import sentinel
    from sentinel.monitoring import start_logging
    from sentinel.serving.fronts.control import Served

    output = Output(as_json=as_json)
    # Results are on stdout, so what happens while serving is on stderr.
    lines = start_logging(
        service="sentinel",
        version=sentinel.__version__,
        level=configuration.log_level,
        descriptor=sys.stderr.fileno(),
    )

    served = Served(release=folder, trust=trust, allow_unapproved=unapproved, releases=releases)
    try:
        if settings.n_fronts:
            is_whole = _serve_with_fronts(served, settings, configuration, output)
        else:
            is_whole = _serve_alone(served, settings, configuration, output, lines)
    finally:
        lines.close()
    return ExitCode.OK if is_whole else ExitCode.DEGRADED


def _serve_alone(
    served: Served,
    settings: ServerSettings,
    configuration: Configuration,
    output: Output,
    lines: LineHandler,
) -> bool:
    """Serve with this process; say whether the state learned of every answer."""
    from sentinel.serving import ReleaseSource
    from sentinel.serving import serve as run_server

    loaded = load(served.release, served.trust, allow_unapproved=served.allow_unapproved)
    source = None
    if served.releases is not None:
        source = ReleaseSource(
            folder=served.releases, trust=served.trust, allow_unapproved=served.allow_unapproved
        )

    def started(addresses: Addresses, plane: Plane) -> None:
        plane.metrics.watch_lines(lines)
        announce(output, addresses, loaded.manifest.label, str(loaded.standing))

    return not run_server(loaded, settings, configuration, source=source, on_started=started)


def _serve_with_fronts(
    served: Served, settings: ServerSettings, configuration: Configuration, output: Output
) -> bool:
    """Serve with several processes, and watch them; returns as :func:`_serve_alone`."""
    from sentinel.serving.fronts.supervisor import supervise

    def started(addresses: Addresses, label: str, standing: str) -> None:
        announce(output, addresses, label, standing)

    return supervise(served, settings, configuration, on_started=started)


def settings_of(
    configuration: Configuration, *, insecure_bind: bool, store: StoreChoice, log: Path | None
) -> ServerSettings:
    """Put the settings of a server together.

    Raises
    ------
    SentinelError
        ``bind-refused``, ``configuration-invalid``.
    """
    from sentinel.serving import ServerSettings
    from sentinel.serving.settings import ExplainMode

    return ServerSettings(
        host=configuration.serve_host,
        http_port=configuration.serve_http_port,
        grpc_port=configuration.serve_grpc_port,
        metrics_port=configuration.serve_metrics_port,
        tokens=_path(configuration.serve_tokens_file),
        insecure_bind=insecure_bind,
        certificate=_path(configuration.serve_certificate_file),
        private_key=_path(configuration.serve_private_key_file),
        client_ca=_path(configuration.serve_client_ca_file),
        timeout_ms=configuration.serve_timeout_ms,
        quarantine=Path(configuration.quarantine_folder),
        store=store,
        log=log,
        explain=ExplainMode(configuration.serve_explain),
        explainer_nice=configuration.serve_explainer_nice,
        drain_notice_s=configuration.serve_drain_notice_s,
        n_fronts=configuration.serve_fronts,
        run=Path(configuration.serve_run_folder),
    )


def announce(output: Output, addresses: Addresses, label: str, standing: str) -> None:
    """Say where the doors are."""
    facts: dict[str, object] = {
        "release": label,
        "standing": standing,
        "host": addresses.host,
        "http_port": addresses.http_port,
        "grpc_port": addresses.grpc_port,
        "metrics_port": addresses.metrics_port,
    }
    output.document(facts)
    # A port is a name: without separators.
    output.show(pairs("Serving", {name: str(fact) for name, fact in facts.items()}))


def _path(text: str) -> Path | None:
    return Path(text) if text else None
