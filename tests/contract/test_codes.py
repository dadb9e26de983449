"""Every refusal code: reached, in order, documented."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from sentinel.contract import RefusalCode
from sentinel.contract.codes import REFUSAL_CODES, codes_of
from sentinel.core import limits

ROOT = Path(__file__).parent.parent.parent

# One event for each code that has no other fault; tokens to replace, or the whole event.
ONE_OF_EACH: dict[RefusalCode, dict[str, str | None] | bytes] = {
    RefusalCode.BODY_TOO_LARGE: b" " * (limits.EVENT_BYTES_MAX + 1),
    RefusalCode.EMPTY_EVENT: b" \t\r\n",
    RefusalCode.BYTE_ORDER_MARK: b"\xef\xbb\xbf{}",
    RefusalCode.INVALID_UTF8: b'{"id":"\xc0\x80"}',
    RefusalCode.MALFORMED_JSON: b'{"id":}',
    RefusalCode.TOO_DEEP: b"[" * (limits.EVENT_DEPTH_MAX + 1),
    RefusalCode.NON_FINITE: {"ratio": "NaN"},
    RefusalCode.LONE_SURROGATE: {"note": '"\\ud800"'},
    RefusalCode.NOT_AN_OBJECT: b"[1]",
    RefusalCode.DUPLICATE_KEY: b"",
    RefusalCode.UNKNOWN_FIELD: {"other": "1"},
    RefusalCode.MISSING_FIELD: {"card": None},
    RefusalCode.NULL_NOT_ALLOWED: {"card": "null"},
    RefusalCode.WRONG_TYPE: {"amount": '"1.50"'},
    RefusalCode.INEXACT_INTEGER: {"wide": "9007199254740993"},
    RefusalCode.TOO_PRECISE: {"amount": "1.505"},
    RefusalCode.EMPTY_TEXT: {"card": '""'},
    RefusalCode.TEXT_TOO_LONG: {"card": '"123456789"'},
    RefusalCode.UNKNOWN_CATEGORY: {"channel": '"Chip"'},
    RefusalCode.MALFORMED_TIME: {"told": '"2024-01-01"'},
    RefusalCode.OUT_OF_BOUNDS: {"count": "8"},
    RefusalCode.TIME_OUT_OF_BOUNDS: {"at": "1700000000"},
    RefusalCode.TIME_SKEW: {"at": "1700000300001"},
}


@pytest.mark.parametrize("code", ONE_OF_EACH, ids=str)
def test_every_code_has_an_event_that_gets_it_alone(
    code: RefusalCode, event: Callable[..., bytes], judge: Callable[..., tuple[RefusalCode, ...]]
) -> None:
    cause = ONE_OF_EACH[code]
    if code is RefusalCode.DUPLICATE_KEY:
        cause = event().replace(b"{", b'{"id":"e0",', 1)
    content = cause if isinstance(cause, bytes) else event(**cause)
    assert judge(content, received_at_ms=1_700_000_000_000) == (code,)


def test_only_a_worker_gives_the_other_codes() -> None:
    others = {RefusalCode.WRONG_PARTITION_KEY, RefusalCode.POISON}
    assert set(RefusalCode) - set(ONE_OF_EACH) == others


def test_codes_of_lists_by_precedence() -> None:
    assert codes_of((1 << len(REFUSAL_CODES)) - 1) == REFUSAL_CODES
    assert codes_of(0) == ()


def test_every_code_is_documented_in_order() -> None:
    text = (ROOT / "docs" / "contract.md").read_text()
    documented = re.findall(r"^\| \d+ \| `([a-z0-9_]+)` \|", text, re.MULTILINE)
    assert documented == [str(code) for code in RefusalCode]


def test_a_code_of_higher_precedence_is_the_code_of_the_refusal(
    event: Callable[..., bytes], judge: Callable[..., tuple[RefusalCode, ...]]
) -> None:
    found = judge(event(count="8", card="null", other="1", ratio="1e999", id=None))
    assert found == (
        RefusalCode.NON_FINITE,
        RefusalCode.UNKNOWN_FIELD,
        RefusalCode.MISSING_FIELD,
        RefusalCode.NULL_NOT_ALLOWED,
        RefusalCode.OUT_OF_BOUNDS,
    )
