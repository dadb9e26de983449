"""The environment has one digest, and what changes a bit changes it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

from sentinel.core.hashing import sha256_of
from sentinel.environment import read_environment
from sentinel.environment.fingerprint import COMPUTING_PACKAGES, processor_class, versions

ROOT = Path(__file__).parents[2]


def test_a_machine_that_says_nothing_still_has_a_digest(tmp_path: Path) -> None:
    """No ``/proc`` is no failure; the class is then the architecture."""
    environment = read_environment(cpu_info=tmp_path / "absent")
    assert environment.processor_class == environment.machine
    assert re.fullmatch("[0-9a-f]{64}", environment.digest)


def test_the_digest_is_that_of_the_data_and_stable() -> None:
    """Two looks, one digest; JSON and back, the same."""
    environment = read_environment()
    data = json.loads(json.dumps(environment.to_data(), allow_nan=False))
    assert environment.digest == read_environment().digest == sha256_of(data)


def test_whatever_changes_a_bit_changes_the_digest() -> None:
    """Each part takes part."""
    environment = read_environment()
    others = [
        replace(environment, python="CPython 3.12.0"),
        replace(environment, machine="aarch64"),
        replace(environment, c_library="glibc 2.17"),
        replace(environment, processor_class="x86-64-v2"),
        replace(environment, packages=environment.packages | {"numpy": "0.0.1"}),
    ]
    assert len({environment.digest, *(other.digest for other in others)}) == 6


def test_versions_are_those_that_are_installed() -> None:
    """What is not installed is absent, not empty."""
    found = versions(("numpy", "no-such-distribution"))
    assert found == {"numpy": metadata.version("numpy")}


def test_computing_packages_are_locked_for_serving() -> None:
    """Each has an exact version in the lock of what serving needs."""
    lock = (ROOT / "requirements" / "serve.lock").read_text()
    locked = {name.lower() for name in re.findall(r"^([A-Za-z0-9_.-]+)==", lock, re.MULTILINE)}
    assert set(COMPUTING_PACKAGES) - {"sentinel"} <= locked


V2 = "ssse3 sse4_1 sse4_2 popcnt"
V3 = V2 + " avx avx2 bmi1 bmi2 f16c fma movbe"
V4 = V3 + " avx512f avx512bw avx512cd avx512dq avx512vl"


@pytest.mark.parametrize(
    ("description", "machine", "expected"),
    [
        ("", "riscv64", "riscv64"),
        ("flags\t\t: sse2", "x86_64", "x86_64"),
        (f"processor: 0\nflags : {V2}", "x86_64", "x86-64-v2"),
        (f"flags : {V3} avx_vnni", "x86_64", "x86-64-v3+avx_vnni"),
        (f"flags : {V4} avx512_vnni amx_int8", "x86_64", "x86-64-v4+avx512_vnni+amx_int8"),
        (f"flags : {V4.replace('avx2', '')}", "x86_64", "x86-64-v2"),
        ("Features : fp asimd asimddp i8mm sve", "aarch64", "aarch64+asimddp+i8mm+sve"),
    ],
)
def test_processors_fall_into_classes(description: str, machine: str, expected: str) -> None:
    """A level counts only when all below it are whole."""
    assert processor_class(description, machine=machine) == expected
