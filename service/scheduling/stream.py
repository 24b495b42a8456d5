"""A stream: the loop that computes one batch after the other and answers each job exactly once."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from service.errors import (
    DeviceStuckError,
    InferenceError,
    NotReadyError,
    OutOfDeviceMemoryError,
    ServiceError,
)
from service.scheduling.jobs import Answer, Job
from service.scheduling.policy import DispatchReason
from service.scheduling.running import Batch
from service.scheduling.scheduler import Scheduler

K = TypeVar("K")
logger = logging.getLogger(__name__)


class Finished(NamedTuple, Generic[K]):
    """The facts of a batch that was computed."""

    lane: K
    num_images: int
    seconds: float
    reason: DispatchReason
    device_s: float
    """seconds that the whole device would have needed"""
    is_spare: bool = False
    """whether no client waited for it"""


Forward = Callable[[K, Sequence[Any], int], Awaitable[Sequence[Any]]]
"""(lane, B images, number of threads) -> B results, in their order."""


class Stream(Generic[K]):
    """One of the loops that share a device; all are alike."""

    def __init__(
        self,
        forward: Forward[K],
        scheduler: Scheduler[K],
        on_batch: Callable[[Finished[K]], None],
        clock: Callable[[], float],
        work: asyncio.Event,
    ) -> None:
        """Create a stream; `run` is its loop.

        Args:
            forward: runs one batch.
            scheduler: shared by all streams; it decides which batch is next.
            on_batch: called with every finished batch.
            clock: seconds, monotonic; deadlines are on it.
            work: shared by all streams; set whenever the scheduler may have a new decision.
        """
        self._forward = forward
        self._scheduler = scheduler
        self._on_batch = on_batch
        self._clock = clock
        self._work = work

    async def run(self) -> None:
        """Compute batches until cancelled.

        Raises:
            DeviceStuckError: the device is broken, and no further batch would succeed.
        """
        free_since = self._clock()
        while True:
            self._work.clear()
            now = self._clock()
            fail(self._scheduler.take_expired(now), TimeoutError)
            found = self._scheduler.next(now, free_since)
            if isinstance(found, Batch):
                await self._run_batch(found)
                free_since = self._clock()
            else:
                await self._wait_for_work(found)

    async def _wait_for_work(self, wait_s: float) -> None:
        """Sleep until a job comes, at most `wait_s` seconds."""
        try:
            async with asyncio.timeout(None if math.isinf(wait_s) else wait_s):
                await self._work.wait()
        except TimeoutError:
            return

    async def _run_batch(self, batch: Batch[K]) -> None:
        """Compute one batch and answer each of its jobs exactly once.

        Raises:
            DeviceStuckError: the device is broken. All jobs of this batch got the error.
        """
        try:
            for job in batch.jobs:
                job.on_start()
            images = [job.image for job in batch.jobs]
            results = await self._forward(batch.lane, images, batch.part.num_threads)
            answered = list(zip(batch.jobs, results, strict=True))
            now = self._clock()
            seconds = now - batch.started
            self._scheduler.computed(batch, now)
            self._on_batch(
                Finished(
                    lane=batch.lane,
                    num_images=len(images),
                    seconds=seconds,
                    reason=batch.reason,
                    device_s=batch.device_s(now),
                    is_spare=batch.is_spare,
                )
            )
        except (asyncio.CancelledError, DeviceStuckError):
            fail(batch.jobs, shutting_down)
            raise
        except OutOfDeviceMemoryError as exc:
            self._split(batch, exc)
        except Exception as exc:  # the loop goes on after any batch, and each client gets an error
            logger.exception("a batch failed", extra={"num_images": len(batch.jobs)})
            message = f"the model failed: {type(exc).__name__}"
            fail(batch.jobs, lambda: InferenceError(message))
        else:
            for job, result in answered:
                if not job.answer.done():
                    queue_s = batch.started - job.submitted
                    job.answer.set_result(Answer(result, queue_s, seconds, len(batch.jobs)))
        finally:
            self._scheduler.ended(batch, self._clock())
            self._work.set()  # several streams may share the threads that are free now

    def _split(self, batch: Batch[K], error: OutOfDeviceMemoryError) -> None:
        if not self._scheduler.split(batch):
            logger.error("one image does not fit into the memory of the device")
            fail(batch.jobs, lambda: OutOfDeviceMemoryError(str(error)))


def shutting_down() -> ServiceError:
    """The error for a job that the service will not compute any more."""
    return NotReadyError("the service is shutting down; try another replica")


def fail(jobs: Iterable[Job], error: Callable[[], Exception]) -> None:
    """Give every job that still waits an error of its own, with its own traceback."""
    for job in jobs:
        if not job.answer.done():
            job.answer.set_exception(error())
