"""Promises under load, on a virtual clock: kept budgets, equal chances for large requests."""

import random

import pytest

from service.pipeline.request import Late
from service.tiers import TIER_MACS, TIERS, Tier
from tests.service.scheduling.simulation import (
    CAPACITY,
    ORDINARY,
    Request,
    Setup,
    Simulation,
    poisson,
    share,
    simulate,
)

BUDGET_MS = 200.0
SECONDS = 6.0
LARGE = 16
"""images"""


def with_budget(
    load: float,
    late: Late,
    *,
    setup: Setup = ORDINARY,
    fastest: Tier = "extreme",
    budget_ms: float = BUDGET_MS,
) -> Simulation:
    """A load relative to what the fastest allowed tier can answer."""
    rate = load * CAPACITY / TIER_MACS[fastest]
    wanted = {"max_latency_ms": budget_ms, "late": late, "min_tier": fastest}
    return simulate(poisson(rate, SECONDS, seed=3, deadline_s=30.0, **wanted), setup)


def in_time(served: Simulation) -> list[Request]:
    """Those who were answered within their budgets."""
    return [
        r
        for r in served.ended("answered")
        if r.wanted.max_latency_ms and 1000 * r.seconds <= r.wanted.max_latency_ms
    ]


@pytest.mark.parametrize("num_streams", [1, 2])
@pytest.mark.parametrize(("load", "least"), [(0.5, 0.99), (0.8, 0.95), (1.0, 0.85)])
def test_budgets_are_kept_up_to_the_capacity_of_the_fastest_tier(
    load: float, least: float, num_streams: int
) -> None:
    served = with_budget(load, "answer", setup=Setup(num_streams=num_streams))
    assert served.ended("answered") == served.requests
    assert share(in_time(served), served.requests) >= least


@pytest.mark.parametrize(("load", "least"), [(0.5, 0.99), (0.8, 0.95), (0.9, 0.85)])
def test_budgets_of_a_few_images_are_kept_on_threads_that_wait_for_each_other(
    load: float, least: float
) -> None:
    """A stream takes a sixth of the budget for one image, and nearly twice of it for a batch."""
    setup = Setup(num_streams=2, loss=1.5)
    served = with_budget(load, "answer", setup=setup, budget_ms=70.0)
    assert share(in_time(served), served.requests) >= least


@pytest.mark.parametrize(("load", "most_refused"), [(0.5, 0.01), (0.8, 0.03), (1.0, 0.15)])
@pytest.mark.parametrize("fastest", ["extreme", "fast"])
def test_who_wants_no_late_answer_is_refused_or_in_time(
    load: float, most_refused: float, fastest: Tier
) -> None:
    served = with_budget(load, "refuse", fastest=fastest)
    assert in_time(served) == served.ended("answered")
    assert share(served.ended("refused", "late"), served.requests) <= most_refused


def test_beyond_the_capacity_the_device_stays_busy_for_those_in_time() -> None:
    served = with_budget(1.5, "refuse")
    possible = SECONDS * CAPACITY / TIER_MACS["extreme"]
    assert len(in_time(served)) >= 0.95 * possible
    assert share(served.ended("late"), served.requests) < 0.01
    assert all(1 <= (r.retry_after_s or 0) <= 60 for r in served.ended("refused"))


def test_the_late_ones_make_nobody_else_late() -> None:
    served = with_budget(1.3, "answer")
    possible = SECONDS * CAPACITY / TIER_MACS["extreme"]
    assert len(in_time(served)) >= 0.85 * possible


def test_a_budget_is_answered_as_accurately_as_the_load_allows() -> None:
    means = []
    for load in (0.1, 0.4, 0.8):
        answered = with_budget(load, "answer").ended("answered")
        places = [TIERS.index(r.choice.reduction.tier) for r in answered if r.choice]
        means.append(sum(places) / len(places))
    assert means == sorted(means)
    assert means[0] < 0.5
    assert means[-1] > 3


def sizes_mixed(seed: int, *, deadline_s: float) -> list[Request]:
    """Twice the capacity: one request in ten has many images."""
    chance = random.Random(1000 + seed)  # another one than that of the times
    trace = poisson(2 * CAPACITY / (1 + 0.1 * (LARGE - 1)), 20.0, seed=seed, deadline_s=deadline_s)
    for request in trace:
        request.num_images = LARGE if chance.random() < 0.1 else 1
    return trace


@pytest.mark.parametrize("num_streams", [1, 2])
@pytest.mark.parametrize(
    ("deadline_s", "max_images"), [(1.0, 10**6), (3.0, 10**6), (30.0, 64), (30.0, 128)]
)
def test_at_twice_the_capacity_large_requests_have_the_chance_of_small_ones(
    deadline_s: float, max_images: int, num_streams: int
) -> None:
    trace = sizes_mixed(1, deadline_s=deadline_s)
    served = simulate(trace, Setup(num_streams=num_streams, max_images=max_images))
    small, large = (
        [request for request in served.requests if request.num_images == size]
        for size in (1, LARGE)
    )
    refused = [share([r for r in group if r.end == "refused"], group) for group in (small, large)]
    assert refused[1] == pytest.approx(refused[0], abs=0.15)
    assert share(served.ended("late"), served.ended("answered", "late")) <= 0.01
    num_answered = sum(request.num_images for request in served.ended("answered"))
    assert num_answered >= 0.95 * 20 * CAPACITY


def test_retry_after_grows_with_those_who_were_refused_before() -> None:
    served = simulate(poisson(4 * CAPACITY, 10, deadline_s=1.0))
    told = [r.retry_after_s or 0 for r in served.requests if r.end == "refused"]
    first, last = told[: len(told) // 4], told[-len(told) // 4 :]
    assert sum(last) / len(last) > 2 * sum(first) / len(first)
    assert max(told) <= 60
