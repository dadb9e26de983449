"""Who goes first on a core that is short: decisions, then what is written and said of them.

Linux shares a core between *groups* first (one for each session, where ``autogroup`` is on; one for
each control group) and looks at niceness only inside one. A process with a session of its own gets
an equal share of the core however nice it is: what is to yield must stay in the session.
"""

from __future__ import annotations

import contextlib
import os

_LEAST = 19


def lower_priority(pid: int, by: int) -> None:
    """Put a process below the priority of the caller.

    Threads that it starts afterwards inherit that. A process that has ended is passed over.

    Parameters
    ----------
    pid : int
    by : int
        Steps of niceness, 0 or more; 19 is the least priority that there is.

    Examples
    --------
    >>> import subprocess
    >>> with subprocess.Popen(["sleep", "0"]) as process:
    ...     lower_priority(process.pid, 10)
    """
    with contextlib.suppress(OSError):
        own = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PROCESS, pid, min(own + by, _LEAST))
