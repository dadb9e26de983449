"""The commit of the working tree, or an honest nothing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sentinel.training.provenance import git_commit


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True
    )


def test_a_folder_outside_any_repository_has_no_commit(tmp_path: Path) -> None:
    assert git_commit(tmp_path) == ""


def test_no_git_means_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit(tmp_path) == ""


def test_a_changed_file_makes_the_commit_dirty(tmp_path: Path) -> None:
    git(tmp_path, "init")
    assert git_commit(tmp_path) == ""
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-m", "one")
    clean = git_commit(tmp_path)
    assert len(clean) == 40
    (tmp_path / "a").write_text("2")
    assert git_commit(tmp_path) == f"{clean}-dirty"
