"""What a feature may read: the rules of a feature set, each with its error."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NoReturn

from sentinel.contract import ContractSchema, Field, FieldKind, FieldRole
from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features.definitions import (
    KINDS,
    Calendar,
    CategoryEncoding,
    Count,
    Difference,
    Distance,
    DistinctCount,
    Entity,
    EntityFeature,
    Feature,
    LastValue,
    Maximum,
    Minimum,
    Ratio,
    Value,
    Velocity,
    WindowFeature,
)
from sentinel.features.durations import parse_ms, write_ms

_NAME = re.compile(r"[a-z][a-z0-9_]*")
NUMBERS = frozenset({FieldKind.INTEGER, FieldKind.DECIMAL, FieldKind.FLOAT, FieldKind.BOOLEAN})
EXACT = frozenset({FieldKind.INTEGER, FieldKind.DECIMAL, FieldKind.BOOLEAN})
_TIME = frozenset({FieldKind.TIME})
_CATEGORY = frozenset({FieldKind.CATEGORY})
_FLOAT = frozenset({FieldKind.FLOAT})
_BOOLEAN = frozenset({FieldKind.BOOLEAN})
_COUNTABLE = frozenset(FieldKind) - {FieldKind.FLOAT, FieldKind.TIME}
_KEYS = frozenset({FieldKind.TEXT, FieldKind.INTEGER, FieldKind.CATEGORY})


def invalid(at: str, expected: str, got: object, *, hint: str = "") -> SentinelError:
    """Make the error of a part that cannot stand."""
    return SentinelError(ErrorCode.FEATURE_INVALID, at=at, expected=expected, got=got, hint=hint)


def check_name(name: str, at: str) -> None:
    """Refuse a name that is no lower-case identifier."""
    most = limits.FEATURE_NAME_CHARACTERS_MAX
    if not (isinstance(name, str) and _NAME.fullmatch(name) and len(name) <= most):
        raise invalid(at, f"a lower-case identifier of 1 to {most} characters", name)


class Reader:
    """Resolves the fields of features against the two contracts.

    Parameters
    ----------
    events : ContractSchema
    feedback : ContractSchema or None
    labels : frozenset of str
        Fields of the event contract that are labels: known only later, never read from the event.
    """

    def __init__(
        self, events: ContractSchema, feedback: ContractSchema | None, labels: frozenset[str]
    ) -> None:
        self.events = events
        self.feedback = feedback
        self.labels = labels

    def is_feedback(self, field: Field, at: str) -> bool:
        """Say which feed a field is of, and refuse one of neither, and a label of the event."""
        if field in self.events.fields:
            if field.name in self.labels:
                self._refuse_label(field, at)
            return False
        if self.feedback is not None and field in self.feedback.fields:
            return True
        known = self.events.name
        if self.feedback is not None:
            known += f" or {self.feedback.name}"
        raise SentinelError(
            ErrorCode.FEATURE_UNKNOWN_FIELD,
            at=at,
            expected=f"a field of {known}",
            got=getattr(field, "place", field),
            hint="Take it from the contract class, as Transaction.amount.",
        )

    def _refuse_label(self, field: Field, at: str) -> NoReturn:
        feed = self.feedback.name if self.feedback else "a feedback contract"
        raise SentinelError(
            ErrorCode.FEATURE_READS_LABEL,
            at=at,
            expected="a field that is known when the event happens",
            got=f"{field.place}, which is a label",
            hint=f"Labels are known later: aggregate the field of {feed}.",
        )

    def check(self, feature: Feature) -> None:
        """Hold a feature against every rule that needs no other feature."""
        if KINDS.get(getattr(feature, "kind", "")) is not type(feature):
            raise invalid("features", "one of the kinds of feature", type(feature).__name__)
        check_name(feature.name, f"feature {feature.name}")
        at = feature.name
        if not math.isfinite(feature.default):
            raise invalid(f"{at}.default", "a finite number", feature.default)
        if isinstance(feature, EntityFeature):
            self._check_entity_feature(feature)
        elif isinstance(feature, Calendar):
            self._check_calendar(feature)
        elif isinstance(feature, CategoryEncoding):
            self._check_encoding(feature)
        elif isinstance(feature, Value):
            self._of_event(feature.of, NUMBERS, f"{at}.of")

    def _kind(self, field: Field, kinds: frozenset[FieldKind], at: str) -> None:
        is_key = field.role in {FieldRole.KEY, FieldRole.EVENT_ID, FieldRole.EVENT_TIME}
        if field.kind not in kinds or (is_key and kinds in (NUMBERS, EXACT)):
            raise SentinelError(
                ErrorCode.FEATURE_WRONG_KIND,
                at=at,
                expected=f"a field of kind {', '.join(sorted(kinds))}",
                got=f"{field.place}, a {field.role if is_key else field.kind}",
            )

    def _of_event(self, field: Field, kinds: frozenset[FieldKind], at: str) -> None:
        if self.is_feedback(field, at):
            raise invalid(
                at,
                "a field of the event contract",
                field.place,
                hint="Feedback is known only later: aggregate it over an entity.",
            )
        self._kind(field, kinds, at)

    def _check_calendar(self, feature: Calendar) -> None:
        at = feature.name
        if feature.of is not None:
            self._of_event(feature.of, _TIME, f"{at}.of")
        if feature.encoding not in {"number", "sine", "cosine"}:
            raise invalid(f"{at}.encoding", "number, sine or cosine", feature.encoding)
        offset = feature.utc_offset_minutes
        if not (type(offset) is int and -840 <= offset <= 840):
            raise invalid(f"{at}.utc_offset_minutes", "whole minutes, -840 to 840", offset)

    def _check_encoding(self, feature: CategoryEncoding) -> None:
        at = feature.name
        self._of_event(feature.of, _CATEGORY, f"{at}.of")
        for value, number in (feature.values or {}).items():
            if value not in feature.of.values:
                raise invalid(f"{at}.values", f"values of {feature.of.place}", value)
            if not math.isfinite(number):
                raise invalid(f"{at}.values", "finite numbers", f"{value}: {number}")

    def _check_entity_feature(self, feature: EntityFeature) -> None:
        at = feature.name
        is_feedback = self.feed_of(feature)
        self.check_entity(feature.by, at=at)
        if is_feedback and self.feedback_key(feature.by) is None:
            raise invalid(
                f"{at}.by",
                f"an entity with a key in {feature.by.key.contract} and in the feedback contract",
                feature.by.name,
                hint="Name the field with Entity(..., feedback_key=...).",
            )
        if feature.where is not None:
            self._kind(feature.where, _BOOLEAN, f"{at}.where")
        if feature.stale_after is not None:
            parse_ms(feature.stale_after, at=f"{at}.stale_after")
        if isinstance(feature, Distance | Velocity):
            self._of_event(feature.latitude, _FLOAT, f"{at}.latitude")
            self._of_event(feature.longitude, _FLOAT, f"{at}.longitude")
        if isinstance(feature, Velocity):
            top = limits.VELOCITY_KMH_MAX
            if not 0 < feature.maximum_kmh <= top:
                raise invalid(f"{at}.maximum_kmh", f"over 0, up to {top}", feature.maximum_kmh)
        if isinstance(feature, LastValue):
            self._kind(feature.of, NUMBERS, f"{at}.of")
        if isinstance(feature, WindowFeature | Count):
            self._check_window(feature)

    def _check_window(self, feature: WindowFeature | Count) -> None:
        at = feature.name
        n_tiles, most = feature.tiles, limits.WINDOW_TILES_MAX
        if not (type(n_tiles) is int and 1 <= n_tiles <= most):
            raise invalid(f"{at}.tiles", f"1 to {most} tiles", n_tiles)
        if feature.over is not None and parse_ms(feature.over, at=f"{at}.over") % n_tiles:
            raise invalid(
                f"{at}.tiles",
                f"a number of tiles that divides {feature.over} into whole milliseconds",
                n_tiles,
            )
        if isinstance(feature, Count):
            return
        if isinstance(feature, DistinctCount):
            self._kind(feature.of, _COUNTABLE, f"{at}.of")
            return
        self._kind(feature.of, NUMBERS, f"{at}.of")
        if not isinstance(feature, Minimum | Maximum) and feature.of.kind in EXACT:
            _check_summable(feature.of, f"{at}.of")

    def feed_of(self, feature: EntityFeature) -> bool:
        """Say whether a feature aggregates feedback; all its fields must be of one feed."""
        feeds = {
            name: self.is_feedback(field, f"{feature.name}.{name}")
            for name in ("of", "where", "latitude", "longitude")
            if (field := getattr(feature, name, None)) is not None
        }
        if len(set(feeds.values())) > 1:
            raise invalid(feature.name, "fields of one contract", ", ".join(feeds))
        return next(iter(feeds.values()), False)

    def feedback_key(self, entity: Entity) -> Field | None:
        """Find the field of the feedback contract that names an entity."""
        if self.feedback is None:
            return None
        if entity.feedback_key is not None:
            return entity.feedback_key
        for field in self.feedback.fields:
            if field.name == entity.key.name:
                return field
        return None

    def check_entity(self, entity: Entity, *, at: str) -> None:
        """Hold an entity against the contracts."""
        place = f"{at}.by"
        check_name(entity.name, place)
        if self.is_feedback(entity.key, place):
            raise invalid(place, "a key of the event contract", entity.key.place)
        self._kind(entity.key, _KEYS, place)
        key = self.feedback_key(entity)
        if key is None:
            return
        if not self.is_feedback(key, place):
            raise invalid(place, "a feedback_key of the feedback contract", key.place)
        if key.kind is not entity.key.kind or key.values != entity.key.values:
            raise SentinelError(
                ErrorCode.FEATURE_WRONG_KIND,
                at=place,
                expected=f"the key in both contracts of kind {entity.key.kind}",
                got=f"{key.place}, a {key.kind}",
            )


def _check_summable(field: Field, at: str) -> None:
    """Refuse integers whose sums might not fit: an overflow must be impossible."""
    most = limits.SUMMED_INTEGER_MAX
    bounds = (0, 1) if field.kind is FieldKind.BOOLEAN else (field.minimum, field.maximum)
    if any(bound is None or abs(bound) > most for bound in bounds):
        unit = 10**field.scale
        raise invalid(
            at,
            f"a field with bounds within ±{most / unit:.{field.scale}f}, so that sums are exact",
            f"{field.place}, {field.expectation()}",
            hint="Declare minimum= and maximum= in the contract.",
        )


def operands_of(feature: Feature) -> tuple[str, ...]:
    """Name the features that a feature is made of."""
    pair: tuple[Feature | str, ...] = ()
    if isinstance(feature, Ratio):
        pair = (feature.numerator, feature.denominator)
    elif isinstance(feature, Difference):
        pair = (feature.minuend, feature.subtrahend)
    return tuple(item.name if isinstance(item, Feature) else item for item in pair)


def entities_of(feature: Feature, by_name: Mapping[str, Feature]) -> set[str]:
    """Name the entity types whose state a feature is made of."""
    if isinstance(feature, EntityFeature):
        return {feature.by.name}
    found: set[str] = set()
    for name in operands_of(feature):
        found |= entities_of(by_name[name], by_name)
    return found


def order_of(features: tuple[Feature, ...]) -> tuple[int, ...]:
    """Order features so that operands come before what is made of them.

    Raises
    ------
    SentinelError
        ``feature-duplicate``, ``feature-invalid`` for an unknown operand, ``feature-cycle``.
    """
    at: dict[str, int] = {}
    for i, feature in enumerate(features):
        if feature.name in at:
            raise SentinelError(
                ErrorCode.FEATURE_DUPLICATE,
                at=f"feature {feature.name}",
                expected="names that differ",
                got="it twice",
            )
        at[feature.name] = i
    waiting: dict[int, set[int]] = {}
    for i, feature in enumerate(features):
        waiting[i] = set()
        for name in operands_of(feature):
            if name not in at:
                raise invalid(feature.name, "operands that are features of the set", name)
            waiting[i].add(at[name])
    order: list[int] = []
    while waiting:
        ready = [i for i, needs in waiting.items() if needs.isdisjoint(waiting)]
        if not ready:
            raise SentinelError(
                ErrorCode.FEATURE_CYCLE,
                at=f"feature {features[min(waiting)].name}",
                expected="features that are not made of themselves",
                got=", ".join(features[i].name for i in waiting),
            )
        order.extend(ready)
        for i in ready:
            del waiting[i]
    return tuple(order)


def check_operands(features: tuple[Feature, ...]) -> None:
    """Refuse an operand that is another feature of the same name than the one in the set."""
    by_name = {feature.name: feature for feature in features}
    for feature in features:
        if not isinstance(feature, Ratio | Difference):
            continue
        for name in ("numerator", "denominator", "minuend", "subtrahend"):
            operand = getattr(feature, name, None)
            if isinstance(operand, Feature) and by_name[operand.name] != operand:
                raise invalid(f"{feature.name}.{name}", "the feature of the set", operand.name)


def check_entities(features: tuple[Feature, ...]) -> tuple[Entity, ...]:
    """Collect the entities in order of first use; refuse two of one name."""
    found: dict[str, Entity] = {}
    for feature in features:
        if not isinstance(feature, EntityFeature):
            continue
        entity = found.setdefault(feature.by.name, feature.by)
        if entity != feature.by:
            raise SentinelError(
                ErrorCode.FEATURE_DUPLICATE,
                at=f"entity {entity.name}",
                expected="one entity of this name",
                got="two with different keys",
            )
    most = limits.FEATURE_ENTITIES_MAX
    if len(found) > most:
        raise invalid("features", f"at most {most} entities", len(found))
    return tuple(found.values())


def horizon_ms(entity: Entity, features: tuple[Feature, ...]) -> int:
    """Say how long an entity may be idle before it is forgotten, in ms; 0: it never is.

    Raises
    ------
    SentinelError
        ``feature-invalid`` where it would be forgotten before its longest window has passed.
    """
    own = [f for f in features if isinstance(f, EntityFeature) and f.by.name == entity.name]
    lengths = [getattr(f, "over", None) for f in own]
    longest = max((parse_ms(text, at="over") for text in lengths if text is not None), default=0)
    if entity.forget_after is not None:
        declared = parse_ms(entity.forget_after, at=f"entity {entity.name}.forget_after")
        if declared < longest:
            raise invalid(
                f"entity {entity.name}.forget_after",
                f"at least its longest window, {write_ms(longest)}",
                entity.forget_after,
            )
        return declared
    keeps_windows_only = all(
        text is not None and feature.stale_after is None
        for text, feature in zip(lengths, own, strict=True)
    )
    return 2 * longest if keeps_windows_only else 0
