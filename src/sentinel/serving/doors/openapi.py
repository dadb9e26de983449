"""The OpenAPI document of the HTTP door, made from what is served."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sentinel
from sentinel.core.errors import ErrorCode
from sentinel.scoring import Outcome, Reason, ServedBy, code_names
from sentinel.serving import bounds
from sentinel.serving.doors.status_codes import HTTP_STATUS

if TYPE_CHECKING:
    from sentinel.serving.plane import Plane

_ERROR = "#/components/schemas/Error"
_Schema = dict[str, object]


def openapi_document(plane: Plane) -> _Schema:
    """Describe every public route (OpenAPI 3.1)."""
    model = f"/v2/models/{plane.model_name}"
    paths: _Schema = {
        "/v1/score": {"post": _score(plane)},
        "/v1/feedback": {"post": _feedback(plane)},
        "/v1/decisions/{event_id}": {"get": _decision()},
        "/v1/decisions/{event_id}/explanation": {"get": _explanation()},
        "/v1/release": {"get": _get("What runs, and how it is", _object(), errors=(401, 403))},
        "/v1/health": {"get": _get("Live, started, ready, degraded, and why", _object(), (503,))},
        "/openapi.json": {"get": _get("This document", _object())},
        "/v2": {"get": _get("Server metadata", _object())},
        "/v2/health/live": {"get": _probe("Whether a restart would change nothing")},
        "/v2/health/ready": {"get": _probe("Whether the canary has just gone right")},
        "/v2/models": {"get": _get("Models", _object())},
    }
    for path in (model, f"{model}/versions/{plane.model_version}"):
        paths[path] = {"get": _get("Model metadata", _object())}
        paths[f"{path}/ready"] = {"get": _probe("Whether the model is ready")}
        paths[f"{path}/infer"] = {"post": _infer(plane)}
        paths[f"{path}/explain"] = {"post": _explain(plane)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"Sentinel: {plane.model_name}",
            "version": sentinel.__version__,
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": {
                "Event": _event(plane),
                "Decision": _decision_schema(),
                "Error": _error_schema(),
            },
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}, {}],
    }


def _event(plane: Plane) -> _Schema:
    schema = dict(plane.loaded.events.json_schema())
    for name in ("$schema", "$id"):
        schema.pop(name, None)
    return schema


def _score(plane: Plane) -> _Schema:
    lines = {"schema": {"type": "string"}}
    return {
        "summary": f"Decide events of the contract {plane.loaded.events.name}",
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": _one_or_many("Event")},
                "application/x-ndjson": lines,
            },
        },
        "responses": {
            "200": {
                "description": "Decisions, in the order of the events",
                "content": {
                    "application/json": {"schema": _one_or_many("Decision", "Error")},
                    "application/x-ndjson": lines,
                },
            },
            **_errors(400, 401, 403, 409, 413, 415, 422, 429, 503, 504),
        },
    }


def _one_or_many(name: str, *others: str) -> _Schema:
    """One of them, or a list; in a list each may be another thing."""
    own = {"$ref": f"#/components/schemas/{name}"}
    each = [own, *({"$ref": f"#/components/schemas/{other}"} for other in others)]
    items: _Schema = {"anyOf": list(each)} if others else dict(own)
    length = {"minItems": 1, "maxItems": bounds.REQUEST_ROWS_MAX}
    return {"anyOf": [own, {"type": "array", "items": items, **length}]}


def _feedback(plane: Plane) -> _Schema:
    declared = plane.loaded.parts.plan.features.feedback
    lines = {"schema": {"type": "string"}}
    name = "nothing: these features read none" if declared is None else declared.name
    return {
        "summary": f"Learn what became of earlier events: {name}",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _object()}, "application/x-ndjson": lines},
        },
        "responses": {
            "200": {
                "description": "For each event that it was learned, or why not",
                "content": {
                    "application/json": {"schema": _object()},
                    "application/x-ndjson": lines,
                },
            },
            **_errors(400, 401, 403, 413, 415, 422, 429, 503, 504),
        },
    }


def _infer(plane: Plane) -> _Schema:
    tensor = {
        "type": "object",
        "required": ["name", "shape", "datatype"],
        "properties": {
            "name": {"const": "features"},
            "shape": {
                "type": "array",
                "prefixItems": [{"type": "integer", "minimum": 1}, {"const": plane.n_features}],
                "items": False,
                "minItems": 2,
            },
            "datatype": {"const": "FP32"},
            "parameters": {"type": "object"},
            "data": {"type": "array", "items": {"type": "number"}},
        },
    }
    body = {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "model_name": {"const": plane.model_name},
            "model_version": {"const": plane.model_version},
            "parameters": {"type": "object"},
            "inputs": {"type": "array", "items": tensor, "minItems": 1, "maxItems": 1},
        },
    }
    return {
        "summary": "Score rows of features (Open Inference Protocol v2)",
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "200": {
                "description": "Scores, outcomes, who served them, why",
                "content": {"application/json": {"schema": _object()}},
            },
            **_errors(400, 401, 403, 413, 415, 429, 503, 504),
        },
    }


def _explain(plane: Plane) -> _Schema:
    infer = _infer(plane)
    return {
        **infer,
        "summary": "Score rows of features, and say why",
        "responses": {
            "200": {
                "description": "An explanation of each score, or why there is none",
                "content": {"application/json": {"schema": _object()}},
            },
            **_errors(400, 401, 403, 410, 413, 415, 429, 503, 504),
        },
    }


def _decision() -> _Schema:
    found = _get("The decision of an event", {"$ref": "#/components/schemas/Decision"}, (404,))
    parameter = {"name": "event_id", "in": "path", "required": True, "schema": {"type": "string"}}
    return {**found, "parameters": [parameter]}


def _explanation() -> _Schema:
    found = _get(
        "Why the decision of an event is what it is", _explanation_schema(), (404, 410, 429)
    )
    pending = {
        "description": "it is on its way",
        "content": {"application/json": {"schema": _object()}},
    }
    responses = found["responses"]
    if isinstance(responses, dict):
        responses["202"] = pending
    parameter = {"name": "event_id", "in": "path", "required": True, "schema": {"type": "string"}}
    return {**found, "parameters": [parameter]}


def _get(summary: str, schema: _Schema, errors: tuple[int, ...] = ()) -> _Schema:
    return {
        "summary": summary,
        "responses": {
            "200": {
                "description": summary,
                "content": {"application/json": {"schema": schema}},
            },
            **_errors(400, 401, 403, *errors),
        },
    }


def _probe(summary: str) -> _Schema:
    return {
        "summary": summary,
        "responses": {
            "200": {"description": "yes"},
            "503": {"description": "no"},
            **_errors(400),
        },
    }


def _errors(*statuses: int) -> dict[str, _Schema]:
    content = {"application/json": {"schema": {"$ref": _ERROR}}}
    return {
        str(status): {
            "description": ", ".join(str(code) for code in ErrorCode if HTTP_STATUS[code] == status)
            or "no",
            "content": content,
        }
        for status in sorted(set(statuses))
    }


def _decision_schema() -> _Schema:
    return {
        "type": "object",
        "required": ["event_id", "score", "outcome", "served_by", "reason", "feature_hash"],
        "properties": {
            "event_id": {"type": "string"},
            "score": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
            "outcome": {"enum": list(code_names(Outcome))},
            "served_by": {"enum": list(code_names(ServedBy))},
            "reason": {"enum": list(code_names(Reason))},
            "feature_hash": {"type": "string"},
        },
        "additionalProperties": False,
    }


def _explanation_schema() -> _Schema:
    number, text = {"type": "number"}, {"type": "string"}
    reason = {
        "type": "object",
        "required": ["code", "words", "feature", "direction", "contribution", "status"],
        "properties": {
            **dict.fromkeys(("code", "words", "feature", "direction", "status"), text),
            "contribution": number,
        },
    }
    feature = {
        "type": "object",
        "required": ["name", "value", "status", "contribution"],
        "properties": {
            "name": text,
            "value": {"type": ["number", "null"]},
            "status": text,
            "contribution": number,
        },
    }
    return {
        "type": "object",
        "properties": {
            **dict.fromkeys(("event_id", "release", "outcome", "served_by", "method"), text),
            **dict.fromkeys(("score", "base", "residual", "error"), number),
            "reasons": {"type": "array", "items": reason},
            "features": {"type": "array", "items": feature},
        },
    }


def _error_schema() -> _Schema:
    return {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {"type": "string"},
            "code": {"enum": [str(code) for code in ErrorCode]},
        },
    }


def _object() -> _Schema:
    return {"type": "object"}
