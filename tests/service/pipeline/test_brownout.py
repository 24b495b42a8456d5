"""The level follows pressure slowly, a step at a time, and comes back."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.pipeline.brownout import MAX_LEVEL, Brownout, Thresholds

LOW, MIDDLE, HIGH = 0.1, 0.35, 0.9
THRESHOLDS = Thresholds(rise=0.5, fall=0.2, dwell_s=1.0)


class Bench:
    """A brown-out, with its pressure and its clock in hand."""

    def __init__(self) -> None:
        """Start calm, at second 100."""
        self.now, self.pressure = 100.0, LOW
        self.brownout = Brownout(lambda: self.pressure, THRESHOLDS, lambda: self.now)

    def after(self, seconds: float, pressure: float) -> int:
        """The level so much later, nobody having asked in between."""
        self.now += seconds
        self.pressure = pressure
        return self.brownout.level()

    def risen(self, level: int) -> "Bench":
        """Bring it to a level."""
        for _ in range(level):
            self.after(1.0, HIGH)
        assert self.brownout.level() == level
        return self


def test_it_starts_at_0_and_waits_for_the_dwell_time() -> None:
    bench = Bench()
    assert bench.after(0.0, HIGH) == 0
    assert bench.after(0.9, HIGH) == 0
    assert bench.after(0.2, HIGH) == 1


def test_it_rises_one_step_in_each_dwell_time_up_to_the_last() -> None:
    bench = Bench()
    levels = [bench.after(0.25, HIGH) for _ in range(4 * (MAX_LEVEL + 2))]
    assert levels == [min(MAX_LEVEL, (n + 1) // 4) for n in range(len(levels))]


def test_a_rise_after_a_long_silence_is_one_step() -> None:
    bench = Bench()
    assert bench.after(50.0, HIGH) == 1
    assert bench.after(0.5, HIGH) == 1


def test_it_falls_one_step_in_each_dwell_time_while_it_is_asked() -> None:
    bench = Bench().risen(4)
    levels = [bench.after(0.25, LOW) for _ in range(20)]
    assert levels == [max(0, 4 - (n + 1) // 4) for n in range(20)]


@pytest.mark.parametrize(("silence_s", "level"), [(0.9, 4), (1.0, 3), (2.5, 2), (4.0, 0), (99, 0)])
def test_silence_counts_as_if_it_had_been_asked(silence_s: float, level: int) -> None:
    assert Bench().risen(4).after(silence_s, LOW) == level


@pytest.mark.parametrize(("before", "level"), [(MIDDLE, 3), (HIGH, MAX_LEVEL)])
def test_a_short_calm_after_a_long_time_at_one_level_is_one_step(before: float, level: int) -> None:
    bench = Bench().risen(level)
    for _ in range(100):
        assert bench.after(0.1, before) == level
    assert bench.after(0.1, LOW) == level - 1
    assert bench.after(0.1, LOW) == level - 1


@pytest.mark.parametrize(
    ("pressure", "level"), [(0.5, 3), (0.499, 2), (MIDDLE, 2), (0.201, 2), (0.2, 1)]
)
def test_between_the_thresholds_nothing_moves(pressure: float, level: int) -> None:
    bench = Bench().risen(2)
    assert bench.after(1.0, pressure) == level


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0.21, 0.49)), max_size=50))
def test_it_never_flaps_between_the_thresholds(trace: list[tuple[float, float]]) -> None:
    bench = Bench().risen(3)
    assert {bench.after(*step) for step in trace} <= {3}


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0, 1)), max_size=80))
def test_laws_of_any_trace(trace: list[tuple[float, float]]) -> None:
    bench = Bench()
    level, moves = 0, [(bench.now, 0)]
    for gap_s, pressure in trace:
        before, level = level, bench.after(gap_s, pressure)
        assert 0 <= level <= MAX_LEVEL
        assert level <= before or (level == before + 1 and pressure >= THRESHOLDS.rise)
        assert level >= before or pressure <= THRESHOLDS.fall
        assert before - level <= max(1, gap_s / THRESHOLDS.dwell_s + 1e-9)
        if level != before:
            moves.append((bench.now, level))
    for (earlier, _), (later, _) in pairwise(moves):
        assert later - earlier >= THRESHOLDS.dwell_s - 1e-9
