"""Other runtimes for the same module: each compiles it for one variant and one batch size.

OpenVINO comes with the extra `bench`; `pip install onnxruntime onnx onnxscript` brings the others,
and `torch.compile` needs a C++ compiler.
"""

import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from service.backends.openvino_graphs import Compiler

Run = Callable[[Tensor], Tensor]
Compile = Callable[[nn.Module, Tensor], Run]
"""(images -> logits, example images (B, 3, H, W)) -> the same, for images of this shape"""


def by_inductor(module: nn.Module, images: Tensor) -> Run:
    """`torch.compile` with frozen weights, as for deployment."""
    # All variants of a model run the same lines of code, and each is compiled for itself.
    torch._dynamo.config.recompile_limit = 1000
    torch._inductor.config.freezing = True
    compiled: Any = torch.compile(module, fullgraph=True, dynamic=False)
    compiled(images)
    return cast(Run, compiled)


def by_openvino(module: nn.Module, images: Tensor) -> Run:
    """OpenVINO, in float32, for the shortest time of one batch."""
    return Compiler(num_threads=torch.get_num_threads(), num_streams=1)(module, images)


def by_onnxruntime(module: nn.Module, images: Tensor) -> Run:
    """ONNX Runtime, in float32."""
    with tempfile.TemporaryDirectory() as folder:
        return _session(_export(module, images, Path(folder)))


def by_onnxruntime_int8(module: nn.Module, images: Tensor) -> Run:
    """ONNX Runtime, with products in int8 and one scale for all rows of each."""
    with tempfile.TemporaryDirectory() as folder:
        path, smaller = _export(module, images, Path(folder)), Path(folder) / "int8.onnx"
        onnx: Any = import_module("onnx")
        graph = onnx.load(path)
        del graph.graph.value_info[:]  # shapes of the layers as they were
        quantization: Any = import_module("onnxruntime.quantization")
        quantization.quantize_dynamic(graph, smaller)
        return _session(smaller)


def _export(module: nn.Module, images: Tensor, folder: Path) -> Path:
    path = folder / "model.onnx"
    torch.onnx.export(module, (images,), path, dynamo=True, verbose=False)
    return path


def _session(path: Path) -> Run:
    onnxruntime: Any = import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (name,) = (each.name for each in session.get_inputs())
    return lambda images: torch.from_numpy(session.run(None, {name: images.numpy()})[0])


RUNTIMES: dict[str, Compile] = {
    "torch.compile": by_inductor,
    "OpenVINO": by_openvino,
    "ONNX Runtime": by_onnxruntime,
    "ONNX Runtime int8": by_onnxruntime_int8,
}
INEXACT = ("ONNX Runtime int8",)
"""those that compute in fewer bits than float32"""
