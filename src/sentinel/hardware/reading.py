"""A reading that knows what it does not know: a value, a stale value, or none."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reading:
    """One measured quantity.

    Attributes
    ----------
    value : float or None
        None where it is not available; never a zero that stands for it.
    is_stale : bool
        The value is from an earlier probe, because the last one failed.

    Examples
    --------
    >>> Reading(0.0).text("%"), Reading(None).text("%"), Reading(41.0, is_stale=True).text("%")
    ('0 %', 'not available', '41 % (stale)')
    """

    value: float | None
    is_stale: bool = False

    def text(self, unit: str) -> str:
        """Show it, with its unit."""
        if self.value is None:
            return "not available"
        return f"{self.value:g} {unit}" + (" (stale)" if self.is_stale else "")

    def aged(self) -> Reading:
        """Return it as what is left after a failed probe."""
        return Reading(self.value, is_stale=self.value is not None)
