"""How long modules take: in turns, beside each other, and beside what the machine can do at all."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from service.backends.cuda_graphs import Record
from service.backends.onednn import PackedLinear

BASE_EVERY = 5
"""rows after which the dense model is timed again."""
MATRIX = {"cuda": 8192, "cpu": 2048}
"""rows and columns of a product that nothing else is faster than"""


class Timing(NamedTuple):
    """One measurement, and the base's just before it."""

    own_s: float
    """seconds for one batch."""
    base_s: float


class Replayed(nn.Module):
    """A module as one CUDA graph, recorded once."""

    def __init__(self, module: nn.Module, record: Record, batch: Tensor) -> None:
        """Record it for batches like this one (B, 3, S, S)."""
        super().__init__()
        with torch.inference_mode():
            self._recording = record(module, batch.clone())

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, K); the next call writes over it."""
        self._recording.images.copy_(images)
        self._recording.replay()
        return self._recording.logits


@torch.inference_mode()
def time_rounds(
    modules: Sequence[nn.Module], batch: Tensor, *, rounds: int, calls: int = 1
) -> list[list[Timing]]:
    """Time modules in turn, round by round; a round before the first is not counted.

    Args:
        modules: images -> logits, on the batch's device; the first is the base.
        batch: (B, 3, S, S).
        rounds: how often each module is measured.
        calls: forwards in one measurement, more than 1 where one is too short to be timed.

    Returns:
        Per module, one timing per round.
    """
    timings: list[list[Timing]] = [[] for _ in modules]
    with tqdm(total=(rounds + 1) * len(modules), desc="timing", unit="run") as progress:
        for warm in [False] + [True] * rounds:
            for number, module in enumerate(modules):
                if number % BASE_EVERY == 0:
                    base_s = _seconds(modules[0], batch, calls if warm else 1)
                own_s = base_s if number == 0 else _seconds(module, batch, calls if warm else 1)
                if warm:
                    timings[number].append(Timing(own_s, base_s))
                progress.update()
    return timings


def _seconds(module: Callable[[Tensor], Tensor], batch: Tensor, calls: int) -> float:
    """Mean time of one forward."""
    _synchronize(batch.device)
    started = time.perf_counter()
    for _ in range(calls):
        module(batch)
    _synchronize(batch.device)
    return (time.perf_counter() - started) / calls


def median_speed(timings: Sequence[Timing], batch_size: int) -> tuple[float, float]:
    """Images/s, and how many times faster than the base: each the median of the rounds."""
    images_per_s = batch_size / statistics.median(timing.own_s for timing in timings)
    return images_per_s, statistics.median(timing.base_s / timing.own_s for timing in timings)


@torch.inference_mode()
def peak_flop_per_s(like: Tensor, rounds: int, *, packed: bool = False) -> float:
    """What a product of two large matrices reaches, on a tensor's device and in its dtype.

    Args:
        like: the tensor.
        rounds: how often it is measured.
        packed: by the service's own layer, in float32 on the CPU.
    """
    size = MATRIX[like.device.type]
    linear = nn.Linear(size, size, bias=False).to(like.device, like.dtype)
    product = PackedLinear(linear, "float32", with_gelu=False).product if packed else linear
    matrix = torch.randn(size, size).to(like.device, like.dtype)
    seconds = [_seconds(product, matrix, 10) for _ in range(rounds + 1)]
    return 2 * size**3 / statistics.median(seconds[1:])


@torch.inference_mode()
def peak_memory_mib(module: nn.Module, batch: Tensor) -> float | None:
    """Most memory that is taken during one forward, weights included.

    None without a GPU, and for graphs, which took theirs when they were recorded.
    """
    if batch.device.type != "cuda" or isinstance(module, Replayed):
        return None
    torch.cuda.reset_peak_memory_stats(batch.device)
    module(batch)
    torch.cuda.synchronize(batch.device)
    return round(torch.cuda.max_memory_allocated(batch.device) / 2**20, 1)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
