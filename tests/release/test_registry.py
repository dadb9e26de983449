"""A folder of releases: whole ones only, one deployed, never back unasked."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
from tests.release.conftest import BUILDER, DEPLOY, NOW_MS, PEOPLE, approve_all, trust

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.release import Role, Terms, approve_release
from sentinel.release.approvals import approve
from sentinel.release.build import write_release
from sentinel.release.folder import Contents, read_folder
from sentinel.release.registry import CURRENT_NAME, Registry


def another(source: Path, folder: Path, version: str) -> Path:
    """Make a release of another version from the files of one."""
    contents = read_folder(source)
    manifest = msgspec.structs.replace(contents.manifest, version=version)
    built = approve(manifest, BUILDER, role=Role.BUILD, terms=Terms(issued_at_ms=NOW_MS))
    write_release(folder / version, Contents(manifest, contents.files, {"build.json": built}))
    approve_all(folder / version)
    return folder / version


def test_releases_are_listed_by_version_number(pristine: Path, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    assert registry.versions("payments") == ()
    registry.install(pristine)
    for version in ("1.10.0", "1.9.0", "2.0.0-rc1", "2.0.0"):
        registry.install(another(pristine, tmp_path / "made", version))
    (registry.folder / "payments" / ".1.3.0.tmp").mkdir()
    (registry.folder / "payments" / "1.3.0").symlink_to(pristine)
    assert registry.versions("payments") == ("1.2.0", "1.9.0", "1.10.0", "2.0.0-rc1", "2.0.0")
    assert registry.manifest("payments", "1.9.0").version == "1.9.0"


def test_installing_twice_changes_nothing_and_another_release_is_refused(
    pristine: Path, tmp_path: Path
) -> None:
    registry = Registry(tmp_path / "registry")
    first = registry.install(pristine)
    assert registry.install(pristine) == first
    other = another(pristine, tmp_path / "made", "1.2.0")
    contents = read_folder(other)
    changed = msgspec.structs.replace(contents.manifest, created_at_ms=1)
    shutil.rmtree(other)
    write_release(other, Contents(changed, contents.files, {}))
    with pytest.raises(SentinelError) as caught:
        registry.install(other)
    assert (caught.value.code, caught.value.at) == (ErrorCode.RELEASE_EXISTS, str(first))


def test_a_corrupt_release_is_not_installed(pristine: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(pristine, copy)
    (copy / "policy.json").write_bytes(b"{}")
    registry = Registry(tmp_path / "registry")
    with pytest.raises(SentinelError) as caught:
        registry.install(copy)
    assert caught.value.code is ErrorCode.RELEASE_CORRUPT
    assert registry.versions("payments") == ()


@pytest.mark.parametrize(
    ("name", "version"), [("..", "1"), ("a/b", "1"), ("a", ".."), ("a", "../1"), ("", "1")]
)
def test_names_do_not_lead_out_of_the_folder(tmp_path: Path, name: str, version: str) -> None:
    with pytest.raises(SentinelError) as caught:
        Registry(tmp_path).path(name, version)
    assert caught.value.code is ErrorCode.RELEASE_STRUCTURE


def test_an_old_release_comes_back_only_with_a_new_approval(pristine: Path, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    registry.install(pristine)
    newer = registry.install(another(pristine, tmp_path / "made", "1.3.0"))
    assert registry.current("payments") is None
    registry.deploy("payments", "1.2.0", trust(), now_ms=NOW_MS)
    with pytest.raises(SentinelError) as caught:  # both carry the same number: which is newer?
        registry.deploy("payments", "1.3.0", trust(), now_ms=NOW_MS)
    assert caught.value.code is ErrorCode.RELEASE_NOT_APPROVED
    terms = Terms(issued_at_ms=NOW_MS, sequence=NOW_MS + 10)
    approve_release(newer, DEPLOY, role=Role.DEPLOY, terms=terms)
    loaded = registry.deploy("payments", "1.3.0", trust(), now_ms=NOW_MS)
    current = registry.current("payments")
    assert current is not None
    assert (current.version, current.digest, current.sequence) == (
        "1.3.0",
        loaded.digest,
        NOW_MS + 10,
    )
    with pytest.raises(SentinelError) as caught:
        registry.deploy("payments", "1.2.0", trust(), now_ms=NOW_MS)
    assert (caught.value.code, caught.value.at) == (
        ErrorCode.RELEASE_NOT_APPROVED,
        "payments@1.2.0: deploy",
    )
    terms = Terms(issued_at_ms=NOW_MS, sequence=NOW_MS + 11, note="1.3.0 declines too much")
    older = registry.path("payments", "1.2.0")
    approve_release(older, DEPLOY, role=Role.DEPLOY, terms=terms)
    registry.deploy("payments", "1.2.0", trust(), now_ms=NOW_MS)
    assert registry.deploy("payments", "1.2.0", trust(), now_ms=NOW_MS).standing


def test_what_was_approved_later_is_newer_whatever_folder_it_lies_in(
    pristine: Path, tmp_path: Path
) -> None:
    """Numbers are of the time: how often a release was signed says nothing."""
    registry = Registry(tmp_path / "registry")
    older = registry.install(pristine)
    for minute in range(1, 4):
        terms = Terms(issued_at_ms=NOW_MS + minute * 60_000)
        approve_release(older, PEOPLE[Role.DATA], role=Role.DATA, terms=terms)
    approve_all(older, now_ms=NOW_MS + 240_000)
    newer = registry.install(another(pristine, tmp_path / "made", "1.3.0"))
    approve_all(newer, now_ms=NOW_MS + 300_000)
    registry.deploy("payments", "1.3.0", trust(), now_ms=NOW_MS + 300_000)
    with pytest.raises(SentinelError) as caught:
        registry.deploy("payments", "1.2.0", trust(), now_ms=NOW_MS + 300_000)
    assert caught.value.at == "payments@1.2.0: deploy"
    approve_all(older, now_ms=NOW_MS + 360_000)
    registry.deploy("payments", "1.2.0", trust(), now_ms=NOW_MS + 360_000)


@pytest.mark.parametrize("content", [b"", b"{}", b"null", b'{"version":"1"}', b"\xff"])
def test_a_damaged_pointer_is_an_error_and_not_a_first_deployment(
    pristine: Path, tmp_path: Path, content: bytes
) -> None:
    registry = Registry(tmp_path)
    registry.install(pristine)
    (tmp_path / "payments" / CURRENT_NAME).write_bytes(content)
    with pytest.raises(SentinelError) as caught:
        registry.deploy("payments", "1.2.0", trust(), now_ms=NOW_MS)
    assert caught.value.code is ErrorCode.RELEASE_CORRUPT
