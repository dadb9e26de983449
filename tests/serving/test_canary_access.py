"""The canary comes in through the door like everybody: where access is broken, nobody is ready."""

from __future__ import annotations

from pathlib import Path

import pytest
from serving_rig import served

SECRET = "t" * 43
TOKENS = f'format = 1\n[[token]]\nname = "shop"\nsecret = "{SECRET}"\nscopes = ["score"]\n'


@pytest.mark.reliability("F15")
def test_a_door_whose_access_is_broken_is_not_ready(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(TOKENS)
    tokens.chmod(0o600)
    with served(tmp_path, tokens=tokens) as running:
        running.wait_ready()
        running.server._access._own = None
        running.wait_until(lambda: not running.plane.health().is_ready)
        assert "401: caller-unknown" in str(running.plane.health().causes)
