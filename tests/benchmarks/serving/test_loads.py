"""Loads on a peer with known answers."""

import asyncio
import itertools
import json
import math
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
from aiohttp import web

from benchmarks.serving import loads
from benchmarks.serving.loads import Sample
from benchmarks.serving.peers.servers import Body, Target
from benchmarks.serving.peers.venvs import PeerUnavailableError
from benchmarks.serving.plan import DENSE, OURS
from benchmarks.serving.rounds import check
from service.load.loops import arrivals
from service.load.outcomes import OK, SHED, Outcome, read_answer
from service.load.plan import Loop
from tests.waiting import PATIENCE_S


def test_requests_take_pictures_in_turn_and_entries_equally_often() -> None:
    queries = {"exact": {"tier": "exact"}, "fast": {"tier": "fast"}}
    bodies = [Body(name, {}) for name in (b"0", b"1", b"2")]
    asked = list(itertools.islice(loads.asks(queries, bodies, seed=1), 12))
    assert [ask.content for ask in asked] == [b"0", b"1", b"2"] * 4
    assert Counter(ask.entry for ask in asked) == {"exact": 6, "fast": 6}
    assert all(ask.query == queries[ask.entry] for ask in asked)
    assert asked == list(itertools.islice(loads.asks(queries, bodies, seed=1), 12))


LATENCY_S = 0.01


class Peer:
    """Answers like a peer when so many are inside at once; every `shed_every`th with 429.

    Once so many were inside, it answers whoever comes.
    """

    def __init__(self, *, waits_for: int = 1, shed_every: float = math.inf) -> None:
        """Nothing asked yet."""
        self.waits_for, self.shed_every = waits_for, shed_every
        self.enough = asyncio.Event()
        self.bodies: list[bytes] = []
        self.queries: list[dict[str, str]] = []
        self.inside = self.most_inside = 0

    async def answer(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.read())
        shed = len(self.bodies) % self.shed_every == 0
        self.queries.append(dict(request.query))
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        if self.inside >= self.waits_for:
            self.enough.set()
        await self.enough.wait()
        await asyncio.sleep(LATENCY_S)
        self.inside -= 1
        best = {"label": "owl", "index": 203, "probability": 0.9}
        return web.json_response({"predictions": [best]}, status=429 if shed else 200)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Target]:
        """On a free port of this machine."""
        app = web.Application()
        app.router.add_post("/predict", self.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            bodies = [Body(name, {"Content-Type": "image/jpeg"}) for name in (b"a", b"b")]
            yield Target(f"http://{host}:{port}/predict", bodies, 0)
        finally:
            await runner.cleanup()


def test_a_closed_loop_sends_every_request_once_with_so_many_at_a_time() -> None:
    peer = Peer(waits_for=4, shed_every=5)

    async def drive() -> Sample:
        async with peer.running() as target:
            requests = loads.asks({"exact": {"tier": "exact"}}, target.bodies, seed=0)
            return await loads.run(target, requests, Loop(concurrency=4, max_requests=20))

    sample = asyncio.run(drive())
    assert Counter(peer.bodies) == {b"a": 10, b"b": 10}
    assert peer.queries == [{"tier": "exact"}] * 20
    assert peer.most_inside == 4
    assert Counter(outcome.kind for outcome in sample.outcomes) == {OK: 16, SHED: 4}
    assert sample.seconds >= 5 * LATENCY_S
    assert all(outcome.latency_ms >= 1000 * LATENCY_S for outcome in sample.outcomes)
    assert max(outcome.done_s for outcome in sample.outcomes) <= sample.seconds


def test_an_open_loop_does_not_wait_for_answers_and_counts_from_when_they_were_due() -> None:
    duration_s = 0.2
    due = list(itertools.takewhile(lambda s: s < duration_s, arrivals(100, Random(0))))
    peer = Peer(waits_for=len(due))  # no answer before the last request is there

    async def drive() -> Sample:
        async with peer.running() as target, asyncio.timeout(PATIENCE_S):
            requests = loads.asks({DENSE: {}}, target.bodies, seed=0)
            return await loads.run(target, requests, Loop(rate=100, duration_s=duration_s, seed=0))

    sample = asyncio.run(drive())
    assert peer.most_inside == len(sample.outcomes) == len(peer.bodies) == len(due) > 5
    assert sorted(outcome.due_s for outcome in sample.outcomes) == due
    assert sample.seconds == duration_s
    assert sample.elapsed_s >= max(due) + LATENCY_S
    for outcome in sample.outcomes:  # each is answered after the last was due
        assert outcome.latency_ms >= 1000 * (max(due) - outcome.due_s + LATENCY_S)


def test_a_server_that_is_gone_gives_errors_and_no_exception() -> None:
    async def drive() -> Sample:
        async with Peer().running() as target:
            pass
        requests = loads.asks({DENSE: {}}, target.bodies, seed=0)
        return await loads.run(target, requests, Loop(concurrency=2, max_requests=3))

    kinds = [outcome.kind for outcome in asyncio.run(drive()).outcomes]
    assert kinds == ["error ClientConnectorError"] * 3


def test_a_server_that_answers_something_else_is_not_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def answers(_: Target, __: dict[str, str]) -> list[dict[str, Any]]:
        return [{"index": 203, "probability": 0.9}]

    monkeypatch.setattr(loads, "answers", answers)
    target = Target("", [], 0)
    check("mosec", target, [{"index": 203, "probability": 0.9000001}])
    with pytest.raises(PeerUnavailableError, match="mosec answers picture 0 with"):
        check("mosec", target, [{"index": 202, "probability": 0.9}])
    with pytest.raises(PeerUnavailableError, match="mosec answers picture 0 with"):
        check("mosec", target, [{"index": 203, "probability": 0.8}])
    for name in ("mosec bfloat16", OURS):
        check(name, target, [{"index": 203, "probability": 0.8}])
        with pytest.raises(PeerUnavailableError, match=r"the model itself .*202"):
            check(name, target, [{"index": 202, "probability": 0.9}])


def test_the_best_label_of_each_picture_is_read() -> None:
    async def ask(peer: Peer) -> list[dict[str, Any]]:
        async with peer.running() as target:
            return await loads.answers(target, {})

    assert asyncio.run(ask(Peer())) == [{"index": 203, "probability": 0.9}] * 2
    with pytest.raises(ValueError, match="shed"):
        asyncio.run(ask(Peer(shed_every=2)))


def test_one_clients_overhead_is_what_its_answers_do_not_name() -> None:
    timing = {"decode": 3.0, "queue": 0.5, "inference": 40.0, "total": 44.0}
    answer = read_answer(
        json.dumps({"tier": "exact", "batch_size": 1, "timing_ms": timing}).encode()
    )
    answered, shed = Outcome("exact", 0.0, 0.05, OK, answer), Outcome("exact", 0.0, 0.05, SHED)
    assert loads.overheads_ms([answered, shed]) == pytest.approx([7.0])
    of_a_peer = Outcome("exact", 0.0, 0.05, OK)
    assert loads.overheads_ms([of_a_peer]) == []
