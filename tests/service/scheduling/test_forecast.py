"""A forecast is right when it can be, never absurd, and cannot stay wrong."""

import math
import random
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.scheduling.forecast import MAX_SURPRISE, MEMORY_S, Forecast

MAX_SIZE = 16


class Lane(NamedTuple):
    """A model with one reduction."""

    model: str = "vit"
    macs: int = 100


EXACT, FAST = Lane(), Lane(macs=50)


class Bench:
    """A forecast with its clock in hand, and a device that takes `slope * n + intercept`."""

    def __init__(self, slope: float = 0.010, intercept: float = 0.005) -> None:
        """Know nothing, at second 100."""
        self.slope, self.intercept = slope, intercept
        self.factor = 1.0
        self.now = 100.0
        self.forecast = Forecast(max_size=MAX_SIZE, clock=lambda: self.now)

    def truth(self, size: int, lane: Lane = EXACT) -> float:
        """Seconds on the device as it is now; half the work takes half the time."""
        share = lane.macs / EXACT.macs
        return self.factor * share * (self.slope * size + self.intercept)

    def warm_up(self, *lanes: Lane) -> None:
        for lane in lanes:
            sizes = (1, MAX_SIZE)
            self.forecast.seed(lane, {size: self.truth(size, lane) for size in sizes})

    def work(self, sizes: list[int], lane: Lane = EXACT) -> None:
        """Compute batches one after the other."""
        for size in sizes:
            seconds = self.truth(size, lane)
            self.now += seconds
            self.forecast.observe(lane, size, seconds)

    def ratio(self, size: int, lane: Lane = EXACT) -> float:
        """Forecast over truth."""
        return self.forecast.seconds(lane, size) / self.truth(size, lane)


SIZES = [1, 3, 8, 16, 2, 12, 5, 16]


def test_of_nothing_known_nothing_is_said() -> None:
    assert Bench().forecast.seconds(EXACT, 8) == 0.0
    assert Bench().forecast.relative_error == 0.0


def test_the_warm_up_gives_the_line() -> None:
    bench = Bench()
    bench.warm_up(EXACT)
    assert [bench.ratio(size) for size in range(1, 33)] == pytest.approx([1.0] * 32)


@pytest.mark.parametrize(
    ("seconds", "size", "expected"),
    [
        ({4: 0.8}, 8, 1.6),  # one point: in proportion
        ({1: 0.5, 4: 0.4}, 8, 0.8),  # faster with more images: the larger batch, in proportion
        ({1: 0.1, 4: 0.8}, 8, 1.6),  # a negative intercept: likewise
        ({1: 0.3, 2: 9.0, 4: 0.6}, 8, 1.0),  # the smallest and the largest count
        ({1: 0.0}, 8, 0.0),
    ],
)
def test_an_odd_warm_up_gives_a_line_that_is_not_absurd(
    seconds: dict[int, float], size: int, expected: float
) -> None:
    bench = Bench()
    bench.forecast.seed(EXACT, seconds)
    assert bench.forecast.seconds(EXACT, size) == pytest.approx(expected)
    assert bench.forecast.seconds(EXACT, 0) >= 0


@pytest.mark.parametrize(("slope", "intercept"), [(0.01, 0.005), (0.001, 0.02), (0.02, 0.0)])
@pytest.mark.parametrize("warm_up", [(2.0, 2.0), (0.5, 0.5), (1.2, 1.0), (1.0, 0.8)])
def test_the_line_is_recovered_from_the_work(
    slope: float, intercept: float, warm_up: tuple[float, float]
) -> None:
    bench = Bench(slope, intercept)
    seeded = dict(zip((1, MAX_SIZE), warm_up, strict=True))
    bench.forecast.seed(EXACT, {size: off * bench.truth(size) for size, off in seeded.items()})
    bench.work(10 * SIZES)
    assert [bench.ratio(size) for size in range(1, 17)] == pytest.approx([1.0] * 16, rel=0.05)
    assert bench.forecast.relative_error < 0.1


def test_without_a_warm_up_the_line_is_recovered_where_there_is_work() -> None:
    bench = Bench()
    bench.work(10 * SIZES)
    assert [bench.ratio(size) for size in range(4, 17)] == pytest.approx([1.0] * 13, rel=0.03)
    assert [bench.ratio(size) for size in (1, 2)] == pytest.approx([1.0] * 2, rel=0.1)


def test_a_right_line_stays_right() -> None:
    bench = Bench()
    bench.warm_up(EXACT, FAST)
    bench.work(5 * SIZES)
    for lane in (EXACT, FAST):
        assert [bench.ratio(size, lane) for size in range(1, 33)] == pytest.approx([1.0] * 32)
    assert bench.forecast.relative_error == pytest.approx(0.0)


def test_work_of_one_size_does_not_bend_the_line() -> None:
    bench = Bench()
    bench.warm_up(EXACT)
    bench.work([8] * 200)
    assert [bench.ratio(size) for size in (1, 8, 16)] == pytest.approx([1.0] * 3)


def test_a_lane_that_is_new_is_taken_by_its_work_beside_the_nearest() -> None:
    bench = Bench()
    bench.warm_up(EXACT)
    bench.forecast.seed(Lane(macs=10), {1: 77.0})
    assert bench.ratio(8, Lane(macs=80)) == pytest.approx(1.0)
    assert bench.ratio(8, Lane(macs=200)) == pytest.approx(1.0)
    assert bench.forecast.seconds(Lane("other", 100), 8) == 0.0


def test_a_lane_that_is_new_learns_from_its_first_batch() -> None:
    bench = Bench()
    bench.warm_up(EXACT)
    lane = Lane(macs=60)
    before = bench.forecast.seconds(lane, 8)
    bench.forecast.observe(lane, 8, 2 * before)
    assert before < bench.forecast.seconds(lane, 8) < 2.01 * before


def test_the_first_work_of_all_is_the_first_line() -> None:
    bench = Bench()
    bench.forecast.observe(EXACT, 1000, 0.02)
    assert bench.forecast.seconds(EXACT, 2000) == pytest.approx(0.04)
    assert bench.forecast.seconds(FAST, 2000) == pytest.approx(0.02)


@pytest.mark.parametrize("num_before", [0, 5, 100])
@pytest.mark.parametrize("outlier_s", [0.0, 100.0, 1e12])
def test_one_absurd_value_moves_the_forecast_by_a_bounded_amount(
    num_before: int, outlier_s: float
) -> None:
    bench = Bench()
    bench.warm_up(EXACT, FAST)
    bench.work([8] * num_before)
    bench.forecast.observe(EXACT, 8, outlier_s)
    for lane in (EXACT, FAST):
        assert 1 / MAX_SURPRISE < bench.ratio(8, lane) < MAX_SURPRISE
    bench.work([8] * 60)
    assert bench.ratio(8) == pytest.approx(1.0, rel=0.1)
    assert bench.ratio(8, FAST) == pytest.approx(1.0, rel=0.1)


def test_one_absurd_value_among_many_hardly_counts() -> None:
    bench = Bench()
    bench.warm_up(EXACT, FAST)
    bench.work(10 * SIZES)
    bench.forecast.observe(EXACT, 8, 1e12)
    for lane in (EXACT, FAST):
        assert 1.0 < bench.ratio(8, lane) < 1.25


@pytest.mark.parametrize("num_before", [0, 20, 100])
def test_a_device_that_becomes_3_times_slower_is_followed_in_20_batches(num_before: int) -> None:
    bench = Bench(slope=0.05)
    bench.warm_up(EXACT, FAST)
    bench.work((13 * SIZES)[:num_before])
    bench.factor = 3.0
    assert bench.ratio(8) == pytest.approx(1 / 3)
    bench.work((3 * SIZES)[:20])
    assert bench.ratio(8) == pytest.approx(1.0, rel=0.2)
    # Nobody used the other lane, but it is the same device.
    assert bench.ratio(8, FAST) == pytest.approx(1.0, rel=0.2)
    bench.work((3 * SIZES)[:20])
    assert bench.ratio(8) == pytest.approx(1.0, rel=0.05)
    assert bench.ratio(8, FAST) == pytest.approx(1.0, rel=0.1)


def test_a_device_that_becomes_faster_is_followed_too() -> None:
    bench = Bench(slope=0.05)
    bench.warm_up(EXACT, FAST)
    bench.work(8 * SIZES)
    bench.factor = 1 / 3
    bench.work(8 * SIZES)
    assert bench.ratio(8) == pytest.approx(1.0, rel=0.1)
    assert bench.ratio(8, FAST) == pytest.approx(1.0, rel=0.2)


def test_after_a_long_silence_the_first_line_counts_again() -> None:
    bench = Bench()
    bench.warm_up(EXACT, FAST)
    bench.factor = 3.0
    bench.work(10 * SIZES)
    bench.factor = 1.0
    assert bench.ratio(8) > 2.5
    ratios = []
    for _ in range(10):
        bench.now += MEMORY_S
        ratios.append((bench.ratio(8), bench.ratio(8, FAST)))
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[-1] == pytest.approx((1.0, 1.0), rel=0.01)


def test_asking_changes_nothing() -> None:
    asked, silent = Bench(), Bench()
    for bench in (asked, silent):
        bench.warm_up(EXACT)
        bench.factor = 2.0
        bench.work(SIZES)
        for _ in range(100):
            bench.now += MEMORY_S / 100
            if bench is asked:
                bench.forecast.seconds(EXACT, 4)
                bench.forecast.seconds(Lane(macs=123), 4)
    assert asked.forecast.seconds(EXACT, 4) == pytest.approx(silent.forecast.seconds(EXACT, 4))


def test_noise_is_averaged_and_known_as_error() -> None:
    bench = Bench()
    bench.warm_up(EXACT)
    noise = random.Random(0)
    ratios = []
    for size in 40 * SIZES:
        bench.forecast.observe(EXACT, size, bench.truth(size) * noise.uniform(0.7, 1.3))
        ratios.append(bench.ratio(8))
    assert 0.85 < min(ratios) < max(ratios) < 1.15
    assert 0.08 < bench.forecast.relative_error < 0.25


observations = st.lists(
    st.tuples(
        st.sampled_from([EXACT, FAST, Lane(macs=1), Lane("other", 7)]),
        st.integers(1, 64),
        st.one_of(st.floats(0, 10), st.floats(0, 1e-7), st.floats(0, 1e6)),
        st.floats(0, 100),
    ),
    max_size=40,
)


@given(observations, st.booleans())
def test_after_anything_it_is_finite_not_negative_and_not_decreasing(
    seen: list[tuple[Lane, int, float, float]], is_warm: bool
) -> None:
    bench = Bench()
    if is_warm:
        bench.warm_up(EXACT)
    for lane, size, seconds, gap_s in seen:
        bench.forecast.observe(lane, size, seconds)
        bench.now += gap_s
    for lane in (EXACT, FAST, Lane(macs=3), Lane("other", 8)):
        forecasts = [bench.forecast.seconds(lane, size) for size in (0, 1, 2, 3, 8, 16, 64, 1000)]
        assert all(math.isfinite(seconds) and seconds >= 0 for seconds in forecasts)
        assert forecasts == sorted(forecasts)
    assert 0.0 <= bench.forecast.relative_error <= 1.0
