"""Limits the work inside. A request beyond the limit is refused at once, before any work on it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.errors import OverloadedError


class Admission:
    """Counts the images and body bytes inside the service. Used from the event loop only."""

    def __init__(
        self, *, max_images: int, max_bytes: int, retry_after_s: Callable[[], int]
    ) -> None:
        """Set the limits; `retry_after_s` gives the seconds until a refused client should retry."""
        self._max_images = max_images
        self._max_bytes = max_bytes
        self._retry_after_s = retry_after_s
        self.num_images = 0
        self.num_bytes = 0

    @contextmanager
    def enter(self, *, num_images: int) -> Iterator[None]:
        """Hold a place for as long as the context lasts.

        Raises:
            OverloadedError: not enough room. A request larger than the limit is let in while
                nothing else is inside, because it would otherwise never be answered.
        """
        self._require_images(num_images)
        self.num_images += num_images
        try:
            yield
        finally:
            self.num_images -= num_images

    @contextmanager
    def receive(self, *, announced_bytes: int) -> Iterator[Callable[[int], None]]:
        """Count a body as it arrives. Its bytes count for as long as the context lasts.

        No room is reserved for announced bytes: otherwise a few clients that announce much and
        send nothing would keep all others out.

        Args:
            announced_bytes: length of the body; 0 if the client does not announce it.

        Yields:
            A function to call with the number of bytes whenever some have arrived.

        Raises:
            OverloadedError: there is no room for an image now, or for so many bytes. The function
                raises it as well. A request may be larger than the limit, as in `enter`.
        """
        self._require_images(1)
        self._require_bytes(self.num_bytes, announced_bytes)
        held = 0

        def arrived(num_bytes: int) -> None:
            nonlocal held
            self._require_bytes(self.num_bytes - held, held + num_bytes)
            held += num_bytes
            self.num_bytes += num_bytes

        try:
            yield arrived
        finally:
            self.num_bytes -= held

    def _require_images(self, wanted: int) -> None:
        if self._is_over(self.num_images, wanted, self._max_images):
            raise self._full()

    def _require_bytes(self, inside: int, wanted: int) -> None:
        if self._is_over(inside, wanted, self._max_bytes):
            raise self._full()

    def _full(self) -> OverloadedError:
        return self.refusal(
            f"the service is full ({self.num_images} images, {self.num_bytes} bytes inside)"
        )

    def refusal(self, reason: str) -> OverloadedError:
        """The error for a client that should retry when the work inside is done."""
        return OverloadedError(f"{reason}; try again later", self._retry_after_s())

    @property
    def fill(self) -> float:
        """Share of the room that is taken, 0 ... 1."""
        return min(1.0, max(self.num_images / self._max_images, self.num_bytes / self._max_bytes))

    @staticmethod
    def _is_over(inside: int, wanted: int, limit: int) -> bool:
        return wanted > 0 and inside > 0 and inside + wanted > limit
