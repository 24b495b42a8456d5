"""The images that wait: which of them go next, and how many together.

A *lane* holds the images that may share a batch: same model, same method, same r. So the r of one
request never affects the image of another.
"""

import asyncio
import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from service.scheduling.policy import BatchPolicy, DispatchReason, Part

K = TypeVar("K")

WORTH_WAITING = 0.5
"""longest wait for more images, as a share of the time that the batch takes without them"""


class Answer(NamedTuple):
    """The result of a job, and how long it took."""

    result: Any
    """what `forward` gave for the image."""
    queue_s: float
    """seconds from its submission to the start of its batch."""
    inference_s: float
    """seconds that the whole batch took to compute."""
    batch_size: int


@dataclass(order=True, slots=True)
class Job:
    """One image that waits for its batch."""

    due: float
    """when it should be answered, on the batcher's clock: the earliest goes first."""
    number: int
    """order of arrival; decides between jobs that are due at the same time."""
    deadline: float = field(compare=False)
    """when its client stops waiting."""
    image: Any = field(compare=False)
    submitted: float = field(compare=False)
    on_start: Callable[[], None] = field(compare=False)
    answer: asyncio.Future[Answer] = field(compare=False)


class Next(NamedTuple, Generic[K]):
    """The lane that goes next."""

    lane: K
    reason: DispatchReason
    wait_s: float
    """seconds until its batch starts; 0.0 means now."""


class _Candidate(NamedTuple, Generic[K]):
    """A lane that may go next."""

    wait_s: float
    due: float
    slack_s: float
    """seconds that its most urgent image can still wait and be in time"""
    batch_s: float
    """forecast of the seconds for its batch"""
    next: Next[K]


class Lanes(Generic[K]):
    """Everything that waits, by lane, the most urgent image of each in front."""

    def __init__(self, policy: BatchPolicy, expected_s: Callable[[K, int], float]) -> None:
        """Create lanes without any job.

        Args:
            policy: when a lane becomes a batch.
            expected_s: forecast for a batch of so many images of a lane on the whole device, in
                seconds.
        """
        self._policy = policy
        self._expected_s = expected_s
        self._jobs: dict[K, list[Job]] = {}
        self.max_batch_size = policy.max_batch_size
        """most images in a batch, as far as the memory of the device allows."""

    @property
    def num_waiting(self) -> int:
        """Images that wait."""
        return sum(map(len, self._jobs.values()))

    @property
    def jobs(self) -> Mapping[K, Sequence[Job]]:
        """The jobs that wait, by lane, in no order; a view, which follows every change."""
        return self._jobs

    def put(self, lane: K, job: Job) -> None:
        """Let a job wait in its lane."""
        heapq.heappush(self._jobs.setdefault(lane, []), job)

    def forget(self, lane: K, job: Job) -> None:
        """Take one job out of its lane, if it is still there."""
        self._keep(lane, lambda other: other is not job)

    def take_expired(self, now: float) -> list[Job]:
        """Take out the jobs whose deadline has passed, and those that already have an answer."""
        expired = []
        for lane, jobs in list(self._jobs.items()):
            expired += [job for job in jobs if job.deadline <= now]
            self._keep(lane, lambda job: job.deadline > now and not job.answer.done())
        return expired

    def defer_late(self, now: float, part: Part) -> None:
        """Put jobs last that would miss their deadline even in a batch of their own.

        Otherwise an overloaded device would compute answers for clients that have left.
        """
        for lane, jobs in self._jobs.items():
            soonest = now + self._expected_s(lane, 1) / part.share
            for job in jobs:
                if job.deadline < soonest:
                    job.due = math.inf
            heapq.heapify(jobs)

    def next(
        self, now: float, part: Part, *, gathering_s: float | None, is_draining: bool
    ) -> Next[K] | None:
        """The lane that goes next on a part of the device, or None if nothing waits.

        Of the lanes whose batch may start now, the one with the earliest due time. But a lane that
        waits for more images and is due earlier goes first if it would be late after that batch.

        Args:
            now: on the batcher's clock.
            part: the free part of the device.
            gathering_s: seconds for which it has been free while images are on their way; None: no
                image is.
            is_draining: no further image will come.
        """
        candidates = [
            self._candidate(lane, now, part, gathering_s, is_draining) for lane in self._jobs
        ]
        if not candidates:
            return None
        first = min(candidates, key=lambda lane: (lane.wait_s, lane.due))
        late = [
            other
            for other in candidates
            if first.wait_s == 0 < other.wait_s
            and other.due < first.due
            and other.slack_s < first.batch_s
        ]
        if not late:
            return first.next
        return min(late, key=lambda other: other.due).next._replace(reason="deadline", wait_s=0.0)

    def take(self, lane: K, now: float, part: Part) -> list[Job]:
        """Take the most urgent jobs out of a lane: as many as let the first one be in time."""
        jobs = self._jobs[lane]
        num_images = self._batch_size(jobs, part)
        if not math.isinf(jobs[0].due):
            seconds = (jobs[0].deadline - now) * part.share
            while num_images > 1 and self._expected_s(lane, num_images) > seconds:
                num_images -= 1
        batch = [heapq.heappop(jobs) for _ in range(num_images)]
        if not jobs:
            del self._jobs[lane]
        return batch

    def clear(self) -> list[Job]:
        """Take everything out."""
        jobs = [job for jobs in self._jobs.values() for job in jobs]
        self._jobs.clear()
        return jobs

    def _keep(self, lane: K, is_kept: Callable[[Job], bool]) -> None:
        jobs = self._jobs.get(lane, [])
        kept = [job for job in jobs if is_kept(job)]
        if not kept:
            self._jobs.pop(lane, None)
        elif len(kept) < len(jobs):
            heapq.heapify(kept)
            self._jobs[lane] = kept

    def _batch_size(self, jobs: list[Job], part: Part) -> int:
        return min(len(jobs), self.max_batch_size, part.max_images)

    def _candidate(
        self, lane: K, now: float, part: Part, gathering_s: float | None, is_draining: bool
    ) -> _Candidate[K]:
        jobs = self._jobs[lane]
        batch_s = self._expected_s(lane, self._batch_size(jobs, part)) / part.share
        slack_s = jobs[0].due - now - batch_s
        age_s = now - min(job.submitted for job in jobs)
        company_s = 0.0
        if gathering_s is not None and slack_s > (worth_s := WORTH_WAITING * batch_s):
            company_s = worth_s - min(age_s, gathering_s)
        wait_s, reason = self._policy._replace(max_batch_size=self.max_batch_size).due(
            len(jobs),
            age_s=age_s,
            slack_s=slack_s,
            company_s=company_s,
            is_draining=is_draining,
        )
        return _Candidate(wait_s, jobs[0].due, slack_s, batch_s, Next(lane, reason, wait_s))
