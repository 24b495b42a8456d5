"""The client of `benchmarks.serving`: closed and open loops on any server, from one process."""

import asyncio
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any, NamedTuple

import aiohttp

from benchmarks.load import KEEP_ALIVE_S, arrivals
from benchmarks.load_report import KINDS, OK, Outcome
from benchmarks.peers.servers import Target

TIMEOUT_S = 60.0
"""for one answer; overload makes a server that refuses nothing slow, not endless"""


class Ask(NamedTuple):
    """One request: the number of the picture, the entry that it counts for, and its parameters."""

    picture: int
    entry: str
    query: dict[str, str]


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


def asks(queries: dict[str, dict[str, str]], num_pictures: int, seed: int) -> Iterator[Ask]:
    """Requests without end: pictures in turn, entries equally often in a shuffled order."""
    random = Random(seed)
    numbers = itertools.count()
    while True:
        deck = list(queries)
        random.shuffle(deck)
        for entry in deck:
            yield Ask(next(numbers) % num_pictures, entry, queries[entry])


class Client:
    """Sends requests to one server and keeps what became of them."""

    def __init__(self, session: aiohttp.ClientSession, target: Target) -> None:
        """Time starts now."""
        self.outcomes: list[Outcome] = []
        self.bodies: list[bytes] = []
        """of the answers"""
        self._session = session
        self._target = target
        self._started_s = time.monotonic()

    def now(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started_s

    async def send(self, ask: Ask, due_s: float) -> None:
        """Send one request and keep its outcome; latency counts from `due_s`."""
        kind, body = await self.exchange(ask)
        self.outcomes.append(Outcome(ask.entry, due_s, self.now(), kind))
        self.bodies.append(body)

    async def exchange(self, ask: Ask) -> tuple[str, bytes]:
        """The kind of outcome, and the body of the answer."""
        body = self._target.bodies[ask.picture]
        try:
            async with self._session.post(
                self._target.url, params=ask.query, data=body.content, headers=body.headers
            ) as response:
                kind = KINDS.get(response.status, f"status {response.status}")
                return kind, await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            return f"error {type(exc).__name__}", b""


def open_session() -> aiohttp.ClientSession:
    """Connections without limit, kept alive."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    return aiohttp.ClientSession(connector=connector, timeout=timeout)


async def closed_loop(target: Target, requests: Sequence[Ask], concurrency: int) -> Sample:
    """Each client sends its next request when the former is answered, until all are sent."""
    waiting = iter(requests)
    async with open_session() as session:
        client, cpu_s = Client(session, target), time.process_time()

        async def one_client() -> None:
            for ask in waiting:
                await client.send(ask, client.now())

        async with asyncio.TaskGroup() as clients:
            for _ in range(concurrency):
                clients.create_task(one_client())
        seconds = client.now()
    cpu_s = time.process_time() - cpu_s
    alone = overheads_ms(client) if concurrency == 1 else ()
    return Sample(client.outcomes, seconds, cpu_s, seconds, alone)


async def open_loop(
    target: Target, requests: Iterator[Ask], *, rate: float, duration_s: float, seed: int
) -> Sample:
    """Requests leave when they are due, Poisson at `rate` per second, and all are waited for."""
    async with open_session() as session:
        client, cpu_s = Client(session, target), time.process_time()
        async with asyncio.TaskGroup() as sending:
            for due_s in itertools.takewhile(
                lambda due_s: due_s < duration_s, arrivals(rate, Random(seed))
            ):
                await asyncio.sleep(max(0.0, due_s - client.now()))
                sending.create_task(client.send(next(requests), due_s))
        elapsed_s = client.now()
    return Sample(client.outcomes, duration_s, time.process_time() - cpu_s, elapsed_s)


def overheads_ms(client: Client) -> list[float]:
    """Latencies less the decoding and computing that the answers name, where they name them."""
    found = []
    for outcome, body in zip(client.outcomes, client.bodies, strict=True):
        if outcome.kind == OK and isinstance(answer := json.loads(body), dict):
            timing = answer.get("timing_ms", {})
            if {"decode", "inference"} <= timing.keys():
                found.append(outcome.latency_ms - timing["decode"] - timing["inference"])
    return found


async def answers(target: Target, query: dict[str, str]) -> list[dict[str, Any]]:
    """The best label of each picture, asked one by one.

    Raises:
        ValueError: a request failed, or the answer is not one of ours.
    """
    found = []
    async with open_session() as session:
        client = Client(session, target)
        for picture in range(len(target.bodies)):
            kind, body = await client.exchange(Ask(picture, "check", query))
            if kind != OK:
                raise ValueError(f"{kind}: {body[:200].decode(errors='replace')}")
            said = json.loads(body)
            best = (said[0] if isinstance(said, list) else said)["predictions"][0]
            found.append({"index": best["index"], "probability": best["probability"]})
    return found
