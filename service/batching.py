"""Waiting images become batches: one bounded set of lanes per device, and the loop that empties it.

A *lane* holds the images that may share a batch: same model, same method, same r. So nobody's r
ever reaches somebody else's image. Batches are formed as late as possible: when the device is
free it takes what waits.
"""

import asyncio
import heapq
import itertools
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
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


@dataclass(order=True, slots=True)
class Job:
    """One image that waits for its batch."""

    due: float
    """when it should be answered, on the batcher's clock: the earliest goes first."""
    number: int
    """decides between equals: first come, first served."""
    deadline: float = field(compare=False)
    """when its client stops waiting."""
    pixels: Tensor = field(compare=False)
    submitted: float = field(compare=False)
    on_start: Callable[[], None] = field(compare=False)
    answer: asyncio.Future[Answer] = field(compare=False)


class _Batch(NamedTuple, Generic[K]):
    """What the device computes."""

    lane: K
    jobs: list[Job]
    reason: DispatchReason
    started: float

    @property
    def is_spare(self) -> bool:
        """Whether no client waits for it."""
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
        self._policy = policy
        self._expected_s, self._on_batch, self._is_draining = hooks
        self._spare_time = spare_time or SpareTime()
        self._clock = clock
        self._spare: deque[tuple[K, Job]] = deque()
        self._lanes: dict[K, list[Job]] = {}
        self._running: _Batch[K] | None = None
        self._work = asyncio.Event()
        self._numbers = itertools.count()
        self._closed = False
        self.num_waiting = 0
        """images that wait and are still wanted."""

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
            InferenceError: the batch failed.
            NotReadyError: the batcher was closed.
        """
        job = self._job(pixels, due, deadline, on_start)
        self._put(lane, job)
        try:
            return await job.answer
        except asyncio.CancelledError:
            self._forget(lane, job)
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

    def expected_wait_s(self, lane: K, num_images: int, due: float) -> float:
        """Forecast for images that came now: seconds until all of them are answered.

        The rest of the running batch, what goes first in other lanes, and their own lane's batches.
        """
        size = self._policy.max_batch_size
        ahead = {}
        for other, jobs in {lane: [], **self._lanes}.items():
            ours = num_images if other == lane else 0
            earlier = ours + sum(job.due <= due for job in jobs)
            # Less urgent images ride along in the batches of the urgent ones, and where a lane is
            # longer than a batch, others will have come by the time that ours is formed.
            full = math.ceil(earlier / size) * size
            is_filling = ours and earlier > size and self._running is not None
            ahead[other] = full if is_filling else min(ours + len(jobs), full)
        return self._rest_s() + sum(self._lane_s(other, count) for other, count in ahead.items())

    @property
    def num_inside(self) -> int:
        """Images of clients that wait or are being computed."""
        running = self._running
        return self.num_waiting + (0 if running is None or running.is_spare else len(running.jobs))

    @property
    def running_s(self) -> float:
        """Seconds for which the present batch has been running; 0.0 if there is none."""
        return 0.0 if self._running is None else self._clock() - self._running.started

    @property
    def backlog_s(self) -> float:
        """Forecast of the seconds until all that is inside has been computed."""
        waiting_s = sum(self._lane_s(lane, len(jobs)) for lane, jobs in self._lanes.items())
        return self._rest_s() + waiting_s

    async def run(self) -> None:
        """Compute batches until cancelled; whatever still waits then is told so."""
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
            batch = self._running
            if batch is not None and self.running_s > max_batch_s:
                self._close()
                raise DeviceStuckError(
                    f"a batch of {len(batch.jobs)} images has not ended within {max_batch_s:g} s"
                )

    def _close(self) -> None:
        """Refuse new jobs, and tell all that wait."""
        self._closed = True
        if self._running is not None:
            _fail(self._running.jobs, _shutting_down)
        for jobs in self._lanes.values():
            _fail(jobs, _shutting_down)
        _fail([job for _, job in self._spare], _shutting_down)
        self._lanes.clear()
        self._spare.clear()
        self.num_waiting = 0

    def _rest_s(self) -> float:
        """Forecast of the seconds until the running batch ends."""
        if self._running is None:
            return 0.0
        expected_s = self._expected_s(self._running.lane, len(self._running.jobs))
        return max(0.0, expected_s - self.running_s)

    def _lane_s(self, lane: K, num_images: int) -> float:
        """Forecast for so many images of one lane."""
        full, rest = divmod(num_images, self._policy.max_batch_size)
        full_s = full * self._expected_s(lane, self._policy.max_batch_size) if full else 0.0
        return full_s + (self._expected_s(lane, rest) if rest else 0.0)

    def _next_batch(self) -> tuple[_Batch[K] | None, float]:
        """The batch to start now, or None and the seconds until there may be one."""
        now = self._clock()
        for lane in list(self._lanes):
            self._drop_dead(lane, now)
        for lane in self._lanes:
            self._put_hopeless_last(lane, now)
        best, best_key = None, (math.inf, math.inf)
        for lane, jobs in self._lanes.items():
            wait_s, reason = self._due(lane, jobs, now)
            if (wait_s, jobs[0].due) < best_key:
                best, best_key = (lane, reason), (wait_s, jobs[0].due)
        if best is None:
            return self._next_spare(now)
        if best_key[0] > 0:
            return None, best_key[0]
        return _Batch(best[0], self._take(best[0], now), best[1], now), 0.0

    def _next_spare(self, now: float) -> tuple[_Batch[K] | None, float]:
        """The same, for when no client waits."""
        if not self._spare or self._is_draining():
            return None, math.inf
        if (wait_s := self._spare_time.wait_s(now)) > 0:
            return None, wait_s
        lane, job = self._spare.popleft()
        return _Batch(lane, [job], "spare", now), 0.0

    def _due(self, lane: K, jobs: list[Job], now: float) -> tuple[float, DispatchReason]:
        if self._policy.max_wait_s == 0:
            age_s = slack_s = 0.0
        else:
            age_s = now - min(job.submitted for job in jobs)
            slack_s = jobs[0].due - now - self._expected_s(lane, len(jobs))
        return self._policy.due(
            len(jobs), age_s=age_s, slack_s=slack_s, is_draining=self._is_draining()
        )

    def _drop_dead(self, lane: K, now: float) -> None:
        """Take out the jobs that nobody waits for any more instead of computing them."""
        dead = [job for job in self._lanes[lane] if job.answer.done() or job.deadline <= now]
        for job in dead:
            self._forget(lane, job)
            if not job.answer.done():
                job.answer.set_exception(TimeoutError())

    def _put(self, lane: K, job: Job) -> None:
        """Let a job wait in its lane."""
        heapq.heappush(self._lanes.setdefault(lane, []), job)
        self.num_waiting += 1
        self._work.set()

    def _put_hopeless_last(self, lane: K, now: float) -> None:
        """Let jobs that even alone would come too late wait for an idle device.

        Under overload the device would else be busy with answers that nobody takes.
        """
        jobs, soonest = self._lanes[lane], now + self._expected_s(lane, 1)
        hopeless = [job for job in jobs if job.deadline < soonest and not math.isinf(job.due)]
        for job in hopeless:
            job.due = math.inf
        if hopeless:
            heapq.heapify(jobs)

    def _take(self, lane: K, now: float) -> list[Job]:
        """Take the most urgent jobs out of a lane, as many as leave the first one in time."""
        jobs = self._lanes[lane]
        num_images = min(self._policy.max_batch_size, len(jobs))
        if not math.isinf(jobs[0].due):
            while num_images > 1 and now + self._expected_s(lane, num_images) > jobs[0].deadline:
                num_images -= 1
        batch = [heapq.heappop(jobs) for _ in range(num_images)]
        if not jobs:
            del self._lanes[lane]
        self.num_waiting -= num_images
        return batch

    def _forget(self, lane: K, job: Job) -> None:
        """Take one job out of its lane, if it is still there."""
        jobs = self._lanes.get(lane, [])
        if any(waiting is job for waiting in jobs):
            jobs = [waiting for waiting in jobs if waiting is not job]
            heapq.heapify(jobs)
            self.num_waiting -= 1
            if jobs:
                self._lanes[lane] = jobs
            else:
                del self._lanes[lane]

    async def _wait_for_work(self, wait_s: float) -> None:
        """Sleep until a job comes, or for so long."""
        try:
            async with asyncio.timeout(None if math.isinf(wait_s) else wait_s):
                await self._work.wait()
        except TimeoutError:
            return

    async def _run_batch(self, batch: _Batch[K]) -> None:
        """Compute one batch and answer each of its jobs exactly once."""
        self._running = batch
        try:
            for job in batch.jobs:
                job.on_start()
            rows = await self._forward(batch.lane, [job.pixels for job in batch.jobs])
            answered = list(zip(batch.jobs, rows, strict=True))
            seconds = self._clock() - batch.started
            self._on_batch(Finished(batch.lane, len(batch.jobs), seconds, batch.reason))
        except asyncio.CancelledError:
            _fail(batch.jobs, _shutting_down)
            raise
        except OutOfDeviceMemoryError as exc:
            self._split(batch, exc)
        except Exception as exc:  # the loop outlives any batch, and each client is told
            logger.exception("a batch failed", extra={"num_images": len(batch.jobs)})
            message = f"the model failed: {type(exc).__name__}"
            _fail(batch.jobs, lambda: InferenceError(message))
        else:
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
        num_images = len(batch.jobs)
        if num_images == 1:
            logger.error("one image does not fit into the memory of the device")
            _fail(batch.jobs, lambda: OutOfDeviceMemoryError(str(error)))
            return
        half = (num_images + 1) // 2
        self._policy = self._policy._replace(max_batch_size=half)
        logger.warning("out of device memory", extra={"max_batch_size": half})
        for job in batch.jobs:
            if not job.answer.done():
                self._put(batch.lane, job)


def _shutting_down() -> ServiceError:
    return NotReadyError("the service is shutting down; try another replica")


def _fail(jobs: Sequence[Job], error: Callable[[], ServiceError]) -> None:
    """Tell every job that still waits; each gets an error of its own, with its own traceback."""
    for job in jobs:
        if not job.answer.done():
            job.answer.set_exception(error())
