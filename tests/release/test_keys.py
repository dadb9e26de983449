"""Keys and signatures: one key, one signature, one message; nothing bends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.release.keys import (
    DEMO_PREFIX,
    SigningKey,
    check_person,
    check_public_key,
    create_key,
    is_signed_by,
    load_key,
)

KEY = SigningKey.from_seed(bytes(range(32)), person="Ada")
MESSAGE = b"a release"
SIGNATURE = KEY.sign(MESSAGE)
ORDER = 2**252 + 27742317777372353535851937790883648493
PRIME = 2**255 - 19


def with_s(s: int) -> bytes:
    return SIGNATURE[:32] + s.to_bytes(32, "little")


S = int.from_bytes(SIGNATURE[32:], "little")

# RFC 8032, 7.1: secret, public, message, signature.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
            "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        ),
    ),
]

BENT = {
    "S plus the order": with_s(S + ORDER),
    "S plus twice the order": with_s(S + 2 * ORDER),
    "S plus eight times the order": with_s(S + 8 * ORDER),
    "S negated": with_s(ORDER - S),
    "S zero": with_s(0),
    "S all ones": SIGNATURE[:32] + b"\xff" * 32,
    "high bit of S": with_s(S | 1 << 255),
    "sign of R": bytes([*SIGNATURE[:31], SIGNATURE[31] ^ 0x80]) + SIGNATURE[32:],
    "R zero": bytes(32) + SIGNATURE[32:],
    "R the neutral point": b"\x01" + bytes(31) + SIGNATURE[32:],
    "R not canonical": (PRIME + 1).to_bytes(32, "little") + SIGNATURE[32:],
    "R and S exchanged": SIGNATURE[32:] + SIGNATURE[:32],
    "all zero": bytes(64),
    "empty": b"",
    "cut": SIGNATURE[:-1],
    "one byte more": SIGNATURE + b"\0",
    "a zero byte before": b"\0" + SIGNATURE,
    "R only": SIGNATURE[:32],
    "of another message": KEY.sign(b"another"),
    "by another key": SigningKey.from_seed(bytes(32), person="Eve").sign(MESSAGE),
    "in hexadecimal": SIGNATURE.hex().encode(),
}


def test_a_signature_by_the_key_holds_and_is_the_same_again() -> None:
    assert is_signed_by(KEY.key_id, SIGNATURE, MESSAGE)
    assert KEY.sign(MESSAGE) == SIGNATURE


@pytest.mark.parametrize(("secret", "public", "message", "signature"), RFC_8032)
def test_keys_and_signatures_are_those_of_rfc_8032(
    secret: str, public: str, message: str, signature: str
) -> None:
    made = SigningKey.from_seed(bytes.fromhex(secret), person="RFC")
    assert made.key_id == public
    assert made.sign(bytes.fromhex(message)).hex() == signature
    assert is_signed_by(public, bytes.fromhex(signature), bytes.fromhex(message))


@pytest.mark.parametrize("how", BENT)
def test_a_bent_signature_does_not_hold(how: str) -> None:
    assert not is_signed_by(KEY.key_id, BENT[how], MESSAGE)


SPECIAL = [0, 1, ORDER - 1, ORDER, PRIME, PRIME - 1, 2**255 - 1, 2**256 - 1]


@pytest.mark.parametrize("r", SPECIAL)
def test_special_values_of_r_and_s_do_not_hold(r: int) -> None:
    """Every pair of the values that careless verifiers take for anything."""
    for s in SPECIAL:
        bent = r.to_bytes(32, "little") + s.to_bytes(32, "little")
        assert not is_signed_by(KEY.key_id, bent, MESSAGE)


@given(st.integers(0, 511))
def test_a_signature_with_one_changed_bit_does_not_hold(bit: int) -> None:
    changed = bytearray(SIGNATURE)
    changed[bit // 8] ^= 1 << bit % 8
    assert not is_signed_by(KEY.key_id, bytes(changed), MESSAGE)


SMALL_ORDER = [
    "00" * 32,
    "00" * 31 + "80",
    "01" + "00" * 31,
    "01" + "00" * 30 + "80",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    # not canonical
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "ff" * 32,
]


@pytest.mark.parametrize("key_id", SMALL_ORDER)
def test_a_public_key_of_small_order_is_refused(key_id: str) -> None:
    """With such a key, one signature fits many messages."""
    with pytest.raises(SentinelError) as caught:
        check_public_key(key_id, at="here")
    assert (caught.value.code, caught.value.at) == (ErrorCode.KEY_INVALID, "here")


@pytest.mark.parametrize(
    "key_id", ["", "ab", "A" * 64, "g" * 64, "0" * 63, "0" * 65, " " + "1" * 63]
)
def test_what_is_not_64_digits_is_no_key(key_id: str) -> None:
    with pytest.raises(SentinelError) as caught:
        check_public_key(key_id, at="here")
    assert caught.value.code is ErrorCode.KEY_INVALID


def test_a_key_is_stored_for_its_owner_alone_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "ada.key"
    made = create_key(path, person="Ada Lovelace")
    assert path.stat().st_mode & 0o777 == 0o600
    read = load_key(path)
    assert (read.person, read.key_id) == ("Ada Lovelace", made.key_id)
    assert is_signed_by(made.key_id, read.sign(MESSAGE), MESSAGE)
    assert not read.is_demo


def test_a_key_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "ada.key"
    before = create_key(path, person="Ada").key_id
    with pytest.raises(SentinelError) as caught:
        create_key(path, person="Ada")
    assert (caught.value.code, caught.value.at) == (ErrorCode.KEY_INVALID, str(path))
    assert load_key(path).key_id == before


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "ada.key"
    create_key(path, person="Ada")
    path.chmod(mode)
    with pytest.raises(SentinelError) as caught:
        load_key(path)
    assert (caught.value.code, caught.value.at) == (ErrorCode.FILE_EXPOSED, str(path))
    assert "600" in caught.value.expected


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"-----BEGIN PRIVATE KEY-----",
        b'{"format":1,"person":"A","demo":false,"private":"AAAA"}',
        b'{"format":1,"person":"A","demo":false,"private":"not base64"}',
        b'{"format":2,"person":"A","demo":false,"private":"' + b"A" * 43 + b'="}',
        b'{"format":1,"person":"A","demo":true,"private":"' + b"A" * 43 + b'="}',
        b'{"format":1,"person":"","demo":false,"private":"' + b"A" * 43 + b'="}',
        b'{"format":1,"person":"A\\u001b[2J","demo":false,"private":"' + b"A" * 43 + b'="}',
    ],
)
def test_what_is_no_key_file_is_refused_without_quoting_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ada.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(SentinelError) as caught:
        load_key(path)
    assert caught.value.code is ErrorCode.KEY_INVALID
    assert "AAAA" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "got"),
    [(b"# Read me", "another file"), (b"-----BEGIN PRIVATE KEY-----", "a PEM file")],
)
def test_a_file_that_is_no_key_is_told_so_whoever_may_read_it(
    tmp_path: Path, content: bytes, got: str
) -> None:
    """Permissions are not its fault, and the way to make a key is said."""
    path = tmp_path / "README.md"
    path.write_bytes(content)
    path.chmod(0o644)
    with pytest.raises(SentinelError) as caught:
        load_key(path)
    assert (caught.value.code, caught.value.at) == (ErrorCode.KEY_INVALID, str(path))
    assert caught.value.got == got
    assert "sentinel release key" in caught.value.hint
    assert "chmod" not in str(caught.value)


def test_the_secret_is_in_no_view_of_a_key(tmp_path: Path) -> None:
    path = tmp_path / "ada.key"
    made = create_key(path, person="Ada")
    secret = json.loads(path.read_bytes())["private"]
    assert secret not in repr(made)
    assert "private" not in repr(made)


def test_a_demo_key_is_named_so_wherever_its_person_is(tmp_path: Path) -> None:
    made = create_key(tmp_path / "demo.key", person="reviewer", is_demo=True)
    assert made.person == f"{DEMO_PREFIX}reviewer"
    assert made.is_demo
    assert load_key(tmp_path / "demo.key").is_demo
    with pytest.raises(SentinelError) as caught:
        create_key(tmp_path / "sly.key", person="demo key reviewer")
    assert caught.value.at == "key.person"


@pytest.mark.parametrize("person", ["", " Ada", "Ada ", "A\nda", "\x1b[31m", "x" * 65])
def test_a_name_that_could_not_be_shown_is_refused(person: str) -> None:
    with pytest.raises(SentinelError) as caught:
        check_person(person)
    assert (caught.value.code, caught.value.at) == (ErrorCode.KEY_INVALID, "key.person")


def test_a_key_is_private_from_the_first_moment_whatever_the_umask(tmp_path: Path) -> None:
    code = (
        "import os, sys; os.umask(0); from pathlib import Path;"
        "from sentinel.release.keys import create_key; create_key(Path(sys.argv[1]), person='A')"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "k"], check=True)
    assert (tmp_path / "k").stat().st_mode & 0o777 == 0o600


def wycheproof() -> Path | None:
    root = os.environ.get("SENTINEL_CORPORA")
    folder = Path(root) if root else Path(__file__).parents[2].parent / "shared" / "corpora"
    return next(iter(sorted(folder.rglob("ed25519_test.json"))), None) if folder.is_dir() else None


def test_published_vectors_are_judged_as_published() -> None:
    """Wycheproof's EdDSA vectors; the table of bent signatures above is their twin."""
    path = wycheproof()
    if path is None:
        pytest.skip("no ed25519_test.json under SENTINEL_CORPORA")
    for group in json.loads(path.read_bytes())["testGroups"]:
        key_id = group.get("publicKey", group.get("key"))["pk"]
        for case in group["tests"]:
            holds = is_signed_by(key_id, bytes.fromhex(case["sig"]), bytes.fromhex(case["msg"]))
            assert holds == (case["result"] == "valid"), case["tcId"]
