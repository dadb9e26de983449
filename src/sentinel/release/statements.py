"""Signed statements: one person, one sentence, one release.

A statement is an in-toto Statement (v1) in a DSSE envelope (Dead Simple Signing Envelope, v1.0.2).
Its subject is the digest of the manifest; its predicate says what is stated, by whom, with which
sequence number, and from when until when. Payload and envelope are canonical JSON, base64 is in
its one canonical form, there is exactly one signature, and the key id is the public key: so any
changed bit is found, with or without a trust file at hand.
"""

from __future__ import annotations

import base64
import binascii
from typing import TypeVar

import msgspec

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.hashing import canonical_json
from sentinel.release.keys import (
    DEMO_PREFIX,
    SigningKey,
    check_person,
    check_public_key,
    is_signed_by,
)
from sentinel.release.manifest import Manifest
from sentinel.release.trust import Role

PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "urn:sentinel:release-statement:v1"
_INT64_MAX = (1 << 63) - 1
T = TypeVar("T", "_Payload", "_Envelope")


class Statement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one person says about one release.

    Attributes
    ----------
    role : Role
        What is said.
    person : str
        By whom.
    key_id : str
        Public key, 64 hexadecimal digits.
    sequence : int
        Grows with every deployment; an older number than the last one deployed is a rollback.
    issued_at_ms, expires_at_ms : int
        ``[issued, expires)``, milliseconds since the epoch.
    note : str
        What the person wants to be remembered, at most 256 characters.
    """

    role: Role
    person: str
    key_id: str
    sequence: int
    issued_at_ms: int
    expires_at_ms: int
    note: str = ""

    @property
    def is_demo(self) -> bool:
        """Whether the signer is a demo key, which proves nothing."""
        return self.person.startswith(DEMO_PREFIX)


class _Digest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sha256: str


class _Subject(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    digest: _Digest


class _Payload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type_: str = msgspec.field(name="_type")
    subject: tuple[_Subject, ...]
    predicate_type: str = msgspec.field(name="predicateType")
    predicate: Statement


class _Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keyid: str
    sig: str


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    payload: str
    payload_type: str = msgspec.field(name="payloadType")
    signatures: tuple[_Signature, ...]


def pae(payload_type: str, payload: bytes) -> bytes:
    """Encode what is signed (DSSE pre-authentication encoding).

    Examples
    --------
    >>> pae("a/b", b"hi")
    b'DSSEv1 3 a/b 2 hi'
    """
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def sign(statement: Statement, manifest: Manifest, key: SigningKey) -> bytes:
    """Sign a statement about a release; returns the envelope, the same bytes for the same input.

    Raises
    ------
    SentinelError
        ``release-signature-invalid`` when the statement does not name the key and its person.
    """
    if (statement.key_id, statement.person) != (key.key_id, key.person):
        raise _invalid(
            f"signatures/{statement.role}.json", "the signer's own name and key", "other"
        )
    subject = _Subject(manifest.label, _Digest(manifest.digest))
    payload = canonical_json(
        msgspec.to_builtins(_Payload(_STATEMENT_TYPE, (subject,), _PREDICATE_TYPE, statement))
    )
    signature = base64.b64encode(key.sign(pae(PAYLOAD_TYPE, payload))).decode()
    envelope = _Envelope(
        base64.b64encode(payload).decode(), PAYLOAD_TYPE, (_Signature(key.key_id, signature),)
    )
    content = canonical_json(msgspec.to_builtins(envelope))
    read(content, manifest, role=statement.role)  # what is written can be read
    return content


def read(content: bytes, manifest: Manifest, *, role: Role) -> Statement:
    """Read a statement and check that it is whole, of this release, and by the key it names.

    Whether that key may say so is for :mod:`sentinel.release.approvals`.

    Raises
    ------
    SentinelError
        ``release-signature-invalid`` at the first thing that is wrong.
    """
    at = f"signatures/{role}.json"
    if len(content) > limits.SIGNATURE_BYTES_MAX:
        raise _invalid(at, f"at most {limits.SIGNATURE_BYTES_MAX} bytes", len(content))
    envelope = _decode(content, _Envelope, at)
    if envelope.payload_type != PAYLOAD_TYPE or len(envelope.signatures) != 1:
        raise _invalid(at, f"one signature over {PAYLOAD_TYPE}", envelope.payload_type)
    payload = _base64(envelope.payload, at)
    parsed = _decode(payload, _Payload, at)
    if (parsed.type_, parsed.predicate_type) != (_STATEMENT_TYPE, _PREDICATE_TYPE):
        raise _invalid(at, "a release statement", parsed.predicate_type)
    subject = _Subject(manifest.label, _Digest(manifest.digest))
    if parsed.subject != (subject,):
        found = parsed.subject[0].digest.sha256 if parsed.subject else "none"
        raise _invalid(at, f"a statement about {manifest.digest[:16]}…", f"{found[:16]}…")
    statement = parsed.predicate
    if statement.role is not role:
        raise _invalid(at, f"a statement of kind {role}", statement.role)
    _check_statement(statement, at)
    named = envelope.signatures[0]
    if named.keyid != statement.key_id:
        raise _invalid(at, "one and the same key", named.keyid)
    if not is_signed_by(named.keyid, _base64(named.sig, at), pae(PAYLOAD_TYPE, payload)):
        raise _invalid(at, f"a signature by key {named.keyid[:16]}…", "another one")
    return statement


def _check_statement(statement: Statement, at: str) -> None:
    try:
        check_public_key(statement.key_id, at=at)
        check_person(statement.person)
    except SentinelError as error:
        raise _invalid(at, error.expected, error.got) from error
    if not 1 <= statement.sequence <= _INT64_MAX:
        raise _invalid(at, "a sequence number from 1", statement.sequence)
    if not 0 <= statement.issued_at_ms < statement.expires_at_ms <= _INT64_MAX:
        raise _invalid(at, "an expiry after the issue", statement.expires_at_ms)
    if len(statement.note) > limits.MODEL_TEXT_BYTES_MAX:
        raise _invalid(at, "a short note", f"{len(statement.note)} characters")


def _decode(content: bytes, kind: type[T], at: str) -> T:
    try:
        value = msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _invalid(at, "a signed statement", error) from error
    if canonical_json(msgspec.to_builtins(value)) != content:
        raise _invalid(at, "canonical JSON", "another way to write it")
    return value


def _base64(text: str, at: str) -> bytes:
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _invalid(at, "base64", error) from error
    if base64.b64encode(content).decode() != text:
        raise _invalid(at, "canonical base64", "another way to write it")
    return content


def _invalid(at: str, expected: str, got: object) -> SentinelError:
    return SentinelError(ErrorCode.RELEASE_SIGNATURE_INVALID, at=at, expected=expected, got=got)
