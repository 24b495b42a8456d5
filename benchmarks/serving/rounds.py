"""The rounds of `benchmarks.serving`: start a server, check it, load it, end it; then the next."""

import asyncio
import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from tqdm import tqdm

from benchmarks.serving import loads
from benchmarks.serving.loads import Sample
from benchmarks.serving.peers import servers
from benchmarks.serving.peers.servers import Target
from benchmarks.serving.peers.venvs import PeerUnavailableError
from benchmarks.serving.plan import (
    FULL_LOAD,
    MIXED,
    SERVICES,
    WARM_UP,
    Load,
    in_turn,
    precision_of,
    queries,
    steps,
)
from service.load import bounds, figures
from service.load.figures import Window
from service.load.outcomes import read_answer
from service.load.plan import Loop

SAME_PROBABILITY = 1e-3
"""relative; batches of another size give other last digits"""
MOST_OTHER_LABELS = 0.5
"""with random weights, the best labels are nearly ties"""
SLOWEST_RATE = 0.1


class Server(NamedTuple):
    """A server that takes its turn in every round."""

    name: str
    start: Callable[[], AbstractContextManager[Target]]


class Record(NamedTuple):
    """One load on one server in one round."""

    round_number: int
    server: str
    entry: str
    load: Load
    rate: float | None
    """arrivals per second of an open loop"""
    sample: Sample
    others_cpu_share: float
    """of one core, that neither the client nor the server took"""

    @property
    def window(self) -> Window:
        """All of it: warming up was something else."""
        return Window(0.0, self.sample.seconds)

    @property
    def per_s(self) -> float:
        """Answers per second."""
        found: float = figures.figures(self.sample.outcomes, self.window, math.inf)["ok_per_s"]
        return found


class Run(NamedTuple):
    """What is known so far."""

    records: list[Record]
    limits: list[dict[str, Any]]
    """one a round"""
    memory: dict[str, list[dict[str, float]]]
    unavailable: dict[str, str]


class Settings(NamedTuple):
    """What holds for all rounds."""

    model: str
    rounds: int
    quick: bool
    open_s: float
    deadline_ms: float


def measure(all_servers: Sequence[Server], settings: Settings, run: Run) -> None:
    """All rounds, into `run`; a peer that fails is noted and left out from then on."""
    visits = [steps(server.name, quick=settings.quick) for server in all_servers]
    total = settings.rounds * sum(map(len, visits))
    with tqdm(total=total, unit="load", disable=None) as progress:
        for number in range(settings.rounds):
            progress.set_description(f"round {number + 1}: limits")
            run.limits.append(limits(settings))
            for server in in_turn(all_servers, number):
                if server.name in run.unavailable:
                    continue
                progress.set_description(f"round {number + 1}: {server.name}")
                try:
                    with server.start() as target:
                        check(server.name, target, run.limits[0]["answers"])
                        visit(Visit(server.name, target, number, settings), run, progress)
                except PeerUnavailableError as exc:
                    run.unavailable[server.name] = str(exc)
                    print(exc, file=sys.stderr)


def limits(settings: Settings) -> dict[str, Any]:
    """What `benchmarks.serving.limits` says now."""
    command = [sys.executable, "-m", "benchmarks.serving.limits", settings.model]
    repeats = "2" if settings.quick else "5"
    done = subprocess.run(
        [*command, "--repeats", repeats], stdout=subprocess.PIPE, check=True, cwd=servers.ROOT
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check(server: str, target: Target, expected: Sequence[dict[str, Any]]) -> None:
    """Every server does the same work: its best labels are those of the dense model.

    In float32, so are their probabilities. In another precision, few of the labels differ.

    Raises:
        PeerUnavailableError: they are not, or a request failed.
    """
    try:
        answers = asyncio.run(
            loads.answers(target, {"tier": "exact"} if server in SERVICES else {})
        )
    except (LookupError, TypeError, ValueError) as exc:
        raise PeerUnavailableError(f"{server} does not answer: {exc}") from exc
    is_strict = precision_of(server) == "float32"
    pairs = list(enumerate(zip(answers, expected, strict=True)))
    others = [pair for pair in pairs if not is_same(*pair[1], is_strict=is_strict)]
    if len(others) > (0.0 if is_strict else MOST_OTHER_LABELS * len(pairs)):
        number, (answer, wanted) = others[0]
        raise PeerUnavailableError(
            f"{server} answers picture {number} with {answer}, and the model itself {wanted}"
        )


def is_same(answer: dict[str, Any], wanted: dict[str, Any], *, is_strict: bool) -> bool:
    """Whether two best labels are the same, and their probabilities where it is strict."""
    close = math.isclose(answer["probability"], wanted["probability"], rel_tol=SAME_PROBABILITY)
    return bool(answer["index"] == wanted["index"] and (close or not is_strict))


class Visit(NamedTuple):
    """A server that runs, in one round."""

    server: str
    target: Target
    round_number: int
    settings: Settings


def visit(now: Visit, run: Run, progress: "tqdm[Any]") -> None:
    """Warm up, then all loads, then the memory."""
    everything = MIXED if now.server in SERVICES else "warm-up"
    asyncio.run(drive(now, everything, WARM_UP, None))
    capacity: dict[str, float] = {}
    for entry, load in steps(now.server, quick=now.settings.quick):
        rate = None
        if load.fraction is not None:
            rate = max(SLOWEST_RATE, load.fraction * capacity[entry])
        work_s = others_s(now.target.pid)
        sample = asyncio.run(drive(now, entry, load, rate))
        work_s = others_s(now.target.pid) - work_s - sample.client_cpu_s
        share = max(0.0, work_s / sample.elapsed_s)
        record = Record(now.round_number, now.server, entry, load, rate, sample, share)
        run.records.append(record)
        if load.name == FULL_LOAD:
            capacity[entry] = record.per_s
        progress.update()
    run.memory.setdefault(now.server, []).append(servers.memory_mib(now.target.pid))


def others_s(pid: int) -> float:
    """Seconds of work on this machine that were not the server's."""
    return servers.machine_cpu_s() - servers.cpu_s(pid)


async def drive(now: Visit, entry: str, load: Load, rate: float | None) -> Sample:
    """One load; the same seed for all servers, another in each round."""
    deadline_ms = None if rate is None else now.settings.deadline_ms
    kinds = queries(now.server, entry, deadline_ms)
    requests = loads.asks(kinds, now.target.bodies, seed=now.round_number)
    if rate is None:
        loop = Loop(concurrency=load.num_clients, max_requests=load.num_requests)
    else:
        loop = Loop(
            rate=rate,
            duration_s=now.settings.open_s,
            max_outstanding=int(bounds.OUTSTANDING.high),
            max_requests=int(bounds.REQUESTS.high),
            seed=now.round_number,
        )
    # Where the time of one client goes is asked for; of more, reading would only cost the client.
    read = read_answer if now.server in SERVICES and load.num_clients == 1 else None
    return await loads.run(now.target, requests, loop, read)
