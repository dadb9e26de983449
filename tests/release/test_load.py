"""Nothing that was changed on the way is loaded, and nothing is parsed before that is known."""

from __future__ import annotations

import os
import random
import shutil
import socket
import threading
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.release.conftest import BUILDER, DATA, DEPLOY, NOW_MS, approve_all, raw_events, trust

from sentinel.contract import RawBatch
from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.hashing import canonical_json
from sentinel.release import Role, Standing, Terms, approve_release, load_release, verify_release
from sentinel.release.approvals import approve
from sentinel.release.build import write_release
from sentinel.release.folder import Contents, read_folder
from sentinel.release.gates import GATES
from sentinel.release.load import GATES_REQUIRED, LoadedRelease
from sentinel.release.manifest import entries

FLIPS = 1_000
REFUSED = {
    ErrorCode.RELEASE_STRUCTURE,
    ErrorCode.RELEASE_CORRUPT,
    ErrorCode.RELEASE_FORMAT_UNKNOWN,
    ErrorCode.RELEASE_SIGNATURE_INVALID,
}


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "release"
    shutil.copytree(pristine, copy)
    return copy


def load(folder: Path) -> LoadedRelease:
    return load_release(folder, trust(), now_ms=NOW_MS)


def refuse(folder: Path) -> SentinelError:
    """Be refused with and without approval asked for; return the error of the second."""
    with pytest.raises(SentinelError):
        load(folder)
    with pytest.raises(SentinelError) as caught:
        verify_release(folder, None, now_ms=NOW_MS)
    return caught.value


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_an_approved_release_loads(folder: Path) -> None:
    loaded = load(folder)
    assert loaded.standing is Standing.APPROVED
    assert loaded.digest == read_folder(folder).manifest.digest
    assert loaded.parts.release == "payments@1.2.0"
    assert loaded.label.of == "is_fraud"
    assert loaded.admitted.n_trees == 12
    assert set(loaded.gates.failed) == set()


def test_one_changed_bit_in_any_file_is_refused(folder: Path) -> None:
    """Every file, signatures and manifest included; every bit position equally likely."""
    rng = random.Random(20180801)
    files = files_of(folder)
    assert len(files) == 14
    for trial in range(FLIPS):
        path = files[trial % len(files)]
        content = path.read_bytes()
        changed = bytearray(content)
        where = rng.randrange(len(content))
        changed[where] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(SentinelError) as caught:
            verify_release(folder, None, now_ms=NOW_MS)
        assert caught.value.code in REFUSED, (path.name, where)
        path.write_bytes(content)
    load(folder)


@pytest.mark.parametrize("at", [0, -1])
def test_first_and_last_byte_of_every_file_count(folder: Path, at: int) -> None:
    for path in files_of(folder):
        content = path.read_bytes()
        changed = bytearray(content)
        changed[at] ^= 0xFF
        path.write_bytes(changed)
        assert refuse(folder).code in REFUSED
        path.write_bytes(content)


def test_a_file_cut_anywhere_is_refused(folder: Path) -> None:
    for path in files_of(folder):
        content = path.read_bytes()
        for n_bytes in {0, 1, len(content) // 2, len(content) - 1, *range(0, len(content), 1024)}:
            path.write_bytes(content[:n_bytes])
            assert refuse(folder).code in REFUSED
        path.write_bytes(content + b"\0")
        assert refuse(folder).code in REFUSED
        path.write_bytes(content)


def test_every_file_is_needed(folder: Path) -> None:
    for path in files_of(folder):
        content = path.read_bytes()
        path.unlink()
        if path.parent == folder:
            error = refuse(folder)
            assert (error.code, error.at) == (ErrorCode.RELEASE_STRUCTURE, path.name)
        else:
            with pytest.raises(SentinelError) as caught:
                load(folder)
            assert caught.value.code is ErrorCode.RELEASE_NOT_APPROVED
            assert path.stem in caught.value.at
        path.write_bytes(content)


EXTRA_NAMES = [
    "extra.json",
    "setup.py",
    ".hidden",
    "Model.onnx",
    "model.onnx.bak",
    "mödel.onnx",
    unicodedata.normalize("NFD", "mödel.onnx"),
    "profile.json",
    "\udcff".encode(errors="surrogateescape").decode(errors="surrogateescape"),
    "signatures/model.sig",
    "signatures/data.json.bak",
    "signatures/DATA.json",
    "signatures/.data.json",
]


@pytest.mark.parametrize("name", EXTRA_NAMES, ids=ascii)
def test_an_extra_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"{}")
    assert refuse(folder).code is ErrorCode.RELEASE_STRUCTURE


def test_an_extra_folder_is_refused(folder: Path) -> None:
    (folder / "plugins").mkdir()
    assert refuse(folder).code is ErrorCode.RELEASE_STRUCTURE
    (folder / "plugins").rmdir()
    (folder / "signatures" / "inner").mkdir()
    assert refuse(folder).code is ErrorCode.RELEASE_STRUCTURE


def test_too_many_names_are_refused_without_looking_at_them(folder: Path) -> None:
    for number in range(limits.RELEASE_FILES_MAX + 3):
        (folder / f"f{number}").touch()
    assert refuse(folder).code is ErrorCode.RELEASE_STRUCTURE


def to_symbolic_link(path: Path, tmp_path: Path) -> None:
    shutil.move(path, tmp_path / "real")
    path.symlink_to(tmp_path / "real")


def to_hard_link(path: Path, tmp_path: Path) -> None:
    os.link(path, tmp_path / "other-name")


def to_pipe(path: Path, tmp_path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def to_socket(path: Path, tmp_path: Path) -> None:
    path.unlink()
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's name is short
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(here)


def to_folder(path: Path, tmp_path: Path) -> None:
    path.unlink()
    path.mkdir()


def to_device(path: Path, tmp_path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def to_sparse_giant(path: Path, tmp_path: Path) -> None:
    os.truncate(path, 1 << 40)


@pytest.mark.parametrize(
    "change",
    [to_symbolic_link, to_hard_link, to_pipe, to_socket, to_folder, to_device, to_sparse_giant],
)
def test_what_is_no_plain_file_is_refused_without_reading_it(
    folder: Path, tmp_path: Path, change: Callable[[Path, Path], None]
) -> None:
    for name in ("manifest.json", "model.onnx", "signatures/deploy.json"):
        copy = tmp_path / f"copy-{name.replace('/', '-')}"
        beside = tmp_path / f"beside-{name.replace('/', '-')}"
        shutil.copytree(folder, copy)
        beside.mkdir()
        change(copy / name, beside)
        assert refuse(copy).code in REFUSED


def test_a_linked_release_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    refused = refuse(tmp_path / "link")
    assert refused.code is ErrorCode.RELEASE_STRUCTURE
    assert (refused.got, refused.hint) == ("a symbolic link", "Give the folder itself.")
    signatures = folder / "signatures"
    signatures.rename(tmp_path / "elsewhere")
    signatures.symlink_to(tmp_path / "elsewhere")
    assert refuse(folder).code is ErrorCode.RELEASE_STRUCTURE


def test_a_release_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(SentinelError) as caught:
        load(tmp_path / "none")
    assert caught.value.code is ErrorCode.RELEASE_MISSING
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SentinelError) as caught:
        load(tmp_path / "file")
    assert caught.value.code is ErrorCode.RELEASE_STRUCTURE
    (tmp_path / "empty").mkdir()
    with pytest.raises(SentinelError) as caught:
        load(tmp_path / "empty")
    assert (caught.value.code, caught.value.at) == (ErrorCode.RELEASE_STRUCTURE, "manifest.json")


def rebuild(folder: Path, **changes: bytes) -> None:
    """Forge: change files and write a manifest that fits them, with every signature anew."""
    contents = read_folder(folder)
    files = {**contents.files, **changes}
    manifest = msgspec.structs.replace(contents.manifest, files=entries(files))
    shutil.rmtree(folder)
    statement = approve(manifest, BUILDER, role=Role.BUILD, terms=Terms(issued_at_ms=NOW_MS))
    write_release(folder, Contents(manifest, files, {"build.json": statement}))


def test_files_and_signatures_of_another_release_are_refused(folder: Path, tmp_path: Path) -> None:
    """Swapped one by one, each is refused: every file belongs to one manifest."""
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    contents = read_folder(other)
    manifest = msgspec.structs.replace(contents.manifest, version="1.2.1", created_at_ms=1)
    policy = canonical_json(
        {**msgspec.json.decode(contents.files["policy.json"]), "canary_every_s": 30.0}
    )
    files = {**contents.files, "policy.json": policy}
    manifest = msgspec.structs.replace(manifest, files=entries(files))
    shutil.rmtree(other)
    statement = approve(manifest, BUILDER, role=Role.BUILD, terms=Terms(issued_at_ms=NOW_MS))
    write_release(other, Contents(manifest, files, {"build.json": statement}))
    approve_all(other)
    load(other)
    for path in files_of(folder):
        name = path.relative_to(folder)
        theirs, ours = (other / name).read_bytes(), path.read_bytes()
        if theirs == ours:
            continue
        path.write_bytes(theirs)
        assert refuse(folder).code in REFUSED, name
        path.write_bytes(ours)
    load(folder)


PAYLOADS = {
    "pickle": b"\x80\x04\x95\x1e" + b"\0" * 7 + b"\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R.",
    "zip": None,
    "elf": b"\x7fELF\x02\x01\x01" + b"\0" * 57,
    "python": b"import os\nos.system('id')\n",
    "numpy": b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
    "notebook": b'{"cells":[],"metadata":{},"nbformat":4,"nbformat_minor":5}',
    "shell": b"#!/bin/sh\nid\n",
    "html": b"<html>404 Not Found</html>",
    "empty object": b"{}",
    "null": b"null",
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "nan": b"[NaN]",
    "infinite": b"[1e999]",
    "surrogate": b'["\\ud800"]',
    "not UTF-8": b'["\xff"]',
    "duplicate key": b'{"a":1,"a":2}',
}


@pytest.mark.parametrize("what", PAYLOADS)
def test_foreign_content_under_an_allowed_name_is_refused_by_what_it_is(
    folder: Path, tmp_path: Path, what: str
) -> None:
    """Even where the manifest fits it: content is judged, not the name."""
    content = PAYLOADS[what]
    if content is None:
        with zipfile.ZipFile(tmp_path / "z", "w") as archive:
            archive.writestr("archive/data.pkl", PAYLOADS["pickle"] or b"")
        content = (tmp_path / "z").read_bytes()
    for name in [path.name for path in files_of(folder) if path.parent == folder]:
        if name == "manifest.json":
            continue
        copy = tmp_path / f"copy-{name}"
        shutil.copytree(folder, copy)
        rebuild(copy, **{name: content})
        with pytest.raises(SentinelError) as caught:
            verify_release(copy, None, now_ms=NOW_MS)
        assert not str(caught.value).startswith("internal"), name


def test_parts_of_two_releases_do_not_fit_even_under_a_manifest_of_their_own(folder: Path) -> None:
    """A forged manifest over files that do not belong together: identities are held too."""
    contents = read_folder(folder)
    features = msgspec.json.decode(contents.files["features.json"])
    features["features"][1]["over"] = "2h"
    rebuild(folder, **{"features.json": canonical_json(features)})
    with pytest.raises(SentinelError) as caught:
        verify_release(folder, None, now_ms=NOW_MS)
    assert caught.value.code in {ErrorCode.FEATURE_INVALID, ErrorCode.RELEASE_CORRUPT}


def test_a_gate_that_nobody_asked_counts_as_failed(folder: Path) -> None:
    """A report without its worst line does not make a release better."""
    report = msgspec.json.decode(read_folder(folder).files["gates.json"])
    report["gates"] = [gate for gate in report["gates"] if gate["name"] != "parity"]
    rebuild(folder, **{"gates.json": canonical_json(report)})
    assert verify_release(folder, None, now_ms=NOW_MS).gates.failed == ("parity",)
    with pytest.raises(SentinelError) as caught:
        approve_release(folder, DATA, role=Role.DATA, terms=Terms(issued_at_ms=NOW_MS))
    assert caught.value.code is ErrorCode.RELEASE_GATE_FAILED


def test_the_gates_that_approval_asks_for_are_the_gates_that_exist() -> None:
    assert {gate.__name__ for gate in GATES} == GATES_REQUIRED


def test_files_that_change_while_they_are_read_are_refused_or_were_read_whole(folder: Path) -> None:
    """The bytes verified are the bytes loaded: a thread flips a byte of the model all the while."""
    path = folder / "model.onnx"
    good = path.read_bytes()
    bad = bytearray(good)
    bad[len(bad) // 2] ^= 0x10
    stop = threading.Event()

    def flip() -> None:
        with path.open("r+b", buffering=0) as file:
            while not stop.is_set():
                for content in (bad, good):
                    file.seek(0)
                    file.write(content)

    thread = threading.Thread(target=flip)
    thread.start()
    n_loaded, codes = 0, []
    try:
        for _ in range(200):
            try:
                loaded = verify_release(folder, None, now_ms=NOW_MS)
            except SentinelError as error:
                codes.append(error.code)
            else:
                assert loaded.parts.champion == good
                n_loaded += 1
    finally:
        stop.set()
        thread.join()
    assert n_loaded + len(codes) == 200
    assert set(codes) <= {ErrorCode.RELEASE_CORRUPT}


def test_what_is_loaded_no_longer_depends_on_the_folder(folder: Path) -> None:
    loaded = load(folder)
    shutil.rmtree(folder)
    from sentinel.release.reproduction import open_path

    path = open_path(
        features=loaded.parts.plan.features.to_data(),
        model=loaded.parts.champion,
        fallback=loaded.parts.fallback.to_data(),
        policy=loaded.parts.policy.to_data(),
    )
    events = path.decode(RawBatch.from_events(raw_events()[:64]))
    scores = path.champion(path.features(events).values)
    assert np.array_equal(scores, loaded.parts.canary.event_scores)


def test_an_unapproved_release_is_read_only_when_asked_and_says_so(folder: Path) -> None:
    (folder / "signatures" / "deploy.json").unlink()
    with pytest.raises(SentinelError) as caught:
        load(folder)
    assert caught.value.code is ErrorCode.RELEASE_NOT_APPROVED
    assert DEPLOY.person in caught.value.expected
    loaded = load_release(folder, trust(), now_ms=NOW_MS, allow_unapproved=True)
    assert loaded.standing is Standing.UNAPPROVED
    assert "NOT APPROVED" in loaded.standing


def test_a_release_without_any_signature_can_be_looked_at(folder: Path) -> None:
    shutil.rmtree(folder / "signatures")
    assert verify_release(folder, None, now_ms=NOW_MS).standing is Standing.UNAPPROVED
    faults = [
        str(fault) for fault in verify_release(folder, trust(), now_ms=NOW_MS).judgement.faults
    ]
    assert [fault.split(":")[0] for fault in faults] == ["build", "data", "weights", "deploy"]
