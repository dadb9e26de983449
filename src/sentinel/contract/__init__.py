"""The strict, versioned schema of an event: fields, decoding, refusals, quarantine."""

from __future__ import annotations

from sentinel.contract.batch import EventBatch, RawBatch
from sentinel.contract.codes import RefusalCode
from sentinel.contract.contract import Contract
from sentinel.contract.decoder import Decoded, Decoder
from sentinel.contract.fields import (
    Boolean,
    Category,
    Decimal,
    EventId,
    EventTime,
    Float,
    Integer,
    Key,
    Text,
    Timestamp,
)
from sentinel.contract.quarantine import (
    Quarantine,
    QuarantineCounts,
    QuarantineRecord,
    QuarantineRules,
    UnwritablePolicy,
    read_quarantine,
)
from sentinel.contract.refusal import Fault, Refusal
from sentinel.contract.schema import ContractSchema, Field, FieldKind, FieldRole, TimeUnit

__all__ = [
    "Boolean",
    "Category",
    "Contract",
    "ContractSchema",
    "Decimal",
    "Decoded",
    "Decoder",
    "EventBatch",
    "EventId",
    "EventTime",
    "Fault",
    "Field",
    "FieldKind",
    "FieldRole",
    "Float",
    "Integer",
    "Key",
    "Quarantine",
    "QuarantineCounts",
    "QuarantineRecord",
    "QuarantineRules",
    "RawBatch",
    "Refusal",
    "RefusalCode",
    "Text",
    "TimeUnit",
    "Timestamp",
    "UnwritablePolicy",
    "read_quarantine",
]
