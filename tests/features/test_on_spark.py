"""Replay on a local Spark: the bits of one engine, through real shuffles and real workers."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feature_world import HOUR_MS, START_MS, Payment, Verdict, card, device, merchant
from raw_world import batches, payment, verdict

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features import (
    Count,
    FeatureSet,
    FirstSeen,
    HourOfDay,
    Mean,
    Ratio,
    Sum,
    TimeSince,
    compile_plan,
    replay,
)
from sentinel.features.history import on_spark

needs_spark = pytest.mark.skipif(
    importlib.util.find_spec("pyspark") is None or shutil.which("java") is None,
    reason="PySpark or Java is missing: requirements/spark.lock and default-jre-headless",
)

OF_CARD = Count("n", by=card, over="1h")
OF_MERCHANT = Count("merchant_n", by=merchant, over="2h")
FEATURES = FeatureSet(
    "on-spark",
    version="1",
    events=Payment,
    feedback=Verdict,
    features=[
        HourOfDay("hour"),
        OF_CARD,
        Mean("amount", of=Payment.amount, by=card, over="24h"),
        OF_MERCHANT,
        TimeSince("since", by=merchant),
        Mean("fraud_share", of=Verdict.is_fraud, by=merchant, over="24h"),
        Sum("n_fraud", of=Verdict.is_fraud, by=card, over="30m"),
        FirstSeen("age", by=device),
        Ratio("n_ratio", numerator=OF_CARD, denominator=OF_MERCHANT),
    ],
)


def world() -> tuple[list[bytes], list[bytes]]:
    """Late, repeated and refused events, null and escaped keys, repeated verdicts."""
    rng = np.random.default_rng(5)
    events: list[bytes] = []
    for i in range(300):
        late_ms = int(rng.integers(0, 3 * HOUR_MS)) if rng.random() < 0.2 else 0
        seen = None if i % 3 else f'd"{i % 4}'
        at = START_MS + i * 60_000 - late_ms
        events.append(payment(i, paid_at=at, device_id=seen))
        if rng.random() < 0.1:
            events.append(events[int(rng.integers(len(events)))])
    verdicts = [verdict(i) for i in range(0, 300, 2)]
    return [*events[:50], b"{", *events[50:]], [*verdicts[:20], verdicts[3], *verdicts[20:]]


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    """Start a Spark of two threads on this machine."""
    from pyspark.sql import SparkSession

    folders = [
        str(Path(on_spark.__file__).parents[2]),
        *os.environ.get("PYTHONPATH", "").split(":"),
    ]
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        patch.setenv("PYTHONPATH", ":".join(filter(None, folders)))
        session = (
            SparkSession.builder.master("local[2]")
            .appName("sentinel-test")
            .config("spark.ui.enabled", "false")
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.driver.bindAddress", "127.0.0.1")
            .config("spark.sql.shuffle.partitions", "2")
            .config("spark.driver.memory", "1g")
            .config("spark.sql.execution.arrow.maxRecordsPerBatch", "100")
            .getOrCreate()
        )
        yield session
        session.stop()


def as_lines(path: Path, lines: list[bytes]) -> str:
    path.write_bytes(b"\n".join(lines) + b"\n")
    return str(path)


@pytest.mark.slow
@needs_spark
def test_spark_gives_the_bits_of_one_engine(spark: Any, tmp_path: Path) -> None:
    """Vectors, status, marks and ids of every event, whatever the partitions."""
    events, verdicts = world()
    wanted = replay(compile_plan(FEATURES), batches(events, 100), batches(verdicts, 100))
    assert wanted.counts.late_events > 10
    assert wanted.counts.duplicates > 10
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frame: Any = on_spark.replay_on_spark(
            FEATURES,
            on_spark.lines_on_spark(spark, as_lines(tmp_path / "e.ndjson", events)),
            on_spark.lines_on_spark(spark, as_lines(tmp_path / "f.ndjson", verdicts)),
            n_shards=2,
        )
        rows = frame.orderBy("position").collect()
    assert [row["position"] for row in rows] == wanted.positions.tolist()
    vectors = np.array([list(row["features"]) for row in rows], dtype=np.float32)
    assert vectors.tobytes() == wanted.matrix.values.tobytes()
    status = b"".join(bytes(row["feature_status"]) for row in rows)
    assert status == wanted.matrix.status.tobytes()
    assert [row["is_late"] for row in rows] == wanted.matrix.is_late.tolist()
    times = [round(row["event_time"].timestamp() * 1000) for row in rows]
    assert times == wanted.times_ms.tolist()
    assert [row["event_id"] for row in rows[:5]] == ["p0", "p1", "p2", "p3", "p4"]


def test_feedback_stands_before_the_first_row_that_may_know_it() -> None:
    """Rows and verdicts in order of time, in any batches; what nothing reaches is never known."""
    import pyarrow as pa

    rows = [(5, 0, 0, 1), (6, 0, 1, 2), (6, 0, 2, 1), (6, 1, 10, 0), (7, 0, 3, 3), (9, 1, 11, 0),
            (9, 1, 12, 0), (9, 0, 4, 4)]  # fmt: skip
    names = ["at_ms", "kind", "position", "id"]
    columns = dict(zip(names, np.array(rows).T, strict=True))
    n = len(rows)
    whole = pa.RecordBatch.from_pydict(
        {
            **columns,
            "known_ms": columns["at_ms"],
            "values": [b""] * n,
            "present": [b""] * n,
        }
    )
    for size in range(1, n + 1):
        cut = [whole.slice(at, size) for at in range(0, n, size)]
        found = pa.Table.from_batches(on_spark.order_feedback(iter(cut), n_dedupe_min=100))
        assert found["at"].to_pylist() == [10, 10, 11]
        assert found["now_ms"].to_pylist() == [6, 6, 9]
        assert found["known_ms"].to_pylist() == [5, 6, 7]
        assert found["rank"].to_pylist() == [0, 1, 2]


def test_a_missing_spark_names_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The extra and its command."""
    monkeypatch.setitem(sys.modules, "pyspark", None)
    with pytest.raises(SentinelError) as caught:
        on_spark.lines_on_spark(object(), "e.ndjson")
    assert caught.value.code is ErrorCode.EXTRA_MISSING
    assert "pip install 'sentinel[spark]'" in caught.value.hint
