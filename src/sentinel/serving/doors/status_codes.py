"""From an error to the word of each protocol: two total tables.

A code that is missing here is a fault that a test finds, not a 500 that a caller finds.
"""

from __future__ import annotations

from sentinel.core.errors import ErrorCode

_E = ErrorCode

# Statuses of HTTP (RFC 9110, 15; RFC 6585, 4).
_HTTP: dict[int, tuple[ErrorCode, ...]] = {
    400: (_E.REQUEST_INVALID, _E.TENSOR_INVALID),
    401: (_E.CALLER_UNKNOWN,),
    403: (_E.SCOPE_MISSING, _E.PEER_REFUSED),
    404: (_E.ROUTE_UNKNOWN, _E.MODEL_UNKNOWN, _E.DECISION_UNKNOWN),
    405: (_E.METHOD_UNSUPPORTED,),
    408: (_E.REQUEST_TOO_SLOW,),
    409: (_E.EVENT_REPEATED, _E.BREAKER_REFUSED, _E.STAGE_REFUSED, _E.SWITCH_REFUSED),
    410: (_E.EXPLANATION_UNAVAILABLE,),
    413: (_E.REQUEST_TOO_LARGE,),
    415: (_E.CONTENT_UNSUPPORTED,),
    422: (_E.EVENT_REFUSED,),
    429: (_E.OVERLOADED,),
    503: (
        _E.ANSWER_HELD,
        _E.DRAINING,
        _E.SERVER_FULL,
        _E.SCORER_CLOSED,
        _E.QUARANTINE_UNWRITABLE,
        _E.DECISION_LOG_BLOCKED,
        _E.STATE_UNWRITABLE,
        _E.ENTITIES_TOO_MANY,
    ),
    504: (_E.DEADLINE_PASSED,),
}
# Names of google.rpc.Code.
_GRPC: dict[str, tuple[ErrorCode, ...]] = {
    "INVALID_ARGUMENT": (
        _E.REQUEST_INVALID,
        _E.TENSOR_INVALID,
        _E.CONTENT_UNSUPPORTED,
        _E.EVENT_REFUSED,
    ),
    "UNAUTHENTICATED": (_E.CALLER_UNKNOWN,),
    "PERMISSION_DENIED": (_E.SCOPE_MISSING,),
    "NOT_FOUND": (_E.MODEL_UNKNOWN, _E.DECISION_UNKNOWN, _E.EXPLANATION_UNAVAILABLE),
    "UNIMPLEMENTED": (_E.ROUTE_UNKNOWN, _E.METHOD_UNSUPPORTED),
    "ALREADY_EXISTS": (_E.EVENT_REPEATED,),
    "FAILED_PRECONDITION": (_E.BREAKER_REFUSED,),
    "RESOURCE_EXHAUSTED": (_E.OVERLOADED, _E.REQUEST_TOO_LARGE, _E.SERVER_FULL),
    "DEADLINE_EXCEEDED": (_E.DEADLINE_PASSED, _E.REQUEST_TOO_SLOW),
    "UNAVAILABLE": (
        _E.ANSWER_HELD,
        _E.DRAINING,
        _E.SCORER_CLOSED,
        _E.QUARANTINE_UNWRITABLE,
        _E.DECISION_LOG_BLOCKED,
        _E.STATE_UNWRITABLE,
        _E.ENTITIES_TOO_MANY,
    ),
}


# Every other code is no answer to a request: if one comes out of one, Sentinel is at fault.
def _total(groups: dict[int, tuple[ErrorCode, ...]], rest: int) -> dict[ErrorCode, int]:
    return dict.fromkeys(ErrorCode, rest) | {
        code: status for status, codes in groups.items() for code in codes
    }


HTTP_STATUS: dict[ErrorCode, int] = _total(_HTTP, 500)
GRPC_STATUS: dict[ErrorCode, str] = dict.fromkeys(ErrorCode, "INTERNAL") | {
    code: status for status, codes in _GRPC.items() for code in codes
}
