"""A proxy in front of a Redis server that is slow, cuts connections, or answers errors."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path

_READ_BYTES = 1 << 16
# A request has ended when nothing more of it came for so long.
_QUIET_S = 0.02
_TICK_S = 0.1


class RedisProxy:
    """Forward a unix socket to another, with faults that are set from outside.

    Parameters
    ----------
    folder : Path
        Where its own socket is made.
    server : Path
        Socket of the real server.

    Attributes
    ----------
    delay_s : float
        Every piece of a reply is late by so much.
    cut_request_after, cut_reply_after : int
        Bytes, from the next byte on, after which the connection is closed; below 0: never.
    canned : bytes
        Answered to every request that loads or commits, which the server never sees; empty: none.
    n_canned : int
        How often.
    """

    def __init__(self, folder: Path, server: Path) -> None:
        self.path = folder / "proxy.sock"
        self.delay_s = 0.0
        self.cut_request_after = -1
        self.cut_reply_after = -1
        self.canned = b""
        self.n_canned = 0
        self._server = server
        self._is_open = True
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._listener.settimeout(_TICK_S)
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        """Its address."""
        return f"unix://{self.path}"

    def close(self) -> None:
        """Stop, and end every connection."""
        self._is_open = False
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while self._is_open:
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            thread = threading.Thread(target=self._serve, args=(client,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(client)
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            try:
                server.connect(str(self._server))
            except OSError:
                return
            back = threading.Thread(target=self._carry_replies, args=(server, client))
            back.start()
            with contextlib.suppress(OSError):
                self._carry_requests(client, server)
            for end in (client, server):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            back.join()

    def _carry_requests(self, client: socket.socket, server: socket.socket) -> None:
        client.settimeout(_TICK_S)
        while self._is_open:
            try:
                content = client.recv(_READ_BYTES)
            except TimeoutError:
                continue
            if not content:
                return
            if self.canned and (b"EVAL" in content or b"MULTI" in content):
                self._swallow(client)
                self.n_canned += 1
                client.sendall(self.canned)
                continue
            n_left, self.cut_request_after = _after(self.cut_request_after, len(content))
            server.sendall(content[:n_left])
            if n_left < len(content):
                return

    def _swallow(self, client: socket.socket) -> None:
        client.settimeout(_QUIET_S)
        with contextlib.suppress(TimeoutError):
            while client.recv(_READ_BYTES):
                pass
        client.settimeout(_TICK_S)

    def _carry_replies(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := server.recv(_READ_BYTES):
                if self.delay_s:
                    time.sleep(self.delay_s)
                n_left, self.cut_reply_after = _after(self.cut_reply_after, len(content))
                client.sendall(content[:n_left])
                if n_left < len(content):
                    break
        for end in (client, server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def _after(bound: int, n_bytes: int) -> tuple[int, int]:
    """Say how many bytes pass, and what is left of the bound."""
    if bound < 0:
        return n_bytes, -1
    if n_bytes <= bound:
        return n_bytes, bound - n_bytes
    return bound, -1
