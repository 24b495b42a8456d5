"""Run batches on one device, on its one worker thread."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from service.models import Variant


def choose_device(name: str) -> torch.device:
    """The device of a setting; `auto` takes the GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


class Engine:
    """A device and the thread that works for it. Batches run one after the other."""

    def __init__(self, device: torch.device, *, num_threads: int) -> None:
        """Start the worker thread.

        Args:
            device: where the models are.
            num_threads: threads that one batch may use on the CPU; 0 leaves torch's choice.
        """
        self.device = device
        self._worker = ThreadPoolExecutor(
            1, thread_name_prefix="device", initializer=_set_threads, initargs=(num_threads,)
        )

    async def forward(self, variant: Variant, images: Sequence[Tensor]) -> list[Tensor]:
        """Logits (K,), float32 on the CPU, of each image (3, H, W)."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker, self._forward, variant, images)

    async def warm_up(self, variant: Variant, input_size: Sequence[int]) -> None:
        """Run a variant once, so that no client waits for what only the first run needs."""
        await self.forward(variant, [torch.zeros(*input_size)])

    def close(self) -> None:
        """Let the running batch finish, then end the thread."""
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _forward(self, variant: Variant, images: Sequence[Tensor]) -> list[Tensor]:
        with torch.inference_mode():
            batch = torch.stack(list(images)).to(self.device)
            return list(variant.module(batch).float().cpu())


def _set_threads(num_threads: int) -> None:
    if num_threads:
        torch.set_num_threads(num_threads)
