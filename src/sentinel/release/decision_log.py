"""The decision log of a loaded release: what every record of it has in common."""

from __future__ import annotations

from pathlib import Path

from sentinel.core.configuration import Configuration
from sentinel.environment import read_environment
from sentinel.monitoring import DecisionLog, LogContext, LogSettings
from sentinel.release.load import LoadedRelease
from sentinel.scoring import Outcome, Reason, ServedBy, code_names

_THRESHOLDS = ("review_above", "decline_above", "fallback_review_above", "fallback_decline_above")


def open_decision_log(
    folder: Path,
    loaded: LoadedRelease,
    *,
    execution_provider: str,
    configuration: Configuration,
) -> DecisionLog:
    """Open the decision log of a release.

    Parameters
    ----------
    folder : Path
        Made when absent.
    loaded : LoadedRelease
    execution_provider : str
        Of the scorer whose decisions are kept.
    configuration : Configuration

    Raises
    ------
    SentinelError
        ``decision-log-busy``, ``decision-log-damaged``, ``file-unwritable``.
    """
    context = log_context(loaded, execution_provider=execution_provider)
    policy = loaded.parts.policy.decision_log
    return DecisionLog(
        folder, context, LogSettings.from_configuration(configuration, policy=policy)
    )


def log_context(loaded: LoadedRelease, *, execution_provider: str) -> LogContext:
    """Say what all records of a release share.

    Parameters
    ----------
    loaded : LoadedRelease
    execution_provider : str
        Of the scorer whose decisions are kept.
    """
    thresholds = loaded.parts.policy.thresholds().ravel().tolist()
    return LogContext(
        release=loaded.manifest.label,
        release_digest=loaded.digest,
        environment_digest=read_environment().digest,
        execution_provider=execution_provider,
        thresholds=dict(zip(_THRESHOLDS, thresholds, strict=True)),
        feature_names=loaded.parts.plan.names,
        contract_hash=loaded.events.schema_hash,
        outcomes=code_names(Outcome),
        served_by=code_names(ServedBy),
        reasons=code_names(Reason),
    )
