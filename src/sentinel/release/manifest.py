"""The manifest: what a release consists of, byte by byte, and where it comes from.

The manifest is canonical JSON (:mod:`sentinel.core.hashing`). Its digest, the SHA-256 of its
bytes, is the identity of the release: approvals are signed over it, decisions carry it.

Round-trip law
--------------
For every manifest m: ``Manifest.decode(m.encode()) == m``; and for all bytes b that decode,
``Manifest.decode(b).encode() == b``. So there is exactly one way to write a manifest, and a
manifest with a duplicate key, another order, a trailing space or an unknown field is none.

This module reads no file and no clock.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence

import msgspec

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.hashing import canonical_json, sha256_hex

FORMAT = 1
MANIFEST_NAME = "manifest.json"
SIGNATURES_NAME = "signatures"

# Files that a release of format 1 must have, and those that it may have.
FILES_REQUIRED = frozenset(
    {
        "canary.json",
        "contract.json",
        "fallback.json",
        "features.json",
        "gates.json",
        "model.onnx",
        "policy.json",
        "reference.json",
    }
)
FILES_OPTIONAL = frozenset({"explanation.json", "feature_set.json", "profile.json"})

_FILE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_VERSION = re.compile(r"[0-9]+(\.[0-9]+){0,3}(-[a-z0-9]+)?")


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One file of a release.

    Attributes
    ----------
    name : str
        Plain file name: lower-case ASCII letters, digits, dot, hyphen, underscore.
    sha256 : str
        64 lower-case hexadecimal digits.
    n_bytes : int
    """

    name: str
    sha256: str
    n_bytes: int


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where a release comes from.

    Attributes
    ----------
    git_commit, data_sha256, environment_sha256 : str
    seeds, hyper_parameters, library_versions, n_rows : dict
        As in :class:`sentinel.release.candidate.Provenance`.
    parents : tuple of str
        Digests of the releases that this one was made from.
    """

    git_commit: str
    data_sha256: str
    environment_sha256: str
    seeds: dict[str, int]
    hyper_parameters: dict[str, str | int | float | bool]
    library_versions: dict[str, str]
    n_rows: dict[str, int]
    parents: tuple[str, ...]


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a release reads and computes, by hash.

    Attributes
    ----------
    contract, feedback : str
        ``name@version`` of the contracts; ``feedback`` is empty where there is none.
    contract_sha256, feedback_sha256 : str
        Their schema hashes; the second is empty where there is no feedback.
    features : str
        ``name@version`` of the feature set.
    features_sha256 : str
        Identity of the feature set, encodings included.
    """

    contract: str
    contract_sha256: str
    feedback: str
    feedback_sha256: str
    features: str
    features_sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a release is.

    Attributes
    ----------
    format : int
        Layout of the folder; 1 today. Read before anything else.
    name, version : str
        Of the pipeline.
    created_at_ms : int
        Milliseconds since the epoch, UTC, by the builder's clock.
    built_with : str
        Version of Sentinel.
    identity : Identity
    origin : Origin
    files : tuple of FileEntry
        Ascending by name, manifest and signatures left out.
    """

    format: int
    name: str
    version: str
    created_at_ms: int
    built_with: str
    identity: Identity
    origin: Origin
    files: tuple[FileEntry, ...]

    def encode(self) -> bytes:
        """Write the manifest in its one canonical form."""
        return canonical_json(msgspec.to_builtins(self))

    @property
    def digest(self) -> str:
        """The identity of the release: SHA-256 of the canonical manifest."""
        return sha256_hex(self.encode())

    @property
    def label(self) -> str:
        """``name@version``, for people."""
        return f"{self.name}@{self.version}"

    @classmethod
    def decode(cls, content: bytes) -> Manifest:
        """Read a manifest that came from outside.

        Raises
        ------
        SentinelError
            ``release-corrupt`` for anything that is not a manifest in canonical form;
            ``release-format-unknown`` for the layout of another time;
            ``release-structure`` for a list of files that cannot be a release.
        """
        if len(content) > limits.MANIFEST_BYTES_MAX:
            raise _corrupt(f"at most {limits.MANIFEST_BYTES_MAX} bytes", len(content))
        _check_format(content)
        try:
            manifest = msgspec.json.decode(content, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _corrupt("the fields of a manifest with their types", error) from error
        _check_plain(manifest)
        # Canonical means canonical: this also refuses duplicate keys, which parsers overlook.
        if manifest.encode() != content:
            raise _corrupt("canonical JSON", "another way to write it")
        check_files(manifest.files)
        return manifest

    def check(self, contents: Mapping[str, bytes]) -> None:
        """Hold file contents against the manifest: the same set of names, sizes and hashes.

        Parameters
        ----------
        contents : mapping of str to bytes
            Every file of the folder but the manifest and the signatures.

        Raises
        ------
        SentinelError
            ``release-structure`` for a file too many or too few; ``release-corrupt`` at the
            first file that is another one.
        """
        named = {entry.name for entry in self.files}
        for name in sorted(contents.keys() - named):
            raise _structure(name, "a file that the manifest names", "an extra file")
        for name in sorted(named - contents.keys()):
            raise _structure(name, "a file", "nothing")
        for entry in self.files:
            content = contents[entry.name]
            if len(content) != entry.n_bytes:
                raise _corrupt(f"{entry.n_bytes} bytes", len(content), at=entry.name)
            if (found := sha256_hex(content)) != entry.sha256:
                raise _corrupt(f"SHA-256 {entry.sha256[:16]}…", f"{found[:16]}…", at=entry.name)


def entries(contents: Mapping[str, bytes]) -> tuple[FileEntry, ...]:
    """Describe file contents for a manifest, ascending by name."""
    return tuple(
        FileEntry(name=name, sha256=sha256_hex(content), n_bytes=len(content))
        for name, content in sorted(contents.items())
    )


def check_name(name: str) -> None:
    """Refuse a file name that could mean two things on some file system.

    Raises
    ------
    SentinelError
        ``release-structure``.

    Examples
    --------
    >>> check_name("model.onnx")
    """
    plain = (
        len(name) <= limits.RELEASE_NAME_CHARACTERS_MAX
        and _FILE_NAME.fullmatch(name) is not None
        and ".." not in name
        and unicodedata.is_normalized("NFC", name)
    )
    if not plain:
        raise _structure(name, "a plain lower-case file name", "another kind of name")


def check_files(files: Sequence[FileEntry]) -> None:
    """Refuse a list of files that cannot be a release of this format.

    Raises
    ------
    SentinelError
        ``release-structure`` at the first entry that is wrong.
    """
    if len(files) > limits.RELEASE_FILES_MAX:
        raise _structure(MANIFEST_NAME, f"at most {limits.RELEASE_FILES_MAX} files", len(files))
    names = [entry.name for entry in files]
    for entry in files:
        check_name(entry.name)
        if _DIGEST.fullmatch(entry.sha256) is None:
            raise _corrupt("64 hexadecimal digits", entry.sha256, at=entry.name)
        if not 0 < entry.n_bytes <= limits.RELEASE_FILE_BYTES_MAX:
            expected = f"1 to {limits.RELEASE_FILE_BYTES_MAX} bytes"
            raise _structure(entry.name, expected, entry.n_bytes)
    if names != sorted(set(names)):
        raise _structure(MANIFEST_NAME, "each file once, in order", names)
    total = sum(entry.n_bytes for entry in files)
    if total > limits.RELEASE_BYTES_MAX:
        raise _structure(MANIFEST_NAME, f"at most {limits.RELEASE_BYTES_MAX} bytes", total)
    for name in sorted(FILES_REQUIRED - set(names)):
        raise _structure(name, "an entry in the manifest", "none")
    for name in sorted(set(names) - FILES_REQUIRED - FILES_OPTIONAL):
        raise _structure(name, "a file that releases of this format have", "an unknown one")


def check_release_name(name: str, version: str) -> None:
    """Refuse a name or version that could not name a folder.

    Raises
    ------
    SentinelError
        ``release-structure``.
    """
    longest = limits.RELEASE_NAME_CHARACTERS_MAX
    if len(name) > longest or _NAME.fullmatch(name) is None or ".." in name:
        raise _structure("name", "lower-case letters, digits, dots, hyphens", name)
    if len(version) > longest or _VERSION.fullmatch(version) is None:
        raise _structure("version", "numbers with dots, such as 2.5.0", version)


class _FormatOnly(msgspec.Struct):
    format: int


def _check_format(content: bytes) -> None:
    """Look at the layout number first, so that a newer layout is named and not called corrupt."""
    try:
        found = msgspec.json.decode(content, type=_FormatOnly).format
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _corrupt("a JSON object with a format", error) from error
    if found != FORMAT:
        raise SentinelError(
            ErrorCode.RELEASE_FORMAT_UNKNOWN, at=MANIFEST_NAME, expected=f"{FORMAT}", got=found
        )


def _check_plain(manifest: Manifest) -> None:
    check_release_name(manifest.name, manifest.version)
    origin, identity = manifest.origin, manifest.identity
    digests = {
        "identity.contract_sha256": identity.contract_sha256,
        "identity.features_sha256": identity.features_sha256,
        "origin.data_sha256": origin.data_sha256,
        "origin.environment_sha256": origin.environment_sha256,
    }
    digests |= {f"origin.parents[{i}]": parent for i, parent in enumerate(origin.parents)}
    for at, value in digests.items():
        if _DIGEST.fullmatch(value) is None:
            raise _corrupt("64 hexadecimal digits", value, at=f"{MANIFEST_NAME}: {at}")
    if manifest.created_at_ms < 0:
        raise _corrupt("a time after 1970", manifest.created_at_ms)


def _structure(at: str, expected: str, got: object) -> SentinelError:
    return SentinelError(ErrorCode.RELEASE_STRUCTURE, at=at, expected=expected, got=got)


def _corrupt(expected: str, got: object, *, at: str = MANIFEST_NAME) -> SentinelError:
    return SentinelError(ErrorCode.RELEASE_CORRUPT, at=at, expected=expected, got=got)
