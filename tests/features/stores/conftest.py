"""A Redis of a module's own, and stores that are closed behind every test."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis_rig

from sentinel.testing.redis_server import RedisServer


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """Run one in a short folder: the path of a unix socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="redis-") as folder, RedisServer(Path(folder)) as redis:
        yield redis


@pytest.fixture(autouse=True)
def stores_are_closed() -> Iterator[None]:
    yield
    redis_rig.close_all()
