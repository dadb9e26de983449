"""What a deployment wants: thresholds, what a sane output is, when the champion must step back.

A policy is data. It is part of the identity of a release (``policy.json``): two releases that
differ in one number here are two releases.
"""

from __future__ import annotations

import enum
import math

import msgspec
import numpy as np
import numpy.typing as npt

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.monitoring.decision_log import FullPolicy

# Parts of normal traffic in which bursts are measured: days of a few weeks, say.
_BURST_PARTS = 20


class StalePolicy(enum.StrEnum):
    """What happens to an event with a stale feature value."""

    DEFAULT = "default"  # the declared default stands in, and is counted
    HOLD = "hold"  # nobody answers: the decision is held


class OutputRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a champion's output must be, row by row; finite always.

    Attributes
    ----------
    minimum, maximum : float
        Inclusive bounds. Negative zero and subnormal numbers are outside whatever they are.
    strictly_positive : bool
        0.0 is refused too: a probability may be zero, a price may not.
    constant_rows : int
        After so many rows in a row with one and the same output, the canary decides whether
        the champion still answers; at least 100.
    """

    minimum: float = 0.0
    maximum: float = 1.0
    strictly_positive: bool = False
    constant_rows: int = 2_000


class BreakerRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When the champion is bypassed for being slow or failing, and how it comes back.

    Attributes
    ----------
    latency_ms_max : float
        A call that takes longer is slow.
    slow_for_s : float
        Open when every call has been slow for so long ...
    slow_calls_min : int
        ... and at least so many were.
    failures_in_a_row : int
        Open after so many failures one after another.
    failed_share : float, in (0, 1]
        Open when so many of the last ``window_calls`` failed.
    slow_share : float, in (0, 1]
        Open when so many of the last ``window_calls`` were slow and they span ``slow_for_s``.
    window_calls : int
    pause_s : float
        Time in open before the champion is probed.
    probe_deadline_s : float
        Longest time in half-open; then it is open again.
    closes_after : int
        Good probes in a row that close it.
    """

    latency_ms_max: float = 500.0
    slow_for_s: float = 10.0
    slow_calls_min: int = 3
    failures_in_a_row: int = 5
    failed_share: float = 0.5
    slow_share: float = 0.5
    window_calls: int = 100
    pause_s: float = 10.0
    probe_deadline_s: float = 5.0
    closes_after: int = 3


class InsaneRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When rows that fail the output rules shut the champion off, latched.

    Looked at over the last ``window_rows`` rows. One entity alone can never do it.

    Attributes
    ----------
    window_rows : int
    share : float, in (0, 1]
        Shut off at ``share * window_rows`` bad rows, each entity counted at most
        ``rows_per_entity`` times ...
    rows_per_entity : int
    entities : int
        ... or at bad rows from so many distinct entities.
    entity : str
        Field that names the entity; empty: the first key of the contract.
    """

    window_rows: int = 10_000
    share: float = 0.01
    rows_per_entity: int = 10
    entities: int = 8
    entity: str = ""


class GovernorRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When the rate of an outcome pages.

    Attributes
    ----------
    window_decisions : int
        Decisions looked at together; more for an outcome that is too rare for so few.
    factor : float, above 1
        Page when a share is more than ``factor`` times, or less than 1/``factor`` of, what was
        expected, and chance explains it with a probability below ``chance``.
    burst : float, at least 1
        How many decisions of one outcome come together, as fraud does: the index of dispersion
        (variance over mean) of their counts. :meth:`Policy.resolve` measures it; 1 is
        independent events.
    chance : float, in (0, 0.01]
    held_share : float, in (0, 1]
        Page when a larger share of decisions is held.
    """

    window_decisions: int = 5_000
    factor: float = 3.0
    burst: float = 1.0
    chance: float = 1e-6
    held_share: float = 0.01


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a deployment wants of its scores.

    Either scores (``review_above``, ``decline_above``) or shares (``review_share``,
    ``decline_share``) are given; training turns shares into scores with :meth:`resolve`.
    An event with score s is declined when ``s > decline_above``, else reviewed when
    ``s > review_above``, else approved; scores are float32 numbers, thresholds float64.

    Attributes
    ----------
    review_above, decline_above : float in [0, 1], or None
    review_share, decline_share : float in [0, 1], or None
        Share of traffic to be reviewed, and to be declined. They stay after :meth:`resolve`, as
        what the governor expects.
    fallback_review_above, fallback_decline_above : float in [0, 1], or None
        The same for scores of the fallback, which has a scale of its own; None: the champion's.
    outputs : OutputRules
    breaker : BreakerRules
    insane : InsaneRules
    governor : GovernorRules
    stale : StalePolicy
    refused_share_max : float in (0, 1]
        A source with a larger share of refusals in the last minute is degraded.
    refused_events_min : int
        ... once that minute has so many events.
    decision_log : FullPolicy
    canary_tolerance : float in (0, 0.01]
        Largest difference of a score from the recorded one, in log-odds.
    canary_every_s : float
        Time between two checks while serving.

    Raises
    ------
    SentinelError
        ``policy-invalid`` at the first field that is wrong.

    Examples
    --------
    >>> Policy(review_above=0.5, decline_above=0.9).is_resolved
    True
    >>> Policy(review_share=0.01, decline_share=0.001).is_resolved
    False
    """

    review_above: float | None = None
    decline_above: float | None = None
    review_share: float | None = None
    decline_share: float | None = None
    fallback_review_above: float | None = None
    fallback_decline_above: float | None = None
    outputs: OutputRules = OutputRules()
    breaker: BreakerRules = BreakerRules()
    insane: InsaneRules = InsaneRules()
    governor: GovernorRules = GovernorRules()
    stale: StalePolicy = StalePolicy.DEFAULT
    refused_share_max: float = 0.2
    refused_events_min: int = 100
    decision_log: FullPolicy = FullPolicy.BLOCK
    canary_tolerance: float = 1e-4
    canary_every_s: float = 60.0

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense, alone or together."""
        _check_numbers(self)
        _check_thresholds(self)

    @property
    def is_resolved(self) -> bool:
        """Whether the score thresholds are known, so that the policy can decide."""
        return self.review_above is not None and self.decline_above is not None

    def to_data(self) -> dict[str, object]:
        """Return the policy as plain data, every field written out."""
        data: dict[str, object] = msgspec.to_builtins(self)
        return data

    @classmethod
    def from_data(cls, data: object) -> Policy:
        """Build a policy from plain data, such as parsed ``policy.json``.

        Raises
        ------
        SentinelError
            ``policy-invalid`` for an unknown key, a wrong type, a number out of bounds.
        """
        try:
            return msgspec.convert(data, cls)
        except msgspec.ValidationError as error:
            raise SentinelError(
                ErrorCode.POLICY_INVALID,
                at="policy",
                expected="the fields of a policy with their types",
                got=error,
            ) from error

    def resolve(
        self, champion_scores: npt.NDArray[np.float64], fallback_scores: npt.NDArray[np.float64]
    ) -> Policy:
        """Turn shares into score thresholds on scores of normal traffic.

        At most the asked share of the given scores lies above each threshold. Given score
        thresholds stay as they are; the fallback's thresholds are always set so that it sends
        the same share of traffic on as the champion does.

        Parameters
        ----------
        champion_scores, fallback_scores : ndarray of float64, shape (n_rows,)
            Of the same rows in order of time, finite, in [0, 1].

        Raises
        ------
        SentinelError
            ``policy-invalid`` when there are no scores, or some are no probabilities.

        Examples
        --------
        >>> scores = np.linspace(0, 1, 1001)
        >>> policy = Policy(review_share=0.1, decline_share=0.01).resolve(scores, scores / 2)
        >>> round(policy.decline_above, 3), round(policy.fallback_decline_above, 3)
        (0.99, 0.495)
        """
        for at, scores in (("champion", champion_scores), ("fallback", fallback_scores)):
            if not len(scores) or not ((scores >= 0) & (scores <= 1)).all():
                raise _invalid(f"policy.{at}_scores", "probabilities", f"{len(scores)} scores")
        champion = [
            _threshold(champion_scores, above, share, already=taken)
            for above, share, taken in (
                (self.decline_above, self.decline_share, 0.0),
                (self.review_above, self.review_share, self.decline_share or 0.0),
            )
        ]
        shares = [float(np.mean(champion_scores > above)) for above in champion]
        burst = max(_burst(champion_scores > above) for above in champion)
        fallback = [_threshold(fallback_scores, None, share, already=0.0) for share in shares]
        return msgspec.structs.replace(
            self,
            decline_above=champion[0],
            review_above=min(champion),
            fallback_decline_above=fallback[0],
            fallback_review_above=min(fallback),
            decline_share=shares[0],
            review_share=max(0.0, shares[1] - shares[0]),
            governor=msgspec.structs.replace(self.governor, burst=max(self.governor.burst, burst)),
        )

    def thresholds(self) -> npt.NDArray[np.float64]:
        """Return the thresholds as a table.

        Returns
        -------
        ndarray of float64, shape (2, 2)
            Rows: champion, fallback. Columns: review above, decline above.

        Raises
        ------
        SentinelError
            ``policy-invalid`` when only shares are known.
        """
        if self.review_above is None or self.decline_above is None:
            raise _invalid("policy", "score thresholds", "shares that nobody resolved")
        review, decline = self.fallback_review_above, self.fallback_decline_above
        return np.array(
            [
                [self.review_above, self.decline_above],
                [
                    self.review_above if review is None else review,
                    self.decline_above if decline is None else decline,
                ],
            ],
            dtype=np.float64,
        )


def _burst(is_above: npt.NDArray[np.bool_]) -> float:
    """Measure how events cluster: variance over mean of their counts in equal parts, at least 1.

    Source: Cox and Lewis, "The Statistical Analysis of Series of Events", 1966, section 4.5.
    """
    part = len(is_above) // _BURST_PARTS
    if part == 0:
        return 1.0
    counts = is_above[: part * _BURST_PARTS].reshape(_BURST_PARTS, part).sum(axis=1)
    mean = float(counts.mean())
    return max(1.0, float(counts.var(ddof=1)) / mean) if mean > 0 else 1.0


def _threshold(
    scores: npt.NDArray[np.float64], above: float | None, share: float | None, *, already: float
) -> float:
    """Find the smallest score with at most ``already + share`` of all scores above it."""
    if above is not None:
        return above
    ordered = np.sort(scores)
    # A share that is itself a count over the number of scores must not lose one to rounding.
    n_above = math.floor(min(1.0, already + (share or 0.0)) * len(ordered) + 1e-9)
    return float(ordered[len(ordered) - 1 - n_above]) if n_above < len(ordered) else 0.0


_SHARES = (
    "refused_share_max",
    "breaker.failed_share",
    "breaker.slow_share",
    "insane.share",
    "governor.held_share",
)
# Field, smallest, largest: every other number of a policy.
_BOUNDS = (
    ("outputs.minimum", -1e30, 1e30),
    ("outputs.maximum", -1e30, 1e30),
    ("outputs.constant_rows", 100, 1_000_000_000),
    ("breaker.latency_ms_max", 0.001, 3_600_000),
    ("breaker.slow_for_s", 0.001, 86_400),
    ("breaker.slow_calls_min", 1, 10_000),
    ("breaker.failures_in_a_row", 1, 10_000),
    ("breaker.window_calls", 1, limits.BREAKER_WINDOW_CALLS_MAX),
    ("breaker.pause_s", 0.001, 86_400),
    ("breaker.probe_deadline_s", 0.001, 86_400),
    ("breaker.closes_after", 1, 1_000),
    ("insane.window_rows", 1, 1_000_000_000),
    ("insane.rows_per_entity", 1, 1_000_000),
    ("insane.entities", 2, limits.INSANE_ROWS_REMEMBERED_MAX),
    ("governor.window_decisions", 100, 1_000_000_000),
    ("governor.factor", 1.01, 1_000_000),
    ("governor.burst", 1, 1_000_000),
    ("governor.chance", 1e-300, 0.01),
    ("refused_events_min", 1, 1_000_000_000),
    ("canary_tolerance", 1e-12, limits.CANARY_TOLERANCE_MAX),
    ("canary_every_s", 0.1, 86_400),
)


def _check_numbers(policy: Policy) -> None:
    for path in _SHARES:
        value = _at(policy, path)
        if not 0.0 < value <= 1.0:
            raise _invalid(f"policy.{path}", "a share above 0, at most 1", value)
    for path, smallest, largest in _BOUNDS:
        value = _at(policy, path)
        if not smallest <= value <= largest:
            raise _invalid(f"policy.{path}", f"a number from {smallest} to {largest}", value)
    if not policy.outputs.minimum < policy.outputs.maximum:
        raise _invalid("policy.outputs", "minimum below maximum", policy.outputs.minimum)
    if policy.insane.share * policy.insane.window_rows <= policy.insane.rows_per_entity:
        raise _invalid(
            "policy.insane.rows_per_entity",
            "fewer than share * window_rows, or one entity could shut the champion off",
            policy.insane.rows_per_entity,
        )


def _check_thresholds(policy: Policy) -> None:
    names = ("review_above", "decline_above", "fallback_review_above", "fallback_decline_above")
    for name in (*names, "review_share", "decline_share"):
        value = getattr(policy, name)
        if value is not None and not 0.0 <= value <= 1.0:
            raise _invalid(f"policy.{name}", "a number from 0 to 1", value)
    for above, share in (("review_above", "review_share"), ("decline_above", "decline_share")):
        if getattr(policy, above) is None and getattr(policy, share) is None:
            raise _invalid(f"policy.{above}", f"a score, or {share}", "neither")
    for lower, upper in (names[:2], names[2:]):
        review, decline = getattr(policy, lower), getattr(policy, upper)
        if review is not None and decline is not None and review > decline:
            raise _invalid(f"policy.{lower}", f"at most {upper} ({decline})", review)
    if (policy.fallback_review_above is None) != (policy.fallback_decline_above is None):
        raise _invalid("policy.fallback_review_above", "both fallback thresholds or none", "one")


def _at(policy: Policy, path: str) -> float:
    value: object = policy
    for part in path.split("."):
        value = getattr(value, part)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _invalid(f"policy.{path}", "a number", value)
    return float(value)


def _invalid(at: str, expected: str, got: object) -> SentinelError:
    return SentinelError(ErrorCode.POLICY_INVALID, at=at, expected=expected, got=got)
