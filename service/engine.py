"""Run batches on one device, on its one worker thread."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import monotonic
from typing import Literal, TypeVar, get_args

import psutil
import torch
from torch import Tensor

from service import cores
from service.errors import DeviceStuckError, OutOfDeviceMemoryError
from service.models import Variant
from service.placement import Placement

T = TypeVar("T")
MemoryKind = Literal["used", "total"]
MEMORY_KINDS: tuple[MemoryKind, ...] = get_args(MemoryKind)
logger = logging.getLogger(__name__)


class Engine:
    """A device and the thread that works for it. Batches run one after the other."""

    def __init__(self, placement: Placement, *, num_threads: int) -> None:
        """Start the worker thread.

        Args:
            placement: where the models are, and how they compute.
            num_threads: threads that one batch may use on the CPU; 0: torch's choice, but not more
                than there are cores for this process.
        """
        self.placement = placement
        self.device = placement.device
        self._worker = ThreadPoolExecutor(
            1, thread_name_prefix="device", initializer=_set_threads, initargs=(num_threads,)
        )

    async def forward(self, variant: Variant, images: Sequence[Tensor]) -> list[Tensor]:
        """Logits (K,), float32 on the CPU, of each image (3, H, W).

        Raises:
            OutOfDeviceMemoryError: so many images do not fit.
            DeviceStuckError: the device is broken; only a restart of the process helps.
        """
        return await self.run(partial(self._forward, variant, images))

    async def run(self, work: Callable[[], T]) -> T:
        """Do something else on the worker thread, before there are batches."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)

    async def warm_up(
        self, variant: Variant, input_size: Sequence[int], batch_sizes: Sequence[int]
    ) -> dict[int, float]:
        """Run a variant so that no client waits for what only the first run needs.

        Returns:
            Seconds by batch size, of those that fit into the memory of the device.

        Raises:
            OutOfDeviceMemoryError: not even one image fits.
        """
        image = torch.zeros(*input_size)
        await self.forward(variant, [image])
        seconds = {}
        for size in batch_sizes:
            started = monotonic()
            try:
                await self.forward(variant, [image] * size)
            except OutOfDeviceMemoryError:
                logger.warning("out of device memory", extra={"batch_size": size})
                continue
            seconds[size] = monotonic() - started
        return seconds

    def memory_bytes(self, kind: MemoryKind) -> int:
        """Bytes of memory that are used, or that there are in all.

        Of a GPU: by anyone, on the whole device. Of the CPU: by this process, of the machine's.
        """
        if self.device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self.device)
            return total - free if kind == "used" else total
        used: int = psutil.Process().memory_info().rss
        total_bytes: int = psutil.virtual_memory().total
        return used if kind == "used" else total_bytes

    def close(self) -> None:
        """Begin no further batch; the thread ends after the running one."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _forward(self, variant: Variant, images: Sequence[Tensor]) -> list[Tensor]:
        try:
            with torch.inference_mode():
                batch = torch.stack(list(images)).to(self.device, variant.dtype)
                return list(variant.module(batch).float().cpu())
        except torch.OutOfMemoryError as exc:
            message = _first_line(exc)
        except torch.AcceleratorError as exc:
            # CUDA's errors stay: every later call in this process would fail as well.
            raise DeviceStuckError(f"the device is broken: {_first_line(exc)}") from exc
        # Only here, where the error and the tensors that its frames hold are gone.
        torch.cuda.empty_cache()
        raise OutOfDeviceMemoryError(message)


def _first_line(exc: Exception) -> str:
    return str(exc).partition("\n")[0]


def _set_threads(num_threads: int) -> None:
    torch.set_num_threads(num_threads or min(torch.get_num_threads(), cores.count()))
