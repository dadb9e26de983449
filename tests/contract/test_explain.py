"""The native kernel and the explainer in Python: two decoders, one verdict."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sentinel.contract import ContractSchema, Decoder, RawBatch, RefusalCode
from sentinel.contract.explain import explain

EventBuilder = Callable[..., bytes]
JudgeOne = Callable[..., tuple[RefusalCode, ...]]
JudgeAll = Callable[..., list[tuple[RefusalCode, ...]]]

NOW_MS = 1_700_000_000_000

NUMBERS = [
    "0", "-0", "1", "-1", "1.0", "1e0", "100.50", "100.500", "1e2", "1e-2", "1e400", "-1e400",
    "1.7976931348623157e308", "1.7976931348623158e308", "1.797693134862315808e308",
    "1.7976931348623158079372897140530341507993413271e308",
    "17976931348623158079372897140530341507993413271e262", "9007199254740993",
    "9223372036854775808", "18446744073709551616", "1" * 400, "1" * 400 + ".0", "01", "1.", "1e",
    ".5", "+1", "-", "NaN", "Infinity", "-Infinity", "-NaN", "1e-400", "5e-324", "0e999999",
    "2.2250738585072011e-308", "1e99999999999999999999", "0.000e-99999999999", "1_000", "0x1",
]  # fmt: skip
TEXTS = [
    '""', '"a"', '"chip"', '"onlin\\u00e9"', '"\\ud83d\\ude00"', '"\\ud83d"', '"\\ude00\\ud83d"',
    '"\\ud83d\\n"', '"\\ud83d\\ud83d\\ude00"', '"\\u0000"', '"\x01"', '"\\x"', '"\\u12G4"', '"abc',
    '"\x7f"', '"2024-02-29T23:59:60Z"', '"1999-12-31T23:59:60Z"', '"0000-01-01T00:00:00Z"',
    '"2024-01-01T00:00:00\\u005a"', '"' + "x" * 40 + '"', '"\u202e\u200b"', '"\ufeff"',
]  # fmt: skip
OTHERS = [
    "null", "true", "false", "nul", "True", "{}", "[]", '{"a":1,"a":2}', '{"a":1,"\\u0061":2}',
    '[1,[2,{"x":[NaN]}]]', "[1,]", '{"a":}', "{,}", "[", "{", "]", "}", "[" * 31 + "]" * 31,
    "[" * 32 + "]" * 32, "[" * 40, '{"a":' * 33, '{"a":[{"b":1},{"b":2,"b":3}]}', '"a" "b"',
    "1 2", "", "/**/1", "'a'", '{"\\ud800":1}',
]  # fmt: skip
KEYS = ["id", "amount", "x", "am\\u006funt", "\\ud800", "é", "", "a\\n", "note", "a" * 70]

tokens = st.sampled_from(NUMBERS + TEXTS + OTHERS)
changes = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 15), st.sampled_from(KEYS), tokens), max_size=4
)
spaces = st.sampled_from(["", "", " ", "\n\t", "\r\n", "\x0b", "\xa0"])


def mutate(pairs: list[tuple[str, str]], change: tuple[int, int, str, str]) -> None:
    """Replace, remove, repeat, insert or move a field."""
    kind, place, key, token = change
    place %= max(1, len(pairs))
    if kind <= 1 and pairs:
        pairs[place] = (pairs[place][0], token)
    elif kind == 2 and pairs:
        del pairs[place]
    elif kind == 3 and pairs:
        pairs.append(pairs[place])
    elif kind == 4:
        pairs.insert(place, (key, token))
    else:
        pairs.reverse()


def assert_kept_values(schema: ContractSchema, content: bytes) -> None:
    """Compare the columns of an accepted event with the standard library's reading of it."""
    events = Decoder(schema).decode(RawBatch.from_events([content])).events
    values = json.loads(content, parse_float=float)
    for name in events.text_fields:
        row = events.names.index(name)
        if events.present[row, 0]:
            assert events.texts(name) == [values[name]]
        else:
            assert values.get(name) is None
    for name in ("ratio", "wide"):
        if values.get(name) is not None:
            assert events.floats(name)[0] == values[name]


@settings(max_examples=600)
@given(changes=changes, space=spaces, cut=st.none() | st.integers(0, 300), with_clock=st.booleans())
def test_kernel_and_explainer_agree_on_mutated_events(
    changes: list[tuple[int, int, str, str]],
    space: str,
    cut: int | None,
    with_clock: bool,
    event: EventBuilder,
    judge: JudgeOne,
    schema: ContractSchema,
) -> None:
    whole = event().decode()
    names = list(json.loads(whole))
    pairs = [
        (name, json.dumps(value)) for name, value in json.loads(whole).items() if name in names
    ]
    for change in changes:
        mutate(pairs, change)
    inner = f"{space},{space}".join(f'"{key}"{space}:{space}{token}' for key, token in pairs)
    content = f"{space}{{{space}{inner}{space}}}{space}".encode("utf-8", "surrogatepass")
    content = content if cut is None else content[:cut]
    codes = judge(content, received_at_ms=NOW_MS + 300_001 if with_clock else None)
    if not codes:
        assert_kept_values(schema, content)


@settings(max_examples=600)
@given(
    edits=st.lists(
        st.tuples(st.integers(0, 400), st.integers(0, 255), st.integers(0, 3)), max_size=4
    ),
    head=st.sampled_from([b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\x00"]),
)
def test_kernel_and_explainer_agree_on_damaged_bytes(
    edits: list[tuple[int, int, int]], head: bytes, event: EventBuilder, judge: JudgeOne
) -> None:
    content = bytearray(head + event(note='"é😀\\u00e9"'))
    for offset, byte, kind in edits:
        place = offset % (len(content) or 1)
        if kind == 0:
            content[place : place + 1] = bytes([byte])
        elif kind == 1:
            del content[place : place + 1]
        elif kind == 2:
            content[place:place] = bytes([byte])
        else:
            content[place:place] = content[place : place + 20]
    judge(bytes(content))


@given(content=st.binary(max_size=60) | st.text(max_size=40).map(str.encode))
@example(content="{}".encode("utf-16"))
@example(content="{}".encode("utf-16-le"))
@example(content=b"\xf4\x90\x80\x80")
@example(content=b'"\xed\xa0\x80"')
def test_kernel_and_explainer_agree_on_any_bytes(content: bytes, judge: JudgeOne) -> None:
    assert judge(content)


@given(
    token=st.from_regex(
        r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,4})?", fullmatch=True
    )
)
def test_kernel_and_explainer_agree_on_any_number_in_any_field(
    token: str, event: EventBuilder, judge_all: JudgeAll, schema: ContractSchema
) -> None:
    judge_all([event(**{field.name: token}) for field in schema.fields])


@given(
    text=st.from_regex(
        r"[0-9]{4}-[01][0-9]-[0-3][0-9][Tt ][0-2][0-9]:[0-6][0-9]:[0-6][0-9](\.[0-9]{0,10})?"
        r"([Zz]|[+-][0-2][0-9]:[0-6][0-9])?",
        fullmatch=True,
    )
)
@example(text="2024-12-31T23:59:60.999+00:00")
@example(text="2024-02-29T00:00:00z")
@example(text="1900-02-29T00:00:00Z")
@example(text="9999-12-31T23:59:59-23:59")
@example(text="0001-01-01T00:00:00+23:59")
def test_kernel_and_explainer_agree_on_any_instant(
    text: str, event: EventBuilder, judge: JudgeOne
) -> None:
    judge(event(told=json.dumps(text)))


# Twins of the published suite: in the repository, for users who do not have it.
REFUSED_TEXTS = [
    "[1 true]", '["": 1]', "[1,,2]", "[,1]", '{"a": true} "x"', '{"a":1,}', "[-01]", "[2.e3]",
    "[0.e1]", "[.2e-3]", "[1e1.5]", "[1+2]", "[0x42]", '["\\ud800\\u1"]', '["\\u00A"]', '["\t"]',
    "[\\u000A]", "{1:1}", "{'a':0}", '{"a":"b"}/**/', '{"a" "b"}', "[\x0c]", "[⁠]", "*", '"', "",
    '{"a":/*c*/"b"}', "[true", "nul", "TRUE", "[+1]", "[1a]", "[++1234]", "\ufeff",
]  # fmt: skip


@pytest.mark.parametrize("text", REFUSED_TEXTS)
def test_what_is_not_json_is_refused_as_event_and_as_value(
    text: str, event: EventBuilder, judge: JudgeOne
) -> None:
    assert judge(text.encode())
    assert judge(event(note=text))


# What the suite leaves open, and what Sentinel answers for the text as a whole.
OPEN_ANSWERS = {
    "i_number_double_huge_neg_exp": RefusalCode.NOT_AN_OBJECT,  # 123.456e-789 is 0.0
    "i_number_huge_exp": RefusalCode.NON_FINITE,
    "i_number_neg_int_huge_exp": RefusalCode.NON_FINITE,
    "i_number_pos_double_huge_exp": RefusalCode.NON_FINITE,
    "i_number_real_neg_overflow": RefusalCode.NON_FINITE,
    "i_number_real_pos_overflow": RefusalCode.NON_FINITE,
    "i_number_real_underflow": RefusalCode.NOT_AN_OBJECT,  # rounds to 0.0, as IEEE 754 says
    "i_number_too_big_neg_int": RefusalCode.NOT_AN_OBJECT,  # an integer; each field has bounds
    "i_number_too_big_pos_int": RefusalCode.NOT_AN_OBJECT,
    "i_number_very_big_negative_int": RefusalCode.NOT_AN_OBJECT,
    "i_object_key_lone_2nd_surrogate": RefusalCode.LONE_SURROGATE,
    "i_string_1st_surrogate_but_2nd_missing": RefusalCode.LONE_SURROGATE,
    "i_string_1st_valid_surrogate_2nd_invalid": RefusalCode.LONE_SURROGATE,
    "i_string_incomplete_surrogate_and_escape_valid": RefusalCode.LONE_SURROGATE,
    "i_string_incomplete_surrogate_pair": RefusalCode.LONE_SURROGATE,
    "i_string_incomplete_surrogates_escape_valid": RefusalCode.LONE_SURROGATE,
    "i_string_invalid_lonely_surrogate": RefusalCode.LONE_SURROGATE,
    "i_string_invalid_surrogate": RefusalCode.LONE_SURROGATE,
    "i_string_inverted_surrogates_U+1D11E": RefusalCode.LONE_SURROGATE,
    "i_string_lone_second_surrogate": RefusalCode.LONE_SURROGATE,
    "i_string_UTF-16LE_with_BOM": RefusalCode.INVALID_UTF8,
    "i_string_UTF-8_invalid_sequence": RefusalCode.INVALID_UTF8,
    "i_string_UTF8_surrogate_U+D800": RefusalCode.INVALID_UTF8,
    "i_string_invalid_utf-8": RefusalCode.INVALID_UTF8,
    "i_string_iso_latin_1": RefusalCode.INVALID_UTF8,
    "i_string_lone_utf8_continuation_byte": RefusalCode.INVALID_UTF8,
    "i_string_not_in_unicode_range": RefusalCode.INVALID_UTF8,
    "i_string_overlong_sequence_2_bytes": RefusalCode.INVALID_UTF8,
    "i_string_overlong_sequence_6_bytes": RefusalCode.INVALID_UTF8,
    "i_string_overlong_sequence_6_bytes_null": RefusalCode.INVALID_UTF8,
    "i_string_truncated-utf-8": RefusalCode.INVALID_UTF8,
    "i_string_utf16BE_no_BOM": RefusalCode.INVALID_UTF8,
    "i_string_utf16LE_no_BOM": RefusalCode.INVALID_UTF8,
    "i_structure_500_nested_arrays": RefusalCode.TOO_DEEP,
    "i_structure_UTF-8_BOM_empty_object": RefusalCode.BYTE_ORDER_MARK,
}

EXCLUSIVE = tuple(RefusalCode)[:6]


def test_published_suite_as_whole_events(corpora: Path, judge: JudgeOne) -> None:
    paths = sorted((corpora / "json-test-suite").glob("*.json"))
    assert len(paths) == 318
    for path in paths:
        codes = judge(path.read_bytes())
        kind = path.name[0]
        if kind == "n":
            # Refused for not being JSON; NaN and infinity have a name of their own.
            assert codes[0] in {*EXCLUSIVE, RefusalCode.NON_FINITE}, path.name
        elif kind == "i":
            assert codes[0] is OPEN_ANSWERS[path.stem], path.name
        else:
            assert not {*EXCLUSIVE, RefusalCode.NON_FINITE} & set(codes), (path.name, codes)
    assert {path.stem for path in paths if path.name[0] == "i"} == set(OPEN_ANSWERS)


def test_published_suite_as_a_field(corpora: Path, event: EventBuilder, judge: JudgeOne) -> None:
    before, after = event(note='"@"').split(b'"@"')
    for path in sorted((corpora / "json-test-suite").glob("*.json")):
        value = path.read_bytes()
        codes = judge(before + value + after)
        if path.name[0] == "n":
            assert codes, path.name
        if path.name[0] == "y":
            assert not {*EXCLUSIVE, RefusalCode.NON_FINITE} & set(codes), (path.name, codes)


def test_naughty_strings_are_kept_exactly_or_refused_by_length(
    corpora: Path, event: EventBuilder, judge_all: JudgeAll, decoder: Decoder
) -> None:
    strings = json.loads((corpora / "naughty-strings.json").read_text())
    assert len(strings) == 515
    assert_inert(strings, event, judge_all, decoder)


def test_hostile_strings_are_kept_exactly(
    event: EventBuilder, judge_all: JudgeAll, decoder: Decoder
) -> None:
    strings = [
        "'; DROP TABLE cards; --", "<script>alert(1)</script>", "404 Not Found", "${jndi:ldap://x}",
        "=cmd|' /C calc'!A0", "a\nINFO forged line", "\x1b[31mred", "\u202egnp.exe", "😀" * 20,
        "\u0000", "\ufeff", "null", "NaN", "../../etc/passwd", "\u2028", "{{7*7}}", "%s%n",
    ]  # fmt: skip
    assert_inert(strings, event, judge_all, decoder)


def assert_inert(
    strings: list[str], event: EventBuilder, judge_all: JudgeAll, decoder: Decoder
) -> None:
    """Hold that each text is kept to the byte in a text field, and that no message carries it."""
    for ascii_only in (True, False):
        contents = [event(note=json.dumps(text, ensure_ascii=ascii_only)) for text in strings]
        too_long = [len(text.encode()) > 600 for text in strings]
        for codes, is_long in zip(judge_all(contents), too_long, strict=True):
            assert codes == ((RefusalCode.TEXT_TOO_LONG,) if is_long else ())
        kept = [text for text, is_long in zip(strings, too_long, strict=True) if not is_long]
        assert decoder.decode(RawBatch.from_events(contents)).events.texts("note") == kept
    for name in ("id", "card", "channel", "device", "told", "count", "ok", "ratio", "amount"):
        contents = [event(**{name: json.dumps(text)}) for text in strings]
        judge_all(contents)
        for refusal in decoder.decode(RawBatch.from_events(contents)).refusals:
            for fault in refusal.faults:
                assert (fault.path + fault.expected + fault.got).isprintable()


def test_all_faults_of_an_event_are_listed_with_place_and_value(schema: ContractSchema) -> None:
    content = (
        b'{"id":"","at":"soon","card":null,"shop":1.5,"amount":1.505,"ratio":1e999,"ok":1,'
        b'"channel":"x","device":{"a":[1,{"b c":NaN}]},"count":9,"count":1,"extra":"\\u001b"}'
    )
    faults = explain(schema, content, n_bytes=len(content), received_at_ms=None)
    assert [(str(fault.code), fault.path, fault.got) for fault in faults] == [
        ("non_finite", "$.ratio", "1e999"),
        ("non_finite", '$.device.a[1]["b c"]', "NaN"),
        ("duplicate_key", "$.count", "a second"),
        ("unknown_field", "$.extra", '"\\x1b"'),
        ("null_not_allowed", "$.card", "null"),
        ("wrong_type", "$.at", '"soon"'),
        ("wrong_type", "$.shop", "1.5"),
        ("wrong_type", "$.ok", "1"),
        ("wrong_type", "$.device", "an object of 1 keys"),
        ("too_precise", "$.amount", "1.505"),
        ("empty_text", "$.id", '""'),
        ("unknown_category", "$.channel", '"x"'),
        ("out_of_bounds", "$.count", "9"),
    ]
    assert all(fault.expected for fault in faults)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"xyz", "a value"),
        (b'{"id"', "a colon"),
        (b"{,}", "a key in double quotes"),
        (b'{"id":1 "at":2}', "a comma, or the end of the object or array"),
        (b'{"id":"a', "a string that ends"),
        (b'{"id":"\x01"}', "no control character in a string"),
        (b'{"id":"\\x"}', "an escape of JSON"),
        (b"{} {}", "nothing behind the event"),
    ],
)
def test_what_is_no_json_is_said_as_what_was_expected(
    schema: ContractSchema, content: bytes, expected: str
) -> None:
    """Not in the decoder's own words ("Expecting value"), which are no end of a sentence."""
    (fault,) = explain(schema, content, n_bytes=len(content), received_at_ms=None)
    assert (fault.code, fault.path, fault.expected) == (RefusalCode.MALFORMED_JSON, "$", expected)
