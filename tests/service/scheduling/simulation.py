"""A seeded simulation of the scheduler on a virtual clock replays arrival traces.

The real Batcher, Forecast, Brownout and choose; only the device is a formula: a batch of n images
takes `a * n + b` seconds, times the share of the tier, times some noise.
"""

import asyncio
import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from service.errors import OverloadedError
from service.pipeline import choice, promises
from service.pipeline.admission import Admission, Limits, Place
from service.pipeline.brownout import Brownout
from service.pipeline.promises import Promises
from service.pipeline.request import Choice, Expected, Wanted
from service.scheduling.batcher import Batcher
from service.scheduling.forecast import Forecast
from service.scheduling.jobs import Answer, Terms
from service.scheduling.policy import BatchPolicy
from service.scheduling.scheduler import LONGEST_SLEEP_S, TURNAROUND_S, Scheduler
from service.tiers import TIER_MACS, TIERS, Reduction, ReductionRange, Tier
from tests.service.scheduling.virtual_time import now, run

MAX_BATCH_SIZE = 16
SLOPE_S, INTERCEPT_S = 0.010, 0.005
NOISE = 0.1
"""standard deviation of a batch's seconds, as a share"""
CAPACITY = MAX_BATCH_SIZE / (SLOPE_S * MAX_BATCH_SIZE + INTERCEPT_S)
"""exact images per second"""
SOON_S = 1e-6
"""some turns of the loop"""
LIMITS = ReductionRange(("rapid",), 196, 12, 98)
PRESSURE_DEADLINE_S = 1.0

End = Literal["answered", "late", "refused", "cancelled"]


class Lane(NamedTuple):
    """A tier of the one model."""

    tier: Tier
    macs: int
    model: str = "vit"


def lane_of(tier: Tier) -> Lane:
    return Lane(tier, round(1e6 * TIER_MACS[tier]))


@dataclass
class Request:
    """What a client sends, and what becomes of it."""

    at: float
    """seconds after the start"""
    wanted: Wanted
    deadline_s: float = PRESSURE_DEADLINE_S
    leaves_after_s: float | None = None
    num_images: int = 1
    owner: str | None = None
    choice: Choice | None = None
    retry_after_s: int | None = None
    started: list[float] = field(default_factory=list)
    ends: list[tuple[End, float]] = field(default_factory=list)

    @property
    def end(self) -> End:
        return self.ends[0][0]

    @property
    def seconds(self) -> float:
        """From arrival to end."""
        return self.ends[0][1] - self.at


class Batch(NamedTuple):
    """What the device did."""

    started: float
    ended: float
    lane: Lane
    numbers: list[int]
    num_threads: int


class Setup(NamedTuple):
    """How a trace is served."""

    refuses: bool = True
    """who would come too late, as `_plan` in classify.py does"""
    browns_out: bool = False
    max_wait_s: float = 0.0
    num_streams: int = 1
    loss: float = 1.0
    """how many times longer one image takes on all threads than an even split says"""
    max_images: int = 10**6
    """inside"""
    slowness: Callable[[float], float] = lambda _: 1.0
    """factor of the device's seconds, over time"""


ORDINARY = Setup()


class Simulation:
    """One trace served; times are in seconds after the start."""

    def __init__(self, requests: Sequence[Request], setup: Setup, seed: int = 0) -> None:
        """Build the scheduler; to be called on the virtual loop."""
        self.requests = requests
        self.batches: list[Batch] = []
        self.levels: list[tuple[float, int]] = [(0.0, 0)]
        self._setup = setup
        self.num_streams = setup.num_streams
        self._noise = random.Random(seed)
        self._zero = now()
        self.forecast = Forecast(max_size=MAX_BATCH_SIZE, clock=now)
        for tier in TIERS:
            seconds = {n: device_s(lane_of(tier), n) for n in (1, MAX_BATCH_SIZE)}
            self.forecast.seed(lane_of(tier), seconds)
        policy = BatchPolicy(
            MAX_BATCH_SIZE,
            setup.max_wait_s,
            num_streams=setup.num_streams,
            num_threads=setup.num_streams,
        )
        self.batcher: Batcher[Lane] = Batcher(
            self._forward,
            Scheduler(
                policy,
                self.forecast.seconds,
                observe=self.forecast.observe,
                caution=self.forecast.caution,
            ),
            clock=now,
        )
        for tier in TIERS:
            self.batcher.measured(lane_of(tier), setup.num_streams, setup.loss)
        owners = {request.owner for request in requests}
        self.admission = Admission(
            Limits(setup.max_images, max_bytes=1, is_shared=len(owners) > 1),
            all_done_s=lambda: self.batcher.backlog_s,
            coming=self.batcher.admitted,
            clock=now,
        )
        self._promises = Promises(clock=now)
        self._brownout = Brownout(self._pressure, clock=now)

    @property
    def now(self) -> float:
        return now() - self._zero

    async def serve(self) -> "Simulation":
        """Replay the trace."""
        loop = asyncio.create_task(self.batcher.run())
        await asyncio.gather(*(self._client(number) for number in range(len(self.requests))))
        loop.cancel()
        with suppress(asyncio.CancelledError):
            await loop
        self.last_backlog_s = self.batcher.backlog_s
        return self

    def ended(self, *ends: End) -> list[Request]:
        return [request for request in self.requests if request.end in ends]

    async def _client(self, number: int) -> None:
        request = self.requests[number]
        await asyncio.sleep(request.at)
        task = asyncio.create_task(self._classify(number))
        if request.leaves_after_s is not None:
            asyncio.get_running_loop().call_later(request.leaves_after_s, task.cancel)
        await asyncio.wait([task])
        end: End = "cancelled" if task.cancelled() else task.result()
        request.ends.append((end, self.now))

    async def _classify(self, number: int) -> End:
        """The walk of `classify.py`, without pictures."""
        request = self.requests[number]
        arrival = now()
        deadline = arrival + request.deadline_s
        terms = promises.terms(request.wanted, arrival, deadline, request.owner)
        forecasts: dict[Reduction, Expected] = {}
        usual = self._promises.usual_share(request.wanted, request.owner)

        def expected(reduction: Reduction) -> Expected:
            lane = lane_of(reduction.tier)
            wait = self.batcher.expected_wait(lane, request.num_images, terms.due, request.owner)
            queue_s = max(0.0, wait.seconds - wait.alone_s)
            forecasts[reduction] = Expected(wait.seconds, queue_s, wait.rest_s, wait.alone_s, usual)
            return forecasts[reduction]

        request.choice = choice.choose(
            LIMITS,
            request.wanted,
            default_tier="exact",
            brownout_level=self._level,
            expected=expected,
        )
        forecast = forecasts[request.choice.reduction]
        self._promises.chosen(request.wanted, request.owner, forecast)
        if self._setup.refuses and self.batcher.is_busy:
            over_s = self._promises.over_s(forecast, terms, arrival)
            if over_s > 0:
                error = self.admission.refusal("late", over_s, forecast.work_s)
                request.retry_after_s = error.retry_after_s
                return "refused"
        try:
            with self.admission.enter(num_images=request.num_images, owner=request.owner) as place:
                return await self._compute(number, terms, place)
        except OverloadedError as error:
            request.retry_after_s = error.retry_after_s
            return "refused"

    async def _compute(self, number: int, terms: Terms, place: Place) -> End:
        request = self.requests[number]
        assert request.choice is not None
        lane = lane_of(request.choice.reduction.tier)

        def submit() -> Awaitable[Answer]:
            place.decoded()
            return self.batcher.submit(
                lane,
                torch.tensor(number),
                terms,
                on_start=lambda: request.started.append(self.now),
            )

        try:
            async with asyncio.timeout_at(terms.deadline):
                answers = (
                    [await submit()]
                    if request.num_images == 1
                    else await together(submit, request.num_images)
                )
        except TimeoutError:
            return "late"
        assert all(answer.result.item() == number for answer in answers)
        return "answered"

    async def _forward(
        self, lane: Lane, images: Sequence[Tensor], num_threads: int
    ) -> Sequence[Tensor]:
        started = self.now
        whole = self._setup.num_streams / num_threads
        noise = max(0.5, self._noise.gauss(1, NOISE))
        numbers = [int(image) for image in images]
        try:
            seconds = device_s(lane, len(images)) * noise * self._setup.slowness(started)
            if num_threads > 1:
                further = (num_threads - 1) / (self._setup.num_streams - 1)
                seconds *= 1 + (self._setup.loss - 1) * further
            await asyncio.sleep(seconds * whole)
        finally:
            self.batches.append(Batch(started, self.now, lane, numbers, num_threads))
        return images

    def _pressure(self) -> float:
        return min(1.0, self.batcher.backlog_s / PRESSURE_DEADLINE_S)

    def _level(self) -> int:
        if not self._setup.browns_out:
            return 0
        level = self._brownout.level()
        if level != self.levels[-1][1]:
            self.levels.append((self.now, level))
        return level


async def together(submit: Callable[[], Awaitable[Answer]], num_images: int) -> list[Answer]:
    return await asyncio.gather(*(submit() for _ in range(num_images)))


def device_s(lane: Lane, num_images: int) -> float:
    return TIER_MACS[lane.tier] * (SLOPE_S * num_images + INTERCEPT_S)


def simulate(requests: Iterable[Request], setup: Setup = ORDINARY, seed: int = 0) -> Simulation:
    """Serve a trace and check what holds for every one."""

    async def main() -> Simulation:
        trace = sorted(requests, key=lambda request: request.at)
        return await Simulation(trace, setup, seed).serve()

    simulation = run(main())
    check_answers(simulation)
    check_batches(simulation)
    if setup.max_wait_s == 0:
        check_never_idle(simulation)
    return simulation


def check_answers(simulation: Simulation) -> None:
    """Every request ends exactly once, in time or at its deadline."""
    computed = Counter(number for batch in simulation.batches for number in batch.numbers)
    assert simulation.batcher.num_waiting == 0
    assert simulation.last_backlog_s == 0.0
    for number, request in enumerate(simulation.requests):
        assert len(request.ends) == 1
        assert request.seconds <= request.deadline_s + SOON_S
        assert len(request.started) == computed[number] <= request.num_images
        if request.end == "answered":
            assert len(request.started) == request.num_images
        if request.end == "refused":
            assert not request.started


def threads_taken(simulation: Simulation) -> list[tuple[float, int]]:
    """When the number of threads that compute changed, and to what."""
    changes = [
        change
        for batch in simulation.batches
        for change in ((batch.started, batch.num_threads), (batch.ended, -batch.num_threads))
    ]
    changes.sort()  # at the same time, batches end before others start
    return list(zip([at for at, _ in changes], accumulate(by for _, by in changes), strict=True))


def check_batches(simulation: Simulation) -> None:
    """No batch is too large or mixed, starts before there is room, or with who has gone."""
    assert all(0 <= taken <= simulation.num_streams for _, taken in threads_taken(simulation))
    for batch in simulation.batches:
        assert 1 <= len(batch.numbers) <= MAX_BATCH_SIZE
        for request in (simulation.requests[number] for number in batch.numbers):
            assert lane_of(request.choice.reduction.tier) == batch.lane
            assert batch.started < request.at + request.deadline_s + SOON_S
            assert request.ends[0][1] > batch.started


def check_never_idle(simulation: Simulation) -> None:
    """While a part of the device had nothing to do, nobody waited.

    Except for a moment after answers, while another part computes: clients may come back.
    """
    answers = sorted(batch.ended for batch in simulation.batches)
    gaps = [
        (at, until, taken)
        for (at, taken), (until, _) in pairwise(threads_taken(simulation))
        if taken < simulation.num_streams and until - at > SOON_S
    ]
    ends = [end for _, end, _ in gaps]
    for request in simulation.requests:
        waited_until = request.started[0] if request.started else request.ends[0][1]
        for at, until, taken in gaps[bisect_right(ends, request.at) :]:
            if at >= waited_until:
                break
            since = max(at, request.at)
            if taken > 0 and (num_answers := bisect_right(answers, at)):
                since = max(since, answers[num_answers - 1] + TURNAROUND_S + LONGEST_SLEEP_S)
            assert min(until, waited_until) - since < SOON_S


def poisson(
    rate: float, seconds: float, *, seed: int = 0, deadline_s: float = 1.0, **wanted: object
) -> list[Request]:
    """Requests that come at random, so many a second."""
    chance, at, requests = random.Random(seed), 0.0, []
    while (at := at + chance.expovariate(rate)) < seconds:
        requests.append(Request(at, Wanted(**wanted), deadline_s))
    return requests


def share(some: Sequence[object], all_of_them: Sequence[object]) -> float:
    return len(some) / max(1, len(all_of_them))
