"""The release that simulated workers score with; made by the tests of releases."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from sentinel.release import LoadedRelease, verify_release

RELEASE_KIT = Path(__file__).parent.parent / "release" / "conftest.py"


@pytest.fixture(scope="session")
def simulated_release(tmp_path_factory: pytest.TempPathFactory) -> LoadedRelease:
    name = "release_kit"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, RELEASE_KIT)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    kit = sys.modules[name]
    release = tmp_path_factory.mktemp("simulation") / "release"
    kit.build_release(kit.good_candidate(), release, created_at_ms=kit.NOW_MS, builder=kit.BUILDER)
    return verify_release(release, None, now_ms=0)
