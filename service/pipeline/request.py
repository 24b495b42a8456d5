"""The values of the pipeline: the client's choices, the plan for a request, and its outcomes."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, get_args

from torch import Tensor

from service.backends.contract import Variant
from service.models.served import ServedModel
from service.pipeline.ranking import Prediction, rank
from service.scheduling.jobs import Answer, Terms
from service.tiers import Reduction, Tier

Picture = bytes | Tensor
"""An image file, or pixels (3, H, W) as the model's own transform gives them."""

Reason = Literal["default", "requested", "latency_budget", "latency_budget_missed", "brownout"]
REASONS: tuple[Reason, ...] = get_args(Reason)

Late = Literal["answer", "refuse"]
LATE: tuple[Late, ...] = get_args(Late)

DEFAULT_TOP_K = 5


@dataclass(frozen=True)
class Wanted:
    """The choices of a client for its pictures; each has a default."""

    model: str | None = None
    """name of a loaded model; None: the first one"""
    r: int | None = None
    """tokens to remove in every block; excludes `tier`, `min_tier` and `max_latency_ms`"""
    tier: Tier | None = None
    max_latency_ms: float | None = None
    """instead of a tier: the most accurate one that is expected to answer within this time"""
    min_tier: Tier | None = None
    """the least accurate tier that will do"""
    priority: int = 0
    """0 or 1; images with 1 go before all images with 0"""
    method: str = "rapid"
    top_k: int | None = None
    """number of labels; None: 5, or all if there are fewer"""
    deadline_ms: float | None = None
    """milliseconds from the arrival; None: the service's own deadline"""
    late: Late = "answer"
    """what happens to an image that cannot be answered within `max_latency_ms`"""


class Expected(NamedTuple):
    """A forecast of the seconds from a request's arrival to its answer."""

    seconds: float
    queue_s: float = 0.0
    """how much of it is waiting for other work on the device"""
    rest_s: float = 0.0
    """how much of it passes between its first image and its last one"""
    work_s: float = 0.0
    """how long the device works on it"""
    usual_share: float = 0.0
    """share of their latency budgets that such requests have been spending on waiting, 0 ... 1"""

    def share_now(self, budget_s: float) -> float:
        """Share of a budget, less the work itself, that this request spends on waiting."""
        left_s = budget_s - (self.seconds - self.queue_s)
        return self.queue_s / left_s if left_s > 0 else math.inf

    def spent_on_waiting(self, budget_s: float) -> float:
        """The same, or what is usual if that is more."""
        return max(self.usual_share, self.share_now(budget_s) if self.queue_s > 0 else 0.0)


class Choice(NamedTuple):
    """Which reduction will run, and why."""

    reduction: Reduction
    reason: Reason
    expected_s: float
    """forecast of the seconds from the request's arrival to its answer"""


class Plan(NamedTuple):
    """What will happen to each image of a request."""

    model: ServedModel
    variant: Variant
    choice: Choice
    top_k: int
    terms: Terms
    """when its images are due, and to whom they belong"""


@dataclass(frozen=True)
class Outcome:
    """The result for one image."""

    plan: Plan
    answer: Answer
    decode_s: float
    total_s: float

    @property
    def logits(self) -> Tensor:
        """(K,), float32, on the CPU."""
        logits: Tensor = self.answer.result
        return logits

    @cached_property
    def predictions(self) -> list[Prediction]:
        """The most probable labels, best first."""
        return rank(self.logits, self.plan.model.labels, self.plan.top_k)
