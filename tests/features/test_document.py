"""The page about features tells the truth."""

from __future__ import annotations

import re
from pathlib import Path

import sentinel.features
from sentinel.features.definitions import KINDS

PAGE = (Path(__file__).parents[2] / "docs" / "features.md").read_text()


def test_the_example_runs() -> None:
    """As it stands on the page."""
    example = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0]
    scope: dict[str, object] = {"__name__": "example"}
    exec(compile(example, "docs/features.md", "exec", dont_inherit=True), scope)  # noqa: S102
    engine = scope["engine"]
    assert isinstance(engine, sentinel.features.Engine)
    assert engine.plan.names[1] == "avg_amount_1h"


def test_what_the_other_examples_import_is_there() -> None:
    """They need files or Spark, so they are not run."""
    for example in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[1:]:
        lines = [line for line in example.splitlines() if line.startswith("from sentinel")]
        assert lines
        exec(compile("\n".join(lines), "docs/features.md", "exec", dont_inherit=True), {})  # noqa: S102


def test_every_kind_is_in_the_table() -> None:
    """No kind is left out, and none is made up."""
    table = PAGE.split("## Kinds")[1].split("## Identity")[0]
    rows = re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE)
    named = set(re.findall(r"`(\w+)`", " ".join(rows)))
    assert named == {kind.__name__ for kind in KINDS.values()}
