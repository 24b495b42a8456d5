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
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.anyio]

MEASURE_S = 4.0
OVERLOAD_S = 15.0
FACTOR = 2.0
DEADLINE_IMAGES = 100
"""the deadline is what so many images take, on a machine of any speed"""
SLACK_IMAGES = 8
"""a batch, for a machine that is busy with the clients, too"""
WATCH_S = 0.02
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


class Witness:
    """How long this process was kept waiting for the processor, as the server will have been."""

    def __init__(self) -> None:
        """Nothing seen yet."""
        self.longest_ms = 0.0
        self.share = 0.0
        """of the time"""

    async def watch(self) -> None:
        """Sleep a little, again and again; what it took longer was waiting. Until cancelled."""
        started, waited_s = time.monotonic(), 0.0
        while True:
            before = time.monotonic()
            await asyncio.sleep(WATCH_S)
            late_s = time.monotonic() - before - WATCH_S
            waited_s += late_s
            self.longest_ms = max(self.longest_ms, 1000 * late_s)
            self.share = waited_s / (time.monotonic() - started)


async def overload(
    http: aiohttp.ClientSession, image: bytes, *, rate: float, deadline_ms: int
) -> list[Told]:
    """Send at this rate, whether there are answers or not."""
    started = time.monotonic()
    async with asyncio.TaskGroup() as group:
        tasks = []
        for number in range(int(rate * OVERLOAD_S)):
            await asyncio.sleep(started + number / rate - time.monotonic())
            tasks.append(group.create_task(post(http, image, deadline_ms)))
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
    per_s = await capacity(http, owl)
    deadline_ms, slack_ms = (int(1000 * n / per_s) for n in (DEADLINE_IMAGES, SLACK_IMAGES))
    witness = Witness()
    watching = asyncio.create_task(witness.watch())
    told = await overload(http, owl, rate=FACTOR * per_s, deadline_ms=deadline_ms)
    watching.cancel()
    async with asyncio.timeout(PATIENCE_S):
        while await gauge(http, "rapid_queue_images") != 0:
            pass
    assert (await post(http, owl, 1000 * PATIENCE_S)).status == 200

    statuses = Counter(one.status for one in told)
    assert set(statuses) <= {200, 429, 504}, statuses
    assert statuses[200] > 0
    assert statuses[429] > 0
    # The client takes its share of the same cores, and others may; the strict law holds in
    # test_simulation.py.
    most_late = 0.05 + witness.share
    assert statuses[504] < most_late * (statuses[200] + statuses[504]), (statuses, most_late)
    latest_ms = max(one.total_ms for one in told if one.status == 200)
    assert latest_ms < deadline_ms + slack_ms + witness.longest_ms
    assert all(int(one.retry_after or 0) >= 1 for one in told if one.status == 429)
