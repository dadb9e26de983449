"""One process of a partitioned replay: decodes its share of a round, advances its shards.

It is started with the shared memory as an open file, is told what to do on its standard input
and answers on its standard output. It ends when its input ends, so it cannot outlive who began it.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import IO, cast

from sentinel.contract import RawBatch
from sentinel.contract.decoder import Decoder
from sentinel.core.errors import SentinelError
from sentinel.features.feature_set import FeatureSet
from sentinel.features.history.messages import pack_error, receive, send, unpack_learned
from sentinel.features.history.partition import divide
from sentinel.features.history.shard import Cutter, Shard
from sentinel.features.history.slots import Slot, SlotShape, copy_spans, open_slots


class ReplayProcess:
    """The work of one process.

    Parameters
    ----------
    features : FeatureSet
    slots : tuple of Slot
    index, n_shards : int
        Which of the processes this is.
    n_entities_max : int
    """

    def __init__(
        self,
        features: FeatureSet,
        slots: tuple[Slot, ...],
        *,
        index: int,
        n_shards: int,
        n_entities_max: int,
    ) -> None:
        self._features = features
        self._decoder = Decoder(features.events)
        self._slots = slots
        self._shards = [
            Shard(part, index=index, n_shards=n_shards, n_entities_max=n_entities_max)
            for part in divide(features)
        ]
        self._cutters = [Cutter(shard) for shard in self._shards]

    def decode(self, message: dict[str, int]) -> dict[str, object]:
        """Decode some raw events of a slot; accepted ones stand together from the first on."""
        slot = self._slots[message["slot"]]
        part = slice(message["first"], message["end"])
        raw = RawBatch(
            content=slot.content,
            starts=slot.starts[part],
            ends=slot.ends[part],
            source="replay",
            partition=0,
            positions=slot.positions[part],
            received_at_ms=slot.received_at_ms[part] if message["is_received"] else None,
            whole_lengths=slot.whole_lengths[part],
        )
        decoded = self._decoder.decode(raw)
        events = decoded.events
        kept = slice(part.start, part.start + events.n_rows)
        slot.rows[kept] = part.start + events.rows
        slot.values[:, kept] = events.values
        slot.present[:, kept] = events.present
        if part.start < part.stop:
            spans = events.text_spans[events.text_fields.index(self._features.events.event_id.name)]
            at = int(slot.starts[part.start])
            copy_spans(events.text_content, spans, slot.ids, at, slot.id_spans[kept])
        return {"n_rows": events.n_rows, "n_refused": len(decoded.refusals)}

    def advance(self, message: dict[str, int], content: bytes) -> dict[str, object]:
        """Advance the shards through the live rows of a slot."""
        slot = self._slots[message["slot"]]
        live, now_ms = slot.live[: message["n_live"]], slot.now_ms[: message["n_live"]]
        sizes = cast("list[list[int]]", message["learned"])
        schema = self._features.feedback
        learned = () if schema is None else unpack_learned(schema, sizes, content)
        for i, (shard, cutter) in enumerate(zip(self._shards, self._cutters, strict=True)):
            rows, given = cutter.cut(slot.values, slot.present, live, now_ms, learned)
            values, status, is_late = shard.advance(given)
            for j, column in enumerate(shard.part.columns):
                slot.features[column, rows] = values[:, j]
                slot.status[column, rows] = status[:, j]
            slot.is_late[i, rows] = is_late & shard.part.marks_late
        return self._counts()

    def _counts(self) -> dict[str, object]:
        """Count what only the engines know; the part that is not cut counts nothing anew."""
        own = [shard for shard in self._shards if shard.part.key >= 0]
        counts = [shard.engine.counts() for shard in own]
        return {
            "n_entities": sum(shard.engine.n_entities for shard in own),
            "n_once": sum(shard.n_once for shard in own),
            "late_feedback": sum(each.late_feedback for each in counts),
            "values_skipped": sum(each.values_skipped for each in counts),
            "entities_forgotten": sum(each.entities_forgotten for each in counts),
        }


def serve(source: IO[bytes], sink: IO[bytes]) -> None:
    """Do what is asked until the input ends."""
    begun = receive(source)
    if begun is None:
        return
    message, content = begun
    numbers = cast("dict[str, int]", message)
    shape = SlotShape(**cast("dict[str, int]", message["shape"]))
    slots = open_slots(numbers["memory"], shape)
    os.close(numbers["memory"])
    try:
        import msgspec

        process = ReplayProcess(
            FeatureSet.from_data(msgspec.json.decode(content)),
            slots,
            index=numbers["index"],
            n_shards=numbers["n_shards"],
            n_entities_max=numbers["n_entities_max"],
        )
        while (asked := receive(source)) is not None:
            message, content = asked
            numbers = cast("dict[str, int]", message)
            if "n_live" in numbers:
                send(sink, process.advance(numbers, content))
            else:
                send(sink, process.decode(numbers))
    except SentinelError as error:
        send(sink, pack_error(error))


def main() -> None:
    """Run one process; Ctrl-C is for who began it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        serve(sys.stdin.buffer, sys.stdout.buffer)
    except BrokenPipeError:
        # Who began it has gone; so goes this.
        os._exit(0)


if __name__ == "__main__":
    main()
