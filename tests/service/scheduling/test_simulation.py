"""Arrival traces on a virtual clock, and what holds for every one."""

import functools
import random
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest

from service.pipeline.request import Wanted
from service.tiers import TIERS
from tests.service.scheduling.simulation import (
    CAPACITY,
    ORDINARY,
    Request,
    Setup,
    poisson,
    share,
    simulate,
)


def bursts(num_bursts: int, size: int, *, seed: int = 0) -> list[Request]:
    """Many at the same moment, every two seconds, of any kind; some leave again."""
    chance = random.Random(seed)
    return [
        Request(
            2.0 * burst,
            Wanted(tier=chance.choice(TIERS), priority=chance.choice((0, 0, 0, 1))),
            deadline_s=chance.choice((0.3, 1.0, 1.5)),
            leaves_after_s=chance.choice((None, None, None, 0.0, 0.1, 0.5)),
        )
        for burst in range(num_bursts)
        for _ in range(size)
    ]


def mixture(load: float, seconds: float, *, seed: int = 0) -> list[Request]:
    """All that a client can ask for; some leave again."""
    chance = random.Random(seed)
    wanted = [
        {},
        {"tier": "fast"},
        {"tier": "exact", "min_tier": "extreme"},
        {"max_latency_ms": 80},
        {"max_latency_ms": 200, "min_tier": "fast"},
        {"tier": "turbo", "priority": 1},
    ]
    return [
        Request(
            request.at,
            Wanted(**chance.choice(wanted)),
            deadline_s=chance.choice((0.2, 1.0, 3.0)),
            leaves_after_s=chance.choice((None,) * 9 + (0.05,)),
        )
        for request in poisson(load * CAPACITY, seconds, seed=seed)
    ]


def slow_for_a_while(at: float) -> float:
    return 3.0 if 8 <= at < 16 else 1.0


TRACES: dict[str, tuple[Callable[[], list[Request]], Setup]] = {
    "half": (lambda: poisson(0.5 * CAPACITY, 10), ORDINARY),
    "nearly full": (lambda: poisson(0.9 * CAPACITY, 10), ORDINARY),
    "twice": (lambda: poisson(2 * CAPACITY, 10), ORDINARY),
    "twice, nobody refused": (lambda: poisson(2 * CAPACITY, 10), Setup(refuses=False)),
    "bursts": (lambda: bursts(6, 80), ORDINARY),
    "bursts, nobody refused": (lambda: bursts(6, 80), Setup(refuses=False)),
    "bursts, waiting for company": (lambda: bursts(6, 80), Setup(max_wait_s=0.05)),
    "mixture": (lambda: mixture(1.5, 10), Setup(browns_out=True)),
    "mixture, nobody refused": (lambda: mixture(2.5, 10), Setup(refuses=False)),
    "mixture, waiting for company": (lambda: mixture(1.0, 10), Setup(max_wait_s=0.05)),
    "slow for a while": (lambda: mixture(0.7, 20), Setup(slowness=slow_for_a_while)),
}


@pytest.mark.parametrize("num_streams", [1, 2, 4])
@pytest.mark.parametrize("name", TRACES)
def test_laws_of_every_trace(name: str, num_streams: int) -> None:
    requests, setup = TRACES[name]
    served = simulate(requests(), setup._replace(num_streams=num_streams))
    assert len(served.requests) > 400
    assert share(served.ended("answered"), served.requests) > 0.1


@pytest.mark.parametrize("name", ["mixture", "bursts, waiting for company"])
def test_the_same_seed_gives_the_same_result(name: str) -> None:
    requests, setup = TRACES[name]
    first, second = simulate(requests(), setup, seed=1), simulate(requests(), setup, seed=1)
    assert first.batches == second.batches
    assert first.requests == second.requests
    assert first.levels == second.levels
    assert first.batches != simulate(requests(), setup, seed=2).batches


@pytest.mark.parametrize(("load", "num_streams"), [(0.5, 1), (0.9, 1), (0.5, 4), (0.8, 4)])
def test_below_capacity_all_are_in_time(load: float, num_streams: int) -> None:
    served = simulate(poisson(load * CAPACITY, 20), Setup(num_streams=num_streams))
    assert share(served.ended("answered"), served.requests) > 0.99


@pytest.mark.parametrize("num_streams", [1, 2, 4])
@pytest.mark.parametrize("seed", [0, 1])
def test_at_twice_the_capacity_who_is_let_in_is_in_time(seed: int, num_streams: int) -> None:
    seconds = 20
    trace = poisson(2 * CAPACITY, seconds, seed=seed)
    served = simulate(trace, Setup(num_streams=num_streams), seed=seed)
    accepted = served.ended("answered", "late")
    assert share(served.ended("answered"), accepted) >= 0.99
    assert len(served.ended("answered")) >= 0.85 * CAPACITY * seconds


def test_refusing_who_would_be_late_answers_more_at_twice_the_capacity() -> None:
    trace = functools.partial(poisson, 2 * CAPACITY, 20)
    refusing, patient = simulate(trace()), simulate(trace(), Setup(refuses=False))
    assert len(refusing.ended("answered")) > len(patient.ended("answered"))


def test_a_flood_of_urgent_requests_does_not_starve_the_patient() -> None:
    flood = poisson(6 * CAPACITY, 20, deadline_s=0.3, tier="extreme")
    patient = poisson(1.0, 15, seed=1, deadline_s=4.0, tier="exact")
    served = simulate(flood + patient)
    ends = Counter(request.end for request in served.requests if request.wanted.tier == "exact")
    # One may fall to the noise at the end, where its turn comes at the last moment.
    assert ends["answered"] >= len(patient) - 1
    assert len(served.ended("refused")) > len(served.requests) / 3


def test_a_device_that_is_slow_for_a_while_is_believed_and_then_forgiven() -> None:
    trace = poisson(0.6 * CAPACITY, 30)
    served = simulate(trace, Setup(slowness=slow_for_a_while))
    slow = [request for request in served.requests if 8 <= request.at < 16]
    after = [request for request in served.requests if request.at >= 19]
    accepted = [request for request in slow if request.end != "refused"]
    assert 0.2 < share(accepted, slow) < 0.7  # it has a third of 1 / 0.6 of the capacity
    assert share([request for request in accepted if request.end == "answered"], accepted) > 0.9
    assert share([request for request in after if request.end == "answered"], after) > 0.99


@pytest.mark.parametrize("num_streams", [1, 2])
@pytest.mark.parametrize("budget_ms", [40, 100, 300])
def test_at_half_load_a_latency_budget_that_is_promised_is_kept(
    budget_ms: int, num_streams: int
) -> None:
    trace = poisson(0.5 * CAPACITY, 20, max_latency_ms=budget_ms)
    served = simulate(trace, Setup(num_streams=num_streams))
    promised = [request for request in served.requests if request.choice.reason == "latency_budget"]
    kept = [
        request
        for request in promised
        if request.end == "answered" and 1000 * request.seconds <= budget_ms
    ]
    assert share(promised, served.requests) > 0.9
    assert share(kept, promised) >= 0.95


def test_a_latency_budget_chooses_faster_tiers_as_load_rises() -> None:
    means = []
    for load in (0.25, 0.5, 0.9, 1.5, 2.0):
        served = simulate(poisson(load * CAPACITY, 10, max_latency_ms=60))
        tiers = [TIERS.index(request.choice.reduction.tier) for request in served.requests]
        means.append(sum(tiers) / len(tiers))
    assert means == sorted(means)
    assert means[0] < 0.5
    assert means[-1] > means[0] + 2


def test_brownout_refuses_fewer_and_does_not_swing() -> None:
    seconds = 30
    trace = functools.partial(poisson, 2 * CAPACITY, seconds, tier="exact", min_tier="extreme")
    off, on = simulate(trace()), simulate(trace(), Setup(browns_out=True))
    assert len(off.ended("refused")) > 0.3 * len(off.requests)
    assert len(on.ended("refused")) < len(off.ended("refused")) / 4
    assert len(on.ended("answered")) > 1.5 * len(off.ended("answered"))
    for (earlier, before), (later, level) in pairwise(on.levels):
        assert abs(level - before) == 1
        assert later - earlier >= 0.5
    assert len(on.levels) - 1 <= 1.5 * seconds


def test_without_pressure_nothing_is_browned_out() -> None:
    served = simulate(poisson(0.5 * CAPACITY, 10, min_tier="extreme"), Setup(browns_out=True))
    assert {request.choice.reason for request in served.requests} == {"default"}
