"""The gate on what was served: asked where a decision log is, and refusing what differs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from tests.release.conftest import BUILDER, NOW_MS, good_candidate

from sentinel.features.parity import FeatureDifference, FeatureParity
from sentinel.monitoring.feature_parity import ParityReport
from sentinel.release import build_release
from sentinel.release.gates import feature_parity

FIRST = FeatureDifference(
    event_id="p7",
    position=7,
    served=1.0,
    computed=2.0,
    served_status="present",
    computed_status="present",
)
GOOD = ParityReport(
    n_compared=100,
    n_different=0,
    n_not_replayed=0,
    first_not_replayed="",
    n_not_logged=5,
    n_of_other_releases=0,
    features=(FeatureParity(feature="n", n_compared=100, n_different=0, first=None),),
)
BAD_FEATURE = FeatureParity(feature="n", n_compared=100, n_different=3, first=FIRST)


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        (
            {"n_different": 3, "features": (BAD_FEATURE,)},
            "1 features differ, most of all n, 3 times, first at event p7",
        ),
        (
            {"n_not_replayed": 2, "first_not_replayed": "p9"},
            "2 decisions without their event, the first p9",
        ),
        ({"n_compared": 99}, "99 served vectors, at least 100 needed"),
        ({"n_compared": 0}, "0 served vectors, at least 100 needed"),
    ],
)
def test_what_differs_is_refused_and_named(changes: dict[str, object], detail: str) -> None:
    """One bit, one lost event, or too few to say."""
    result = feature_parity(dataclasses.replace(GOOD, **changes))  # type: ignore[arg-type]
    assert not result.passed
    assert result.detail == detail


def test_the_gate_is_one_of_the_release_where_it_was_asked(tmp_path: Path) -> None:
    """A release that fails it says so; without a log it is not asked."""
    candidate = good_candidate()
    bad = dataclasses.replace(GOOD, n_different=3, features=(BAD_FEATURE,))
    built = build_release(
        candidate, tmp_path / "1", created_at_ms=NOW_MS, builder=BUILDER, served=bad
    )
    assert built.failed == ("feature_parity",)
    built = build_release(
        candidate, tmp_path / "2", created_at_ms=NOW_MS, builder=BUILDER, served=GOOD
    )
    assert not built.failed
    assert [gate.passed for gate in built.gates if gate.name == "feature_parity"] == [True]
