"""Whose images go next where several owners want the device: each gets an equal share of its time.

Start-time fair queueing: every owner has a count of the device seconds that it has had, and the one
with the least goes next. An owner that comes after a rest starts at the count of those who wait, so
that a rest gives no credit. Source: docs/decisions/0016.
"""

import math
from collections import Counter, deque
from collections.abc import Iterable
from typing import NamedTuple

from service.scheduling.jobs import Job, Owner

MOST_REMEMBERED = 1024
"""most owners of whom a count is kept while nothing of theirs waits"""


LATELY_S = 10.0
"""how long an owner counts after its last job"""


class Turn(NamedTuple):
    """Where a job stands: the smallest one goes first."""

    used_s: float
    """device seconds of its owner; infinite for a job that goes last whoever owns it"""
    due: float
    number: int


class Shares:
    """The device seconds of each owner. Used from the event loop only."""

    def __init__(self) -> None:
        self.num_waiting: Counter[Owner] = Counter()
        """jobs that wait, of each owner that has any"""
        self._used_s: dict[Owner, float] = {}
        self._floor_s = 0.0
        self._last: Owner = None
        self._last_came = self._other_came = -math.inf

    @property
    def is_contended(self) -> bool:
        """Whether jobs of several owners wait."""
        return len(self.num_waiting) > 1

    def is_shared(self, now: float) -> bool:
        """Whether jobs of several owners have come lately."""
        return now - self._other_came < LATELY_S

    def came(self, owner: Owner, now: float) -> None:
        """A job of an owner begins to wait."""
        if owner != self._last:
            self._last, self._other_came = owner, self._last_came
        self._last_came = now
        self._used_s[owner] = self.used_s(owner)
        self.num_waiting[owner] += 1

    def left(self, owner: Owner) -> None:
        """A job of an owner waits no more."""
        self.num_waiting[owner] -= 1
        if not self.num_waiting[owner]:
            del self.num_waiting[owner]
            self._forget()

    def used_s(self, owner: Owner) -> float:
        """The count of an owner; of one that has nothing waiting, if a job of it came now."""
        used_s = self._used_s.get(owner, 0.0)
        return used_s if owner in self.num_waiting else max(used_s, self._floor_s)

    def turn(self, job: Job) -> Turn:
        """Where a waiting job stands."""
        is_last = math.isinf(job.due)
        return Turn(math.inf if is_last else self._used_s[job.owner], job.due, job.number)

    def in_turn(
        self, jobs: Iterable[Job], num_images: int, image_s: float, waiting: Iterable[Job]
    ) -> list[Job]:
        """The jobs of one lane that go next, in order. Each one adds to the count of its owner.

        Whoever shares a batch with others may get ahead of those who wait for another lane, by one
        batch at most.

        Args:
            jobs: of the lane, at least `num_images`; they wait.
            num_images: most that go.
            image_s: seconds of the whole device for one image.
            waiting: all jobs that wait.
        """
        rivals = {job.owner for job in waiting if not math.isinf(job.due)}
        ahead_s = num_images * image_s
        queues: dict[Owner, deque[Job]] = {}
        for job in sorted(jobs):
            queues.setdefault(job.owner, deque()).append(job)
        taken: Counter[Owner] = Counter()
        chosen: list[Job] = []

        def turn(owner: Owner) -> Turn:
            first = self.turn(queues[owner][0])
            return first._replace(used_s=first.used_s + taken[owner] * image_s)

        for _ in range(num_images):
            owner = min(queues, key=turn)
            others = [self._used_s[rival] for rival in rivals if rival != owner]
            if chosen and others and turn(owner).used_s > min(others) + ahead_s:
                break
            chosen.append(queues[owner].popleft())
            taken[owner] += 1
            if not queues[owner]:
                del queues[owner]
        return chosen

    def charge(self, batch: Iterable[Job], image_s: float, waiting: Iterable[Job]) -> None:
        """Count the device seconds of a batch, before its jobs leave.

        Args:
            batch: its jobs.
            image_s: seconds of the whole device for one image.
            waiting: all jobs that wait, those of the batch included.
        """
        least_s = min(self.turn(job).used_s for job in waiting)
        if not math.isinf(least_s):
            self._floor_s = max(self._floor_s, least_s)
        for job in batch:
            self._used_s[job.owner] += image_s

    def _forget(self) -> None:
        """Bound the memory: counts that no longer matter go."""
        if len(self._used_s) > MOST_REMEMBERED:
            self._used_s = {
                owner: used_s
                for owner, used_s in self._used_s.items()
                if owner in self.num_waiting or used_s > self._floor_s
            }
