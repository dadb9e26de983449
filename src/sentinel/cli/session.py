"""A release opened for work: scorer, quarantine, decision log, metrics, with one way to close."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sentinel.cli.release import load

if TYPE_CHECKING:
    from sentinel.contract import Quarantine
    from sentinel.core.configuration import Configuration
    from sentinel.features.stores.choice import StoreChoice
    from sentinel.monitoring import DecisionLog, Metrics
    from sentinel.release import LoadedRelease
    from sentinel.scoring import Scorer
    from sentinel.streaming import Valves


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPlan:
    """What is to be opened, and where things go.

    Attributes
    ----------
    folder : Path
        Of the release.
    trust : Path or None
    allow_unapproved : bool
    quarantine : Path
    log : Path or None
        Folder of the decision log; None: no log.
    store : StoreChoice or None
        Where feature state is kept; None: in memory, fresh.
    """

    folder: Path
    trust: Path | None
    allow_unapproved: bool
    quarantine: Path
    log: Path | None = None
    store: StoreChoice | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A release at work.

    Attributes
    ----------
    loaded : LoadedRelease
    scorer : Scorer
        With the clock of a replay: the same decisions every time.
    metrics : Metrics
    quarantine : Quarantine
    log : DecisionLog or None
    valves : Valves
        The scorer's sinks.
    """

    loaded: LoadedRelease
    scorer: Scorer
    metrics: Metrics
    quarantine: Quarantine
    log: DecisionLog | None
    valves: Valves


@contextmanager
def open_session(plan: SessionPlan, configuration: Configuration) -> Iterator[Session]:
    """Verify and load a release and open everything around it; all is closed at the end.

    Raises
    ------
    SentinelError
        What loading, the quarantine and the decision log raise.
    """
    from sentinel.contract import Quarantine
    from sentinel.features.stores.choice import open_store
    from sentinel.monitoring import DriftSettings, Metrics
    from sentinel.release.decision_log import open_decision_log
    from sentinel.scoring import ReplayClock, Sinks
    from sentinel.streaming import DecisionValve, RefusalValve, Valves

    loaded = load(plan.folder, plan.trust, allow_unapproved=plan.allow_unapproved)
    with ExitStack() as stack:
        if not plan.quarantine.exists():
            stack.callback(_remove_when_empty, plan.quarantine)
        quarantine = stack.enter_context(Quarantine(plan.quarantine))
        metrics = Metrics(with_process=False)
        decisions = DecisionValve() if plan.log is not None else None
        valves = Valves(refusals=RefusalValve(quarantine, plan.quarantine), log=decisions)
        sinks = Sinks(refusals=valves.refusals or quarantine, decisions=decisions, metrics=metrics)
        engine = None
        if plan.store is not None:
            engine = stack.enter_context(open_store(plan.store, loaded.parts.plan, is_patient=True))
        drift = DriftSettings.from_configuration(configuration)
        scorer = loaded.open_scorer(sinks, clock=ReplayClock(), engine=engine, drift=drift)
        stack.callback(scorer.close)
        log = None
        if plan.log is not None and decisions is not None:
            log = stack.enter_context(
                open_decision_log(
                    plan.log,
                    loaded,
                    execution_provider=scorer.execution_provider,
                    configuration=configuration,
                )
            )
            decisions.attach(log)
        yield Session(
            loaded=loaded,
            scorer=scorer,
            metrics=metrics,
            quarantine=quarantine,
            log=log,
            valves=valves,
        )


def _remove_when_empty(folder: Path) -> None:
    """Leave no empty folder behind; one that holds something stays."""
    with suppress(OSError):
        folder.rmdir()
