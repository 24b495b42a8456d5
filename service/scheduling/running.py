"""The batches that a device computes at the same time, and the threads of each."""

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from service.scheduling.jobs import Job
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

    def device_s(self, now: float) -> float:
        """Seconds that the whole device would have needed for the work done since its start."""
        return self.part.share * (now - self.started)

    def work_s(self, now: float) -> float:
        """The same, had all streams computed without loss; forecasts count in these seconds."""
        return self.device_s(now) / self.part.loss


class RunningBatches(Generic[K]):
    """What is being computed now."""

    def __init__(self, expected_s: Callable[[K, int], float]) -> None:
        """Begin with no batch.

        Args:
            expected_s: as the scheduler takes it.
        """
        self.batches: list[Batch[K]] = []
        """in the order in which they started"""
        self._expected_s = expected_s

    @property
    def threads_taken(self) -> list[int]:
        """Threads of each running batch."""
        return [batch.part.num_threads for batch in self.batches]

    @property
    def num_images(self) -> int:
        """Images of clients in all running batches."""
        return sum(len(batch.jobs) for batch in self.batches if not batch.is_spare)

    @property
    def oldest(self) -> Batch[K] | None:
        """The batch that has been running longest."""
        return self.batches[0] if self.batches else None

    def longest_s(self, now: float) -> float:
        """Seconds for which the oldest batch has been running; 0.0 if there is none."""
        return 0.0 if self.oldest is None else now - self.oldest.started

    def rest_s(self, now: float) -> float:
        """Forecast of the work that is left in all batches, in seconds of the whole device."""
        return sum(self._rest_s(batch, now) for batch in self.batches)

    def _rest_s(self, batch: Batch[K], now: float) -> float:
        work_s = self._expected_s(batch.lane, len(batch.jobs))
        return max(0.0, work_s - batch.work_s(now))
