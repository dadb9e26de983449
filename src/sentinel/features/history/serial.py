"""The same rounds from one engine in this process: what a partitioned replay is equal to."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator

from sentinel.contract import ContractSchema, EventBatch, RawBatch
from sentinel.contract.decoder import Decoder
from sentinel.features.engine import Engine, EngineCounts
from sentinel.features.history.parallel import ReplayedRows
from sentinel.features.plan import FeaturePlan
from sentinel.features.replay import advance_log


class SerialReplay:
    """A replay in this process, with the interface of the partitioned one.

    Parameters
    ----------
    plan : FeaturePlan
    events, feedback : iterable of RawBatch
        In order of arrival; feedback in order of known-at.

    Attributes
    ----------
    n_processes : int
        1.
    n_refused, n_feedback_refused : int
        So far.
    """

    def __init__(
        self, plan: FeaturePlan, events: Iterable[RawBatch], feedback: Iterable[RawBatch] = ()
    ) -> None:
        self._engine = Engine(plan)
        self._events = events
        self._feedback = feedback
        self.n_processes = 1
        self.n_refused = 0
        self.n_feedback_refused = 0

    def counts(self) -> EngineCounts:
        """Return what was seen so far."""
        return self._engine.counts()

    def rounds(self) -> Generator[ReplayedRows, None, None]:
        """Yield the batches in order."""
        features = self._engine.plan.features
        schema = features.events
        learned: Iterable[EventBatch] = ()
        if features.feedback is not None:
            learned = self._decoded(features.feedback, self._feedback, is_feedback=True)
        events = self._decoded(schema, self._events, is_feedback=False)
        for batch, matrix in advance_log(self._engine, events, learned):
            once = ~matrix.is_duplicate
            spans = batch.text_spans[batch.text_fields.index(schema.event_id.name)]
            yield ReplayedRows(
                names=matrix.names,
                values=matrix.values[once].T,
                status=matrix.status[once].T,
                is_late=matrix.is_late[once],
                event_ids=batch.column(schema.event_id.name)[once],
                id_content=batch.text_content,
                id_spans=spans[once],
                times_ms=batch.column(schema.event_time.name)[once],
                positions=batch.raw.positions[batch.rows][once],
                columns={},
                present={},
            )

    def _decoded(
        self, schema: ContractSchema, batches: Iterable[RawBatch], *, is_feedback: bool
    ) -> Iterator[EventBatch]:
        decoder = Decoder(schema)
        for raw in batches:
            decoded = decoder.decode(raw)
            if is_feedback:
                self.n_feedback_refused += len(decoded.refusals)
            else:
                self.n_refused += len(decoded.refusals)
            yield decoded.events
