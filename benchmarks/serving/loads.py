"""Loads on one server, sent by the client of `service.load`, and what they gave."""

import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any, NamedTuple

from yarl import URL

from benchmarks.serving.peers.servers import Body, Target
from service.load import loops
from service.load.client import Client, open_session
from service.load.outcomes import OK, Answer, Outcome
from service.load.plan import Loop
from service.load.request import Request

TIMEOUT_S = 60.0
"""for one answer; overload makes a server that refuses nothing slow, not endless"""


class Sample(NamedTuple):
    """What one load on one server gave."""

    outcomes: list[Outcome]
    seconds: float
    """from the first request to the last answer, or the planned time of an open loop"""
    client_cpu_s: float
    """that this process worked meanwhile"""
    elapsed_s: float
    """with the time that an open loop waited for its last answers"""
    overheads_ms: Sequence[float] = ()
    """of one client: what is left of each latency beside the decoding and computing it names"""


def asks(
    queries: dict[str, dict[str, str]], bodies: Sequence[Body], seed: int
) -> Iterator[Request]:
    """Requests without end: pictures in turn, entries equally often in a shuffled order."""
    random = Random(seed)
    pictures = itertools.cycle(bodies)
    while True:
        deck = list(queries)
        random.shuffle(deck)
        for entry in deck:
            yield request_for(next(pictures), entry, queries[entry])


def request_for(body: Body, entry: str, query: dict[str, str]) -> Request:
    """One picture as its server takes it."""
    return Request(entry, query, body.content, body.headers)


async def run(
    target: Target,
    requests: Iterator[Request],
    loop: Loop,
    read: Callable[[bytes], Answer] | None = None,
) -> Sample:
    """Send a load and wait for all answers.

    Args:
        target: where to.
        requests: without end.
        loop: when they leave, and how many.
        read: what an answer says, for servers that say it.
    """
    async with open_session(TIMEOUT_S) as session:
        client, cpu_s = Client(session, URL(target.url), loop, read), time.process_time()
        await loops.run(client, requests)
        elapsed_s = client.now()
    cpu_s = time.process_time() - cpu_s
    seconds = elapsed_s if loop.rate is None else loop.duration_s
    alone = overheads_ms(client.outcomes) if loop.concurrency == 1 else ()
    return Sample(client.outcomes, seconds, cpu_s, elapsed_s, alone)


def overheads_ms(outcomes: Sequence[Outcome]) -> list[float]:
    """Latencies less the decoding and computing that the answers name, where they name them."""
    return [
        outcome.latency_ms - outcome.answer.decode_ms - outcome.answer.inference_ms
        for outcome in outcomes
        if outcome.kind == OK and outcome.answer and outcome.answer.decode_ms is not None
    ]


async def answers(target: Target, query: dict[str, str]) -> list[dict[str, Any]]:
    """The best label of each picture, asked one by one.

    Raises:
        ValueError: a request failed, or the answer is not one of ours.
    """
    found = []
    async with open_session(TIMEOUT_S) as session:
        client = Client(session, URL(target.url), Loop(concurrency=1))
        for body in target.bodies:
            kind, said = await client.exchange(request_for(body, "check", query))
            if kind != OK:
                raise ValueError(f"{kind}: {said[:200].decode(errors='replace')}")
            answer = json.loads(said)
            best = (answer[0] if isinstance(answer, list) else answer)["predictions"][0]
            found.append({"index": best["index"], "probability": best["probability"]})
    return found
