"""Who may ask what: bearer tokens from a file, with scopes; and who asks on this machine.

::

    # tokens.toml, mode 0600
    format = 1

    [[token]]
    name = "checkout"
    secret = "…at least 32 characters…"      # or sha256 = "…64 hexadecimal digits…"
    scopes = ["score", "read"]

``score``: decide events, infer. ``read``: decisions and the release. ``operate``: all of these, and
what changes the server. Health and metadata of the Open Inference Protocol need no token, as probes
and clients expect.

Only hashes are kept. A given token is hashed and compared with every known hash, each in constant
time and all of them always, so time tells nothing about any of them.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import tomllib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.files import read_secret
from sentinel.serving.doors.http_message import HttpRequest
from sentinel.serving.settings import is_loopback


class Scope(enum.StrEnum):
    """What a token may do."""

    SCORE = "score"
    READ = "read"
    OPERATE = "operate"


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who is known.

    Attributes
    ----------
    name : str
    scopes : frozenset of Scope
    """

    name: str
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        """Whether this caller may do that."""
        return scope in self.scopes or Scope.OPERATE in self.scopes


class _Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    scopes: list[Scope]
    secret: str = ""
    sha256: str = ""


class _TokenFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    token: list[_Token]


class Access:
    """The tokens of one server.

    Parameters
    ----------
    callers : dict of bytes to Caller
        By SHA-256 of the token. Empty: everybody may do everything.
    """

    def __init__(self, callers: dict[bytes, Caller]) -> None:
        self._callers = callers
        self._own: tuple[bytes, Caller] | None = None

    @property
    def is_open(self) -> bool:
        """Whether no token is needed."""
        return not self._callers

    def replace(self, other: Access) -> None:
        """Take the tokens of another one; the server's own stays."""
        self._callers = other._callers

    def add_own(self, secret: str) -> None:
        """Add the token that the server itself uses at its own door."""
        caller = Caller("door-canary", frozenset({Scope.OPERATE}))
        self._own = (_hash(secret.encode()), caller)

    def identify(self, authorization: bytes) -> Caller | None:
        """Return who sent this ``Authorization``; None for nobody we know."""
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() != b"bearer" or not 0 < len(token) <= limits.TOKEN_CHARACTERS_MAX:
            return None
        given = _hash(token.strip())
        found = None
        known = list(self._callers.items()) + ([self._own] if self._own else [])
        for digest, caller in known:
            if hmac.compare_digest(digest, given):
                found = caller
        return found

    def require(self, authorization: bytes, scope: Scope) -> Caller | None:
        """Return who asks, or refuse.

        Returns
        -------
        Caller or None
            None where no token is needed and none was given.

        Raises
        ------
        SentinelError
            ``caller-unknown``, ``scope-missing``.
        """
        if self.is_open and not authorization:
            return None
        caller = self.identify(authorization) if authorization else None
        if caller is None:
            if self.is_open:
                return None
            raise SentinelError(
                ErrorCode.CALLER_UNKNOWN,
                at="authorization",
                expected="a bearer token of this server",
                got="none, or another one",
            )
        if not caller.may(scope):
            raise SentinelError(
                ErrorCode.SCOPE_MISSING, at="authorization", expected=f"scope {scope}", got="others"
            )
        return caller

    @classmethod
    def read(cls, path: Path) -> Access:
        """Read a token file.

        Raises
        ------
        SentinelError
            ``tokens-invalid``; ``file-exposed``, ``file-missing`` and ``file-unreadable``.
        """
        content = read_secret(path, n_bytes_max=limits.TOKEN_FILE_BYTES_MAX)
        try:
            plain = msgspec.convert(tomllib.loads(content.decode()), _TokenFile)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
            raise _invalid(str(path), "a token file", type(error).__name__) from error
        if plain.format != 1:
            raise _invalid(f"{path}: format", "1", plain.format)
        if not 1 <= len(plain.token) <= limits.TOKENS_MAX:
            raise _invalid(f"{path}: token", f"1 to {limits.TOKENS_MAX} tokens", len(plain.token))
        callers: dict[bytes, Caller] = {}
        for number, token in enumerate(plain.token):
            digest = _digest_of(token, at=f"{path}: token {number + 1}")
            if digest in callers:
                raise _invalid(f"{path}: token {number + 1}", "a token of its own", "one twice")
            callers[digest] = Caller(token.name, frozenset(token.scopes))
        return cls(callers)


def is_local(request: HttpRequest) -> bool:
    """Whether it comes from this machine, and asks for it by a name of this machine.

    A page in a browser names the host that it was loaded from.
    """
    host = request.headers.get(b"host", b"").decode("ascii", "replace")
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return is_loopback(request.peer) and is_loopback(name)


def _digest_of(token: _Token, *, at: str) -> bytes:
    if not token.name or len(token.name) > limits.METRIC_LABEL_CHARACTERS_MAX:
        raise _invalid(f"{at}: name", "a name", f"{len(token.name)} characters")
    if not token.scopes:
        raise _invalid(f"{at}: scopes", "at least one scope", "none")
    if bool(token.secret) == bool(token.sha256):
        raise _invalid(at, "either a secret or its sha256", "both or neither")
    if token.secret:
        n = len(token.secret)
        if not limits.TOKEN_CHARACTERS_MIN <= n <= limits.TOKEN_CHARACTERS_MAX:
            bounds = f"{limits.TOKEN_CHARACTERS_MIN} to {limits.TOKEN_CHARACTERS_MAX} characters"
            raise _invalid(f"{at}: secret", bounds, n)
        return _hash(token.secret.encode())
    try:
        digest = bytes.fromhex(token.sha256)
    except ValueError as error:
        raise _invalid(f"{at}: sha256", "64 hexadecimal digits", "something else") from error
    if len(digest) != hashlib.sha256().digest_size:
        raise _invalid(f"{at}: sha256", "64 hexadecimal digits", "another length")
    return digest


def _hash(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _invalid(at: str, expected: str, got: object) -> SentinelError:
    return SentinelError(ErrorCode.TOKENS_INVALID, at=at, expected=expected, got=got)
