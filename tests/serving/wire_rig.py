"""One call of gRPC over a plain socket: what client libraries keep to themselves is seen here.

HTTP/2 (RFC 9113) with headers written as literals (RFC 7541, 6.2.2); the setting of gRPC that
asks for binary metadata as they are (``GRPC_ALLOW_TRUE_BINARY_METADATA``).
"""

from __future__ import annotations

import socket
import struct

_DATA, _HEADERS, _SETTINGS, _PING = 0, 1, 4, 6
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_TRUE_BINARY = 0xFE03


def call(port: int, path: str, message: bytes) -> bytes:
    """Make a unary call; return the header block of its trailers."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as link:
        link.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        link.sendall(_frame(_SETTINGS, 0, 0, struct.pack(">HI", _TRUE_BINARY, 1)))
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "127.0.0.1",
            "content-type": "application/grpc",
            "te": "trailers",
        }
        block = b"".join(_literal(name, value) for name, value in headers.items())
        link.sendall(_frame(_HEADERS, _END_HEADERS, 1, block))
        content = b"\0" + struct.pack(">I", len(message)) + message
        link.sendall(_frame(_DATA, _END_STREAM, 1, content))
        while True:
            kind, flags, payload = _read_frame(link)
            if kind == _HEADERS and flags & _END_STREAM:
                return payload
            if kind in {_SETTINGS, _PING} and not flags & _ACK:
                link.sendall(_frame(kind, _ACK, 0, payload if kind == _PING else b""))


def binary_header(block: bytes, name: str) -> bytes | None:
    """Find a binary header in a block; None when it is not there."""
    at = block.find(name.encode())
    if at < 0:
        return None
    at += len(name)
    n_bytes = block[at]
    value = block[at + 1 : at + 1 + n_bytes]
    assert value[:1] == b"\0", "not as it is"
    return value[1:]


def _literal(name: str, value: str) -> bytes:
    parts = b"".join(bytes([len(part)]) + part.encode() for part in (name, value))
    return b"\0" + parts


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return (
        struct.pack(">I", len(payload))[1:]
        + bytes([kind, flags])
        + struct.pack(">I", stream)
        + payload
    )


def _read_frame(link: socket.socket) -> tuple[int, int, bytes]:
    head = _read(link, 9)
    return head[3], head[4], _read(link, int.from_bytes(head[:3], "big"))


def _read(link: socket.socket, n_bytes: int) -> bytes:
    content = b""
    while len(content) < n_bytes:
        part = link.recv(n_bytes - len(content))
        assert part, "the connection ended"
        content += part
    return content
