"""``sentinel`` with processes that break on purpose, chosen by ``BREAK_A_PART``.

* ``hang``: a champion that, once the file ``hang`` is there, sleeps in native code and keeps the
  interpreter's lock.
* ``crash``: a scoring process that ends with status 7 as soon as it has started.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sentinel.serving.fronts.child import run
from sentinel.serving.fronts.control import Job
from sentinel.serving.opening import Opened

_HANG = Path("hang")


def break_it(_: Job, opened: Opened) -> None:
    """Break the scoring process as the environment says."""
    kind = os.environ.get("BREAK_A_PART")
    if kind == "crash":
        threading.Timer(1.0, lambda: os._exit(7)).start()
    if kind != "hang":
        return
    guarded = opened.scorer.champion
    whole = guarded._path.champion

    def champion(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if _HANG.exists():
            _HANG.unlink()
            ctypes.PyDLL(None).sleep(60)  # PyDLL: the lock is not given up
        return whole(values)

    guarded._path = replace(guarded._path, champion=champion)


if __name__ == "__main__":
    if sys.argv[1].isdigit():
        sys.exit(run(int(sys.argv[1]), prepare=break_it))
    from sentinel.cli.main import main
    from sentinel.serving.fronts import supervisor

    supervisor.supervise = functools.partial(  # type: ignore[assignment]
        supervisor.supervise, program=(sys.executable, __file__)
    )
    main()
