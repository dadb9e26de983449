"""Approvals: whether the people whom a deployment trusts have let a release through.

A release may decide about payments when all of this holds at one instant:

1. every gate passed;
2. its builder is named by a statement of a key that may build;
3. data, weights and deployment are approved, each by a key that may say so, whose person is the
   one it names, not revoked, within its time, and valid for no longer than the rules allow;
4. no approver is the builder, neither by key nor by person, and the approvers are as many
   different people as the rules ask for;
5. the deployment was triggered last: its sequence number is above those of the other two, its
   time not before theirs;
6. its sequence number is not below the last one that ran here (no old release comes back unasked).

Each rule that is broken is a fault with a place and a sentence; all of them are reported.
This module reads no clock: the time comes in.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.release import statements
from sentinel.release.keys import SigningKey
from sentinel.release.manifest import Manifest
from sentinel.release.statements import Statement
from sentinel.release.trust import APPROVALS, Role, Trust, TrustedKey

_DAY_MS = 86_400_000
# Clocks of two machines: an approval may seem to come from the near future.
_SKEW_MS = 5 * 60 * 1000


class Standing(enum.StrEnum):
    """How a release stands; shown on every page, status line and metric."""

    APPROVED = "approved"
    DEMO = "approved by a DEMO KEY: nobody reviewed this release"
    UNAPPROVED = "NOT APPROVED"


_TRUST = "trust"
_NO_TRUST = "Name the trust file with --trust."
_AS_IT_IS = "--unapproved takes the release as it is, and everything then says so."


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """When and how long a statement holds.

    Attributes
    ----------
    issued_at_ms : int
        Now, milliseconds since the epoch.
    sequence : int
        From 1; for a deployment above those of the other approvals and of all before it.
    days : int
        Validity, from 1.
    note : str
        What the person wants to be remembered, at most 256 characters.
    """

    issued_at_ms: int
    sequence: int = 1
    days: int = 30
    note: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """One reason why a release is not approved.

    Attributes
    ----------
    at : str
        Which statement or rule.
    expected, got : str
    """

    at: str
    expected: str
    got: str

    def __str__(self) -> str:
        return f"{self.at}: expected {self.expected}, got {self.got}"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the statements of a release amount to.

    Attributes
    ----------
    standing : Standing
    statements : dict of Role to Statement
        Whole and genuine ones, whether they count or not.
    faults : tuple of Fault
        Empty when approved.
    """

    standing: Standing
    statements: Mapping[Role, Statement]
    faults: tuple[Fault, ...]

    def require(self, label: str) -> None:
        """Raise unless the release is approved.

        Raises
        ------
        SentinelError
            ``release-not-approved`` with the first fault, and how many there are.
        """
        if self.faults:
            first, n_more = self.faults[0], len(self.faults) - 1
            ways = [f"{n_more} more: see `sentinel release verify`."] if n_more else []
            ways += [_NO_TRUST] if first.at == _TRUST else []
            raise SentinelError(
                ErrorCode.RELEASE_NOT_APPROVED,
                at=f"{label}: {first.at}",
                expected=first.expected,
                got=first.got,
                hint=" ".join([*ways, _AS_IT_IS]),
            )


def read_statements(signatures: Mapping[str, bytes], manifest: Manifest) -> dict[Role, Statement]:
    """Read every statement; all must be whole, of this release, and by the key they name.

    Raises
    ------
    SentinelError
        ``release-signature-invalid``.
    """
    return {
        role: statements.read(signatures[f"{role}.json"], manifest, role=role)
        for role in Role
        if f"{role}.json" in signatures
    }


def judge(
    manifest: Manifest,
    found: Mapping[Role, Statement],
    trust: Trust | None,
    *,
    failed_gates: tuple[str, ...],
    now_ms: int,
    sequence_min: int = 0,
) -> Judgement:
    """Decide how a release stands.

    Parameters
    ----------
    manifest : Manifest
    found : mapping of Role to Statement
        From :func:`read_statements`.
    trust : Trust or None
        None: nobody is trusted, so nothing is approved.
    failed_gates : tuple of str
    now_ms : int
        Milliseconds since the epoch.
    sequence_min : int
        Sequence number of the last deployment here.
    """
    faults = [Fault(f"gate {name}", "passed", "failed") for name in failed_gates]
    if trust is None:
        faults.append(Fault(_TRUST, "a trust file", "none"))
        return Judgement(Standing.UNAPPROVED, found, tuple(faults))
    if manifest.digest in trust.revoked_releases:
        faults.append(Fault("release", "one that is not revoked", manifest.digest[:16]))
    for role in Role:
        faults.extend(_faults_of(role, found.get(role), trust, now_ms))
    faults.extend(_faults_together(found, trust, sequence_min))
    is_demo = any(statement.is_demo for statement in found.values())
    approved = Standing.DEMO if is_demo else Standing.APPROVED
    return Judgement(Standing.UNAPPROVED if faults else approved, found, tuple(faults))


def approve(manifest: Manifest, key: SigningKey, *, role: Role, terms: Terms) -> bytes:
    """Sign one statement; the content of ``signatures/<role>.json``.

    Parameters
    ----------
    manifest : Manifest
        Of the release that the person has looked at.
    key : SigningKey
    role : Role
    terms : Terms
    """
    statement = Statement(
        role=role,
        person=key.person,
        key_id=key.key_id,
        sequence=terms.sequence,
        issued_at_ms=terms.issued_at_ms,
        expires_at_ms=terms.issued_at_ms + terms.days * _DAY_MS,
        note=terms.note,
    )
    return statements.sign(statement, manifest, key)


def _faults_of(role: Role, statement: Statement | None, trust: Trust, now_ms: int) -> list[Fault]:
    """Judge one statement by itself."""
    at = f"{role}"
    if statement is None:
        who = ", ".join(key.person for key in trust.keys if role in key.roles and not key.revoked)
        return [Fault(at, f"a statement by {who or 'somebody whom the trust file names'}", "none")]
    key = trust.by_key().get(statement.key_id)
    if key is None:
        return [Fault(at, "a key of the trust file", f"{statement.person}, unknown key")]
    faults = _faults_of_key(at, role, statement, key)
    if role is Role.BUILD:
        return faults  # that it was built does not expire
    if statement.issued_at_ms > now_ms + _SKEW_MS:
        faults.append(Fault(at, "a time of issue that has come", "one in the future"))
    if now_ms >= statement.expires_at_ms:
        faults.append(Fault(at, "an approval within its time", "an expired one"))
    longest_ms = trust.rules.approval_days_max * _DAY_MS
    if statement.expires_at_ms - statement.issued_at_ms > longest_ms:
        faults.append(Fault(at, f"at most {trust.rules.approval_days_max} days", "longer"))
    return faults


def _faults_of_key(at: str, role: Role, statement: Statement, key: TrustedKey) -> list[Fault]:
    faults = []
    if key.revoked:
        faults.append(Fault(at, "a key in force", f"a revoked key of {key.person}"))
    if key.person != statement.person:
        faults.append(Fault(at, f"{key.person}, whose key it is", statement.person))
    if role not in key.roles:
        faults.append(Fault(at, f"a person who may sign {role}", key.person))
    return faults


def _faults_together(
    found: Mapping[Role, Statement], trust: Trust, sequence_min: int
) -> list[Fault]:
    """Judge the statements with each other."""
    faults = []
    build, deploy = found.get(Role.BUILD), found.get(Role.DEPLOY)
    given = [found[role] for role in APPROVALS if role in found]
    if build is not None:
        faults += [
            Fault(f"{other.role}", f"somebody other than the builder, {build.person}", other.person)
            for other in given
            if other.key_id == build.key_id or other.person == build.person
        ]
    n_persons = len({statement.person for statement in given})
    if len(given) == len(APPROVALS) and n_persons < trust.rules.persons_min:
        faults.append(Fault("approvals", f"{trust.rules.persons_min} people", f"{n_persons}"))
    if deploy is not None:
        for other in given:
            if other.role is Role.DEPLOY:
                continue
            if other.sequence >= deploy.sequence or other.issued_at_ms > deploy.issued_at_ms:
                faults.append(Fault("deploy", f"a statement after that on {other.role}", "before"))
        if deploy.sequence < sequence_min:
            got = f"{deploy.sequence}, an older one"
            faults.append(Fault("deploy", f"sequence {sequence_min} or above", got))
    return faults
