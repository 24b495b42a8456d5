"""Every error has one status, and it is documented."""

import pytest

from service import errors
from service.app import create_app
from service.errors import ServiceError
from service.routes.problems import STATUS
from service.settings import Settings
from tests.conftest import AppClient


def test_every_service_error_has_a_row_and_a_code_of_its_own() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, ServiceError) and kind is not ServiceError
    ]
    assert set(STATUS) == set(kinds)
    assert len({kind.code for kind in kinds}) == len(kinds)


def test_the_documentation_lists_every_status_of_an_error() -> None:
    responses = create_app(Settings()).openapi()["paths"]["/v1/classify"]["post"]["responses"]
    assert {int(status) for status in responses} == {200, *STATUS.values()}
    for status in set(STATUS.values()):
        assert "application/problem+json" in responses[str(status)]["content"]


@pytest.mark.anyio
async def test_docs_can_be_read(app_client: AppClient) -> None:
    async with app_client() as client:
        assert "swagger" in (await client.get("/docs")).text
        assert (await client.get("/openapi.json")).json()["info"]["title"] == "rapid-vit"
