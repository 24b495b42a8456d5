"""The batches that a device computes at the same time, and what each of them has of it."""

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from service.scheduling.lanes import Job
from service.scheduling.policy import DispatchReason, Part

K = TypeVar("K")


class Batch(NamedTuple, Generic[K]):
    """What one stream computes."""

    lane: K
    jobs: list[Job]
    reason: DispatchReason
    started: float
    part: Part

    @property
    def is_spare(self) -> bool:
        """Whether no client waits for it."""
        return self.reason == "spare"


class Streams(Generic[K]):
    """What is being computed now."""

    def __init__(self, expected_s: Callable[[K, int], float], clock: Callable[[], float]) -> None:
        """Start idle.

        Args:
            expected_s: forecast for a batch of so many images of a lane on the whole device.
            clock: seconds, monotonic.
        """
        self.running: list[Batch[K]] = []
        """in the order in which they started"""
        self._expected_s = expected_s
        self._clock = clock

    @property
    def threads_taken(self) -> list[int]:
        """Threads of each running batch."""
        return [batch.part.num_threads for batch in self.running]

    @property
    def num_images(self) -> int:
        """Images of clients in all of them."""
        return sum(len(batch.jobs) for batch in self.running if not batch.is_spare)

    @property
    def oldest(self) -> Batch[K] | None:
        """The batch that has been running longest."""
        return self.running[0] if self.running else None

    @property
    def longest_s(self) -> float:
        """Seconds for which it has been running; 0.0 if there is none."""
        return 0.0 if self.oldest is None else self._clock() - self.oldest.started

    @property
    def rest_s(self) -> float:
        """Forecast of the work that is left in all of them, in seconds of the whole device."""
        return sum(map(self._rest_s, self.running))

    def _rest_s(self, batch: Batch[K]) -> float:
        work_s = self._expected_s(batch.lane, len(batch.jobs))
        return max(0.0, work_s - batch.part.share * (self._clock() - batch.started))
