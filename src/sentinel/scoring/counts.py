"""What became of everything that was read: the numbers that always add up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Events since the start of a scorer.

    Attributes
    ----------
    read : int
        Raw events that came in.
    decided : int
        Decisions with a score.
    held : int
        Decisions without one.
    quarantined : int
        Events that the contract refused.
    deduplicated : int
        Events that were decided before.
    late : int
        Of those decided or held: too late for some window.
    feedback_read, feedback_learned, feedback_quarantined : int
        The same for feedback.

    Examples
    --------
    >>> counts = Counts(read=3, decided=2, quarantined=1)
    >>> counts.is_balanced, counts.plus(Counts(read=1)).is_balanced
    (True, False)
    """

    read: int = 0
    decided: int = 0
    held: int = 0
    quarantined: int = 0
    deduplicated: int = 0
    late: int = 0
    feedback_read: int = 0
    feedback_learned: int = 0
    feedback_quarantined: int = 0

    @property
    def is_balanced(self) -> bool:
        """Whether everything read is accounted for; anything else is a defect of Sentinel."""
        events = self.decided + self.held + self.quarantined + self.deduplicated
        feedback = self.feedback_learned + self.feedback_quarantined
        return self.read == events and self.feedback_read == feedback

    def plus(self, other: Counts) -> Counts:
        """Add the counts of another batch."""
        return Counts(
            read=self.read + other.read,
            decided=self.decided + other.decided,
            held=self.held + other.held,
            quarantined=self.quarantined + other.quarantined,
            deduplicated=self.deduplicated + other.deduplicated,
            late=self.late + other.late,
            feedback_read=self.feedback_read + other.feedback_read,
            feedback_learned=self.feedback_learned + other.feedback_learned,
            feedback_quarantined=self.feedback_quarantined + other.feedback_quarantined,
        )


class RunningCounts:
    """The counts of a scorer that runs: plain integers, put together when somebody looks."""

    __slots__ = ("_events", "_feedback")

    def __init__(self) -> None:
        self._events = (0, 0, 0, 0, 0, 0)
        self._feedback = (0, 0, 0)

    def add(
        self, *, read: int, decided: int, held: int, quarantined: int, deduplicated: int, late: int
    ) -> None:
        """Count one batch of events; one assignment, so that nobody sees half of it."""
        a, b, c, d, e, f = self._events
        self._events = (
            a + read,
            b + decided,
            c + held,
            d + quarantined,
            e + deduplicated,
            f + late,
        )

    def add_feedback(self, *, read: int, learned: int, quarantined: int) -> None:
        """Count one batch of feedback."""
        a, b, c = self._feedback
        self._feedback = (a + read, b + learned, c + quarantined)

    def now(self) -> Counts:
        """Return what was counted so far."""
        read, decided, held, quarantined, deduplicated, late = self._events
        feedback_read, feedback_learned, feedback_quarantined = self._feedback
        return Counts(
            read=read,
            decided=decided,
            held=held,
            quarantined=quarantined,
            deduplicated=deduplicated,
            late=late,
            feedback_read=feedback_read,
            feedback_learned=feedback_learned,
            feedback_quarantined=feedback_quarantined,
        )
