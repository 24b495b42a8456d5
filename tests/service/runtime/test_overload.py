"""Twice the traffic that it can answer: what is accepted is in time, the rest is told so."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import Server

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.anyio]

MEASURE_S = 4.0
OVERLOAD_S = 15.0
FACTOR = 2.0
DEADLINE_MS = 3000
SLACK_MS = 250
"""for a machine that is busy with the clients, too"""
NUM_CLIENTS = 16


class Told(NamedTuple):
    """What a client was told."""

    status: int
    retry_after: str | None
    total_ms: float
    """by the server's clock, from the arrival to the answer"""
    waited_ms: float
    """by the client's clock"""


@pytest.fixture(scope="module", name="bundled")
def start_bundled() -> Iterator[Server]:
    server = Server(RAPID_NUM_THREADS="1", RAPID_LOG_LEVEL="warning", RAPID_DRAIN_DELAY_S="0")
    server.wait_until_ready()
    yield server
    status, output = server.stop()
    assert status == 0, output


@pytest.fixture
async def http(bundled: Server) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(bundled.url, connector=connector) as session:
        yield session


async def post(http: aiohttp.ClientSession, image: bytes, deadline_ms: int) -> Told:
    started = time.monotonic()
    url = f"/v1/classify?deadline_ms={deadline_ms}"
    async with http.post(url, data=image, headers={"content-type": "image/jpeg"}) as response:
        document = await response.json(content_type=None)
        return Told(
            response.status,
            response.headers.get("Retry-After"),
            document["timing_ms"]["total"] if response.status == 200 else math.nan,
            1000 * (time.monotonic() - started),
        )


async def capacity(http: aiohttp.ClientSession, image: bytes) -> float:
    """Answers a second when every client sends its next request after its answer."""
    end = time.monotonic() + MEASURE_S
    num_answered = 0

    async def client() -> None:
        nonlocal num_answered
        while time.monotonic() < end:
            assert (await post(http, image, 60_000)).status == 200
            num_answered += 1

    await asyncio.gather(*(client() for _ in range(NUM_CLIENTS)))
    return num_answered / MEASURE_S


async def overload(
    http: aiohttp.ClientSession, image: bytes, *, rate: float, seconds: float
) -> list[Told]:
    """Send at this rate, whether there are answers or not."""
    started = time.monotonic()
    async with asyncio.TaskGroup() as group:
        tasks = []
        for number in range(int(rate * seconds)):
            await asyncio.sleep(started + number / rate - time.monotonic())
            tasks.append(group.create_task(post(http, image, DEADLINE_MS)))
    return [task.result() for task in tasks]


async def gauge(http: aiohttp.ClientSession, name: str) -> float:
    async with http.get("/metrics") as response:
        families = text_string_to_metric_families(await response.text())
        return {s.name: s.value for family in families for s in family.samples if not s.labels}[
            name
        ]


async def test_what_is_accepted_is_in_time_and_the_rest_is_told_when_to_come_again(
    http: aiohttp.ClientSession, owl: bytes
) -> None:
    rate = FACTOR * await capacity(http, owl)
    told = await overload(http, owl, rate=rate, seconds=OVERLOAD_S)
    num_left = -1.0
    end = time.monotonic() + 2
    while num_left != 0 and time.monotonic() < end:
        num_left = await gauge(http, "rapid_queue_images")
    assert num_left == 0
    assert (await post(http, owl, DEADLINE_MS)).status == 200

    statuses = Counter(one.status for one in told)
    assert set(statuses) <= {200, 429, 504}, statuses
    assert statuses[200] > 0
    assert statuses[429] > 0
    # The client takes its share of the same cores; the strict law holds in test_simulation.py.
    assert statuses[504] < 0.05 * (statuses[200] + statuses[504]), statuses
    assert max(one.total_ms for one in told if one.status == 200) < DEADLINE_MS + SLACK_MS
    assert all(int(one.retry_after or 0) >= 1 for one in told if one.status == 429)
