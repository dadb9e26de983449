"""Where a model comes from: code, data, software, settings."""

from __future__ import annotations

import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

from sentinel.core.hashing import sha256_file, sha256_of
from sentinel.environment import read_environment
from sentinel.release.candidate import Provenance
from sentinel.training.settings import ModelSettings
from sentinel.training.split import Parts, TimeSplit

# Libraries that take part in what a trained model is.
_LIBRARIES = ("lightgbm", "numba", "numpy", "scikit-learn", "scipy")
_GIT_TIMEOUT_S = 10.0


def read_provenance(
    *,
    events: Path,
    feedback: Path,
    settings: ModelSettings,
    split: TimeSplit,
    parts: Parts,
    n_rounds: int,
) -> Provenance:
    """Collect all of it; hashes both logs, linear in their size.

    Returns
    -------
    Provenance
        Nothing in it depends on the clock: the same run gives the same provenance.
    """
    environment = read_environment()
    versions = {name: _version(name) for name in _LIBRARIES}
    versions["python"] = platform.python_version()
    versions["processor_class"] = environment.processor_class
    return Provenance(
        git_commit=git_commit(Path.cwd()),
        data_sha256=sha256_of([sha256_file(events), sha256_file(feedback)]),
        environment_sha256=environment.digest,
        seeds={"model": settings.seed},
        hyper_parameters={
            **settings.to_data(),
            "n_rounds": n_rounds,
            "train_from_ms": split.train_from_ms,
            "cut_ms": split.cut_ms,
            "label_delay_ms": split.delay_ms,
            "validation_share": split.validation_share,
        },
        library_versions=versions,
        n_rows={
            "train": len(parts.train),
            "validation": len(parts.validation),
            "waiting": len(parts.waiting),
            "later": len(parts.later),
        },
    )


def git_commit(folder: Path) -> str:
    """Return the commit of a working tree, ``-dirty`` behind it where files were changed.

    Returns
    -------
    str
        Empty where there is no repository, no commit, or no git.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if re.fullmatch(r"[0-9a-f]{40}", commit) is None:
        return ""
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}-dirty" if changes else commit


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - fixed program and arguments
            ["git", "-C", str(folder), *arguments],  # noqa: S607 - git is found as the user finds it
            capture_output=True,
            text=True,
            timeout=_GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
