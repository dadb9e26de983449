"""Insane outputs: each caught, per row; mixed rows caught by identity; one entity is not many."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.scoring.decision import Reason
from sentinel.scoring.policy import InsaneRules, OutputRules
from sentinel.scoring.sanity import InsaneRows, Sanity, differs

Float32Array = npt.NDArray[np.float32]
RULES = OutputRules()
TOLERANCE = 1e-4


def mean_of_row(values: Float32Array) -> Float32Array:
    """Score each row by that row alone."""
    result: Float32Array = (values.sum(axis=1) / np.float32(values.shape[1])).astype(np.float32)
    return result


def rows(n: int, *, seed: int = 0) -> Float32Array:
    return np.random.default_rng(seed).random((n, 4)).astype(np.float32)


def sanity(rules: OutputRules = RULES) -> Sanity:
    return Sanity(rules, mean_of_row, TOLERANCE)


ABOVE_ONE = np.nextafter(np.float32(1), np.float32(2))
BAD_VALUES = [
    (math.nan, Reason.OUTPUT_NOT_FINITE),
    (-math.nan, Reason.OUTPUT_NOT_FINITE),
    (math.inf, Reason.OUTPUT_NOT_FINITE),
    (-math.inf, Reason.OUTPUT_NOT_FINITE),
    (-0.0, Reason.OUTPUT_OUT_OF_RANGE),
    (1e-45, Reason.OUTPUT_OUT_OF_RANGE),
    (-1e-45, Reason.OUTPUT_OUT_OF_RANGE),
    (ABOVE_ONE, Reason.OUTPUT_OUT_OF_RANGE),
    (-1e-7, Reason.OUTPUT_OUT_OF_RANGE),
    (-1.0, Reason.OUTPUT_OUT_OF_RANGE),
    (2.0, Reason.OUTPUT_OUT_OF_RANGE),
    (3.4e38, Reason.OUTPUT_OUT_OF_RANGE),
]


@pytest.mark.reliability("G6")
@pytest.mark.parametrize(("value", "reason"), BAD_VALUES)
@pytest.mark.parametrize("place", [0, 3, 7])
def test_a_bad_output_is_caught_in_its_row_and_no_other(
    value: float, reason: Reason, place: int
) -> None:
    values = rows(8)
    output = mean_of_row(values)
    output[place] = value
    verdict = sanity().judge(values, output)
    expected = np.full(8, Reason.OK)
    expected[place] = reason
    assert verdict.reasons.tolist() == expected.tolist()
    assert verdict.scores[place] == 0.0
    assert verdict.n_bad == 1


@given(st.lists(st.floats(width=32), min_size=1, max_size=60))
def test_what_passes_is_a_probability_whatever_came(numbers: list[float]) -> None:
    output = np.array(numbers, dtype=np.float32)
    # Rows that are asked again one by one must agree with the batch: here they are constant.
    index = dict(enumerate(output))
    values = np.arange(len(output), dtype=np.float32)[:, None]
    again = Sanity(
        RULES, lambda v: np.array([index[int(i)] for i in v[:, 0]], np.float32), TOLERANCE
    )
    verdict = again.judge(values, output)
    good = verdict.scores[verdict.reasons == Reason.OK]
    assert np.isfinite(verdict.scores).all()
    assert ((good == 0.0) | ((good >= np.finfo(np.float32).tiny) & (good <= 1.0))).all()
    assert not np.signbit(verdict.scores).any()
    kept = verdict.reasons == Reason.OK
    assert np.array_equal(verdict.scores[kept], output[kept])


def test_a_price_of_zero_is_refused_where_prices_are_declared_positive() -> None:
    prices = OutputRules(minimum=0.0, maximum=1e6, strictly_positive=True)
    values = rows(2)
    price = Sanity(prices, lambda v: np.zeros(len(v), np.float32), TOLERANCE)
    verdict = price.judge(values, np.array([0.0, 0.0], np.float32))
    assert verdict.reasons.tolist() == [Reason.OUTPUT_OUT_OF_RANGE] * 2


@pytest.mark.reliability("G6")
@pytest.mark.parametrize(
    "output",
    [
        np.full(8, 0.5, dtype=np.float64),
        np.full(8, 1, dtype=np.int64),
        np.full(7, 0.5, dtype=np.float32),
        np.full(9, 0.5, dtype=np.float32),
        np.full(0, 0.5, dtype=np.float32),
        np.full((8, 2), 0.5, dtype=np.float32),
        np.full((), 0.5, dtype=np.float32),
        np.array(["0.5"] * 8),
    ],
    ids=["float64", "int64", "one short", "one too many", "none", "two columns", "scalar", "text"],
)
def test_an_array_of_the_wrong_kind_is_refused_whole(output: npt.NDArray[np.generic]) -> None:
    verdict = sanity().judge(rows(8), output)
    assert verdict.reasons.tolist() == [Reason.OUTPUT_SHAPE] * 8
    assert verdict.scores.tolist() == [0.0] * 8


@pytest.mark.reliability("G6")
@pytest.mark.parametrize("n", [2, 3, 16, 1_000, 5_000])
@pytest.mark.parametrize("mix", ["reversed", "shifted", "shuffled"])
def test_mixed_rows_are_caught_within_few_batches(n: int, mix: str) -> None:
    rng = np.random.default_rng(n)
    judge = sanity()
    for attempt in range(8):
        values = rows(n, seed=attempt)
        output = mean_of_row(values)
        mixed = {
            "reversed": output[::-1],
            "shifted": np.roll(output, 1),
            "shuffled": rng.permutation(output),
        }[mix]
        verdict = judge.judge(values, mixed.copy())
        if verdict.is_row_of_another:
            assert set(verdict.reasons.tolist()) == {Reason.OUTPUT_NOT_OF_ROW}
            assert not verdict.scores.any()
            return
    pytest.fail("nobody noticed")


def test_rows_in_their_places_are_never_taken_for_mixed() -> None:
    judge = sanity()
    for attempt in range(300):
        values = rows(1 + attempt % 40, seed=attempt)
        assert not judge.judge(values, mean_of_row(values)).is_row_of_another


def test_constant_output_is_reported_once_when_the_run_reaches_its_length() -> None:
    half = Sanity(
        OutputRules(constant_rows=250), lambda v: np.full(len(v), 0.5, np.float32), TOLERANCE
    )
    reports = [half.judge(rows(100), np.full(100, 0.5, np.float32)).is_constant for _ in range(6)]
    assert reports == [False, False, True, False, False, False]


def test_a_run_in_the_middle_of_a_batch_counts() -> None:
    output = np.concatenate([[0.1], np.full(300, 0.5), [0.2]]).astype(np.float32)
    index = np.arange(len(output), dtype=np.float32)[:, None]
    judge = Sanity(OutputRules(constant_rows=250), lambda v: output[v[:, 0].astype(int)], TOLERANCE)
    assert judge.judge(index, output).is_constant


def test_differs_forgives_rounding_and_nothing_more() -> None:
    expected = np.array([0.5, 1e-3, 0.999, 1.0, 0.0, np.nan], dtype=np.float32)
    assert not differs(expected, expected, 1e-4).any()
    near = np.nextafter(expected, np.float32(0))
    assert not differs(near[:4], expected[:4], 1e-4).any()
    p = expected[:3].astype(np.float64)
    moved = 1 / (1 + (1 - p) / p * np.exp(-1e-3))
    assert differs(moved.astype(np.float32), expected[:3], 1e-4).all()
    assert differs(np.float32([np.nan, np.inf, 0.1]), np.float32([0.5, 0.5, 0.0]), 1e-4).all()


# --- the rule that shuts the champion off ---------------------------------------------------------


def observe(rule: InsaneRows, n: int, bad: dict[int, int]) -> int | None:
    places = np.array(sorted(bad), dtype=np.int64)
    owners = np.array([bad[place] for place in sorted(bad)], dtype=np.int64)
    return rule.observe(n, places, owners)


def test_one_entity_that_is_insane_for_ever_never_shuts_it_off() -> None:
    rule = InsaneRows(InsaneRules())
    for _ in range(300):
        assert observe(rule, 100, dict.fromkeys(range(100), 7)) is None


def test_enough_entities_shut_it_off_at_the_row_of_the_last_one() -> None:
    rule = InsaneRows(InsaneRules(entities=4))
    assert observe(rule, 100, {3: 1, 5: 2, 9: 1}) is None
    assert observe(rule, 100, {10: 3, 20: 4, 30: 5}) == 20


def test_one_in_a_hundred_rows_from_many_entities_shuts_it_off_within_a_thousand_rows() -> None:
    rule = InsaneRows(InsaneRules())
    seen = [observe(rule, 100, {50: entity}) for entity in range(20)]
    assert next(i for i, row in enumerate(seen) if row is not None) == 7


def test_few_entities_with_many_rows_pass_the_share() -> None:
    rule = InsaneRows(InsaneRules(window_rows=1_000, share=0.02, rows_per_entity=6, entities=100))
    owners = {row: row % 4 for row in range(40)}
    assert observe(rule, 100, owners) == 19


def test_bad_rows_that_left_the_window_are_forgotten() -> None:
    rule = InsaneRows(InsaneRules(window_rows=2_000, share=0.5, entities=3))
    for entity in range(50):
        assert observe(rule, 1_000, {0: entity}) is None


@given(
    bad=st.lists(st.tuples(st.integers(0, 199), st.integers(0, 6)), max_size=40),
    cuts=st.lists(st.integers(0, 200), max_size=6),
)
def test_the_row_does_not_depend_on_how_rows_were_batched(
    bad: list[tuple[int, int]], cuts: list[int]
) -> None:
    rules = InsaneRules(window_rows=60, share=0.2, rows_per_entity=3, entities=4)
    owners = dict(bad)
    whole = observe(InsaneRows(rules), 200, owners)
    rule = InsaneRows(rules)
    edges = sorted({0, 200, *cuts})
    for start, end in itertools.pairwise(edges):
        part = {row - start: who for row, who in owners.items() if start <= row < end}
        found = observe(rule, end - start, part)
        if found is not None:
            assert start + found == whole
            return
    assert whole is None
