"""Forecasts: how long the work inside will take, and how long a new image will wait."""

import math
from collections import Counter
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from service.scheduling.ahead import Ahead, New, Queue
from service.scheduling.division import Division
from service.scheduling.jobs import Owner
from service.scheduling.lanes import Lanes
from service.scheduling.running import RunningBatches

K = TypeVar("K")


class Wait(NamedTuple):
    """A forecast for images that came now; seconds with caution."""

    seconds: float
    """until all of them are answered"""
    alone_s: float
    """the same if nothing else were inside"""
    rest_s: float
    """how much of it passes between the first image and the last one"""


class Outlook(Generic[K]):
    """Forecasts over what waits and what runs. Times are seconds on the scheduler's clock."""

    def __init__(
        self,
        lanes: Lanes[K],
        running: RunningBatches[K],
        division: Division[K],
        expected_s: Callable[[K, int], float],
        caution: Callable[[], float],
    ) -> None:
        """Read the state that a scheduler keeps.

        Args:
            lanes: jobs that wait.
            running: batches that are being computed.
            division: what the next batch gets of the device.
            expected_s: forecast for a batch of so many images of a lane on the whole device.
            caution: factor, at least 1, from a forecast to a time that most work keeps.
        """
        self.num_coming = 0
        """images that are being decoded"""
        self._policy = lanes.policy
        self._lanes = lanes
        self._running = running
        self._expected_s = expected_s
        self._caution = caution
        self._division = division
        self.admitted: Counter[Owner] = Counter()
        """images of each owner that were let in but do not wait yet; whoever lets in counts"""
        self._queue = Queue(lanes, self._image_s, self.admitted)

    def backlog_s(self, now: float) -> float:
        """Forecast of the seconds until all that is inside has been computed."""
        waiting_s = sum(
            self._lane_s(lane, len(jobs), now) for lane, jobs in self._lanes.jobs.items()
        )
        return self._running.rest_s(now) + waiting_s

    def wait(self, lane: K, num_images: int, due: float, now: float, owner: Owner = None) -> Wait:
        """The forecast of `wait_s`, and what it would be on a device that has nothing else to do.

        Args: as of `wait_s`.
        """
        seconds = self.wait_s(lane, num_images, due, now, owner)
        alone_s = self._caution() * self.alone_s(lane, num_images, now)
        first_s = seconds if num_images == 1 else self.wait_s(lane, 1, due, now, owner)
        return Wait(seconds, alone_s, max(0.0, seconds - first_s))

    def wait_s(
        self, lane: K, num_images: int, due: float, now: float, owner: Owner = None
    ) -> float:
        """Seconds, by forecast, until images that came now are all answered.

        The forecast adds up three parts: the rest of the running batches, the jobs of other lanes
        that go before, and the batches of the images' own lane. The last of these batches gets one
        stream only, unless all are free. Images that have been let in and do not wait yet count as
        if they were in this lane, because their own lanes are not known. With several owners, the
        others' images count as far as their shares go.

        Args:
            lane: of the images.
            num_images: how many.
            due: when they should be answered.
            now: seconds on the scheduler's clock.
            owner: whose images they are.
        """
        new = New(lane, num_images, due, owner)
        ahead = self._queue.ahead_of(new, self.num_coming)
        seconds = self._without_caution_s(new, ahead, now)
        if ahead.num_coming:
            seconds += ahead.num_coming * self._expected_s(lane, 1)
        return self._caution() * seconds

    def alone_s(self, lane: K, num_images: int, now: float) -> float:
        """Seconds, by forecast, for images that have the whole device; without caution."""
        work_s = self._lane_s(lane, num_images, now)
        part = self._division.part([], [lane], num_images, now)
        return work_s if part is None or num_images > 1 else part.seconds(work_s)

    def _without_caution_s(self, new: New[K], ahead: Ahead[K], now: float) -> float:
        lane, num_images = new.lane, new.num_images
        taken = self._running.threads_taken
        ahead_s = self._ahead_s(new, ahead, now, is_busy=bool(taken))
        part = self._division.part(taken, [lane], num_images, now)
        if self._lanes.num_waiting == 0 and part is not None:
            if num_images == 1:
                return part.seconds(ahead_s)
            return ahead_s / (1 - sum(taken) / self._policy.num_threads)
        own_lane = self._lanes.jobs.get(lane, ())
        last_size = min(self._lanes.sizes.max_batch_size, num_images + len(own_lane))
        last_s = (self._policy.num_streams - 1) * self._expected_s(lane, last_size)
        return self._running.rest_s(now) + ahead_s + last_s

    def _ahead_s(self, new: New[K], ahead: Ahead[K], now: float, *, is_busy: bool) -> float:
        """Seconds of the whole device for images that came now and all jobs before them."""
        seconds = 0.0
        for other, jobs in {new.lane: (), **self._lanes.jobs}.items():
            size = self._size(other, now)
            ours = new.num_images if other == new.lane else 0
            earlier = ours + ahead.waiting.get(other, 0)
            # Less urgent images fill up the batches of the urgent ones. Where a lane is longer than
            # a batch, new images will have come before the last batch of ours is formed.
            full = math.ceil(earlier / size) * size
            is_filling = ours and earlier > size and is_busy
            seconds += self._lane_s(other, full if is_filling else min(ours + len(jobs), full), now)
        return seconds

    def _image_s(self, lane: K) -> float:
        size = self._lanes.sizes.max_batch_size
        return self._expected_s(lane, size) / size

    def _size(self, lane: K, now: float) -> int:
        """Images of a full batch."""
        return self._lanes.most_together(lane, self._lanes.sizes.max_batch_size, now)

    def _lane_s(self, lane: K, num_images: int, now: float) -> float:
        """Seconds, by forecast, for so many images of one lane."""
        size = self._size(lane, now)
        full, rest = divmod(num_images, size)
        full_s = full * self._expected_s(lane, size) if full else 0.0
        return full_s + (self._expected_s(lane, rest) if rest else 0.0)
