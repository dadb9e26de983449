"""The log of what happened, replayed: feature vectors, and the verdicts as they came in.

Training never computes a feature itself. Both logs go through the engine that serves, so a vector
here is the vector that the live system would have scored, to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sentinel.contract import ContractSchema, FieldKind, FieldRole, RawBatch
from sentinel.contract.decoder import Decoder
from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.data import EventFile
from sentinel.features import FeatureSet, compile_plan, known_at
from sentinel.features.replay import Replayed, replay
from sentinel.release.pipeline import Pipeline
from sentinel.training.boosted import OnProgress, no_progress
from sentinel.training.category_encodings import fit_encodings, read_categories
from sentinel.training.labels import Labels, Verdicts, join_labels
from sentinel.training.split import TimeSplit

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

_BATCH_EVENTS = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """A log and its verdicts, ready to be split in any way; row ``i`` is one event.

    Attributes
    ----------
    pipeline : Pipeline
    events, feedback : Path
        Where it was read from.
    features : FeatureSet
        As replayed: the pipeline's, its encodings fitted.
    replayed : Replayed
        With the columns of all entity keys, and the amount.
    verdicts : Verdicts
    entity : str
        Field whose values are looked at as one: the card.
    amount : str
        Decimal field that costs are taken from; empty where the contract has none.
    """

    pipeline: Pipeline
    events: Path
    feedback: Path
    features: FeatureSet
    replayed: Replayed
    verdicts: Verdicts
    entity: str
    amount: str

    @property
    def entities(self) -> Int64Array:
        """Hashed keys of the cards."""
        return self.replayed.columns[self.entity]

    @property
    def amounts(self) -> Float64Array | None:
        """Amounts in major units, or None."""
        if not self.amount:
            return None
        scale = self.features.events.field(self.amount).scale
        return self.replayed.columns[self.amount] / 10.0**scale

    def labels(self, known_by_ms: int) -> Labels:
        """Return what was known of each event at an instant, as the pipeline declares it."""
        ids, times = self.replayed.event_ids, self.replayed.times_ms
        return _labels(self.pipeline, ids, times, self.verdicts, known_by_ms)

    @property
    def known_until_ms(self) -> int:
        """The latest instant that either log speaks of."""
        times = self.replayed.times_ms.max(initial=0)
        return int(max(times, self.verdicts.known_at_ms.max(initial=0)))


def read_history(
    pipeline: Pipeline,
    events: Path,
    feedback: Path,
    *,
    split: TimeSplit | None = None,
    on_progress: OnProgress = no_progress,
) -> History:
    """Replay an event log and its verdicts.

    Parameters
    ----------
    pipeline : Pipeline
    events, feedback : Path
        Event files (see :class:`~sentinel.data.EventFile`), in order of arrival.
    split : TimeSplit, optional
        Whose training part encodings are fitted on; :func:`default_split` by default.
    on_progress : callable
        Called after each batch, with bytes.

    Returns
    -------
    History
        Memory is linear in the events: 5 bytes a feature and about 60 a row.

    Raises
    ------
    SentinelError
        ``training-split-empty`` when no event, or no verdict, was accepted; what reading a file
        and replaying raise.
    """
    verdicts = read_verdicts(pipeline, feedback, on_progress=on_progress)
    feedback_schema = pipeline.features.feedback
    if feedback_schema is not None and not len(verdicts.events):
        raise _nothing_accepted("verdicts", feedback, feedback_schema)
    features = _fitted(pipeline, events, verdicts, split, on_progress)
    entity, amount = card_field(pipeline), amount_field(features.events)
    keys = [each.key.name for each in features.entities]
    replayed = replay(
        compile_plan(features),
        shown(EventFile(events), "replay", on_progress),
        EventFile(feedback).batches(_BATCH_EVENTS),
        keep=dict.fromkeys(name for name in (entity, amount, *keys) if name),
    )
    if not replayed.n_rows:
        raise _nothing_accepted("events", events, features.events)
    return History(
        pipeline=pipeline,
        events=events,
        feedback=feedback,
        features=features,
        replayed=replayed,
        verdicts=verdicts,
        entity=entity,
        amount=amount,
    )


def _nothing_accepted(what: str, path: Path, schema: ContractSchema) -> SentinelError:
    """Read a file that gave nothing once more, to say how much was refused, and why at first."""
    decoder = Decoder(schema)
    n_refused, first = 0, ""
    for raw in EventFile(path).batches(_BATCH_EVENTS):
        refusals = decoder.decode(raw).refusals
        n_refused += len(refusals)
        if refusals and not first:
            faults = refusals[0].faults
            where = f" at {faults[0].path}" if faults and faults[0].path else ""
            first = f", the first as {refusals[0].code}{where}"
    return SentinelError(
        ErrorCode.TRAINING_SPLIT_EMPTY,
        at=str(path),
        expected=f"{what} that the contract accepts",
        got=f"none, and {n_refused} refused{first}",
        hint="Are --events and --feedback swapped? `sentinel contract check` shows more.",
    )


def read_verdicts(
    pipeline: Pipeline, path: Path, *, on_progress: OnProgress = no_progress
) -> Verdicts:
    """Read the verdict feed as columns; refused verdicts are left to replay to count."""
    schema, label = pipeline.features.feedback, pipeline.label
    if schema is None:
        raise SentinelError(
            ErrorCode.PIPELINE_INVALID, at="features.feedback", expected="a contract", got="none"
        )
    decoder = Decoder(schema)
    events, positive, known = [], [], []
    for raw in shown(EventFile(path), "verdicts", on_progress):
        batch = decoder.decode(raw).events
        events.append(batch.column(label.event.name))
        positive.append(batch.column(label.of.name) != 0)
        known.append(known_at(batch, schema))
    none = np.empty(0, dtype=np.int64)
    return Verdicts(
        events=np.concatenate([none, *events]),
        is_positive=np.concatenate([none.astype(np.bool_), *positive]),
        known_at_ms=np.concatenate([none, *known]),
    )


def default_split(pipeline: Pipeline, times_ms: Int64Array) -> TimeSplit:
    """Cut a log where nobody named a time: the last fifth of its span judges the model."""
    return TimeSplit.of_span(
        times_ms, delay_ms=pipeline.label.delay_ms, later_share=limits.LATER_SHARE_DEFAULT
    )


def _labels(
    pipeline: Pipeline, ids: Int64Array, times_ms: Int64Array, verdicts: Verdicts, by_ms: int
) -> Labels:
    label = pipeline.label
    return join_labels(
        ids,
        times_ms,
        verdicts,
        known_by_ms=by_ms,
        assume_genuine_after_ms=label.delay_ms if label.unlabelled == "genuine" else None,
    )


def _fitted(
    pipeline: Pipeline,
    events: Path,
    verdicts: Verdicts,
    split: TimeSplit | None,
    on_progress: OnProgress,
) -> FeatureSet:
    """Fit the encodings, if there are any: they need a first look at the log."""
    features = pipeline.features
    if not features.unfitted:
        return features
    decoder = Decoder(features.events)
    categories = read_categories(
        features,
        (decoder.decode(raw).events for raw in shown(EventFile(events), "encodings", on_progress)),
    )
    ids, times = categories.event_ids, categories.times_ms
    if not len(times):
        raise _nothing_accepted("events", events, features.events)
    cut = split or default_split(pipeline, times)
    labels = _labels(pipeline, ids, times, verdicts, cut.cut_ms)
    train = cut.parts(times, labels.known_at_ms).train
    return fit_encodings(features, categories, train, labels.is_positive)


def raw_events(path: Path, positions: Int64Array) -> tuple[bytes, ...]:
    """Read single events back, whole, by their positions; in the order of the file."""
    wanted = np.sort(positions)
    found: list[bytes] = []
    for batch in EventFile(path).batches(_BATCH_EVENTS):
        if len(found) == len(wanted):
            break
        rows = np.flatnonzero(np.isin(batch.positions, wanted))
        found.extend(batch.event_bytes(int(row)) for row in rows)
    return tuple(found)


def card_field(pipeline: Pipeline) -> str:
    """Name the field that is looked at as one card: the policy's, else the first key."""
    if pipeline.policy.insane.entity:
        return pipeline.policy.insane.entity
    schema = pipeline.features.events
    keys = [field for field in schema.fields if field.role is FieldRole.KEY]
    return keys[0].name if keys else schema.event_id.name


def amount_field(schema: ContractSchema) -> str:
    """Name the first decimal field: what a payment costs; empty where there is none."""
    names = [field.name for field in schema.fields if field.kind is FieldKind.DECIMAL]
    return names[0] if names else ""


def shown(file: EventFile, stage: str, on_progress: OnProgress) -> Iterator[RawBatch]:
    """Hand the batches of a file on, and say how far it has come."""
    for batch in file.batches(min(_BATCH_EVENTS, limits.EVENT_FILE_BATCH_EVENTS_MAX)):
        yield batch
        on_progress(stage, file.progress.n_bytes_read, file.progress.n_bytes)
