"""Limits the work inside. A request beyond the limit is refused at once, before any work on it."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from service.errors import OverloadedError, TooManyRequestsError
from service.pipeline.room import Room
from service.scheduling.jobs import Owner

LONGEST_RETRY_S = 60
"""longest time that a client is told to wait"""


class Limits(NamedTuple):
    """The most that may be inside."""

    max_images: int
    max_bytes: int
    max_images_per_key: int = 0
    """0: any number"""
    is_shared: bool = False
    """whether there are several API keys, among which the room is shared"""


class Place:
    """The place of one request inside."""

    def __init__(self, coming: Counter[Owner], owner: Owner, num_images: int) -> None:
        self._coming = coming
        self._owner = owner
        self._num_coming = 0
        self._count(num_images)

    def decoded(self) -> None:
        """One of its images has been decoded, or cannot be: it does not come any more."""
        self._count(-1)

    def leave(self) -> None:
        """None of its images comes any more."""
        self._count(-self._num_coming)

    def _count(self, change: int) -> None:
        self._num_coming += change
        self._coming[self._owner] += change
        if not self._coming[self._owner]:
            del self._coming[self._owner]


class Admission:
    """Counts the images and body bytes inside the service. Used from the event loop only."""

    def __init__(
        self,
        limits: Limits,
        *,
        all_done_s: Callable[[], float],
        coming: Counter[Owner] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Set the limits.

        Args:
            limits: the most that may be inside.
            all_done_s: forecast of the seconds until all that is inside has been answered.
            coming: images of each owner that are inside and not decoded yet; this class counts.
            clock: seconds, monotonic.
        """
        self._images = Room(limits.max_images, is_shared=limits.is_shared, clock=clock)
        self._bytes = Room(limits.max_bytes, is_shared=limits.is_shared, clock=clock)
        self._max_images_per_key = limits.max_images_per_key
        self._all_done_s = all_done_s
        self._coming: Counter[Owner] = Counter() if coming is None else coming
        self._clock = clock
        self._next_return = -math.inf

    @property
    def num_images(self) -> int:
        """Images inside."""
        return self._images.inside

    @property
    def num_bytes(self) -> int:
        """Bytes of bodies inside."""
        return self._bytes.inside

    @contextmanager
    def enter(self, *, num_images: int, owner: Owner = None) -> Iterator[Place]:
        """Hold a place for as long as the context lasts.

        Raises:
            OverloadedError: not enough room. A request larger than the limit is let in while
                nothing else is inside, because it would otherwise never be answered.
            TooManyRequestsError: the key has as many images inside as it may.
        """
        self._require_images(num_images, owner)
        self._images.add(num_images, owner)
        place = Place(self._coming, owner, num_images)
        try:
            yield place
        finally:
            place.leave()
            self._images.add(-num_images, owner)

    @contextmanager
    def receive(
        self, *, announced_bytes: int, owner: Owner = None
    ) -> Iterator[Callable[[int], None]]:
        """Count a body as it arrives. Its bytes count for as long as the context lasts.

        No room is reserved for announced bytes: otherwise a few clients that announce much and
        send nothing would keep all others out.

        Args:
            announced_bytes: length of the body; 0 if the client does not announce it.
            owner: name of its API key.

        Yields:
            A function to call with the number of bytes whenever some have arrived.

        Raises:
            OverloadedError: there is no room for an image now, or for so many bytes. The function
                raises it as well. A request may be larger than the limit, as in `enter`.
            TooManyRequestsError: the key has as many images inside as it may.
        """
        self._require_images(1, owner)
        self._require_bytes(announced_bytes, owner)
        held = 0

        def arrived(num_bytes: int) -> None:
            nonlocal held
            self._require_bytes(held + num_bytes, owner, held)
            held += num_bytes
            self._bytes.add(num_bytes, owner)

        try:
            yield arrived
        finally:
            self._bytes.add(-held, owner)

    def _require_images(self, wanted: int, owner: Owner) -> None:
        if self._images.is_full(wanted, owner):
            self._images.refused(wanted)
            raise self._full(wanted / self.num_images)
        held = self._images.held(owner)
        if owner is not None and self._max_images_per_key and held > 0:
            missing = held + wanted - self._max_images_per_key
            if missing > 0:
                raise self._too_many(held, missing)

    def _require_bytes(self, wanted: int, owner: Owner, held: int = 0) -> None:
        if self._bytes.is_full(wanted, owner, held):
            raise self._full(wanted / self.num_bytes)

    def _full(self, share: float) -> OverloadedError:
        """The error for a request that would take such a share of what is inside.

        Others will take the places that become free first, so it should come when all who are
        inside now have been answered.
        """
        all_done_s = self._all_done_s()
        return self.refusal(
            f"the service is full ({self.num_images} images, {self.num_bytes} bytes inside)",
            all_done_s,
            share * all_done_s,
        )

    def _too_many(self, held: int, missing: int) -> TooManyRequestsError:
        error = TooManyRequestsError(
            f"this API key has {held} images inside, and may have {self._max_images_per_key}"
        )
        error.retry_after_s = _whole(self._all_done_s() * missing / held)
        return error

    def refusal(self, reason: str, room_in_s: float, work_s: float) -> OverloadedError:
        """The error for a client that should come again when there is room for its request.

        Those who were refused before are expected to come again, too, one after the other.

        Args:
            reason: what the client is told.
            room_in_s: seconds, by forecast, until there is room for the request.
            work_s: seconds of the device that it takes.
        """
        now = self._clock()
        returns = min(max(self._next_return, now + room_in_s), now + LONGEST_RETRY_S)
        self._next_return = returns + work_s
        return OverloadedError(f"{reason}; try again later", _whole(returns - now))

    @property
    def fill(self) -> float:
        """Share of the room that is taken, 0 ... 1."""
        return min(1.0, max(room.inside / room.limit for room in (self._images, self._bytes)))


def _whole(seconds: float) -> int:
    """Whole seconds for `Retry-After`, 1 ... `LONGEST_RETRY_S`."""
    return max(1, min(math.ceil(seconds), LONGEST_RETRY_S))
