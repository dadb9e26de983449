"""What libraries say of a fault reads as the end of a sentence."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from sentinel.core.library_errors import in_words


class _Head(msgspec.Struct, forbid_unknown_fields=True):
    format: int


def _decode(content: bytes) -> Callable[[], object]:
    return lambda: msgspec.json.decode(content, type=_Head)


def _loads(text: str) -> Callable[[], object]:
    return lambda: json.loads(text)


@pytest.mark.parametrize(
    ("raises", "words"),
    [
        (_decode(b'{"format":"1"}'), "`str` at $.format, not `int`"),
        (_decode(b"{}"), "no field `format`"),
        (_decode(b'{"format":1,"more":2}'), "an unknown field `more`"),
        (_decode(b"{,}"), "malformed JSON: object keys must be strings (byte 1)"),
        (_decode(b"{"), "data that end too early"),
        (lambda: msgspec.convert([], _Head), "`array`, not `object`"),
        (_loads("x"), "no value at line 1 column 1"),
        (_loads("{"), "no property name enclosed in double quotes at line 1 column 2"),
        (_loads("[1 2]"), "no ',' delimiter at line 1 column 4"),
        (_loads('"a'), "unterminated string at line 1 column 1"),
        (_loads("1 2"), "extra data at line 1 column 3"),
        (lambda: tomllib.loads("a ="), "an invalid value at end of document"),
        (lambda: tomllib.loads("a = x"), "an invalid value at line 1, column 5"),
        (
            lambda: tomllib.loads("a b"),
            "something else: expected '=' after a key in a key/value pair (at line 1, column 3)",
        ),
        (b"a\xff".decode, "bytes that are not utf-8, from byte 1 on"),
        (Path("/nowhere/at/all").read_bytes, "no such file or directory"),
        (lambda: __import__("no_such_library"), "no module named 'no_such_library'"),
    ],
)
def test_what_a_library_says_fits_behind_got(raises: Callable[[], object], words: str) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 -- of many libraries
        raises()
    assert in_words(caught.value) == words


def test_an_error_without_words_is_named() -> None:
    assert in_words(RecursionError()) == "RecursionError"
