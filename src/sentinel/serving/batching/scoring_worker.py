"""What the scoring thread does with a batch: the one scorer, and who gets which row.

*Events* of all callers become one raw batch; positions number the rows since the start. What comes
back is matched, never assumed: the id of every decision must lie inside the bytes that its caller
sent, and every row must come out exactly once, as a decision, a refusal or a duplicate.

*Tensors* of all callers become one matrix. The scorer's own guard scores rows again, alone, and
finds a champion that mixes them.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from sentinel.contract import RawBatch, Refusal
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features.matrix import PRESENT
from sentinel.features.stores.durable import DurableStore
from sentinel.monitoring.latency import LatencyHistogram
from sentinel.scoring import DecisionBatch, Scorer
from sentinel.scoring.guards import Rows
from sentinel.scoring.scorer import outcomes
from sentinel.serving import bounds
from sentinel.serving.batching.callers import CallersCount
from sentinel.serving.batching.decision_memory import DecisionMemory
from sentinel.serving.batching.work import Answers, EventAnswers, Kind, Piece, TensorAnswers
from sentinel.serving.releases.shadow import Shadow
from sentinel.serving.releases.working_release import WorkingRelease

SOURCE = "requests"
CANARY_SOURCE = "canary"
FEEDBACK_SOURCE = "feedback"
_LEARNED = b'{"learned":true}'
# Rows that came as a tensor belong to nobody we know.
_NOBODY = np.zeros(bounds.SERVE_BATCH_ROWS_MAX, dtype=np.int64)


class EventRefusedError(SentinelError):
    """The contract refused an event.

    Attributes
    ----------
    refusal : Refusal
    """

    def __init__(self, refusal: Refusal) -> None:
        fault = refusal.faults[0] if refusal.faults else None
        super().__init__(
            ErrorCode.EVENT_REFUSED,
            at=fault.path if fault and fault.path else "$",
            expected=fault.expected if fault and fault.expected else "an event of the contract",
            got=f"{refusal.code}: {fault.got}" if fault and fault.got else refusal.code,
        )
        self.refusal = refusal


class ScoringWorker:
    """The scorer behind the queue; used by one thread.

    Parameters
    ----------
    release : WorkingRelease
        In service at first; :meth:`put_in_service` changes it between two batches.
    memory : DecisionMemory
        Read by the door's thread as well.
    is_prompt : callable
        Whether what is written while scoring is sure not to wait.
    is_rehearsal : bool
        Event times are not held against the clock.

    Attributes
    ----------
    shadow : Shadow or None
        A challenger that is shown what was decided; may be changed at any time.
    encode_seconds : LatencyHistogram
        Matching a batch's decisions with their callers, and writing them.
    """

    def __init__(
        self,
        release: WorkingRelease,
        memory: DecisionMemory,
        *,
        is_prompt: Callable[[], bool] = lambda: True,
        is_rehearsal: bool = False,
    ) -> None:
        self._release = release
        self._memory = memory
        self._is_prompt = is_prompt
        self._is_rehearsal = is_rehearsal
        self._was_prompt = False
        self._prompt_until_s = float("-inf")
        self._position = self._feedback_position = 0
        self._failure = ""
        self._callers = CallersCount()
        self._present = np.zeros((0, 0), dtype=np.uint8)
        self.encode_seconds = LatencyHistogram()
        self.shadow: Shadow | None = None

    @property
    def scorer(self) -> Scorer:
        """The scorer in service."""
        return self._release.scorer

    def put_in_service(self, release: WorkingRelease) -> None:
        """Let another release decide, from the next batch on; call it between two batches."""
        release.scorer.engine.use_plan(release.loaded.parts.plan)
        release.scorer.enter_service(self._release.scorer)
        self._release = release

    def run(self, pieces: Sequence[Piece]) -> list[Answers]:
        """Answer the pieces of one batch, all of one kind, in their order."""
        kind = pieces[0].work.kind
        if kind is Kind.TENSOR:
            return [answer for same in _by_release(pieces) for answer in self._run_tensors(same)]
        if kind is Kind.CANARY:
            return [self._run_canary(piece) for piece in pieces]
        if kind is Kind.FEEDBACK:
            return [self._run_feedback(piece) for piece in pieces]
        return list(self._run_events(pieces))

    def tick(self) -> None:
        """Let pauses and deadlines end; take a snapshot when one is due."""
        self._callers.tell(self.scorer)
        self.scorer.tick()
        if isinstance(self.scorer.engine, DurableStore):
            self.scorer.engine.maintain()

    def is_prompt(self) -> bool:
        """Whether nothing in the next batch may wait for a disk; looked up now and then."""
        now_s = time.monotonic()
        if now_s >= self._prompt_until_s:
            self._prompt_until_s = now_s + bounds.DEADLINE_SWEEP_S
            self._was_prompt = self._is_prompt()
        return self._was_prompt

    def failure(self) -> str:
        """Say why this worker will never answer again; empty while it can."""
        return self._failure

    # --- events ------------------------------------------------------------------------------

    def _run_events(self, pieces: Sequence[Piece]) -> list[EventAnswers]:
        events: list[bytes] = []
        for piece in pieces:
            events += piece.work.events[piece.start : piece.end]
        raw = RawBatch.from_events(
            events,
            source=SOURCE,
            first_position=self._position,
            received_at_ms=self._received_at_ms(len(events)),
        )
        try:
            decoded = self.scorer.decode(raw)
            decisions = self.scorer.decide(decoded)
        except SentinelError as error:
            self._note_closed(error)
            raise
        self._watch_callers(pieces, decoded.refusals)
        self._position += len(events)
        shadow = self.shadow
        if shadow is not None:
            shadow.watch(decisions, decisions.events.column(self._release.entity))
        started_s = time.monotonic()
        lines = self._lines(raw, decisions, decoded.refusals)
        answers, at = [], 0
        for piece in pieces:
            served = ((self._release.label, piece.n_rows),)
            answers.append(EventAnswers(lines[at : at + piece.n_rows], served))
            at += piece.n_rows
        self.encode_seconds.observe(time.monotonic() - started_s)
        return answers

    def _lines(
        self, raw: RawBatch, decisions: DecisionBatch, refusals: Sequence[Refusal]
    ) -> list[bytes | SentinelError]:
        """Match every decision and every refusal with the event it belongs to."""
        spans = _id_spans(decisions, self._release)
        rows = decisions.events.rows
        _check_identity(raw, decisions, spans)
        found: list[bytes | SentinelError | None] = [None] * raw.n_events
        written = self.scorer.encode(decisions).split(b"\n")
        content = decisions.events.text_content
        text = content.tobytes()
        at = 0
        for row, decided, (start, end) in zip(
            rows.tolist(), decisions.is_decided.tolist(), spans.tolist(), strict=True
        ):
            event_id = text[start:end]
            if decided:
                found[row] = written[at]
                self._memory.put(event_id, written[at])
                at += 1
            else:
                found[row] = self._memory.get(event_id) or _repeated(event_id)
        for refusal in refusals:
            found[refusal.position - self._position + raw.n_events] = EventRefusedError(refusal)
        if at != len(written) - 1:
            raise _mixed(f"{at} decisions", len(written) - 1)
        lines = [line for line in found if line is not None]
        if len(lines) != raw.n_events:
            raise _mixed(f"{raw.n_events} answers", len(lines))
        return lines

    def _watch_callers(self, pieces: Sequence[Piece], refusals: Sequence[Refusal]) -> None:
        """Count whose events were read; of a batch with refusals, whose were refused."""
        callers = self._callers
        callers.read(pieces)
        if refusals:
            first = self._position
            callers.refused(pieces, [refusal.position - first for refusal in refusals])
        if callers.is_full:
            callers.tell(self.scorer)

    # --- feedback ----------------------------------------------------------------------------

    def _run_feedback(self, piece: Piece) -> EventAnswers:
        """Learn what became of earlier events; an id that was learned before changes nothing."""
        events = piece.work.events[piece.start : piece.end]
        first = self._feedback_position
        raw = RawBatch.from_events(
            events,
            source=FEEDBACK_SOURCE,
            first_position=first,
            received_at_ms=self._received_at_ms(len(events)),
        )
        try:
            decoded = self.scorer.learn(raw)
        except SentinelError as error:
            self._note_closed(error)
            raise
        self._feedback_position += len(events)
        lines: list[bytes | SentinelError] = [_LEARNED] * len(events)
        for refusal in decoded.refusals:
            lines[refusal.position - first] = EventRefusedError(refusal)
        return EventAnswers(lines, ((self._release.label, len(lines)),))

    # --- tensors -----------------------------------------------------------------------------

    def _run_tensors(self, pieces: Sequence[Piece]) -> list[TensorAnswers]:
        release = pieces[0].work.release or self._release
        parts = [
            piece.work.values[piece.start : piece.end]
            for piece in pieces
            if piece.work.values is not None
        ]
        values = np.ascontiguousarray(parts[0] if len(parts) == 1 else np.concatenate(parts))
        n_rows = len(values)
        rows = Rows(values, self._present_of(values.shape[1])[:n_rows], _NOBODY[:n_rows])
        release.scorer.champion.tick(rows)
        answer = release.scorer.champion.predict(rows)
        outcome = outcomes(answer, release.thresholds)
        if len(answer.scores) != len(values) or len(parts) != len(pieces):
            raise _mixed(f"{len(values)} rows", len(answer.scores))
        scores, outcome_codes = answer.scores.tolist(), outcome.tolist()
        served_by, reasons = answer.served_by.tolist(), answer.reasons.tolist()
        answers, at, version = [], 0, release.version
        for _, start, stop in pieces:
            end = at + stop - start
            rows_of = slice(at, end)
            answers.append(
                TensorAnswers(
                    scores[rows_of],
                    outcome_codes[rows_of],
                    served_by[rows_of],
                    reasons[rows_of],
                    version,
                )
            )
            at = end
        return answers

    # --- the canary --------------------------------------------------------------------------

    def _run_canary(self, piece: Piece) -> EventAnswers:
        """Take known events the whole way, in an engine of their own: live state stays as it is."""
        release = piece.work.release or self._release
        scorer = release.scorer
        raw = RawBatch.from_events(piece.work.events, source=CANARY_SOURCE)
        decoded = scorer.decode(raw)
        if decoded.refusals:
            raise EventRefusedError(decoded.refusals[0])
        decisions = scorer.decide_apart(decoded)
        _check_identity(raw, decisions, _id_spans(decisions, release))
        lines = scorer.encode(decisions).split(b"\n")[:-1]
        return EventAnswers(lines, ((release.label, len(lines)),))

    # --- private -----------------------------------------------------------------------------

    def _present_of(self, n_features: int) -> npt.NDArray[np.uint8]:
        """Return the status of features that came as they are, of a whole batch; only read."""
        if self._present.shape[1] != n_features:
            shape = (bounds.SERVE_BATCH_ROWS_MAX, n_features)
            self._present = np.full(shape, PRESENT, dtype=np.uint8)
        return self._present

    def _received_at_ms(self, n_events: int) -> npt.NDArray[np.int64] | None:
        if self._is_rehearsal:
            return None
        return np.full(n_events, time.time_ns() // 1_000_000, dtype=np.int64)

    def _note_closed(self, error: SentinelError) -> None:
        """Notice a scorer that ended in the middle of a batch: it will refuse the next one."""
        try:
            self.scorer.tick()
        except SentinelError as closed:
            if closed.code is ErrorCode.SCORER_CLOSED:
                self._failure = str(error)


def _by_release(pieces: Sequence[Piece]) -> list[Sequence[Piece]]:
    """Part pieces where the release that must answer changes; nearly always one part."""
    first = pieces[0].work.release
    if len(pieces) == 1 or all(piece.work.release is first for piece in pieces):
        return [pieces]
    return [
        list(same)
        for _, same in itertools.groupby(pieces, key=lambda piece: id(piece.work.release))
    ]


def _id_spans(decisions: DecisionBatch, release: WorkingRelease) -> npt.NDArray[np.int64]:
    events = decisions.events
    field = events.text_fields.index(release.event_id)
    spans: npt.NDArray[np.int64] = events.text_spans[field]
    return spans


def _check_identity(raw: RawBatch, decisions: DecisionBatch, spans: npt.NDArray[np.int64]) -> None:
    """Refuse rows that are not those that went in."""
    events = decisions.events
    rows = events.rows
    if events.raw is not raw or len(spans) != len(rows):
        raise _mixed("the batch that was sent", "another one")
    if len(rows) == 1:
        row, start, end = rows.item(), spans[0, 0], spans[0, 1]
        is_own = start >= raw.starts[row] and end <= raw.ends[row]
        if not is_own and start < len(raw.content):
            raise _mixed("ids inside the bytes of their events", "an id of another event")
        return
    starts, ends = raw.starts[rows], raw.ends[rows]
    is_inside = (spans[:, 0] >= starts) & (spans[:, 1] <= ends)
    is_resolved = spans[:, 0] >= len(raw.content)  # escapes: the value stands behind all events
    if not (is_inside | is_resolved).all():
        raise _mixed("ids inside the bytes of their events", "an id of another event")


def _mixed(expected: str, got: object) -> SentinelError:
    return SentinelError(ErrorCode.INTERNAL, at="row identity", expected=expected, got=got)


def _repeated(event_id: bytes) -> SentinelError:
    return SentinelError(
        ErrorCode.EVENT_REPEATED,
        at="event",
        expected="an id that was not decided before, or whose decision is remembered",
        got=event_id.decode("utf-8", "replace"),
        hint="Look into the decision log; if it is not there, hold the event or have it reviewed.",
    )
