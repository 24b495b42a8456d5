"""Waiting images become batches: the loops that give a device its work.

Batches are formed as late as possible: when the device, or a part of it, is free it takes what
waits.
"""

import asyncio
import itertools
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

from torch import Tensor

from service.errors import (
    DeviceStuckError,
    InferenceError,
    NotReadyError,
    OutOfDeviceMemoryError,
    ServiceError,
)
from service.scheduling.lanes import Answer, Job, Lanes
from service.scheduling.policy import BatchPolicy, DispatchReason, Part, SpareTime
from service.scheduling.running import Batch, Streams

K = TypeVar("K")
logger = logging.getLogger(__name__)

LONGEST_SLEEP_S = 0.005
"""while images wait for company: so soon is noticed that none comes any more"""
TURNAROUND_S = 0.01
"""within which a client that got its answer sends its next image, if it does so at once"""
BATCHES_UNTIL_GROWTH = 100
"""that fit, one after the other, until larger ones are tried again after one that did not"""


class Finished(NamedTuple, Generic[K]):
    """A batch that was computed, for whoever counts."""

    lane: K
    num_images: int
    seconds: float
    reason: DispatchReason
    device_s: float
    """the same work on the whole device"""

    @property
    def is_spare(self) -> bool:
        """Whether no client waited for it."""
        return self.reason == "spare"


Forward = Callable[[K, Sequence[Tensor], int], Awaitable[Sequence[Tensor]]]
"""(lane, B images (3, H, W), number of threads) -> B rows of logits (K,)."""


class Hooks(NamedTuple, Generic[K]):
    """What a batcher asks and tells those around it."""

    expected_s: Callable[[K, int], float]
    """forecast for a batch of a lane on the whole device, in seconds"""
    on_batch: Callable[[Finished[K]], None] = lambda _: None
    """told of every finished batch"""
    is_draining: Callable[[], bool] = lambda: False
    """whether the service is shutting down"""
    num_coming: Callable[[], int] = lambda: 0
    """images of clients that are being decoded"""


class Batcher(Generic[K]):
    """Collects jobs in lanes and runs them in batches, earliest due time first."""

    def __init__(
        self,
        forward: Forward[K],
        policy: BatchPolicy,
        hooks: Hooks[K],
        *,
        spare_time: SpareTime | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare an empty batcher.

        Args:
            forward: runs one batch; as many calls at a time as the policy has streams.
            policy: when a lane becomes a batch, and what it gets of the device.
            hooks: whom to ask and tell.
            spare_time: when the device may work for `submit_spare`.
            clock: seconds, monotonic; deadlines are on it.
        """
        self._forward = forward
        self._policy = policy
        self._expected_s, self._on_batch, self._is_draining, self._num_coming = hooks
        self._spare_time = spare_time or SpareTime()
        self._clock = clock
        self._lanes: Lanes[K] = Lanes(policy, hooks.expected_s)
        self._spare: deque[tuple[K, Job]] = deque()
        self._streams: Streams[K] = Streams(hooks.expected_s, clock)
        self._num_fitting = 0
        self._answered_at = -math.inf
        self._work = asyncio.Event()
        self._numbers = itertools.count()
        self._closed = False

    async def submit(
        self,
        lane: K,
        pixels: Tensor,
        *,
        due: float,
        deadline: float,
        on_start: Callable[[], None] = lambda: None,
    ) -> Answer:
        """Wait for the answer to one image (3, H, W).

        Cancel it, and the image is never computed if its batch has not started.

        Args:
            lane: what may share a batch.
            pixels: the image.
            due: when it should be answered; the earliest goes first.
            deadline: when nobody waits for it any more.
            on_start: called when its batch starts.

        Raises:
            TimeoutError: its batch would have started after the deadline.
            OutOfDeviceMemoryError: not even alone does it fit into the memory of the device.
            InferenceError: the batch failed.
            NotReadyError: the batcher was closed.
        """
        job = self._job(pixels, due, deadline, on_start)
        self._lanes.put(lane, job)
        self._work.set()
        try:
            return await job.answer
        except asyncio.CancelledError:
            self._lanes.forget(lane, job)
            raise

    async def submit_spare(self, lane: K, pixels: Tensor) -> Answer:
        """Wait for the answer to one image (3, H, W) that the device computes when it has time.

        It gets a batch of its own, and that only while no client's image waits.

        Raises:
            OutOfDeviceMemoryError: it does not fit into the memory of the device.
            InferenceError: the batch failed.
            NotReadyError: the batcher was closed.
        """
        job = self._job(pixels, math.inf, math.inf, lambda: None)
        self._spare.append((lane, job))
        self._work.set()
        try:
            return await job.answer
        except asyncio.CancelledError:
            self._spare = deque(entry for entry in self._spare if entry[1] is not job)
            raise

    def _job(
        self, pixels: Tensor, due: float, deadline: float, on_start: Callable[[], None]
    ) -> Job:
        """Make a job.

        Raises:
            NotReadyError: the batcher was closed.
        """
        if self._closed:
            raise _shutting_down()
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        return Job(due, next(self._numbers), deadline, pixels, self._clock(), on_start, answer)

    @property
    def num_waiting(self) -> int:
        """Images of clients that wait."""
        return self._lanes.num_waiting

    @property
    def is_busy(self) -> bool:
        """Whether images of clients wait or are being computed."""
        return self.num_waiting > 0 or self._streams.num_images > 0

    @property
    def running_s(self) -> float:
        """Seconds for which the oldest batch has been running; 0.0 if there is none."""
        return self._streams.longest_s

    @property
    def backlog_s(self) -> float:
        """Forecast of the seconds until all that is inside has been computed."""
        return self._streams.rest_s + self._lanes.expected_all_s

    def expected_wait_s(self, lane: K, num_images: int, due: float) -> float:
        """Forecast for images that came now: seconds until all of them are answered.

        The rest of the running batches, what goes first in other lanes, and their own lane's
        batches, the last of which has one stream only unless all are free.
        """
        taken = self._streams.threads_taken
        ahead_s = self._lanes.expected_ahead_s(lane, num_images, due, is_busy=bool(taken))
        if self.num_waiting == 0 and self._policy.part(taken, num_images) is not None:
            return ahead_s / (1 - sum(taken) / self._policy.num_threads)
        slower = self._policy.num_streams - 1
        last_s = slower * self._expected_s(lane, self._lanes.next_size(lane, num_images))
        return self._streams.rest_s + ahead_s + last_s

    async def run(self) -> None:
        """Compute batches until cancelled; whatever still waits then is told so.

        Raises:
            DeviceStuckError: the device is broken, and no further batch would succeed.
        """
        loops = [asyncio.create_task(self._fill_stream()) for _ in range(self._policy.num_streams)]
        try:
            await asyncio.gather(*loops)
        finally:
            self._close()
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)

    async def _fill_stream(self) -> None:
        """One batch after the other; every stream has a loop of its own, and all are alike."""
        free_since = self._clock()
        while True:
            self._work.clear()
            batch, wait_s = self._next_batch(free_since)
            if batch is not None:
                await self._run_batch(batch)
                free_since = self._clock()
            else:
                await self._wait_for_work(wait_s)

    async def watch(self, max_batch_s: float) -> None:
        """Until cancelled, see that no batch takes longer than it may.

        Raises:
            DeviceStuckError: one did. All who wait have been told, and nothing is accepted.
        """
        while True:
            await asyncio.sleep(max_batch_s / 10)
            oldest = self._streams.oldest
            if oldest is not None and self.running_s > max_batch_s:
                self._close()
                raise DeviceStuckError(
                    f"a batch of {len(oldest.jobs)} images has not ended within {max_batch_s:g} s"
                )

    def _close(self) -> None:
        """Refuse new jobs, and tell all that wait."""
        self._closed = True
        running = [job for batch in self._streams.running for job in batch.jobs]
        spare = [job for _, job in self._spare]
        self._spare.clear()
        _fail([*running, *self._lanes.clear(), *spare], _shutting_down)

    def _next_batch(self, free_since: float) -> tuple[Batch[K] | None, float]:
        """The batch to start now, or None and the seconds until there may be one."""
        now, is_draining = self._clock(), self._is_draining()
        self._lanes.drop_dead(now)
        num_coming = self._num_coming()
        part = self._policy.part(self._streams.threads_taken, self.num_waiting, num_coming)
        if part is None:
            return None, math.inf
        self._lanes.put_hopeless_last(now, part)
        chosen = self._lanes.next(
            *(now, part),
            gathering_s=now - free_since if self._company_comes(now, num_coming) else None,
            is_draining=is_draining,
        )
        if chosen is None:
            return (None, math.inf) if is_draining else self._next_spare(now, part)
        if chosen.wait_s > 0:
            return None, min(chosen.wait_s, LONGEST_SLEEP_S)
        jobs = self._lanes.take(chosen.lane, now, part)
        return Batch(chosen.lane, jobs, chosen.reason, now, part), 0.0

    def _company_comes(self, now: float, num_coming: int) -> bool:
        """Whether waiting a little gathers images and leaves little idle meanwhile.

        Where batches run beside each other, images are decoded on the same cores; a device that
        has nothing to do does not wait, nor does a stream that has its share of all images that
        are inside. Clients that were just answered may come back at once.
        """
        num_running = self._streams.num_images
        if self._policy.num_streams == 1 or num_running == 0:
            return False
        num_inside = self.num_waiting + num_coming + num_running
        share = math.ceil(num_inside / self._policy.num_streams)
        they_come = num_coming > 0 or now - self._answered_at < TURNAROUND_S
        return they_come and self.num_waiting < share

    def _next_spare(self, now: float, part: Part) -> tuple[Batch[K] | None, float]:
        """The same, for when no client waits; not beside another batch, which it would slow."""
        if not self._spare or self._streams.running:
            return None, math.inf
        if (wait_s := self._spare_time.wait_s(now)) > 0:
            return None, wait_s
        lane, job = self._spare.popleft()
        return Batch(lane, [job], "spare", now, part), 0.0

    async def _wait_for_work(self, wait_s: float) -> None:
        """Sleep until a job comes, or for so long."""
        try:
            async with asyncio.timeout(None if math.isinf(wait_s) else wait_s):
                await self._work.wait()
        except TimeoutError:
            return

    async def _run_batch(self, batch: Batch[K]) -> None:
        """Compute one batch and answer each of its jobs exactly once.

        Raises:
            DeviceStuckError: the device is broken. All who wait for this batch have been told.
        """
        self._streams.running.append(batch)
        try:
            for job in batch.jobs:
                job.on_start()
            images = [job.pixels for job in batch.jobs]
            rows = await self._forward(batch.lane, images, batch.part.num_threads)
            answered = list(zip(batch.jobs, rows, strict=True))
            seconds = self._clock() - batch.started
            device_s = seconds * batch.part.share
            self._on_batch(Finished(batch.lane, len(images), seconds, batch.reason, device_s))
        except (asyncio.CancelledError, DeviceStuckError):
            _fail(batch.jobs, _shutting_down)
            raise
        except OutOfDeviceMemoryError as exc:
            self._split(batch, exc)
        except Exception as exc:  # the loop outlives any batch, and each client is told
            logger.exception("a batch failed", extra={"num_images": len(batch.jobs)})
            message = f"the model failed: {type(exc).__name__}"
            _fail(batch.jobs, lambda: InferenceError(message))
        else:
            self._grow()
            self._answered_at = self._clock()
            for job, logits in answered:
                if not job.answer.done():
                    queue_s = batch.started - job.submitted
                    job.answer.set_result(Answer(logits, queue_s, seconds, len(batch.jobs)))
        finally:
            self._streams.running.remove(batch)
            self._work.set()  # what is free now may be shared among several streams
            self._spare_time.used(
                started=batch.started, ended=self._clock(), is_spare=batch.is_spare
            )

    def _split(self, batch: Batch[K], error: OutOfDeviceMemoryError) -> None:
        """Put a batch that did not fit back, and form none larger than its half from now on."""
        num_images, self._num_fitting = len(batch.jobs), 0
        if num_images == 1:
            logger.error("one image does not fit into the memory of the device")
            _fail(batch.jobs, lambda: OutOfDeviceMemoryError(str(error)))
            return
        self._lanes.max_batch_size = (num_images + 1) // 2
        logger.warning("out of device memory", extra={"max_batch_size": self._lanes.max_batch_size})
        for job in batch.jobs:
            if not job.answer.done():
                self._lanes.put(batch.lane, job)

    def _grow(self) -> None:
        """Try larger batches again some time after one that did not fit."""
        self._num_fitting += 1
        limit = self._lanes.max_batch_size
        if limit < self._policy.max_batch_size and self._num_fitting % BATCHES_UNTIL_GROWTH == 0:
            self._lanes.max_batch_size = min(2 * limit, self._policy.max_batch_size)
            logger.info("larger batches", extra={"max_batch_size": self._lanes.max_batch_size})


def _shutting_down() -> ServiceError:
    return NotReadyError("the service is shutting down; try another replica")


def _fail(jobs: Iterable[Job], error: Callable[[], ServiceError]) -> None:
    """Tell every job that still waits; each gets an error of its own, with its own traceback."""
    for job in jobs:
        if not job.answer.done():
            job.answer.set_exception(error())
