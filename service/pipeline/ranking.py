"""Logits -> the best labels."""

from collections.abc import Sequence

from torch import Tensor

from service.api.v1.schemas import Prediction


def rank(logits: Tensor, labels: Sequence[str], top_k: int) -> list[Prediction]:
    """The `top_k` most probable labels, best first.

    Args:
        logits: (K,), finite.
        labels: K of them.
        top_k: 1 ... K.
    """
    best = logits.softmax(dim=-1).topk(top_k)
    return [
        Prediction(label=labels[index], index=index, probability=probability)
        for probability, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
