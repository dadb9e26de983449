"""What the OpenAPI document promises, tried with generated requests: good, bad and absurd."""

from __future__ import annotations

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.generation import GenerationMode
from serving_rig import Served

N_CASES = 40


def test_generated_requests_find_no_fault_of_the_server(server: Served) -> None:
    server.wait_ready()
    url = f"http://127.0.0.1:{server.addresses.http_port}"
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) >= 14
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            if mode is GenerationMode.NEGATIVE and not operation.body:
                continue

            @settings(
                max_examples=N_CASES,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def check(case: schemathesis.Case) -> None:
                answer = case.call(timeout=10)
                assert answer.status_code < 500, f"{case.method} {case.path}: {answer.content!r}"
                if answer.content and "ndjson" not in str(answer.headers.get("content-type")):
                    assert isinstance(answer.json(), dict | list)

            check()
    assert server.plane.health().is_live
    assert server.opened.scorer.counts().is_balanced
