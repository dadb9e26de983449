"""Compile a function to machine code, with a cache that cannot be stale.

Numba's own cache looks at the file of the function only; a kernel that calls a function of
another file would keep its old copy. The cache folder here is named by the digest of every file
in :data:`NATIVE_MODULES`, so a change in any of them starts a fresh one.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

from sentinel.core import limits

P = ParamSpec("P")
R = TypeVar("R")
Scalar = TypeVar("Scalar", bound=np.generic)

# Every file that uses @native, relative to the package; a test holds the list complete.
NATIVE_MODULES = (
    "contract/scan_event.py",
    "contract/scan_field.py",
    "contract/scan_number.py",
    "contract/scan_text.py",
    "contract/scan_time.py",
    "contract/scan_value.py",
    "core/siphash.py",
    "features/aggregates.py",
    "features/index.py",
    "features/kernel.py",
    "features/living.py",
    "features/parity.py",
    "features/reading.py",
    "features/history/slots.py",
    "features/rows.py",
    "features/stores/redis/rows.py",
    "features/stores/redis/seal.py",
    "features/stores/redis/wire.py",
    "features/tiles.py",
    "data/json_lines.py",
    "data/simulator/genuine.py",
    "monitoring/log_block.py",
    "monitoring/log_records.py",
    "monitoring/sketch.py",
    "scoring/encoding.py",
    "scoring/explanation/tree_kernel.py",
    "scoring/guards.py",
    "scoring/sanity.py",
    "scoring/tally.py",
    "serving/interpreter_lock.py",
    "serving/explanations/recent_rows.py",
)


# Files whose constants and intrinsics are compiled into kernels.
NATIVE_CONSTANTS = (
    "contract/codes.py",
    "contract/fault_bits.py",
    "contract/frame.py",
    "contract/tables.py",
    "core/native.py",
    "core/prefetch.py",
    "core/words.py",
    "data/simulator/contracts.py",
    "features/layout.py",
    "features/matrix.py",
    "scoring/decision.py",
)


def _source_digest() -> str:
    """Hash every file that kernels are made of, and the limits that those files name."""
    package = Path(__file__).parent.parent
    digest = hashlib.sha256(numba.__version__.encode())
    for name in NATIVE_MODULES + NATIVE_CONSTANTS:
        source = (package / name).read_bytes()
        digest.update(name.encode())
        digest.update(source)
        for limit in sorted(set(re.findall(r"limits\.([A-Z][A-Z0-9_]*)", source.decode()))):
            digest.update(f"{limit}={getattr(limits, limit)!r}".encode())
    return digest.hexdigest()[:16]


def _cache_folder() -> Path:
    """Find the first writable of the user's cache and the temporary folder."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    for root in (base / "sentinel", Path(tempfile.gettempdir()) / f"sentinel-{os.getuid()}"):
        folder = root / "native" / _source_digest()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError:
            continue
        if os.access(folder, os.W_OK) and folder.stat().st_uid == os.getuid():
            return folder
    return Path(tempfile.mkdtemp(prefix="sentinel-native-"))


if not os.environ.get("NUMBA_CACHE_DIR"):
    numba.config.CACHE_DIR = str(_cache_folder())


def native(function: Callable[P, R]) -> Callable[P, R]:
    """Compile to machine code: no interpreter, no GIL, IEEE arithmetic as written.

    ``fastmath`` stays off: features of live scoring and of replay are equal to the last bit.
    """
    compiled = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    return cast("Callable[P, R]", compiled)


def native_inline(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a small function into its native callers (LLVM decides the inlining)."""
    compiled = numba.njit(nogil=True, error_model="numpy")(function)
    return cast("Callable[P, R]", compiled)


def native_lean(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a kernel that allocates nothing and keeps no array: no reference counting at all.

    Counting references to the arrays that small functions hand to each other cost the feature
    kernel nine tenths of its time. Creating an array inside is an error of compilation.
    """
    compiled = numba.njit(cache=True, nogil=True, error_model="numpy", _nrt=False)(function)
    return cast("Callable[P, R]", compiled)


def native_lean_inline(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a small function of :func:`native_lean` kernels, always inlined."""
    compiled = numba.njit(nogil=True, error_model="numpy", _nrt=False, forceinline=True)(function)
    return cast("Callable[P, R]", compiled)


def frozen(array: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
    """View an array as contiguous and read-only: one type, so one compiled specialisation.

    A kernel that meets another type is compiled anew in the middle of serving: for half a second,
    or longer on a busy machine.
    """
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view
