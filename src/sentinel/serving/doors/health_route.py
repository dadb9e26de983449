"""What a probe of ``/v1/health`` is told: everybody how it is, operators also whose fault it is.

Causes name callers that are refused too often, by the name of their token or by their address.
Who they are is told to scope ``operate``, and, where the server has no tokens, to callers on this
machine who ask for it by its own name. Everybody else is told how many they are.
"""

from __future__ import annotations

from sentinel.serving.doors.access import Access, Scope, is_local
from sentinel.serving.doors.http_message import HttpRequest, HttpResponse, json_response
from sentinel.serving.health import HealthReport


def health_response(report: HealthReport, request: HttpRequest, access: Access) -> HttpResponse:
    """Answer ``GET /v1/health``: 200 when ready, else 503."""
    shown = report.to_data(names_callers=_may_know_callers(request, access))
    return json_response(shown, status=200 if report.is_ready else 503)


def _may_know_callers(request: HttpRequest, access: Access) -> bool:
    """Whether the caller may know who the others are; a probe with no token is never refused."""
    authorization = request.headers.get(b"authorization", b"")
    caller = access.identify(authorization) if authorization else None
    if caller is not None:
        return caller.may(Scope.OPERATE)
    return access.is_open and is_local(request)
