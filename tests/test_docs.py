"""Documentation that cannot rot: what it names exists, and what exists is named."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import sentinel
from sentinel.core.errors import ErrorCode

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(sentinel.__path__, prefix="sentinel.")
    if not module.name.endswith("__main__") and ".templates." not in module.name
)


@pytest.mark.parametrize("code", ErrorCode, ids=str)
def test_every_error_code_has_a_line(code: ErrorCode) -> None:
    text = (ROOT / "docs" / "errors.md").read_text()
    assert f"| `{code}` |" in text


def test_every_documented_error_code_exists() -> None:
    text = (ROOT / "docs" / "errors.md").read_text()
    documented = re.findall(r"^\| `([a-z0-9-]+)` \|", text, re.MULTILINE)
    assert documented == [str(code) for code in ErrorCode], "same codes, same order"


def anchors_of(document: Path) -> set[str]:
    """Name the headings of a page as links do."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).strip().replace(" ", "-") for each in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(document: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", document.read_text()):
        if "://" in target:
            continue
        place = document.parent / target if target else document
        assert place.exists(), f"{document.name}: {target}"
        if anchor and place.suffix == ".md":
            assert anchor in anchors_of(place), f"{document.name}: {target}#{anchor}"


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_are_true(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} does not say what it is for"
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_readme_leads_with_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    first_block = re.search(r"```\w*\n(.*?)```", text, re.DOTALL)
    assert first_block is not None
    commands = [line.split("#")[0].strip() for line in first_block[1].strip().split("\n")]
    assert commands == ["make demo", "make test"]


def test_documents_name_make_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        for target in re.findall(r"`make ([a-z]+)", document.read_text()):
            assert target in targets, f"{document.name}: make {target}"


def test_reliability_rows_of_tests_and_of_the_page_are_the_same() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text().split("## Counts")[0]
    documented = set(re.findall(r"^\| ([A-N]\d+) \|", page, re.MULTILINE))
    tried: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for call in re.findall(r"mark\.reliability\(([^)]*)\)", path.read_text()):
            tried |= set(re.findall(r"\"([A-N]\d+)\"", call))
    assert tried <= documented
    untried = documented - tried
    for row in untried:
        line = next(line for line in page.split("\n") if line.startswith(f"| {row} |"))
        assert "not tried" in line, f"{row} names no test and no reason"
