"""Runs batches on one device, on its worker threads."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import monotonic
from typing import Literal, NamedTuple, TypeVar, get_args

import psutil
import torch
from torch import Tensor

from service.backends import cores, pixels
from service.backends.contract import Prepared, Variant, eagerly
from service.backends.placement import Placement
from service.errors import (
    DeviceStuckError,
    InferenceError,
    OutOfDeviceMemoryError,
    SettingsError,
)

T = TypeVar("T")
MemoryKind = Literal["used", "total"]
MEMORY_KINDS: tuple[MemoryKind, ...] = get_args(MemoryKind)
NUM_MEASURED = 2
"""times that one image is measured at warm-up; the shortest time counts"""
MAX_STREAMS = 4
"""default limit: Python runs one thread at a time, so more would wait for each other"""
logger = logging.getLogger(__name__)


class Threads(NamedTuple):
    """The threads and streams of a device, which its batches share."""

    num_threads: int
    num_streams: int
    """batches that may run at a time"""


class Warm(NamedTuple):
    """What a warm-up measured."""

    seconds: dict[int, float]
    """seconds that the whole device needs while all its streams compute, by batch size"""
    image_s: float
    """seconds of one image on the threads of one stream"""
    lone_image_s: float
    """seconds of one image on all threads"""


class Engine:
    """A device and its worker threads: one for each batch that may run at a time, and one more.

    A batch that gets all threads of the CPU is always started by the same worker thread. Each
    thread that starts others keeps them, and where OpenMP has more of them than there are cores, it
    lets them sleep between two steps instead of waiting busily: that costs a lone image up to a
    third of its time.

    A GPU has one thread. It stacks a batch in pinned memory, starts the copy, the normalisation
    and the model without waiting for any of them, and then waits for the logits. Images are decoded
    meanwhile. The next batch is stacked and copied only after those logits.
    """

    def __init__(
        self,
        placement: Placement,
        *,
        num_threads: int,
        num_streams: int = 1,
        prepared: Prepared | None = None,
    ) -> None:
        """Start the worker threads.

        Args:
            placement: where the models are, and how they compute.
            num_threads: as `share_out` takes it.
            num_streams: as `share_out` takes it.
            prepared: computes batches with graphs; None: all are computed eagerly.

        Raises:
            SettingsError: this device cannot run so many streams.
        """
        self.placement = placement
        self.device = placement.device
        self.num_threads, self.num_streams = share_out(placement, num_threads, num_streams)
        self._prepared = prepared
        self._whole = ThreadPoolExecutor(1, thread_name_prefix="device")
        self._streams = ThreadPoolExecutor(self.num_streams, thread_name_prefix="stream")

    def forward(
        self, variant: Variant, images: Sequence[Tensor], num_threads: int = 0
    ) -> Awaitable[list[Tensor]]:
        """Logits (K,), float32 on the CPU, of each image (3, H, W).

        Args:
            variant: a variant of a model on this device.
            images: one batch, as `pixels.to_device` takes them.
            num_threads: most threads for the batch; 0: all.

        Raises:
            OutOfDeviceMemoryError: the batch does not fit into the memory of the device.
            DeviceStuckError: the device is broken; only a restart of the process helps.
        """
        threads = num_threads or self.num_threads
        worker = self._whole if threads == self.num_threads else self._streams
        work = partial(self._forward, variant, images, threads)
        return asyncio.get_running_loop().run_in_executor(worker, work)

    def run(self, work: Callable[[], T]) -> Awaitable[T]:
        """Do other work on a worker thread, before there are batches."""
        return asyncio.get_running_loop().run_in_executor(self._whole, work)

    async def capture(
        self, variants: Sequence[Variant], input_size: Sequence[int], max_batch_size: int
    ) -> None:
        """Prepare for batches of some variants, where that is possible, before there are any."""
        if self._prepared is not None:
            await self.run(partial(self._prepared.capture, variants, input_size, max_batch_size))

    async def warm_up(
        self, variant: Variant, input_size: Sequence[int], batch_sizes: Sequence[int]
    ) -> Warm:
        """Run a variant, so that no client waits for the work that only a first run needs.

        One image is computed on all threads as well, as it is for a client without company. The
        images are noise: large and small values come up in it, as they do in pictures.

        Args:
            variant: a variant of a model on this device.
            input_size: channels, height and width of an image.
            batch_sizes: the sizes to run besides one image.

        Returns:
            What it measured; only sizes that fit into the device's memory.

        Raises:
            OutOfDeviceMemoryError: not even one image fits.
            InferenceError: the variant gives logits that are not finite.
        """
        image = _noise(input_size, as_bytes=variant.normalization is not None)
        threads = self.num_threads // self.num_streams

        async def measure(size: int, threads: int) -> float:
            started = monotonic()
            _require_finite(await self.forward(variant, [image] * size, threads))
            return monotonic() - started

        await measure(1, self.num_threads)
        lone_image_s = min([await measure(1, self.num_threads) for _ in range(NUM_MEASURED)])
        image_s = lone_image_s
        if threads < self.num_threads:
            image_s = min([await measure(1, threads) for _ in range(NUM_MEASURED)])
        seconds = {1: image_s}
        for size in sorted({*batch_sizes} - {1}):
            try:
                seconds[size] = await measure(size, threads)
            except OutOfDeviceMemoryError:
                logger.warning("out of device memory", extra={"batch_size": size})
        share = threads / self.num_threads
        return Warm({size: share * s for size, s in seconds.items()}, image_s, lone_image_s)

    def memory_bytes(self, kind: MemoryKind) -> int:
        """Bytes of memory: those used, or the total.

        On a GPU, all processes count as use, and the device's memory is the total. On the CPU, this
        process counts as use, and the machine's memory is the total.
        """
        if self.device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self.device)
            return total - free if kind == "used" else total
        used: int = psutil.Process().memory_info().rss
        total_bytes: int = psutil.virtual_memory().total
        return used if kind == "used" else total_bytes

    def close(self) -> None:
        """Begin no further batch; the threads end after the running batches."""
        for workers in (self._whole, self._streams):
            workers.shutdown(wait=False, cancel_futures=True)

    def _forward(
        self, variant: Variant, images: Sequence[Tensor], num_threads: int
    ) -> list[Tensor]:
        if torch.get_num_threads() != num_threads:
            torch.set_num_threads(num_threads)  # OpenMP keeps this number for each calling thread
        try:
            with torch.inference_mode():
                batch = pixels.to_device(
                    images, variant.normalization, device=self.device, dtype=variant.dtype
                )
                run = eagerly if self._prepared is None else self._prepared.run
                return list(run(variant, batch).float().cpu())
        except torch.OutOfMemoryError as exc:
            message = _first_line(exc)
        except torch.AcceleratorError as exc:
            # An error of CUDA persists: every later call in this process would fail as well.
            raise DeviceStuckError(f"the device is broken: {_first_line(exc)}") from exc
        # After the `except` block: the error, whose frames hold tensors, is gone now.
        torch.cuda.empty_cache()
        raise OutOfDeviceMemoryError(message)


def _noise(input_size: Sequence[int], *, as_bytes: bool) -> Tensor:
    """A picture (3, H, W) of noise, always the same: uint8 or normalised float32."""
    generator = torch.Generator().manual_seed(0)
    if as_bytes:
        return torch.randint(256, tuple(input_size), dtype=torch.uint8, generator=generator)
    return torch.randn(*input_size, generator=generator)


def _require_finite(logits: Sequence[Tensor]) -> None:
    """Check logits (K,) of each image.

    Raises:
        InferenceError: some are NaN or infinite.
    """
    for values in logits:
        if not values.isfinite().all():
            kind = "NaN" if values.isnan().any() else "infinite logits"
            raise InferenceError(f"the model gives {kind}")


def _first_line(exc: Exception) -> str:
    return str(exc).partition("\n")[0]


def share_out(placement: Placement, num_threads: int, num_streams: int) -> Threads:
    """The threads and streams that batches may use on a device.

    Args:
        placement: where the models are; a GPU counts as one thread.
        num_threads: threads that all batches together may use on the CPU; 0: torch's choice, but
            not more than there are cores for this process.
        num_streams: batches that may run at a time; 0: on the CPU one per thread, at most
            `MAX_STREAMS`, and on a GPU one.

    Raises:
        SettingsError: this device cannot run so many streams.
    """
    if placement.device.type == "cuda":
        num_threads = 1
    num_threads = num_threads or min(torch.get_num_threads(), cores.count())
    if num_streams > num_threads:
        raise SettingsError(
            f"RAPID_NUM_STREAMS = {num_streams} is more than there are threads to compute "
            f"with; allowed are 0 ... {num_threads}"
        )
    return Threads(num_threads, num_streams or min(num_threads, MAX_STREAMS))
