"""What is known of an event that was refused."""

from __future__ import annotations

import msgspec

from sentinel.contract.codes import RefusalCode


class Fault(msgspec.Struct, frozen=True, gc=False):
    """One thing that is wrong with an event.

    Attributes
    ----------
    code : RefusalCode
    path : str
        Where, as ``$.amount`` or ``$.meta.tags[3]``; ``$`` is the event; empty where only the
        code is known (:class:`~sentinel.contract.decoder.Decoder`, budget).
    expected : str
        What would have been right.
    got : str
        What came: shortened, printable.
    """

    code: RefusalCode
    path: str = ""
    expected: str = ""
    got: str = ""


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """An event that was refused, whole, with its faults and where it came from.

    Attributes
    ----------
    code : RefusalCode
        The first by precedence; the one that is counted.
    faults : tuple of Fault
        By precedence, then as they stand in the event; at most ``FAULTS_PER_EVENT_MAX``.
    source : str
    partition : int
    position : int
        Where it stands in its source, as :class:`~sentinel.contract.batch.RawBatch` has it.
    content : bytes
        The event as it came, or its first ``EVENT_BYTES_MAX`` bytes.
    n_bytes : int
        How long it was.
    """

    code: RefusalCode
    faults: tuple[Fault, ...]
    source: str
    partition: int
    position: int
    content: bytes
    n_bytes: int

    @property
    def is_cut(self) -> bool:
        """Whether ``content`` is only the start of the event."""
        return self.n_bytes > len(self.content)
