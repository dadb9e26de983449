"""A named, versioned list of features over two contracts: declared, checked, hashed, as data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from sentinel.contract import Contract, ContractSchema, Field, FieldKind, FieldRole
from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.hashing import sha256_of
from sentinel.features.checks import (
    Reader,
    check_entities,
    check_name,
    check_operands,
    horizon_ms,
    invalid,
    order_of,
)
from sentinel.features.definitions import (
    KINDS,
    Calendar,
    CategoryEncoding,
    Entity,
    EntityFeature,
    Feature,
)
from sentinel.features.durations import parse_ms

FORMAT = "sentinel-features-1"
# Raised whenever the kernel gives another value for the same definition and events. A set that was
# written down under an earlier meaning keeps it, for ever.
#   1  entities are never forgotten
#   2  entities of which only windows are kept are forgotten when they were idle for too long
MEANING = 2
MEANINGS = (2, 1)


@dataclass(frozen=True, init=False)
class FeatureSet:
    """What is computed for each event.

    Parameters
    ----------
    name, version : str
        Identity for people; :attr:`identity` is the identity for machines.
    events : type of Contract or ContractSchema
    feedback : type of Contract or ContractSchema, optional
        The contract of labels that arrive late.
    features : sequence of Feature
    labels : sequence of Field
        Fields of the event contract that are known only later. Such a field may not be read. So
        are, without being named, boolean and category fields that the feedback contract has too.
    meaning : int
        What the kernel of the day gave for it: 2 today; :meth:`from_data` reads earlier ones.

    Raises
    ------
    SentinelError
        ``feature-invalid``, ``feature-unknown-field``, ``feature-wrong-kind``,
        ``feature-reads-label``, ``feature-duplicate``, ``feature-cycle``.

    Examples
    --------
    >>> from sentinel.contract import Contract, Decimal, EventId, EventTime, Key
    >>> class Payment(Contract, name="payment", version="1"):
    ...     payment_id = EventId(bytes_max=36)
    ...     paid_at = EventTime(unit="ms")
    ...     card_id = Key(bytes_max=32)
    ...     amount = Decimal(scale=2, minimum=0, maximum=100_000)
    >>> card = Entity("card", key=Payment.card_id)
    >>> from sentinel.features import Mean
    >>> features = FeatureSet(
    ...     "payments", version="1", events=Payment,
    ...     features=[Mean("avg_amount_1h", of=Payment.amount, by=card, over="1h")])
    >>> features.names
    ('avg_amount_1h',)
    """

    name: str
    version: str
    events: ContractSchema
    feedback: ContractSchema | None
    features: tuple[Feature, ...]
    labels: tuple[str, ...]
    meaning: int

    def __init__(
        self,
        name: str,
        *,
        version: str,
        events: type[Contract] | ContractSchema,
        features: Iterable[Feature],
        feedback: type[Contract] | ContractSchema | None = None,
        labels: Sequence[Field] = (),
        meaning: int = MEANING,
    ) -> None:
        set_ = object.__setattr__
        set_(self, "name", name)
        set_(self, "version", version)
        set_(self, "events", _schema(events, "events"))
        set_(self, "feedback", None if feedback is None else _schema(feedback, "feedback"))
        set_(self, "features", tuple(features))
        set_(self, "labels", tuple(sorted({field.name for field in labels})))
        set_(self, "meaning", meaning)
        self._check(labels)

    def _check(self, labels: Sequence[Field]) -> None:
        check_name(self.name.replace("-", "_"), "feature set name")
        if not (isinstance(self.version, str) and 1 <= len(self.version) <= 64):
            raise invalid("feature set version", "1 to 64 characters", self.version)
        most = limits.FEATURES_MAX
        if not 1 <= len(self.features) <= most:
            raise invalid("features", f"1 to {most} features", len(self.features))
        if self.feedback is not None and self.feedback.name == self.events.name:
            raise invalid("feedback", "a contract of another name than events", self.events.name)
        for field in labels:
            if field not in self.events.fields:
                raise SentinelError(
                    ErrorCode.FEATURE_UNKNOWN_FIELD,
                    at="labels",
                    expected=f"fields of {self.events.name}",
                    got=field.place,
                )
        reader = self.reader()
        for feature in self.features:
            reader.check(feature)
        order_of(self.features)
        check_operands(self.features)
        check_entities(self.features)
        for name, horizon in self.horizons_ms.items():
            if self.meaning < 2 and horizon:
                raise invalid(f"entity {name}", "no horizon in meaning 1", horizon)

    def reader(self) -> Reader:
        """Return what resolves the fields of features."""
        hidden = set(self.labels)
        for field in () if self.feedback is None else self.feedback.fields:
            is_verdict = field.kind in {FieldKind.BOOLEAN, FieldKind.CATEGORY}
            if is_verdict and field.role is FieldRole.VALUE:
                hidden.add(field.name)
        for entity in check_entities(self.features):
            hidden.discard(entity.key.name)
        return Reader(self.events, self.feedback, frozenset(hidden))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features; column order of the matrix."""
        return tuple(feature.name for feature in self.features)

    @property
    def entities(self) -> tuple[Entity, ...]:
        """The entities that state is kept for, in order of first use."""
        return check_entities(self.features)

    @property
    def horizons_ms(self) -> dict[str, int]:
        """How long each entity may be idle before it is forgotten; 0: it never is."""
        chosen = [e for e in self.entities if self.meaning > 1 or e.forget_after is not None]
        found = {entity.name: 0 for entity in self.entities}
        return found | {entity.name: horizon_ms(entity, self.features) for entity in chosen}

    @property
    def unfitted(self) -> tuple[CategoryEncoding, ...]:
        """Encodings that have no numbers yet."""
        return tuple(
            feature
            for feature in self.features
            if isinstance(feature, CategoryEncoding) and feature.values is None
        )

    @property
    def identity(self) -> str:
        """SHA-256 of all that changes a value, 64 hexadecimal digits.

        That is: every feature with its place, both contracts by their ``schema_hash``, and the
        meaning of the kernel. Name and version of the set, and two ways of writing one length
        of time, change nothing.
        """
        reader = self.reader()
        horizons = self.horizons_ms
        entities = {
            entity.name: [
                entity.key.name,
                key.name if (key := reader.feedback_key(entity)) is not None else None,
                *([str(horizons[entity.name])] if entity.forget_after is not None else []),
            ]
            for entity in self.entities
        }
        return sha256_of(
            {
                "meaning": self.meaning,
                "events": self.events.schema_hash,
                "feedback": self.feedback.schema_hash if self.feedback else None,
                "features": [_identity_data(feature, entities) for feature in self.features],
            }
        )

    @property
    def state_identity(self) -> str:
        """SHA-256 of all that changes *state*: :attr:`identity` without the numbers of encodings.

        A set that was fitted again reads the same state as before, and keeps it in the same way.
        """
        bare = [
            dataclasses.replace(feature, values=None)
            if isinstance(feature, CategoryEncoding)
            else feature
            for feature in self.features
        ]
        return self.with_features(bare).identity

    def with_features(self, features: Iterable[Feature]) -> FeatureSet:
        """Return the same set with other features (fitted encodings)."""
        return FeatureSet(
            self.name,
            version=self.version,
            events=self.events,
            feedback=self.feedback,
            features=features,
            labels=[self.events.field(name) for name in self.labels],
            meaning=self.meaning,
        )

    def to_data(self) -> dict[str, object]:
        """Return the set as plain data: what ``features.json`` holds."""
        reader = self.reader()
        return {
            "format": FORMAT,
            "name": self.name,
            "version": self.version,
            "identity": self.identity,
            "events": self.events.to_data(),
            "feedback": self.feedback.to_data() if self.feedback else None,
            "labels": list(self.labels),
            "entities": [
                {
                    "name": entity.name,
                    "key": entity.key.name,
                    "feedback_key": key.name if (key := reader.feedback_key(entity)) else None,
                    **({"forget_after": text} if (text := entity.forget_after) else {}),
                }
                for entity in self.entities
            ],
            "features": [_feature_data(feature) for feature in self.features],
        }

    @classmethod
    def from_data(cls, data: object) -> FeatureSet:
        """Build a feature set from plain data that came from outside.

        Raises
        ------
        SentinelError
            ``feature-invalid`` for data that :meth:`to_data` would not write, and for an
            ``identity`` that does not follow from the rest; and all that the declaration raises.
        """
        try:
            read = msgspec.convert(data, _SetData, strict=True)
        except (msgspec.ValidationError, RecursionError) as error:
            raise invalid("feature set data", "data as to_data() writes it", error) from error
        if read.format != FORMAT:
            raise invalid("feature set data", FORMAT, read.format)
        events = ContractSchema.from_data(read.events)
        feedback = None if read.feedback is None else ContractSchema.from_data(read.feedback)
        by_contract = {events.name: events}
        if feedback is not None:
            by_contract[feedback.name] = feedback
        entities = {item.name: _entity_from(item, events, feedback) for item in read.entities}
        if len(entities) != len(read.entities):
            raise invalid("feature set data", "entity names that differ", "a repeat")
        for meaning in MEANINGS:
            found = cls(
                read.name,
                version=read.version,
                events=events,
                feedback=feedback,
                features=[_feature_from(item, by_contract, entities) for item in read.features],
                labels=[events.field(name) for name in read.labels],
                meaning=meaning,
            )
            if found.identity == read.identity:
                return found
        raise invalid("feature set data", "the identity that follows from the rest", read.identity)


def _schema(contract: type[Contract] | ContractSchema, at: str) -> ContractSchema:
    if isinstance(contract, ContractSchema):
        return contract
    if isinstance(contract, type) and issubclass(contract, Contract):
        return contract.schema
    raise invalid(at, "a contract", contract)


def _parts(feature: Feature) -> dict[str, object]:
    """List the parameters of a feature, but its name; fields that are not given are left out."""
    return {
        part.name: value
        for part in dataclasses.fields(feature)
        if part.name != "name" and (value := getattr(feature, part.name)) is not None
    }


def _plain(value: object) -> object:
    if isinstance(value, Field):
        return {"contract": value.contract, "field": value.name}
    if isinstance(value, Entity | Feature):
        return value.name
    if isinstance(value, Mapping):
        return {key: float(number) for key, number in value.items()}
    return value


def _feature_data(feature: Feature) -> dict[str, object]:
    parts = {name: _plain(value) for name, value in _parts(feature).items()}
    return {"kind": feature.kind, "name": feature.name, **parts}


def _identity_data(feature: Feature, entities: Mapping[str, list[str | None]]) -> object:
    """Write a feature so that two writings of one meaning are equal."""
    data = _feature_data(feature)
    for name in ("over", "stale_after"):
        if (text := data.get(name)) is not None:
            data[name] = parse_ms(str(text), at=f"{feature.name}.{name}")
    if "tiles" in data and "over" not in data:
        del data["tiles"]
    for name in ("default", "maximum_kmh"):
        if name in data:
            data[name] = float(str(data[name]))
    if isinstance(feature, EntityFeature):
        data["by"] = entities[feature.by.name]
    if isinstance(feature, Calendar) and feature.of is None:
        data["of"] = None
    return data


class _FieldData(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    contract: str
    field: str


class _EntityData(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    key: str
    feedback_key: str | None
    forget_after: str | None = None


class _FeatureData(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    kind: str
    name: str
    default: float = 0.0
    of: _FieldData | None = None
    where: _FieldData | None = None
    latitude: _FieldData | None = None
    longitude: _FieldData | None = None
    by: str | None = None
    over: str | None = None
    stale_after: str | None = None
    tiles: int | None = None
    maximum_kmh: float | None = None
    encoding: str | None = None
    utc_offset_minutes: int | None = None
    values: dict[str, float] | None = None
    numerator: str | None = None
    denominator: str | None = None
    minuend: str | None = None
    subtrahend: str | None = None


class _SetData(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: str
    name: str
    version: str
    identity: str
    events: dict[str, object]
    feedback: dict[str, object] | None
    labels: list[str]
    entities: list[_EntityData]
    features: list[_FeatureData]


def _entity_from(
    item: _EntityData, events: ContractSchema, feedback: ContractSchema | None
) -> Entity:
    key = None
    if item.feedback_key is not None:
        if feedback is None:
            raise invalid(f"entity {item.name}", "no feedback_key", item.feedback_key)
        key = feedback.field(item.feedback_key)
    return Entity(item.name, events.field(item.key), key, item.forget_after)


def _feature_from(
    item: _FeatureData, contracts: Mapping[str, ContractSchema], entities: Mapping[str, Entity]
) -> Feature:
    kind = KINDS.get(item.kind)
    if kind is None:
        raise invalid(f"feature {item.name}", f"a kind of {', '.join(KINDS)}", item.kind)
    parts: dict[str, object] = {}
    allowed = {part.name for part in dataclasses.fields(kind)}
    for name in _FeatureData.__struct_fields__:
        value = getattr(item, name)
        if name == "kind" or value is None:
            continue
        if name not in allowed:
            raise invalid(f"feature {item.name}", f"the parts of a {item.kind}", name)
        if isinstance(value, _FieldData):
            value = _field_from(value, contracts, item.name)
        elif name == "by":
            value = entities.get(value)
            if value is None:
                raise invalid(f"feature {item.name}", "an entity of the set", item.by)
        parts[name] = value
    try:
        return kind(**parts)  # type: ignore[arg-type]
    except TypeError as error:
        raise invalid(f"feature {item.name}", f"all parts of a {item.kind}", error) from error


def _field_from(item: _FieldData, contracts: Mapping[str, ContractSchema], at: str) -> Field:
    schema = contracts.get(item.contract)
    if schema is None or item.field not in {field.name for field in schema.fields}:
        raise SentinelError(
            ErrorCode.FEATURE_UNKNOWN_FIELD,
            at=f"feature {at}",
            expected=f"a field of {' or '.join(contracts)}",
            got=f"{item.contract}.{item.field}",
        )
    return schema.field(item.field)
