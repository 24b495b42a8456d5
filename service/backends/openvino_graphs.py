"""Full batches on the CPU by OpenVINO, a graph for each variant. The one door to openvino.

OpenVINO computes a graph of fixed shapes faster than PyTorch the packed layers, but every graph has
weights of its own. So it gets what a busy service computes most: full batches of the tiers that are
warmed up. Other sizes, and any other r, are computed as without it. Source: docs/decisions/0013.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue

import openvino
import psutil
import torch
from openvino import frontend
from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder
from torch import Tensor, nn

from service.backends import onednn
from service.backends.contract import Variant, eagerly

logger = logging.getLogger(__name__)

MAX_ERROR = 1e-3
"""between logits: more than rounding makes, less than another answer does"""
SEED = 0
CONVERSION_ERRORS = (
    RuntimeError,
    frontend.GeneralFailure,
    frontend.NotImplementedFailure,
    frontend.OpConversionFailure,
    frontend.OpValidationFailure,
)
"""what PyTorch and OpenVINO raise at a module that they cannot convert"""

Run = Callable[[Tensor], Tensor]
"""images (B, 3, H, W), for one B -> logits (B, K)"""
Compile = Callable[[nn.Module, Tensor], Run]
"""(module, images (B, 3, H, W)) -> the same, for images of this shape"""


class FullBatches:
    """The graphs of all variants. Batches may come from as many threads as there are streams."""

    def __init__(self, compile_: Compile, *, max_bytes: int) -> None:
        """Start with none.

        Args:
            compile_: makes one.
            max_bytes: of memory; once they take more, no further ones are made.
        """
        self._compile = compile_
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._graphs: dict[tuple[Variant, int], Run] = {}

    def capture(
        self, variants: Sequence[Variant], input_size: Sequence[int], max_batch_size: int
    ) -> None:
        """Compile those variants that reduce something; without a reduction there is no gain.

        A variant that cannot be compiled, or that then gives other answers, is logged and gets no
        graph.

        Args:
            variants: of a model with packed layers, in float32.
            input_size: channels, height and width of an image.
            max_batch_size: images in a full batch.
        """
        images = torch.randn(
            max_batch_size, *input_size, generator=torch.Generator().manual_seed(SEED)
        )
        for variant in dict.fromkeys(variants):
            if not any(variant.schedule):
                continue
            if self._num_bytes > self._max_bytes:
                logger.warning("no further graphs", extra={"num_bytes": self._num_bytes})
                return
            before = _memory_bytes()
            self._add(variant, images)
            self._num_bytes += max(0, _memory_bytes() - before)

    def run(self, variant: Variant, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, 3, H, W), float32."""
        run = self._graphs.get((variant, len(images)))
        return eagerly(variant, images) if run is None else run(images)

    @torch.inference_mode()
    def _add(self, variant: Variant, images: Tensor) -> None:
        about = {"model": variant.model, "method": variant.method, "r": variant.r}
        try:
            run = self._compile(onednn.unpacked(variant.module), images)
            error = float((run(images) - eagerly(variant, images)).abs().max())
        except CONVERSION_ERRORS as exc:
            logger.warning("no graph", extra={**about, "error": type(exc).__name__})
            return
        if not error <= MAX_ERROR:  # nor is it a number
            logger.warning("no graph", extra={**about, "error": f"logits differ by {error:.1e}"})
            return
        self._graphs[variant, len(images)] = run


class Compiler:
    """OpenVINO, for batches that are computed beside each other on the threads of the service."""

    def __init__(self, *, num_threads: int, num_streams: int) -> None:
        """Prepare it.

        Args:
            num_threads: that all batches together may use.
            num_streams: batches that may run at a time.
        """
        self._core = openvino.Core()
        self._num_streams = num_streams
        self._config = {
            "ENABLE_CPU_PINNING": False,  # other threads decode on the same cores
            "INFERENCE_NUM_THREADS": num_threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "NUM_STREAMS": num_streams,
        }

    def __call__(self, module: nn.Module, images: Tensor) -> Run:
        """Compile a module of PyTorch's own layers.

        Not by `openvino.convert_model`, which does the same and reports it to its makers.

        Raises:
            Exception: one of `CONVERSION_ERRORS`, if they cannot.
        """
        with _quietly():
            program = torch.export.export(module, (images,))
            decoder = TorchFXPythonDecoder.from_exported_program(program, dynamic_shapes=False)
        pytorch = frontend.FrontEndManager().load_by_framework("pytorch")
        graph = pytorch.convert(pytorch.load(decoder))
        compiled = self._core.compile_model(graph, "CPU", self._config)
        requests: SimpleQueue[openvino.InferRequest] = SimpleQueue()
        for _ in range(self._num_streams):
            requests.put(compiled.create_infer_request())

        def run(images: Tensor) -> Tensor:
            request = requests.get()
            try:
                (logits,) = request.infer([images.numpy()], share_inputs=True).values()
            finally:
                requests.put(request)
            return torch.from_numpy(logits)

        return run


def full_batches(*, num_threads: int, num_streams: int, max_bytes: int) -> FullBatches:
    """Graphs for a service with so many threads and streams, see `Compiler` and `FullBatches`."""
    compiler = Compiler(num_threads=num_threads, num_streams=num_streams)
    return FullBatches(compiler, max_bytes=max_bytes)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what the one library says of the other's private parts."""
    root = logging.getLogger()
    root.addFilter(_is_ours)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        root.removeFilter(_is_ours)


def _is_ours(record: logging.LogRecord) -> bool:
    return record.module != "fx_decoder"


def _memory_bytes() -> int:
    used: int = psutil.Process().memory_info().rss
    return used
