"""Decode pictures in threads, and know how long that will take."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import NamedTuple

import torch
from torch import Tensor

from service.images import decode
from service.models.served import ServedModel
from service.scheduling.forecast import Forecast, Line

BYTES_OF_A_PHOTO = 2**20
FIRST_GUESS = Line(slope=2e-8, intercept=2e-3)
"""seconds by bytes; only how they compare matters, the level is learnt from the first pictures"""


class _Bytes(NamedTuple):
    """The work that a byte of a picture means, for the forecast."""

    model: str
    macs: int = 1


class Decoder:
    """The threads that decode. Used from the event loop only."""

    def __init__(self, num_threads: int, *, max_pixels: int) -> None:
        """Start the threads.

        Args:
            num_threads: how many.
            max_pixels: most pixels of a picture, before and after resizing.
        """
        # One picture is too little work to share among PyTorch's own threads.
        self.threads = ThreadPoolExecutor(
            num_threads,
            thread_name_prefix="decode",
            initializer=torch.set_num_threads,
            initargs=(1,),
        )
        self._num_threads = num_threads
        self._max_pixels = max_pixels
        self._forecast = Forecast(max_size=BYTES_OF_A_PHOTO, guess=FIRST_GUESS)
        self._inside_s = 0.0
        self.num_inside = 0
        """pictures that wait for a thread or are being decoded"""

    async def decode(self, picture: bytes, model: ServedModel) -> tuple[Tensor, float]:
        """Pixels (3, H, W), and the seconds until they were there.

        They are uint8 where the model normalises them on its device, else float32.

        Raises:
            ImageRejectedError: it is not a picture that can be decoded.
            TooLargeError: it has more pixels than allowed.
        """
        spec = decode.InputSpec(model.decode_transform, model.resize_side, self._max_pixels)
        started = monotonic()
        expected_s = self._forecast.seconds(_Bytes(model.name), len(picture))
        self.num_inside += 1
        self._inside_s += expected_s
        try:
            pixels, seconds = await asyncio.get_running_loop().run_in_executor(
                self.threads, _decode, picture, spec
            )
        finally:
            self.num_inside -= 1
            self._inside_s -= expected_s
        self._forecast.observe(_Bytes(model.name), len(picture), seconds)
        return pixels, monotonic() - started

    def expected_s(self, sizes: list[int], model: ServedModel) -> float:
        """Forecast for pictures of so many bytes that come now, and what is inside before them."""
        if not sizes:
            return 0.0
        each_s = [self._forecast.seconds(_Bytes(model.name), size) for size in sizes]
        inside_s = self._inside_s if self.num_inside else 0.0
        return max(max(each_s), (inside_s + sum(each_s)) / self._num_threads)

    def close(self) -> None:
        """Begin nothing more."""
        self.threads.shutdown(wait=False, cancel_futures=True)


def _decode(picture: bytes, spec: decode.InputSpec) -> tuple[Tensor, float]:
    """Pixels, and the seconds that decoding itself took."""
    started = monotonic()
    return decode.decode(picture, spec), monotonic() - started
