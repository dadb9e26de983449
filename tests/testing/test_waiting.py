"""Waiting ends when something holds, and says so when it never does."""

from __future__ import annotations

import pytest

from sentinel.testing import wait_until


def test_what_holds_after_a_while_is_waited_for() -> None:
    answers = iter([False, False, True, False])
    wait_until(lambda: next(answers), every_s=0.0)
    assert next(answers) is False


def test_what_never_holds_is_an_error_that_says_how_it_stands() -> None:
    with pytest.raises(AssertionError, match=r"^it did not happen$"):
        wait_until(lambda: False, wait_s=0.0)
    with pytest.raises(AssertionError, match=r"^it did not happen 3 of 4$"):
        wait_until(lambda: False, wait_s=0.0, detail=lambda: "3 of 4")
