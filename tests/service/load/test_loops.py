"""When requests leave: arrivals of an open loop, and what its client does with them."""

import asyncio
import itertools
import statistics
from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from service.load import loops
from service.load.client import Client
from service.load.mix import parse_mix
from service.load.outcomes import NOT_SENT, OK, UNREADABLE, Outcome, read_answer
from service.load.plan import Loop, Plan
from service.load.request import EXAMPLES, load_images
from tests.service.load.pattern_server import GARBLED, PatternServer
from tests.waiting import PATIENCE_S


def test_arrivals_are_a_poisson_process() -> None:
    rate, number = 50.0, 20_000
    moments = list(itertools.islice(loops.arrivals(rate, Random(1)), number))
    gaps = [later - sooner for sooner, later in itertools.pairwise([0.0, *moments])]
    per_second = list(Counter(int(moment) for moment in moments[: number - 100]).values())
    assert statistics.fmean(gaps) == pytest.approx(1 / rate, rel=0.03)
    assert statistics.stdev(gaps) == pytest.approx(1 / rate, rel=0.03)
    dispersion = statistics.variance(per_second[:-1]) / statistics.fmean(per_second[:-1])
    assert dispersion == pytest.approx(1.0, abs=0.2)


@given(rate=st.floats(0.01, 10_000), seed=st.integers(0, 2**32))
def test_arrivals_follow_from_the_seed_and_scale_with_the_rate(rate: float, seed: int) -> None:
    moments = list(itertools.islice(loops.arrivals(rate, Random(seed)), 20))
    again = list(itertools.islice(loops.arrivals(rate, Random(seed)), 20))
    at_one_per_s = list(itertools.islice(loops.arrivals(1.0, Random(seed)), 20))
    assert moments == again == sorted(moments)
    assert [moment * rate for moment in moments] == pytest.approx(at_one_per_s)


def plan_for(url: str, loop: Loop) -> Plan:
    return Plan(
        url=URL(url),
        loop=loop,
        mix=parse_mix("balanced"),
        images=load_images([EXAMPLES]),
        deadline_ms=1000.0,
    )


def client_for(session: aiohttp.ClientSession, plan: Plan) -> Client:
    return Client(session, plan.url / "v1/classify", plan.loop, read_answer)


def test_arrivals_beyond_max_outstanding_are_counted_and_not_sent() -> None:
    server = PatternServer(200)
    server.hold_from = 1

    async def run() -> Counter[str]:
        async with server.running() as url, aiohttp.ClientSession() as session:
            plan = plan_for(url, Loop(rate=1000, max_outstanding=2, max_requests=10))
            client = client_for(session, plan)
            async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
                tasks.create_task(loops.run(client, plan.requests()))
                while client.tally[NOT_SENT] < 8:  # noqa: ASYNC110 - until the schedule is over
                    await asyncio.sleep(0.001)
                server.release.set()
            return client.tally

    assert asyncio.run(run()) == {NOT_SENT: 8, OK: 2}
    assert len(server.queries) == 2


def test_latency_counts_from_the_moment_a_request_was_due() -> None:
    async def run() -> Outcome:
        async with PatternServer(200).running() as url, aiohttp.ClientSession() as session:
            plan = plan_for(url, Loop(rate=1))
            client = client_for(session, plan)
            await client.send(next(plan.requests()), client.now() - 5)
            return client.outcomes[0]

    late = asyncio.run(run())
    assert late.kind == OK
    assert late.latency_ms >= 5000


def test_an_answer_that_cannot_be_read_is_an_error_of_its_own() -> None:
    async def run() -> Outcome:
        async with PatternServer(GARBLED).running() as url, aiohttp.ClientSession() as session:
            plan = plan_for(url, Loop(concurrency=1, max_requests=1))
            client = client_for(session, plan)
            await loops.run(client, plan.requests())
            return client.outcomes[0]

    assert asyncio.run(run()).kind == UNREADABLE


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "a loop is either closed"),
        ({"rate": 1, "concurrency": 1}, "a loop is either closed"),
        ({"concurrency": 1025}, "'1025' is not within 1 ... 1024"),
        ({"concurrency": 0}, "'0' is not within"),
        ({"rate": 20_000}, "'20000' is not within 0.01 ... 10000"),
        ({"rate": float("nan")}, "'nan' is not within"),
        ({"rate": 1, "duration_s": 601}, "'601' is not within 0.1 ... 600"),
        ({"rate": 1, "warmup_s": -1}, "'-1' is not within 0 ... 60"),
        ({"rate": 1, "max_requests": 2_000_000}, "is not within 1 ... 1e.06"),
        ({"rate": 1, "max_outstanding": 20_000}, "is not within 1 ... 16384"),
    ],
)
def test_a_loop_is_bounded(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Loop(**wrong)


def test_a_loop_ends_after_its_time() -> None:
    async def run() -> tuple[Client, float]:
        async with PatternServer(200).running() as url, aiohttp.ClientSession() as session:
            plan = plan_for(url, Loop(concurrency=2, warmup_s=0.5, duration_s=0.5))
            client = client_for(session, plan)
            await loops.run(client, plan.requests())
            return client, client.now()

    client, ended_s = asyncio.run(run())
    assert ended_s >= 1.0
    assert max(outcome.due_s for outcome in client.outcomes) < 1.0
    assert 0 < client.num_counted < len(client.outcomes)


def test_entries_come_by_their_weights_and_again_from_the_same_seed() -> None:
    plan = plan_for("http://127.0.0.1", Loop(rate=1, seed=3))
    plan = replace(plan, mix=parse_mix("exact=1,turbo=3"))
    sent = list(itertools.islice(plan.requests(), 400))
    assert sent == list(itertools.islice(plan.requests(), 400))
    assert Counter(request.entry for request in sent)["turbo"] == pytest.approx(300, abs=40)
    assert {request.content for request in sent} == {image.content for image in plan.images}
