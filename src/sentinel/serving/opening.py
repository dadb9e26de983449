"""From a verified release to a scorer that serves: state, quarantine, decision log, metrics."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from sentinel.contract import Quarantine
from sentinel.core import limits
from sentinel.core.configuration import Configuration
from sentinel.features.stores.choice import StoreKind, open_store
from sentinel.features.stores.durable import DurableStore, RemoteStore
from sentinel.monitoring import (
    DecisionLog,
    DriftSettings,
    Metrics,
)
from sentinel.monitoring.accelerator_watch import watched_accelerators
from sentinel.monitoring.log_records import LogContext, LogRecords
from sentinel.release import LoadedRelease, Standing
from sentinel.release.decision_log import log_context, open_decision_log
from sentinel.scoring import Scorer, Sinks
from sentinel.serving.explanations.explainer import ExplainerProcess
from sentinel.serving.explanations.explanations import Explanations, Tap, watch
from sentinel.serving.explanations.kept import EXPLANATIONS_FOLDER
from sentinel.serving.releases.working_release import WorkingRelease
from sentinel.serving.settings import ServerSettings

_LOG = logging.getLogger("sentinel.serving")


class LateSink:
    """A decision sink that is opened after the scorer: the log's context names its provider.

    Attributes
    ----------
    log : DecisionLog or None
    context : LogContext or None
        What the records of this scorer share; None: what the log was opened with.
    tap : Tap or None
        Where decisions go that may be explained.
    """

    def __init__(self) -> None:
        self.log: DecisionLog | None = None
        self.context: LogContext | None = None
        self.tap: Tap | None = None

    def append(self, records: LogRecords) -> None:
        """Hand records on."""
        if self.log is not None:
            self.log.append(records, context=self.context)
        if self.tap is not None:
            self.tap.offer(records)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A release at work, and what is open around it.

    Attributes
    ----------
    loaded : LoadedRelease
    scorer : Scorer
        With the machine's clock; used by one thread.
    metrics : Metrics
    log : DecisionLog or None
    folders : tuple of (str, Path, bool)
        What is written while serving: its name, its folder, and whether serving ends without it.
    refusals : Quarantine
    drift : DriftSettings
    explanations : Explanations
    """

    loaded: LoadedRelease
    scorer: Scorer
    metrics: Metrics
    log: DecisionLog | None
    folders: tuple[tuple[str, Path, bool], ...]
    refusals: Quarantine
    drift: DriftSettings
    explanations: Explanations

    def open_release(self, loaded: LoadedRelease) -> WorkingRelease:
        """Make another release ready to take over: the same state, log, quarantine and metrics.

        Its scorer is not in service yet.

        Raises
        ------
        SentinelError
            What the scorer raises.
        """
        sink = LateSink()
        sink.tap = self.explanations.tap(loaded)
        sinks = Sinks(
            refusals=self.refusals,
            decisions=None if self.log is None and sink.tap is None else sink,
            metrics=self.metrics,
        )
        scorer = Scorer(
            loaded.parts,
            sinks,
            engine=self.scorer.engine,
            drift=self.drift,
            is_in_service=False,
        )
        sink.log = self.log
        sink.context = log_context(loaded, execution_provider=scorer.execution_provider)
        return WorkingRelease.of(loaded, scorer)

    def is_prompt(self) -> bool:
        """Whether what is written while scoring is sure not to wait for a disk or a net.

        State that is logged before it is answered may wait. So may a decision log that must not
        lose anything and has little room left.
        """
        if isinstance(self.scorer.engine, DurableStore):
            return False
        if self.log is None or self.loaded.parts.policy.decision_log != "block":
            return True
        return self.log.counts().queued < limits.LOG_QUEUE_RECORDS_MAX // 8

    def settle(self) -> int:
        """Bring to the state what waits for it, once nothing is scored any more.

        A store that is away is asked for about a second whether it is back.

        Returns
        -------
        int
            Answers that the state never learns of; a line in the log says so, and how many of
            them were dropped, because more came than may wait.
        """
        engine = self.scorer.engine
        if not isinstance(engine, RemoteStore):
            return 0
        end_s = time.monotonic() + 2 * limits.STORE_TEND_S
        while engine.n_backlog and time.monotonic() < end_s:
            engine.tend()
            time.sleep(limits.STORE_PAUSE_MS / 1000)
        n_dropped = engine.store_counts.unapplied_events
        n_answers = engine.n_backlog + n_dropped
        if n_answers:
            _LOG.error(
                "answers never reached the state",
                extra={"answers": n_answers, "dropped": n_dropped, "cause": engine.trouble},
            )
        return n_answers


def open_parts(
    loaded: LoadedRelease, settings: ServerSettings, configuration: Configuration, stack: ExitStack
) -> Opened:
    """Open everything; the stack closes it.

    Raises
    ------
    SentinelError
        What the quarantine, the state and the log raise.
    """
    metrics = Metrics()
    stack.enter_context(watched_accelerators(metrics))
    quarantine = stack.enter_context(Quarantine(settings.quarantine))
    explanations = open_explanations(settings, metrics)
    stack.callback(explanations.close)
    sink = LateSink()
    sink.tap = explanations.tap(loaded)
    is_kept = settings.log is not None or sink.tap is not None
    sinks = Sinks(refusals=quarantine, decisions=sink if is_kept else None, metrics=metrics)
    engine = stack.enter_context(open_store(settings.store, loaded.parts.plan, is_fenced=False))
    drift = DriftSettings.from_configuration(configuration)
    scorer = loaded.open_scorer(sinks, engine=engine, drift=drift)
    stack.callback(scorer.close)
    folders = [("quarantine", settings.quarantine, True)]
    if settings.store.kind is StoreKind.EMBEDDED:
        folders.append(("state", settings.store.folder, True))
    if settings.log is not None:
        sink.log = stack.enter_context(
            open_decision_log(
                settings.log,
                loaded,
                execution_provider=scorer.execution_provider,
                configuration=configuration,
            )
        )
        log = sink.log
        metrics.before_scrape(lambda: metrics.record_log(log.counts()))
        folders.append(("decision log", settings.log, loaded.parts.policy.decision_log == "block"))
    metrics.record_release(
        loaded.manifest.label,
        digest=loaded.digest,
        is_approved=loaded.standing is Standing.APPROVED,
    )
    return Opened(
        loaded=loaded,
        scorer=scorer,
        metrics=metrics,
        log=sink.log,
        folders=tuple(folders),
        refusals=quarantine,
        drift=drift,
        explanations=explanations,
    )


def open_explanations(settings: ServerSettings, metrics: Metrics) -> Explanations:
    """Make the desk for explanations; what it finds is kept beside the decision log."""
    folder = None if settings.log is None else settings.log / EXPLANATIONS_FOLDER
    process = ExplainerProcess(folder, niceness=settings.explainer_nice)
    explanations = Explanations(settings.explain, process=process)
    watch(explanations, metrics)
    return explanations
