"""The release that simulated workers score with; made by the tests of releases."""

from __future__ import annotations

from types import ModuleType

import pytest

from sentinel.release import LoadedRelease, verify_release


@pytest.fixture(scope="session")
def simulated_release(
    release_kit: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> LoadedRelease:
    release = tmp_path_factory.mktemp("simulation") / "release"
    release_kit.build_release(
        release_kit.good_candidate(),
        release,
        created_at_ms=release_kit.NOW_MS,
        builder=release_kit.BUILDER,
    )
    return verify_release(release, None, now_ms=0)
