"""How a command speaks: people read tables, scripts read one JSON document.

What people and scripts asked for goes to stdout; progress, notes and errors go to stderr. Nothing
that came from outside is interpreted as markup, and its control characters are escaped.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from sentinel.core.errors import shorten

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import ProgressColumn

# Tables are made to be read at this width; a wider terminal does not stretch them.
WIDTH_COLUMNS = 100
# One line of a cell: long text is folded, and cut only where it is hopeless.
_CELL_CHARACTERS_MAX = 500
_DIGEST = re.compile("[0-9a-f]{64}")
# With a name of this length it fits into 80 columns.
_DIGEST_NAME_MAX = 13
# A time to the millisecond fits.
_UNBROKEN_CHARACTERS_MAX = 24
_WORD_MAX = 9


class StdoutClosedError(Exception):
    """The reader of stdout has gone (``sentinel … | head``)."""


class Advance(Protocol):
    """What long work calls to tell how far it is."""

    def __call__(self, done: float, note: str = "") -> None:
        """Tell how much of the total is done, and what is going on."""


class Output:
    """The two streams of one command.

    Parameters
    ----------
    as_json : bool
        Print one JSON document instead of tables.

    Examples
    --------
    >>> Output(as_json=True).document({"decided": 3})
    {"decided": 3}
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json

    def show(self, *parts: RenderableType) -> None:
        """Print tables and text for people; nothing with ``--json``."""
        if self.as_json:
            return
        try:
            console = _console(to_stderr=False)
            for part in parts:
                console.print(part)
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise StdoutClosedError from error

    def document(self, document: Mapping[str, object]) -> None:
        """Print the one JSON document of the command; nothing without ``--json``."""
        if self.as_json:
            write_line(json.dumps(plain(document), allow_nan=False))

    def note(self, text: str) -> None:
        """Say something on stderr that is not the result."""
        _console(to_stderr=True).print(text, style="dim")

    @property
    def is_watched(self) -> bool:
        """Whether progress is shown: on a terminal only. What only it needs is not looked up."""
        console = _console(to_stderr=True)
        return console.is_terminal and not console.is_dumb_terminal

    @contextmanager
    def progress(self, title: str, *, total: float | None) -> Iterator[Advance]:
        """Show a progress bar on stderr, where it is watched.

        Yields a callable that takes how much of ``total`` is done, and a note. Work without an end
        has no total: time and note are shown without a bar.
        """
        if not self.is_watched:
            yield _silent
            return
        from rich.progress import Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            *_share_columns(has_total=total is not None),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        console = _console(to_stderr=True)
        with Progress(*columns, console=console, transient=True, refresh_per_second=5) as bar:
            task = bar.add_task(title, total=None if total is None else max(total, 1), note="")

            def advance(done: float, note: str = "") -> None:
                bar.update(task, completed=done, note=note)

            yield advance


def _share_columns(*, has_total: bool) -> tuple[ProgressColumn, ...]:
    """Make the bar and its percentage, where there is an end to come closer to."""
    from rich.progress import BarColumn, TextColumn

    share = TextColumn("{task.percentage:>3.0f} %", markup=False)
    return (BarColumn(bar_width=30), share) if has_total else ()


def _silent(done: float, note: str = "") -> None:
    """Nobody looks."""


def _console(*, to_stderr: bool) -> Console:
    from rich.console import Console

    stream = sys.stderr if to_stderr else sys.stdout
    probe = Console(file=stream, markup=False, highlight=False, emoji=False)
    width = min(probe.width, WIDTH_COLUMNS) if probe.is_terminal else WIDTH_COLUMNS
    return Console(
        file=stream, markup=False, highlight=False, emoji=False, width=width, soft_wrap=False
    )


def write_line(line: str) -> None:
    """Write one line to stdout, at once.

    Raises
    ------
    StdoutClosedError
        When nobody reads any more.
    """
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except BrokenPipeError as error:
        raise StdoutClosedError from error


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> RenderableType:
    """Make a table under a title; numbers stand on the right, everything else on the left."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    lines = [[cell if isinstance(cell, Text) else _cell(cell) for cell in row] for row in rows]
    made = Table(
        box=box.SIMPLE_HEAD if any(header) else None,
        show_header=any(header),
        pad_edge=True,
        padding=(0, 1, 0, 0) if any(header) else (0, 1),
    )
    for index, name in enumerate(header):
        is_number = bool(lines) and all(
            not isinstance(line[index], Text) and _looks_numeric(str(line[index])) for line in lines
        )
        # A number or a time that is broken in two is read as two.
        is_short = all(len(str(line[index])) <= _UNBROKEN_CHARACTERS_MAX for line in lines)
        # Nor is a short word, or a name at the front: other columns have longer text to fold.
        most = _WORD_MAX if index else _UNBROKEN_CHARACTERS_MAX
        words = [word for line in lines for word in str(line[index]).split()]
        made.add_column(
            name.replace("_", " "),
            justify="right" if is_number else "left",
            overflow="fold",
            no_wrap=is_number and is_short,
            min_width=max((len(word) for word in words if len(word) <= most), default=0),
        )
    for line in lines:
        made.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in line))
    return Group(Text(title, style="bold"), made, Text("")) if title else made


def pairs(title: str, rows: Mapping[str, object]) -> RenderableType:
    """Make a table of names and values without a header.

    A digest stands above the others on a line of its own: in two pieces it cannot be compared.
    """
    from rich.console import Group
    from rich.text import Text

    whole = [name for name in rows if _DIGEST.fullmatch(str(rows[name])) is not None]
    width = max((len(name) for name in rows), default=0)
    above = [
        Text.assemble(" ", (f"{name:<{min(width, _DIGEST_NAME_MAX)}}", "dim"), f"  {rows[name]}")
        for name in whole
    ]
    shown = [(Text(name, style="dim"), rows[name]) for name in rows if name not in whole]
    below = table("", ["", ""], shown)
    if not title:
        return Group(*above, below)
    return Group(Text(title, style="bold"), *above, below, Text(""))


def panel(title: str, *parts: RenderableType, style: str = "cyan") -> RenderableType:
    """Put a frame around something."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    return Panel(Group(*parts), title=Text(title), title_align="left", border_style=style)


def plain(value: object) -> object:
    """Make a value fit for strict JSON: NaN and infinity become null, odd types text.

    Examples
    --------
    >>> plain({"drift": float("nan"), "counts": (1, 2)})
    {'drift': None, 'counts': [1, 2]}
    """
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return str(value)


def number(value: float | None, *, digits: int = 3) -> str:
    """Show a number for people; a dash where there is none.

    Examples
    --------
    >>> number(1234567), number(0.12345), number(None)
    ('1,234,567', '0.123', '–')
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def duration_ms(seconds: float | None) -> str:
    """Show a duration in milliseconds.

    Examples
    --------
    >>> duration_ms(0.0123)
    '12.30 ms'
    """
    return "–" if seconds is None or not math.isfinite(seconds) else f"{seconds * 1000:,.2f} ms"


def span(seconds: float) -> str:
    """Show a length of time in the unit that fits it.

    Examples
    --------
    >>> span(0.25), span(59), span(300), span(9000), span(4_010_634)
    ('0.2 s', '59.0 s', '5.0 min', '2.5 h', '46.4 days')
    """
    for unit_s, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= unit_s:
            return f"{seconds / unit_s:,.1f} {unit}"
    return f"{seconds:.1f} s"


def is_debugging() -> bool:
    """Tell whether the user asked for tracebacks."""
    return os.environ.get("SENTINEL_DEBUG", "") == "1"


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float) or value is None:
        return number(value)
    return "\n".join(
        shorten(line, n_characters_max=_CELL_CHARACTERS_MAX) for line in str(value).split("\n")
    )


def _looks_numeric(text: str) -> bool:
    return bool(text) and text[0] in "0123456789-–+" and text[-1] in "0123456789%s–"
