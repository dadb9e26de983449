"""The cache of compiled code can never be older than the code."""

from __future__ import annotations

import re
from pathlib import Path

import sentinel
from sentinel.core.native import NATIVE_CONSTANTS, NATIVE_MODULES

PACKAGE = Path(sentinel.__file__).parent


def test_every_file_with_native_code_is_in_the_key_of_the_cache() -> None:
    """A kernel that is missing there keeps its old machine code after a change."""
    uses = re.compile(r"^@native(_inline)?\b", re.MULTILINE)
    imports = re.compile(
        r"^from sentinel\.core\.native import|^import numba|^from numba", re.MULTILINE
    )
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if uses.search(text := path.read_text()) or imports.search(text)
    }
    assert found <= {*NATIVE_MODULES, *NATIVE_CONSTANTS}


def test_every_file_in_the_key_exists_once() -> None:
    """A name that is gone would stop every start."""
    names = NATIVE_MODULES + NATIVE_CONSTANTS
    assert len(set(names)) == len(names)
    for name in names:
        assert (PACKAGE / name).is_file()


def test_every_constant_that_a_kernel_imports_is_in_the_key_of_the_cache() -> None:
    """A slot number of another file is compiled in, too. Limits are hashed by value."""
    imported = re.compile(r"^from sentinel\.([\w.]+) import \(?([^)]*?)(?:\)|$)", re.MULTILINE)
    constant = re.compile(r"\b_?[A-Z][A-Z0-9_]+\b")
    key = {*NATIVE_MODULES, *NATIVE_CONSTANTS}
    for name in NATIVE_MODULES:
        for module, names in imported.findall((PACKAGE / name).read_text()):
            path = module.replace(".", "/") + ".py"
            if constant.search(names):
                assert path in key, f"{name} imports {names} of {path}"
