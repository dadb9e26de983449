"""Decoding: what is accepted becomes columns, what is refused says why."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.contract import ContractSchema, Decoder, RawBatch, RefusalCode
from sentinel.core import limits
from sentinel.core.siphash import siphash

EventBuilder = Callable[..., bytes]
JudgeOne = Callable[..., tuple[RefusalCode, ...]]
JudgeAll = Callable[..., list[tuple[RefusalCode, ...]]]

NOW_MS = 1_700_000_000_000


def int64_of(text: str) -> int:
    """Return the hash column of a text."""
    content = np.frombuffer(text.encode(), dtype=np.uint8)
    return int(np.uint64(siphash(content, 0, len(content))).view(np.int64))


def test_every_kind_lands_in_its_column(decoder: Decoder, event: EventBuilder) -> None:
    events = decoder.decode(RawBatch.from_events([event()])).events
    assert events.n_rows == 1
    expected = {
        "id": int64_of("e1"),
        "at": NOW_MS,
        "card": int64_of("c"),
        "shop": 12,
        "amount": 150,
        "tiny": 500_000_000,
        "ok": 1,
        "channel": 0,
        "device": 0,
        "note": int64_of("hi"),
        "count": 2,
        "big": 12,
        "seen": NOW_MS,
        "told": 1_704_067_200_000,
    }
    assert {name: int(events.column(name)[0]) for name in expected} == expected
    assert events.floats("ratio")[0] == 1.25
    assert events.floats("wide")[0] == 1e10
    absent = [name for name, row in zip(events.names, events.present, strict=True) if not row[0]]
    assert absent == ["device"]
    assert events.texts("note") == ["hi"]
    assert events.texts("device") == [""]


def test_fields_that_are_absent_and_may_be_are_not_present(
    decoder: Decoder, event: EventBuilder
) -> None:
    optional = ["tiny", "wide", "note", "big", "seen", "told"]
    batch = RawBatch.from_events([event(), event(**dict.fromkeys(optional)), event()])
    events = decoder.decode(batch).events
    for name in optional:
        row = events.names.index(name)
        assert events.present[row].tolist() == [True, False, True]
        assert events.values[row, 1] == 0
    assert events.texts("note") == ["hi", "", "hi"]


def test_escapes_are_resolved_and_kept_apart(decoder: Decoder, event: EventBuilder) -> None:
    tokens = ['"a\\u0041\\n"', '"plain"', '"\\ud83d\\ude00\\"\\\\\\/\\b\\f\\r\\t"', '"\\u0000"']
    events = decoder.decode(RawBatch.from_events([event(note=token) for token in tokens])).events
    expected = [json.loads(token) for token in tokens]
    assert events.texts("note") == expected
    assert events.column("note").tolist() == [int64_of(text) for text in expected]
    assert events.texts("id") == ["e1"] * 4


def test_a_refused_event_gives_its_text_room_back(decoder: Decoder, event: EventBuilder) -> None:
    events = [event(note='"\\u0041"'), event(note='"\\u0042"', count="9"), event(note='"\\u0043"')]
    decoded = decoder.decode(RawBatch.from_events(events))
    assert decoded.events.texts("note") == ["A", "C"]
    assert decoded.events.rows.tolist() == [0, 2]
    assert decoded.events.text_content[-2:].tobytes() == b"AC"


@pytest.mark.parametrize("key", ['"amount"', '"am\\u006funt"', '"\\u0061\\u006d\\u006funt"'])
def test_a_key_may_be_written_with_escapes(key: str, decoder: Decoder, event: EventBuilder) -> None:
    content = event().replace(b'"amount"', key.encode())
    assert decoder.decode(RawBatch.from_events([content])).events.column("amount")[0] == 150


NON_FINITE = ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e999", "1" * 400 + ".0"]


@pytest.mark.parametrize("token", NON_FINITE, ids=lambda token: token[:9])
def test_what_is_not_finite_is_refused_wherever_it_stands(
    token: str, event: EventBuilder, judge: JudgeOne, schema: ContractSchema
) -> None:
    for field in schema.fields:
        assert judge(event(**{field.name: token})) == (RefusalCode.NON_FINITE,)
    for nested in (f"[{token}]", f'{{"a":[1,{token}]}}'):
        assert judge(event(card=nested))[0] is RefusalCode.NON_FINITE
        assert judge(event(other=nested))[0] is RefusalCode.NON_FINITE
    assert judge(token.encode()) == (RefusalCode.NON_FINITE, RefusalCode.NOT_AN_OBJECT)


@pytest.mark.parametrize(
    "token", ["nan", "inf", "+Infinity", "-NaN", "INF", "NaN0", "Infinit", "-Inf", "1e", "1e+"]
)
def test_other_spellings_of_infinity_are_not_json(
    token: str, event: EventBuilder, judge: JudgeOne
) -> None:
    assert judge(event(ratio=token)) == (RefusalCode.MALFORMED_JSON,)
    assert judge(event().replace(b'"card"', token.encode())) == (RefusalCode.MALFORMED_JSON,)


TEXTS_LIKE_NUMBERS = [
    "NaN", "nan", "inf", "null", "undefined", "1_000", " 12 ", "12", "１２", "1.5", "true", "",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS_LIKE_NUMBERS)
def test_text_never_becomes_a_number_or_a_boolean(
    text: str, event: EventBuilder, judge: JudgeOne
) -> None:
    token = json.dumps(text)
    for name in ("at", "shop", "amount", "ratio", "ok", "count", "seen"):
        assert judge(event(**{name: token})) == (RefusalCode.WRONG_TYPE,)
    assert judge(event(channel=token)) == (RefusalCode.UNKNOWN_CATEGORY,)
    assert judge(event(told=token)) == (RefusalCode.MALFORMED_TIME,)
    assert judge(event(note=token)) == ()


def test_every_type_in_every_field_gets_the_right_answer(
    event: EventBuilder, judge_all: JudgeAll, schema: ContractSchema
) -> None:
    """Each field with each other type; the two that fit are the only ones accepted."""
    by_type = {
        "text": '"chip"',
        "integer": "1",
        "fraction": "0.5",
        "exponent": "1e0",
        "true": "true",
        "false": "false",
        "null": "null",
        "array": "[1]",
        "object": '{"a":1}',
    }
    takes = {
        "text": {"text"},
        "integer": {"integer"},
        "decimal": {"integer", "fraction", "exponent"},
        "float": {"integer", "fraction", "exponent"},
        "boolean": {"true", "false"},
        "category": {"text"},
        "time": set(),
    }
    for field in schema.fields:
        verdicts = judge_all([event(**{field.name: token}) for token in by_type.values()])
        accepted = {name for name, codes in zip(by_type, verdicts, strict=True) if not codes}
        assert accepted == takes[field.kind] | ({"null"} if field.nullable else set()), field.name
        for codes in verdicts:
            assert len(codes) <= 1


def test_missing_extra_and_renamed_fields_are_refused_with_the_path(
    event: EventBuilder, schema: ContractSchema, decoder: Decoder
) -> None:
    for field in schema.fields:
        renamed = event().replace(f'"{field.name}":'.encode(), f'"{field.name}_":'.encode())
        (refusal,) = decoder.decode(RawBatch.from_events([renamed])).refusals
        paths = {(fault.code, fault.path) for fault in refusal.faults}
        assert (RefusalCode.UNKNOWN_FIELD, f"$.{field.name}_") in paths
        is_missing = (RefusalCode.MISSING_FIELD, f"$.{field.name}") in paths
        assert is_missing == field.required


def test_order_of_fields_does_not_matter(
    decoder: Decoder, event: EventBuilder, schema: ContractSchema
) -> None:
    pairs = list(json.loads(event(), parse_float=float).items())
    rng = np.random.default_rng(5)
    orders = [
        pairs,
        pairs[::-1],
        *([pairs[i] for i in rng.permutation(len(pairs))] for _ in [0] * 30),
    ]
    batch = RawBatch.from_events([json.dumps(dict(order)).encode() for order in orders])
    events = decoder.decode(batch).events
    assert events.n_rows == len(orders)
    assert (events.values == events.values[:, :1]).all()


@pytest.mark.parametrize("n_copies", [2, 3, 10, 1000, 10_000])
@pytest.mark.parametrize("key", ["id", "i\\u0064", "other", "\\u006fther", ""])
def test_duplicate_keys_are_refused_however_often_and_written(
    n_copies: int, key: str, event: EventBuilder, judge: JudgeOne
) -> None:
    copies = min(n_copies, (limits.EVENT_BYTES_MAX - 600) // (len(key) + 5))
    content = event().replace(b"{", b"{" + f'"{key}":1,'.encode() * copies, 1)
    assert RefusalCode.DUPLICATE_KEY in judge(content)[:2]
    nested = event(card="{" + ",".join([f'"{key}":1'] * copies) + "}")
    assert judge(nested) == (RefusalCode.DUPLICATE_KEY, RefusalCode.WRONG_TYPE)


def test_equal_keys_of_different_objects_are_no_duplicates(
    event: EventBuilder, judge: JudgeOne
) -> None:
    nested = '{"a":{"a":1,"b":{"a":2}},"b":[{"a":1},{"a":1}]}'
    assert judge(event(card=nested)) == (RefusalCode.WRONG_TYPE,)


INTEGERS = [
    ("big", "0", ()), ("big", "-0", ()), ("big", "9007199254740993", ()),
    ("big", "9223372036854775807", ()), ("big", "-9223372036854775808", ()),
    ("big", "9223372036854775808", (RefusalCode.OUT_OF_BOUNDS,)),
    ("big", "-9223372036854775809", (RefusalCode.OUT_OF_BOUNDS,)),
    ("big", "18446744073709551615", (RefusalCode.OUT_OF_BOUNDS,)),
    ("big", "18446744073709551616", (RefusalCode.OUT_OF_BOUNDS,)),
    ("big", "1" * 30, (RefusalCode.OUT_OF_BOUNDS,)),
    ("big", "1" * 5000, (RefusalCode.OUT_OF_BOUNDS,)),
    ("big", "1.0", (RefusalCode.WRONG_TYPE,)), ("big", "1e3", (RefusalCode.WRONG_TYPE,)),
    ("big", "1E0", (RefusalCode.WRONG_TYPE,)), ("big", "01", (RefusalCode.MALFORMED_JSON,)),
    ("big", "+1", (RefusalCode.MALFORMED_JSON,)), ("big", "-", (RefusalCode.MALFORMED_JSON,)),
    ("count", "-3", ()), ("count", "7", ()),
    ("count", "-4", (RefusalCode.OUT_OF_BOUNDS,)), ("count", "8", (RefusalCode.OUT_OF_BOUNDS,)),
    ("wide", "9007199254740992", ()), ("wide", "-9007199254740992", ()),
    ("wide", "9007199254740993", (RefusalCode.INEXACT_INTEGER,)),
    ("wide", "18014398509481984", (RefusalCode.INEXACT_INTEGER,)),
    ("wide", "1" * 5000, (RefusalCode.INEXACT_INTEGER,)),
    ("wide", "9007199254740993.0", ()),
    ("ratio", "90", ()), ("ratio", "91", (RefusalCode.OUT_OF_BOUNDS,)),
    ("ratio", "90.00000000000001", (RefusalCode.OUT_OF_BOUNDS,)),
    ("ratio", "90.000000000000001", ()),
    ("seen", "4102444800", ()), ("seen", "4102444801", (RefusalCode.TIME_OUT_OF_BOUNDS,)),
    ("seen", "1700000000000", (RefusalCode.TIME_OUT_OF_BOUNDS,)),
    ("seen", "9223372036854775807", (RefusalCode.TIME_OUT_OF_BOUNDS,)),
    ("seen", "1700000000.5", (RefusalCode.WRONG_TYPE,)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "token", "codes"), INTEGERS, ids=lambda value: str(value)[:24])
def test_integers_at_the_edges(
    name: str, token: str, codes: tuple[RefusalCode, ...], event: EventBuilder, judge: JudgeOne
) -> None:
    assert judge(event(**{name: token})) == codes


DECIMALS = [
    ("100", 10_000), ("100.5", 10_050), ("100.50", 10_050), ("1e2", 10_000), ("1.5e1", 1_500),
    ("1E-2", 1), ("1.000e3", 100_000), ("-0", 0), ("-0.00", 0), ("-5", -500), ("0e2", 0),
    ("0e999999", 0), ("100000.00", 10_000_000), ("10000000e-2", 10_000_000),
    ("100.500", RefusalCode.TOO_PRECISE), ("100.505", RefusalCode.TOO_PRECISE),
    ("1.50e-1", RefusalCode.TOO_PRECISE), ("0.000", RefusalCode.TOO_PRECISE),
    ("0e-3", RefusalCode.TOO_PRECISE), ("1e-9999999999", RefusalCode.TOO_PRECISE),
    ("100000.01", RefusalCode.OUT_OF_BOUNDS), ("-5.01", RefusalCode.OUT_OF_BOUNDS),
    ("1e300", RefusalCode.OUT_OF_BOUNDS), ("9" * 400, RefusalCode.OUT_OF_BOUNDS),
    ("1e309", RefusalCode.NON_FINITE),
]  # fmt: skip


@pytest.mark.parametrize(("token", "expected"), DECIMALS, ids=lambda value: str(value)[:24])
def test_decimals_are_scaled_exactly_or_refused(
    token: str, expected: int | RefusalCode, event: EventBuilder, judge: JudgeOne, decoder: Decoder
) -> None:
    content = event(amount=token)
    if isinstance(expected, RefusalCode):
        assert judge(content) == (expected,)
    else:
        assert judge(content) == ()
        column = decoder.decode(RawBatch.from_events([content])).events.column("amount")
        assert column.tolist() == [expected]


@given(value=st.floats(allow_nan=False, allow_infinity=False), style=st.sampled_from("rgfe"))
def test_floats_are_correctly_rounded(
    value: float, style: str, decoder: Decoder, event: EventBuilder
) -> None:
    formats = {"r": repr(value), "g": f"{value:.17g}", "e": f"{value:.25e}", "f": f"{value:.30f}"}
    token = formats[style]
    token = token if set(token) & set(".e") else token + ".0"
    events = decoder.decode(RawBatch.from_events([event(wide=token)])).events
    assert struct.pack("<d", events.floats("wide")[0]) == struct.pack("<d", float(token))


def test_floats_that_python_resolves_are_held_against_the_bounds(
    decoder: Decoder, event: EventBuilder
) -> None:
    near = "89." + "9" * 40
    over = "90." + "0" * 30 + "1"
    far = "90.1" + "0" * 30
    decoded = decoder.decode(
        RawBatch.from_events([event(ratio=near), event(ratio=far), event(ratio=over), event()])
    )
    assert decoded.events.rows.tolist() == [0, 2, 3]
    assert decoded.events.floats("ratio").tolist() == [90.0, 90.0, 1.25]
    assert [refusal.code for refusal in decoded.refusals] == [RefusalCode.OUT_OF_BOUNDS]
    assert decoded.events.texts("id") == ["e1"] * 3


@pytest.mark.parametrize(
    ("offset_ms", "codes"),
    [(0, ()), (300_000, ()), (-300_000, ()), (300_001, 1), (-300_001, 1), (-(30 * 86_400_000), 1)],
)
def test_event_time_is_held_against_the_receiving_clock(
    offset_ms: int, codes: object, event: EventBuilder, judge: JudgeOne
) -> None:
    expected = (RefusalCode.TIME_SKEW,) if codes else ()
    content = event(at=str(NOW_MS + offset_ms))
    assert judge(content, received_at_ms=NOW_MS) == expected
    assert judge(content) == ()


@pytest.mark.parametrize(
    "token", ["0", "-1", "1700000000", "1700000000000000", "946684799999", "4102444800001"]
)
def test_seconds_microseconds_and_other_centuries_are_refused_without_a_clock(
    token: str, event: EventBuilder, judge: JudgeOne
) -> None:
    assert judge(event(at=token)) == (RefusalCode.TIME_OUT_OF_BOUNDS,)
    assert judge(event(at=token), received_at_ms=NOW_MS) == (RefusalCode.TIME_OUT_OF_BOUNDS,)


def test_only_the_event_time_is_held_against_the_clock(
    event: EventBuilder, judge: JudgeOne
) -> None:
    assert judge(event(seen="1600000000"), received_at_ms=NOW_MS) == ()


def test_lengths_are_counted_in_bytes_after_escapes(event: EventBuilder, judge: JudgeOne) -> None:
    assert judge(event(card='"\\u0041\\u0042345678"')) == ()
    assert judge(event(card='"éééé"')) == ()
    assert judge(event(card='"ééééa"')) == (RefusalCode.TEXT_TOO_LONG,)
    assert judge(event(card='"😀😀"')) == ()
    assert judge(event(card='"\\ud83d\\ude00\\ud83d\\ude00."')) == (RefusalCode.TEXT_TOO_LONG,)


@pytest.mark.parametrize("place", [0, 1, 7, 15])
def test_good_rows_have_the_same_bits_beside_a_bad_one(
    place: int, decoder: Decoder, event: EventBuilder
) -> None:
    good = [event(id=f'"e{i}"', note=f'"\\u0041{i}"', count=str(i % 8)) for i in range(16)]
    alone = decoder.decode(RawBatch.from_events(good)).events
    for bad in (
        b"",
        b"[" * 500,
        event(note='"\\u0042', count="9"),
        b'{"note":"\\u0041',
        b"\xff",
        event(wide="0." + "1" * 500, ratio="91"),
        event().replace(b"{", b'{"x":{},'),
    ):
        batch = RawBatch.from_events([*good[:place], bad, *good[place:]])
        beside = decoder.decode(batch)
        assert beside.events.values.tobytes() == alone.values.tobytes()
        assert beside.events.present.tobytes() == alone.present.tobytes()
        for name in alone.text_fields:
            assert beside.events.texts(name) == alone.texts(name)
        expected = [i for i in range(17) if i != place]
        assert beside.events.rows.tolist() == expected
        assert [refusal.position for refusal in beside.refusals] == [place]


@settings(max_examples=200)
@given(data=st.data())
def test_any_mixture_conserves_events_and_keeps_good_bits(
    data: st.DataObject, decoder: Decoder, event: EventBuilder
) -> None:
    good = data.draw(st.lists(st.integers(0, 7).map(lambda i: event(count=str(i))), max_size=8))
    bad = data.draw(st.lists(st.binary(max_size=40) | st.just(event(count="8")), max_size=8))
    order = data.draw(st.permutations([(True, e) for e in good] + [(False, e) for e in bad]))
    decoded = decoder.decode(RawBatch.from_events([content for _, content in order]))
    kept = [content for is_good, content in order if is_good]
    assert decoded.events.rows.tolist() == [i for i, (is_good, _) in enumerate(order) if is_good]
    assert len(decoded.refusals) == len(bad)
    alone = decoder.decode(RawBatch.from_events(kept)).events
    assert decoded.events.values.tobytes() == alone.values.tobytes()


TOKENS = {
    "id": st.text(min_size=1, max_size=3),
    "at": st.integers(946_684_800_000, 4_102_444_800_000),
    "card": st.text(min_size=1, max_size=2),
    "shop": st.integers(-(1 << 63), (1 << 63) - 1),
    "amount": st.integers(-500, 10_000_000),
    "ratio": st.floats(-90, 90),
    "wide": st.none() | st.floats(allow_nan=False, allow_infinity=False),
    "ok": st.booleans(),
    "channel": st.none() | st.sampled_from(["chip", "onliné", 'a"b']),
    "device": st.none() | st.text(min_size=1, max_size=8),
    "note": st.text(max_size=150),
    "count": st.integers(-3, 7),
}


@settings(max_examples=200)
@given(values=st.fixed_dictionaries(TOKENS), ascii_only=st.booleans(), spaced=st.booleans())
def test_what_is_encoded_is_decoded(
    values: dict[str, object], ascii_only: bool, spaced: bool, decoder: Decoder
) -> None:
    minor = values["amount"]
    assert isinstance(minor, int)
    sign, digits = "-" if minor < 0 else "", f"{abs(minor):03d}"
    text = json.dumps(
        {**values, "amount": "AMOUNT"},
        ensure_ascii=ascii_only,
        separators=(", ", " : ") if spaced else (",", ":"),
    ).replace('"AMOUNT"', f"{sign}{digits[:-2]}.{digits[-2:]}")
    decoded = decoder.decode(RawBatch.from_events([text.encode()]))
    assert decoded.refusals == ()
    events = decoded.events
    for name, value in values.items():
        row = events.names.index(name)
        assert events.present[row, 0] == (value is not None)
        if value is None:
            assert events.values[row, 0] == 0
        elif name in events.text_fields:
            assert events.texts(name) == [value]
            assert events.column(name)[0] == int64_of(str(value))
        elif name in {"ratio", "wide"}:
            assert struct.pack("<d", events.floats(name)[0]) == struct.pack("<d", value)
        elif name == "channel":
            assert ["chip", "onliné", 'a"b'][events.column(name)[0]] == value
        else:
            assert events.column(name)[0] == value


def test_a_refusal_names_where_it_came_from(decoder: Decoder, event: EventBuilder) -> None:
    content = event(amount="1.505")
    batch = RawBatch.from_events([event(), content], source="cards", partition=3, first_position=70)
    (refusal,) = decoder.decode(batch).refusals
    assert (refusal.source, refusal.partition, refusal.position) == ("cards", 3, 71)
    assert (refusal.content, refusal.n_bytes, refusal.is_cut) == (content, len(content), False)
    (fault,) = refusal.faults
    assert (fault.path, fault.got) == ("$.amount", "1.505")
    assert "2 digits" in fault.expected


def test_an_event_of_which_the_reader_kept_the_head_is_refused(
    decoder: Decoder, event: EventBuilder
) -> None:
    whole = RawBatch.from_events([event(), event(), event()])
    lengths = whole.ends - whole.starts
    lengths[1] = 100_000_000
    batch = RawBatch(
        content=whole.content,
        starts=whole.starts,
        ends=whole.ends,
        source="file",
        partition=0,
        positions=whole.positions,
        whole_lengths=lengths,
    )
    decoded = decoder.decode(batch)
    assert decoded.events.rows.tolist() == [0, 2]
    (refusal,) = decoded.refusals
    assert (refusal.code, refusal.n_bytes) == (RefusalCode.BODY_TOO_LARGE, 100_000_000)
    assert refusal.is_cut


def test_past_its_budget_a_batch_is_refused_by_code_only(
    decoder: Decoder, event: EventBuilder
) -> None:
    bad = event(count="9", card="null")
    n_events = 2 * limits.EXPLAINED_BYTES_MAX // len(bad)
    refusals = decoder.decode(RawBatch.from_events([bad] * n_events)).refusals
    codes = {tuple(fault.code for fault in refusal.faults) for refusal in refusals}
    assert codes == {(RefusalCode.NULL_NOT_ALLOWED, RefusalCode.OUT_OF_BOUNDS)}
    assert refusals[0].faults[0].path == "$.card"
    assert refusals[-1].faults[0].path == ""


def test_faults_of_one_event_are_bounded(decoder: Decoder, event: EventBuilder) -> None:
    content = event(**{f"x{i}": "1" for i in range(100)})
    (refusal,) = decoder.decode(RawBatch.from_events([content])).refusals
    assert len(refusal.faults) == limits.FAULTS_PER_EVENT_MAX


@pytest.mark.parametrize(("starts", "ends"), [([-1], [3]), ([0], [9]), ([3], [2])])
def test_bounds_outside_the_content_are_a_defect_of_the_caller(
    starts: list[int], ends: list[int], decoder: Decoder
) -> None:
    batch = RawBatch(
        content=np.zeros(4, dtype=np.uint8),
        starts=np.array(starts, dtype=np.int64),
        ends=np.array(ends, dtype=np.int64),
        source="x",
        partition=0,
        positions=np.zeros(1, dtype=np.int64),
    )
    with pytest.raises(ValueError, match="outside its content"):
        decoder.decode(batch)


def test_a_line_of_100_megabytes_is_refused_at_once(decoder: Decoder) -> None:
    content = np.full(100_000_000, ord(" "), dtype=np.uint8)
    batch = RawBatch(
        content=content,
        starts=np.zeros(1, dtype=np.int64),
        ends=np.array([len(content)], dtype=np.int64),
        source="file",
        partition=0,
        positions=np.zeros(1, dtype=np.int64),
    )
    tracemalloc.start()
    (refusal,) = decoder.decode(batch).refusals
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (refusal.code, refusal.n_bytes) == (RefusalCode.BODY_TOO_LARGE, 100_000_000)
    assert peak < 1_000_000


def test_an_empty_batch_gives_an_empty_batch(decoder: Decoder) -> None:
    decoded = decoder.decode(RawBatch.from_events([]))
    assert (decoded.events.n_rows, decoded.refusals) == (0, ())
    assert decoded.events.values.shape == (16, 0)


def test_writable_and_read_only_content_share_one_compiled_kernel(
    decoder: Decoder, event: EventBuilder
) -> None:
    from sentinel.contract.scan_event import decode_events

    frozen = RawBatch.from_events([event()], received_at_ms=np.array([NOW_MS], dtype=np.int64))
    thawed = RawBatch(
        content=frozen.content.copy(),
        starts=frozen.starts,
        ends=frozen.ends,
        source="x",
        partition=0,
        positions=frozen.positions,
    )
    for array in (frozen.starts, frozen.ends, frozen.received_at_ms):
        assert array is not None
        array.flags.writeable = False
    assert decoder.decode(frozen).events.n_rows == decoder.decode(thawed).events.n_rows == 1
    assert len(decode_events.signatures) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a":"' + b"x" * 10_000_000 + b'"}',
        b"{" + b'"a":1,' * 1_000_000 + b'"b":2}',
        b"[" + b"1," * 1_000_000 + b"1]",
        b" " * 20_000_000,
        b"[" * 60_000,
        b"[[]," * 15_000,
        b'"' + b"\\u0041" * 10_000,
        b"9" * 65_000,
        b"{" + b'"a":1,' * 10_000 + b'"b":2}',
    ],
    ids=lambda content: f"{content[:6].decode()}x{len(content)}",
)
def test_hostile_sizes_are_refused_in_bounded_memory(content: bytes, decoder: Decoder) -> None:
    batch = RawBatch.from_events([content])
    decoder.decode(batch)
    tracemalloc.start()
    (refusal,) = decoder.decode(batch).refusals
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(refusal.content) <= limits.EVENT_BYTES_MAX
    assert refusal.n_bytes == len(content)
    assert peak < 20_000_000
