"""A Redis server of a test's own: Debian's ``redis-server`` in a temporary folder."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

_START_S_MAX = 20.0
_PROBE_S = 0.01


class RedisServer:
    """A server on a unix socket, with an append-only log; ended by its process number.

    Parameters
    ----------
    folder : Path
        Short: the path of a unix socket has at most 107 bytes.
    options : dict of str to str
        Settings of ``redis-server``, beyond the test's own.

    Raises
    ------
    FileNotFoundError
        ``redis-server`` is not installed.
    """

    def __init__(self, folder: Path, options: dict[str, str] | None = None) -> None:
        program = shutil.which("redis-server")
        if program is None:
            raise FileNotFoundError(
                "redis-server is not installed: apt-get install redis-server (Debian, Ubuntu)"
            )
        self.folder = folder
        self.path = folder / "redis.sock"
        self.options = {"appendonly": "yes", "appendfsync": "everysec", **(options or {})}
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """Whether it was started, and not ended from here."""
        return self._process is not None

    @property
    def url(self) -> str:
        """Its address."""
        return f"unix://{self.path}"

    def start(self) -> None:
        """Start it on what its folder holds, and wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        fixed = {
            "port": "0", "unixsocket": str(self.path), "unixsocketperm": "700", "save": "",
            "dir": str(self.folder), "daemonize": "no", "logfile": str(self.folder / "log"),
        }  # fmt: skip
        words = [
            word
            for name, value in {**fixed, **self.options}.items()
            for word in (f"--{name}", value)
        ]
        self._process = subprocess.Popen([self._program, *words], stdin=subprocess.DEVNULL)  # noqa: S603 -- found by its name, no shell
        deadline = time.monotonic() + _START_S_MAX
        while not self._answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError((self.folder / "log").read_text()[-2000:])
            time.sleep(_PROBE_S)

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(1)
                probe.connect(str(self.path))
                probe.sendall(b"PING\r\n")
                answer = probe.recv(100)
        except OSError:
            return False
        return not answer.startswith(b"-LOADING")

    def send(self, sign: signal.Signals) -> None:
        """Send it a signal: ``SIGSTOP``, ``SIGCONT``."""
        if self._process is not None:
            self._process.send_signal(sign)

    def kill(self) -> None:
        """End it at once, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End."""
        self.kill()
