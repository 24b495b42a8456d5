"""Logits -> labels."""

import pytest
import torch

from service.errors import InferenceError
from service.ranking import rank


def test_the_best_labels_come_first_with_their_probabilities() -> None:
    ranked = rank(torch.tensor([1.0, 3.0, 2.0]).log(), ["a", "b", "c"], 2)
    assert [(best.label, best.index) for best in ranked] == [("b", 1), ("c", 2)]
    assert [best.probability for best in ranked] == pytest.approx([3 / 6, 2 / 6])


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_an_error_and_no_answer(broken: float) -> None:
    with pytest.raises(InferenceError, match="not finite"):
        rank(torch.tensor([0.0, broken]), ["a", "b"], 1)
