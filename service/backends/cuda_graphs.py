"""CUDA graphs: the work of a batch is recorded once, and replayed for each batch of that size.

Launching some hundred small kernels one by one takes the host longer than a GPU needs for a few
images. A graph is for one variant and one batch size, so a batch goes into the smallest graph that
holds it. A batch without a graph (another r, no memory for more graphs) is computed eagerly.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from service.backends.contract import Variant, eagerly

logger = logging.getLogger(__name__)

NUM_WARM_UPS = 3
"""runs before a recording, in which libraries choose kernels and allocate what they keep"""


class Recording(NamedTuple):
    """The recorded work of one batch."""

    images: Tensor
    """(B, 3, H, W), read by each replay."""
    logits: Tensor
    """(B, K), written by each replay."""
    replay: Callable[[], None]
    num_bytes: int
    """bytes by which the memory of all recordings grew."""


Record = Callable[[nn.Module, Tensor], Recording]
"""(module, images (B, 3, H, W)) -> a recording that reads these images."""


class Graphs:
    """All recordings of a device. Used by one thread at a time."""

    def __init__(self, record: Record, device: torch.device, *, max_bytes: int) -> None:
        """Begin with no recording; `capture` makes them.

        Args:
            record: makes a recording.
            device: where the images are.
            max_bytes: limit of memory; once the recordings take more, no further one is made.
        """
        self._record = record
        self._device = device
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._is_full = False
        self._recordings: dict[Variant, dict[int, Recording]] = {}

    def capture(
        self, variants: Sequence[Variant], input_size: Sequence[int], max_batch_size: int
    ) -> None:
        """Record some variants in all batch sizes. Small sizes go first, as they take least memory.

        A variant that cannot be recorded is logged and gets no further graph.

        Args:
            variants: variants of a model on this device.
            input_size: channels, height and width of an image.
            max_batch_size: most images in a batch.
        """
        possible = list(dict.fromkeys(variants))
        for size in buckets(max_batch_size):
            for variant in tuple(possible):
                if self._is_full:
                    return
                if not self._add(variant, (size, *input_size)):
                    possible.remove(variant)

    def run(self, variant: Variant, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, 3, H, W), which are on the device, in the variant's dtype.

        A batch may be smaller than its graph. The rows beyond it still hold older images, and their
        logits are dropped.
        """
        B = len(images)
        recordings = self._recordings.get(variant, {})
        size = min((size for size in recordings if size >= B), default=None)
        if size is None:
            return eagerly(variant, images)
        recording = recordings[size]
        recording.images[:B].copy_(images)
        recording.replay()
        return recording.logits[:B].clone()  # the next replay overwrites the original

    def _add(self, variant: Variant, shape: Sequence[int]) -> bool:
        """Record a variant for images of a shape (B, 3, H, W); False if that failed."""
        about = {"model": variant.model, "method": variant.method, "r": variant.r}
        try:
            with torch.inference_mode():
                images = torch.zeros(*shape, dtype=variant.dtype, device=self._device)
                recording = self._record(variant.module, images)
        except RuntimeError as exc:
            # A larger batch, or another variant, would not fit either.
            self._is_full = isinstance(exc, torch.OutOfMemoryError)
            error = type(exc).__name__
            logger.warning("no graph", extra={**about, "batch_size": shape[0], "error": error})
        else:
            self._keep(variant, recording)
            return True
        # After the `except` block: the error, whose frames hold tensors, is gone now.
        with suppress(RuntimeError):  # PyTorch before 2.13 may refuse after a broken recording
            torch.cuda.empty_cache()
        return False

    def _keep(self, variant: Variant, recording: Recording) -> None:
        self._recordings.setdefault(variant, {})[len(recording.images)] = recording
        self._num_bytes += recording.num_bytes
        if self._num_bytes > self._max_bytes:
            self._is_full = True
            logger.warning("no further graphs", extra={"num_bytes": self._num_bytes})


class CudaRecorder:
    """Records with PyTorch; all recordings share one pool of memory.

    Recordings may share a pool and be replayed in any order. They run one after the other, and none
    reads what another one left. Their images lie outside the pool, and their logits are kept: the
    pool never gives this memory to another recording.

    Source: https://docs.pytorch.org/docs/stable/notes/cuda.html, CUDA Graphs.
    """

    def __init__(self, device: torch.device) -> None:
        """Keep the device; the first recording is the first to use it."""
        self._device = device

    @cached_property
    def _stream(self) -> Any:
        return torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]

    @cached_property
    def _pool(self) -> Any:
        return torch.cuda.graph_pool_handle()

    def __call__(self, module: nn.Module, images: Tensor) -> Recording:
        """Record a module. `num_bytes` is the growth of the memory that PyTorch holds.

        Raises:
            RuntimeError: the module cannot be recorded, or there is not enough memory.
        """
        # A stream of the recorder: after a failure, `graph` would leave its own as the current one.
        with torch.cuda.device(images.device), torch.cuda.stream(self._stream):
            torch.cuda.synchronize()  # the images are there
            for _ in range(NUM_WARM_UPS):
                module(images)
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            before = torch.cuda.memory_reserved()
            graph = torch.cuda.CUDAGraph()
            # Not "global": a scrape of the metrics may query the device's memory meanwhile.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                logits = module(images)
            num_bytes = torch.cuda.memory_reserved() - before
        return Recording(images, logits, graph.replay, num_bytes)


def buckets(max_batch_size: int) -> tuple[int, ...]:
    """Batch sizes to record: the powers of two, and the largest size."""
    powers = (2**exponent for exponent in range(max_batch_size.bit_length()))
    return (*(size for size in powers if size < max_batch_size), max_batch_size)
