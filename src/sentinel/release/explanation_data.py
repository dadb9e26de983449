"""``explanation.json``: what explanations need beside the model, counted when it was made.

* Trees: how many training rows ended in each leaf. Path-dependent Shapley values weigh by them,
  and ONNX has no place for them.
* Linear models: nothing, their mean is in the model.
* Other models: a few rows of normal traffic to start sampled explanations from.
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.release.candidate import Candidate
from sentinel.release.champion import TreeEnsemble
from sentinel.release.model_parts import read_linear, read_trees
from sentinel.release.operators import Admitted

FILE_NAME = "explanation.json"
FORMAT = 1


class ExplanationData(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the file holds.

    Attributes
    ----------
    format : int
    leaf_cover : tuple of int or None
        Rows that ended in each leaf of the model's trees, in the order of its nodes.
    counted_on : str
        ``training``, or ``reference`` where training handed no counts over.
    background : tuple of (tuple of float) or None
        Rows of normal traffic, for a model that is neither trees nor linear.
    """

    format: int
    leaf_cover: tuple[int, ...] | None
    counted_on: str
    background: tuple[tuple[float, ...], ...] | None


def explanation_data(
    candidate: Candidate, model: bytes, admitted: Admitted
) -> ExplanationData | None:
    """Make the data that a release of this candidate carries; None where none is needed.

    Parameters
    ----------
    candidate : Candidate
    model : bytes
        Its champion as ONNX.
    admitted : Admitted
        Of these bytes.
    """
    trees = read_trees(model, admitted)
    if trees is not None:
        cover, counted_on = _leaf_cover(candidate, trees)
        return ExplanationData(
            format=FORMAT, leaf_cover=cover, counted_on=counted_on, background=None
        )
    if read_linear(model, admitted) is not None:
        return None
    rows = candidate.reference.values
    finite = rows[np.isfinite(rows).all(axis=1)]
    if not len(finite):
        return None
    n_rows = min(len(finite), limits.EXPLANATION_BACKGROUND_ROWS_MAX)
    chosen = finite[np.linspace(0, len(finite) - 1, n_rows).astype(np.int64)]
    background = tuple(tuple(float(number) for number in row) for row in chosen)
    return ExplanationData(
        format=FORMAT, leaf_cover=None, counted_on="reference", background=background
    )


def _leaf_cover(candidate: Candidate, trees: TreeEnsemble) -> tuple[tuple[int, ...], str]:
    champion = candidate.champion
    leaves = np.flatnonzero(trees.feature < 0)
    if isinstance(champion, TreeEnsemble) and champion.leaf_cover is not None:
        return tuple(round(count) for count in champion.leaf_cover.tolist()), "training"
    rows = candidate.reference.values
    finite = rows[np.isfinite(rows).all(axis=1)]
    reached = trees.leaves(finite).ravel() if len(finite) else np.zeros(0, dtype=np.int64)
    counts: npt.NDArray[np.int64] = np.bincount(reached, minlength=trees.n_nodes)[leaves]
    return tuple(counts.tolist()), "reference"


def read_explanation(data: object) -> ExplanationData:
    """Read the file's data, which came from outside.

    Raises
    ------
    SentinelError
        ``explanation-invalid``.
    """
    try:
        read = msgspec.convert(data, ExplanationData)
    except msgspec.ValidationError as error:
        raise _invalid("format, leaf_cover, counted_on, background", error) from error
    if read.format != FORMAT:
        raise _invalid(f"format {FORMAT}", read.format)
    n_rows = len(read.background or ())
    if n_rows > limits.EXPLANATION_BACKGROUND_ROWS_MAX:
        raise _invalid(f"at most {limits.EXPLANATION_BACKGROUND_ROWS_MAX} rows", n_rows)
    if len(read.leaf_cover or ()) > limits.MODEL_NODES_MAX:
        raise _invalid(f"at most {limits.MODEL_NODES_MAX} leaves", len(read.leaf_cover or ()))
    return read


def _invalid(expected: str, got: object) -> SentinelError:
    return SentinelError(ErrorCode.EXPLANATION_INVALID, at=FILE_NAME, expected=expected, got=got)
