"""Releases that follow one another: one pipeline, other trees."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from pathlib import Path

from tests.release.conftest import (
    BUILDER,
    NOW_MS,
    fitted_features,
    good_candidate,
    matrix,
    random_trees,
)

from sentinel.features import CategoryEncoding
from sentinel.release import Candidate, LoadedRelease, ReferenceRows, build_release, load_release
from sentinel.release.candidate import ParitySample
from sentinel.serving.releases.release_source import ReleaseSource


def next_candidate(version: str, *, seed: int, **changes: object) -> Candidate:
    """Train anew, as it were: the same features, other trees."""
    before = good_candidate()
    values, status = matrix().values, matrix().status
    trees = random_trees(values, seed=seed)
    scores = trees.scores(values)
    return dataclasses.replace(
        before,
        pipeline=dataclasses.replace(before.pipeline, version=version),
        champion=trees,
        policy=before.policy.resolve(scores, before.fallback.scores(values)),
        parity=ParitySample(inputs=values[:500], scores=scores[:500]),
        reference=ReferenceRows(values=values, scores=scores, status=status),
        later=dataclasses.replace(before.later, champion_scores=scores),
        **changes,  # type: ignore[arg-type]
    )


@functools.cache
def folder_of_releases() -> Path:
    """Build releases that follow one another; kept for this process.

    1.3.0 has other trees than 1.2.0, and encodings that were fitted again.
    """
    root = Path(tempfile.mkdtemp(prefix="sentinel-releases-")) / "payments"
    refitted = fitted_features().with_features(
        dataclasses.replace(feature, values={"chip": 0.02, "online": 0.3})
        if isinstance(feature, CategoryEncoding)
        else feature
        for feature in fitted_features().features
    )
    for candidate in (
        next_candidate("1.2.0", seed=3),
        next_candidate("1.3.0", seed=9, features=refitted),
    ):
        folder = root / candidate.pipeline.version
        build_release(candidate, folder, created_at_ms=NOW_MS, builder=BUILDER)
    return root


def load(version: str) -> LoadedRelease:
    """Load one of them, approved by nobody."""
    return load_release(folder_of_releases() / version, None, now_ms=NOW_MS, allow_unapproved=True)


def source() -> ReleaseSource:
    """Return where they stand."""
    return ReleaseSource(folder=folder_of_releases(), trust=None, allow_unapproved=True)
