"""The configuration of a process: what this deployment chooses, read once, at start.

A value comes from the first of: flag, environment (``SENTINEL_`` and the name in capitals), file
(``sentinel.toml``), default. What must match between training and serving is not here: it is
inside the release, hashed; no name is in both. A key that does not exist is an error.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, get_args, get_type_hints

import msgspec
from msgspec import Meta

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError, without_password
from sentinel.core.files import read_bounded

FILE_NAME = "sentinel.toml"
PREFIX = "SENTINEL_"
# The variable that names another file.
FILE_VARIABLE = "SENTINEL_CONFIG"
# Variables of Sentinel that are no settings: where test data are, what a developer wants to see.
OTHER_VARIABLES = frozenset(
    {FILE_VARIABLE, "SENTINEL_DATA", "SENTINEL_CORPORA", "SENTINEL_KAFKA", "SENTINEL_DEBUG"}
)
# Tables of the file that are no settings: properties handed to a client library.
TABLES = frozenset({"kafka"})
# What Kubernetes puts into every container beside a Service named `sentinel` or `sentinel-…`.
_SERVICE_VARIABLE = re.compile(r"SENTINEL_(\w+_)?(SERVICE_(HOST|PORT\w*)|PORT(_\d+_(TCP|UDP)\w*)?)")


class Configuration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one process; ``docs/configuration.md`` has a row for each.

    Examples
    --------
    >>> load_configuration({"batch_events": 512}, {}, folder=Path("/nowhere")).value.batch_events
    512
    """

    store: Annotated[
        str,
        Meta(
            min_length=1,
            description="Where state is: `memory`, `embedded:FOLDER`, `redis://…`; `@FILE`.",
        ),
    ] = "memory"
    worker_folder: Annotated[
        str,
        Meta(
            min_length=1,
            description="What a stream worker notes beside a store that is elsewhere (Redis).",
        ),
    ] = "worker"
    decision_log_folder: Annotated[
        str, Meta(min_length=1, description="Segments of the decision log.")
    ] = "decisions"
    decision_log_queue_records: Annotated[
        int,
        Meta(ge=1, le=10_000_000, description="Decisions that wait in memory to be written."),
    ] = limits.LOG_QUEUE_RECORDS_MAX
    decision_log_segment_records: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Decisions of one segment.")
    ] = limits.LOG_SEGMENT_RECORDS_MAX
    decision_log_segment_s: Annotated[
        float,
        Meta(gt=0, le=3600, description="Seconds after which a decision is in a segment."),
    ] = limits.LOG_SEGMENT_S_MAX
    decision_log_wait_s: Annotated[
        float,
        Meta(ge=0, le=3600, description="Seconds that `block`, and the end, wait for the disk."),
    ] = limits.LOG_WAIT_S_MAX
    decision_log_spill_folder: Annotated[
        str, Meta(description="Spilled decisions, best on another disk; empty: inside the log.")
    ] = ""
    decision_log_spill_bytes: Annotated[
        int, Meta(ge=0, le=1 << 50, description="Bytes of spilled decisions at most.")
    ] = limits.LOG_SPILL_BYTES_MAX
    quarantine_folder: Annotated[
        str, Meta(min_length=1, description="Refused events, whole, with their reason.")
    ] = "quarantine"
    batch_events: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Events that are scored together.")
    ] = 1024
    drift_false_alarm_days: Annotated[
        float, Meta(gt=0, le=36_500, description="Days with at most one false drift alarm.")
    ] = limits.DRIFT_FALSE_ALARM_DAYS
    drift_window_events: Annotated[
        int, Meta(ge=100, le=1_000_000_000, description="Events of a drift window at least.")
    ] = limits.DRIFT_WINDOW_EVENTS_MIN
    drift_window_s: Annotated[
        float, Meta(gt=0, le=31_536_000, description="Seconds of a drift window at least.")
    ] = limits.DRIFT_WINDOW_S_MIN
    serve_host: Annotated[
        str, Meta(min_length=1, description="Address that the server listens at.")
    ] = "127.0.0.1"
    serve_http_port: Annotated[
        int, Meta(ge=0, le=65_535, description="Port of the HTTP door; 0: any free one.")
    ] = 8080
    serve_grpc_port: Annotated[
        int, Meta(ge=0, le=65_535, description="Port of the gRPC door; 0: any free one.")
    ] = 8081
    serve_metrics_port: Annotated[
        int, Meta(ge=0, le=65_535, description="Port of metrics and health; 0: any free one.")
    ] = 8082
    serve_tokens_file: Annotated[
        str, Meta(description="Tokens and their scopes; empty: nobody needs one.")
    ] = ""
    serve_certificate_file: Annotated[
        str, Meta(description="TLS certificate in PEM; empty: no TLS.")
    ] = ""
    serve_private_key_file: Annotated[str, Meta(description="Key of that certificate, in PEM.")] = (
        ""
    )
    serve_client_ca_file: Annotated[
        str, Meta(description="CA whose clients may come, in PEM; empty: clients need none.")
    ] = ""
    serve_timeout_ms: Annotated[
        int,
        Meta(
            ge=1,
            le=limits.REQUEST_TIMEOUT_MS_MAX,
            description="Milliseconds for a request that names no deadline.",
        ),
    ] = limits.REQUEST_TIMEOUT_MS_DEFAULT
    serve_explain: Annotated[
        str,
        Meta(
            pattern="^(flagged|all|none)$",
            description="Decisions that are explained: `flagged` (declined, reviewed), `all`, "
            "`none`.",
        ),
    ] = "flagged"
    serve_explainer_nice: Annotated[
        int,
        Meta(
            ge=0,
            le=19,
            description="Steps that the priority of explanations is below that of decisions; "
            "19: they have what decisions leave.",
        ),
    ] = limits.EXPLAINER_NICE
    serve_drain_notice_s: Annotated[
        float, Meta(ge=0, le=600, description="Seconds of not being ready before the door closes.")
    ] = limits.DRAIN_NOTICE_S
    serve_fronts: Annotated[
        int,
        Meta(
            ge=0,
            le=limits.FRONTS_MAX,
            description="Processes that hold the doors; 0: the process that scores holds them.",
        ),
    ] = 0
    serve_run_folder: Annotated[
        str,
        Meta(
            min_length=1,
            description="With fronts: their socket, and why the last process of each part ended.",
        ),
    ] = "run"
    log_level: Annotated[
        str,
        Meta(pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="Least level that is logged."),
    ] = "INFO"


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of ``sentinel config show``.

    Attributes
    ----------
    name : str
    value : str, int or float
    origin : str
        ``flag``, the variable, the file, or ``default``.
    meaning : str
    """

    name: str
    value: str | int | float
    origin: str
    meaning: str


@dataclass(frozen=True, slots=True)
class LoadedConfiguration:
    """A configuration, with where each value came from.

    Attributes
    ----------
    value : Configuration
    origins : dict of str to str
    """

    value: Configuration
    origins: dict[str, str]

    def settings(self) -> list[Setting]:
        """Return every setting with its value, origin and meaning, in order."""
        found = []
        for name, meaning in meanings().items():
            value = getattr(self.value, name)
            shown = without_password(value) if name == "store" else value
            found.append(Setting(name, shown, self.origins[name], meaning))
        return found


def meanings() -> dict[str, str]:
    """Return what each setting means, by name, in the order of declaration."""
    hints = get_type_hints(Configuration, include_extras=True)
    found = {}
    for name in Configuration.__struct_fields__:
        meta: Meta = get_args(hints[name])[1]
        found[name] = meta.description or ""
    return found


def variable_of(name: str) -> str:
    """Return the environment variable of a setting.

    Examples
    --------
    >>> variable_of("log_level")
    'SENTINEL_LOG_LEVEL'
    """
    return PREFIX + name.upper()


def load_configuration(
    flags: Mapping[str, str | int | float | None],
    environment: Mapping[str, str],
    *,
    folder: Path,
    file: Path | None = None,
    flag_of: Mapping[str, str] | None = None,
) -> LoadedConfiguration:
    """Put the configuration of this process together.

    Parameters
    ----------
    flags : mapping
        Setting name to value; None where the flag was not given.
    environment : mapping
        The process environment.
    folder : Path
        Where ``sentinel.toml`` is looked for; it need not exist.
    file : Path, optional
        A file that must exist; else the one that ``SENTINEL_CONFIG`` names.
    flag_of : mapping, optional
        Setting name to its flag, where that is not the setting's own name.

    Raises
    ------
    SentinelError
        ``configuration-unknown-key``, ``configuration-invalid``; ``file-missing`` and
        ``file-unreadable`` for a file that was named.
    """
    data, source = _read_file(environment, folder, file)
    known = Configuration.__struct_fields__
    values: dict[str, object] = {}
    origins = dict.fromkeys(known, "default")
    for name, value in data.items():
        if name in TABLES and isinstance(value, dict):
            continue
        _check_known(name, known, at=source)
        values[name] = _checked(name, value, at=f"{source}: {name}", is_text=False)
        origins[name] = source
    for variable, text in sorted(environment.items()):
        if not _is_setting(variable):
            continue
        name = variable.removeprefix(PREFIX).lower()
        _check_known(name, known, at=variable)
        values[name] = _checked(name, text, at=variable, is_text=True)
        origins[name] = variable
    for name, given in flags.items():
        if given is None:
            continue
        flag = (flag_of or {}).get(name, "--" + name.replace("_", "-"))
        _check_known(name, known, at=flag)
        values[name] = _checked(name, given, at=flag, is_text=isinstance(given, str))
        origins[name] = "flag"
    return LoadedConfiguration(msgspec.convert(values, Configuration), origins)


def load_table(
    name: str, environment: Mapping[str, str], *, folder: Path, file: Path | None = None
) -> dict[str, object]:
    """Return one of the ``TABLES`` of the file; empty where there is none.

    Raises
    ------
    SentinelError
        As :func:`load_configuration`.
    """
    data, source = _read_file(environment, folder, file)
    table = data.get(name, {})
    if not isinstance(table, dict):
        raise SentinelError(
            ErrorCode.CONFIGURATION_INVALID,
            at=f"{source}: {name}",
            expected=f"a table [{name}]",
            got=type(table).__name__,
        )
    return dict(table)


def _read_file(
    environment: Mapping[str, str], folder: Path, file: Path | None
) -> tuple[dict[str, object], str]:
    named = file or (Path(environment[FILE_VARIABLE]) if FILE_VARIABLE in environment else None)
    path = named or folder / FILE_NAME
    if named is None and not path.exists():
        return {}, str(path)
    content = read_bounded(path, n_bytes_max=limits.CONFIGURATION_FILE_BYTES_MAX)
    try:
        return tomllib.loads(content.decode()), str(path)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SentinelError(
            ErrorCode.CONFIGURATION_INVALID, at=str(path), expected="TOML in UTF-8", got=error
        ) from error


def _is_setting(variable: str) -> bool:
    """Whether a variable is meant for us: a setting's own name always is."""
    if not variable.startswith(PREFIX) or variable in OTHER_VARIABLES:
        return False
    is_known = variable.removeprefix(PREFIX).lower() in Configuration.__struct_fields__
    return is_known or not _SERVICE_VARIABLE.fullmatch(variable)


def _check_known(name: str, known: tuple[str, ...], *, at: str) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        raise SentinelError(
            ErrorCode.CONFIGURATION_UNKNOWN_KEY,
            at=at,
            expected="a setting that exists",
            got=name,
            hint=f"Did you mean {close[0]}?" if close else "See `sentinel config show`.",
        )


def _checked(name: str, value: object, *, at: str, is_text: bool) -> object:
    """Check one value alone, so that the error names where it came from."""
    hints = get_type_hints(Configuration, include_extras=True)
    plain = get_args(hints[name])[0]
    is_of_kind = not isinstance(value, str) or plain is str or is_text
    try:
        checked: object = msgspec.convert(value, hints[name], strict=not is_text)
    except msgspec.ValidationError as error:
        expected, _, got = str(error).partition(", got ")
        shown = value if is_text or not got else got
        raise _invalid(name, at, expected.removeprefix("Expected "), shown) from error
    if not is_of_kind or (isinstance(checked, float) and not math.isfinite(checked)):
        raise _invalid(name, at, f"a finite {plain.__name__}", value)
    return checked


def _invalid(name: str, at: str, expected: str, got: object) -> SentinelError:
    return SentinelError(
        ErrorCode.CONFIGURATION_INVALID,
        at=at,
        expected=expected,
        got=got,
        hint=f"See {name} in docs/configuration.md.",
    )
