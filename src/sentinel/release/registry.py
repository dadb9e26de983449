"""A folder of releases, and which of them is deployed.

Layout::

    registry/
      payments/
        1.2.0/          a release folder; never changes, but for added signatures
        current.json    name of the deployed version, its digest, its sequence number

``current.json`` is replaced atomically: a reader, or a crash, sees the old deployment or the new
one. Its sequence number never goes back: deploying an older release again needs a new approval.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.files import inside, read_bounded, write_atomically
from sentinel.core.hashing import canonical_json
from sentinel.release.build import write_release
from sentinel.release.folder import read_folder
from sentinel.release.load import LoadedRelease, load_release
from sentinel.release.manifest import Manifest, check_release_name
from sentinel.release.trust import Role, Trust

CURRENT_NAME = "current.json"


class Current(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is deployed.

    Attributes
    ----------
    version : str
    digest : str
        Of the manifest.
    sequence : int
        Of the deployment's approval; the next one may not be below it.
    """

    version: str
    digest: str
    sequence: int


@dataclass(frozen=True, slots=True)
class Registry:
    """A folder of releases.

    Attributes
    ----------
    folder : Path
    """

    folder: Path

    def path(self, name: str, version: str) -> Path:
        """Return where a release stands, or would stand.

        Raises
        ------
        SentinelError
            ``release-structure`` for a name or version that could lead elsewhere.
        """
        check_release_name(name, version)
        return inside(self.folder, f"{name}/{version}")

    def install(self, source: Path) -> Path:
        """Copy a release into the registry: verified bytes, whole or absent.

        Raises
        ------
        SentinelError
            What reading the source raises; ``release-exists`` for another release of this version.
        """
        contents = read_folder(source)
        target = self.path(contents.manifest.name, contents.manifest.version)
        write_release(target, contents)
        return target

    def versions(self, name: str) -> tuple[str, ...]:
        """List the versions of a release, lowest first; half-written ones are not among them."""
        check_release_name(name, "0")
        folder = inside(self.folder, name)
        if not folder.is_dir():
            return ()
        found = []
        for path in folder.iterdir():
            if _is_version(name, path.name) and path.is_dir() and not path.is_symlink():
                found.append(path.name)
            if len(found) > limits.REGISTRY_RELEASES_MAX:
                raise SentinelError(
                    ErrorCode.RELEASE_STRUCTURE,
                    at=str(folder),
                    expected=f"at most {limits.REGISTRY_RELEASES_MAX} releases",
                    got="more",
                )
        return tuple(sorted(found, key=_order))

    def manifest(self, name: str, version: str) -> Manifest:
        """Read and check one release's bytes; return its manifest."""
        return read_folder(self.path(name, version)).manifest

    def current(self, name: str) -> Current | None:
        """Return what is deployed; None before the first deployment.

        Raises
        ------
        SentinelError
            ``release-corrupt`` when the file is not what was written.
        """
        path = self.path(name, "0").parent / CURRENT_NAME
        if not path.exists():
            return None
        try:
            content = read_bounded(path, n_bytes_max=limits.SIGNATURE_BYTES_MAX)
            return msgspec.json.decode(content, type=Current)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise SentinelError(
                ErrorCode.RELEASE_CORRUPT, at=str(path), expected="a deployment", got=error
            ) from error

    def deploy(self, name: str, version: str, trust: Trust, *, now_ms: int) -> LoadedRelease:
        """Make an approved release the current one.

        Raises
        ------
        SentinelError
            What :func:`sentinel.release.load.load_release` raises; among it
            ``release-not-approved`` for a sequence number below that of the last deployment.
        """
        before = self.current(name)
        loaded = load_release(
            self.path(name, version),
            trust,
            now_ms=now_ms,
            sequence_min=before.sequence if before else 0,
        )
        deployed = Current(
            version=version,
            digest=loaded.digest,
            sequence=loaded.judgement.statements[Role.DEPLOY].sequence,
        )
        if before is not None and before.sequence == deployed.sequence and before != deployed:
            raise SentinelError(
                ErrorCode.RELEASE_NOT_APPROVED,
                at=f"{name}@{version}: deploy",
                expected=f"a sequence above {before.sequence}, which {before.version} has",
                got=deployed.sequence,
            )
        path = self.path(name, version).parent / CURRENT_NAME
        write_atomically(path, canonical_json(msgspec.to_builtins(deployed)))
        return loaded


def _is_version(name: str, version: str) -> bool:
    try:
        check_release_name(name, version)
    except SentinelError:
        return False
    return True


def _order(version: str) -> tuple[tuple[int, ...], bool, str]:
    """Order by numbers; a version with a suffix stands before the one without."""
    numbers, _, suffix = version.partition("-")
    return tuple(int(number) for number in numbers.split(".")), not suffix, suffix
