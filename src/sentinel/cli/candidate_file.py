"""A candidate as a file: what training hands over, so that another may build the release.

The machine that trains need not hold the builder's key. The file is one NumPy archive: arrays, and
a JSON text for the rest. It is data: reading it runs no code and unpickles nothing. It is not
signed either: whoever builds from it answers for where it came from, and the gates judge it again.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.files import read_bounded, write_atomically
from sentinel.features import FeatureSet
from sentinel.release import (
    Candidate,
    Label,
    LaterPart,
    Linear,
    OnnxModel,
    ParitySample,
    Pipeline,
    Provenance,
    ReferenceRows,
    TimeTravel,
    TreeEnsemble,
)
from sentinel.release.champion import Champion
from sentinel.scoring import LinearFallback, Policy

FORMAT = "sentinel-candidate-1"
_CHAMPIONS: dict[str, type[Champion]] = {
    "trees": TreeEnsemble,
    "linear": Linear,
    "onnx": OnnxModel,
}
_TREE_ARRAYS = ("feature", "threshold", "left", "right", "value", "roots")
_LEAF_COVER = "leaf_cover"
_LINEAR_ARRAYS = ("coefficients", "centre", "scale")
Arrays = Mapping[str, np.ndarray]


class _LabelData(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    of: str
    event: str
    delay: str
    unlabelled: str


class _Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that is not an array."""

    format: str
    name: str
    version: str
    model: dict[str, int | float | bool]
    declared: dict[str, object]
    fitted: dict[str, object]
    label: _LabelData
    policy: dict[str, object]
    resolved: dict[str, object]
    fallback: dict[str, object]
    champion: str
    champion_numbers: dict[str, float | int]
    later: dict[str, int]
    metrics: dict[str, dict[str, float]]
    time_travel: TimeTravel
    null_counts: dict[str, int]
    provenance: Provenance
    record: dict[str, object]


def write_candidate(candidate: Candidate, path: Path) -> None:
    """Write a candidate, whole or not at all.

    Raises
    ------
    SentinelError
        ``file-unwritable``.
    """
    arrays: dict[str, npt.NDArray[np.generic]] = {
        "parity_inputs": candidate.parity.inputs,
        "parity_scores": candidate.parity.scores,
        "later_labels": candidate.later.labels,
        "later_champion_scores": candidate.later.champion_scores,
        "later_fallback_scores": candidate.later.fallback_scores,
        "reference_values": candidate.reference.values,
        "reference_scores": candidate.reference.scores,
        "reference_status": candidate.reference.status,
        "canary_content": np.frombuffer(b"".join(candidate.canary_events), dtype=np.uint8),
        "canary_lengths": np.array([len(each) for each in candidate.canary_events], dtype=np.int64),
        "data": np.frombuffer(_data_of(candidate), dtype=np.uint8),
        **_champion_arrays(candidate.champion),
    }
    archive = io.BytesIO()
    np.savez_compressed(archive, allow_pickle=False, **arrays)
    write_atomically(path, archive.getvalue())


def read_candidate(path: Path) -> Candidate:
    """Read a candidate.

    Raises
    ------
    SentinelError
        ``file-missing``, ``file-unreadable``; ``candidate-invalid`` for what is no candidate;
        what its parts raise.
    """
    content = read_bounded(path, n_bytes_max=limits.RELEASE_BYTES_MAX)
    try:
        arrays = _read_arrays(content)
        data = msgspec.json.decode(arrays["data"].tobytes(), type=_Data)
        return _candidate(data, arrays)
    except (
        *(ValueError, KeyError, TypeError, OSError, EOFError, IndexError, AttributeError),
        *(zipfile.BadZipFile, msgspec.DecodeError, UnicodeDecodeError, RuntimeError, zlib.error),
    ) as error:
        raise SentinelError(
            ErrorCode.CANDIDATE_INVALID,
            at=str(path),
            expected="a candidate that `sentinel train --candidate` wrote",
            got=f"{type(error).__name__}: {error}",
        ) from error


def _data_of(candidate: Candidate) -> bytes:
    pipeline, later, champion = candidate.pipeline, candidate.later, candidate.champion
    numbers: dict[str, float | int] = {}
    if isinstance(champion, TreeEnsemble):
        numbers = {"n_features": champion.n_features, "offset": champion.offset}
    elif isinstance(champion, Linear):
        numbers = {"intercept": champion.intercept}
    else:
        numbers = {"n_features": champion.n_features}
    label = pipeline.label
    data = _Data(
        format=FORMAT,
        name=pipeline.name,
        version=pipeline.version,
        model=dict(pipeline.model),
        declared=pipeline.features.to_data(),
        fitted=candidate.features.to_data(),
        label=_LabelData(label.of.name, label.event.name, label.delay, label.unlabelled),
        policy=pipeline.policy.to_data(),
        resolved=candidate.policy.to_data(),
        fallback=candidate.fallback.to_data(),
        champion=next(name for name, kind in _CHAMPIONS.items() if isinstance(champion, kind)),
        champion_numbers=numbers,
        later={
            "from_ms": later.from_ms,
            "until_ms": later.until_ms,
            "trained_until_ms": later.trained_until_ms,
        },
        metrics={name: dict(each) for name, each in later.metrics.items()},
        time_travel=candidate.time_travel,
        null_counts=dict(candidate.null_counts),
        provenance=candidate.provenance,
        record=dict(candidate.record),
    )
    return json.dumps(msgspec.to_builtins(data), allow_nan=False).encode()


def _champion_arrays(champion: Champion) -> dict[str, np.ndarray]:
    if isinstance(champion, OnnxModel):
        return {"champion_content": np.frombuffer(champion.content, dtype=np.uint8)}
    is_trees = isinstance(champion, TreeEnsemble)
    names = (*_TREE_ARRAYS, _LEAF_COVER) if is_trees else _LINEAR_ARRAYS
    found = {f"champion_{name}": getattr(champion, name) for name in names}
    return {name: array for name, array in found.items() if array is not None}


def _read_champion(data: _Data, arrays: Arrays) -> Champion:
    """Put the champion together; whether it is one is for the gates."""
    numbers = data.champion_numbers
    if data.champion == "onnx":
        content = arrays["champion_content"].tobytes()
        return OnnxModel(content=content, n_features=int(numbers["n_features"]))
    if data.champion == "linear":
        parts = {name: arrays[f"champion_{name}"] for name in _LINEAR_ARRAYS}
        return Linear(intercept=float(numbers["intercept"]), **parts)
    parts = {name: arrays[f"champion_{name}"] for name in _TREE_ARRAYS}
    return TreeEnsemble(
        n_features=int(numbers["n_features"]),
        offset=float(numbers["offset"]),
        leaf_cover=arrays.get(f"champion_{_LEAF_COVER}"),
        **parts,
    )


def _read_arrays(content: bytes) -> dict[str, np.ndarray]:
    """Read every array of an archive that does not grow beyond measure."""
    n_bytes_max = limits.RELEASE_BYTES_MAX
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        n_bytes = sum(entry.file_size for entry in archive.infolist())
    if n_bytes > n_bytes_max:
        raise ValueError(f"{n_bytes} bytes, more than {n_bytes_max}")
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _candidate(data: _Data, arrays: Arrays) -> Candidate:
    if data.format != FORMAT:
        raise ValueError(f"format {data.format}")
    declared = FeatureSet.from_data(data.declared)
    if declared.feedback is None:
        raise ValueError("no feedback contract")
    label = data.label
    pipeline = Pipeline(
        name=data.name,
        version=data.version,
        features=declared,
        label=Label(
            of=declared.feedback.field(label.of),
            event=declared.feedback.field(label.event),
            delay=label.delay,
            unlabelled="genuine" if label.unlabelled == "genuine" else "excluded",
        ),
        policy=Policy.from_data(data.policy),
        model=data.model,
    )
    ends = np.cumsum(arrays["canary_lengths"])
    content = arrays["canary_content"].tobytes()
    starts = ends - arrays["canary_lengths"]
    return Candidate(
        pipeline=pipeline,
        features=FeatureSet.from_data(data.fitted),
        policy=Policy.from_data(data.resolved),
        champion=_read_champion(data, arrays),
        fallback=LinearFallback.from_data(data.fallback),
        parity=ParitySample(inputs=arrays["parity_inputs"], scores=arrays["parity_scores"]),
        later=LaterPart(
            labels=arrays["later_labels"],
            champion_scores=arrays["later_champion_scores"],
            fallback_scores=arrays["later_fallback_scores"],
            metrics=data.metrics,
            **data.later,
        ),
        reference=ReferenceRows(
            values=arrays["reference_values"],
            scores=arrays["reference_scores"],
            status=arrays["reference_status"],
        ),
        canary_events=tuple(
            content[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        ),
        time_travel=data.time_travel,
        null_counts=data.null_counts,
        provenance=data.provenance,
        record=data.record,
    )
