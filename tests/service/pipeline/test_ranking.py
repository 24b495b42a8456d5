"""Logits -> labels."""

import pytest
import torch

from service.pipeline.ranking import rank


def test_the_best_labels_come_first_with_their_probabilities() -> None:
    ranked = rank(torch.tensor([1.0, 3.0, 2.0]).log(), ["a", "b", "c"], 2)
    assert [(best.label, best.index) for best in ranked] == [("b", 1), ("c", 2)]
    assert [best.probability for best in ranked] == pytest.approx([3 / 6, 2 / 6])
