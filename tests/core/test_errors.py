"""Errors say where, what was expected and what came, and nothing dangerous."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError, shorten

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"


@given(text=st.text(max_size=500), n=st.integers(1, 100))
def test_shortened_text_is_one_bounded_printable_line(text: str, n: int) -> None:
    """Whatever came from outside."""
    shown = shorten(text, n_characters_max=n)
    assert shown.isprintable()
    assert len(shown) <= n + 1


@pytest.mark.parametrize("text", ["", "plain", "größe", "4 > 3"])
def test_harmless_text_is_shown_as_it_is(text: str) -> None:
    """Nothing is escaped without need."""
    assert shorten(text) == text


def test_the_sentence_is_derived_from_the_data() -> None:
    """The grammar of all errors, with and without a hint."""
    error = SentinelError(
        ErrorCode.FILE_MISSING, at="a\nb", expected="a file", got="x" * 500, hint="Look there."
    )
    assert error.at == "a\\nb"
    assert len(error.got) == limits.ERROR_VALUE_CHARACTERS_MAX + 1
    assert str(error) == f"file-missing: a\\nb: expected a file, got {error.got}. Look there."


def test_what_a_library_says_is_the_end_of_the_sentence() -> None:
    """An exception may be given as what came; one of ours keeps its words."""
    inner = SentinelError(ErrorCode.FILE_MISSING, at="a", expected="b", got="c")
    for got, words in (
        (ValueError("Expecting value: line 1 column 1 (char 0)"), "no value at line 1 column 1"),
        (inner, "file-missing: a: expected b, got c."),
    ):
        error = SentinelError(ErrorCode.FILE_MISSING, at="x", expected="JSON", got=got)
        assert error.got == words


def test_a_hostile_value_cannot_add_a_line_to_an_error() -> None:
    """Line ends and escape sequences are shown, not obeyed."""
    error = SentinelError(ErrorCode.FILE_MISSING, at="a", expected="b", got="c\r\n\x1b[2J\u2028")
    assert len(str(error).splitlines()) == 1
    assert "\x1b" not in str(error)


def test_codes_are_kebab_case_and_once() -> None:
    """They are a metric label and a word in a script."""
    for code in ErrorCode:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", code.value)
        assert code.name == code.value.upper().replace("-", "_")


def test_every_code_of_this_room_has_a_row_in_the_documentation() -> None:
    """Core, monitoring: a row each."""
    rows = set(re.findall(r"^\| `([a-z0-9-]+)` \|", PAGE.read_text(), re.MULTILINE))
    assert {code.value for code in ErrorCode} <= rows
