"""What the exceptions of libraries say, in words that fit behind "got" in a sentence.

Libraries write sentences of their own ("Expecting value: line 1 column 1", "Expected `int`, got
`str` - at `$.format`"); in ours, which has its own "expected", they read badly. What is not known
here is passed on behind "something else".
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_AT = r"(?: - at `(?P<p>[^`]+)`)?"
_LINE = r"(?P<p>line \d+ column \d+) \(char \d+\)"
# msgspec, tomllib, json of the standard library; the first that fits the whole text is taken.
_WORDS = (
    (r"Expected (?P<e>`[^`]+`), got (?P<g>`[^`]+`)" + _AT, "{g}{at}, not {e}"),
    (r"Expected (?P<e>`[^`]+`[^`]*?)" + _AT, "a value{at} that is not {e}"),
    (r"Object missing required field (?P<e>`[^`]+`)" + _AT, "no field {e}{at}"),
    (r"Object contains unknown field (?P<e>`[^`]+`)" + _AT, "an unknown field {e}{at}"),
    (r"Invalid (?:enum )?value (?P<e>['\"].*?)" + _AT, "{e}{at}"),
    (r"JSON is malformed: (?P<e>.+)", "malformed JSON: {e}"),
    (r"Input data was truncated", "data that end too early"),
    (r"Expecting (?P<e>.+): " + _LINE, "no {e}{at}"),
    (r"(?P<e>[A-Z][^:]+?)(?: starting)?(?: at)?: " + _LINE, "{e}{at}"),
    (r"(?P<e>Invalid [^()]+) \(at (?P<p>[^()]+)\)", "an {e}{at}"),
)
_COMPILED = tuple((re.compile(pattern, re.DOTALL), words) for pattern, words in _WORDS)


def in_words(error: Exception) -> str:
    """Say what came, after what a library said of it.

    Parameters
    ----------
    error : Exception
        Of a library; nothing secret may stand in its text.

    Returns
    -------
    str
        A noun phrase, not shortened.

    Examples
    --------
    >>> in_words(ValueError("Expected `int`, got `str` - at `$.format`"))
    '`str` at $.format, not `int`'
    >>> in_words(ValueError("Expecting value: line 1 column 1 (char 0)"))
    'no value at line 1 column 1'
    >>> in_words(FileNotFoundError(2, "No such file or directory"))
    'no such file or directory'
    """
    if isinstance(error, UnicodeDecodeError):
        return f"bytes that are not {error.encoding}, from byte {error.start} on"
    if isinstance(error, OSError) and error.strerror:
        return _lowered(error.strerror)
    text = str(error).strip()
    if isinstance(error, ImportError) or not text:
        return _lowered(text) or type(error).__name__
    for pattern, words in _COMPILED:
        if (found := pattern.fullmatch(text)) is not None:
            return _filled(words, found.groupdict())
    return f"something else: {_lowered(text)}"


def _filled(words: str, parts: Mapping[str, str | None]) -> str:
    place = parts.get("p")
    return words.format(
        e=_lowered(parts.get("e") or ""), g=parts.get("g"), at=f" at {place}" if place else ""
    )


def _lowered(text: str) -> str:
    """Begin in small letters, unless the word is written in capitals."""
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]
