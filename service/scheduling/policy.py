"""When a batch starts, and with how much of the device. Functions of numbers; nothing waits."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

DispatchReason = Literal["full", "idle", "wait", "deadline", "drain", "spare"]
"""Why a batch starts, in this order: it is full; the device is free; `max_wait_s` is over; an image
would miss its due time otherwise; the service is shutting down; no client waits for the work."""
DISPATCH_REASONS: tuple[DispatchReason, ...] = get_args(DispatchReason)


class Part(NamedTuple):
    """What one batch gets of the device."""

    num_threads: int
    share: float
    """of the device's threads, 0 < share <= 1"""
    max_images: int
    """most images in the batch"""
    loss: float = 1.0
    """how many times longer its threads take than an even split of the work says"""

    def seconds(self, device_s: float) -> float:
        """Seconds on this part for work that takes `device_s` on all streams of the device."""
        return device_s * self.loss / self.share


class BatchPolicy(NamedTuple):
    """When a lane becomes a batch, and what it gets of the device."""

    max_batch_size: int
    """most images in a batch."""
    max_wait_s: float = 0.0
    """how long the oldest image of a lane waits for more images while the device is free."""
    num_streams: int = 1
    """most batches that are computed at the same time."""
    num_threads: int = 1
    """threads that these batches share; a GPU counts as one."""

    def part(self, threads_taken: list[int], num_waiting: int, num_coming: int = 0) -> Part | None:
        """What the next batch gets, or None if nothing is free.

        Images that wait are spread over the free streams: threads of one batch wait for each other
        at every layer, threads of different batches do not. A single image gets all free threads.

        Args:
            threads_taken: threads of each batch that is running.
            num_waiting: images that wait, in all lanes.
            num_coming: images that will soon wait; streams are left free for them.
        """
        streams = self.num_streams - len(threads_taken)
        threads = self.num_threads - sum(threads_taken)
        if streams < 1 or threads < 1:
            return None
        num_batches = max(1, min(streams, threads, num_waiting + num_coming))
        each = math.ceil(num_waiting / num_batches)
        threads //= num_batches
        return Part(threads, threads / self.num_threads, min(self.max_batch_size, max(1, each)))

    def due(
        self,
        num_waiting: int,
        *,
        age_s: float,
        slack_s: float,
        company_s: float = 0.0,
        is_draining: bool,
    ) -> tuple[float, DispatchReason]:
        """Seconds until a lane's batch starts on a free device (0.0: now), and the reason.

        Args:
            num_waiting: images in the lane, at least one.
            age_s: how long the oldest of them has waited.
            slack_s: how much longer the most urgent of them can wait and still be in time.
            company_s: how much longer it is worth waiting for images that are on their way.
            is_draining: no further image will come.
        """
        if num_waiting >= self.max_batch_size:
            return 0.0, "full"
        if is_draining:
            return 0.0, "drain"
        rest_s = max(self.max_wait_s - age_s, company_s)
        if rest_s <= 0 and self.max_wait_s == 0:
            return 0.0, "idle"
        return (max(0.0, slack_s), "deadline") if slack_s < rest_s else (max(0.0, rest_s), "wait")


@dataclass
class SpareTime:
    """When the device may do work that no client waits for.

    Such work delays a client who comes while it runs, by one image at most. Without traffic it may
    take all the time. With traffic it gets a small share of the time.
    """

    share: float = 0.02
    """share of the time while there is traffic, 0 < share <= 1"""
    quiet_s: float = 5.0
    """seconds without a client's batch after which there is no traffic"""
    _quiet_from: float = 0.0
    _allowed_from: float = 0.0

    def used(self, *, started: float, ended: float, is_spare: bool) -> None:
        """Note a batch; times in seconds on one clock."""
        if is_spare:
            self._allowed_from = ended + (ended - started) * (1 / self.share - 1)
        else:
            self._quiet_from = ended + self.quiet_s

    def wait_s(self, now: float) -> float:
        """Seconds until the next such work may start on a free device; 0.0 means now."""
        return max(0.0, min(self._quiet_from, self._allowed_from) - now)
