"""`late=refuse`: a budget that cannot be kept is refused with 429, in every form of a request."""

import base64
import json
from typing import Any

import pytest

from tests.conftest import AppClient

pytestmark = pytest.mark.anyio

IMPOSSIBLE = 1e-6
"""milliseconds"""


@pytest.mark.parametrize("form", ["query", "multipart", "json", "v2"])
async def test_who_wants_no_late_answer_is_refused(
    app_client: AppClient, owl: bytes, form: str
) -> None:
    wanted: dict[str, Any] = {"max_latency_ms": IMPOSSIBLE, "late": "refuse"}
    data = base64.b64encode(owl).decode()
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [data]}
    async with app_client() as client:
        if form == "query":
            refused = await client.post("/v1/classify", params=wanted, content=owl)
        elif form == "multipart":
            fields = {name: str(value) for name, value in wanted.items()}
            refused = await client.post("/v1/classify", data=fields, files={"image": owl})
        elif form == "json":
            refused = await client.post("/v1/classify", json={**wanted, "image": data})
        else:
            body = json.dumps({"parameters": wanted, "inputs": [tensor]})
            refused = await client.post("/v2/models/tiny/infer", content=body)
    assert refused.status_code == 429, refused.text
    assert int(refused.headers["retry-after"]) >= 1
    assert "latency budget" in refused.text


async def test_a_late_answer_is_the_default(app_client: AppClient, owl: bytes) -> None:
    async with app_client() as client:
        for late in ({}, {"late": "answer"}):
            params = {"max_latency_ms": IMPOSSIBLE, **late}
            answered = await client.post("/v1/classify", params=params, content=owl)
            assert answered.status_code == 200
            assert answered.json()["choice"]["reason"] == "latency_budget_missed"


@pytest.mark.parametrize("late", ["never", "refuse"])
async def test_late_alone_or_unknown_is_refused(
    app_client: AppClient, owl: bytes, late: str
) -> None:
    params = {"late": late} if late == "refuse" else {"late": late, "max_latency_ms": 5}
    async with app_client() as client:
        refused = await client.post("/v1/classify", params=params, content=owl)
    assert refused.status_code == 422
    assert "late" in refused.json()["detail"]
