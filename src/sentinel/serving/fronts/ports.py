"""What several processes share: a port of the doors, and the folder with their own socket.

A port is held by a socket that is bound and never listens: the kernel gives it no connection, and
nobody else the port, while fronts come and go.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.serving.doors.listening import address_unusable, check_address

SOCKET_NAME = "scoring.sock"
_LOCK_NAME = "lock"
_BACKLOG = 128


def hold_port(host: str, port: int) -> socket.socket:
    """Take a port that processes of this user can then share; 0 takes any free one.

    Raises
    ------
    SentinelError
        ``address-unusable``, also where another server listens already, shared or not.
    """
    try:
        if port:
            # Without sharing first: another server's port must not be taken for our own.
            check_address(host, port)
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        held = socket.socket(family, kind, protocol)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # Connections of a server that has just ended linger for a minute, and must not be in the
        # way; afterwards the port is not to be had like this by others.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(address)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except (OSError, OverflowError) as error:
        raise address_unusable(host, port, error) from error
    return held


@contextlib.contextmanager
def run_folder(folder: Path) -> Iterator[tuple[int, socket.socket]]:
    """Take the folder of a server's processes, and listen at the socket in it.

    Yields
    ------
    folder : int
        Descriptor of the folder: its path may be too long for the address of a socket.
    listener : socket

    Raises
    ------
    SentinelError
        ``file-unwritable``; ``address-unusable`` where another server has it.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, handle)
            lock = os.open(_LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=handle)
            stack.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(SOCKET_NAME, dir_fd=handle)
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(socket_path(handle))
            os.chmod(SOCKET_NAME, 0o600, dir_fd=handle)
            listener.listen(_BACKLOG)
        except BlockingIOError as error:
            raise SentinelError(
                ErrorCode.ADDRESS_UNUSABLE,
                at=str(folder),
                expected="a folder of this server alone",
                got="one that another server has",
                hint="Give each server a folder of its own with serve_run_folder.",
            ) from error
        except OSError as error:
            raise SentinelError(
                ErrorCode.FILE_UNWRITABLE,
                at=str(folder),
                expected="a folder that this user may make and write",
                got=error.strerror or error,
            ) from error
        try:
            yield handle, listener
        finally:
            with contextlib.suppress(OSError):
                os.unlink(SOCKET_NAME, dir_fd=handle)


def socket_path(folder: int) -> str:
    """Name the socket by the folder's descriptor."""
    return f"/proc/self/fd/{folder}/{SOCKET_NAME}"
