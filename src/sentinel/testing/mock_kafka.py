"""librdkafka's own mock cluster in a process of its own: real sockets, no Kafka needed.

``python -m sentinel.testing.mock_kafka 1 events:4 decisions:4`` starts one broker, prints its
address and serves until its stdin ends, so it never outlives who started it. Lines on stdin are
commands:

- ``topic NAME PARTITIONS``: create a topic;
- ``fail API CODE COUNT``: answer the next so many requests of an API with an error code, both as
  the protocol numbers them (OffsetCommit is 8, NOT_COORDINATOR 16); a code of 0 takes back what
  is left;
- ``down BROKER``, ``up BROKER``: close its port, open it again; brokers count from 1;
- ``delay BROKER MS``: let every answer of it take so long;
- ``lead TOPIC PARTITION BROKER``: move the leader of a partition.

It keeps 5 MiB or 100,000 message sets a partition and forgets the rest, and it does not do
transactions. Its memory is this process's.
"""

from __future__ import annotations

import ctypes
import importlib.util
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType

_ERROR_BYTES = 512
_PRODUCER = 0


class MockKafka:
    """A mock cluster in a child process; any thread may command it.

    Parameters
    ----------
    topics : dict of str to int
        Partitions of each topic.
    n_brokers : int
    """

    def __init__(self, topics: dict[str, int], *, n_brokers: int = 1) -> None:
        arguments = [str(n_brokers), *(f"{name}:{n}" for name, n in topics.items())]
        self._process = subprocess.Popen(  # noqa: S603 -- our own module
            [sys.executable, "-m", "sentinel.testing.mock_kafka", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if self._process.stdout is None:
            raise AssertionError("stdout is a pipe")
        self._lock = threading.Lock()
        self.bootstrap = self._process.stdout.readline().strip()
        if not self.bootstrap:
            raise RuntimeError("the mock cluster did not start")

    @property
    def pid(self) -> int:
        """The process that serves."""
        return self._process.pid

    def create_topic(self, name: str, n_partitions: int) -> None:
        """Create a topic; returns when it is there."""
        self._command(f"topic {name} {n_partitions}")

    def fail(self, api: int, code: int, n_requests: int) -> None:
        """Answer the next requests of an API with an error."""
        self._command(f"fail {api} {code} {n_requests}")

    def put_down(self, broker: int) -> None:
        """Close a broker's port; brokers count from 1."""
        self._command(f"down {broker}")

    def put_up(self, broker: int) -> None:
        """Open a broker's port again."""
        self._command(f"up {broker}")

    def delay(self, broker: int, ms: int) -> None:
        """Let every answer of a broker take so long."""
        self._command(f"delay {broker} {ms}")

    def lead(self, topic: str, partition: int, broker: int) -> None:
        """Move the leader of a partition."""
        self._command(f"lead {topic} {partition} {broker}")

    def close(self) -> None:
        """End it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process.wait(timeout=20)

    def __enter__(self) -> MockKafka:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _command(self, line: str) -> None:
        process = self._process
        if process.stdin is None or process.stdout is None:
            raise AssertionError("both are pipes")
        with self._lock:
            process.stdin.write(line + "\n")
            process.stdin.flush()
            answer = process.stdout.readline().strip()
        if answer != "done":
            raise RuntimeError(f"the mock cluster did not take {line!r}")


def _library() -> ctypes.CDLL:
    """Open the librdkafka that the Kafka client carries."""
    found = importlib.util.find_spec("confluent_kafka")
    if found is None or found.origin is None:
        raise RuntimeError("confluent-kafka is not installed")
    folder = Path(found.origin).parent.parent / "confluent_kafka.libs"
    paths = sorted(folder.glob("librdkafka-*.so*"))
    if not paths:
        raise RuntimeError(f"no librdkafka in {folder}")
    library = ctypes.CDLL(str(paths[0]))
    handle = ctypes.c_void_p
    for name, result, arguments in (
        ("rd_kafka_conf_new", handle, []),
        (
            "rd_kafka_conf_set",
            ctypes.c_int,
            [handle, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t],
        ),
        ("rd_kafka_new", handle, [ctypes.c_int, handle, ctypes.c_char_p, ctypes.c_size_t]),
        ("rd_kafka_mock_cluster_new", handle, [handle, ctypes.c_int]),
        ("rd_kafka_mock_cluster_bootstraps", ctypes.c_char_p, [handle]),
        (
            "rd_kafka_mock_topic_create",
            ctypes.c_int,
            [handle, ctypes.c_char_p, ctypes.c_int, ctypes.c_int],
        ),
        (
            "rd_kafka_mock_push_request_errors_array",
            None,
            [handle, ctypes.c_int16, ctypes.c_size_t, ctypes.POINTER(ctypes.c_int)],
        ),
        ("rd_kafka_mock_clear_request_errors", None, [handle, ctypes.c_int16]),
        ("rd_kafka_mock_broker_set_down", ctypes.c_int, [handle, ctypes.c_int32]),
        ("rd_kafka_mock_broker_set_up", ctypes.c_int, [handle, ctypes.c_int32]),
        ("rd_kafka_mock_broker_set_rtt", ctypes.c_int, [handle, ctypes.c_int32, ctypes.c_int]),
        (
            "rd_kafka_mock_partition_set_leader",
            ctypes.c_int,
            [handle, ctypes.c_char_p, ctypes.c_int32, ctypes.c_int32],
        ),
        ("rd_kafka_mock_cluster_destroy", None, [handle]),
    ):
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    return library


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def serve(n_brokers: int, topics: list[str]) -> None:
    """Serve until stdin ends."""
    library = _library()
    reason = ctypes.create_string_buffer(_ERROR_BYTES)
    settings = library.rd_kafka_conf_new()
    library.rd_kafka_conf_set(settings, b"log_level", b"0", reason, _ERROR_BYTES)
    client = library.rd_kafka_new(_PRODUCER, settings, reason, _ERROR_BYTES)
    if not client:
        raise RuntimeError(reason.value.decode())
    cluster = library.rd_kafka_mock_cluster_new(client, n_brokers)
    for topic in topics:
        name, _, n_partitions = topic.partition(":")
        library.rd_kafka_mock_topic_create(cluster, name.encode(), int(n_partitions), 1)
    _say(library.rd_kafka_mock_cluster_bootstraps(cluster).decode())
    for line in sys.stdin:
        _say("done" if _obey(library, cluster, line.split()) else "unknown")
    library.rd_kafka_mock_cluster_destroy(cluster)


def _obey(library: ctypes.CDLL, cluster: int, words: list[str]) -> bool:
    """Do what a line says; False when it says nothing that is known."""
    match words:
        case ["topic", name, n_partitions]:
            library.rd_kafka_mock_topic_create(cluster, name.encode(), int(n_partitions), 1)
        case ["fail", api, "0", _]:
            library.rd_kafka_mock_clear_request_errors(cluster, int(api))
        case ["fail", api, code, count]:
            errors = (ctypes.c_int * int(count))(*[int(code)] * int(count))
            library.rd_kafka_mock_push_request_errors_array(cluster, int(api), int(count), errors)
        case ["down", broker]:
            library.rd_kafka_mock_broker_set_down(cluster, int(broker))
        case ["up", broker]:
            library.rd_kafka_mock_broker_set_up(cluster, int(broker))
        case ["delay", broker, ms]:
            library.rd_kafka_mock_broker_set_rtt(cluster, int(broker), int(ms))
        case ["lead", topic, partition, broker]:
            library.rd_kafka_mock_partition_set_leader(
                cluster, topic.encode(), int(partition), int(broker)
            )
        case _:
            return False
    return True


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2:])
