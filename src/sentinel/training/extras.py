"""Libraries that only training needs, imported when they are used and asked for by name."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

from sentinel.core.errors import ErrorCode, SentinelError

# What each library is for; the extra of the package that brings it is always ``train``.
PURPOSES = {
    "lightgbm": "boosted trees",
    "sklearn.linear_model": "the logistic regression",
    "sklearn.metrics": "evaluation",
}


def require(name: str) -> ModuleType:
    """Import a training library.

    Raises
    ------
    SentinelError
        ``extra-missing``, with the command that installs it.

    Examples
    --------
    >>> require("sklearn.metrics").__name__
    'sklearn.metrics'
    """
    # Threads of OpenMP spin while they wait, unless told not to before the library is loaded:
    # beside other work two spinning threads took sixteen times as long as two that sleep.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SentinelError(
            ErrorCode.EXTRA_MISSING,
            at=name,
            expected=f"the library for {PURPOSES[name]}",
            got=error,
            hint="Run: pip install 'sentinel[train]'",
        ) from error
