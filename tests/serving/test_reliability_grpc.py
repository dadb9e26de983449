"""What may come to the gRPC door: huge messages, garbage, endless streams, unknown words."""

from __future__ import annotations

import gzip
import json
import os
import random
import socket
import struct
import time
from collections.abc import Iterator

import grpc
import psutil
import pytest
from serving_rig import MODEL, Served, payment

from sentinel.serving import bounds
from sentinel.serving.doors.grpc_door import _host
from sentinel.serving.doors.grpc_messages import message

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.NOT_FOUND,
}


@pytest.fixture
def channel(server: Served) -> Iterator[grpc.Channel]:
    server.wait_ready()
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{server.addresses.grpc_port}", options) as opened:
        yield opened


def _score(channel: grpc.Channel, *events: bytes, compression: object = None) -> list[bytes]:
    request = message("sentinel.v1", "ScoreRequest")(events=events).SerializeToString()
    call = channel.unary_unary("/sentinel.v1.Scoring/Score")
    content = call(request, timeout=20, compression=compression)
    return list(message("sentinel.v1", "ScoreResponse").FromString(content).decisions)


def _is_whole(channel: grpc.Channel, name: str) -> None:
    assert json.loads(_score(channel, payment(name))[0])["event_id"] == name


@pytest.mark.reliability("F10")
@pytest.mark.parametrize("n_bytes", [bounds.REQUEST_BODY_BYTES_MAX + 1, 100_000_000])
def test_a_message_over_the_limit_is_refused(channel: grpc.Channel, n_bytes: int) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary("/sentinel.v1.Scoring/Score")(bytes(n_bytes), timeout=30)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    _is_whole(channel, f"after-{n_bytes}")


@pytest.mark.reliability("F10")
def test_a_compressed_message_that_unpacks_beyond_the_limit_is_refused(
    channel: grpc.Channel,
) -> None:
    before = psutil.Process().memory_info().rss
    for _ in range(5):
        with pytest.raises(grpc.RpcError) as refused:
            _score(channel, bytes(60_000_000), compression=grpc.Compression.Gzip)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert psutil.Process().memory_info().rss - before < 300 << 20  # the client's own copies too
    _is_whole(channel, "after-bomb")


@pytest.mark.reliability("F10", t1=200, t2=10_000, t3=100_000)
def test_bytes_that_are_no_message_are_refused_by_name(
    channel: grpc.Channel, trials: Iterator[int]
) -> None:
    methods = [
        "/sentinel.v1.Scoring/Score",
        "/inference.GRPCInferenceService/ModelInfer",
        "/inference.GRPCInferenceService/ModelMetadata",
        "/inference.GRPCInferenceService/modelinfer",
        "/inference.GRPCInferenceService/",
        "/sentinel.v1.Scoring/Reset",
        "/nobody/knows",
    ]
    for seed in trials:
        chance = random.Random(seed)
        content = chance.randbytes(chance.choice([0, 1, 10, 1_000]))
        if chance.random() < 0.3:  # a field that nobody knows
            content = b"\xfa\x3f" + bytes([len(content[:100])]) + content[:100]
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary(chance.choice(methods))(content, timeout=10)
        assert refused.value.code() in REFUSALS, (seed, refused.value)
        assert "Traceback" not in refused.value.details()
    _is_whole(channel, "after-garbage")


@pytest.mark.reliability("F10")
def test_unknown_fields_beside_good_ones_change_nothing(channel: grpc.Channel) -> None:
    request = message("sentinel.v1", "ScoreRequest")(events=[payment("unknown-field")])
    content = request.SerializeToString() + b"\xfa\x3f\x03abc"
    answer = channel.unary_unary("/sentinel.v1.Scoring/Score")(content, timeout=10)
    assert b"unknown-field" in answer


@pytest.mark.reliability("F10", t1=100, t2=10_000, t3=100_000)
def test_frames_that_are_garbage_end_their_connection_alone(
    server: Served, channel: grpc.Channel, trials: Iterator[int]
) -> None:
    """Raw HTTP/2: random frames, lengths that lie, header bombs, resets without end, no preface."""
    address = ("127.0.0.1", server.addresses.grpc_port)
    n_fds = psutil.Process().num_fds()
    for seed in trials:
        chance = random.Random(seed)
        content = b"" if chance.random() < 0.1 else PREFACE + SETTINGS * chance.randrange(2)
        for _ in range(chance.randrange(1, 30)):
            payload = chance.randbytes(chance.choice([0, 4, 5, 8, 100, 16_384]))
            length = len(payload) if chance.random() < 0.7 else chance.randrange(1 << 24)
            kind, flags = chance.randrange(12), chance.randrange(256)
            stream = chance.choice([0, 1, 3, 2, (1 << 31) - 1])
            content += (
                length.to_bytes(3) + bytes([kind, flags]) + struct.pack(">I", stream) + payload
            )
        with socket.create_connection(address, timeout=5) as link:
            try:
                link.sendall(content)
                link.settimeout(0.01)
                link.recv(1_000)
            except OSError:
                pass
    _is_whole(channel, "after-frames")
    # No connection stays behind.
    server.wait_until(lambda: psutil.Process().num_fds() <= n_fds + 20)


@pytest.mark.reliability("F10", t1=200, t2=10_000, t3=10_000)
def test_a_stream_without_end_is_answered_message_by_message_in_order(
    channel: grpc.Channel, trials: Iterator[int]
) -> None:
    kind = message("sentinel.v1", "ScoreRequest")
    names = [f"s{os.getpid()}-{number}" for number in trials]  # 16 bytes at most
    requests = (kind(events=[payment(name)]).SerializeToString() for name in names)
    call = channel.stream_stream("/sentinel.v1.Scoring/ScoreStream")(requests, timeout=120)
    answers = [message("sentinel.v1", "ScoreResponse").FromString(content) for content in call]
    found = [json.loads(line)["event_id"] for answer in answers for line in answer.decisions]
    assert found == names


@pytest.mark.reliability("F10")
def test_thousands_of_calls_at_once_are_answered_or_refused(channel: grpc.Channel) -> None:
    request = message("inference", "ModelMetadataRequest")(name=MODEL).SerializeToString()
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelMetadata")
    calls = [call.future(request, timeout=30) for _ in range(3_000)]
    for each in calls:
        # A stream past the bound may be refused by gRPC itself, which says it is safe to try again.
        assert each.exception() is None or each.exception().code() in REFUSALS | {
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.CANCELLED,
        }
    _is_whole(channel, "after-thousands")


@pytest.mark.reliability("F10")
def test_calls_that_are_cancelled_leave_nothing_behind(
    server: Served, channel: grpc.Channel
) -> None:
    kind = message("sentinel.v1", "ScoreRequest")
    call = channel.unary_unary("/sentinel.v1.Scoring/Score")
    chance, n_cancelled = random.Random(1), 0
    n_before = server.opened.scorer.counts().decided
    for number in range(200):
        future = call.future(
            kind(events=[payment(f"cancel-{number}")]).SerializeToString(), timeout=10
        )
        time.sleep(chance.choice([0.0, 0.0005, 0.002]))
        n_cancelled += future.cancel()
    server.wait_until(lambda: server.plane.load().n_works == 0)
    # Some were cancelled, and some of all came as far as to be decided, once.
    assert n_cancelled > 0
    assert 0 < server.opened.scorer.counts().decided - n_before <= 200
    _is_whole(channel, "after-cancel")


@pytest.mark.parametrize(
    ("peer", "tenant"),
    [
        ("ipv4:10.1.2.3:50123", "10.1.2.3"),
        ("ipv6:%5B::1%5D:50123", "::1"),
        ("ipv6:[2001:db8::7]:1", "2001:db8::7"),
        ("unix:", "unix:"),
    ],
)
def test_one_address_is_one_tenant_at_both_doors(peer: str, tenant: str) -> None:
    """Or whoever asks at both would get two shares."""
    assert _host(peer) == tenant


def test_the_bomb_is_one() -> None:
    assert len(gzip.compress(bytes(60_000_000))) < bounds.REQUEST_BODY_BYTES_MAX
