"""The trust file: whose keys count, for what, and by which rules.

It is written by hand, in TOML, and lives with the deployment, never inside a release::

    format = 1

    [rules]
    persons_min = 2            # different people among the approvers
    approval_days_max = 90

    [[keys]]
    person = "Ada Lovelace"
    key = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    roles = ["data", "weights", "deploy"]
"""

from __future__ import annotations

import enum
import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.files import read_bounded
from sentinel.release.keys import check_person, check_public_key


class Role(enum.StrEnum):
    """What a statement says, and what a key may say; in the order in which they are signed."""

    BUILD = "build"  # "I made this release"
    DATA = "data"  # "I looked at the data it was made from"
    WEIGHTS = "weights"  # "I looked at the model and its gates"
    DEPLOY = "deploy"  # "it may decide about payments now"


APPROVALS = (Role.DATA, Role.WEIGHTS, Role.DEPLOY)


class Rules(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who may approve what, beyond the roles.

    Attributes
    ----------
    persons_min : int, 1 to 3
        Different people that the approvals must come from.
    approval_days_max : int
        Longest validity that an approval may claim.
    """

    persons_min: int = 1
    approval_days_max: int = 90


class TrustedKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One public key.

    Attributes
    ----------
    person : str
    key : str
        64 hexadecimal digits.
    roles : tuple of Role
    revoked : bool
        Nothing that it signed counts any more, whenever it was signed.
    """

    person: str
    key: str
    roles: tuple[Role, ...]
    revoked: bool = False


class Trust(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The contents of a trust file.

    Attributes
    ----------
    format : int
    keys : tuple of TrustedKey
    rules : Rules
    revoked_releases : tuple of str
        Digests of releases that must not run, whoever approved them.
    """

    format: int
    keys: tuple[TrustedKey, ...]
    rules: Rules = Rules()
    revoked_releases: tuple[str, ...] = ()

    @classmethod
    def load(cls, path: Path) -> Trust:
        """Read a trust file.

        Raises
        ------
        SentinelError
            ``file-missing``, ``file-unreadable``, ``trust-invalid``.
        """
        return cls.parse(read_bounded(path, n_bytes_max=limits.TRUST_BYTES_MAX))

    @classmethod
    def parse(cls, content: bytes) -> Trust:
        """Read the text of a trust file.

        Raises
        ------
        SentinelError
            ``trust-invalid`` at the first thing that is wrong.
        """
        try:
            trust = msgspec.convert(tomllib.loads(content.decode()), cls)
        except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
            raise SentinelError(
                ErrorCode.TRUST_INVALID,
                at="trust file",
                expected="keys and rules, as docs/release.md has them",
                got=error,
                hint="It begins with `format = 1`; `sentinel release key` prints the rest.",
            ) from error
        trust.check()
        return trust

    def check(self) -> None:
        """Refuse rules that make no sense and keys that are none.

        Raises
        ------
        SentinelError
            ``trust-invalid``; ``key-invalid`` for a key that is none.
        """
        if self.format != 1:
            raise _invalid("trust.format", "1", self.format)
        if len(self.keys) > limits.TRUST_KEYS_MAX:
            raise _invalid("trust.keys", f"at most {limits.TRUST_KEYS_MAX}", len(self.keys))
        rules = self.rules
        if not 1 <= rules.persons_min <= len(APPROVALS):
            raise _invalid("trust.rules.persons_min", "1 to 3", rules.persons_min)
        if not 1 <= rules.approval_days_max <= limits.APPROVAL_DAYS_MAX:
            expected = f"1 to {limits.APPROVAL_DAYS_MAX}"
            raise _invalid("trust.rules.approval_days_max", expected, rules.approval_days_max)
        seen: set[str] = set()
        for index, key in enumerate(self.keys):
            at = f"trust.keys[{index}]"
            check_person(key.person)
            check_public_key(key.key, at=f"{at}.key")
            if key.key in seen:
                raise _invalid(f"{at}.key", "each key once", key.key)
            if len(set(key.roles)) != len(key.roles) or not key.roles:
                raise _invalid(f"{at}.roles", "each role once, at least one", key.roles)
            seen.add(key.key)

    def by_key(self) -> Mapping[str, TrustedKey]:
        """Return the keys by their id."""
        return {key.key: key for key in self.keys}


def trust_entry(*, person: str, key_id: str, roles: tuple[Role, ...]) -> str:
    """Write the lines that make a key known, for a person to paste into a trust file.

    Examples
    --------
    >>> print(trust_entry(person="Ada", key_id="ab", roles=(Role.DATA,)))
    [[keys]]
    person = "Ada"
    key = "ab"
    roles = ["data"]
    <BLANKLINE>
    """
    named = ", ".join(f'"{role}"' for role in roles)
    text = msgspec.json.encode(person).decode()  # a JSON string is a TOML basic string
    return f'[[keys]]\nperson = {text}\nkey = "{key_id}"\nroles = [{named}]\n'


def _invalid(at: str, expected: str, got: object) -> SentinelError:
    return SentinelError(ErrorCode.TRUST_INVALID, at=at, expected=expected, got=got)
