"""People read tables, scripts read strict JSON, and nothing from outside is markup."""

from __future__ import annotations

import io
import json
import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from sentinel.cli.output import WIDTH_COLUMNS, Output, number, pairs, plain, span, table
from sentinel.cli.status import status_panel
from sentinel.hardware.accelerators import AcceleratorProbe
from sentinel.monitoring import Trouble, build_status

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner),
    max_leaves=20,
)


@given(VALUES)
def test_any_document_is_strict_json(value: object) -> None:
    text = json.dumps(plain({"value": value}), allow_nan=False)
    text.encode("ascii")
    json.loads(text, parse_constant=pytest.fail)


def test_json_is_the_only_thing_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=True)
    output.show("for people")
    output.note("on the side")
    output.document({"drift": math.nan})
    with output.progress("work", total=3) as advance:
        advance(1, "one")
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"drift": None}
    assert captured.err == "on the side\n"


@pytest.mark.parametrize(
    ("is_terminal", "kind"), [(True, "xterm"), (True, "dumb"), (False, "xterm")]
)
def test_progress_is_watched_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, kind: str, *, is_terminal: bool
) -> None:
    """Who asks first can leave out what only watchers would see."""
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", kind)
    output = Output()
    with output.progress("work", total=None) as advance:
        advance(1, "one")
    assert output.is_watched == ("work" in stream.getvalue()) == (is_terminal and kind == "xterm")


def test_people_get_tables_and_no_document(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    output.show(pairs("Counts", {"decided": 12345}))
    output.document({"decided": 12345})
    out = capsys.readouterr().out
    assert "12,345" in out
    assert "{" not in out


def test_outside_text_is_neither_markup_nor_control(capsys: pytest.CaptureFixture[str]) -> None:
    Output().show(table("", ["name"], [["[red]\x1b[31m:smile:[/nothing]"]]))
    out = capsys.readouterr().out
    assert "[red]" in out
    assert ":smile:" in out
    assert "\x1b" not in out


def test_a_sentence_in_a_cell_is_folded_and_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    sentence = " ".join(f"word{number}" for number in range(50))
    Output().show(pairs("Releases", {"fault": sentence}), table("", ["result"], [[sentence]]))
    words = capsys.readouterr().out.split()
    assert [word for word in words if word.startswith("word")] == sentence.split() * 2


def test_a_digest_is_in_one_piece_at_80_columns() -> None:
    console = Console(width=80)
    digest = "0123456789abcdef" * 4
    rows = {"standing": "approved", "digest": digest, "trained until": "2025-02-15 23:59 UTC"}
    with console.capture() as capture:
        console.print(pairs("Release", rows))
    lines = [line.rstrip() for line in capture.get().splitlines()]
    assert lines[:3] == ["Release", f" digest         {digest}", " standing       approved"]


def test_a_name_at_the_front_is_whole_at_80_columns() -> None:
    """What stands behind it is folded instead."""
    names = ["card_amount_mean_7d", "merchant_declined_30d"]
    told = "0.12345678901234567 present, 0.12345678901234567 defaulted"
    console = Console(width=80)
    with console.capture() as capture:
        console.print(
            table("", ["feature", "served", "computed"], [[n, told, told] for n in names])
        )
    lines = capture.get().splitlines()
    assert [line.split()[0] for line in lines if "_" in line] == names
    assert all(Text(line).cell_len <= 80 for line in lines)


@pytest.mark.parametrize("width", [40, 80, 100])
def test_a_status_block_loses_nothing_of_a_long_trouble(width: int) -> None:
    """What does not fit goes on below, right of the mark."""
    feature = "n_frauds_of_the_merchant_category_" * 2
    trouble = f"drift of {feature} (pipeline): 100.0% are defaulted, 0.0% in the reference"
    found = build_status(
        release="card-fraud@1.0.0",
        p99_s=None,
        drift_score=None,
        troubles=[Trouble(trouble)],
        accelerators=AcceleratorProbe(),
    )
    console = Console(width=width)
    with console.capture() as capture:
        console.print(status_panel(found))
    inside = [line.strip("│╭╮╰╯─\n") for line in capture.get().splitlines()]
    assert sum("Model version" in line for line in inside) == 1
    first = next(i for i, line in enumerate(inside) if "!" in line)
    assert all(line.startswith(" " * 5) for line in inside[first + 1 : -1])
    assert "".join("".join(inside[first:]).split()) == "!" + "".join(trouble.split())


@given(st.lists(st.lists(st.text(max_size=200), min_size=3, max_size=3), max_size=5))
def test_a_table_is_never_wider_than_the_page(rows: list[list[str]]) -> None:
    console = Console(width=WIDTH_COLUMNS, markup=False)
    with console.capture() as capture:
        console.print(table("Rows", ["a", "b", "c"], rows))
    for line in capture.get().split("\n"):
        assert Text(line).cell_len <= WIDTH_COLUMNS


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0.0 s"), (60, "1.0 min"), (3_599, "60.0 min"), (86_400 * 400, "400.0 days")],
)
def test_a_length_of_time_has_the_unit_that_fits(seconds: float, shown: str) -> None:
    assert span(seconds) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (1234567, "1,234,567"), (0.5, "0.500"), (None, "–"), (math.inf, "–")],
)
def test_numbers_read_well(value: float | None, shown: str) -> None:
    assert number(value) == shown
