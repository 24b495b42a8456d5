"""What `/openapi.json` promises is what there is: every route, with generated requests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import positive_data_acceptance

from service.api.app import create_app
from service.settings import Settings
from tests.conftest import Server

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

MAX_EXAMPLES = 30
OPERATIONS = [
    pytest.param(method, path, mode, id=f"{method} {path} {mode.value}")
    for path, methods in create_app(Settings()).openapi()["paths"].items()
    for method, operation in methods.items()
    for mode in GenerationMode
    # A path is text, and every text is a valid one: only a body or a query can be wrong.
    if mode is GenerationMode.POSITIVE or "requestBody" in operation
]


@pytest.fixture(scope="module")
def document(tiny_model: Path) -> Iterator[BaseSchema]:
    server = Server(RAPID_MODELS=f"tiny={tiny_model}", RAPID_DRAIN_DELAY_S="0")
    server.wait_until_ready()
    yield schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    status, output = server.stop()
    assert status == 0, output
    assert "Traceback" not in output


@pytest.mark.parametrize(("method", "path", "mode"), OPERATIONS)
def test_every_answer_is_one_that_the_document_describes(
    document: BaseSchema, method: str, path: str, mode: GenerationMode
) -> None:
    operation = document[path][method]
    # 504 is the promised answer to a deadline of a nanosecond; for that check it is a crash.
    excluded = [not_a_server_error]
    if method == "post":  # no schema can say which bytes are a picture
        excluded.append(positive_data_acceptance)

    @settings(
        max_examples=MAX_EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        response = case.call_and_validate(excluded_checks=excluded)
        assert response.status_code < 500 or response.status_code == 504

    check()
