"""A body of lines that is answered while it comes: NDJSON in chunks, both ways, without an end.

Each line is an event, each line of the answer its decision, or why there is none; they keep their
order. What has come in one chunk is one request to the queue, with a deadline of its own. Where the
queue has no room, or no time, the lines wait here and nothing more is read: who sends faster than
is scored gets slower, not refused. So many lines may be under way; then nothing more is read until
half of them are answered and the client has read its answers. A line that is too long, and a server
that drains, end the stream with a line that says so, behind the answers that are owed, and without
the last chunk: a client that looks sees that it was cut off.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.serving import bounds
from sentinel.serving.batching.queue_of_rows import OverloadedError
from sentinel.serving.batching.work import Reply, Result, TensorAnswers, Work
from sentinel.serving.doors.http_message import NDJSON, chunk, streamed_head, written_lines

_LAST_CHUNK = b"0\r\n\r\n"
Submit = Callable[[Sequence[bytes], Reply], Work]


class Outlet(Protocol):
    """The connection of a stream."""

    def send(self, content: bytes) -> None:
        """Send a part of the answer."""

    def hold_stream(self, is_held: bool) -> None:
        """Read nothing more, or read on."""

    def call_soon(self, call: Callable[[], None]) -> None:
        """Call back a few batches later."""

    def end_stream(self, *, closes: bool) -> None:
        """All is said; the connection ends, or takes its next request."""


class _Piece:
    """Lines that are submitted together, and what became of them."""

    __slots__ = ("answers", "events", "work")

    def __init__(self, events: list[bytes]) -> None:
        self.events = events
        self.work: Work | None = None
        self.answers: Sequence[bytes | SentinelError] | None = None


class LineStream:
    """One stream of events.

    Parameters
    ----------
    submit : callable
        Takes events and a reply; raises where they are refused at once.
    abandon : callable
        Told the work that nobody waits for any more.
    """

    def __init__(self, submit: Submit, abandon: Callable[[Work], None]) -> None:
        self._submit = submit
        self._abandon = abandon
        self._outlet: Outlet | None = None
        self._rest = b""
        self._pieces: deque[_Piece] = deque()
        # Those of them that found no room in the queue, and all behind the first of these.
        self._put_off: deque[_Piece] = deque()
        self._n_ahead = self._n_written = 0
        self._has_begun = self._is_held = self._is_over = False
        self._fault: SentinelError | None = None

    def begin(self, outlet: Outlet) -> None:
        """Name the connection; call it before anything is fed."""
        self._outlet = outlet

    def feed(self, content: bytes) -> None:
        """Take what has come of the body."""
        if self._is_over:
            return
        *lines, self._rest = (self._rest + content).split(b"\n")
        if len(self._rest) > bounds.STREAM_LINE_BYTES_MAX:
            bound = f"lines of at most {bounds.STREAM_LINE_BYTES_MAX} bytes"
            error = SentinelError(
                ErrorCode.REQUEST_TOO_LARGE, at="body", expected=bound, got=f"{len(self._rest)} …"
            )
            self._take(lines)
            self.fail(error)
            return
        self._take(lines)

    def end(self) -> None:
        """Notice the end of the body: the last line may have no line end."""
        if not self._is_over:
            self._take([self._rest])
            self._is_over = True
            self._flush()

    def fail(self, error: SentinelError) -> None:
        """End it after the answers that are owed, with a line that says why."""
        if not self._is_over:
            self._is_over, self._fault = True, error
            self._flush()

    def abandon(self) -> None:
        """Forget everything: the client is gone."""
        self._outlet, self._is_over = None, True
        for piece in self._pieces:
            if piece.answers is None and piece.work is not None:
                self._abandon(piece.work)
        self._pieces.clear()
        self._put_off.clear()

    # --- private -----------------------------------------------------------------------------

    def _take(self, lines: list[bytes]) -> None:
        events = [line for line in lines if line and not line.isspace()]
        for first in range(0, len(events), bounds.REQUEST_ROWS_MAX):
            self._ask(events[first : first + bounds.REQUEST_ROWS_MAX])
        self._flush()

    def _ask(self, events: list[bytes]) -> None:
        piece = _Piece(events)
        self._pieces.append(piece)
        self._n_ahead += len(events)
        if self._put_off:
            self._put_off.append(piece)
        else:
            self._try(piece)

    def _try(self, piece: _Piece) -> None:
        def reply(result: Result) -> None:
            self._answered(piece, result)

        try:
            piece.work = self._submit(piece.events, reply)
        except SentinelError as error:
            self._answered(piece, error)

    def _try_again(self) -> None:
        """Submit what was put off, in its order, as far as there is room now."""
        waiting, self._put_off = self._put_off, deque()
        while waiting and not self._put_off:
            self._try(waiting.popleft())
        self._put_off += waiting
        self._flush()

    def _answered(self, piece: _Piece, result: Result) -> None:
        if isinstance(result, TensorAnswers):
            raise TypeError("tensors where events were asked for")
        if isinstance(result, OverloadedError) and self._outlet is not None:
            piece.work = None
            if not self._put_off:
                self._outlet.call_soon(self._try_again)
            self._put_off.append(piece)
            return
        if isinstance(result, SentinelError):
            piece.answers = [result] * len(piece.events)
        else:
            piece.answers = result.lines
        if self._pieces and self._pieces[0] is piece and piece.work is not None:
            self._flush()

    def _flush(self) -> None:
        """Send what is answered, in order; then end where all is said."""
        outlet = self._outlet
        if outlet is None:
            return
        parts: list[bytes] = []
        while self._pieces and (answers := self._pieces[0].answers) is not None:
            self._pieces.popleft()
            parts += written_lines(answers, first=self._n_written)
            self._n_written += len(answers)
            self._n_ahead -= len(answers)
        is_last = self._is_over and not self._pieces
        if is_last and self._fault is not None:
            parts += written_lines([self._fault], first=self._n_written)
        content = chunk(b"".join([part + b"\n" for part in parts])) if parts else b""
        if is_last and self._fault is None:
            content += _LAST_CHUNK
        if content and not self._has_begun:
            self._has_begun = True
            content = streamed_head(200, NDJSON) + content
        if content:
            outlet.send(content)
        if is_last:
            self._outlet = None
            outlet.end_stream(closes=self._fault is not None)
            return
        n_ahead_max = bounds.STREAM_LINES_AHEAD_MAX // (2 if self._is_held else 1)
        is_held = self._n_ahead > n_ahead_max or bool(self._put_off)
        if is_held != self._is_held:
            self._is_held = is_held
            outlet.hold_stream(is_held)
