"""A cluster (the mock's process, or a real one named by SENTINEL_KAFKA) and workers against it."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import confluent_kafka as kafka
from confluent_kafka.admin import AdminClient, NewTopic

from sentinel.streaming.file_log.log import FileLogWriter, create_topic
from sentinel.streaming.file_log.reader import FileLog
from sentinel.streaming.kafka.log import n_partitions_of
from sentinel.testing.mock_kafka import MockKafka

CHILD = Path(__file__).parent / "stream_child.py"
WAIT_S = 90.0
# The mock waits a whole session for members that left before it shares partitions out anew.
QUICK = {"session.timeout.ms": 6000, "heartbeat.interval.ms": 500}


@dataclass(frozen=True)
class Case:
    """A release, and files to carry through it."""

    release: Path
    events: Path
    feedback: Path
    n_events: int


@dataclass
class Cluster:
    """Where the broker is."""

    bootstrap: str
    mock: MockKafka | None

    def topic(self, name: str, n_partitions: int) -> str:
        """Create a topic under a name of its own."""
        whole = f"{name}-{uuid.uuid4().hex[:8]}"
        if self.mock is not None:
            self.mock.create_topic(whole, n_partitions)
        else:
            admin = AdminClient({"bootstrap.servers": self.bootstrap})
            for created in admin.create_topics([NewTopic(whole, n_partitions, 1)]).values():
                created.result(30)
        return whole

    def produce(
        self, topic: str, messages: Sequence[dict[str, object]], *, compression: str = "none"
    ) -> None:
        """Send messages and wait until the broker has them."""
        producer = kafka.Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "linger.ms": 5,
                "log_level": 0,
                "message.max.bytes": 4_000_000,
                "compression.type": compression,
                # Or what a broker refuses for a while comes again, in another order or twice.
                "enable.idempotence": True,
            }
        )
        for message in messages:
            producer.produce(topic, **message)
        assert producer.flush(30) == 0

    def forget(self, topic: str, partition: int, end: int) -> int:
        """Make the broker lose what is before a position; return where it begins now.

        The mock forgets by itself, at 5 MiB.
        """
        where = kafka.TopicPartition(topic, partition, end)
        if self.mock is None:
            admin = AdminClient({"bootstrap.servers": self.bootstrap})
            for deleted in admin.delete_records([where]).values():
                deleted.result(30)
        client = kafka.Consumer(
            {"bootstrap.servers": self.bootstrap, "group.id": "ends", "log_level": 0}
        )
        low, _ = client.get_watermark_offsets(where, timeout=20)
        client.close()
        return int(low)

    def read(self, topic: str) -> list[kafka.Message]:
        """Read a whole topic, as it is now."""
        client = kafka.Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": f"reader-{uuid.uuid4().hex}",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "log_level": 0,
            }
        )
        partitions = range(n_partitions_of(client, topic))
        client.assign([kafka.TopicPartition(topic, p, kafka.OFFSET_BEGINNING) for p in partitions])
        at_end: set[int] = set()
        found = []
        deadline = time.monotonic() + WAIT_S
        while len(at_end) < len(partitions):
            assert time.monotonic() < deadline
            for message in client.consume(5000, 0.2):
                if message.error() is None:
                    found.append(message)
                elif message.error().code() == kafka.KafkaError._PARTITION_EOF:
                    at_end.add(message.partition())
        client.close()
        return found

    def ids(self, topic: str) -> list[str]:
        """Read the event ids of all decisions."""
        return [json.loads(message.value())["event_id"] for message in self.read(topic)]


@dataclass(frozen=True)
class Record:
    """An event of a file log, asked like a message of Kafka."""

    record_key: bytes | None
    record_value: bytes
    at: int

    def key(self) -> bytes | None:
        return self.record_key

    def value(self) -> bytes:
        return self.record_value

    def partition(self) -> int:
        return self.at


@dataclass
class FileCluster:
    """A log of files, used like a broker."""

    folder: Path
    bootstrap = ""
    mock: MockKafka | None = None

    def topic(self, name: str, n_partitions: int) -> str:
        """Create a topic under a name of its own."""
        whole = f"{name}-{uuid.uuid4().hex[:8]}"
        create_topic(self.folder, whole, n_partitions)
        return whole

    def produce(self, topic: str, messages: Sequence[dict[str, object]]) -> None:
        """Append messages, those that follow one another in a partition together."""
        writer = FileLogWriter(self.folder, topic, segment_bytes=1 << 20)
        for partition, group in itertools.groupby(messages, lambda m: m.get("partition", 0)):
            for chosen in batched(list(group), 10):
                writer.append(
                    partition,
                    [m["value"] for m in chosen],
                    keys=[as_bytes(m.get("key")) for m in chosen],
                    times_ms=[m.get("timestamp", 0) for m in chosen],
                )
        writer.close()

    def forget(self, topic: str, partition: int, end: int) -> int:
        """Remove what is before a position; return where the partition begins now."""
        writer = FileLogWriter(self.folder, topic)
        low = writer.forget(partition, end)
        writer.close()
        return low

    def read(self, topic: str) -> list[Record]:
        """Read a whole topic, as it is now."""
        log = FileLog(self.folder, topic, with_keys=True)
        log.add({p: log.ends(p).low for p in range(log.n_partitions())})
        found = []
        while (read := log.read(10_000, 0.0)).batches:
            for batch in read.batches:
                found += [
                    Record(key, batch.raw.event_bytes(i), batch.raw.partition)
                    for i, key in enumerate(batch.keys or ())
                ]
        log.close()
        return found

    def ids(self, topic: str) -> list[str]:
        """Read the event ids of all decisions."""
        return [json.loads(record.value())["event_id"] for record in self.read(topic)]


def batched(items: list[dict[str, object]], n: int) -> Iterator[list[dict[str, object]]]:
    """Cut a list into pieces."""
    for first in range(0, len(items), n):
        yield items[first : first + n]


def side_by_side(seeds: Iterable[int], n: int, work: Callable[[int], None]) -> None:
    """Try ``n`` seeds at a time: workers mostly wait, for their session or for each other."""
    left = iter(seeds)
    with ThreadPoolExecutor(n) as pool:
        while chosen := list(itertools.islice(left, n)):
            for tried in [pool.submit(work, seed) for seed in chosen]:
                tried.result()


def as_bytes(key: object) -> bytes | None:
    """Take keys as the client of Kafka does."""
    return key.encode() if isinstance(key, str) else key


@dataclass
class Stream:
    """Topics and a state folder of one test."""

    cluster: Cluster | FileCluster
    release: Path
    folder: Path
    n_partitions: int = 4
    with_feedback: bool = False
    job: dict[str, object] = field(default_factory=dict)
    children: list[subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.events = self.cluster.topic("events", self.n_partitions)
        self.decisions = self.cluster.topic("decisions", self.n_partitions)
        self.quarantine = self.cluster.topic("quarantine", 1)
        self.job = {
            "events": self.events,
            "decisions": self.decisions,
            "quarantine": self.quarantine,
            "state": str(self.folder / "state"),
            "n_events_batch": 100,
            **self.job,
        }
        if self.with_feedback:
            self.feedback = self.cluster.topic("feedback", self.n_partitions)
            self.job["feedback"] = self.feedback

    def start(self, **more: object) -> subprocess.Popen[str]:
        """Start a worker, in a group of its own unless one is named."""
        order = {
            "release": str(self.release),
            **self.source(),
            "group": f"group-{uuid.uuid4().hex}",
            "client": QUICK,
            **more,
            "job": {**self.job, **more.get("job", {})},
        }
        child = subprocess.Popen(
            [sys.executable, str(CHILD), json.dumps(order)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.children.append(child)
        return child

    def source(self) -> dict[str, str]:
        """Say where the events are."""
        if isinstance(self.cluster, FileCluster):
            return {"file_log": str(self.cluster.folder)}
        return {"bootstrap": self.cluster.bootstrap}

    def send(self, lines: Sequence[bytes]) -> None:
        """Produce events, keyed and partitioned by card, with their event time as timestamp."""
        messages = []
        for line in lines:
            event = json.loads(line)
            messages.append(
                {
                    "value": line,
                    "key": event["card_id"],
                    "partition": int(event["card_id"][1:]) % self.n_partitions,
                    "timestamp": event["paid_at"],
                }
            )
        self.cluster.produce(self.events, messages)

    def wait_for(self, n_ids: int) -> list[str]:
        """Wait until so many events are decided; return the id of every decision."""
        deadline = time.monotonic() + WAIT_S
        while True:
            ids = self.cluster.ids(self.decisions)
            if len(set(ids)) >= n_ids:
                return ids
            for child in self.children:
                # Ended before it was ready is ended, too.
                assert child.poll() in {None, 0, -9, -11, -15}, child.stderr.read()
            assert time.monotonic() < deadline, f"{len(set(ids))} of {n_ids}"
            time.sleep(0.3)

    def last_words(self, child: subprocess.Popen[str]) -> str:
        """Return what a worker said that was meant to fail; nobody waits for it any more."""
        self.children.remove(child)
        _, error = child.communicate(timeout=30)
        return error

    def end(self, child: subprocess.Popen[str]) -> dict[str, object]:
        """Ask a worker to end and return what it says."""
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n", child.stderr.read()
        child.send_signal(signal.SIGTERM)
        out, err = child.communicate(timeout=60)
        assert child.returncode == 0, err
        return json.loads(out)

    def close(self) -> None:
        """Leave nobody behind."""
        for child in self.children:
            if child.poll() is None:
                child.kill()
            child.communicate(timeout=30)


def named_cluster() -> str | None:
    """Return the real cluster that the tests are to use."""
    return os.environ.get("SENTINEL_KAFKA")
