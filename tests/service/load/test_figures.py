"""Figures by hand."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.load import figures
from service.load.figures import Window
from service.load.outcomes import NOT_SENT, OK, SHED, Answer, Outcome

FAST_ANSWER = Answer("fast", batch_size=2, queue_ms=1.5, inference_ms=20.0, reason="fits")


@given(values=st.lists(st.floats(0, 1e6), min_size=1), permille=st.integers(1, 1000))
def test_a_percentile_is_the_nearest_rank(values: list[float], permille: int) -> None:
    reached = [
        value
        for value in values
        if sum(other <= value for other in values) * 1000 >= permille * len(values)
    ]
    assert figures.percentile(sorted(values), permille) == min(reached)


@pytest.mark.parametrize(
    ("number", "known"),
    [
        (0, {}),
        (1, {"max": 0}),
        (2, {"p50": 0, "max": 1}),
        (9, {"p50": 4, "max": 8}),
        (10, {"p50": 4, "p90": 8, "max": 9}),
        (99, {"p50": 49, "p90": 89, "max": 98}),
        (100, {"p50": 49, "p90": 89, "p99": 98, "max": 99}),
        (999, {"p50": 499, "p90": 899, "p99": 989, "max": 998}),
        (1000, {"p50": 499, "p90": 899, "p99": 989, "p99.9": 998, "max": 999}),
    ],
)
def test_a_percentile_is_known_once_a_value_lies_above_it(
    number: int, known: dict[str, float]
) -> None:
    nothing = dict.fromkeys(["p50", "p90", "p99", "p99.9", "max"])
    values = list(range(number))
    Random(0).shuffle(values)
    assert figures.spread(values) == {**nothing, **known}


def outcome(due_s: float, done_s: float, kind: str = OK, entry: str = "fast") -> Outcome:
    return Outcome(entry, due_s, done_s, kind, FAST_ANSWER if kind == OK else None)


def test_figures_by_hand() -> None:
    outcomes = [
        outcome(0.5, 0.9),  # in the warm-up: counts for nothing
        outcome(0.8, 1.1),  # due in the warm-up, answered in the measured time: rates only
        outcome(0.9, 1.2),
        outcome(1.0, 1.25),
        outcome(1.5, 2.5),  # just in time
        outcome(1.6, 2.7),  # too late
        outcome(4.5, 5.25),  # answered after the measured time: no rate
        outcome(2.0, 2.01, SHED),
        outcome(2.5, 2.53, SHED),
        outcome(3.0, 4.0, "deadline"),
        outcome(3.0, 3.0, NOT_SENT),
    ]
    found = figures.figures(outcomes, Window(1.0, 5.0), deadline_ms=1000)
    assert found["offered"] == 8
    assert found["offered_per_s"] == 8 / 4
    assert found["outcomes"] == {OK: 4, SHED: 2, "deadline": 1, NOT_SENT: 1}
    assert found["ok_per_s"] == 5 / 4
    assert found["good"] == 3
    assert found["goodput"] == 3 / 8
    assert found["goodput_per_s"] == 4 / 4
    assert found["shed_ratio"] == 2 / 8
    assert found["latency_ms"] == pytest.approx(
        {"p50": 750, "p90": None, "p99": None, "p99.9": None, "max": 1100}
    )
    assert found["shed_latency_ms"]["p50"] == pytest.approx(10)
    assert found["shed_latency_ms"]["max"] == pytest.approx(30)
    assert found["mean_batch_size"] == 2
    assert found["mean_queue_ms"] == 1.5
    assert found["mean_inference_ms"] == 20
    assert found["answered_by"] == {"fast": 4}
    assert found["reasons"] == {"fits": 4}


def test_figures_of_nothing() -> None:
    found = figures.figures([], Window(1.0, 1.0), deadline_ms=1000)
    assert found["offered"] == found["ok_per_s"] == 0
    assert found["goodput"] is found["shed_ratio"] is found["mean_batch_size"] is None


def test_each_entry_has_its_own_figures() -> None:
    outcomes = [outcome(0, 1), outcome(0, 1, SHED, "exact"), outcome(0, 1, entry="exact")]
    found = figures.by_entry(outcomes, ["exact", "fast", "r:3"], Window(0, 1), 1000)
    assert {name: item["outcomes"] for name, item in found.items()} == {
        "exact": {SHED: 1, OK: 1},
        "fast": {OK: 1},
        "r:3": {},
    }
