"""Takes images, has streams compute them in batches, and returns the results.

The `Scheduler` decides. The `Batcher` keeps the clock and the futures. Each `Stream` runs one loop.
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from service.scheduling.jobs import PATIENT, Answer, Job, Owner, Terms
from service.scheduling.outlook import Wait
from service.scheduling.scheduler import Scheduler
from service.scheduling.stream import Finished, Forward, Stream, fail, shutting_down
from service.scheduling.watchdog import Watchdog

K = TypeVar("K")


class Batcher(Generic[K]):
    """Runs the batches of a scheduler, and answers each job exactly once."""

    def __init__(
        self,
        forward: Forward[K],
        scheduler: Scheduler[K],
        *,
        on_batch: Callable[[Finished[K]], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create a batcher with no job; `run` starts its streams.

        Args:
            forward: runs one batch; as many calls at a time as the policy has streams.
            scheduler: decides which batch is next.
            on_batch: told of every finished batch.
            clock: seconds, monotonic; deadlines are on it.
        """
        self._scheduler = scheduler
        self._clock = clock
        self._watchdog = Watchdog(scheduler.running, clock)
        self._work = asyncio.Event()
        self._streams = [
            Stream(forward, scheduler, on_batch, clock, self._work)
            for _ in range(scheduler.policy.num_streams)
        ]
        self._numbers = itertools.count()
        self._closed = False

    async def submit(
        self,
        lane: K,
        image: Any,
        terms: Terms,
        *,
        on_start: Callable[[], None] = lambda: None,
    ) -> Answer:
        """Wait for the answer to one image.

        If the call is cancelled before its batch starts, the image is never computed.

        Args:
            lane: what may share a batch.
            image: handed to `forward` as it is.
            terms: when it should be answered, and who wants it.
            on_start: called when its batch starts.

        Raises:
            TimeoutError: its batch would have started after the deadline.
            OutOfDeviceMemoryError: not even alone does it fit into the memory of the device.
            InferenceError: the batch failed.
            NotReadyError: the batcher was closed.
        """
        job = self._job(image, terms, on_start)
        self._scheduler.put(lane, job)
        return await self._answer_to(lane, job)

    async def submit_spare(self, lane: K, image: Any) -> Answer:
        """The same for an image that the device computes when it has time, alone in its batch.

        It starts only while no client's image waits.
        """
        job = self._job(image, PATIENT, lambda: None)
        self._scheduler.put_spare(lane, job)
        return await self._answer_to(lane, job)

    def _job(self, image: Any, terms: Terms, on_start: Callable[[], None]) -> Job:
        if self._closed:
            raise shutting_down()
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        began = self._clock()
        job = Job(terms.due, next(self._numbers), terms.deadline, image, began, on_start, answer)
        job.owner, job.budget_ends, job.refuses_late = terms[2:]
        budget_ends = terms.deadline if terms.refuses_late else terms.budget_ends
        job.allowance_s = budget_ends - began
        return job

    async def _answer_to(self, lane: K, job: Job) -> Answer:
        self._work.set()
        try:
            return await job.answer
        except asyncio.CancelledError:
            self._scheduler.forget(lane, job)
            raise

    @property
    def admitted(self) -> Counter[Owner]:
        """Images of each owner that were let in but do not wait yet: whoever lets in counts."""
        return self._scheduler.outlook.admitted

    def measured(self, lane: K, stream_s: float, device_s: float) -> None:
        """Note how long one image takes, as `Division.measured` says."""
        self._scheduler.division.measured(lane, stream_s, device_s)

    def coming(self, change: int) -> None:
        """Add `change` to the number of images that are being decoded."""
        self._scheduler.coming(change)

    def drain(self) -> None:
        """No further image will come: lanes that wait for more images start at once."""
        self._scheduler.drain()
        self._work.set()

    @property
    def num_waiting(self) -> int:
        """Images of clients that wait."""
        return self._scheduler.num_waiting

    @property
    def is_busy(self) -> bool:
        """Whether images of clients wait or are being computed."""
        return self.num_inside > 0

    @property
    def num_inside(self) -> int:
        """Images of clients that wait or are being computed."""
        return self.num_waiting + self._scheduler.running.num_images

    @property
    def running_s(self) -> float:
        """Seconds for which the oldest batch has been running, without pauses; 0.0: none runs."""
        return self._watchdog.running_s

    @property
    def backlog_s(self) -> float:
        """Forecast of the seconds until all that is inside has been computed."""
        return self._scheduler.outlook.backlog_s(self._clock())

    def expected_wait(self, lane: K, num_images: int, due: float, owner: Owner = None) -> Wait:
        """A forecast for images of an owner that came now."""
        return self._scheduler.outlook.wait(lane, num_images, due, self._clock(), owner)

    def alone_s(self, lane: K, num_images: int) -> float:
        """The same for an idle device, as the mean forecast: it is kept half of the time."""
        return self._scheduler.outlook.alone_s(lane, num_images, self._clock())

    async def run(self) -> None:
        """Compute batches until cancelled. Jobs that still wait then get an error.

        Raises:
            DeviceStuckError: the device is broken, and no further batch would succeed.
        """
        loops = [asyncio.create_task(stream.run()) for stream in self._streams]
        try:
            await asyncio.gather(*loops)
        finally:
            self._close()
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)

    async def watch(self, max_batch_s: float) -> None:
        """Until cancelled, check that no batch takes longer than `max_batch_s` seconds.

        Raises:
            DeviceStuckError: one did. All jobs got an error, and no new job is accepted.
        """
        try:
            await self._watchdog.watch(max_batch_s)
        finally:
            self._close()

    def _close(self) -> None:
        """Refuse new jobs, and give an error to all that wait."""
        self._closed = True
        fail(self._scheduler.clear(), shutting_down)
