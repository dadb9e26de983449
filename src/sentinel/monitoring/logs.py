r"""Application logs: JSON lines on standard ``logging``, that never stop or confuse anybody.

- One line an entry, strict JSON: line ends inside a message are ``\n`` in a string, NaN is null.
- Names as in the Elastic Common Schema (``@timestamp``, ``log.level``, ``message``,
  ``service.name``), so that an ELK stack takes them as they are.
- The writing is done by a thread behind a bounded queue. Where nobody reads standard output, lines
  are dropped and counted; the process goes on.
- Values whose name says secret, and card numbers wherever they stand, are hidden.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import logging
import math
import os
import queue
import re
import select
import threading
import time
import traceback
from types import TracebackType

from sentinel.core import limits

HIDDEN = "[hidden]"
_SECRET_NAME = re.compile(
    r"pass(word|wd|phrase)|secret|token|api_?key|private_?key|authorization|credential|cookie"
    r"|card_?number|\bpan\b|cvv|cvc",
    re.IGNORECASE,
)
_SECRET_TEXT = re.compile(
    r"(?i)\b(bearer|basic)\s+[a-z0-9._~+/=-]{8,}"
    r"|\b((?:\w*(?:password|passwd|secret|token|api_?key))\s*[=:]\s*)\S+"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)
# First digits of payment cards (ISO/IEC 7812): no instant of this century looks like one.
_CARD_NUMBER = re.compile(r"(?<![\d.])(?:[3-6]|2[ -]?[2-7])(?:[ -]?\d){11,18}(?!\d)")
# Attributes of a record that logging itself puts there; all others came with `extra`.
_OWN_ATTRIBUTES = frozenset(logging.LogRecord("", 0, "", 0, "", None, None).__dict__) | {
    "message",
    "asctime",
    "taskName",
}
_CLOSE_S_MAX = 2.0


class JsonFormatter(logging.Formatter):
    r"""Turn a log record into one line of strict JSON.

    Parameters
    ----------
    service : str
        ``service.name`` of every line.
    version : str
        ``service.version``.

    Examples
    --------
    >>> record = logging.LogRecord("sentinel", 20, "", 0, "a\nb %s", ("c",), None)
    >>> json.loads(JsonFormatter(service="s", version="1").format(record))["message"]
    'a\nb c'
    """

    def __init__(self, *, service: str, version: str) -> None:
        super().__init__()
        self._service = service
        self._version = version

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        moment = dt.datetime.fromtimestamp(record.created, dt.UTC)
        entry: dict[str, object] = {
            "@timestamp": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "log.level": record.levelname.lower(),
            "message": _message(record),
            "ecs.version": "8.11.0",
            "service.name": self._service,
            "service.version": self._version,
            "log.logger": record.name,
            "process.pid": record.process,
            "process.thread.name": record.threadName,
        }
        if record.exc_info and record.exc_info[0] is not None:
            kind, error, trace = record.exc_info
            entry["error.type"] = kind.__name__
            entry["error.message"] = str(error)
            entry["error.stack_trace"] = _trace(kind, error, trace)
        for name, value in record.__dict__.items():
            if name not in _OWN_ATTRIBUTES and name not in entry:
                entry[name] = HIDDEN if _SECRET_NAME.search(name) else value
        clean = {str(name): _clean(value, depth=0) for name, value in entry.items()}
        return json.dumps(clean, allow_nan=False, ensure_ascii=True)


class LineHandler(logging.Handler):
    """Write lines to a file descriptor from a thread of its own; never wait, never fail.

    Parameters
    ----------
    descriptor : int
        Where lines go, such as 1 for standard output.
    n_lines_max : int
        Lines that may wait; further ones are dropped and counted.

    Attributes
    ----------
    n_written, n_dropped : int
        ``emitted = n_written + n_dropped`` after :meth:`close`.
    n_by_level : dict of str to int
        Lines emitted, by level, those that were dropped included.
    """

    def __init__(self, descriptor: int, *, n_lines_max: int = limits.LOG_LINES_MAX) -> None:
        self._descriptor = descriptor
        self._queue: queue.Queue[bytes | None] = queue.Queue(n_lines_max)
        self._count_lock = threading.Lock()
        self._close_by_s = math.inf
        self.n_written = 0
        self.n_dropped = 0
        self.n_by_level: dict[str, int] = {}
        self._thread = threading.Thread(target=self._run, name="log-lines", daemon=True)
        self._thread.start()
        # Last: from here on logging closes it at the end of the process, whatever it is.
        super().__init__()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one line; drop and count it where there is no room."""
        level = record.levelname.lower()
        with self._count_lock:
            self.n_by_level[level] = self.n_by_level.get(level, 0) + 1
        try:
            line = self.format(record).encode() + b"\n"
            self._queue.put_nowait(line)
        except (queue.Full, ValueError, TypeError, RecursionError):
            self._drop()

    def close(self) -> None:
        """Write what waits, for a short time, and count the rest as dropped."""
        if self._close_by_s == math.inf:
            self._close_by_s = time.monotonic() + _CLOSE_S_MAX
            with contextlib.suppress(queue.Full):  # then the thread looks at the time
                self._queue.put_nowait(None)
            self._thread.join(_CLOSE_S_MAX * 2)
        super().close()

    def _drop(self, n: int = 1) -> None:
        with self._count_lock:
            self.n_dropped += n

    def _run(self) -> None:
        while True:
            line = self._queue.get()
            if line is None:
                return
            if self._write(line):
                self.n_written += 1
            else:
                self._drop()
            if time.monotonic() > self._close_by_s:
                break
        while True:
            try:
                self._drop(self._queue.get_nowait() is not None)
            except queue.Empty:
                return

    def _write(self, line: bytes) -> bool:
        """Write one whole line when somebody reads; give up when closing, or nobody is there."""
        rest = memoryview(line)
        while rest:
            try:
                _, is_writable, _ = select.select([], [self._descriptor], [], 0.1)
                if is_writable:
                    # A pipe takes at least this much at once when it is writable.
                    rest = rest[os.write(self._descriptor, rest[: select.PIPE_BUF]) :]
                elif time.monotonic() > self._close_by_s:
                    return False
            except (OSError, ValueError):
                return False
        return True


def start_logging(*, service: str, version: str, level: str, descriptor: int = 1) -> LineHandler:
    """Send the logs of the package ``sentinel`` to a descriptor, as JSON lines.

    Parameters
    ----------
    service, version : str
    level : str
        Least level that is written, such as ``INFO``.
    descriptor : int

    Returns
    -------
    LineHandler
        Close it at the end of the process; its counts are metrics.
    """
    handler = LineHandler(descriptor)
    handler.setFormatter(JsonFormatter(service=service, version=version))
    logger = logging.getLogger("sentinel")
    for old in list(logger.handlers):
        if isinstance(old, LineHandler):
            logger.removeHandler(old)
            old.close()
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    return handler


def hide_secrets(text: str) -> str:
    """Hide what must not be in a log: credentials and card numbers.

    Examples
    --------
    >>> hide_secrets("password=hunter2 card 4111 1111 1111 1111")
    'password=[hidden] card [hidden]'
    """
    text = _SECRET_TEXT.sub(lambda match: (match.group(2) or "") + HIDDEN, text)
    return _CARD_NUMBER.sub(lambda m: HIDDEN if _is_card_number(m.group()) else m.group(), text)


def _is_card_number(text: str) -> bool:
    """Check the digit sum of ISO/IEC 7812-1 (Luhn)."""
    total = 0
    for place, digit in enumerate(int(c) for c in reversed(text) if c.isdigit()):
        doubled = digit * 2 if place % 2 else digit
        total += doubled - 9 if doubled > 9 else doubled
    return total % 10 == 0


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError) as error:
        return f"{record.msg} (arguments do not fit: {error})"


def _trace(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
) -> str:
    return "".join(traceback.format_exception(kind, error, trace))


def _clean(value: object, *, depth: int) -> object:
    """Make a value safe for a line: finite, bounded, without secrets."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if abs(value) >= 1 << 63:
            return "[integer too long]"  # str() of it may take for ever
        return HIDDEN if HIDDEN in hide_secrets(str(int(value))) else int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if depth < limits.LOG_VALUE_DEPTH_MAX and isinstance(value, dict):
        return {
            str(name)[: limits.LOG_TEXT_CHARACTERS_MAX]: HIDDEN
            if _SECRET_NAME.search(str(name))
            else _clean(item, depth=depth + 1)
            for name, item in list(value.items())[: limits.LOG_VALUE_ITEMS_MAX]
        }
    if depth < limits.LOG_VALUE_DEPTH_MAX and isinstance(value, list | tuple):
        return [_clean(item, depth=depth + 1) for item in value[: limits.LOG_VALUE_ITEMS_MAX]]
    return hide_secrets(str(value)[: limits.LOG_TEXT_CHARACTERS_MAX])
