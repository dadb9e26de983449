"""``sentinel explain``: why a logged decision is what it is, from the log and the release alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sentinel.cli import options
from sentinel.cli.features import shown_value
from sentinel.cli.output import Output, number, panel, table
from sentinel.cli.release import now_ms
from sentinel.core.errors import ErrorCode, SentinelError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa
    from rich.console import RenderableType

    from sentinel.release import LoadedRelease
    from sentinel.scoring.explanation import Explanation, ScoredRows

_CONTRIBUTIONS_SHOWN = 10
_ABSENT = {
    "held": "nobody answered it: there is no score to explain",
    "not-additive": "no explanation adds up to its score, as when another model answered",
    "no-data": "the release carries nothing to explain its champion by",
    "not-finite": "its features are not finite numbers",
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog=options.examples(
            "sentinel explain decisions t00000000042 --release my-release",
            "sentinel explain decisions t00000000042 --release my-release --json",
        ),
    )(explain)


def explain(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="Folder of the decision log.")],
    event_id: Annotated[str, typer.Argument(metavar="EVENT_ID", help="The event decided.")],
    *,
    release: Annotated[Path, typer.Option("--release", help="Folder of the release that decided.")],
    as_json: options.AsJson = False,
) -> None:
    """Explain a decision of a decision log: its reasons in words, and what each feature added.

    The logged feature vector is explained again with the release that decided, and held against
    the logged score.
    """
    from sentinel.release import verify_release
    from sentinel.release.explaining import open_explainer
    from sentinel.scoring.explanation import Absence
    from sentinel.scoring.explanation.document import explanation_document

    rows, digest = logged_row(log, event_id)
    loaded = verify_release(release, None, now_ms=now_ms())
    if loaded.digest != digest:
        raise SentinelError(
            ErrorCode.EXPLANATION_UNAVAILABLE,
            at=str(release),
            expected=f"the release that decided, {digest[:16]}…",
            got=f"{loaded.manifest.label}, {loaded.digest[:16]}…",
        )
    found = open_explainer(loaded).explain(rows)[0]
    if isinstance(found, Absence):
        raise SentinelError(
            ErrorCode.EXPLANATION_UNAVAILABLE,
            at=event_id,
            expected="a decision with an explanation",
            got=_ABSENT[found],
        )
    output = Output(as_json=as_json)
    output.show(*explanation_parts(found, loaded, rows.values[0], event_id=event_id))
    document = explanation_document(
        found,
        event_id=event_id,
        release=loaded.manifest.label,
        names=loaded.parts.plan.names,
        values=rows.values[0],
        status=rows.status[0],
    )
    output.document(json.loads(document))


def logged_row(log: Path, event_id: str) -> tuple[ScoredRows, str]:
    """Read the logged row of an event, and the digest of the release that decided it.

    Raises
    ------
    SentinelError
        ``file-missing``, ``decision-log-damaged``; ``decision-unknown`` when it is not there.
    """
    import numpy as np

    from sentinel.monitoring.log_records import feature_vectors, fixed_bytes
    from sentinel.monitoring.log_segments import read_metadata, segment_paths
    from sentinel.scoring import Outcome, ServedBy, code_names
    from sentinel.scoring.explanation import ScoredRows

    if not log.is_dir():
        raise SentinelError(
            ErrorCode.FILE_MISSING, at=str(log), expected="a folder", got="none there"
        )
    for _, path in reversed(segment_paths(log)):
        metadata = read_metadata(path)
        batch = _batch_of(path, event_id)
        if batch is None:
            continue
        outcomes, served = code_names(Outcome), code_names(ServedBy)
        score = batch.column("score")[0].as_py()
        rows = ScoredRows(
            values=feature_vectors(batch),
            status=fixed_bytes(batch, "feature_status").astype(np.uint8),
            score=np.array([0.0 if score is None else score]),
            outcome=np.array([outcomes.index(batch.column("outcome")[0].as_py())], dtype=np.uint8),
            served_by=np.array([served.index(batch.column("served_by")[0].as_py())], np.uint8),
        )
        return rows, metadata.context.release_digest
    raise SentinelError(
        ErrorCode.DECISION_UNKNOWN, at=str(log), expected="a decision of this event", got=event_id
    )


def _batch_of(path: Path, event_id: str) -> pa.RecordBatch | None:
    """Read the last record of an event in one segment."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    found = pq.read_table(path, filters=pc.field("event_id") == event_id)
    if not found.num_rows:
        return None
    (batch,) = found.slice(found.num_rows - 1).combine_chunks().to_batches()
    return batch


def explanation_parts(
    found: Explanation,
    loaded: LoadedRelease,
    values: npt.NDArray[np.float32],
    *,
    event_id: str,
) -> tuple[RenderableType, ...]:
    """Make what people see of an explanation: a panel of reasons, a table of contributions."""
    from rich.text import Text

    words = [f"{place}. {reason.words}" for place, reason in enumerate(found.reasons, start=1)]
    lead = f"score {number(found.score)}, {found.outcome}, by the {found.served_by}"
    reasons = panel(
        f"Why {event_id} is {found.outcome}", Text("\n".join([lead, "", *words])), style="yellow"
    )
    names, features = loaded.parts.plan.names, loaded.parts.plan.features.features
    order = sorted(range(len(names)), key=lambda j: -abs(found.contributions[j]))
    rows = [
        (names[j], shown_value(features[j], float(values[j])), f"{found.contributions[j]:+.3f}")
        for j in order[:_CONTRIBUTIONS_SHOWN]
    ]
    title = (
        f"What moved the log-odds, {found.method} "
        f"(base {found.base:.3f}, residual {found.residual:.1e})"
    )
    return reasons, table(title, ["feature", "value", "adds"], rows)
