"""A library that is not installed is asked for by the command that installs it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.training import extras


@pytest.mark.parametrize("name", sorted(extras.PURPOSES))
def test_a_missing_library_names_the_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SentinelError) as caught:
        extras.require(name)
    assert caught.value.code is ErrorCode.EXTRA_MISSING
    assert caught.value.at == name
    assert "pip install 'sentinel[train]'" in caught.value.hint


def test_the_room_is_imported_without_its_heavy_libraries() -> None:
    """A command that only lists its flags must not pay for LightGBM."""
    code = (
        "import sys, sentinel.training\n"
        "heavy = {'lightgbm', 'sklearn', 'onnx'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
