"""Where a worker goes on: never behind its outputs, never beyond what it can answer again."""

from __future__ import annotations

from pathlib import Path

import pytest
from stream_rig import Case

from sentinel.contract import Decoder, EventBatch, RawBatch
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features import FeaturePlan
from sentinel.features.stores.embedded import Durability
from sentinel.release import verify_release
from sentinel.streaming.stream.job import check_partition_key
from sentinel.streaming.stream.state import StreamState


class World:
    """A plan, and its events in batches of ten."""

    def __init__(self, case: Case) -> None:
        self.plan: FeaturePlan = verify_release(case.release, None, now_ms=0).parts.plan
        self.lines = case.events.read_bytes().splitlines()
        self.decoder = Decoder(self.plan.features.events)

    def batch(self, number: int) -> EventBatch:
        first = 10 * number
        raw = RawBatch.from_events(
            self.lines[first : first + 10], source="t", partition=1, first_position=first
        )
        return self.decoder.decode(raw).events

    def open(self, folder: Path, durability: Durability = Durability.PROCESS) -> StreamState:
        return StreamState(self.plan, folder, durability=durability)


@pytest.fixture
def world(case: Case) -> World:
    return World(case)


@pytest.mark.parametrize("durability", Durability)
def test_without_a_mark_reading_goes_on_at_the_snapshot(
    world: World, tmp_path: Path, durability: Durability
) -> None:
    """Outputs of what came after it may be missing, and all of it can be answered again."""
    state = world.open(tmp_path, durability)
    assert not state.knows("t", 1)
    for number in range(3):
        state.store.advance(world.batch(number))
    answers = state.store.advance(world.batch(3))
    state.store.close(with_snapshot=False)
    state.marker.close()
    again = world.open(tmp_path, durability)
    assert again.knows("t", 1)
    assert again.resume_position("t", 1) == 0
    repeated = again.store.advance(world.batch(3))
    assert (repeated.values == answers.values).all()
    assert not repeated.is_duplicate.any()
    again.close()


def test_a_mark_says_where_outputs_are_safe(world: World, tmp_path: Path) -> None:
    state = world.open(tmp_path)
    state.store.advance(world.batch(0))
    state.mark()
    state.store.advance(world.batch(1))
    state.close()
    again = world.open(tmp_path)
    assert again.resume_position("t", 1) == 10
    assert again.store.position("t", 1) == 20
    again.close()


def test_closing_takes_no_snapshot_over_outputs_that_may_be_missing(
    world: World, tmp_path: Path
) -> None:
    """A snapshot forgets the answers: it may only follow the mark."""
    state = world.open(tmp_path)
    state.store.advance(world.batch(0))
    state.close()
    assert not list(tmp_path.glob("snapshot-*"))
    again = world.open(tmp_path)
    again.mark()
    again.close()
    assert list(tmp_path.glob("snapshot-*"))
    third = world.open(tmp_path)
    assert third.resume_position("t", 1) == 10
    third.close()


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"positions":{"t/1":"x"}}', b"\xff", b'{"positions":{"t/1":9999}}']
)
def test_marks_that_are_damaged_or_ahead_lose_nothing(
    world: World, tmp_path: Path, content: bytes
) -> None:
    state = world.open(tmp_path)
    state.store.advance(world.batch(0))
    state.close()
    (tmp_path / "outputs.json").write_bytes(content)
    again = world.open(tmp_path)
    assert again.resume_position("t", 1) in {0, 10}
    assert (again.resume_position("t", 1) == 10) == (b"9999" in content)
    again.close()


def test_a_folder_has_one_owner(world: World, tmp_path: Path) -> None:
    state = world.open(tmp_path)
    with pytest.raises(SentinelError) as caught:
        world.open(tmp_path)
    assert caught.value.code is ErrorCode.STATE_LOCKED
    assert caught.value.at == str(tmp_path)
    state.close()
    world.open(tmp_path).close()


def test_a_partition_key_is_the_key_of_every_entity(world: World) -> None:
    check_partition_key(world.plan, None)
    check_partition_key(world.plan, "card_id")
    with pytest.raises(SentinelError) as caught:
        check_partition_key(world.plan, "payment_id")
    assert caught.value.code is ErrorCode.STREAM_PARTITION_KEY
    assert caught.value.at == "--partition-key payment_id"
    assert "card by card_id" in caught.value.got
