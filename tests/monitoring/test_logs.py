"""Logs are JSON lines whatever is logged, and nobody waits for them."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.core import limits
from sentinel.monitoring.logs import (
    HIDDEN,
    JsonFormatter,
    LineHandler,
    hide_secrets,
    start_logging,
)

FORMATTER = JsonFormatter(service="sentinel", version="0.1.0")


def _strict(line: str) -> dict[str, object]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in a log line")

    entry: dict[str, object] = json.loads(line, parse_constant=refuse)
    return entry


def _record(message: object, *arguments: object, **extra: object) -> logging.LogRecord:
    record = logging.LogRecord("sentinel.test", logging.WARNING, "", 1, message, arguments, None)
    record.__dict__.update(extra)
    return record


def _failed_record(message: str, error: Exception, *arguments: object) -> logging.LogRecord:
    def fail() -> None:
        raise error

    record = _record(message, *arguments)
    try:
        fail()
    except Exception as caught:  # noqa: BLE001 -- whatever was given
        record.exc_info = (type(caught), caught, caught.__traceback__)
    return record


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Return a pipe's two ends."""
    reader, writer = os.pipe()
    yield reader, writer
    for end in (reader, writer):
        try:
            os.close(end)
        except OSError:
            continue


def test_an_entry_has_the_names_of_the_common_schema() -> None:
    """ELK takes it as it is."""
    entry = _strict(FORMATTER.format(_record("read %d events", 7, source="cards")))
    assert entry["message"] == "read 7 events"
    assert entry["log.level"] == "warning"
    assert entry["service.name"] == "sentinel"
    assert entry["log.logger"] == "sentinel.test"
    assert entry["source"] == "cards"
    assert str(entry["@timestamp"]).endswith("Z")


@given(
    message=st.text(),
    value=st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text()
        | st.binary()
        | st.complex_numbers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
)
def test_anything_logged_is_one_line_of_strict_json(message: str, value: object) -> None:
    """Line ends, lone surrogates, NaN, huge integers: one line, and it parses."""
    line = FORMATTER.format(_record("%s", message, value=value))
    assert line.isascii()
    assert "\n" not in line
    assert "\r" not in line
    _strict(line)


@pytest.mark.parametrize(
    "forged",
    [
        'ok\n{"log.level":"critical","message":"forged"}',
        "ok\r\nERROR forged",
        "\u2028forged\u0085forged\x0b\x0c",
        "\x1b[2Jforged",
        '", "log.level": "critical',
    ],
)
def test_a_message_cannot_forge_a_line(forged: str) -> None:
    """What an attacker controls stays inside one string."""
    line = FORMATTER.format(_record("user %s", forged))
    assert len(line.splitlines()) == 1
    assert "\x1b" not in line
    assert _strict(line)["log.level"] == "warning"


def test_numbers_that_are_not_finite_are_null() -> None:
    """I4: no NaN in any log, at any depth."""
    nan = float("nan")
    entry = _strict(FORMATTER.format(_record("x", score=nan, deep={"a": [nan, 1.5]})))
    assert entry["score"] is None
    assert entry["deep"] == {"a": [None, 1.5]}


def test_arguments_that_do_not_fit_do_not_lose_the_line() -> None:
    """A mistake in a log call is logged."""
    entry = _strict(FORMATTER.format(_record("%d events", "many")))
    assert "%d events" in str(entry["message"])


def test_an_error_brings_its_trace_in_the_same_line() -> None:
    """One entry, not fifty lines."""
    record = _failed_record("failed", ValueError("a\nb"))
    entry = _strict(FORMATTER.format(record))
    assert entry["error.type"] == "ValueError"
    assert "Traceback" in str(entry["error.stack_trace"])


def test_long_and_deep_values_are_cut() -> None:
    """I6: a line has a bound."""
    deep: list[object] = []
    for _ in range(500):
        deep = [deep]
    line = FORMATTER.format(
        _record("y" * 10_000_000, many=list(range(10_000)), deep=deep, text="x" * 10_000_000)
    )
    assert len(line) < 4 * limits.LOG_TEXT_CHARACTERS_MAX
    _strict(line)


SECRETS = [
    ("password=hunter2", "hunter2"),
    ("db_password: hunter2 end", "hunter2"),
    ("Authorization: Bearer eyJhbGciOiJIUzI1NiJ9.e30.abc", "eyJ"),
    ("redis://user:s3cret@host:6379", "s3cret"),
    ("api_key=AKIA1234567890", "AKIA"),
    ("card 4111111111111111 declined", "4111111111111111"),
    ("card 4111-1111-1111-1111", "1111-1111"),
    ("card 5500 0000 0000 0004", "0000 0004"),
    ("amex 378282246310005", "378282246310005"),
    ("-----BEGIN PRIVATE KEY-----\nMIIEv\n-----END PRIVATE KEY-----", "MIIEv"),
]


@pytest.mark.parametrize(("text", "secret"), SECRETS)
def test_secrets_are_hidden_in_messages_values_and_traces(text: str, secret: str) -> None:
    """J7: wherever they were planted."""
    record = _failed_record("%s", ValueError(text), text)
    record.__dict__.update(value=text, deep=[{"a": text}], password="hunter2")
    line = FORMATTER.format(record)
    assert secret not in line
    assert "hunter2" not in line
    assert HIDDEN in line


def test_a_card_number_as_an_integer_is_hidden_too() -> None:
    """A JSON integer is read by people as well."""
    entry = _strict(FORMATTER.format(_record("x", card=4111111111111111, n=12)))
    assert entry["card"] == HIDDEN
    assert entry["n"] == 12


@pytest.mark.parametrize(
    "text", ["1700000000000000", "position 123456789", "4111111111111112", "0.41111111111111111"]
)
def test_numbers_that_are_no_cards_stay(text: str) -> None:
    """Instants, positions, fractions, wrong check digits."""
    assert hide_secrets(text) == text


def test_a_blocked_reader_never_blocks_the_writer(pipe: tuple[int, int]) -> None:
    """I4 of the table of resources: the pipe is full, lines are dropped and counted."""
    _, writer = pipe
    handler = LineHandler(writer, n_lines_max=50)
    handler.setFormatter(FORMATTER)
    for i in range(3000):
        handler.emit(_record("line %d %s", i, "x" * 200))
    assert handler.n_dropped > 0
    handler.close()
    assert handler.n_written + handler.n_dropped == 3000


def test_every_line_arrives_whole_when_somebody_reads(pipe: tuple[int, int]) -> None:
    """Four threads, long lines; none is torn, none is lost."""
    reader, writer = pipe
    handler = LineHandler(writer)
    handler.setFormatter(FORMATTER)
    received: list[bytes] = []

    def read() -> None:
        while chunk := os.read(reader, 65_536):
            received.append(chunk)

    def write() -> None:
        for i in range(100):
            handler.emit(_record("%d %s", i, "y" * 9000))

    reading = threading.Thread(target=read)
    reading.start()
    writing = [threading.Thread(target=write) for _ in range(4)]
    for thread in writing:
        thread.start()
    for thread in writing:
        thread.join()
    handler.close()
    os.close(writer)
    reading.join()
    lines = b"".join(received).decode().splitlines()
    assert len(lines) == handler.n_written == 400
    for line in lines:
        _strict(line)
    assert handler.n_dropped == 0


def test_a_reader_that_went_away_costs_lines_only(pipe: tuple[int, int]) -> None:
    """A closed pipe is counted, and the process lives."""
    reader, writer = pipe
    os.close(reader)
    handler = LineHandler(writer)
    handler.setFormatter(FORMATTER)
    for _ in range(10):
        handler.emit(_record("x"))
    handler.close()
    assert (handler.n_written, handler.n_dropped) == (0, 10)


def test_a_value_that_cannot_be_shown_costs_one_line(pipe: tuple[int, int]) -> None:
    """A broken object does not break the process."""

    class Broken:
        def __str__(self) -> str:
            raise ValueError("no")

    _, writer = pipe
    handler = LineHandler(writer)
    handler.setFormatter(FORMATTER)
    handler.emit(_record("x", value=Broken()))
    handler.close()
    assert handler.n_dropped == 1


def test_logging_starts_once_and_writes_what_its_level_says(tmp_path: Path) -> None:
    """A second start takes the place of the first."""
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    logger = logging.getLogger("sentinel.test")
    start_logging(service="a", version="1", level="INFO", descriptor=descriptor)
    handler = start_logging(service="b", version="1", level="WARNING", descriptor=descriptor)
    logger.info("not this")
    logger.warning("this")
    handler.close()
    logging.getLogger("sentinel").removeHandler(handler)
    logging.getLogger("sentinel").propagate = True
    os.close(descriptor)
    entries = [_strict(line) for line in path.read_text().splitlines()]
    assert [(entry["service.name"], entry["message"]) for entry in entries] == [("b", "this")]


_WITHOUT_THREADS = """
import resource, sys
from sentinel.monitoring.logs import LineHandler
pages = int(open("/proc/self/statm").read().split()[0])
room = pages * resource.getpagesize() + (1 << 20)
resource.setrlimit(resource.RLIMIT_AS, (room, room))
try:
    LineHandler(1)
except RuntimeError as error:
    print(error)
"""


def test_a_handler_that_finds_no_room_for_its_thread_is_none_at_the_end_either() -> None:
    """Logging closes every handler at exit: one that never ran must not be among them."""
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_THREADS],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("can't start new thread\n", "")
