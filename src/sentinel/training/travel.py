"""The time-travel test (:mod:`sentinel.features.time_travel`) over the logs that trained."""

from __future__ import annotations

from sentinel.contract.decoder import Decoder
from sentinel.core import limits
from sentinel.data import EventFile
from sentinel.features import compile_plan
from sentinel.features.time_travel import time_travel
from sentinel.release.candidate import TimeTravel
from sentinel.training.boosted import OnProgress, no_progress
from sentinel.training.history import History, shown


def travel_in_time(
    history: History,
    *,
    n_events: int = limits.TIME_TRAVEL_EVENTS_DEFAULT,
    on_progress: OnProgress = no_progress,
) -> TimeTravel:
    """Compute the vectors of drawn events again, with both logs cut at each of them.

    Parameters
    ----------
    history : History
    n_events : int
        Events drawn, the last one of the log among them.
    on_progress : callable

    Returns
    -------
    TimeTravel
        After one more replay of the log, whatever ``n_events`` is.
    """
    features = history.features
    events = Decoder(features.events)
    feedback = None if features.feedback is None else Decoder(features.feedback)
    report = time_travel(
        compile_plan(features),
        (
            events.decode(raw).events
            for raw in shown(EventFile(history.events), "time travel", on_progress)
        ),
        ()
        if feedback is None
        else (feedback.decode(raw).events for raw in EventFile(history.feedback).batches()),
        history.replayed.matrix,
        n_samples=n_events,
    )
    return TimeTravel(
        n_checked=report.n_checked, n_different=report.n_different, detail=report.detail
    )
