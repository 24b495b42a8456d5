"""Forecasts: how long the work inside will take, and how long a new image will wait."""

import math
from collections.abc import Callable
from typing import Generic, TypeVar

from service.scheduling.lanes import Lanes
from service.scheduling.policy import BatchPolicy
from service.scheduling.running import RunningBatches

K = TypeVar("K")


class Outlook(Generic[K]):
    """Forecasts over what waits and what runs. Times are seconds on the scheduler's clock."""

    def __init__(
        self,
        policy: BatchPolicy,
        lanes: Lanes[K],
        running: RunningBatches[K],
        expected_s: Callable[[K, int], float],
        caution: Callable[[], float],
    ) -> None:
        """Read the state that a scheduler keeps.

        Args:
            policy: how the device is shared.
            lanes: jobs that wait.
            running: batches that are being computed.
            expected_s: forecast for a batch of so many images of a lane on the whole device.
            caution: factor, at least 1, from a forecast to a time that most work keeps.
        """
        self.num_coming = 0
        """images that are being decoded"""
        self._policy = policy
        self._lanes = lanes
        self._running = running
        self._expected_s = expected_s
        self._caution = caution

    def backlog_s(self, now: float) -> float:
        """Forecast of the seconds until all that is inside has been computed."""
        waiting_s = sum(self._lane_s(lane, len(jobs)) for lane, jobs in self._lanes.jobs.items())
        return self._running.rest_s(now) + waiting_s

    def wait_s(self, lane: K, num_images: int, due: float, now: float) -> float:
        """Seconds, by forecast, until images that came now are all answered.

        The forecast adds up three parts: the rest of the running batches, the earlier jobs of other
        lanes, and the batches of the images' own lane. The last of these batches gets one stream
        only, unless all are free. Images that are being decoded count as if they were in this
        lane, because their own lanes are not known yet.

        Args:
            lane: of the images.
            num_images: how many.
            due: when they should be answered.
            now: seconds on the scheduler's clock.
        """
        seconds = self._without_caution_s(lane, num_images, due, now)
        if self.num_coming:
            seconds += self.num_coming * self._expected_s(lane, 1)
        return self._caution() * seconds

    def alone_s(self, lane: K, num_images: int) -> float:
        """Seconds, by forecast, for images that have the whole device; without caution."""
        return self._lane_s(lane, num_images)

    def _without_caution_s(self, lane: K, num_images: int, due: float, now: float) -> float:
        taken = self._running.threads_taken
        ahead_s = self._ahead_s(lane, num_images, due, is_busy=bool(taken))
        if self._lanes.num_waiting == 0 and self._policy.part(taken, num_images) is not None:
            return ahead_s / (1 - sum(taken) / self._policy.num_threads)
        own_lane = self._lanes.jobs.get(lane, ())
        last_size = min(self._lanes.max_batch_size, num_images + len(own_lane))
        last_s = (self._policy.num_streams - 1) * self._expected_s(lane, last_size)
        return self._running.rest_s(now) + ahead_s + last_s

    def _ahead_s(self, lane: K, num_images: int, due: float, *, is_busy: bool) -> float:
        """Seconds of the whole device for images that came now and all jobs before them."""
        size = self._lanes.max_batch_size
        seconds = 0.0
        for other, jobs in {lane: (), **self._lanes.jobs}.items():
            ours = num_images if other == lane else 0
            earlier = ours + sum(job.due <= due for job in jobs)
            # Less urgent images fill up the batches of the urgent ones. Where a lane is longer than
            # a batch, new images will have come before the last batch of ours is formed.
            full = math.ceil(earlier / size) * size
            is_filling = ours and earlier > size and is_busy
            seconds += self._lane_s(other, full if is_filling else min(ours + len(jobs), full))
        return seconds

    def _lane_s(self, lane: K, num_images: int) -> float:
        """Seconds, by forecast, for so many images of one lane."""
        size = self._lanes.max_batch_size
        full, rest = divmod(num_images, size)
        full_s = full * self._expected_s(lane, size) if full else 0.0
        return full_s + (self._expected_s(lane, rest) if rest else 0.0)
