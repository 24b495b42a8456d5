"""Waiting images become batches: the loop that gives a device its work, one batch at a time.

Batches are formed as late as possible: when the device is free it takes what waits.
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

from service.batch_policy import BatchPolicy, DispatchReason, SpareTime
from service.errors import (
    DeviceStuckError,
    InferenceError,
    NotReadyError,
    OutOfDeviceMemoryError,
    ServiceError,
)
from service.lanes import Answer, Job, Lanes

K = TypeVar("K")
logger = logging.getLogger(__name__)

LONGEST_SLEEP_S = 0.1
"""while images wait for company: so soon is a shutdown noticed"""
BATCHES_UNTIL_GROWTH = 100
"""that fit, one after the other, until larger ones are tried again after one that did not"""


class Finished(NamedTuple, Generic[K]):
    """A batch that was computed, for whoever counts."""

    lane: K
    num_images: int
    seconds: float
    reason: DispatchReason

    @property
    def is_spare(self) -> bool:
        """Whether no client waited for it."""
        return self.reason == "spare"


class _Batch(NamedTuple, Generic[K]):
    """What the device computes."""

    lane: K
    jobs: list[Job]
    reason: DispatchReason
    started: float

    @property
    def is_spare(self) -> bool:
        return self.reason == "spare"


Forward = Callable[[K, Sequence[Tensor]], Awaitable[Sequence[Tensor]]]
"""(lane, B images (3, H, W)) -> B rows of logits (K,)."""


class Hooks(NamedTuple, Generic[K]):
    """What a batcher asks and tells those around it."""

    expected_s: Callable[[K, int], float]
    """forecast for a batch of a lane, in seconds"""
    on_batch: Callable[[Finished[K]], None] = lambda _: None
    """told of every finished batch"""
    is_draining: Callable[[], bool] = lambda: False
    """whether the service is shutting down"""


class Batcher(Generic[K]):
    """Collects jobs in lanes and runs them, a batch at a time, earliest due time first."""

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
            forward: runs one batch; one call at a time.
            policy: when a lane becomes a batch.
            hooks: whom to ask and tell.
            spare_time: when the device may work for `submit_spare`.
            clock: seconds, monotonic; deadlines are on it.
        """
        self._forward = forward
        self._max_batch_size = policy.max_batch_size
        self._expected_s, self._on_batch, self._is_draining = hooks
        self._spare_time = spare_time or SpareTime()
        self._clock = clock
        self._lanes: Lanes[K] = Lanes(policy, hooks.expected_s)
        self._spare: deque[tuple[K, Job]] = deque()
        self._running: _Batch[K] | None = None
        self._num_fitting = 0
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
        running = self._running
        return self.num_waiting > 0 or (running is not None and not running.is_spare)

    @property
    def running_s(self) -> float:
        """Seconds for which the present batch has been running; 0.0 if there is none."""
        return 0.0 if self._running is None else self._clock() - self._running.started

    @property
    def backlog_s(self) -> float:
        """Forecast of the seconds until all that is inside has been computed."""
        return self._rest_s() + self._lanes.expected_all_s

    def expected_wait_s(self, lane: K, num_images: int, due: float) -> float:
        """Forecast for images that came now: seconds until all of them are answered.

        The rest of the running batch, what goes first in other lanes, and their own lane's batches.
        """
        is_busy = self._running is not None
        return self._rest_s() + self._lanes.expected_ahead_s(lane, num_images, due, is_busy=is_busy)

    async def run(self) -> None:
        """Compute batches until cancelled; whatever still waits then is told so.

        Raises:
            DeviceStuckError: the device is broken, and no further batch would succeed.
        """
        try:
            while True:
                self._work.clear()
                batch, wait_s = self._next_batch()
                if batch is not None:
                    await self._run_batch(batch)
                else:
                    await self._wait_for_work(wait_s)
        finally:
            self._close()

    async def watch(self, max_batch_s: float) -> None:
        """Until cancelled, see that no batch takes longer than it may.

        Raises:
            DeviceStuckError: one did. All who wait have been told, and nothing is accepted.
        """
        while True:
            await asyncio.sleep(max_batch_s / 10)
            if self._running is not None and self.running_s > max_batch_s:
                num_images = len(self._running.jobs)
                self._close()
                raise DeviceStuckError(
                    f"a batch of {num_images} images has not ended within {max_batch_s:g} s"
                )

    def _close(self) -> None:
        """Refuse new jobs, and tell all that wait."""
        self._closed = True
        running = [] if self._running is None else self._running.jobs
        spare = [job for _, job in self._spare]
        self._spare.clear()
        _fail([*running, *self._lanes.clear(), *spare], _shutting_down)

    def _rest_s(self) -> float:
        """Forecast of the seconds until the running batch ends."""
        if self._running is None:
            return 0.0
        expected_s = self._expected_s(self._running.lane, len(self._running.jobs))
        return max(0.0, expected_s - self.running_s)

    def _next_batch(self) -> tuple[_Batch[K] | None, float]:
        """The batch to start now, or None and the seconds until there may be one."""
        now, is_draining = self._clock(), self._is_draining()
        self._lanes.drop_dead(now)
        self._lanes.put_hopeless_last(now)
        chosen = self._lanes.next(now, is_draining=is_draining)
        if chosen is None:
            return (None, math.inf) if is_draining else self._next_spare(now)
        if chosen.wait_s > 0:
            return None, min(chosen.wait_s, LONGEST_SLEEP_S)
        jobs = self._lanes.take(chosen.lane, now)
        return _Batch(chosen.lane, jobs, chosen.reason, now), 0.0

    def _next_spare(self, now: float) -> tuple[_Batch[K] | None, float]:
        """The same, for when no client waits."""
        if not self._spare:
            return None, math.inf
        if (wait_s := self._spare_time.wait_s(now)) > 0:
            return None, wait_s
        lane, job = self._spare.popleft()
        return _Batch(lane, [job], "spare", now), 0.0

    async def _wait_for_work(self, wait_s: float) -> None:
        """Sleep until a job comes, or for so long."""
        try:
            async with asyncio.timeout(None if math.isinf(wait_s) else wait_s):
                await self._work.wait()
        except TimeoutError:
            return

    async def _run_batch(self, batch: _Batch[K]) -> None:
        """Compute one batch and answer each of its jobs exactly once.

        Raises:
            DeviceStuckError: the device is broken. All who wait for this batch have been told.
        """
        self._running = batch
        try:
            for job in batch.jobs:
                job.on_start()
            rows = await self._forward(batch.lane, [job.pixels for job in batch.jobs])
            answered = list(zip(batch.jobs, rows, strict=True))
            seconds = self.running_s
            self._on_batch(Finished(batch.lane, len(batch.jobs), seconds, batch.reason))
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
            for job, logits in answered:
                if not job.answer.done():
                    queue_s = batch.started - job.submitted
                    job.answer.set_result(Answer(logits, queue_s, seconds, len(batch.jobs)))
        finally:
            self._running = None
            self._spare_time.used(
                started=batch.started, ended=self._clock(), is_spare=batch.is_spare
            )

    def _split(self, batch: _Batch[K], error: OutOfDeviceMemoryError) -> None:
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
        if limit < self._max_batch_size and self._num_fitting % BATCHES_UNTIL_GROWTH == 0:
            self._lanes.max_batch_size = min(2 * limit, self._max_batch_size)
            logger.info("larger batches", extra={"max_batch_size": self._lanes.max_batch_size})


def _shutting_down() -> ServiceError:
    return NotReadyError("the service is shutting down; try another replica")


def _fail(jobs: Iterable[Job], error: Callable[[], ServiceError]) -> None:
    """Tell every job that still waits; each gets an error of its own, with its own traceback."""
    for job in jobs:
        if not job.answer.done():
            job.answer.set_exception(error())
