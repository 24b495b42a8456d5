"""How a device is divided: a lone image gets all threads, or those of one stream.

Threads of one batch wait for each other at every layer, so more of them may save one image little:
at reduced tokens a second one saves a tenth of the time. A lone client is answered soonest by all
threads. Where images come while others are inside, each is better off on the threads of one stream,
because the next one need not wait.
"""

from collections.abc import Collection
from typing import Generic, TypeVar

from service.scheduling.forecast import Mean
from service.scheduling.policy import BatchPolicy, Part

K = TypeVar("K")

MOST_COMPANY = 0.99


class Division(Generic[K]):
    """What a batch gets of a device. Times are seconds on the scheduler's clock."""

    def __init__(self, policy: BatchPolicy) -> None:
        """Begin as if threads shared the work of one image evenly, and as if images came alone.

        Args:
            policy: the streams and threads of the device.
        """
        self._policy = policy
        self._losses: dict[K, float] = {}
        self._company = Mean(0.0)

    def measured(self, lane: K, stream_s: float, device_s: float) -> None:
        """Note how long one image takes.

        Args:
            lane: the work.
            stream_s: seconds on the threads of one stream.
            device_s: seconds on all threads.
        """
        most = float(self._policy.num_streams)
        loss = most * device_s / stream_s if stream_s > 0 else 1.0
        self._losses[lane] = min(max(loss, 1.0), most)

    def came(self, num_others: int, now: float) -> None:
        """An image has come while so many others were inside."""
        self._company.add(float(num_others > 0), now)

    def part(
        self,
        threads_taken: list[int],
        lanes: Collection[K],
        num_waiting: int,
        now: float,
        num_coming: int = 0,
    ) -> Part | None:
        """What the next batch gets of the device, or None if nothing is free.

        Args:
            threads_taken: threads of each batch that is running.
            lanes: of the images that wait.
            num_waiting: images that wait.
            now: the time.
            num_coming: images that will soon wait; streams are left free for them.
        """
        part = self._policy.part(threads_taken, num_waiting, num_coming)
        if part is None or part.share <= 1 / self._policy.num_streams:
            return part
        loss = max((self._loss(lane, part.share) for lane in lanes), default=1.0)
        if self._is_worth_it(loss / part.share, now):
            return part._replace(loss=loss)
        return self._policy.part(threads_taken, num_waiting, self._policy.num_streams)

    def _loss(self, lane: K, share: float) -> float:
        """How many times longer one image takes on a share of the device than an even split says.

        A lane that was not measured is like the mean of those that were.
        """
        whole = self._losses.get(lane)
        if whole is None:
            whole = sum(self._losses.values()) / len(self._losses) if self._losses else 1.0
        of_stream = 1 / self._policy.num_streams
        return 1 + (whole - 1) * (share - of_stream) / (1 - of_stream)

    def _is_worth_it(self, seconds: float, now: float) -> bool:
        """Whether images are answered sooner if each gets more threads than a stream has.

        With chance p, others are inside when an image comes. It then waits for half of an image on
        average, and for those before it: p / (1 - p) halves. With S streams all are taken with
        chance p^S, and the first of them ends S times as soon.

        Args:
            seconds: of an image on those threads, where the whole device without loss takes 1.
            now: the time.
        """
        p = min(self._company.value(now), MOST_COMPANY)
        num_streams = self._policy.num_streams
        with_all = seconds + p / (1 - p) * seconds / 2
        return with_all < num_streams + p**num_streams / (1 - p) / 2
