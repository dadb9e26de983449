"""Approvals: who must have said what, when, before a release may decide."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.release.conftest import (
    BUILDER,
    DATA,
    DAY_MS,
    DEPLOY,
    NOW_MS,
    PEOPLE,
    WEIGHTS,
    key,
    trust,
)
from tests.release.test_manifest import example

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.hashing import canonical_json
from sentinel.release import statements
from sentinel.release.approvals import Judgement, Standing, Terms, approve, judge, read_statements
from sentinel.release.keys import SigningKey
from sentinel.release.manifest import Manifest
from sentinel.release.statements import PAYLOAD_TYPE, Statement, pae
from sentinel.release.trust import Role, Rules, Trust, TrustedKey, trust_entry

MANIFEST = example()
OTHER = msgspec.structs.replace(MANIFEST, version="9.9.9")
ORDER = {Role.BUILD: 1, Role.DATA: 1, Role.WEIGHTS: 2, Role.DEPLOY: 3}


def signed(
    role: Role, who: SigningKey | None = None, *, manifest: Manifest = MANIFEST, **terms: int
) -> bytes:
    given = {"issued_at_ms": NOW_MS, "sequence": ORDER[role], **terms}
    return approve(manifest, who or PEOPLE[role], role=role, terms=Terms(**given))


def all_signed(**changes: bytes | None) -> dict[str, bytes]:
    files = {f"{role}.json": signed(role) for role in Role}
    for name, content in changes.items():
        files[f"{name}.json"] = content or b""
        if content is None:
            del files[f"{name}.json"]
    return files


def judged(
    files: dict[str, bytes] | None = None,
    *,
    trusted: Trust | None = None,
    now_ms: int = NOW_MS,
    failed_gates: tuple[str, ...] = (),
    sequence_min: int = 0,
) -> Judgement:
    found = read_statements(all_signed() if files is None else files, MANIFEST)
    return judge(
        MANIFEST,
        found,
        trusted or trust(),
        failed_gates=failed_gates,
        now_ms=now_ms,
        sequence_min=sequence_min,
    )


def keys(**changes: object) -> tuple[TrustedKey, ...]:
    """Return the usual keys, the deployer's changed."""
    return tuple(
        msgspec.structs.replace(item, **changes) if item.person == DEPLOY.person else item
        for item in trust().keys
    )


def test_a_release_that_everybody_let_through_is_approved() -> None:
    judgement = judged()
    assert judgement.faults == ()
    assert judgement.standing is Standing.APPROVED
    judgement.require("x")


NOT_APPROVED: dict[str, tuple[Callable[[], Judgement], str]] = {
    "no builder": (lambda: judged(all_signed(build=None)), "build"),
    "no data review": (lambda: judged(all_signed(data=None)), "data"),
    "no weights review": (lambda: judged(all_signed(weights=None)), "weights"),
    "no deployment": (lambda: judged(all_signed(deploy=None)), "deploy"),
    "unknown key": (
        lambda: judged(all_signed(data=signed(Role.DATA, key("Dora Data", 99)))),
        "data",
    ),
    "a key without the role": (
        lambda: judged(all_signed(deploy=signed(Role.DEPLOY, DATA))),
        "deploy",
    ),
    "another name than the key's": (
        lambda: judged(all_signed(data=signed(Role.DATA, key("Somebody Else", 2)))),
        "data",
    ),
    "the builder's key": (
        lambda: judged(
            all_signed(data=signed(Role.DATA, BUILDER)),
            trusted=trust(
                keys=(
                    *trust().keys[1:],
                    TrustedKey(
                        person=BUILDER.person, key=BUILDER.key_id, roles=(Role.BUILD, Role.DATA)
                    ),
                )
            ),
        ),
        "data",
    ),
    "another key of the builder": (
        lambda: judged(
            all_signed(weights=signed(Role.WEIGHTS, key(BUILDER.person, 50))),
            trusted=trust(
                keys=(
                    *trust().keys,
                    TrustedKey(
                        person=BUILDER.person,
                        key=key("x", 50).key_id,
                        roles=(Role.WEIGHTS,),
                    ),
                )
            ),
        ),
        "weights",
    ),
    "revoked key": (lambda: judged(trusted=trust(keys=keys(revoked=True))), "deploy"),
    "revoked release": (
        lambda: judged(trusted=trust(revoked_releases=(MANIFEST.digest,))),
        "release",
    ),
    "expired": (lambda: judged(now_ms=NOW_MS + 30 * DAY_MS), "data"),
    "from the future": (lambda: judged(now_ms=NOW_MS - DAY_MS), "data"),
    "valid for too long": (
        lambda: judged(all_signed(deploy=signed(Role.DEPLOY, days=91))),
        "deploy",
    ),
    "one person for three": (
        lambda: judged(
            {
                **all_signed(),
                **{
                    f"{role}.json": signed(role, DATA)
                    for role in (Role.DATA, Role.WEIGHTS, Role.DEPLOY)
                },
            },
            trusted=trust(
                rules=Rules(persons_min=2),
                keys=(
                    trust().keys[0],
                    TrustedKey(
                        person=DATA.person,
                        key=DATA.key_id,
                        roles=(Role.DATA, Role.WEIGHTS, Role.DEPLOY),
                    ),
                ),
            ),
        ),
        "approvals",
    ),
    "deployed before the weights were seen": (
        lambda: judged(all_signed(deploy=signed(Role.DEPLOY, sequence=2))),
        "deploy",
    ),
    "deployed at an earlier time": (
        lambda: judged(all_signed(deploy=signed(Role.DEPLOY, issued_at_ms=NOW_MS - 1))),
        "deploy",
    ),
    "an older deployment": (lambda: judged(sequence_min=4), "deploy"),
    "a failed gate": (lambda: judged(failed_gates=("parity",)), "gate parity"),
}


@pytest.mark.parametrize("why", NOT_APPROVED)
def test_a_release_is_not_approved_and_the_place_is_named(why: str) -> None:
    judgement, place = NOT_APPROVED[why][0](), NOT_APPROVED[why][1]
    assert judgement.standing is Standing.UNAPPROVED
    assert place in {fault.at for fault in judgement.faults}
    with pytest.raises(SentinelError) as caught:
        judgement.require("payments@1")
    assert caught.value.code is ErrorCode.RELEASE_NOT_APPROVED
    assert caught.value.at.startswith("payments@1: ")


def test_without_a_trust_file_nothing_is_approved() -> None:
    found = read_statements(all_signed(), MANIFEST)
    judgement = judge(MANIFEST, found, None, failed_gates=(), now_ms=NOW_MS)
    assert judgement.standing is Standing.UNAPPROVED
    assert [fault.at for fault in judgement.faults] == ["trust"]


def test_an_approval_holds_until_the_millisecond_of_its_expiry() -> None:
    assert judged(now_ms=NOW_MS + 30 * DAY_MS - 1).faults == ()
    assert judged(now_ms=NOW_MS + 30 * DAY_MS).faults != ()


def test_a_demo_key_is_loud_in_the_standing() -> None:
    demo = key("DEMO KEY nobody", 60)
    entry = TrustedKey(person=demo.person, key=demo.key_id, roles=(Role.DATA,))
    judgement = judged(
        all_signed(data=signed(Role.DATA, demo)), trusted=trust(keys=(*trust().keys, entry))
    )
    assert judgement.faults == ()
    assert judgement.standing is Standing.DEMO
    assert "DEMO KEY" in judgement.standing


def resigned(content: bytes, change: Callable[[dict], object], who: SigningKey = DATA) -> bytes:
    """Change the payload of an envelope and sign it again."""
    envelope = json.loads(content)
    payload = json.loads(base64.b64decode(envelope["payload"]))
    change(payload)
    plain = canonical_json(payload)
    envelope["payload"] = base64.b64encode(plain).decode()
    signature = who.sign(pae(PAYLOAD_TYPE, plain))
    envelope["signatures"][0]["sig"] = base64.b64encode(signature).decode()
    return canonical_json(envelope)


def edited(content: bytes, change: Callable[[dict], object]) -> bytes:
    """Change the envelope and sign nothing."""
    envelope = json.loads(content)
    change(envelope)
    return canonical_json(envelope)


GOOD = signed(Role.DATA)
NOT_WHOLE: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "cut": lambda: GOOD[:-1],
    "space behind": lambda: GOOD + b"\n",
    "huge": lambda: GOOD + b" " * 20_000,
    "of another release": lambda: signed(Role.DATA, manifest=OTHER),
    "of another kind": lambda: signed(Role.WEIGHTS),
    "no signature": lambda: edited(GOOD, lambda e: e.update(signatures=[])),
    "two signatures": lambda: edited(GOOD, lambda e: e.update(signatures=e["signatures"] * 2)),
    "another key id": lambda: edited(
        GOOD, lambda e: e["signatures"][0].update(keyid=WEIGHTS.key_id)
    ),
    "another algorithm's words": lambda: edited(GOOD, lambda e: e.update(alg="none")),
    "another payload type": lambda: edited(GOOD, lambda e: e.update(payloadType="text/plain")),
    "unsigned change": lambda: edited(
        GOOD, lambda e: e.update(payload=json.loads(signed(Role.DATA, days=3))["payload"])
    ),
    "URL-safe base64": lambda: (
        GOOD.replace(b"+", b"-").replace(b"/", b"_")
        if b"+" in GOOD or b"/" in GOOD
        else GOOD.replace(b"=", b"")
    ),
    "unpadded base64": lambda: edited(
        GOOD, lambda e: e["signatures"][0].update(sig=e["signatures"][0]["sig"].rstrip("="))
    ),
    "loose base64": lambda: edited(
        GOOD,
        lambda e: e["signatures"][0].update(sig=e["signatures"][0]["sig"][:-3] + "B=="),
    ),
    "escaped letter": lambda: GOOD.replace(b"payload", b"p\\u0061yload", 1),
    "duplicate key": lambda: GOOD.replace(b'{"payload"', b'{"payload":"","payload"', 1),
    "another digest": lambda: resigned(
        GOOD, lambda p: p["subject"][0]["digest"].update(sha256="0" * 64)
    ),
    "another name": lambda: resigned(GOOD, lambda p: p["subject"][0].update(name="x@1")),
    "no subject": lambda: resigned(GOOD, lambda p: p.update(subject=[])),
    "two subjects": lambda: resigned(GOOD, lambda p: p.update(subject=p["subject"] * 2)),
    "another predicate": lambda: resigned(GOOD, lambda p: p.update(predicateType="x")),
    "unknown field": lambda: resigned(GOOD, lambda p: p["predicate"].update(more=1)),
    "sequence 0": lambda: resigned(GOOD, lambda p: p["predicate"].update(sequence=0)),
    "sequence beyond 64 bits": lambda: resigned(
        GOOD, lambda p: p["predicate"].update(sequence=1 << 63)
    ),
    "expiry before issue": lambda: resigned(GOOD, lambda p: p["predicate"].update(expires_at_ms=1)),
    "unknown role": lambda: resigned(GOOD, lambda p: p["predicate"].update(role="root")),
    "unprintable name": lambda: resigned(GOOD, lambda p: p["predicate"].update(person="\x1b[2J")),
    "a novel for a note": lambda: resigned(GOOD, lambda p: p["predicate"].update(note="x" * 9999)),
    "key of small order": lambda: resigned(
        edited(GOOD, lambda e: e["signatures"][0].update(keyid="00" * 32)),
        lambda p: p["predicate"].update(key_id="00" * 32),
    ),
    "signed by another": lambda: resigned(GOOD, lambda p: None, WEIGHTS),
}


@pytest.mark.parametrize("how", NOT_WHOLE)
def test_a_statement_that_is_not_whole_is_refused(how: str) -> None:
    with pytest.raises(SentinelError) as caught:
        read_statements({"data.json": NOT_WHOLE[how]()}, MANIFEST)
    assert caught.value.code is ErrorCode.RELEASE_SIGNATURE_INVALID
    assert caught.value.at == "signatures/data.json"


def test_every_changed_bit_of_a_statement_is_found_without_any_trust() -> None:
    for position in range(len(GOOD)):
        changed = bytearray(GOOD)
        changed[position] ^= 1 << position % 8
        with pytest.raises(SentinelError) as caught:
            read_statements({"data.json": bytes(changed)}, MANIFEST)
        assert caught.value.code is ErrorCode.RELEASE_SIGNATURE_INVALID


def test_only_the_key_itself_can_be_named_as_signer() -> None:
    statement = Statement(
        role=Role.DATA,
        person="Somebody",
        key_id=DATA.key_id,
        sequence=1,
        issued_at_ms=0,
        expires_at_ms=1,
    )
    with pytest.raises(SentinelError) as caught:
        statements.sign(statement, MANIFEST, DATA)
    assert caught.value.code is ErrorCode.RELEASE_SIGNATURE_INVALID


TRUST_TEXT = "format = 1\n" + trust_entry(
    person='Ada "the first"', key_id=DATA.key_id, roles=(Role.DATA,)
)


def test_the_lines_written_for_a_key_are_read_as_that_key() -> None:
    read = Trust.parse(TRUST_TEXT.encode())
    assert read.keys == (TrustedKey(person='Ada "the first"', key=DATA.key_id, roles=(Role.DATA,)),)
    assert read.rules == Rules()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "format = 2",
        "format = 1\nkeys = 3",
        "format = 1\nsurprise = true",
        TRUST_TEXT + "\n" + TRUST_TEXT.split("\n", 1)[1],
        TRUST_TEXT.replace('["data"]', "[]"),
        TRUST_TEXT.replace('["data"]', '["data", "data"]'),
        TRUST_TEXT.replace('["data"]', '["root"]'),
        TRUST_TEXT + "[rules]\npersons_min = 0",
        TRUST_TEXT + "[rules]\npersons_min = 4",
        TRUST_TEXT + "[rules]\napproval_days_max = 0",
        TRUST_TEXT + "[rules]\napproval_days_max = 100000",
        TRUST_TEXT + "[rules]\nunknown = 1",
        "format = 1\n\x00",
        "\ufeffformat = 1",
    ],
)
def test_a_trust_file_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(SentinelError) as caught:
        Trust.parse(text.encode())
    assert caught.value.code is ErrorCode.TRUST_INVALID


@pytest.mark.parametrize("key_id", ["", "zz", "00" * 32])
def test_a_trust_file_with_a_key_that_is_none_is_refused(key_id: str) -> None:
    with pytest.raises(SentinelError) as caught:
        Trust.parse(TRUST_TEXT.replace(DATA.key_id, key_id).encode())
    assert caught.value.code is ErrorCode.KEY_INVALID


class ApprovalMachine(RuleBasedStateMachine):
    """People sign, keys are revoked, time passes; the judgement is held against a plain model."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}
        self.model: dict[Role, tuple[str, int, int, int]] = {}
        self.revoked: set[str] = set()
        self.now_ms = NOW_MS
        self.floor = 0

    @rule(
        role=st.sampled_from(list(Role)),
        signer=st.sampled_from(list(Role)),
        sequence=st.integers(1, 4),
        days=st.sampled_from([1, 30, 91]),
    )
    def sign(self, role: Role, signer: Role, sequence: int, days: int) -> None:
        who = PEOPLE[signer]
        terms = Terms(issued_at_ms=self.now_ms, sequence=sequence, days=days)
        self.files[f"{role}.json"] = approve(MANIFEST, who, role=role, terms=terms)
        self.model[role] = (who.person, sequence, self.now_ms, days)

    @rule()
    def sign_everything(self) -> None:
        for role in Role:
            self.sign(role, role, max(ORDER[role], self.floor), 30)
        self.sign(Role.DEPLOY, Role.DEPLOY, max(ORDER[Role.DEPLOY], self.floor + 1), 30)

    @rule(role=st.sampled_from(list(Role)))
    def lose(self, role: Role) -> None:
        self.files.pop(f"{role}.json", None)
        self.model.pop(role, None)

    @rule(role=st.sampled_from(list(Role)))
    def revoke(self, role: Role) -> None:
        self.revoked ^= {PEOPLE[role].person}

    @rule(days=st.sampled_from([1, 29, 30]))
    def wait(self, days: int) -> None:
        self.now_ms += days * DAY_MS

    @rule()
    def deploy_elsewhere(self) -> None:
        self.floor += 1

    def is_approved(self) -> bool:
        if set(self.model) != set(Role):
            return False
        for role, (person, _, issued, days) in self.model.items():
            if person != PEOPLE[role].person or person in self.revoked:
                return False
            if role is not Role.BUILD and (days > 90 or self.now_ms >= issued + days * DAY_MS):
                return False
        deploy = self.model[Role.DEPLOY]
        for role in (Role.DATA, Role.WEIGHTS):
            if self.model[role][1] >= deploy[1] or self.model[role][2] > deploy[2]:
                return False
        return deploy[1] >= self.floor

    @invariant()
    def the_judgement_agrees_with_the_model(self) -> None:
        trusted = trust(
            keys=tuple(
                msgspec.structs.replace(item, revoked=item.person in self.revoked)
                for item in trust().keys
            )
        )
        judgement = judge(
            MANIFEST,
            read_statements(self.files, MANIFEST),
            trusted,
            failed_gates=(),
            now_ms=self.now_ms,
            sequence_min=self.floor,
        )
        assert (judgement.standing is Standing.APPROVED) == self.is_approved()
        assert (not judgement.faults) == self.is_approved()


ApprovalMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestApprovalMachine = ApprovalMachine.TestCase
