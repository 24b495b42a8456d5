"""Waiting images become batches: one bounded set of lanes per device, and the loop that empties it.

A *lane* holds the images that may share a batch: same model, same method, same r. So nobody's r
ever reaches somebody else's image. Batches are formed as late as possible: when the device is
free it takes what waits, and it never waits for company.
"""

import asyncio
import heapq
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from torch import Tensor

from service.errors import InferenceError, NotReadyError, ServiceError

K = TypeVar("K")
logger = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What a job gets."""

    logits: Tensor
    """(K,), float32, on the CPU."""
    queue_s: float
    """from being handed in to the start of its batch."""
    inference_s: float
    """computing the whole batch."""
    batch_size: int


@dataclass(order=True, slots=True)
class Job:
    """One image that waits for its batch."""

    deadline: float
    """when the client stops waiting, on the batcher's clock."""
    number: int
    """decides between equal deadlines: first come, first served."""
    pixels: Tensor = field(compare=False)
    submitted: float = field(compare=False)
    answer: asyncio.Future[Answer] = field(compare=False)


Forward = Callable[[K, Sequence[Tensor]], Awaitable[Sequence[Tensor]]]
"""(lane, B images (3, H, W)) -> B rows of logits (K,)."""


class Batcher(Generic[K]):
    """Collects jobs in lanes and runs them, a batch at a time, earliest deadline first."""

    def __init__(
        self,
        forward: Forward[K],
        *,
        max_batch_size: int,
        on_batch: Callable[[K, int, float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare an empty batcher.

        Args:
            forward: runs one batch; one call at a time.
            max_batch_size: most images in a call.
            on_batch: told of every finished batch: lane, images, seconds.
            clock: seconds, monotonic; deadlines are on it.
        """
        self._forward = forward
        self._max_batch_size = max_batch_size
        self._clock = clock
        self._on_batch = on_batch
        self._lanes: dict[K, list[Job]] = {}
        self._work = asyncio.Event()
        self._numbers = itertools.count()
        self._closed = False
        self.num_waiting = 0
        """images that wait and are still wanted."""

    async def submit(self, lane: K, pixels: Tensor, deadline: float) -> Answer:
        """Wait for the answer to one image (3, H, W).

        Cancel it, and the image is never computed if its batch has not started.

        Raises:
            InferenceError: the batch failed.
            NotReadyError: the batcher was closed.
        """
        if self._closed:
            raise _shutting_down()
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        job = Job(deadline, next(self._numbers), pixels, self._clock(), answer)
        heapq.heappush(self._lanes.setdefault(lane, []), job)
        self.num_waiting += 1
        self._work.set()
        try:
            return await answer
        except asyncio.CancelledError:
            self._forget(lane, job)
            raise

    async def run(self) -> None:
        """Compute batches until cancelled; whatever still waits then is told so."""
        try:
            while True:
                await self._work.wait()
                lane = self._most_urgent_lane()
                if lane is None:
                    self._work.clear()
                else:
                    await self._run_batch(lane, self._take_batch(lane))
        finally:
            self._close()

    def _close(self) -> None:
        """Refuse new jobs, and tell all that wait."""
        self._closed = True
        for jobs in self._lanes.values():
            _fail(jobs, _shutting_down)
        self._lanes.clear()
        self.num_waiting = 0

    def _most_urgent_lane(self) -> K | None:
        """The lane whose first job has the earliest deadline."""
        return min(self._lanes, key=lambda lane: self._lanes[lane][0], default=None)

    def _take_batch(self, lane: K) -> list[Job]:
        jobs = self._lanes[lane]
        batch = [heapq.heappop(jobs) for _ in range(min(self._max_batch_size, len(jobs)))]
        if not jobs:
            del self._lanes[lane]
        self.num_waiting -= len(batch)
        return batch

    def _forget(self, lane: K, job: Job) -> None:
        """Take a job that nobody waits for any more out of its lane, if it is still there."""
        jobs = self._lanes.get(lane, [])
        if any(waiting is job for waiting in jobs):
            jobs = [waiting for waiting in jobs if waiting is not job]
            heapq.heapify(jobs)
            self.num_waiting -= 1
            if jobs:
                self._lanes[lane] = jobs
            else:
                del self._lanes[lane]

    async def _run_batch(self, lane: K, batch: list[Job]) -> None:
        """Compute one batch and answer each of its jobs exactly once."""
        started = self._clock()
        try:
            rows = await self._forward(lane, [job.pixels for job in batch])
            answered = list(zip(batch, rows, strict=True))
            inference_s = self._clock() - started
            self._on_batch(lane, len(batch), inference_s)
        except asyncio.CancelledError:
            _fail(batch, _shutting_down)
            raise
        except Exception as exc:  # the loop outlives any batch, and each client is told
            logger.exception("batch failed lane=%s size=%d", lane, len(batch))
            message = f"the model failed with {type(exc).__name__}; the batch was given up"
            _fail(batch, lambda: InferenceError(message))
            return
        for job, logits in answered:
            if not job.answer.done():
                queue_s = started - job.submitted
                job.answer.set_result(Answer(logits, queue_s, inference_s, len(batch)))


def _shutting_down() -> ServiceError:
    return NotReadyError("the service is shutting down; try another replica")


def _fail(jobs: Sequence[Job], error: Callable[[], ServiceError]) -> None:
    """Tell every job that still waits; each gets an error of its own, with its own traceback."""
    for job in jobs:
        if not job.answer.done():
            job.answer.set_exception(error())
