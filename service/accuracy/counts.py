"""The accuracy of a tier on labelled pictures, with confidence intervals."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

TOP_K = (1, 5)
"""a picture counts as right if its label is among the k best: k = 1 and k = 5"""
Z = 1.96
"""95 % of a normal distribution lie within this many standard deviations of its mean"""


class Share(NamedTuple):
    """A share of the pictures, with its 95 % interval."""

    value: float
    low: float
    high: float


def share(count: int, total: int) -> Share:
    """A share and its Wilson score interval.

    Args:
        count: 0 ... total.
        total: at least 1.

    Source: Wilson, Probable inference, the law of succession, and statistical inference, 1927.
    """
    value = count / total
    centre = value + Z**2 / (2 * total)
    margin = Z * math.sqrt(value * (1 - value) / total + Z**2 / (4 * total**2))
    scale = 1 + Z**2 / total
    low, high = (centre - margin) / scale, (centre + margin) / scale
    return Share(value, max(0.0, min(value, low)), min(1.0, max(value, high)))


@dataclass
class Measured:
    """Counts of one tier over some labelled pictures."""

    num_pictures: int = 0
    num_top1: int = 0
    num_top5: int = 0
    num_agreeing: int = 0

    def add(self, logits: Tensor, *, label: int, unreduced: Tensor) -> None:
        """Count one picture.

        Args:
            logits: (K,), of the tier.
            label: the right class, 0 ... K - 1.
            unreduced: (K,), logits of the model without any reduction.
        """
        best = logits.topk(min(TOP_K[-1], len(logits))).indices.tolist()
        self.num_pictures += 1
        self.num_top1 += best[0] == label
        self.num_top5 += label in best
        self.num_agreeing += best[0] == int(unreduced.argmax())

    @property
    def top1(self) -> Share:
        """Share whose best answer is the label."""
        return share(self.num_top1, self.num_pictures)

    @property
    def top5(self) -> Share:
        """Share whose label is among the five best answers."""
        return share(self.num_top5, self.num_pictures)

    @property
    def agreement(self) -> Share:
        """Share whose best answer is the unreduced model's."""
        return share(self.num_agreeing, self.num_pictures)
