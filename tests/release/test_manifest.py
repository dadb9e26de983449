"""The manifest: one way to write it, and nothing else is one."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.release.manifest import (
    FILES_OPTIONAL,
    FILES_REQUIRED,
    FORMAT,
    FileEntry,
    Identity,
    Manifest,
    Origin,
    check_name,
    entries,
)

digests = st.text("0123456789abcdef", min_size=64, max_size=64)
words = st.text(max_size=12)
plain = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    words,
)
origins = st.builds(
    Origin,
    git_commit=words,
    data_sha256=digests,
    environment_sha256=digests,
    seeds=st.dictionaries(words, st.integers(-(2**63), 2**63 - 1), max_size=3),
    hyper_parameters=st.dictionaries(words, plain, max_size=4),
    library_versions=st.dictionaries(words, words, max_size=3),
    n_rows=st.dictionaries(words, st.integers(0, 10**12), max_size=3),
    parents=st.lists(digests, max_size=2).map(tuple),
)
identities = st.builds(
    Identity,
    contract=words,
    contract_sha256=digests,
    feedback=words,
    feedback_sha256=digests,
    features=words,
    features_sha256=digests,
)


@st.composite
def files(draw: st.DrawFn) -> tuple[FileEntry, ...]:
    names = sorted(FILES_REQUIRED | draw(st.sets(st.sampled_from(sorted(FILES_OPTIONAL)))))
    return tuple(
        FileEntry(name=name, sha256=draw(digests), n_bytes=draw(st.integers(1, 1 << 20)))
        for name in names
    )


manifests = st.builds(
    Manifest,
    format=st.just(FORMAT),
    name=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True),
    version=st.from_regex(r"[0-9]{1,4}(\.[0-9]{1,4}){0,2}", fullmatch=True),
    created_at_ms=st.integers(0, 2**53),
    built_with=words,
    identity=identities,
    origin=origins,
    files=files(),
)


def example() -> Manifest:
    identity = Identity(
        contract="payment@1",
        contract_sha256="a" * 64,
        feedback="",
        feedback_sha256="",
        features="payments@1",
        features_sha256="b" * 64,
    )
    origin = Origin(
        git_commit="c" * 40,
        data_sha256="d" * 64,
        environment_sha256="e" * 64,
        seeds={},
        hyper_parameters={"rate": 0.1},
        library_versions={},
        n_rows={},
        parents=(),
    )
    return Manifest(
        format=FORMAT,
        name="payments",
        version="1.0.0",
        created_at_ms=1,
        built_with="0.1.0",
        identity=identity,
        origin=origin,
        files=entries({name: name.encode() for name in FILES_REQUIRED}),
    )


def contents() -> dict[str, bytes]:
    return {name: name.encode() for name in FILES_REQUIRED}


@given(manifests)
def test_a_manifest_survives_being_written_and_read(manifest: Manifest) -> None:
    """The first half of the round-trip law."""
    assert Manifest.decode(manifest.encode()) == manifest


@given(manifests, st.data())
def test_bytes_that_decode_are_the_bytes_that_encode(
    manifest: Manifest, data: st.DataObject
) -> None:
    """The second half: a changed byte is refused, or was no change."""
    content = bytearray(manifest.encode())
    where = data.draw(st.integers(0, len(content) - 1))
    content[where] ^= data.draw(st.integers(1, 255))
    try:
        read = Manifest.decode(bytes(content))
    except SentinelError:
        return
    assert read.encode() == bytes(content)
    assert read != manifest


@given(st.binary(max_size=300))
def test_noise_is_refused_with_a_code(content: bytes) -> None:
    """Nothing else than a Sentinel error comes out of foreign bytes."""
    with pytest.raises(SentinelError) as caught:
        Manifest.decode(content)
    assert caught.value.code is ErrorCode.RELEASE_CORRUPT


WRITTEN_OTHERWISE = {
    "trailing space": lambda text: text + " ",
    "leading space": lambda text: " " + text,
    "duplicate key": lambda text: text.replace('"name":', '"name":"other","name":', 1),
    "duplicate file entry key": lambda text: text.replace(
        '"n_bytes":', '"n_bytes":1,"n_bytes":', 1
    ),
    "unknown field": lambda text: text.replace('"name":', '"nom":1,"name":', 1),
    "escaped letter": lambda text: text.replace("payments", "p\\u0061yments", 1),
    "float for integer": lambda text: text.replace('"created_at_ms":1', '"created_at_ms":1.0'),
    "infinite hyper-parameter": lambda text: text.replace('"rate":0.1', '"rate":1e999'),
    "not a number": lambda text: text.replace('"rate":0.1', '"rate":NaN'),
    "byte order mark": lambda text: "\ufeff" + text,
    "upper-case digest": lambda text: text.replace("a" * 64, "A" * 64, 1),
    "short digest": lambda text: text.replace("a" * 64, "a" * 63, 1),
    "cut": lambda text: text[:-1],
    "empty": lambda text: "",
    "deep": lambda text: "[" * 100_000,
    "huge": lambda text: text.replace(
        '"built_with":"0.1.0"', '"built_with":"' + "9" * limits.MANIFEST_BYTES_MAX + '"'
    ),
}


@pytest.mark.parametrize("how", WRITTEN_OTHERWISE)
def test_another_way_to_write_a_manifest_is_refused(how: str) -> None:
    text = WRITTEN_OTHERWISE[how](example().encode().decode())
    with pytest.raises(SentinelError) as caught:
        Manifest.decode(text.encode())
    assert caught.value.code is ErrorCode.RELEASE_CORRUPT
    assert caught.value.at.startswith("manifest.json")


def test_a_newer_layout_is_named_and_not_called_corrupt() -> None:
    text = example().encode().decode().replace('"format":1', '"format":2,"more":3')
    with pytest.raises(SentinelError) as caught:
        Manifest.decode(text.encode())
    assert caught.value.code is ErrorCode.RELEASE_FORMAT_UNKNOWN


BAD_NAMES = [
    "",
    ".",
    "..",
    "../model.onnx",
    "a/b",
    "/model.onnx",
    "c:model.onnx",
    "a\\b",
    "Model.onnx",
    "model.onnx\n",
    "mod\0el",
    "ｍodel.onnx",
    "modèl.onnx",
    ".hidden",
    "-flag",
    "a..b",
    "x" * 65,
    "model.onnx ",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_file_name_that_could_mean_two_things_is_refused(name: str) -> None:
    with pytest.raises(SentinelError) as caught:
        check_name(name)
    assert caught.value.code is ErrorCode.RELEASE_STRUCTURE


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_manifest_with_such_a_name_is_refused(name: str) -> None:
    manifest = example()
    renamed = (FileEntry(name=name, sha256="a" * 64, n_bytes=1), *manifest.files)
    content = msgspec.structs.replace(manifest, files=renamed).encode()
    with pytest.raises(SentinelError) as caught:
        Manifest.decode(content)
    assert caught.value.code is ErrorCode.RELEASE_STRUCTURE


def changed_files(how: str) -> tuple[FileEntry, ...]:
    listed = list(example().files)
    if how == "missing":
        return tuple(listed[1:])
    if how == "unknown":
        return (*listed, FileEntry(name="setup.py", sha256="a" * 64, n_bytes=1))
    if how == "twice":
        return tuple(sorted([*listed, listed[0]], key=lambda entry: entry.name))
    if how == "another order":
        return tuple(reversed(listed))
    if how == "empty file":
        return (msgspec.structs.replace(listed[0], n_bytes=0), *listed[1:])
    if how == "too large a file":
        return (
            msgspec.structs.replace(listed[0], n_bytes=limits.RELEASE_FILE_BYTES_MAX + 1),
            *listed[1:],
        )
    if how == "too large together":
        return tuple(
            msgspec.structs.replace(entry, n_bytes=limits.RELEASE_BYTES_MAX // 4)
            for entry in listed
        )
    return tuple(
        FileEntry(name=f"f{i}", sha256="a" * 64, n_bytes=1)
        for i in range(limits.RELEASE_FILES_MAX + 1)
    )


@pytest.mark.parametrize(
    "how",
    [
        "missing",
        "unknown",
        "twice",
        "another order",
        "empty file",
        "too large a file",
        "too large together",
        "too many",
    ],
)
def test_a_list_of_files_that_is_no_release_is_refused(how: str) -> None:
    content = msgspec.structs.replace(example(), files=changed_files(how)).encode()
    with pytest.raises(SentinelError) as caught:
        Manifest.decode(content)
    assert caught.value.code is ErrorCode.RELEASE_STRUCTURE


@pytest.mark.parametrize("name", ["", "A", "a b", "../a", "a/b", "a..b", "-a", "x" * 65])
def test_a_release_name_that_could_not_name_a_folder_is_refused(name: str) -> None:
    content = msgspec.structs.replace(example(), name=name).encode()
    with pytest.raises(SentinelError) as caught:
        Manifest.decode(content)
    assert caught.value.code is ErrorCode.RELEASE_STRUCTURE


def test_contents_are_held_against_the_manifest_file_by_file() -> None:
    manifest = example()
    manifest.check(contents())
    for name in FILES_REQUIRED:
        for changed, code in (
            ({**contents(), name: name.encode()[:-1] + b"!"}, ErrorCode.RELEASE_CORRUPT),
            ({**contents(), name: name.encode() + b"!"}, ErrorCode.RELEASE_CORRUPT),
            (
                {key: value for key, value in contents().items() if key != name},
                ErrorCode.RELEASE_STRUCTURE,
            ),
        ):
            with pytest.raises(SentinelError) as caught:
                manifest.check(changed)
            assert (caught.value.code, caught.value.at) == (code, name)
    with pytest.raises(SentinelError) as caught:
        manifest.check({**contents(), "extra": b"x"})
    assert (caught.value.code, caught.value.at) == (ErrorCode.RELEASE_STRUCTURE, "extra")


def test_the_digest_is_the_hash_of_the_file() -> None:
    import hashlib

    manifest = example()
    assert manifest.digest == hashlib.sha256(manifest.encode()).hexdigest()
    assert json.loads(manifest.encode())["name"] == "payments"
