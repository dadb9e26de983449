"""A contract as JSON Schema (draft 2020-12), for producers in other languages.

Source: https://json-schema.org/draft/2020-12
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sentinel.contract.schema import Field, FieldKind, FieldRole, TimeUnit

if TYPE_CHECKING:
    from sentinel.contract.schema import ContractSchema

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema_of(schema: ContractSchema) -> dict[str, object]:
    """Return the JSON Schema of a contract; see ``ContractSchema.json_schema``."""
    return {
        "$schema": DIALECT,
        "$id": f"urn:sentinel:contract:{schema.name}:{schema.version}",
        "$comment": f"schema_hash {schema.schema_hash}",
        "title": schema.name,
        "type": "object",
        "properties": {field.name: _property(field) for field in schema.fields},
        "required": [field.name for field in schema.fields if field.required],
        "additionalProperties": False,
    }


def _property(field: Field) -> dict[str, object]:
    rules = _rules(field)
    if field.nullable:
        if "enum" in rules:
            rules["enum"] = [*field.values, None]
        else:
            rules["type"] = [rules["type"], "null"]
    rules["description"] = field.expectation()
    return rules


def _rules(field: Field) -> dict[str, object]:
    if field.kind is FieldKind.TEXT:
        least = 0 if field.role is FieldRole.VALUE else 1
        return {"type": "string", "minLength": least, "maxLength": field.bytes_max}
    if field.kind is FieldKind.BOOLEAN:
        return {"type": "boolean"}
    if field.kind is FieldKind.CATEGORY:
        return {"enum": list(field.values)}
    if field.kind is FieldKind.TIME:
        return _time_rules(field)
    unit = 10**field.scale
    whole = field.kind is FieldKind.INTEGER
    low, high = field.minimum or 0, field.maximum or 0
    return {
        "type": "integer" if whole else "number",
        "minimum": low if unit == 1 else low / unit,
        "maximum": high if unit == 1 else high / unit,
    }


def _time_rules(field: Field) -> dict[str, object]:
    if field.unit is TimeUnit.RFC3339:
        return {"type": "string", "format": "date-time"}
    unit = 1000 if field.unit is TimeUnit.SECONDS else 1
    low, high = int(field.minimum or 0), int(field.maximum or 0)
    return {"type": "integer", "minimum": -(-low // unit), "maximum": high // unit}
