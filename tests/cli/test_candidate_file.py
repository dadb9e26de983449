"""A candidate survives its file, and nothing else is taken for one."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sentinel.cli.candidate_file import read_candidate, write_candidate
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.release import build_release


def test_a_release_built_from_the_file_is_the_same_to_the_byte(
    release_kit: ModuleType, tmp_path: Path
) -> None:
    candidate = release_kit.good_candidate()
    write_candidate(candidate, tmp_path / "c.npz")
    again = read_candidate(tmp_path / "c.npz")
    built = [
        build_release(each, tmp_path / name, created_at_ms=release_kit.NOW_MS)
        for name, each in (("a", candidate), ("b", again))
    ]
    assert built[0].manifest.digest == built[1].manifest.digest
    assert not built[1].failed


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.binary(max_size=300))
def test_other_files_are_no_candidates(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.npz"
    path.write_bytes(content)
    with pytest.raises(SentinelError) as caught:
        read_candidate(path)
    assert caught.value.code is ErrorCode.CANDIDATE_INVALID
    assert caught.value.at == str(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_cut_file_is_refused(release_kit: ModuleType, tmp_path: Path, share: float) -> None:
    path = tmp_path / "c.npz"
    write_candidate(release_kit.good_candidate(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(SentinelError) as caught:
        read_candidate(path)
    assert caught.value.code is ErrorCode.CANDIDATE_INVALID
    assert caught.value.at == str(path)


def test_objects_are_never_unpacked(release_kit: ModuleType, tmp_path: Path) -> None:
    """An archive with Python objects inside is refused, and nothing in it runs."""

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    path = tmp_path / "c.npz"
    np.savez(path, data=np.array([Bomb()], dtype=object))
    with pytest.raises(SentinelError) as caught:
        read_candidate(path)
    assert caught.value.code is ErrorCode.CANDIDATE_INVALID
    assert caught.value.at == str(path)
    assert not (tmp_path / "exploded").exists()
