"""Decides which batch starts next, when, and on how much of the device. It never waits itself.

Batches are formed as late as possible: when the device, or a part of it, becomes free, the
scheduler forms a batch of the jobs that wait then. Callers tell it every event; it asks only the
forecast.
"""

import logging
import math
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from service.scheduling.division import Division
from service.scheduling.jobs import Job
from service.scheduling.lanes import Lanes
from service.scheduling.outlook import Outlook
from service.scheduling.policy import BatchPolicy, SpareTime
from service.scheduling.running import Batch, RunningBatches

K = TypeVar("K")
logger = logging.getLogger(__name__)

LONGEST_SLEEP_S = 0.005
"""A lane that waits for more images is checked again after this time: there may be none to come."""
TURNAROUND_S = 0.01
"""A client that sends its next image as soon as it has an answer does so within this time."""
BATCHES_UNTIL_GROWTH = 100
"""After a batch did not fit into memory, so many must fit in a row before larger ones are tried."""


class Scheduler(Generic[K]):
    """Everything that waits or runs, and what follows from it. Times are seconds on one clock."""

    def __init__(
        self,
        policy: BatchPolicy,
        expected_s: Callable[[K, int], float],
        spare_time: SpareTime | None = None,
        *,
        observe: Callable[[K, int, float], None] = lambda *_: None,
        caution: Callable[[], float] = lambda: 1.0,
    ) -> None:
        """Begin with no job and no batch.

        Args:
            policy: when a lane becomes a batch, and what it gets of the device.
            expected_s: forecast for a batch of so many images of a lane, in seconds of the whole
                device while all its streams compute.
            spare_time: when the device may do work that no client waits for.
            observe: told of each batch: lane, number of images, seconds as in `expected_s`.
            caution: factor, at least 1, from a forecast to a time that most work keeps.
        """
        self.policy = policy
        self.running: RunningBatches[K] = RunningBatches(expected_s)
        self.division: Division[K] = Division(policy)
        """what the next batch gets of the device"""
        self._lanes: Lanes[K] = Lanes(policy, expected_s)
        self._spare_time = spare_time or SpareTime()
        self._observe = observe
        self.outlook: Outlook[K] = Outlook(
            self._lanes, self.running, self.division, expected_s, caution
        )
        """forecasts over the jobs and batches inside"""
        self._spare: deque[tuple[K, Job]] = deque()
        self._is_draining = False
        self._num_fitting = 0
        self._answered_at = -math.inf

    @property
    def num_waiting(self) -> int:
        """Images of clients that wait."""
        return self._lanes.num_waiting

    def put(self, lane: K, job: Job) -> None:
        """Let a client's job wait."""
        num_others = self.num_waiting + self.running.num_images + self.outlook.num_coming
        self.division.came(num_others, job.submitted)
        self._lanes.put(lane, job)

    def put_spare(self, lane: K, job: Job) -> None:
        """Let a job wait that no client waits for: it gets a batch of its own in spare time."""
        self._spare.append((lane, job))

    def forget(self, lane: K, job: Job) -> None:
        """Take out a job whose client has left, if it has not started."""
        self._lanes.forget(lane, job)
        self._spare = deque(entry for entry in self._spare if entry[1] is not job)

    def coming(self, change: int) -> None:
        """Add `change` to the number of images that are being decoded."""
        self.outlook.num_coming += change

    def drain(self) -> None:
        """No further image will come: lanes no longer wait for more images."""
        self._is_draining = True

    def take_expired(self, now: float) -> list[Job]:
        """Take out the jobs whose deadline has passed."""
        return self._lanes.take_expired(now)

    def clear(self) -> list[Job]:
        """Take out all jobs that wait; returns them and the jobs of running batches."""
        running = [job for batch in self.running.batches for job in batch.jobs]
        spare = [job for _, job in self._spare]
        self._spare.clear()
        return [*running, *self._lanes.clear(), *spare]

    def next(self, now: float, free_since: float) -> Batch[K] | float:
        """The batch that a stream free since `free_since` starts now, or seconds to wait."""
        part = self.division.part(
            self.running.threads_taken,
            self._lanes.jobs,
            self.num_waiting,
            now,
            self.outlook.num_coming,
        )
        if part is None:
            return math.inf
        self._lanes.defer_late(now, part)
        chosen = self._lanes.next(
            *(now, part),
            gathering_s=now - free_since if self._company_comes(now) else None,
            is_draining=self._is_draining,
        )
        if chosen is None:
            return math.inf if self._is_draining else self._next_spare(now)
        if chosen.wait_s > 0:
            return min(chosen.wait_s, LONGEST_SLEEP_S)
        jobs = self._lanes.take(chosen.lane, now, part)
        return self._start(Batch(chosen.lane, jobs, chosen.reason, now, part))

    def ended(self, batch: Batch[K], now: float) -> None:
        """A batch has ended, with or without a result."""
        self.running.batches.remove(batch)
        self._spare_time.used(started=batch.started, ended=now, is_spare=batch.is_spare)

    def computed(self, batch: Batch[K], now: float) -> None:
        """A batch fitted into memory; after some of these, larger ones are tried again."""
        self._observe(batch.lane, len(batch.jobs), batch.work_s(now))
        self._answered_at = now
        self._num_fitting += 1
        limit = self._lanes.sizes.max_batch_size
        if limit < self.policy.max_batch_size and self._num_fitting % BATCHES_UNTIL_GROWTH == 0:
            self._lanes.sizes.max_batch_size = min(2 * limit, self.policy.max_batch_size)
            logger.info(
                "larger batches", extra={"max_batch_size": self._lanes.sizes.max_batch_size}
            )

    def split(self, batch: Batch[K]) -> bool:
        """Put back a batch that did not fit into memory; later ones are at most half its size.

        False if the batch holds a single image, which cannot be split.
        """
        self._num_fitting = 0
        if len(batch.jobs) == 1:
            return False
        self._lanes.sizes.max_batch_size = (len(batch.jobs) + 1) // 2
        logger.warning(
            "out of device memory", extra={"max_batch_size": self._lanes.sizes.max_batch_size}
        )
        for job in batch.jobs:
            if not job.answer.done():
                self._lanes.put(batch.lane, job)
        return True

    def _company_comes(self, now: float) -> bool:
        """Whether more images are likely soon, and little of the device is idle until then.

        A device that has nothing to do does not wait, nor does a stream that has its share of all
        images inside. Clients that just got an answer may send another image at once.
        """
        num_running = self.running.num_images
        if self.policy.num_streams == 1 or num_running == 0:
            return False
        num_inside = self.num_waiting + self.outlook.num_coming + num_running
        share = math.ceil(num_inside / self.policy.num_streams)
        they_come = self.outlook.num_coming > 0 or now - self._answered_at < TURNAROUND_S
        return they_come and self.num_waiting < share

    def _next_spare(self, now: float) -> Batch[K] | float:
        """Like `next`, for spare jobs. None starts beside a running batch, which it would slow."""
        if not self._spare or self.running.batches:
            return math.inf
        if (wait_s := self._spare_time.wait_s(now)) > 0:
            return wait_s
        lane, job = self._spare.popleft()
        part = self.division.part([], [lane], 1, now)
        assert part is not None
        return self._start(Batch(lane, [job], "spare", now, part))

    def _start(self, batch: Batch[K]) -> Batch[K]:
        self.running.batches.append(batch)
        return batch
