"""From two logs to a candidate: replay, split, fit, judge, and say where it all came from.

Nothing is written here. A run that is interrupted, or that meets a number that is not finite,
leaves nothing behind; a candidate exists only when all of it does.
"""

from __future__ import annotations

from pathlib import Path

from sentinel.core import limits
from sentinel.release.candidate import Candidate
from sentinel.release.pipeline import Pipeline
from sentinel.training.assembly import (
    canary_positions,
    feature_set_record,
    later_part,
    null_counts,
    parity_sample,
    reference_rows,
    resolve_policy,
)
from sentinel.training.boosted import OnProgress, no_progress
from sentinel.training.fitting import Fitted, fit
from sentinel.training.history import History, default_split, raw_events, read_history
from sentinel.training.provenance import read_provenance
from sentinel.training.settings import ModelSettings
from sentinel.training.split import TimeSplit
from sentinel.training.travel import travel_in_time


def train(
    pipeline: Pipeline,
    events: Path,
    feedback: Path,
    *,
    split: TimeSplit | None = None,
    settings: ModelSettings | None = None,
    on_progress: OnProgress = no_progress,
) -> Candidate:
    """Train a champion and a fallback, and hand over all that a release is made of.

    Parameters
    ----------
    pipeline : Pipeline
    events, feedback : Path
        Event files, in order of arrival.
    split : TimeSplit, optional
        The last fifth of the log's span judges the model, by default.
    settings : ModelSettings, optional
        The pipeline's, by default.
    on_progress : callable
        Called with a stage (``verdicts``, ``encodings``, ``replay``, ``fit``, ``refit``,
        ``time travel``), how far it is and how far it goes.

    Returns
    -------
    Candidate
        The same logs, pipeline and settings give the same candidate, bit by bit.

    Raises
    ------
    SentinelError
        ``training-settings-invalid``, ``training-split-invalid``, ``training-split-empty``,
        ``training-one-class``, ``training-not-finite``, ``extra-missing``, and what reading the
        files raises.
    """
    chosen = settings or ModelSettings.of(pipeline.model)
    history = read_history(pipeline, events, feedback, split=split, on_progress=on_progress)
    cut = split or default_split(pipeline, history.replayed.times_ms)
    fitted = fit(history, cut, chosen, on_progress=on_progress)
    return _candidate(history, fitted, chosen, on_progress)


def _candidate(
    history: History, fitted: Fitted, settings: ModelSettings, on_progress: OnProgress
) -> Candidate:
    policy = resolve_policy(history, fitted)
    n_canary = limits.CANARY_EVENTS_DEFAULT
    return Candidate(
        pipeline=history.pipeline,
        features=history.features,
        policy=policy,
        champion=fitted.boosted.trees,
        fallback=fitted.fallback,
        parity=parity_sample(history, fitted),
        later=later_part(history, fitted, policy),
        reference=reference_rows(history, fitted),
        canary_events=raw_events(history.events, canary_positions(history, fitted, n_canary)),
        time_travel=travel_in_time(history, on_progress=on_progress),
        null_counts=null_counts(history, fitted),
        record=feature_set_record(history, fitted),
        provenance=read_provenance(
            events=history.events,
            feedback=history.feedback,
            settings=settings,
            split=fitted.split,
            parts=fitted.parts,
            n_rounds=fitted.boosted.n_rounds,
        ),
    )
