"""A real file system that forgets what was not synced: a power cut for real processes.

``kill -9`` proves nothing about durability: the kernel still has what was written. Here the
kernel's own FUSE protocol is served by a process in a few operations, without any library. Content
is durable after ``fsync`` of the file, names and renames after ``fsync`` of the folder. At a cut
every later call fails, and when power is back the files are what a disk would have: what was
synced, and of the rest nothing, all, or a torn part.

It needs ``/dev/fuse`` and the right to mount; :func:`why_not` says what is missing.

Source: Linux, ``include/uapi/linux/fuse.h``, protocol 7.31.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import stat
import struct
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Self

from sentinel.testing.memory_disk import surviving

_IN = struct.Struct("<IIQQIIII")
_OUT = struct.Struct("<IiQ")
_ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
_RENAME_HEAD = {12: 8, 45: 16}
_REQUEST_BYTES = (1 << 20) + 4096
_ROOT = 1
_CLONED_WRITES = 128 * 1024
# Opcodes of the protocol.
(
    _LOOKUP, _FORGET, _GETATTR, _SETATTR, _MKDIR, _UNLINK, _RMDIR, _RENAME, _OPEN, _READ, _WRITE,
    _STATFS, _RELEASE, _FSYNC, _FLUSH, _INIT, _OPENDIR, _READDIR, _RELEASEDIR, _FSYNCDIR, _ACCESS,
    _CREATE, _INTERRUPT, _DESTROY, _BATCH_FORGET, _RENAME2,
) = (
    1, 2, 3, 4, 9, 10, 11, 12, 14, 15, 16,
    17, 18, 20, 25, 26, 27, 28, 29, 30, 34,
    35, 36, 38, 42, 45,
)  # fmt: skip
_NO_REPLY = frozenset({_FORGET, _BATCH_FORGET, _INTERRUPT})
_CHANGES = frozenset({_SETATTR, _UNLINK, _RENAME, _RENAME2, _WRITE, _FSYNC, _FSYNCDIR, _CREATE})


class _FileSystemError(Exception):
    """An operation fails with an error number."""

    def __init__(self, number: int) -> None:
        super().__init__(os.strerror(number))
        self.number = number


@dataclass(slots=True)
class _Node:
    """A file or a folder: as processes see it, and as a disk would have it."""

    is_folder: bool = False
    mode: int = 0o700
    content: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    names: dict[str, int] = field(default_factory=dict)
    durable_names: dict[str, int] = field(default_factory=dict)


class _Tree:
    """The files, and the operations on them."""

    def __init__(self, *, forgets_syncs: bool) -> None:
        self.nodes: dict[int, _Node] = {_ROOT: _Node(is_folder=True)}
        self.forgets_syncs = forgets_syncs
        self.n_changes_left = -1
        self.is_off = False
        self._next = _ROOT + 1

    def cut(self, keep: float, seed: int) -> None:
        """Be what the disk has after the power cut, and work again."""
        rng = Random(seed)  # noqa: S311 -- a seeded choice, not a secret
        for _, node in sorted(self.nodes.items()):
            if node.is_folder:
                names = dict(node.durable_names)
                for name in sorted(set(node.names) | set(names)):
                    if rng.random() < keep:
                        if name in node.names:
                            names[name] = node.names[name]
                        else:
                            names.pop(name, None)
                node.names, node.durable_names = dict(names), dict(names)
            else:
                left = surviving(bytes(node.content), node.durable, keep, rng)
                node.content, node.durable = bytearray(left), left
        self.is_off = False
        self.n_changes_left = -1

    def handle(self, opcode: int, number: int, body: bytes) -> bytes:
        """Do an operation; the power may go off before it."""
        if opcode in _CHANGES and self.n_changes_left >= 0:
            self.is_off = self.is_off or self.n_changes_left == 0
            self.n_changes_left = max(0, self.n_changes_left - 1)
        if self.is_off and opcode not in {_RELEASE, _RELEASEDIR, _FLUSH}:
            raise _FileSystemError(errno.EIO)
        operations = {
            _LOOKUP: self._lookup, _GETATTR: self._attributes, _SETATTR: self._set_attributes,
            _MKDIR: self._make_folder, _UNLINK: self._unlink, _RMDIR: self._unlink,
            _OPEN: self._open, _READ: self._read, _WRITE: self._write, _STATFS: self._room,
            _FSYNC: self._sync, _OPENDIR: self._open, _READDIR: self._list,
            _FSYNCDIR: self._sync, _CREATE: self._create,
        }  # fmt: skip
        if opcode in _RENAME_HEAD:
            return self._rename(number, body, _RENAME_HEAD[opcode])
        if opcode in {_RELEASE, _RELEASEDIR, _FLUSH, _ACCESS, _DESTROY}:
            return b""
        if opcode not in operations:
            raise _FileSystemError(errno.ENOSYS)
        return operations[opcode](number, body)

    def _node(self, number: int) -> _Node:
        if number not in self.nodes:
            raise _FileSystemError(errno.ENOENT)
        return self.nodes[number]

    def _attr(self, number: int) -> bytes:
        node = self._node(number)
        kind = stat.S_IFDIR if node.is_folder else stat.S_IFREG
        size = len(node.content)
        own = (os.getuid(), os.getgid(), 0, 4096, 0)
        return _ATTR.pack(
            number, size, -(-size // 512), 0, 0, 0, 0, 0, 0, kind | node.mode, 1, *own
        )

    def _entry(self, number: int) -> bytes:
        return struct.pack("<QQQQII", number, 0, 0, 0, 0, 0) + self._attr(number)

    def _lookup(self, number: int, body: bytes) -> bytes:
        name = body.rstrip(b"\0").decode()
        found = self._node(number).names.get(name)
        if found is None:
            raise _FileSystemError(errno.ENOENT)
        return self._entry(found)

    def _attributes(self, number: int, _: bytes) -> bytes:
        return struct.pack("<QII", 0, 0, 0) + self._attr(number)

    def _set_attributes(self, number: int, body: bytes) -> bytes:
        valid, _, _, size = struct.unpack_from("<IIQQ", body)
        (mode,) = struct.unpack_from("<I", body, 68)
        node = self._node(number)
        if valid & 1:
            node.mode = stat.S_IMODE(mode)
        if valid & 8:
            del node.content[size:]
            node.content.extend(bytes(size - len(node.content)))
        return self._attributes(number, b"")

    def _add(self, parent: int, name: str, node: _Node) -> int:
        number = self._next
        self._next += 1
        self.nodes[number] = node
        self._node(parent).names[name] = number
        return number

    def _make_folder(self, number: int, body: bytes) -> bytes:
        name = body[8:].rstrip(b"\0").decode()
        made = self._add(number, name, _Node(is_folder=True))
        # Folders are made once, before anything that matters.
        self._node(number).durable_names[name] = made
        return self._entry(made)

    def _create(self, number: int, body: bytes) -> bytes:
        _, mode, _, _ = struct.unpack_from("<IIII", body)
        name = body[16:].rstrip(b"\0").decode()
        made = self._add(number, name, _Node(mode=stat.S_IMODE(mode)))
        return self._entry(made) + struct.pack("<QII", made, 0, 0)

    def _unlink(self, number: int, body: bytes) -> bytes:
        if self._node(number).names.pop(body.rstrip(b"\0").decode(), None) is None:
            raise _FileSystemError(errno.ENOENT)
        return b""

    def _rename(self, number: int, body: bytes, n_head: int) -> bytes:
        (target,) = struct.unpack_from("<Q", body)
        old, new = body[n_head:].split(b"\0")[:2]
        moved = self._node(number).names.pop(old.decode(), None)
        if moved is None:
            raise _FileSystemError(errno.ENOENT)
        self._node(target).names[new.decode()] = moved
        return b""

    def _open(self, number: int, _: bytes) -> bytes:
        self._node(number)
        return struct.pack("<QII", number, 0, 0)

    def _read(self, number: int, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        return bytes(self._node(number).content[offset : offset + size])

    def _write(self, number: int, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        content = self._node(number).content
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + size] = body[40 : 40 + size]
        return struct.pack("<II", size, 0)

    def _room(self, _: int, __: bytes) -> bytes:
        return struct.pack(
            "<QQQQQIIII24x", 1 << 20, 1 << 19, 1 << 19, 1000, 900, 4096, 255, 4096, 0
        )

    def _sync(self, number: int, _: bytes) -> bytes:
        node = self._node(number)
        if not self.forgets_syncs:
            node.durable = bytes(node.content)
            node.durable_names = dict(node.names)
        return b""

    def _list(self, number: int, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        page = b""
        for at, (name, child) in enumerate(sorted(self._node(number).names.items())):
            if at < offset:
                continue
            text = name.encode()
            entry = struct.pack("<QQII", child, at + 1, len(text), 0) + text
            entry = entry.ljust(-(-len(entry) // 8) * 8, b"\0")
            if len(page) + len(entry) > size:
                break
            page += entry
        return page


def _serve(device: int, tree: _Tree, lock: threading.Lock) -> None:
    """Answer the kernel until the file system is unmounted."""
    while True:
        try:
            request = os.read(device, _REQUEST_BYTES)
        except OSError as error:
            if error.errno in {errno.EINTR, errno.ENOENT, errno.EAGAIN}:
                continue
            return
        _, opcode, unique, number, *_ = _IN.unpack_from(request)
        if opcode in _NO_REPLY:
            continue
        failure, answer = 0, b""
        if opcode == _INIT:
            answer = struct.pack("<IIIIHHIIHHI28x", 7, 31, 0, 0, 12, 9, _CLONED_WRITES, 1, 0, 0, 0)
        else:
            try:
                with lock:
                    answer = tree.handle(opcode, number, request[_IN.size :])
            except _FileSystemError as error:
                failure = -error.number
        try:
            os.write(device, _OUT.pack(_OUT.size + len(answer), failure, unique) + answer)
        except OSError as error:
            # The process that asked was killed in the meantime.
            if error.errno != errno.ENOENT:
                raise


def _mount(target: Path) -> int:
    """Mount an empty FUSE file system; returns the device that its requests come from."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"sentinel-test", str(target).encode(), b"fuse", 0, options.encode()) != 0:
        number = ctypes.get_errno()
        os.close(device)
        raise OSError(number, os.strerror(number), str(target))
    return device


def _unmount(target: Path) -> None:
    ctypes.CDLL(None).umount2(str(target).encode(), 2)


def why_not(folder: Path) -> str:
    """Say why such a file system cannot be mounted here; empty when it can."""
    try:
        device = _mount(folder)
    except OSError as error:
        return f"FUSE cannot be mounted here: {error}"
    os.close(device)
    _unmount(folder)
    return ""


class PowerCutDisk:
    """Such a file system, served by a process of its own.

    Parameters
    ----------
    folder : Path
        Where to mount; made where it is missing.
    forgets_syncs : bool
        True makes every sync a lie: the control that shows a test can see a missing sync.
    """

    def __init__(self, folder: Path, *, forgets_syncs: bool = False) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self._process = subprocess.Popen(  # noqa: S603 -- this module, by this interpreter
            [sys.executable, "-m", __name__, str(folder), str(int(forgets_syncs))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if self._answer() != "mounted":
            self.close()
            raise OSError(errno.EPERM, "cannot mount", str(folder))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cut_after(self, n_changes: int) -> None:
        """Let the power go off before a call that changes something: 0 is the next one."""
        self._ask(["after", n_changes, 0])

    def restore(self, *, keep: float, seed: int = 0) -> None:
        """Bring the power back.

        Parameters
        ----------
        keep : float in [0, 1]
            How likely survives what was not synced, or a part of it.
        seed : int
        """
        self._ask(["restore", keep, seed])

    def close(self) -> None:
        """Unmount, and end the process."""
        _unmount(self.folder)
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(timeout=30)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _ask(self, command: list[object]) -> None:
        if self._process.stdin is None:
            raise OSError(errno.EPIPE, "the file system has ended")
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        if self._answer() != "done":
            raise OSError(errno.EPIPE, "the file system has ended")

    def _answer(self) -> str:
        return "" if self._process.stdout is None else self._process.stdout.readline().strip()


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def main() -> None:
    """Mount, serve, and obey the lines that come in."""
    folder, forgets_syncs = Path(sys.argv[1]), sys.argv[2] == "1"
    device = _mount(folder)
    tree, lock = _Tree(forgets_syncs=forgets_syncs), threading.Lock()
    threading.Thread(target=_serve, args=(device, tree, lock), daemon=True).start()
    _say("mounted")
    for line in sys.stdin:
        word, number, seed = json.loads(line)
        with lock:
            if word == "after":
                tree.n_changes_left = number
            else:
                tree.cut(number, seed)
        _say("done")
    _unmount(folder)


if __name__ == "__main__":
    main()
