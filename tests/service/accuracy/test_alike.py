"""Which precision is taken, and when its answers count as those of float32."""

import math

import pytest
import torch

from service.accuracy import alike
from service.accuracy.alike import Counted, Evidence, Way

FLOAT32 = Way(1.0)


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([], 0),
        ([Way(2.0), Way(3.0)], 2),
        ([Way(3.0), Way(2.0)], 1),
        ([Way(2.0), Way(2.1)], 1),  # not worth another comparison
        ([Way(2.0), Way(1.9), Way(2.3)], 3),
        ([Way(3.0, is_refused=True), Way(2.0)], 2),
        ([Way(3.0, is_refused=True), Way(2.0, is_refused=True)], 0),
        ([Way(alike.LEAST_GAIN)], 0),  # not worth giving up the answers of float32
        ([Way(alike.LEAST_GAIN + 0.01)], 1),
        ([Way(0.5)], 0),
        ([Way(math.inf)], 1),  # preferred without a measurement
        ([Way(math.inf, is_refused=True)], 0),
    ],
)
def test_the_fastest_way_that_is_not_refused_is_taken(others: list[Way], expected: int) -> None:
    assert alike.fastest([FLOAT32, *others]) == expected


@pytest.mark.parametrize(
    ("num_agreeing", "fast", "expected"),
    [
        (300, Counted(260, 260, 250, 250), None),
        (297, Counted(260, 260, 250, 250), None),  # 99 %
        (296, Counted(260, 260, 250, 250), "agreement"),
        (300, Counted(248, 260, 250, 250), None),  # the interval begins at 247.0
        (300, Counted(246, 260, 250, 250), "agreement"),
        (300, Counted(260, 260, 238, 250), None),  # 236.6
        (300, Counted(260, 260, 236, 250), "top1"),
        (300, Counted(300, 260, 300, 250), None),  # better is allowed
        (300, Counted(260, 260), None),  # without labels
    ],
)
def test_a_precision_with_other_answers_is_refused(
    num_agreeing: int, fast: Counted, expected: str | None
) -> None:
    exact = Counted(num_agreeing, 300)
    evidence = Evidence(300, num_agreeing, {"exact": exact, "extreme": fast})
    assert alike.refusal(evidence) == expected


def test_a_tie_in_float32_is_no_other_answer() -> None:
    expected = torch.tensor([[2.0, 1.995, 0.0], [2.0, 1.98, 0.0], [2.0, 1.0, 0.0]])
    found = torch.tensor([[1.0, 9.0, 0.0], [1.0, 9.0, 0.0], [3.0, 1.0, 0.0]])
    assert alike.same(found, expected).tolist() == [True, False, True]


def test_a_comparison_is_lost_as_soon_as_no_rest_can_save_it() -> None:
    assert not alike.is_lost(3, 300)
    assert alike.is_lost(4, 300)
