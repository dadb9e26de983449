"""State of every format that ever was loads, and gives the vectors of the day."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path

import numpy as np
import pytest

from sentinel.contract import EventBatch, RawBatch
from sentinel.contract.decoder import Decoder
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features import FeatureSet, compile_plan
from sentinel.features.stores.embedded import EmbeddedStore
from sentinel.features.stores.embedded.inspection import look_at_store
from sentinel.features.stores.embedded.snapshot import FORMAT, snapshot_paths
from sentinel.features.stores.embedded.write_ahead_log import segment_paths
from sentinel.testing.memory_disk import MemoryDisk

STATES = Path(__file__).parent.parent.parent / "golden" / "states"
FORMATS = sorted(path.name for path in STATES.iterdir())
FOLDER = Path("state")


def disk_of(name: str) -> MemoryDisk:
    disk = MemoryDisk()
    disk.make_folder(FOLDER)
    for path in (STATES / name).glob("*.gz"):
        file = disk.create(FOLDER / path.stem)
        file.write(gzip.decompress(path.read_bytes()))
    return disk


def features_of(name: str) -> FeatureSet:
    return FeatureSet.from_data(json.loads((STATES / name / "features.json").read_bytes()))


def next_events(name: str, features: FeatureSet, position: int) -> EventBatch:
    lines = (STATES / name / "events.ndjson").read_bytes().splitlines()
    raw = RawBatch.from_events(lines, source="payments", first_position=position)
    return Decoder(features.events).decode(raw).events


def expected_of(name: str) -> dict[str, object]:
    read: dict[str, object] = json.loads((STATES / name / "expected.json").read_bytes())
    return read


def test_there_is_a_state_of_every_format() -> None:
    assert [f"format-{number}" for number in range(1, FORMAT + 1)] == FORMATS


@pytest.mark.reliability("B10")
@pytest.mark.parametrize("name", FORMATS)
def test_state_of_an_earlier_format_goes_on_with_the_same_bits(name: str) -> None:
    """Snapshot and log; then today's snapshot of it, read again."""
    expected, features = expected_of(name), features_of(name)
    disk = disk_of(name)
    store = EmbeddedStore(compile_plan(features), FOLDER, disk=disk)
    assert store.recovery.n_events > 0
    assert store.position("payments") == expected["position"]
    assert store.n_entities == expected["n_entities"]
    assert store.n_feedback_pending == expected["n_feedback_pending"]
    store.snapshot()
    again = EmbeddedStore(compile_plan(features), FOLDER, disk=disk.after_kill())
    batch = next_events(name, features, store.position("payments"))
    for engine in (store, again):
        matrix = engine.advance(batch)
        assert matrix.values.tobytes().hex() == expected["values"]
        assert matrix.status.tobytes().hex() == expected["status"]
        assert matrix.is_duplicate.tolist() == expected["is_duplicate"]


@pytest.mark.parametrize("name", FORMATS)
def test_log_of_an_earlier_format_is_enough(name: str) -> None:
    """Without its snapshot the whole log is applied, by today's kernel."""
    disk, features = disk_of(name), features_of(name)
    for path in snapshot_paths(disk, FOLDER):
        disk.remove(path)
    store = EmbeddedStore(compile_plan(features), FOLDER, disk=disk)
    assert store.recovery.snapshot == ""
    matrix = store.advance(next_events(name, features, store.position("payments")))
    assert matrix.values.tobytes().hex() == expected_of(name)["values"]


@pytest.mark.parametrize("name", FORMATS)
def test_inspection_reads_every_format(name: str, tmp_path: Path) -> None:
    for path in (STATES / name).glob("*.gz"):
        (tmp_path / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    report = look_at_store(tmp_path)
    assert report.faults == ()
    # What the log behind the snapshot adds is not in the snapshot.
    assert 0 < report.snapshots[0].n_entities <= int(str(expected_of(name)["n_entities"]))


@pytest.mark.reliability("B10")
@pytest.mark.parametrize("what", ["snapshot", "log"])
def test_format_of_tomorrow_is_refused(what: str) -> None:
    """Yesterday's program must not guess what tomorrow's wrote."""
    name = FORMATS[-1]
    disk, features = disk_of(name), features_of(name)
    paths = snapshot_paths(disk, FOLDER) if what == "snapshot" else segment_paths(disk, FOLDER)
    path = paths[-1]
    content = bytearray(disk.read(path))
    content[8:12] = np.array([FORMAT + 1], dtype="<u4").tobytes()
    if what == "log":
        # The head of a segment has a checksum of its own.
        content[60:64] = np.array([zlib.crc32(bytes(content[:60]))], dtype="<u4").tobytes()
    disk.remove(path)
    disk.create(path).write(bytes(content))
    with pytest.raises(SentinelError) as caught:
        EmbeddedStore(compile_plan(features), FOLDER, disk=disk)
    assert caught.value.code is ErrorCode.STATE_FORMAT
    assert caught.value.at == path.name
