"""Whether the service keeps its promises under load: latency budgets, and twice what it can answer.

    python -m benchmarks.promises
    python -m benchmarks.promises --url http://127.0.0.1:8000 --seconds 15

An open loop sends example photos at random times (Poisson), at a share of what a closed loop of 16
clients was answered at tier `extreme` just before. First table: requests with `max_latency_ms`, how
many of the answers came in time, with and without `late=refuse`. Second table: twice the capacity,
one request in ten with 16 images and the others with one, what became of them by size. Times are
the client's, and the client shares the machine with the service: compare the shares, on an
otherwise idle machine.
"""

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import NamedTuple

import aiohttp

from benchmarks.measure import environment, running, tables
from service.load.client import open_session
from service.load.loops import arrivals
from service.load.request import EXAMPLES, load_images

NUM_CLIENTS = 16
MEASURE_S = 5.0
LARGE = 16
"""images of a large request"""
SHARE_LARGE = 0.1
TIMEOUT_S = 60.0
BUDGET_COLUMNS = ("load", "late", "offered", "answered", "in_time", "refused", "p50_ms", "tiers")
OVERLOAD_COLUMNS = (
    *("images", "offered", "refused", "late_504", "other", "p50_ms", "retry_after_s"),
    "good_of_capacity",
)


class Told(NamedTuple):
    """What a client was told."""

    num_images: int
    status: int
    ms: float
    retry_after: str
    tier: str


Send = Callable[[int, dict[str, str]], "asyncio.Task[Told]"]
"""(number of images, query) -> the answer to come"""


def main() -> int:
    """Print the tables, and write JSON where it is wanted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", help="a running service; without it, one is started")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement")
    parser.add_argument("--budget-ms", type=float, default=200.0)
    parser.add_argument("--deadline-ms", type=float, default=1000.0, help="at twice the capacity")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with service_at(arguments.url) as url:
        report = asyncio.run(measure(url, arguments))
    print(tables.of(report["budgets"], BUDGET_COLUMNS))
    print(tables.of(report["overload"], OVERLOAD_COLUMNS))
    environment.write(arguments.out, report)
    return 0


@contextmanager
def service_at(url: str | None) -> Iterator[str]:
    """The URL of a service that runs, or of one that is started for as long as this lasts."""
    if url is not None:
        yield url
        return
    with running.running() as started:
        yield started.url


async def measure(url: str, arguments: argparse.Namespace) -> dict[str, list[dict[str, object]]]:
    """The rows of both tables."""
    photo = load_images([EXAMPLES])[0]
    async with open_session(TIMEOUT_S) as session:

        def send(num_images: int, query: dict[str, str]) -> "asyncio.Task[Told]":
            form = aiohttp.FormData()
            for _ in range(num_images):
                form.add_field("image", photo.content, content_type=photo.media_type)
            alone = {"data": photo.content, "headers": {"content-type": photo.media_type}}
            given = alone if num_images == 1 else {"data": form}
            return asyncio.create_task(
                post(session, f"{url}/v1/classify", num_images, params=query, **given)
            )

        budgets = []
        for load in (0.5, 0.8, 1.0):
            for late in ("answer", "refuse"):
                capacity = await closed_loop(send)
                query = {"max_latency_ms": f"{arguments.budget_ms:g}", "late": late}
                told = await open_loop(send, load * capacity, arguments.seconds, query)
                budgets.append(budget_row(load, late, told, arguments.budget_ms))
                print(tables.of(budgets[-1:], BUDGET_COLUMNS), file=sys.stderr)
        capacity = await closed_loop(send)
        mean_images = 1 + SHARE_LARGE * (LARGE - 1)
        query = {"tier": "extreme", "deadline_ms": f"{arguments.deadline_ms:g}"}
        rate = 2 * capacity / mean_images
        told = await open_loop(send, rate, arguments.seconds, query, share_large=SHARE_LARGE)
    overload = overload_rows(told, capacity, arguments.seconds)
    return {"budgets": budgets, "overload": overload}


async def post(session: aiohttp.ClientSession, url: str, num_images: int, **given: object) -> Told:
    """Send a request; its time counts from now."""
    started = time.monotonic()
    async with session.post(url, **given) as response:  # type: ignore[arg-type]
        document = await response.json(content_type=None)
        ms = 1000 * (time.monotonic() - started)
        status = response.status
        if "results" in document:
            status = max(item.get("status", status) for item in document["results"])
        return Told(
            num_images,
            status,
            ms,
            response.headers.get("Retry-After", ""),
            document.get("tier") or "",
        )


async def closed_loop(send: Send) -> float:
    """Images answered a second when every client sends its next request after its answer."""
    end = time.monotonic() + MEASURE_S
    num_answered = 0

    async def client() -> None:
        nonlocal num_answered
        while time.monotonic() < end:
            told = await send(1, {"tier": "extreme"})
            num_answered += told.status == 200

    await asyncio.gather(*(client() for _ in range(NUM_CLIENTS)))
    return num_answered / MEASURE_S


async def open_loop(
    send: Send, rate: float, seconds: float, query: dict[str, str], *, share_large: float = 0.0
) -> list[Told]:
    """Send at random times, so many requests a second, whether there are answers or not."""
    chance = Random(0)
    tasks = []
    started = time.monotonic()
    for due_s in arrivals(rate, chance):
        if due_s > seconds:
            break
        await asyncio.sleep(max(0.0, started + due_s - time.monotonic()))
        tasks.append(send(LARGE if chance.random() < share_large else 1, query))
    return list(await asyncio.gather(*tasks))


def budget_row(load: float, late: str, told: Sequence[Told], budget_ms: float) -> dict[str, object]:
    """One row of the first table."""
    answered = [one for one in told if one.status == 200]
    tiers = Counter(one.tier for one in answered)
    return {
        "load": load,
        "late": late,
        "offered": len(told),
        "answered": len(answered),
        "in_time": share(sum(one.ms <= budget_ms for one in answered), len(answered)),
        "refused": share(sum(one.status == 429 for one in told), len(told)),
        "p50_ms": middle([one.ms for one in answered]),
        "tiers": " ".join(f"{tier}:{num}" for tier, num in tiers.most_common()),
    }


def overload_rows(told: Sequence[Told], capacity: float, seconds: float) -> list[dict[str, object]]:
    """The rows of the second table: by size, and all together."""
    groups = {
        "1": [one for one in told if one.num_images == 1],
        str(LARGE): [one for one in told if one.num_images == LARGE],
        "all": list(told),
    }
    return [overload_row(name, group, capacity * seconds) for name, group in groups.items()]


def overload_row(name: str, told: Sequence[Told], num_possible: float) -> dict[str, object]:
    """One row of the second table; `late_504` is a share of those that were let in."""
    statuses = Counter(one.status for one in told)
    answered = [one for one in told if one.status == 200]
    retry = Counter(one.retry_after for one in told if one.status == 429)
    return {
        "images": name,
        "offered": len(told),
        "refused": share(statuses[429], len(told)),
        "late_504": share(statuses[504], len(told) - statuses[429]),
        "other": len(told) - sum(statuses[status] for status in (200, 429, 504)),
        "p50_ms": middle([one.ms for one in answered]),
        "retry_after_s": " ".join(f"{value}:{num}" for value, num in sorted(retry.items())),
        "good_of_capacity": sum(one.num_images for one in answered) / num_possible,
    }


def share(part: int, whole: int) -> float | None:
    """None of nothing."""
    return part / whole if whole else None


def middle(values: list[float]) -> float | None:
    """The median; None of nothing."""
    return sorted(values)[len(values) // 2] if values else None


if __name__ == "__main__":
    sys.exit(main())
