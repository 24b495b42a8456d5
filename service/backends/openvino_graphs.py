"""Full batches on the CPU by OpenVINO, one graph for each variant. Only this module imports it.

OpenVINO computes a graph of fixed shapes faster than PyTorch computes packed layers, but each graph
has its own copy of the weights. So only the most frequent work of a busy service gets graphs: full
batches of the warmed-up tiers. PyTorch computes other batch sizes and any other r.

Source: docs/decisions/0013.
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
"""largest difference of two logits: above rounding errors, below the difference of a wrong graph"""
SEED = 0
CONVERSION_ERRORS = (
    RuntimeError,
    frontend.GeneralFailure,
    frontend.NotImplementedFailure,
    frontend.OpConversionFailure,
    frontend.OpValidationFailure,
)
"""errors of PyTorch and OpenVINO for a module that they cannot convert"""

Run = Callable[[Tensor], Tensor]
"""images (B, 3, H, W) of one fixed shape -> logits (B, K)"""
Compile = Callable[[nn.Module, Tensor], Run]
"""(module, images (B, 3, H, W)) -> the compiled module, for images of this shape"""


class FullBatches:
    """The graphs of all variants. As many threads as there are streams may use it at a time."""

    def __init__(self, compile_: Compile, *, max_bytes: int) -> None:
        """Begin with no graph; `capture` makes them.

        Args:
            compile_: makes a graph.
            max_bytes: limit of memory; once the graphs take more, no further one is made.
        """
        self._compile = compile_
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._graphs: dict[tuple[Variant, int], Run] = {}

    def capture(
        self, variants: Sequence[Variant], input_size: Sequence[int], max_batch_size: int
    ) -> None:
        """Compile the variants that remove tokens; for others OpenVINO is not faster.

        A variant gets no graph, and is logged, if it cannot be compiled or its graph computes other
        logits.

        Args:
            variants: variants of a model with packed layers, in float32.
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
        if not error <= MAX_ERROR:  # `not <=`, because the error may be NaN
            logger.warning("no graph", extra={**about, "error": f"logits differ by {error:.1e}"})
            return
        self._graphs[variant, len(images)] = run


class Compiler:
    """Compiles with OpenVINO, for batches that run at the same time on the service's threads."""

    def __init__(self, *, num_threads: int, num_streams: int) -> None:
        """Configure OpenVINO.

        Args:
            num_threads: most threads for all batches together.
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

        `openvino.convert_model` would do the same, but it sends telemetry.

        Raises:
            Exception: one of `CONVERSION_ERRORS`, if the module cannot be compiled.
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
    """Silence what one library warns and logs about private parts of the other."""
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
