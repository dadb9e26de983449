"""Where releases come from that may take over: one folder, named when the server started.

A request names a release by its place in that folder, never by a path: ``1.3.0``, or
``payments/1.3.0`` in a registry.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.files import inside
from sentinel.release import LoadedRelease, Trust, load_release

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}(/[a-z0-9][a-z0-9._-]{0,99})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseSource:
    """A folder of releases, and whose approvals count.

    Attributes
    ----------
    folder : Path
    trust : Path or None
        Trust file, read anew for every release; None: nobody's approvals count.
    allow_unapproved : bool
    """

    folder: Path
    trust: Path | None
    allow_unapproved: bool

    def load(self, name: str, *, sequence_min: int) -> LoadedRelease:
        """Verify and load a release of the folder.

        Parameters
        ----------
        name : str
            One or two names of folders.
        sequence_min : int
            Sequence number of the deployment in service.

        Raises
        ------
        SentinelError
            ``stage-refused`` for a name that is none; what :func:`load_release` raises.
        """
        if not _NAME.fullmatch(name):
            raise SentinelError(
                ErrorCode.STAGE_REFUSED,
                at="release",
                expected="its place in the folder of releases, such as 1.3.0 or payments/1.3.0",
                got=name,
            )
        trust = None if self.trust is None else Trust.load(self.trust)
        return load_release(
            inside(self.folder, name),
            trust,
            now_ms=time.time_ns() // 1_000_000,
            allow_unapproved=self.allow_unapproved,
            sequence_min=sequence_min,
        )
