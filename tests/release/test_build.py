"""Building: the same input gives the same bytes; whole or absent; releases never change."""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.release.conftest import (
    BUILDER,
    DATA,
    DEPLOY,
    NOW_MS,
    approve_all,
    good_candidate,
    trust,
)

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.hashing import canonical_json
from sentinel.release import (
    OnnxModel,
    Role,
    Standing,
    Terms,
    TimeTravel,
    approve_release,
    build_release,
    load_release,
    verify_release,
)
from sentinel.release.folder import parse_json, read_folder
from sentinel.testing import wait_until
from sentinel.testing.full_disk import file_size_limit

FILES = {
    "canary.json",
    "contract.json",
    "explanation.json",
    "fallback.json",
    "features.json",
    "gates.json",
    "manifest.json",
    "model.onnx",
    "policy.json",
    "reference.json",
    "signatures",
}


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_release_holds_exactly_the_files_of_its_format(tmp_path: Path) -> None:
    """There is no profile.json: nothing about a machine has been measured here."""
    built = build_release(good_candidate(), tmp_path / "r", created_at_ms=NOW_MS, builder=BUILDER)
    assert {path.name for path in built.folder.iterdir()} == FILES
    assert built.failed == ()
    assert [path.name for path in (built.folder / "signatures").iterdir()] == ["build.json"]
    assert {path.stat().st_mode & 0o777 for path in built.folder.glob("*.json")} == {0o644}


def test_the_same_candidate_gives_the_same_bytes(tmp_path: Path) -> None:
    first = build_release(good_candidate(), tmp_path / "a", created_at_ms=NOW_MS, builder=BUILDER)
    second = build_release(good_candidate(), tmp_path / "b", created_at_ms=NOW_MS, builder=BUILDER)
    assert bytes_of(first.folder) == bytes_of(second.folder)
    later = build_release(good_candidate(), tmp_path / "c", created_at_ms=NOW_MS + 1)
    differing = {
        name
        for name, content in bytes_of(later.folder).items()
        if bytes_of(first.folder)[name] != content
    }
    assert differing == {"manifest.json"}


def test_every_json_file_is_canonical(tmp_path: Path) -> None:
    folder = build_release(good_candidate(), tmp_path / "r", created_at_ms=NOW_MS).folder
    for path in folder.glob("*.json"):
        content = path.read_bytes()
        assert canonical_json(parse_json(content, at=path.name)) == content


def test_building_again_changes_nothing_and_keeps_approvals(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    build_release(good_candidate(), folder, created_at_ms=NOW_MS, builder=BUILDER)
    approve_all(folder)
    before = bytes_of(folder)
    build_release(good_candidate(), folder, created_at_ms=NOW_MS, builder=BUILDER)
    assert bytes_of(folder) == before


def test_a_different_release_is_never_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    build_release(good_candidate(), folder, created_at_ms=NOW_MS)
    before = bytes_of(folder)
    with pytest.raises(SentinelError) as caught:
        build_release(good_candidate(), folder, created_at_ms=NOW_MS + 1)
    assert (caught.value.code, caught.value.at) == (ErrorCode.RELEASE_EXISTS, str(folder))
    assert bytes_of(folder) == before


def test_something_else_that_stands_there_is_never_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(SentinelError) as caught:
        build_release(good_candidate(), folder, created_at_ms=NOW_MS)
    assert caught.value.code in {ErrorCode.RELEASE_EXISTS, ErrorCode.RELEASE_STRUCTURE}
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_full_disk_leaves_no_half_release(tmp_path: Path) -> None:
    folder = tmp_path / "releases" / "r"
    with file_size_limit(4_000), pytest.raises(SentinelError) as caught:
        build_release(good_candidate(), folder, created_at_ms=NOW_MS)
    assert (caught.value.code, caught.value.at) == (ErrorCode.FILE_UNWRITABLE, str(folder))
    assert list(folder.parent.iterdir()) == []


def test_a_candidate_that_fails_a_gate_can_be_looked_at_and_never_approved(tmp_path: Path) -> None:
    leaking = TimeTravel(n_checked=50, n_different=2, detail="n_1h differs at event 7")
    candidate = dataclasses.replace(good_candidate(), time_travel=leaking)
    built = build_release(candidate, tmp_path / "r", created_at_ms=NOW_MS, builder=BUILDER)
    assert built.failed == ("time_travel",)
    loaded = verify_release(built.folder, trust(), now_ms=NOW_MS)
    assert loaded.standing is Standing.UNAPPROVED
    assert "gate time_travel" in {fault.at for fault in loaded.judgement.faults}
    with pytest.raises(SentinelError) as caught:
        approve_release(built.folder, DATA, role=Role.DATA, terms=Terms(issued_at_ms=NOW_MS))
    assert (caught.value.code, caught.value.got) == (ErrorCode.RELEASE_GATE_FAILED, "time_travel")


def test_without_a_model_that_may_be_opened_there_is_no_folder(tmp_path: Path) -> None:
    candidate = dataclasses.replace(
        good_candidate(), champion=OnnxModel(content=b"\x80\x04.", n_features=5)
    )
    with pytest.raises(SentinelError) as caught:
        build_release(candidate, tmp_path / "r", created_at_ms=NOW_MS)
    assert caught.value.code is ErrorCode.RELEASE_GATE_FAILED
    assert caught.value.at == "payments@1.2.0"
    assert "operators" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_release_that_nobody_signed_as_builder_cannot_be_approved(tmp_path: Path) -> None:
    folder = build_release(good_candidate(), tmp_path / "r", created_at_ms=NOW_MS).folder
    with pytest.raises(SentinelError) as caught:
        approve_release(folder, DATA, role=Role.DATA, terms=Terms(issued_at_ms=NOW_MS))
    assert (caught.value.code, caught.value.at) == (
        ErrorCode.RELEASE_NOT_APPROVED,
        "payments@1.2.0: build",
    )


def test_the_builder_does_not_approve_and_deployment_comes_last(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    build_release(good_candidate(), folder, created_at_ms=NOW_MS, builder=BUILDER)
    terms = Terms(issued_at_ms=NOW_MS)
    for key, role, at in (
        (BUILDER, Role.DATA, "payments@1.2.0: data"),
        (DEPLOY, Role.DEPLOY, "payments@1.2.0: deploy"),
        (DATA, Role.BUILD, "payments@1.2.0: build"),
    ):
        with pytest.raises(SentinelError) as caught:
            approve_release(folder, key, role=role, terms=terms)
        assert (caught.value.code, caught.value.at) == (ErrorCode.RELEASE_NOT_APPROVED, at)
    assert [path.name for path in (folder / "signatures").iterdir()] == ["build.json"]


def test_the_manifest_says_where_the_release_comes_from(tmp_path: Path) -> None:
    candidate = good_candidate()
    folder = build_release(candidate, tmp_path / "r", created_at_ms=NOW_MS).folder
    manifest = read_folder(folder).manifest
    assert manifest.origin.git_commit == candidate.provenance.git_commit
    assert manifest.origin.hyper_parameters == candidate.provenance.hyper_parameters
    assert manifest.identity.contract == "payment@1"
    assert manifest.identity.features_sha256 == candidate.features.identity
    assert (manifest.created_at_ms, manifest.label) == (NOW_MS, "payments@1.2.0")


def test_what_was_built_is_what_loads(tmp_path: Path) -> None:
    candidate = good_candidate()
    folder = build_release(candidate, tmp_path / "r", created_at_ms=NOW_MS, builder=BUILDER).folder
    approve_all(folder)
    loaded = load_release(folder, trust(), now_ms=NOW_MS)
    assert loaded.parts.plan.features == candidate.features
    assert loaded.parts.policy == candidate.policy
    assert loaded.parts.fallback.to_data() == candidate.fallback.to_data()
    assert loaded.label.delay_ms == candidate.pipeline.label.delay_ms
    assert loaded.gates.evaluation.metrics["champion"] == {"auc_roc": 0.75}


WRITE_FOR_EVER = """
import sys
from pathlib import Path
from sentinel.release.build import write_release
from sentinel.release.folder import read_folder
contents, folder = read_folder(Path(sys.argv[1])), Path(sys.argv[2])
print("ready", flush=True)
number = 0
while True:
    write_release(folder / str(number), contents)
    number += 1
"""


def test_a_kill_while_writing_leaves_whole_releases_only(pristine: Path, tmp_path: Path) -> None:
    """Killed at four random moments: what has a release's name is a whole release."""
    rng = random.Random(4)
    n_whole = 0
    for trial in range(4):
        folder = tmp_path / f"trial-{trial}"
        folder.mkdir()
        command = [sys.executable, "-c", WRITE_FOR_EVER, pristine, folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            wait_until((folder / "0").exists)
            time.sleep(rng.uniform(0.0, 0.3))
            process.kill()
        for path in folder.iterdir():
            if not path.name.startswith("."):
                assert load_release(path, trust(), now_ms=NOW_MS).standing is Standing.APPROVED
                n_whole += 1
    assert n_whole > 0
