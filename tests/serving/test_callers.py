"""Whose events were read and refused, of batches that many callers share."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.core import limits
from sentinel.serving.batching.callers import CallersCount
from sentinel.serving.batching.work import Kind, Piece, Work

# For each piece its caller and, for each of its rows, whether it is refused.
PIECES = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.lists(st.booleans(), min_size=1, max_size=5)),
    min_size=1,
    max_size=8,
)


class Book:
    """What was told."""

    def __init__(self) -> None:
        self.n_told = 0
        self.n_read: dict[str, int] = {}
        self.n_refused: dict[str, int] = {}

    def watch_callers(self, n_read: Mapping[str, int], n_refused: Mapping[str, int]) -> None:
        self.n_told += 1
        for found, told in ((self.n_read, n_read), (self.n_refused, n_refused)):
            for name, n in told.items():
                found[name] = found.get(name, 0) + n


def _piece(tenant: str, n_rows: int, start: int = 0) -> Piece:
    work = Work(Kind.EVENTS, start + n_rows, tenant, 0.0, lambda _: None)
    return Piece(work, start, start + n_rows)


@pytest.mark.reliability("G12")
@given(batches=st.lists(PIECES, min_size=1, max_size=4))
def test_every_row_is_counted_to_its_caller(
    batches: list[list[tuple[str, list[bool]]]],
) -> None:
    count, book = CallersCount(), Book()
    read: dict[str, int] = {}
    refused: dict[str, int] = {}
    for batch in batches:
        rows = [(name, is_bad) for name, flags in batch for is_bad in flags]
        count.read([_piece(name, len(flags), start=3) for name, flags in batch])
        count.refused(
            [_piece(name, len(flags), start=3) for name, flags in batch],
            [row for row, (_, is_bad) in enumerate(rows) if is_bad],
        )
        for name, is_bad in rows:
            read[name] = read.get(name, 0) + 1
            if is_bad:
                refused[name] = refused.get(name, 0) + 1
    count.tell(book)
    assert (book.n_read, book.n_refused) == (read, refused)


def test_what_was_told_is_not_told_again() -> None:
    count, book = CallersCount(), Book()
    count.read([_piece("a", 2)])
    count.tell(book)
    count.tell(book)
    assert (book.n_told, book.n_read) == (1, {"a": 2})


def test_more_callers_than_are_watched_are_told_sooner() -> None:
    """What is kept between two tellings is bounded, however many there are."""
    count = CallersCount()
    for number in range(limits.SOURCES_WATCHED_MAX):
        count.read([_piece(f"a-{number}", 1)])
        assert count.is_full == (number == limits.SOURCES_WATCHED_MAX - 1)
