"""A setting has one origin, one meaning, and no other spelling."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.core.configuration import (
    Configuration,
    load_configuration,
    meanings,
    variable_of,
)
from sentinel.core.errors import ErrorCode, SentinelError

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def _write(folder: Path, text: str) -> Path:
    path = folder / "sentinel.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "code", "at"),
    [
        ("batch_event = 1", ErrorCode.CONFIGURATION_UNKNOWN_KEY, "{file}"),
        ("[decision_log]\npolicy = 'drop'", ErrorCode.CONFIGURATION_UNKNOWN_KEY, "{file}"),
        ("batch_events = '12'", ErrorCode.CONFIGURATION_INVALID, "{file}: batch_events"),
        ("batch_events = 0", ErrorCode.CONFIGURATION_INVALID, "{file}: batch_events"),
        ("batch_events = 1.5", ErrorCode.CONFIGURATION_INVALID, "{file}: batch_events"),
        ("batch_events = true", ErrorCode.CONFIGURATION_INVALID, "{file}: batch_events"),
        ("drift_window_s = nan", ErrorCode.CONFIGURATION_INVALID, "{file}: drift_window_s"),
        ("drift_window_s = inf", ErrorCode.CONFIGURATION_INVALID, "{file}: drift_window_s"),
        ("drift_window_s = 'nan'", ErrorCode.CONFIGURATION_INVALID, "{file}: drift_window_s"),
        ("log_level = 'LOUD'", ErrorCode.CONFIGURATION_INVALID, "{file}: log_level"),
        ("store = ''", ErrorCode.CONFIGURATION_INVALID, "{file}: store"),
        ("batch_events = 1\nbatch_events = 2", ErrorCode.CONFIGURATION_INVALID, "{file}"),
        ("not toml", ErrorCode.CONFIGURATION_INVALID, "{file}"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(
    tmp_path: Path, text: str, code: ErrorCode, at: str
) -> None:
    """Unknown keys, wrong types, values out of bounds, what is no TOML."""
    path = _write(tmp_path, text)
    with pytest.raises(SentinelError) as error:
        load_configuration({}, {}, folder=tmp_path)
    assert error.value.code is code
    assert error.value.at == at.format(file=path)


@pytest.mark.parametrize(
    ("variable", "text", "code"),
    [
        ("SENTINEL_BATCH_EVENT", "1", ErrorCode.CONFIGURATION_UNKNOWN_KEY),
        ("SENTINEL_", "1", ErrorCode.CONFIGURATION_UNKNOWN_KEY),
        ("SENTINEL_BATCH_EVENTS", "", ErrorCode.CONFIGURATION_INVALID),
        ("SENTINEL_BATCH_EVENTS", "many", ErrorCode.CONFIGURATION_INVALID),
        ("SENTINEL_BATCH_EVENTS", "-1", ErrorCode.CONFIGURATION_INVALID),
        ("SENTINEL_DRIFT_WINDOW_S", "nan", ErrorCode.CONFIGURATION_INVALID),
        ("SENTINEL_DRIFT_WINDOW_S", "inf", ErrorCode.CONFIGURATION_INVALID),
        ("SENTINEL_LOG_LEVEL", "info", ErrorCode.CONFIGURATION_INVALID),
    ],
)
def test_a_wrong_variable_is_refused_by_its_name(
    tmp_path: Path, variable: str, text: str, code: ErrorCode
) -> None:
    """A typing error in a manifest must not pass in silence."""
    with pytest.raises(SentinelError) as error:
        load_configuration({}, {variable: text}, folder=tmp_path)
    assert error.value.code is code
    assert error.value.at == variable


def test_a_wrong_flag_is_refused_by_its_name(tmp_path: Path) -> None:
    """Flags are checked like everything else."""
    with pytest.raises(SentinelError) as error:
        load_configuration({"batch_events": -1}, {}, folder=tmp_path)
    assert error.value.at == "--batch-events"
    flag_of = {"serve_http_port": "--http-port"}
    with pytest.raises(SentinelError) as error:
        load_configuration({"serve_http_port": -1}, {}, folder=tmp_path, flag_of=flag_of)
    assert error.value.at == "--http-port"
    with pytest.raises(SentinelError) as error:
        load_configuration({"no_such": 1}, {}, folder=tmp_path)
    assert error.value.code is ErrorCode.CONFIGURATION_UNKNOWN_KEY


def test_a_close_name_is_suggested(tmp_path: Path) -> None:
    """The reader is told what was probably meant."""
    with pytest.raises(SentinelError) as error:
        load_configuration({}, {"SENTINEL_LOGLEVEL": "INFO"}, folder=tmp_path)
    assert error.value.hint == "Did you mean log_level?"


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    """By flag or by variable; the default file may be absent."""
    absent = tmp_path / "other.toml"
    with pytest.raises(SentinelError) as error:
        load_configuration({}, {}, folder=tmp_path, file=absent)
    assert error.value.code is ErrorCode.FILE_MISSING
    with pytest.raises(SentinelError) as error:
        load_configuration({}, {"SENTINEL_CONFIG": str(absent)}, folder=tmp_path)
    assert error.value.code is ErrorCode.FILE_MISSING
    assert load_configuration({}, {}, folder=tmp_path).value == Configuration()


def test_flag_beats_variable_beats_file_beats_default(tmp_path: Path) -> None:
    """And each value knows where it came from."""
    path = _write(tmp_path, "batch_events = 1\nlog_level = 'ERROR'\ndrift_window_s = 5")
    environment = {"SENTINEL_BATCH_EVENTS": "2", "SENTINEL_LOG_LEVEL": "DEBUG"}
    loaded = load_configuration(
        {"batch_events": 3, "log_level": None}, environment, folder=tmp_path
    )
    assert (loaded.value.batch_events, loaded.value.log_level) == (3, "DEBUG")
    assert loaded.value.drift_window_s == 5.0
    assert loaded.origins["batch_events"] == "flag"
    assert loaded.origins["log_level"] == "SENTINEL_LOG_LEVEL"
    assert loaded.origins["drift_window_s"] == str(path)
    assert loaded.origins["worker_folder"] == "default"
    shown = {setting.name: setting for setting in loaded.settings()}
    assert list(shown) == list(Configuration.__struct_fields__)
    assert shown["batch_events"].value == 3
    assert shown["batch_events"].meaning


@pytest.mark.parametrize(
    "variable",
    [
        "SENTINEL_DATA",
        "SENTINEL_CORPORA",
        "SENTINEL_DEBUG",
        "SENTINEL_PORT",
        "SENTINEL_SERVICE_HOST",
        "SENTINEL_SERVICE_PORT_HTTP",
        "SENTINEL_PORT_8080_TCP_ADDR",
        "SENTINEL_METRICS_SERVICE_HOST",
        "SENTINELS",
        "PATH",
    ],
)
def test_variables_that_are_no_settings_are_left_alone(tmp_path: Path, variable: str) -> None:
    """Also those that Kubernetes sets beside a service of our name."""
    loaded = load_configuration({}, {variable: "tcp://10.0.0.1:80"}, folder=tmp_path)
    assert loaded.value == Configuration()


@given(text=st.text(max_size=200))
def test_any_text_as_a_file_is_read_or_refused(
    text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Never another exception."""
    folder = tmp_path_factory.getbasetemp()
    (folder / "sentinel.toml").write_bytes(text.encode(errors="surrogatepass"))
    code = None
    try:
        load_configuration({}, {}, folder=folder)
    except SentinelError as error:
        code = error.code
    allowed = (ErrorCode.CONFIGURATION_INVALID, ErrorCode.CONFIGURATION_UNKNOWN_KEY, None)
    assert code in allowed


def test_every_default_is_within_its_own_bounds(tmp_path: Path) -> None:
    """A default that was refused when written down would be a trap."""
    values = {name: getattr(Configuration(), name) for name in Configuration.__struct_fields__}
    assert load_configuration(values, {}, folder=tmp_path).value == Configuration()


def test_every_setting_has_a_row_in_the_documentation() -> None:
    """Name, variable, type, default and meaning are those of the code; no row has no setting."""
    rows = re.findall(
        r"^\| `(\w+)` \| `(\w+)` \| (\w+) \| `([^`]*)` \| (.*) \|$", PAGE.read_text(), re.MULTILINE
    )
    default = Configuration()
    expected = []
    for name, meaning in meanings().items():
        value = getattr(default, name)
        shown = repr(value).replace("'", '"')
        expected.append((name, variable_of(name), type(value).__name__, shown, meaning))
    assert rows == expected


def test_a_port_setting_is_read_though_kubernetes_has_variables_like_it() -> None:
    loaded = load_configuration({}, {"SENTINEL_SERVE_HTTP_PORT": "9090"}, folder=Path("/nowhere"))
    assert loaded.value.serve_http_port == 9090
    with pytest.raises(SentinelError) as caught:
        load_configuration({}, {"SENTINEL_SERVE_HTTP_PORT": "70000"}, folder=Path("/nowhere"))
    assert caught.value.code is ErrorCode.CONFIGURATION_INVALID
    ignored = {"SENTINEL_PORT": "tcp://10.0.0.1:80", "SENTINEL_WEB_SERVICE_PORT": "80"}
    assert load_configuration({}, ignored, folder=Path("/nowhere")).value.serve_http_port == 8080


def test_an_error_shows_the_value_that_was_given() -> None:
    with pytest.raises(SentinelError) as caught:
        load_configuration({}, {"SENTINEL_BATCH_EVENTS": "abc"}, folder=Path("/nowhere"))
    assert caught.value.at == "SENTINEL_BATCH_EVENTS"
    assert caught.value.got == "abc"
