"""How many images of a lane go together in one batch."""

import math
from collections.abc import Callable
from typing import Generic, TypeVar

from service.scheduling.jobs import Job
from service.scheduling.policy import Part

K = TypeVar("K")

EFFICIENT = 1.15
"""most that an image may cost in a smaller batch, as a share of its cost in the full one, when the
batch is made smaller to keep a latency budget: an overloaded device must not become much slower"""
BATCH_SHARE = 0.4
"""of a latency budget, most that a batch should take: who comes while one is computed waits for its
end, and then for a batch of its own"""


class Sizes(Generic[K]):
    """Sizes of batches, from forecasts of their seconds."""

    def __init__(self, max_batch_size: int, expected_s: Callable[[K, int], float]) -> None:
        """Begin with the limit of the policy.

        Args:
            max_batch_size: most images in a batch.
            expected_s: forecast for a batch of so many images of a lane on the whole device.
        """
        self.max_batch_size = max_batch_size
        """most images in a batch, as far as the memory of the device allows."""
        self._expected_s = expected_s

    def most(self, num_waiting: int, part: Part) -> int:
        """The size if there were no hurry."""
        return min(num_waiting, self.max_batch_size, part.max_images)

    def least(self, lane: K, most: int) -> int:
        """Fewest images of a batch that costs hardly more an image than one of `most`."""
        image_s = EFFICIENT * self._expected_s(lane, most) / most
        while most > 1 and self._expected_s(lane, most - 1) <= image_s * (most - 1):
            most -= 1
        return most

    def to_take(self, lane: K, num_waiting: int, first: Job, now: float, part: Part) -> int:
        """As many as let the first job keep its deadline and, if it costs little, its budget."""
        num_images = self.most(num_waiting, part)
        if math.isinf(first.due):
            return num_images
        num_images = self._within(lane, num_images, 1, (first.deadline - now) / part.seconds(1))
        least = self.least(lane, num_images)
        within_s = min(first.budget_ends - now, BATCH_SHARE * first.allowance_s)
        return self._within(lane, num_images, least, within_s / part.seconds(1))

    def _within(self, lane: K, most: int, least: int, seconds: float) -> int:
        """The largest batch that takes no longer, of `least` to `most` images."""
        while most > least and self._expected_s(lane, most) > seconds:
            most -= 1
        return most
