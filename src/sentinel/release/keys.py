"""Ed25519 keys (RFC 8032): the private one in a file of its own, the public one as its own name.

A key's id is the key: the 64 hexadecimal digits of the 32 public bytes. So a signature can be
checked for wholeness before anybody is trusted; who the key belongs to is the trust file's word.

Refused as public keys are encodings that are not canonical (RFC 8032, 5.1.3) and points of small
order, with which one signature fits many messages.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.files import read_bounded, read_secret

KEY_BYTES = 32
SIGNATURE_BYTES = 64
# Everybody who sees a demo key's name must see what it is.
DEMO_PREFIX = "DEMO KEY "
_FIELD_PRIME = 2**255 - 19
_KEY_ID = re.compile(r"[0-9a-f]{64}")
_PERSON = re.compile(r"[^\x00-\x1f\x7f]+")
# y coordinates of the points whose order divides 8: of order 4, 1, 2, and twice 8.
_ORDER_8_Y = 2707385501144840649318225287225658788936804267575313519463743609750303402022
_SMALL_ORDER_Y = frozenset({0, 1, _FIELD_PRIME - 1, _ORDER_8_Y, _FIELD_PRIME - _ORDER_8_Y})


class _KeyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    format: int
    person: str
    demo: bool
    private: str


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A person's private key.

    Attributes
    ----------
    person : str
        Who signs with it; starts with ``DEMO KEY`` for a key that anybody could have made.
    key_id : str
        The public key, 64 hexadecimal digits.
    """

    person: str
    key_id: str
    private: Ed25519PrivateKey = field(repr=False)

    @property
    def is_demo(self) -> bool:
        """Whether this key proves nothing about anybody."""
        return self.person.startswith(DEMO_PREFIX)

    def sign(self, message: bytes) -> bytes:
        """Sign; 64 bytes, the same for the same message."""
        return self.private.sign(message)

    @classmethod
    def from_seed(cls, seed: bytes, *, person: str) -> SigningKey:
        """Make a key from 32 secret bytes.

        Raises
        ------
        SentinelError
            ``key-invalid``.
        """
        check_person(person)
        if len(seed) != KEY_BYTES:
            raise _invalid("key.private", f"{KEY_BYTES} bytes", f"{len(seed)}")
        private = Ed25519PrivateKey.from_private_bytes(seed)
        return cls(person, private.public_key().public_bytes_raw().hex(), private)


def create_key(path: Path, *, person: str, is_demo: bool = False) -> SigningKey:
    """Make a new key and store it, readable by its owner alone; an existing file stays.

    Raises
    ------
    SentinelError
        ``key-invalid`` for a name that is none, or a file that stands there already.
    """
    shown = f"{DEMO_PREFIX}{person}" if is_demo else person
    if not is_demo and person.upper().startswith(DEMO_PREFIX.strip()):
        raise _invalid("key.person", "the name of a person", person)
    seed = os.urandom(KEY_BYTES)
    key = SigningKey.from_seed(seed, person=shown)
    data = _KeyFile(format=1, person=shown, demo=is_demo, private=base64.b64encode(seed).decode())
    content = msgspec.json.format(msgspec.json.encode(data), indent=2) + b"\n"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        handle = os.open(path, flags, 0o600)
    except OSError as error:
        raise _invalid(str(path), "a new file", error.strerror or error) from error
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(handle)
    return key


def load_key(path: Path) -> SigningKey:
    """Read a key file.

    Raises
    ------
    SentinelError
        ``file-missing``, ``file-unreadable``; ``file-exposed`` when others may read the file;
        ``key-invalid`` when it is no key file.
    """
    n_max = limits.SIGNATURE_BYTES_MAX
    try:
        content = read_secret(path, n_bytes_max=n_max, group_may_read=False)
    except SentinelError as error:
        if error.code is ErrorCode.FILE_EXPOSED:
            # Whose file it is matters only where it is a key.
            _decode(path, read_bounded(path, n_bytes_max=n_max, may_be_link=True))
        raise
    data, seed = _decode(path, content)
    if data.format != 1 or data.demo != data.person.startswith(DEMO_PREFIX):
        raise _invalid(str(path), "a key file of format 1", "another one")
    return SigningKey.from_seed(seed, person=data.person)


def _decode(path: Path, content: bytes) -> tuple[_KeyFile, bytes]:
    """Read what a key file holds, and its seed."""
    try:
        data = msgspec.json.decode(content, type=_KeyFile)
        return data, base64.b64decode(data.private, validate=True)
    except (msgspec.DecodeError, binascii.Error, UnicodeDecodeError):
        # The error's own text could quote the secret.
        raise SentinelError(
            ErrorCode.KEY_INVALID,
            at=str(path),
            expected="an Ed25519 private key as `sentinel release key` writes it",
            got="a PEM file" if content.startswith(b"-----BEGIN ") else "another file",
            hint="Make one: sentinel release key FILE --person NAME --role ROLE",
        ) from None


def check_person(person: str) -> None:
    """Refuse a name that could not be shown on one line.

    Raises
    ------
    SentinelError
        ``key-invalid``.
    """
    n_max = limits.RELEASE_NAME_CHARACTERS_MAX
    if _PERSON.fullmatch(person) is None or len(person) > n_max or person.strip() != person:
        raise _invalid("key.person", f"a name of 1 to {n_max} printable characters", person)


def check_public_key(key_id: str, *, at: str) -> None:
    """Refuse what is not one canonical point of large order.

    Raises
    ------
    SentinelError
        ``key-invalid``.

    Examples
    --------
    >>> check_public_key("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", at="k")
    """
    if _KEY_ID.fullmatch(key_id) is None:
        raise _invalid(at, "64 lower-case hexadecimal digits", key_id)
    y = int.from_bytes(bytes.fromhex(key_id), "little") & ((1 << 255) - 1)
    if y >= _FIELD_PRIME:
        raise _invalid(at, "the canonical encoding of a point", key_id)
    if y in _SMALL_ORDER_Y:
        raise _invalid(at, "a point of large order", key_id)


def is_signed_by(key_id: str, signature: bytes, message: bytes) -> bool:
    """Whether a signature is the key's over the message; strict as RFC 8032, 5.1.7.

    OpenSSL refuses ``S`` at or above the group order, so a signature cannot be bent into a second
    valid one; the length is checked here.
    """
    if len(signature) != SIGNATURE_BYTES:
        return False
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key_id))
        key.verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _invalid(at: str, expected: str, got: object) -> SentinelError:
    return SentinelError(ErrorCode.KEY_INVALID, at=at, expected=expected, got=got)
