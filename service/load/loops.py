"""Closed and open loops: when the client sends its next request."""

import asyncio
import itertools
from collections.abc import Iterator
from random import Random

from service.load.client import Client
from service.load.request import Request


async def run(client: Client, requests: Iterator[Request]) -> None:
    """Send requests until the client's loop is over, and wait for all answers.

    Args:
        client: sends them.
        requests: an endless iterator.
    """
    if client.loop.rate is None:
        await closed_loop(client, requests, client.loop.concurrency or 0)
    else:
        await open_loop(client, requests, client.loop.rate)


async def closed_loop(client: Client, requests: Iterator[Request], concurrency: int) -> None:
    """Each of the clients sends its next request when the one before is answered."""

    async def one_client() -> None:
        while client.takes(due_s := client.now()):
            await client.send(next(requests), due_s)

    async with asyncio.TaskGroup() as clients:
        for _ in range(concurrency):
            clients.create_task(one_client())


async def open_loop(client: Client, requests: Iterator[Request], rate: float) -> None:
    """Each request is sent when it is due, even if earlier ones are not answered."""
    async with asyncio.TaskGroup() as sending:
        for due_s in arrivals(rate, Random(client.loop.seed)):
            if not client.takes(due_s):
                return
            await asyncio.sleep(max(0.0, due_s - client.now()))
            sending.create_task(client.send(next(requests), due_s))


def arrivals(rate: float, random: Random) -> Iterator[float]:
    """Endless arrival times of a Poisson process: independent gaps, on average 1 / rate seconds."""
    return itertools.accumulate(random.expovariate(rate) for _ in itertools.count())
