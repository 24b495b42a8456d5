"""Several API keys on a virtual clock: each gets its share of the device, and of the room."""

from collections import Counter
from collections.abc import Mapping

import pytest

from service.scheduling.jobs import Job
from service.scheduling.policy import BatchPolicy
from service.scheduling.running import Batch
from service.scheduling.scheduler import Scheduler
from service.scheduling.shares import LATELY_S
from tests.service.scheduling.simulation import (
    CAPACITY,
    Request,
    Setup,
    Simulation,
    device_s,
    poisson,
    share,
    simulate,
)

IMAGE_S = 0.1
SECONDS = 6.0
GREEDY = {"max_latency_ms": 0.001, "min_tier": "exact"}
"""due at once, and as slow as can be"""
FULL = Setup(refuses=False, max_images=96)
"""who finds no room is refused, nobody else"""


def of(
    owner: str, load: float, *, since: float = 0.0, seed: int = 0, **wanted: object
) -> list[Request]:
    """Requests of one key that come at random, at a multiple of the capacity."""
    trace = poisson(load * CAPACITY, SECONDS - since, seed=seed, deadline_s=60.0, **wanted)
    for request in trace:
        request.owner = owner
        request.at += since
    return trace


def device_seconds(served: Simulation, since: float, until: float) -> Mapping[str | None, float]:
    """What each key had of the device."""
    seconds: Counter[str | None] = Counter()
    for batch in served.batches:
        if since <= batch.started < until:
            for number in batch.numbers:
                image_s = device_s(batch.lane, len(batch.numbers)) / len(batch.numbers)
                seconds[served.requests[number].owner] += image_s
    return seconds


@pytest.mark.parametrize("num_streams", [1, 2])
@pytest.mark.parametrize("wanted", [GREEDY, {"tier": "exact", "priority": 1}])
def test_a_flood_of_one_key_leaves_another_its_answers(
    wanted: dict[str, object], num_streams: int
) -> None:
    flood, modest = of("flood", 3, **wanted), of("modest", 0.3, seed=1, tier="exact")
    served = simulate(flood + modest, FULL._replace(num_streams=num_streams))
    waits = sorted(request.seconds for request in served.requests if request.owner == "modest")
    full_batch_s = device_s(served.batches[0].lane, 16)
    assert waits[len(waits) // 2] < 2 * num_streams * full_batch_s
    assert waits[-1] < 5 * num_streams * full_batch_s


@pytest.mark.parametrize("num_streams", [1, 2])
def test_an_owner_whose_images_come_one_by_one_waits_for_no_full_batches(num_streams: int) -> None:
    flood, modest = of("flood", 3, **GREEDY), of("modest", 0.1, seed=1, tier="exact")
    served = simulate(flood + modest, FULL._replace(num_streams=num_streams))
    waits = sorted(request.seconds for request in served.requests if request.owner == "modest")
    full_batch_s = num_streams * device_s(served.batches[0].lane, 16)
    assert waits[len(waits) // 2] < 0.4 * full_batch_s
    assert waits[-1] < 0.7 * full_batch_s


def test_an_owner_alone_has_full_batches_again_after_a_while() -> None:
    scheduler = scheduler_of(*[("l", "a", 1.0)] * 4, ("l", "b", 1.0))
    lanes = scheduler._lanes
    assert lanes.shares.is_shared(now=1.0)
    assert not lanes.shares.is_shared(now=LATELY_S + 1.0)
    assert lanes.most_together("l", 4, now=LATELY_S + 1.0) == 4


@pytest.mark.parametrize("tiers", [("exact", "exact"), ("exact", "extreme"), ("extreme", "exact")])
def test_keys_that_want_more_than_all_share_the_time_alike(tiers: tuple[str, str]) -> None:
    first, second = of("a", 3, tier=tiers[0], priority=1), of("b", 3, seed=1, tier=tiers[1])
    served = simulate(first + second, FULL)
    had = device_seconds(served, 1.0, SECONDS)
    assert 0.4 < had["b"] / (had["a"] + had["b"]) < 0.6


def test_three_keys_get_a_third_each_and_what_one_does_not_want_goes_to_the_others() -> None:
    small = of("small", 0.1, seed=2, tier="exact")
    trace = of("a", 3, tier="exact") + of("b", 5, seed=1, tier="fast") + small
    had = device_seconds(simulate(trace, FULL), 1.0, SECONDS)
    assert had["small"] == pytest.approx(0.1 * (SECONDS - 1), rel=0.3)
    assert 0.8 < had["a"] / had["b"] < 1.25


def test_a_rest_gives_no_credit() -> None:
    served = simulate(of("a", 3, tier="exact") + of("b", 4, since=3.0, seed=1), FULL)
    had = device_seconds(served, 3.5, SECONDS)
    assert 0.4 < had["b"] / (had["a"] + had["b"]) < 0.6


def test_the_forecast_knows_whose_turn_it_is() -> None:
    flood, modest = of("flood", 3, **GREEDY), of("modest", 0.3, seed=1, tier="exact")
    served = simulate(flood + modest, FULL)
    asked = [request for request in served.requests if request.owner == "modest"]
    honest = [
        request
        for request in asked
        if request.choice is not None
        and request.seconds <= 1.5 * request.choice.expected_s
        and request.choice.expected_s <= 4 * request.seconds
    ]
    assert share(honest, asked) > 0.8


def test_a_flood_of_one_key_gets_the_other_no_refusal() -> None:
    flood = of("flood", 3, tier="exact")
    modest = of("modest", 0.3, seed=1, tier="exact")
    served = simulate(flood + modest, Setup(max_images=64))
    asked = [request for request in served.requests if request.owner == "modest"]
    assert share([request for request in asked if request.end == "answered"], asked) == 1
    assert len(served.ended("refused")) > len(flood) / 2


class Promise:
    """Stands for the future of a job that waits."""

    def done(self) -> bool:
        return False


def scheduler_of(*waiting: tuple[str, str, float]) -> Scheduler[str]:
    """Jobs by lane, owner and due time."""
    scheduler: Scheduler[str] = Scheduler(BatchPolicy(4), lambda _, n: (n + 9) * IMAGE_S)
    promise: object = Promise()
    for number, (lane, owner, due) in enumerate(waiting):
        job = Job(due, number, 100.0, number, 0.0, lambda: None, promise, owner=owner)  # type: ignore[arg-type]
        scheduler.put(lane, job)
    return scheduler


def batches(scheduler: Scheduler[str]) -> list[list[int]]:
    """All batches in their order, as numbers of jobs."""
    found = []
    while isinstance(batch := scheduler.next(0.0, free_since=0.0), Batch):
        found.append([job.number for job in batch.jobs])
        scheduler.ended(batch, 0.0)
    return found


@pytest.mark.parametrize(
    ("waiting", "expected"),
    [
        # One lane: a batch mixes keys, one image of each in turn, each key's most urgent one first.
        (
            [
                ("l", "a", 1),
                ("l", "a", 2),
                ("l", "a", 3),
                ("l", "a", 4),
                ("l", "b", 9),
                ("l", "b", 8),
            ],
            [[0, 5, 1, 4], [2, 3]],
        ),
        # Two lanes: as much of one key as of the other.
        (
            [("l", "a", 1)] * 8 + [("m", "b", 9)] * 4,
            [[0, 1, 2, 3], [8, 9, 10, 11], [4, 5, 6, 7]],
        ),
        # A key alone: by due time only.
        ([("l", "a", 3), ("m", "a", 1), ("l", "a", 2)], [[1], [2, 0]]),
    ],
)
def test_whose_images_go_next(
    waiting: list[tuple[str, str, float]], expected: list[list[int]]
) -> None:
    assert batches(scheduler_of(*waiting)) == expected
