"""What `/openapi.json` promises is what there is: every route, with generated requests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.python import asgi
from schemathesis.schemas import BaseSchema

from service.app import create_app
from service.settings import Settings

pytestmark = pytest.mark.slow

MAX_EXAMPLES = 30
OPERATIONS = [
    (method, path)
    for path, methods in create_app(Settings()).openapi()["paths"].items()
    for method in methods
]


@pytest.fixture(scope="module")
def document(tiny_model: Path) -> Iterator[BaseSchema]:
    app = create_app(Settings(models=(f"tiny={tiny_model}",), num_threads=1))
    with asgi.get_client(app) as client:
        while client.get("http://testserver/readyz").status_code != 200:
            pass  # the model is being loaded
        yield schemathesis.openapi.from_asgi("/openapi.json", app)
    asgi.shutdown_lifespans()


@pytest.mark.parametrize("mode", GenerationMode, ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_answer_is_one_that_the_document_describes(
    document: BaseSchema, method: str, path: str, mode: GenerationMode
) -> None:
    operation = document[path][method]

    @settings(
        max_examples=MAX_EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        assert case.call_and_validate().status_code < 500

    check()
