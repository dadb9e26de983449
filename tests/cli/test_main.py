"""The command as a user meets it: real processes, real files."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.cli.conftest import wait_for

import sentinel
from sentinel.cli.boundary import run_command
from sentinel.cli.exits import ExitCode
from sentinel.cli.main import app

Run = Callable[..., subprocess.CompletedProcess[str]]
DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "cli.md"


def commands() -> Iterator[tuple[str, object]]:
    """Walk every command with its whole name."""

    def walk(command: object, name: str) -> Iterator[tuple[str, object]]:
        children = getattr(command, "commands", {})
        if not children:
            yield name, command
        for child_name, child in children.items():
            yield from walk(child, f"{name} {child_name}".strip())

    yield from walk(typer.main.get_command(app), "")


COMMANDS = dict(commands())


def flags(command: object) -> list[str]:
    return [
        name
        for parameter in getattr(command, "params", [])
        for name in parameter.opts
        if name.startswith("--") and name != "--help"
    ]


def test_the_commands_are_those_of_the_documentation() -> None:
    sections = re.findall(r"^### `sentinel ([a-z -]+)`", DOCUMENT.read_text(), re.MULTILINE)
    assert sorted(sections) == sorted(COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_flag_is_documented_and_every_documented_flag_exists(name: str) -> None:
    text = DOCUMENT.read_text()
    section = text.split(f"### `sentinel {name}`", maxsplit=1)[1]
    section = re.split(r"\n##+ ", section, maxsplit=1)[0]
    documented = set(re.findall(r"^\| `(--[a-z-]+)", section, re.MULTILINE))
    assert documented == set(flags(COMMANDS[name]))


@pytest.mark.parametrize("name", ["", *sorted(COMMANDS)])
def test_every_help_page_has_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(app, [*name.split(), "--help"]) is ExitCode.OK
    page = capsys.readouterr().out
    assert "Examples:" in page
    assert f"sentinel {name}".strip() in page.split("Examples:")[1]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_help_page_shows_every_bracket_of_its_texts(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Brackets are markup to the printer of the page: one that is not escaped is lost."""
    command = COMMANDS[name]
    texts = [str(getattr(each, "help", None) or "") for each in getattr(command, "params", [])]
    texts += [str(getattr(command, part, None) or "") for part in ("help", "epilog")]
    assert run_command(app, [*name.split(), "--help"]) is ExitCode.OK
    page = re.sub(r"[\s│]", "", capsys.readouterr().out)
    for text in texts:
        for shown in re.findall(r"\[[^\]]*\]", text):
            assert re.sub(r"\s", "", shown) in page, text


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_help_page_breaks_a_paragraph_only_where_the_terminal_ends(name: str) -> None:
    paragraphs = str(getattr(COMMANDS[name], "help", "")).split("\n\n")
    assert all(paragraphs)
    assert not any("\n" in each for each in paragraphs)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_example_is_a_command_line_that_exists(name: str) -> None:
    """It names a command, and its flags are flags of that command."""
    epilog = str(getattr(COMMANDS[name], "epilog", "") or "")
    lines = [line.strip() for line in epilog.splitlines() if line.strip().startswith("sentinel")]
    for line in lines:
        words = shlex.split(line.split("   ", maxsplit=1)[0])
        used = {word for word in words if word.startswith("--")}
        named = [each for each in COMMANDS if " ".join(words[1:]).startswith(each)]
        assert named, line
        assert used <= set(flags(COMMANDS[max(named, key=len)])), line


def test_version_is_the_package_s(run: Run) -> None:
    assert run("--version").stdout == f"sentinel {sentinel.__version__}\n"


def test_help_imports_nothing_heavy() -> None:
    """A help page does not pay for kernels, models and tables."""
    code = (
        "import sys; sys.argv = ['sentinel', '--help']\n"
        "from sentinel.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'numba', 'numpy', 'pyarrow', 'onnxruntime', 'lightgbm', 'sklearn', 'onnx'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_ctrl_c_before_the_command_has_begun_is_no_traceback(run: Run, tmp_path: Path) -> None:
    """The first moments go into imports: one of them is interrupted here."""
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt\n")
    ended = run("--version", PYTHONPATH=str(tmp_path))
    assert ended.returncode == ExitCode.INTERRUPTED
    assert ended.stderr == ""


WORDS = st.sampled_from(
    [
        *sorted({word for name in COMMANDS for word in name.split()}),
        *sorted({flag for command in COMMANDS.values() for flag in flags(command)}),
        *("", "-", "--", "0", "-1", "1e999", "nan", "../..", "/dev/null", "/", "\0", "\x1b[31m"),
        *("handbook", "data", "2018-01-01", "9" * 40, "é" * 50, "a b", "--no-such-flag", "-x"),
    ]
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(arguments=st.lists(WORDS | st.text(max_size=12), max_size=7))
def test_any_command_line_ends_in_a_known_way_and_never_in_a_traceback(
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Whatever stands on the command line: a known exit code, at most one sentence, no crash."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SENTINEL_DATA", str(tmp_path / "no-data"))
    # What would work for minutes is left out; its own tests run it.
    if {"demo", "simulate", "train"} & set(arguments):
        arguments = [*arguments, "--no-such-flag"]
    code = run_command(app, arguments)
    captured = capsys.readouterr()
    assert code in set(ExitCode)
    assert code is not ExitCode.INTERNAL, captured.err
    assert "Traceback" not in captured.out + captured.err
    if code not in {ExitCode.OK, ExitCode.USAGE, ExitCode.RELEASE, ExitCode.GATE}:
        assert captured.err.startswith("sentinel: ") or captured.out
    if captured.err.startswith("sentinel: "):
        assert captured.err.count("\n") == 1


def test_arguments_that_are_no_text_are_survived(run: Run) -> None:
    ended = subprocess.run(
        [sys.executable.encode(), b"-m", b"sentinel.cli", b"init", b"\xff\xfe"],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == ExitCode.USAGE
    assert ended.stderr.startswith(b"sentinel: usage-invalid: NAME: ")


def test_a_setting_that_does_not_exist_is_an_error(run: Run) -> None:
    ended = run("config", "show", SENTINEL_BATCH_EVENT="5")
    assert ended.returncode == ExitCode.CONFIGURATION
    assert "configuration-unknown-key: SENTINEL_BATCH_EVENT" in ended.stderr


def test_settings_say_where_they_came_from(run: Run, tmp_path: Path) -> None:
    (tmp_path / "sentinel.toml").write_text('batch_events = 7\nlog_level = "ERROR"\n')
    ended = run("config", "show", "--json", SENTINEL_BATCH_EVENTS="9")
    found = {each["name"]: each for each in json.loads(ended.stdout)["settings"]}
    assert (found["batch_events"]["value"], found["batch_events"]["origin"]) == (
        9,
        "SENTINEL_BATCH_EVENTS",
    )
    assert found["log_level"]["origin"] == "sentinel.toml"
    assert found["quarantine_folder"]["origin"] == "default"


def test_no_colour_where_none_is_wanted(run: Run) -> None:
    ended = run("config", "show", NO_COLOR="1", FORCE_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", ended.stdout)


def test_ctrl_c_ends_long_work_cleanly_and_leaves_nothing_half_made(tmp_path: Path) -> None:
    """A real SIGINT to a real process in the middle of writing."""
    out = tmp_path / "data"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "sentinel.cli", "simulate", "--out", str(out)),
            *("--days", "3000", "--events-per-day", "50000"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(process, lambda: out.exists() and any(out.iterdir()))
    process.send_signal(signal.SIGINT)
    out_text, error = process.communicate(timeout=60)
    assert process.returncode == ExitCode.INTERRUPTED
    assert error.startswith("sentinel: interrupted: ")
    assert out_text == ""
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("days", ["0", "-1", "367"])
def test_a_wrong_length_of_an_approval_is_told_in_days(run: Run, days: str) -> None:
    ended = run("release", "approve", "any", "--role", "data", "--key", "any", f"--days={days}")
    assert ended.returncode == ExitCode.USAGE
    assert f"usage-invalid: --days: expected 1 to 366 days, got {days}." in ended.stderr
