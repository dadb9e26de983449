"""NDJSON that is answered while it comes: raw sockets to a running server."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from serving_rig import Served, payment, refuses_often, served

from sentinel.serving import bounds

HEAD = b"POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\n"
STREAMED = HEAD + b"transfer-encoding: chunked\r\n"
LAST = b"0\r\n\r\n"


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


class Link:
    """A client of one stream."""

    def __init__(self, link: socket.socket) -> None:
        self.socket = link
        self._file = link.makefile("rb")

    def send(self, content: bytes) -> None:
        self.socket.sendall(content)

    def head(self) -> dict[str, str]:
        """Read a head; its status stands under an empty name."""
        found = {"": self._file.readline().decode().split(" ")[1]}
        while line := self._file.readline().strip():
            name, _, value = line.decode().partition(": ")
            found[name.lower()] = value
        return found

    def chunk(self) -> bytes | None:
        """Read a chunk: empty for the last one, None where the connection ended instead."""
        size = self._file.readline()
        if not size:
            return None
        content = self._file.read(int(size, 16))
        self._file.readline()
        return content

    def body(self, n_bytes: int) -> bytes:
        return self._file.read(n_bytes)

    def lines(self) -> tuple[list[dict[str, object]], bool]:
        """Read to the end; the lines, and whether there was a last chunk."""
        content = b""
        while part := self.chunk():
            content += part
        return [json.loads(line) for line in content.splitlines()], part == b""


@contextmanager
def linked(server: Served) -> Iterator[Link]:
    address = ("127.0.0.1", server.addresses.http_port)
    with socket.create_connection(address, timeout=15) as link:
        yield Link(link)


def test_each_line_is_answered_before_the_next_one_comes(server: Served) -> None:
    with linked(server) as link:
        link.send(STREAMED + b"\r\n" + chunk(payment("s-1") + b"\n"))
        head = link.head()
        assert (head[""], head["content-type"]) == ("200", "application/x-ndjson")
        assert json.loads(link.chunk() or b"")["event_id"] == "s-1"
        for number in range(2, 6):
            link.send(chunk(payment(f"s-{number}") + b"\n"))
            assert json.loads(link.chunk() or b"")["event_id"] == f"s-{number}"
        link.send(LAST)
        assert link.chunk() == b""
        # The connection is as good as new.
        event = payment("s-after")
        link.send(HEAD + b"content-length: %d\r\n\r\n" % len(event) + event)
        assert json.loads(link.body(int(link.head()["content-length"])))["event_id"] == "s-after"


def test_lines_may_be_cut_anywhere_and_keep_their_order_good_and_bad(server: Served) -> None:
    lines = [payment("s-a"), b"{}", payment("s-b"), b"nonsense", b"", payment("s-c")]
    content = b"\n".join(lines)
    with linked(server) as link:
        link.send(STREAMED + b"\r\n")
        for at in range(0, len(content), 7):
            link.send(chunk(content[at : at + 7]))
        link.send(LAST)
        assert link.head()[""] == "200"
        found, is_whole = link.lines()
    assert is_whole
    assert [each.get("event_id") for each in found] == ["s-a", None, "s-b", None, "s-c"]
    assert [each.get("line") for each in found] == [None, 1, None, 3, None]


def test_a_stream_without_lines_is_answered_with_none(server: Served) -> None:
    with linked(server) as link:
        link.send(STREAMED + b"\r\n" + chunk(b"\n \n") + LAST)
        assert link.head()[""] == "200"
        assert link.lines() == ([], True)


def test_a_client_that_does_not_read_is_not_read_and_all_is_answered_then(server: Served) -> None:
    """More lines than may be under way; the client begins to read when it has sent them all."""
    n = 2 * bounds.STREAM_LINES_AHEAD_MAX + 500
    content = b"".join(payment(f"s-many-{number}") + b"\n" for number in range(n))
    with linked(server) as link:

        def send() -> None:
            link.send(STREAMED + b"\r\n")
            for at in range(0, len(content), 1 << 16):
                link.send(chunk(content[at : at + (1 << 16)]))
            link.send(LAST)

        sender = threading.Thread(target=send)
        sender.start()
        sender.join(1.0)
        assert link.head()[""] == "200"
        found, is_whole = link.lines()
        sender.join()
    assert is_whole
    assert len(found) == n
    # A queue that is full for a moment makes the stream wait; it refuses nothing.
    assert [each.get("event_id") for each in found] == [f"s-many-{i}" for i in range(n)]


def test_a_line_that_is_too_long_ends_the_stream_behind_what_is_owed(server: Served) -> None:
    with linked(server) as link:
        link.send(STREAMED + b"\r\n" + chunk(payment("s-owed") + b"\n"))
        link.send(chunk(b"x" * (bounds.STREAM_LINE_BYTES_MAX + 1)))
        assert link.head()[""] == "200"
        found, is_whole = link.lines()
    assert [each.get("code") for each in found] == [None, "request-too-large"]
    assert not is_whole


def test_a_body_that_ends_without_its_last_chunk_is_told_so(server: Served) -> None:
    with linked(server) as link:
        link.send(STREAMED + b"\r\n" + chunk(payment("s-cut") + b"\n"))
        link.socket.shutdown(socket.SHUT_WR)
        assert link.head()[""] == "200"
        found, is_whole = link.lines()
    assert [each.get("event_id") for each in found] == ["s-cut", None]
    assert (found[1]["code"], is_whole) == ("request-invalid", False)


def test_a_chunk_that_is_none_ends_the_stream(server: Served) -> None:
    with linked(server) as link:
        link.send(STREAMED + b"\r\n" + chunk(payment("s-bad") + b"\n") + b"zz\r\n")
        assert link.head()[""] == "200"
        found, is_whole = link.lines()
    assert found[-1]["code"] == "request-invalid"
    assert not is_whole


def test_what_stands_behind_a_stream_waits_for_its_turn(server: Served) -> None:
    event = payment("s-behind")
    with linked(server) as link:
        link.send(STREAMED + b"\r\n" + chunk(payment("s-before") + b"\n") + LAST)
        link.send(HEAD + b"content-length: %d\r\n\r\n" % len(event) + event)
        assert link.head()[""] == "200"
        found, is_whole = link.lines()
        assert [each["event_id"] for each in found] == ["s-before"]
        assert is_whole
        assert json.loads(link.body(int(link.head()["content-length"])))["event_id"] == "s-behind"


def test_clients_that_go_away_leave_nothing_behind(server: Served) -> None:
    for number in range(20):
        with linked(server) as link:
            link.send(STREAMED + b"\r\n" + chunk(payment(f"s-gone-{number}") + b"\n{"))
    server.wait_until(lambda: server.plane.load().n_works == 0)
    assert server.score(payment()).status == 200


@pytest.mark.parametrize(
    ("more", "status", "code"),
    [
        (b"authorization: Bearer nobody\r\n", "401", "caller-unknown"),
        (b"sentinel-timeout-ms: soon\r\n", "400", "request-invalid"),
        (b"content-encoding: gzip\r\n", "415", "content-unsupported"),
    ],
)
def test_a_stream_that_may_not_begin_is_refused_by_its_head(
    tmp_path: Path, more: bytes, status: str, code: str
) -> None:
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(
        'format = 1\n[[token]]\nname = "a"\nscopes = ["score"]\nsecret = "%s"' % ("t" * 40)
    )
    tokens.chmod(0o600)
    right = b"authorization: Bearer " + b"t" * 40 + b"\r\n" if b"authorization" not in more else b""
    with served(tmp_path, tokens=tokens) as running, linked(running) as link:
        link.send(STREAMED + right + more + b"\r\n" + chunk(payment("s-no") + b"\n"))
        head = link.head()
        assert head[""] == status
        assert json.loads(link.body(int(head["content-length"])))["code"] == code


def test_a_server_that_drains_ends_a_stream_with_a_line_that_says_so(tmp_path: Path) -> None:
    with served(tmp_path) as running, linked(running) as link:
        running.wait_ready()
        link.send(STREAMED + b"\r\n" + chunk(payment("s-drain") + b"\n"))
        assert link.head()[""] == "200"
        assert json.loads(link.chunk() or b"")["event_id"] == "s-drain"
        running.stop()
        found, is_whole = link.lines()
    assert [each["code"] for each in found] == ["draining"]
    assert not is_whole


def test_lines_that_find_no_room_wait_for_it_in_their_order(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue that has no room half of the time: the stream gets slower, nothing is refused."""
    n_refused = refuses_often(monkeypatch)
    n_decided = server.opened.scorer.counts().decided
    names = [f"s-room-{number}" for number in range(600)]
    with linked(server) as link:
        link.send(STREAMED + b"\r\n")
        for at in range(0, len(names), 20):
            link.send(chunk(b"".join(payment(name) + b"\n" for name in names[at : at + 20])))
        link.send(LAST)
        assert link.head()[""] == "200"
        found, is_whole = link.lines()
    assert is_whole
    assert [each.get("event_id") for each in found] == names
    assert server.opened.scorer.counts().decided == n_decided + len(names)
    assert sum(n_refused) > 5
    with linked(server) as link:  # one that goes away while its lines wait leaves nothing
        link.send(STREAMED + b"\r\n" + chunk(payment("s-gone") + b"\n") * 20)
    monkeypatch.undo()
    with linked(server) as link:
        link.send(STREAMED + b"\r\n" + chunk(payment("s-next") + b"\n") + LAST)
        assert link.head()[""] == "200"
        assert [each["event_id"] for each in link.lines()[0]] == ["s-next"]
