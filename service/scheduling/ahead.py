"""Which of the images inside go before new ones, by forecast."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Generic, NamedTuple, TypeVar

from service.scheduling.jobs import Job, Owner
from service.scheduling.lanes import Lanes

K = TypeVar("K")


class New(NamedTuple, Generic[K]):
    """Images of one owner that come now."""

    lane: K
    num_images: int
    due: float
    """when they should be answered, on the scheduler's clock"""
    owner: Owner = None


class Ahead(NamedTuple, Generic[K]):
    """What goes before them."""

    waiting: Mapping[K, int]
    """images that wait, by lane"""
    num_coming: int
    """images that do not wait yet; their lanes are not known"""


class Queue(Generic[K]):
    """The order of the images inside, as the scheduler will keep it."""

    def __init__(
        self,
        lanes: Lanes[K],
        image_s: Callable[[K], float],
        admitted: Mapping[Owner, int],
    ) -> None:
        """Read the state that a scheduler keeps.

        Args:
            lanes: jobs that wait.
            image_s: forecast for one image in a full batch of a lane on the whole device.
            admitted: images of each owner that have been let in but do not wait yet.
        """
        self._lanes = lanes
        self._image_s = image_s
        self._admitted = admitted

    def ahead_of(self, new: New[K], num_coming: int) -> Ahead[K]:
        """What goes before new images.

        Args:
            new: the images.
            num_coming: images that are being decoded; `admitted` may not hold all of them.
        """
        admitted = sum(self._admitted.values())
        if self._owners() <= {new.owner}:
            return Ahead(self._earlier(new), max(admitted, num_coming))
        unknown = max(0, num_coming - admitted)
        return self._in_turn(new, unknown)

    def _owners(self) -> set[Owner]:
        coming = {owner for owner, num_images in self._admitted.items() if num_images}
        return coming | set(self._lanes.shares.num_waiting)

    def _earlier(self, new: New[K]) -> dict[K, int]:
        """With one owner, all that is due no later."""
        return {
            lane: sum(job.due <= new.due for job in jobs) for lane, jobs in self._lanes.jobs.items()
        }

    def _in_turn(self, new: New[K], num_coming: int) -> Ahead[K]:
        """With several, what each may compute until the new images' owner has had its own."""
        shares = self._lanes.shares
        image_s = {lane: self._image_s(lane) for lane in (new.lane, *self._lanes.jobs)}
        jobs = self._jobs_by_owner()
        waiting: Counter[K] = Counter()
        ours = [(lane, job) for lane, job in jobs.pop(new.owner, []) if job.due <= new.due]
        waiting.update(lane for lane, _ in ours)
        num_coming += self._admitted.get(new.owner, 0)
        until_s = shares.used_s(new.owner) + sum(image_s[lane] for lane, _ in ours)
        until_s += (num_coming + new.num_images) * image_s[new.lane]
        for owner in self._owners() - {new.owner}:
            left_s = until_s - shares.used_s(owner)
            for lane, job in jobs.get(owner, ()):
                if left_s <= 0 or math.isinf(job.due):
                    break
                waiting[lane] += 1
                left_s -= image_s[lane]
            if left_s > 0:
                share = math.ceil(left_s / image_s[new.lane]) if image_s[new.lane] > 0 else math.inf
                num_coming += int(min(self._admitted.get(owner, 0), share))
        return Ahead(waiting, num_coming)

    def _jobs_by_owner(self) -> dict[Owner, list[tuple[K, Job]]]:
        """All jobs that wait, of each owner the most urgent one first."""
        found: dict[Owner, list[tuple[K, Job]]] = {}
        for lane, jobs in self._lanes.jobs.items():
            for job in jobs:
                found.setdefault(job.owner, []).append((lane, job))
        for entries in found.values():
            entries.sort(key=lambda entry: entry[1])
        return found
