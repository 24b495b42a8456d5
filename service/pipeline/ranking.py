"""Logits -> the best labels."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """One label and its probability."""

    label: str
    index: int
    """index of its class, 0 ... K - 1"""
    probability: float


def rank(logits: Tensor, labels: Sequence[str], top_k: int) -> list[Prediction]:
    """The `top_k` most probable labels, best first.

    Args:
        logits: (K,), finite.
        labels: K of them.
        top_k: 1 ... K.
    """
    best = logits.softmax(dim=-1).topk(top_k)
    return [
        Prediction(labels[index], index, probability)
        for probability, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
