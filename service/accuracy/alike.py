"""Whether another precision answers alike, and which one is taken: decisions over counts.

Nothing is computed here: `service/runtime/trial.py` measures. Source: docs/decisions/0018.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from torch import Tensor

from service.accuracy.counts import share
from service.tiers import Tier

Refusal = Literal["agreement", "top1"]

LEAST_AGREEMENT = 0.99
"""share of the pictures that `exact` has to answer as float32 does"""
TIE = 0.99
"""classes whose probabilities in float32 have at least this quotient are one answer"""
LEAST_GAIN = 1.05
"""speed-up from which on it is worth giving up the answers of float32"""
FURTHER_GAIN = 1.1
"""speed-up over a way that stands before it from which on another one is worth a comparison"""


class Counted(NamedTuple):
    """Pictures that float32 and another precision answered in one tier."""

    kept: int
    """answered by the other one as float32 answers them without reduction"""
    kept_by_float32: int
    right: int = 0
    """answered by the other one with the label; 0 without labels"""
    right_by_float32: int = 0


class Evidence(NamedTuple):
    """What float32 and another precision answered."""

    num_pictures: int
    """at least 1"""
    num_agreeing: int
    """of these, those that `exact` answers as float32 does"""
    tiers: Mapping[Tier, Counted]


class Way(NamedTuple):
    """One way to compute."""

    speed_up: float
    """over float32; infinite where the way is preferred without a measurement"""
    is_refused: bool = False
    """whether it cannot compute the model, or does not answer alike"""


def fastest(ways: Sequence[Way]) -> int:
    """The index of the way to take, or to compare with float32 next.

    Args:
        ways: float32 first, which is always allowed; the more exact ones before others.
    """
    best = 0
    for index, way in enumerate(ways[1:], start=1):
        least = LEAST_GAIN if best == 0 else FURTHER_GAIN * ways[best].speed_up
        if not way.is_refused and way.speed_up > least:
            best = index
    return best


def refusal(evidence: Evidence) -> Refusal | None:
    """Why a precision must not be taken: it answers otherwise, or is right less often.

    A reduced tier chooses tokens: where two are nearly alike, rounding decides, and the answer may
    change although it is as good as before. So such a tier has to keep as much of the unreduced
    answers as it does in float32, within the interval of that share, and not the same ones.
    """
    total = evidence.num_pictures
    if evidence.num_agreeing < LEAST_AGREEMENT * total:
        return "agreement"
    for counted in evidence.tiers.values():
        if counted.kept < share(counted.kept_by_float32, total).low * total:
            return "agreement"
        if counted.right < share(counted.right_by_float32, total).low * total:
            return "top1"
    return None


def is_lost(num_differing: int, num_pictures: int) -> bool:
    """Whether so many other answers at `exact` are too many, whatever the rest will be."""
    return num_pictures - num_differing < LEAST_AGREEMENT * num_pictures


def same(found: Tensor, expected: Tensor) -> Tensor:
    """Which pictures have the same answer, (B,), bool.

    Args:
        found: (B, K), logits.
        expected: (B, K), logits of float32. Where its best classes tie, either is its answer.
    """
    best = expected.amax(dim=1)
    given = expected.gather(1, found.argmax(dim=1, keepdim=True)).squeeze(1)
    return given >= best + math.log(TIE)
