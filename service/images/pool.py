"""The threads that decode pictures."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import TypeVar

import torch
from torch import Tensor

from service.images import decode
from service.images.decode import InputSpec
from service.images.options import MAX_PIXELS
from service.scheduling.decodings import Decodings

T = TypeVar("T")


class DecodePool:
    """A pool of threads that decode pictures. Used from the event loop only."""

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
            on_change: called with the change in the number of pictures inside.
        """
        self.decodings = Decodings(num_threads, on_change=on_change)
        """the pictures inside, and the forecast of the time that they take"""
        self._max_pixels = max_pixels
        # One picture is too little work to share among PyTorch's own threads.
        self._threads = ThreadPoolExecutor(
            num_threads,
            thread_name_prefix="decode",
            initializer=torch.set_num_threads,
            initargs=(1,),
        )

    async def decode(self, picture: bytes, spec: InputSpec, model: str) -> tuple[Tensor, float]:
        """Pixels (3, H, W), as the transform of `spec` gives them, and the seconds that it took.

        Args:
            picture: the image file.
            spec: the input that the model needs.
            model: name of the model, for the forecast.

        Raises:
            ImageRejectedError: the picture cannot be decoded.
            TooLargeError: it has more pixels than allowed.
        """
        started = monotonic()
        decoding = self.decodings.begin(model, len(picture))
        seconds: float | None = None
        try:
            pixels, seconds = await self.run(_decode, picture, spec, self._max_pixels)
        finally:
            self.decodings.end(decoding, seconds)
        return pixels, monotonic() - started

    async def run(self, work: Callable[..., T], *given: object) -> T:
        """Do other work on one of the threads, off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *given)

    def close(self) -> None:
        """Begin no further work."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _decode(picture: bytes, spec: InputSpec, max_pixels: int) -> tuple[Tensor, float]:
    """Pixels, and the seconds that decoding itself took."""
    started = monotonic()
    return decode.decode(picture, spec, max_pixels), monotonic() - started
