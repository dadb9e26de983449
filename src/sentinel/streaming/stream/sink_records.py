"""Decisions and refusals as records of a topic: a key and a value each."""

from __future__ import annotations

import numpy as np

from sentinel.contract import Refusal, quarantine
from sentinel.scoring import DecisionBatch


def decision_records(
    decisions: DecisionBatch, lines: bytes, *, event_id: str
) -> tuple[list[bytes], list[bytes]]:
    """Cut decisions into keys (event ids) and values; duplicates have none.

    Parameters
    ----------
    decisions : DecisionBatch
    lines : bytes
        JSON lines, one for each decision.
    event_id : str
        Field of the event id.
    """
    events = decisions.events
    spans = events.text_spans[events.text_fields.index(event_id)]
    if not decisions.is_decided.all():
        spans = spans[np.flatnonzero(decisions.is_decided)]
    content = events.text_content.tobytes()
    keys = [content[start:end] for start, end in spans.tolist()]
    return keys, lines.split(b"\n", len(keys))[: len(keys)]


def quarantine_record(refusal: Refusal, now_ms: int) -> tuple[bytes, bytes]:
    """Make key and value of a refusal: a refused event may have no id, so its place is the key."""
    key = f"{refusal.source}/{refusal.partition}/{refusal.position}"
    return key.encode(), quarantine.quarantine_record(refusal, now_ms)
