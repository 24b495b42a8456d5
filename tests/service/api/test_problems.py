"""Every error has one status, and it is documented."""

import asyncio
import logging
from typing import Any, NoReturn

import httpx
import pytest
from PIL import Image

from service import errors
from service.api.app import create_app
from service.api.problems import STATUS
from service.errors import ServiceError
from service.images.processes.process import DecodingProcess
from service.settings import Settings
from service.telemetry.metrics import Metrics
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


def fail(*_: object) -> NoReturn:
    raise ZeroDivisionError("secret")


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/v1/classify", "/v2/models/tiny/infer", "/metrics"])
async def test_an_unexpected_error_is_a_problem_with_an_id_and_a_traceback_in_the_log(
    app_client: AppClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    path: str,
) -> None:
    monkeypatch.setattr(Metrics, "render", fail)
    monkeypatch.setattr("service.api.v1.bodies.parse", fail)
    monkeypatch.setattr("service.api.open_inference.routes.understand", fail)
    async with app_client() as client:
        method = "GET" if path == "/metrics" else "POST"
        answer = await client.request(method, path, headers={"x-request-id": "mine"}, content=b"x")
    assert answer.status_code == 500
    assert answer.headers.get_list("x-request-id") == ["mine"]
    problem = answer.json()
    assert (problem["code"], problem["request_id"]) == ("internal", "mine")
    assert "secret" not in answer.text
    if method == "POST":
        (event,) = [r for r in caplog.records if r.getMessage() == "unexpected error"]
        assert event.exc_info is not None
        assert event.exc_info[0] is ZeroDivisionError
        assert "server-timing" in answer.headers


@pytest.mark.anyio
async def test_an_unexpected_error_of_one_image_leaves_its_neighbours_alone(
    app_client: AppClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    owl: bytes,
) -> None:
    original = DecodingProcess.decode

    def fail_on_one(process: DecodingProcess, body: bytes, *given: Any) -> Image.Image:
        return fail() if body == b"bad" else original(process, body, *given)

    monkeypatch.setattr(DecodingProcess, "decode", fail_on_one)
    caplog.set_level(logging.INFO)
    async with app_client() as client:
        files = [("image", body) for body in (owl, b"bad", owl)]
        answer = await client.post("/v1/classify", files=files)
        alone = await client.post("/v1/classify", content=b"bad")
    assert answer.status_code == 200
    first, bad, last = answer.json()["results"]
    assert first["model"] == last["model"] == "tiny"
    assert (bad["status"], bad["code"]) == (500, "internal")
    assert bad["request_id"] == answer.headers["x-request-id"]
    assert alone.status_code == 500
    events = [record for record in caplog.records if record.getMessage() == "unexpected error"]
    assert [event.exc_info[0] for event in events if event.exc_info] == [ZeroDivisionError] * 2


@pytest.mark.anyio
async def test_what_can_be_got_has_a_head(app_client: AppClient) -> None:
    paths = ("/livez", "/readyz", "/healthz", "/metrics", "/v1/models", "/v1/models/tiny", "/v2")
    async with app_client() as client:
        for path in (*paths, "/v2/health/ready", "/v2/models/tiny", "/openapi.json", "/nowhere"):
            head, get = await asyncio.gather(client.head(path), client.get(path))
            assert head.status_code == get.status_code, path
            assert head.headers["content-type"] == get.headers["content-type"]
            assert head.content == b""
            assert "x-request-id" in head.headers
        refused = await client.head("/v1/classify")
        assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
        assert not any("head" in methods for methods in (await spec(client)).values())


async def spec(client: httpx.AsyncClient) -> dict[str, dict[str, object]]:
    paths: dict[str, dict[str, object]] = (await client.get("/openapi.json")).json()["paths"]
    return paths
