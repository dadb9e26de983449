"""The message's key against the event's own: state of a partition must be that of its keys."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sentinel.contract import Decoded, Refusal
from sentinel.contract.codes import RefusalCode
from sentinel.contract.refusal import Fault
from sentinel.core.errors import shorten
from sentinel.features.stores.embedded.records import select_rows
from sentinel.streaming.stream.event_log import KeyedBatch


def refuse_wrong_keys(decoded: Decoded, batch: KeyedBatch, field: str) -> Decoded:
    """Refuse events whose message has no key, or another than the event's partition key.

    Parameters
    ----------
    decoded : Decoded
    batch : KeyedBatch
        What it was decoded from, with its keys.
    field : str
        The partition key; null in the event is null in the message.
    """
    events = decoded.events
    given = batch.keys or ()
    keys = [given[row] for row in events.rows.tolist()]
    own = _own_keys(decoded, field)
    is_right = np.fromiter(
        (key == mine for key, mine in zip(keys, own, strict=True)),
        dtype=np.bool_,
        count=len(keys),
    )
    if is_right.all():
        return decoded
    raw = batch.raw
    refused = []
    for row in np.flatnonzero(~is_right).tolist():
        at = int(events.rows[row])
        content = raw.event_bytes(at)
        mine, key = own[row], keys[row]
        fault = Fault(
            RefusalCode.WRONG_PARTITION_KEY,
            f"$.{field}",
            f"the message's key, {_shown(mine)}",
            _shown(key),
        )
        refused.append(
            Refusal(
                fault.code,
                (fault,),
                raw.source,
                raw.partition,
                int(raw.positions[at]),
                content,
                len(content),
            )
        )
    refusals = sorted((*decoded.refusals, *refused), key=lambda refusal: refusal.position)
    return replace(decoded, events=select_rows(events, is_right), refusals=tuple(refusals))


def _own_keys(decoded: Decoded, field: str) -> list[bytes | None]:
    events = decoded.events
    is_present = events.present[events.names.index(field)].tolist()
    if field not in events.text_fields:
        values = events.column(field).tolist()
        return [
            str(value).encode() if there else None
            for value, there in zip(values, is_present, strict=True)
        ]
    content = events.text_content.tobytes()
    spans = events.text_spans[events.text_fields.index(field)].tolist()
    return [
        content[start:end] if there else None
        for (start, end), there in zip(spans, is_present, strict=True)
    ]


def _shown(key: bytes | None) -> str:
    return "no key" if key is None else shorten(key.decode(errors="replace"))
