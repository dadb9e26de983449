"""The fallback: arithmetic that cannot fail on finite input, and calls nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.scoring.fallback import LinearFallback

N = 3
finite64 = st.floats(allow_nan=False, allow_infinity=False)
finite32 = st.floats(allow_nan=False, allow_infinity=False, width=32)


def three(elements: st.SearchStrategy[float]) -> st.SearchStrategy[list[float]]:
    return st.lists(elements, min_size=N, max_size=N)


def model(**changes: object) -> LinearFallback:
    arguments: dict[str, object] = {
        "centre": [1.0, 2.0, 3.0],
        "scale": [1.0, 10.0, 0.5],
        "coefficients": [0.3, -0.2, 0.1],
        "intercept": -1.0,
    }
    return LinearFallback.of(("a", "b", "c"), **{**arguments, **changes})  # type: ignore[arg-type]


@given(
    centre=three(finite64),
    scale=three(st.floats(min_value=0, exclude_min=True, allow_infinity=False)),
    coefficients=three(st.floats(-1e300, 1e300)),
    intercept=st.floats(-1e300, 1e300),
    rows=st.lists(three(finite32), min_size=1, max_size=5),
)
@settings(max_examples=500, deadline=None)
def test_any_finite_row_has_a_probability_whatever_the_coefficients(
    centre: list[float],
    scale: list[float],
    coefficients: list[float],
    intercept: float,
    rows: list[list[float]],
) -> None:
    fallback = model(centre=centre, scale=scale, coefficients=coefficients, intercept=intercept)
    scores = fallback.scores(np.array(rows, dtype=np.float32))
    assert ((scores >= 0.0) & (scores <= 1.0)).all()
    assert np.array_equal(scores, scores.astype(np.float32))
    assert not np.signbit(scores).any()
    tiny = np.finfo(np.float32).tiny
    assert ((scores == 0.0) | (scores >= tiny)).all()


def test_scores_are_those_of_a_logistic_regression() -> None:
    values = np.array([[1.5, -3.0, 2.0], [100.0, 2.0, 3.0]], dtype=np.float32)
    scores = model().scores(values)
    standard = np.clip((values.astype(np.float64) - [1, 2, 3]) / [1, 10, 0.5], -10, 10)
    expected = 1 / (1 + np.exp(-(standard @ [0.3, -0.2, 0.1] - 1.0)))
    assert scores == pytest.approx(expected, rel=1e-6)


def test_scores_do_not_depend_on_the_batch() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(1_000, 3)).astype(np.float32)
    fallback = model()
    whole = fallback.scores(values)
    for size in (1, 2, 3, 7, 64, 333):
        parts = [fallback.scores(values[at : at + size]) for at in range(0, 1_000, size)]
        assert np.concatenate(parts).tobytes() == whole.tobytes()


def test_a_row_with_nan_has_nan_and_no_exception() -> None:
    scores = model().scores(np.array([[np.nan, 0, 0], [1, 2, 3]], dtype=np.float32))
    assert np.isnan(scores[0])
    assert 0.0 < scores[1] < 1.0


def test_data_comes_back_to_the_last_bit() -> None:
    fallback = model(coefficients=[0.1 + 0.2, 1e-310, -1 / 3])
    again = LinearFallback.from_data(json.loads(json.dumps(fallback.to_data())))
    assert again.to_data() == fallback.to_data()
    assert again.coefficients.tobytes() == fallback.coefficients.tobytes()


@pytest.mark.reliability("G5")
@pytest.mark.parametrize(
    ("changes", "at"),
    [
        ({"coefficients": [0.0, float("nan"), 0.0]}, "fallback.coefficients"),
        ({"coefficients": [0.0, float("inf"), 0.0]}, "fallback.coefficients"),
        ({"coefficients": [1e308, 1e308, 1e308]}, "fallback.coefficients"),
        ({"coefficients": [1.0]}, "fallback.coefficients"),
        ({"centre": [0.0, 0.0, float("-inf")]}, "fallback.centre"),
        ({"scale": [1.0, 0.0, 1.0]}, "fallback.scale"),
        ({"scale": [1.0, -1.0, 1.0]}, "fallback.scale"),
        ({"intercept": float("nan")}, "fallback.intercept"),
        ({"clip": 0.0}, "fallback.lower"),
    ],
)
def test_numbers_that_could_fail_are_refused(changes: dict[str, object], at: str) -> None:
    with pytest.raises(SentinelError) as caught:
        model(**changes)
    assert (caught.value.code, caught.value.at) == (ErrorCode.FALLBACK_INVALID, at)


def test_a_name_twice_is_refused() -> None:
    with pytest.raises(SentinelError) as caught:
        LinearFallback.of(("a", "a"), centre=[0, 0], scale=[1, 1], coefficients=[0, 0])
    assert caught.value.at == "fallback.features"


@pytest.mark.parametrize("data", [None, {}, {"features": ["a"]}, {**model().to_data(), "x": 1}])
def test_data_that_is_no_fallback_is_refused(data: object) -> None:
    with pytest.raises(SentinelError) as caught:
        LinearFallback.from_data(data)
    assert (caught.value.code, caught.value.at) == (ErrorCode.FALLBACK_INVALID, "fallback")


SCRIPT = """
import os
import numpy as np
from sentinel.scoring.fallback import LinearFallback
model = LinearFallback.of(("a", "b"), centre=[0, 0], scale=[1, 1], coefficients=[1, 2])
rows = np.random.default_rng(0).normal(size=(256, 2)).astype(np.float32)
model.scores(rows)
os.getppid()  # marks the beginning in the trace
for _ in range(50):
    model.scores(rows)
os.getppid()  # marks the end
"""


@pytest.mark.reliability("G7")
def test_answering_makes_no_system_call_but_for_memory(tmp_path: Path) -> None:
    """No disk, no network, no clock: `strace` sees nothing between the two marks."""
    trace = tmp_path / "trace"
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    try:
        done = subprocess.run(
            ["strace", "-f", "-o", str(trace), sys.executable, str(script)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    except FileNotFoundError:
        pytest.skip("strace is not installed")
    if done.returncode:
        pytest.skip(f"strace cannot trace here: {done.stderr.strip()[-100:]}")
    calls = [line.split(maxsplit=1)[1] for line in trace.read_text().splitlines()]
    first, last = (i for i, call in enumerate(calls) if call.startswith("getppid"))
    memory = ("brk(", "mmap(", "munmap(", "madvise(", "mremap(", "futex(", "getppid(")
    assert [call for call in calls[first:last] if not call.startswith(memory)] == []
