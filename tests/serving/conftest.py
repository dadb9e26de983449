"""A release at work behind real doors, for the tests of this room."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from serving_rig import Served, served


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One healthy server for all tests of a module that do not break it."""
    with served(tmp_path_factory.mktemp("served")) as running:
        running.wait_ready()  # what was never compiled is compiled by then
        yield running
