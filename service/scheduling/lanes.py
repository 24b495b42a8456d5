"""The images that wait: which of them go next, and how many together.

A *lane* holds the images that may share a batch: same model, same method, same r. So the r of one
request never affects the image of another.
"""

import heapq
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from service.scheduling.jobs import Job
from service.scheduling.policy import BatchPolicy, DispatchReason, Part
from service.scheduling.shares import Shares
from service.scheduling.sizes import Sizes

K = TypeVar("K")

WORTH_WAITING = 0.5
"""longest wait for more images, as a share of the time that the batch takes without them"""


class Next(NamedTuple, Generic[K]):
    """The lane that goes next."""

    lane: K
    reason: DispatchReason
    wait_s: float
    """seconds until its batch starts; 0.0 means now."""


class _Candidate(NamedTuple, Generic[K]):
    """A lane that may go next."""

    wait_s: float
    turn: tuple[float, float]
    """what its owner has had, in seconds, and when it is due: the smallest one goes first"""
    slack_s: float
    """seconds that its first image can still wait and be in time"""
    batch_s: float
    """forecast of the seconds for its batch"""
    next: Next[K]


class Lanes(Generic[K]):
    """Everything that waits, by lane.

    The owner that has had the least of the device goes first; of its images, the most urgent one.
    """

    def __init__(self, policy: BatchPolicy, expected_s: Callable[[K, int], float]) -> None:
        """Create lanes without any job.

        Args:
            policy: when a lane becomes a batch.
            expected_s: forecast for a batch of so many images of a lane on the whole device, in
                seconds.
        """
        self.policy = policy
        self._expected_s = expected_s
        self._jobs: dict[K, list[Job]] = {}  # heaps: the most urgent job is in front
        self.shares = Shares()
        """what each owner has had of the device"""
        self.sizes: Sizes[K] = Sizes(policy.max_batch_size, expected_s)
        """how many images go together"""

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
        self.shares.came(job.owner, job.submitted)
        heapq.heappush(self._jobs.setdefault(lane, []), job)

    def forget(self, lane: K, job: Job) -> None:
        """Take one job out of its lane, if it is still there."""
        self._keep(lane, lambda other: other is not job)

    def take_expired(self, now: float) -> list[Job]:
        """Take out the jobs whose deadline has passed, and those that already have an answer.

        A job that wants no late answer leaves as soon as even the whole device would be too slow.
        """
        expired = []
        for lane, jobs in list(self._jobs.items()):
            soonest = now + self._expected_s(lane, 1)

            def is_over(job: Job, soonest: float = soonest) -> bool:
                return job.deadline <= (soonest if job.refuses_late else now)

            expired += [job for job in jobs if is_over(job)]
            self._keep(lane, lambda job: not is_over(job) and not job.answer.done())
        return expired

    def defer_late(self, now: float, part: Part) -> None:
        """Put jobs last that would miss their deadline even in a batch of their own.

        Otherwise an overloaded device would compute answers for clients that have left. A job that
        would miss its latency budget is from now on due at its deadline, so that it does not make
        others late as well.
        """
        for lane, jobs in self._jobs.items():
            soonest = now + part.seconds(self._expected_s(lane, 1))
            size = self.sizes.least(lane, self.sizes.most(len(jobs), part))
            in_batch = now + part.seconds(self._expected_s(lane, size))
            for job in jobs:
                if job.deadline < soonest:
                    job.due = math.inf
                elif job.budget_ends < in_batch:
                    job.due, job.budget_ends = job.deadline, math.inf
            heapq.heapify(jobs)

    def next(
        self, now: float, part: Part, *, gathering_s: float | None, is_draining: bool
    ) -> Next[K] | None:
        """The lane that goes next on a part of the device, or None if nothing waits.

        Of the lanes whose batch may start now, the one whose turn it is: with one owner, the one
        with the earliest due time. But a lane that waits for more images and whose turn is earlier
        goes first if it would be late after that batch.

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
        first = min(candidates, key=lambda lane: (lane.wait_s, lane.turn))
        late = [
            other
            for other in candidates
            if first.wait_s == 0 < other.wait_s
            and other.turn < first.turn
            and other.slack_s < first.batch_s
        ]
        if not late:
            return first.next
        return min(late, key=lambda other: other.turn).next._replace(reason="deadline", wait_s=0.0)

    def take(self, lane: K, now: float, part: Part) -> list[Job]:
        """Take the jobs whose turn it is out of a lane: as many as let the first be in time."""
        jobs = self._jobs[lane]
        first = self._first(jobs)
        num_images = self.sizes.to_take(lane, len(jobs), first, now, part)
        num_images = min(num_images, self.most_together(lane, num_images, now))
        image_s = self._expected_s(lane, num_images) / num_images
        if self.shares.is_contended:
            batch = self.shares.in_turn(jobs, num_images, image_s, list(self._all()))
        else:
            batch = heapq.nsmallest(num_images, jobs)
        image_s = self._expected_s(lane, len(batch)) / len(batch)
        self.shares.charge(batch, image_s, self._all() if self.shares.is_contended else batch)
        gone = {job.number for job in batch}
        self._keep(lane, lambda job: job.number not in gone)
        return batch

    def most_together(self, lane: K, num_images: int, now: float) -> int:
        """Most images of a batch, of so many that could share it.

        Where several owners share the device, as few as cost hardly more: an owner whose jobs come
        one by one waits for a batch of others each time.
        """
        most = min(num_images, self.sizes.max_batch_size)
        return self.sizes.least(lane, most) if self.shares.is_shared(now) else most

    def clear(self) -> list[Job]:
        """Take everything out."""
        jobs = list(self._all())
        for lane in list(self._jobs):
            self._keep(lane, lambda _: False)
        return jobs

    def _all(self) -> Iterator[Job]:
        return (job for jobs in self._jobs.values() for job in jobs)

    def _first(self, jobs: list[Job]) -> Job:
        """The job of a lane whose turn it is."""
        return min(jobs, key=self.shares.turn) if self.shares.is_contended else jobs[0]

    def _keep(self, lane: K, is_kept: Callable[[Job], bool]) -> None:
        jobs = self._jobs.get(lane, [])
        kept = []
        for job in jobs:
            if is_kept(job):
                kept.append(job)
            else:
                self.shares.left(job.owner)
        if not kept:
            self._jobs.pop(lane, None)
        elif len(kept) < len(jobs):
            heapq.heapify(kept)
            self._jobs[lane] = kept

    def _candidate(
        self, lane: K, now: float, part: Part, gathering_s: float | None, is_draining: bool
    ) -> _Candidate[K]:
        jobs = self._jobs[lane]
        first = self._first(jobs)
        batch_s = part.seconds(self._expected_s(lane, self.sizes.most(len(jobs), part)))
        slack_s = first.due - now - batch_s
        age_s = now - min(job.submitted for job in jobs)
        company_s = 0.0
        if gathering_s is not None and slack_s > (worth_s := WORTH_WAITING * batch_s):
            company_s = worth_s - min(age_s, gathering_s)
        wait_s, reason = self.policy._replace(max_batch_size=self.sizes.max_batch_size).due(
            len(jobs),
            age_s=age_s,
            slack_s=slack_s,
            company_s=company_s,
            is_draining=is_draining,
        )
        turn = self.shares.turn(first)[:2]
        return _Candidate(wait_s, turn, slack_s, batch_s, Next(lane, reason, wait_s))
