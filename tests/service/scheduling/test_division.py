"""What a lone image gets of the device: all threads, or those of one stream."""

import math
import random

import pytest

from service.scheduling.division import Division
from service.scheduling.policy import BatchPolicy, Part

LANE = "a"
STREAM_S = 0.04
"""seconds of an image on the threads of one stream"""


def division_of(
    loss: float, *, num_streams: int = 2, company: tuple[int, ...] = ()
) -> Division[str]:
    """A device on which all threads take `loss` times as long as an even split says."""
    policy = BatchPolicy(8, num_streams=num_streams, num_threads=num_streams)
    division: Division[str] = Division(policy)
    division.measured(LANE, STREAM_S, loss * STREAM_S / num_streams)
    for num_others in company:
        division.came(num_others, now=0.0)
    return division


def lone_part(division: Division[str], now: float = 0.0, lane: str = LANE) -> Part:
    part = division.part([], [lane], 1, now)
    assert part is not None
    return part


@pytest.mark.parametrize("loss", [1.0, 1.3, 1.9])
def test_without_company_an_image_gets_all_threads(loss: float) -> None:
    part = lone_part(division_of(loss, company=(0,) * 50))
    assert (part.num_threads, part.share) == (2, 1.0)
    assert part.seconds(STREAM_S / 2) == pytest.approx(loss * STREAM_S / 2)


def test_with_company_threads_that_gain_little_are_left_to_others() -> None:
    part = lone_part(division_of(1.9, company=(1,) * 50))
    assert (part.num_threads, part.loss) == (1, 1.0)
    assert part.seconds(STREAM_S / 2) == pytest.approx(STREAM_S)


def test_threads_without_loss_are_always_worth_it() -> None:
    assert lone_part(division_of(1.0, company=(3,) * 50)).num_threads == 2


def test_company_is_forgotten() -> None:
    division = division_of(1.9, company=(1,) * 50)
    assert lone_part(division, now=1.0).num_threads == 1
    assert lone_part(division, now=600.0).num_threads == 2


def test_the_choice_is_the_one_that_answers_sooner_on_average() -> None:
    """Against queues simulated in plain loops: one server with all threads, or one a stream."""
    for loss in (1.2, 1.5, 1.8):
        wrong = 0.0
        for chance in (0.05, 0.2, 0.4, 0.6, 0.8):
            rate = chance / (loss * STREAM_S / 2)
            means = [
                mean_seconds(rate, num_servers=1, service_s=loss * STREAM_S / 2),
                mean_seconds(rate, num_servers=2, service_s=STREAM_S),
            ]
            division = division_of(loss, company=outcomes(chance))
            chosen = 0 if lone_part(division).num_threads == 2 else 1
            wrong = max(wrong, means[chosen] / min(means) - 1)
        assert wrong < 0.25, loss


def outcomes(chance: float) -> tuple[int, ...]:
    """Evenly spread: so many of a hundred images found others inside."""
    return tuple(int((i + 1) * chance) - int(i * chance) for i in range(100))


def mean_seconds(rate: float, *, num_servers: int, service_s: float) -> float:
    """Mean time in a queue with random arrivals and constant service."""
    chance, at, total, num_images = random.Random(0), 0.0, 0.0, 20_000
    free_at = [0.0] * num_servers
    for _ in range(num_images):
        at += chance.expovariate(rate)
        first = min(range(num_servers), key=free_at.__getitem__)
        free_at[first] = max(free_at[first], at) + service_s
        total += free_at[first] - at
    return total / num_images


def test_a_lane_that_was_not_measured_is_like_the_mean_of_the_others() -> None:
    division = division_of(1.2)
    division.measured("b", STREAM_S, 1.6 * STREAM_S / 2)
    assert lone_part(division, lane="new").loss == pytest.approx(1.4)


@pytest.mark.parametrize(
    ("taken", "loss"), [([], 1.9), ([1], 1 + 0.9 * 2 / 3), ([2], 1 + 0.9 / 3), ([3], 1.0)]
)
def test_fewer_threads_lose_less(taken: list[int], loss: float) -> None:
    division = division_of(1.9, num_streams=4)
    part = division.part(taken, [LANE], 1, now=0.0)
    assert part is not None
    assert part.loss == pytest.approx(loss)


def test_nothing_is_free_while_all_threads_are_taken() -> None:
    assert division_of(1.5).part([2], [LANE], 1, now=0.0) is None


@pytest.mark.parametrize("measured", [(0.0, 0.1), (0.1, 0.0), (0.1, 10.0)])
def test_an_odd_measurement_gives_a_loss_that_is_possible(measured: tuple[float, float]) -> None:
    division = division_of(1.5)
    division.measured(LANE, *measured)
    assert 1.0 <= lone_part(division).loss <= 2.0
    assert math.isfinite(lone_part(division).seconds(1.0))
