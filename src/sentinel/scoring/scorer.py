"""The one way from raw events to decisions; every door of the house leads here.

    bytes -> contract -> features -> guards around the champion -> thresholds -> decisions

Columns all the way: on the clean path nothing is done row by row in Python. One scorer belongs to
one thread; the features of an event depend on those before it.

What was read is decided, held, quarantined or deduplicated, always: :class:`Counts`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from sentinel.contract import ContractSchema, Decoded, Decoder, EventBatch, RawBatch
from sentinel.core.clock import Clock, SystemClock
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features import Engine
from sentinel.features.matrix import FeatureMatrix
from sentinel.features.stores.durable import RemoteStore
from sentinel.monitoring.drift import DriftMonitor, DriftSettings
from sentinel.monitoring.log_block import LogBlock
from sentinel.monitoring.log_records import LogContext, LogRecords, feature_hashes
from sentinel.monitoring.stages import StageTimer
from sentinel.scoring.breaker import Event
from sentinel.scoring.canary import CanaryPath, CanaryReport
from sentinel.scoring.champion import GuardedChampion
from sentinel.scoring.counts import Counts, RunningCounts
from sentinel.scoring.decision import DecisionBatch, Outcome, Reason, ServedBy, code_names
from sentinel.scoring.encoding import encode
from sentinel.scoring.governor import Governor
from sentinel.scoring.guards import Rows, unanswered
from sentinel.scoring.measures import Measures
from sentinel.scoring.parts import ScorerParts, Sinks
from sentinel.scoring.policy import Policy
from sentinel.scoring.replay_clock import ReplayClock
from sentinel.scoring.runners import InlineRunner, Runner, ThreadRunner
from sentinel.scoring.session import ModelSession
from sentinel.scoring.sources import SourceWatch
from sentinel.scoring.status import Health, ScorerStatus, causes_of
from sentinel.scoring.tally import Tally, outcomes, tally_of

__all__ = ["Scorer", "log_records", "outcomes"]

_HELD = int(Outcome.HELD)


class Scorer:
    """From a batch of raw events to a batch of decisions.

    Parameters
    ----------
    parts : ScorerParts
    sinks : Sinks
    clock : Clock
        A :class:`ReplayClock` makes decisions a pure function of the events: the same twice, and
        however they were cut into batches. With the machine's clock (the default) a slow or
        failing champion is noticed, and decisions may depend on how fast the machine was.
    engine : Engine, optional
        Feature state to go on from; a new one by default.
    drift : DriftSettings, optional
        How drift from the release's reference is watched.
    is_in_service : bool
        Show how it is in the metrics; a scorer that is only made ready waits for
        :meth:`enter_service`.

    Raises
    ------
    SentinelError
        ``model-invalid``; whatever the parts refuse. A canary that fails does not raise: the
        champion is latched off, the fallback answers, and :meth:`status` says so.
    """

    def __init__(
        self,
        parts: ScorerParts,
        sinks: Sinks,
        *,
        clock: Clock | None = None,
        engine: Engine | None = None,
        drift: DriftSettings | None = None,
        is_in_service: bool = True,
    ) -> None:
        self.parts = parts
        self.policy = parts.policy
        self.engine = engine if engine is not None else Engine(parts.plan)
        self.timer = StageTimer()
        self.execution_provider = ""
        self._sinks = sinks
        self._clock: Clock = clock if clock is not None else SystemClock()
        self._schema = parts.plan.features.events
        self._decoder = Decoder(self._schema)
        feedback = parts.plan.features.feedback
        self._feedback_decoder = Decoder(feedback) if feedback is not None else None
        self._entity_field = parts.entity_field()
        self._thresholds = parts.policy.thresholds()
        session = ModelSession(parts.champion, n_features=len(parts.plan.names))
        self.execution_provider = session.provider
        runner: Runner = InlineRunner() if isinstance(self._clock, ReplayClock) else ThreadRunner()
        self.champion = GuardedChampion(
            self._path(session),
            canary=parts.canary,
            policy=parts.policy,
            clock=self._clock,
            runner=runner,
            lap=self.timer.lap,
        )
        self._governor = Governor(parts.policy.governor, _expected(parts.policy))
        self._sources = _source_watch(parts.policy)
        self._callers = _source_watch(parts.policy)
        if parts.reference is not None:
            parts.reference.require_names(parts.plan.names)
        self.drift = DriftMonitor(parts.reference, drift) if parts.reference is not None else None
        self._counts = RunningCounts()
        self._measures = Measures(sinks.metrics, self.timer, self.status)
        self._is_closed = False
        self._is_broken = False
        if is_in_service:
            self.enter_service()

    def enter_service(self, before: Scorer | None = None) -> None:
        """Show how this scorer is in the metrics, from now on.

        Parameters
        ----------
        before : Scorer, optional
            The one that it takes over from: its stages' times are gone on with, so that no
            histogram goes back.
        """
        if before is not None:
            before.leave_service()
            self.timer.histograms = before.timer.histograms
        self._measures.show()

    def leave_service(self) -> None:
        """Show how this scorer is no more."""
        self._measures.hide()

    def decode(self, raw: RawBatch) -> Decoded:
        """Hold raw events against the contract; nothing is counted or kept yet."""
        self._check_open()
        self.timer.start()
        decoded = self._decoder.decode(raw)
        self.timer.lap("decode")
        return decoded

    def decide(self, decoded: Decoded) -> DecisionBatch:
        """Keep the refusals, advance the features and decide every accepted event.

        Raises
        ------
        SentinelError
            When the quarantine or the feature state cannot take the batch: then nothing was
            changed, and the same batch may come again. When the decision log cannot take it: then
            features have advanced, and this scorer is closed (``scorer-closed`` from then on);
            open a new one from the last state.
        """
        self._check_open()
        events = decoded.events
        self.timer.start()
        self._sinks.refusals.put(decoded.refusals)
        self.timer.lap("quarantine")
        matrix = self.engine.advance(events)
        self._is_broken = True  # until the end: from here on, half a batch is no batch
        self.timer.lap("features")
        self._show_time(events)
        decisions = self._decide(events, matrix)
        self._log(decisions)
        self.timer.lap("log")
        self._watch(decisions)
        self.timer.lap("drift")
        tally = tally_of(decisions)
        self._count(decoded, tally)
        self._measures.batch(decoded, decisions, tally)
        self.timer.lap("metrics")
        self._is_broken = False
        return decisions

    def decide_apart(self, decoded: Decoded) -> DecisionBatch:
        """Decide known events the whole way, in an engine of their own, and keep nothing of it.

        Live state, counts and sinks stay as they are; the champion, its guards and the times of
        stages are the live ones. What a decision needs is compiled and loaded by it, so before the
        first that counts.
        """
        self._check_open()
        matrix = Engine(self.parts.plan).advance(decoded.events)
        self.timer.start()
        decisions = self._decide(decoded.events, matrix)
        tally_of(decisions)
        if self.parts.reference is not None:
            DriftMonitor(self.parts.reference).update(
                decisions.features,
                decisions.feature_status,
                decisions.score,
                decisions.outcome == _HELD,
                now_s=0.0,
            )
        records = log_records(decisions, self._schema, decided_at_ms=self._clock.now_ms())
        LogBlock(_no_context(self.parts), n_records_max=records.n_records).put(records)
        return decisions

    def score(self, raw: RawBatch) -> DecisionBatch:
        """Decode and decide; see :meth:`decide`."""
        return self.decide(self.decode(raw))

    def learn(self, raw_feedback: RawBatch) -> Decoded:
        """Take raw feedback; each is applied once its time has come, see :meth:`Engine.learn`.

        Returns
        -------
        Decoded
            What was accepted, and what was quarantined.

        Raises
        ------
        SentinelError
            ``feature-batch-mismatch`` when the feature set declares no feedback;
            ``feedback-too-much``: nothing was learned.
        """
        self._check_open()
        if self._feedback_decoder is None:
            raise SentinelError(
                ErrorCode.FEATURE_BATCH_MISMATCH,
                at="feedback",
                expected="no feedback: the feature set declares none",
                got=f"{raw_feedback.n_events} events",
            )
        decoded = self._feedback_decoder.decode(raw_feedback)
        self._sinks.refusals.put(decoded.refusals)
        self.engine.learn(decoded.events)
        self._measures.feedback(decoded)
        self._counts.add_feedback(
            read=raw_feedback.n_events,
            learned=decoded.events.n_rows,
            quarantined=len(decoded.refusals),
        )
        return decoded

    def watch_callers(self, n_read: Mapping[str, int], n_refused: Mapping[str, int]) -> None:
        """Count what each caller sent, where many callers share a source and its batches.

        Parameters
        ----------
        n_read : mapping of str to int
            Events that were decided, refused or known already, by the name of the caller.
        n_refused : mapping of str to int
            Those of them that were refused.
        """
        now_s = self._clock.monotonic_s()
        for caller, n in n_read.items():
            self._callers.observe(caller, n_read=n, n_refused=n_refused.get(caller, 0), now_s=now_s)

    def tick(self) -> None:
        """Let time pass where no events come: pauses and deadlines end, the canary is due.

        A worker calls it while it waits, at least once a second.
        """
        self._check_open()
        self.champion.tick()
        if isinstance(self.engine, RemoteStore):
            self.engine.tend()

    def encode(self, decisions: DecisionBatch) -> bytes:
        """Write decisions as JSON lines (:mod:`sentinel.scoring.encoding`)."""
        return encode(decisions, event_id=self._schema.event_id.name)

    def check_canary(self) -> CanaryReport:
        """Run the canary now; a champion that answers wrongly is latched off."""
        return self.champion.check()

    def force(self, event: Event, *, cause: str) -> None:
        """Do what a person asks of the breaker: open, close or reset it.

        Raises
        ------
        SentinelError
            ``breaker-refused`` where the breaker's state does not allow it.
        """
        self.champion.force(event, cause=cause)

    def counts(self) -> Counts:
        """Return what became of everything read so far."""
        return self._counts.now()

    def status(self) -> ScorerStatus:
        """Return how the scorer is."""
        breaker, canary = self.champion.breaker, self.champion.canary_state
        pages = self._governor.pages
        now_s = self._clock.monotonic_s()
        degraded = self._sources.degraded(now_s=now_s)
        callers = self._callers.degraded(now_s=now_s)
        causes = causes_of(
            breaker=breaker.state,
            breaker_cause=breaker.cause,
            canary=canary,
            pages=pages,
            degraded_sources=degraded,
            store=self.engine.trouble if isinstance(self.engine, RemoteStore) else "",
        )
        latest = self.drift.latest if self.drift is not None else None
        return ScorerStatus(
            release=self.parts.release,
            release_digest=self.parts.release_digest,
            execution_provider=self.execution_provider,
            health=Health.DEGRADED if causes or callers else Health.HEALTHY,
            causes=causes,
            breaker=breaker.state,
            breaker_cause=breaker.cause,
            n_entered=breaker.n_entered,
            canary=canary,
            pages=pages,
            degraded_sources=degraded,
            degraded_callers=callers,
            drift_score=latest.prediction_score if latest is not None else None,
            counts=self._counts.now(),
            n_entities=self.engine.n_entities,
            state_bytes=self.engine.state_bytes,
        )

    def close(self) -> None:
        """End it: no call but :meth:`counts` and :meth:`status` is answered from now on.

        The sinks belong to who made them and stay open; the metrics keep the last of it, and ask
        it no more.
        """
        self._is_closed = True
        self.leave_service()

    # --- private -----------------------------------------------------------------------------

    def _path(self, session: ModelSession) -> CanaryPath:
        return CanaryPath(
            decode=lambda raw: self._decoder.decode(raw).events,
            features=lambda events: Engine(self.parts.plan).advance(events),
            champion=session.run,
            fallback=self.parts.fallback,
            outputs=self.policy.outputs,
        )

    def _check_open(self) -> None:
        if self._is_closed or self._is_broken:
            raise SentinelError(
                ErrorCode.SCORER_CLOSED,
                at=self.parts.release,
                expected="an open scorer",
                got="a closed one" if self._is_closed else "one that failed in mid-batch",
                hint="Open a new one from the last state.",
            )

    def _show_time(self, events: EventBatch) -> None:
        """Move a replay's clock to the events."""
        if isinstance(self._clock, ReplayClock) and events.n_rows:
            times = events.column(self._schema.event_time.name)
            self._clock.advance_to(int(times.max()))

    def _decide(self, events: EventBatch, matrix: FeatureMatrix) -> DecisionBatch:
        """Ask for an answer to every event that was not decided before; apply the thresholds."""
        rows = Rows(matrix.values, matrix.status, events.column(self._entity_field))
        is_decided = ~matrix.is_duplicate
        self.champion.tick(rows)
        if rows.n_rows and _is_all(is_decided):
            answer = self.champion.predict(rows)
        else:
            answer = unanswered(rows.n_rows, Reason.OK)
            kept = np.flatnonzero(is_decided)
            if len(kept):
                answer.put(kept, self.champion.predict(rows.take(kept)))
        self.timer.lap("sanity")
        decisions = DecisionBatch(
            events=events,
            is_decided=is_decided,
            score=answer.scores,
            outcome=outcomes(answer, self._thresholds),
            served_by=answer.served_by,
            reason=answer.reasons,
            features=matrix.values,
            feature_status=matrix.status,
            feature_hash=feature_hashes(matrix.values),
            is_late=matrix.is_late,
        )
        self.timer.lap("decide")
        return decisions

    def _log(self, decisions: DecisionBatch) -> None:
        if self._sinks.decisions is not None:
            records = log_records(decisions, self._schema, decided_at_ms=self._clock.now_ms())
            self._sinks.decisions.append(records)

    def _watch(self, decisions: DecisionBatch) -> None:
        """Hold what was decided against what is expected."""
        is_decided = decisions.is_decided
        rows = slice(None) if _is_all(is_decided) else np.flatnonzero(is_decided)
        outcome = decisions.outcome[rows]
        if self._governor.observe(outcome):
            self.champion.want_check()
        if self.drift is None:
            return
        report = self.drift.update(
            decisions.features[rows],
            decisions.feature_status[rows],
            decisions.score[rows],
            outcome == _HELD,
            now_s=self._clock.now_ms() / 1000,
        )
        if report is not None:
            self._sinks.metrics.record_drift(report)

    def _count(self, decoded: Decoded, tally: Tally) -> None:
        raw = decoded.events.raw
        n_refused = len(decoded.refusals)
        self._sources.observe(
            raw.source,
            n_read=raw.n_events,
            n_refused=n_refused,
            now_s=self._clock.monotonic_s(),
        )
        n_held = tally.n_held
        self._counts.add(
            read=raw.n_events,
            decided=tally.n_decided - n_held,
            held=n_held,
            quarantined=n_refused,
            deduplicated=decoded.events.n_rows - tally.n_decided,
            late=tally.n_late_decided,
        )


def log_records(
    decisions: DecisionBatch, schema: ContractSchema, *, decided_at_ms: int
) -> LogRecords:
    """Turn decisions into records of the decision log; duplicates are left out."""
    events = decisions.events
    is_decided = decisions.is_decided
    rows = slice(None) if _is_all(is_decided) else np.flatnonzero(is_decided)
    spans = events.text_spans[events.text_fields.index(schema.event_id.name)][rows]
    positions = events.raw.positions
    if len(events.rows) < len(positions):
        positions = positions[events.rows]
    outcome = decisions.outcome[rows]
    return LogRecords(
        id_content=events.text_content,
        id_spans=spans,
        event_time_ms=events.column(schema.event_time.name)[rows],
        decided_at_ms=np.full(len(spans), decided_at_ms, dtype=np.int64),
        score=decisions.score[rows],
        is_held=outcome == _HELD,
        outcome=outcome,
        served_by=decisions.served_by[rows],
        reason=decisions.reason[rows],
        features=decisions.features[rows],
        feature_status=decisions.feature_status[rows],
        feature_hash=decisions.feature_hash[rows],
        source=events.raw.source,
        partition=events.raw.partition,
        positions=positions[rows],
    )


def _source_watch(policy: Policy) -> SourceWatch:
    return SourceWatch(
        refused_share_max=policy.refused_share_max, events_min=policy.refused_events_min
    )


def _no_context(parts: ScorerParts) -> LogContext:
    """Say what records share whom no log will hold."""
    return LogContext(
        release=parts.release,
        release_digest=parts.release_digest,
        environment_digest="",
        execution_provider="",
        thresholds={},
        feature_names=parts.plan.names,
        contract_hash="",
        outcomes=code_names(Outcome),
        served_by=code_names(ServedBy),
        reasons=code_names(Reason),
    )


def _is_all(flags: npt.NDArray[np.bool_]) -> bool:
    """Whether all are true; for a few rows a fifth of what NumPy's own reduction takes."""
    return b"\0" not in flags.tobytes()


def _expected(policy: Policy) -> dict[Outcome, float]:
    shares = {Outcome.REVIEW: policy.review_share, Outcome.DECLINE: policy.decline_share}
    return {outcome: share for outcome, share in shares.items() if share is not None}
