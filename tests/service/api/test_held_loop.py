"""Requests that would hold the event loop: long targets, many parameters, many scrapes."""

import asyncio
from collections.abc import Callable

import httpx
import pytest

from service.api.headers import LONGEST_TARGET, MAX_PARAMETERS
from service.api.scrapes import BURST, Scrapes
from service.api.v1 import bodies
from service.telemetry.metrics import Metrics
from tests.conftest import AppClient

pytestmark = pytest.mark.anyio

MANY_NAMES = "&".join(f"a{number:x}=" for number in range(7600))


def names(number: int) -> str:
    return "&".join(f"a{index}=" for index in range(number))


# path and query


async def test_a_target_is_refused_before_it_is_parsed(
    app_client: AppClient, owl: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[object] = []
    of_request = httpx.URL(f"/?{names(MAX_PARAMETERS)}").query
    assert of_request.count(b"&") == MAX_PARAMETERS - 1
    monkeypatch.setattr(bodies, "_unique", lambda pairs: parsed.append(pairs) or {})
    async with app_client() as client:
        for query, status, message in (
            (MANY_NAMES, 400, f"allowed are {LONGEST_TARGET}"),
            ("tier=" + "x" * LONGEST_TARGET, 400, f"allowed are {LONGEST_TARGET}"),
            (names(MAX_PARAMETERS + 1), 422, f"33 parameters; allowed are {MAX_PARAMETERS}"),
        ):
            for method, path in (("POST", "/v1/classify"), ("GET", "/livez"), ("GET", "/v2")):
                answer = await client.request(method, f"{path}?{query}", content=owl)
                assert answer.status_code == status
                assert message in answer.json()["detail"]
                assert answer.headers["x-request-id"] == answer.json()["request_id"]
        assert (await client.get("/" + "x" * LONGEST_TARGET)).status_code == 400
        assert (await client.get("/" + "x" * (LONGEST_TARGET - 1))).status_code == 404
        assert (await client.get(f"/livez?{names(MAX_PARAMETERS)}")).status_code == 200
        metrics = (await client.get("/metrics")).text
    assert parsed == []
    assert 'rapid_rejected_total{reason="invalid_parameter"} 3.0' in metrics
    assert 'rapid_rejected_total{reason="invalid_request"} 7.0' in metrics


async def test_unknown_parameters_are_still_named(app_client: AppClient, owl: bytes) -> None:
    async with app_client() as client:
        answer = await client.post(f"/v1/classify?{names(MAX_PARAMETERS)}", content=owl)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")
        assert answer.json()["detail"].startswith("a0 is not a parameter (query string)")


# scrapes


async def test_scrapes_that_come_together_share_an_answer(
    app_client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_computed = 0
    render = Metrics.render

    def counted(metrics: Metrics) -> bytes:
        nonlocal num_computed
        num_computed += 1
        return render(metrics)

    monkeypatch.setattr(Metrics, "render", counted)
    async with app_client() as client:
        answers = await asyncio.gather(*(client.get("/metrics") for _ in range(400)))
    assert {answer.status_code for answer in answers} == {200}
    assert all(b"rapid_requests_total" in answer.content for answer in answers)
    # One more for each 1 / PER_S s that it takes to hand out the shared ones.
    assert BURST < num_computed < 100


@pytest.fixture
def counting() -> Callable[[], bytes]:
    """Gives 1, 2, 3 ..."""
    numbers = iter(range(1, 1000))
    return lambda: str(next(numbers)).encode()


async def test_no_answer_is_older_than_its_request() -> None:
    now = b"0"
    scrapes = Scrapes(lambda: now)
    for number in range(BURST + 3):
        now = str(number).encode()
        assert await scrapes.text() == now


async def test_waiting_scrapes_share_one_and_go_on_one_by_one(
    counting: Callable[[], bytes],
) -> None:
    scrapes = Scrapes(counting)
    first = [int(await scrapes.text()) for _ in range(BURST)]
    assert first == list(range(1, BURST + 1))
    turns: list[int] = []
    turn = 0

    async def scrape() -> bytes:
        text = await scrapes.text()
        turns.append(turn)
        return text

    waiting = [asyncio.create_task(scrape()) for _ in range(20)]
    while len(turns) < len(waiting):
        turn += 1
        await asyncio.sleep(0)
    assert {await task for task in waiting} == {b"%d" % (BURST + 1)}
    assert len(set(turns)) == len(turns)


async def test_a_scrape_that_fails_or_leaves_spoils_none_of_the_others() -> None:
    answers = iter([b"ok"] * BURST)
    scrapes = Scrapes(lambda: next(answers))
    for _ in range(BURST):
        await scrapes.text()
    failing = [asyncio.create_task(scrapes.text()) for _ in range(3)]
    await asyncio.sleep(0)
    failing[0].cancel()
    ended = await asyncio.gather(*failing, return_exceptions=True)
    assert isinstance(ended[0], asyncio.CancelledError)
    assert all(isinstance(error, RuntimeError) for error in ended[1:])  # of StopIteration
    answers = iter([b"again"])
    assert await scrapes.text() == b"again"
