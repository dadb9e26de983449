"""An explanation as the JSON document that is answered and kept."""

from __future__ import annotations

import json
import math

import numpy as np
import numpy.typing as npt

from sentinel.features.words import STATUS_NAMES
from sentinel.scoring.explanation.explainer import Explanation

# Digits of numbers for people; the residual shows that the sum holds before rounding.
_DIGITS = 6


def explanation_document(
    explanation: Explanation,
    *,
    event_id: str,
    release: str,
    names: tuple[str, ...],
    values: npt.NDArray[np.float32],
    status: npt.NDArray[np.uint8],
) -> bytes:
    """Write an explanation as one line of strict JSON.

    Parameters
    ----------
    explanation : Explanation
    event_id : str
    release : str
        ``name@version``.
    names : tuple of str
        Of the features.
    values : ndarray of float32, shape (n_features,)
    status : ndarray of uint8, shape (n_features,)
    """
    rows = zip(names, values.tolist(), status.tolist(), explanation.contributions, strict=True)
    document = {
        "event_id": event_id,
        "release": release,
        "score": _single(explanation.score),
        "outcome": explanation.outcome,
        "served_by": explanation.served_by,
        "method": str(explanation.method),
        "base": round(explanation.base, _DIGITS),
        "residual": float(f"{explanation.residual:.3g}"),
        "error": float(f"{explanation.error:.3g}"),
        "reasons": [
            {
                "code": reason.code,
                "words": reason.words,
                "feature": reason.feature,
                "direction": str(reason.direction),
                "contribution": round(reason.contribution, _DIGITS),
                "status": reason.status,
            }
            for reason in explanation.reasons
        ],
        "features": [
            {
                "name": name,
                "value": _single(value) if math.isfinite(value) else None,
                "status": STATUS_NAMES.get(state, "default"),
                "contribution": round(contribution, _DIGITS),
            }
            for name, value, state, contribution in rows
        ],
    }
    return json.dumps(document, allow_nan=False, ensure_ascii=False).encode()


def _single(value: float) -> float:
    """Give a float32 number its shortest decimal form."""
    return float(str(np.float32(value)))
