"""The threads that decode pictures, and how long decoding will take."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from service.images import decode
from service.images.decode import InputSpec
from service.images.options import MAX_PIXELS
from service.scheduling.forecast import Forecast, Line

T = TypeVar("T")

BYTES_OF_A_PHOTO = 2**20
FIRST_GUESS = Line(slope=2e-8, intercept=2e-3)
"""seconds by bytes; only how they compare matters, the level is learnt from the first pictures"""


class _Bytes(NamedTuple):
    """The work that a byte of a picture means, for the forecast."""

    model: str
    macs: int = 1


class DecodePool:
    """The threads that decode. Used from the event loop only."""

    def __init__(
        self,
        num_threads: int,
        *,
        max_pixels: int = MAX_PIXELS,
        on_change: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Start the threads.

        Args:
            num_threads: how many.
            max_pixels: most pixels of a picture, before and after resizing.
            on_change: told by how many the pictures inside have become more, or fewer.
        """
        # One picture is too little work to share among PyTorch's own threads.
        self._threads = ThreadPoolExecutor(
            num_threads,
            thread_name_prefix="decode",
            initializer=torch.set_num_threads,
            initargs=(1,),
        )
        self._num_threads = num_threads
        self._max_pixels = max_pixels
        self._on_change = on_change
        self._forecast = Forecast(max_size=BYTES_OF_A_PHOTO, guess=FIRST_GUESS)
        self._inside_s = 0.0
        self.num_inside = 0
        """pictures that wait for a thread or are being decoded"""

    async def decode(self, picture: bytes, spec: InputSpec, model: str) -> tuple[Tensor, float]:
        """Pixels (3, H, W), as the transform of `spec` gives them, and the seconds until then.

        Args:
            picture: the image file.
            spec: what the model wants to see.
            model: name of the model, for the forecast.

        Raises:
            ImageRejectedError: it is not a picture that can be decoded.
            TooLargeError: it has more pixels than allowed.
        """
        started = monotonic()
        expected_s = self._forecast.seconds(_Bytes(model), len(picture))
        self._enter(1, expected_s)
        try:
            pixels, seconds = await self.run(_decode, picture, spec, self._max_pixels)
        finally:
            self._enter(-1, -expected_s)
        self._forecast.observe(_Bytes(model), len(picture), seconds)
        return pixels, monotonic() - started

    async def run(self, work: Callable[..., T], *given: object) -> T:
        """Do other work of that kind on one of the threads, off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *given)

    def expected_s(self, sizes: list[int], model: str) -> float:
        """Forecast for pictures of so many bytes that come now, and what is inside before them."""
        if not sizes:
            return 0.0
        each_s = [self._forecast.seconds(_Bytes(model), size) for size in sizes]
        inside_s = self._inside_s if self.num_inside else 0.0
        return max(max(each_s), (inside_s + sum(each_s)) / self._num_threads)

    def close(self) -> None:
        """Begin nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _enter(self, change: int, expected_s: float) -> None:
        self.num_inside += change
        self._inside_s += expected_s
        self._on_change(change)


def _decode(picture: bytes, spec: InputSpec, max_pixels: int) -> tuple[Tensor, float]:
    """Pixels, and the seconds that decoding itself took."""
    started = monotonic()
    return decode.decode(picture, spec, max_pixels), monotonic() - started
