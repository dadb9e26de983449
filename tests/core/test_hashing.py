"""One value has one canonical form and one hash."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.core.hashing import canonical_json, sha256_file, sha256_hex, sha256_of

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=20,
)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [float("-inf")]}])
def test_what_is_not_finite_has_no_canonical_form(value: object) -> None:
    """It is a defect of ours to ask."""
    with pytest.raises(ValueError, match="Out of range float"):
        canonical_json(value)


@given(value=plain)
def test_the_canonical_form_is_json_of_the_same_value(value: object) -> None:
    """Through it and back, to the last bit of a float."""
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text


@given(value=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers()))
def test_the_order_of_keys_does_not_matter(value: dict[str, int]) -> None:
    """Two ways to write one object, one hash."""
    turned = dict(reversed(value.items()))
    assert sha256_of(turned) == sha256_of(value)


def test_different_values_have_different_forms() -> None:
    """True is not 1, 1.0 is not 1, null is not absent."""
    forms = [canonical_json(value) for value in (True, 1, 1.0, "1", None, [], {}, {"a": None})]
    assert len(set(forms)) == len(forms)


def test_hashes_are_those_of_the_standard() -> None:
    """FIPS 180-4, the example ``abc``."""
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_hex(b"abc") == expected


@pytest.mark.parametrize("n_bytes", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_a_file_has_the_hash_of_its_content(tmp_path: Path, n_bytes: int) -> None:
    """Around the size of a chunk."""
    content = bytes(range(256)) * (n_bytes // 256 + 1)
    path = tmp_path / "a"
    path.write_bytes(content[:n_bytes])
    assert sha256_file(path) == hashlib.sha256(content[:n_bytes]).hexdigest()
