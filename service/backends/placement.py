"""Where a model computes, and how: device, library, precision."""

from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import torch

from service.backends import onednn
from service.backends.options import Backend, Precision, PrecisionSetting
from service.errors import SettingsError

OF_PYTORCH = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""the precisions in which PyTorch keeps a whole model"""


class Placement(NamedTuple):
    """Where and how a model computes."""

    device: torch.device
    backend: Literal["torch", "onednn", "openvino", "triton"] = "torch"
    """`torch`: PyTorch by itself; `onednn`: packed weights; `openvino`: packed weights, and full
    batches by OpenVINO; `triton`: fused kernels match tokens, where they work."""
    precision: Precision = "float32"
    normalizes: bool = False
    """whether pictures are copied to the device as bytes and normalised there."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of a model's input images."""
        return OF_PYTORCH[self.precision] if self._is_whole else torch.float32

    @property
    def _is_whole(self) -> bool:
        """Whether the whole model computes in the precision, and not only its products."""
        return self.backend in ("torch", "triton")

    def place(self, module: Any) -> Any:
        """Move a timm `VisionTransformer` to the device; may change it in place."""
        if self.backend in ("onednn", "openvino"):
            onednn.pack(module, packing_precision(self.precision))
        return module.to(self.device, self.dtype) if self._is_whole else module


CPU = Placement(torch.device("cpu"))
"""PyTorch by itself: the reference for other placements"""


def choose(device: str, backend: Backend, setting: PrecisionSetting) -> Placement:
    """The placement that the settings mean on this machine.

    Args:
        device: `auto` takes the GPU where there is one.
        backend: `auto` takes the fastest one with equal answers and one copy of the weights;
            `torch` takes PyTorch by itself.
        setting: precision of the weights and the products; `auto` is float32 until
            `candidates.of` and a trial know better.

    Raises:
        SettingsError: this machine, or this build of PyTorch, does not support the settings.
    """
    precision: Precision = "float32" if setting == "auto" else setting
    chosen = torch.device(
        device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    )
    if chosen.type == "cuda":
        if backend in ("onednn", "openvino") or precision == "int8":
            raise SettingsError(
                "the backends onednn and openvino and the precision int8 are for the CPU"
            )
        return Placement(
            chosen, "triton" if backend == "auto" else "torch", precision, normalizes=True
        )
    if backend == "openvino":
        _check_openvino(precision)
        return Placement(chosen, backend)
    is_by_pytorch = backend == "torch" or (precision == "float32" and not onednn.is_available())
    if is_by_pytorch and precision in ("float32", "bfloat16"):
        return Placement(chosen, "torch", precision)
    if backend == "torch" or precision == "float16":
        raise SettingsError(
            f"on the CPU, backend {backend!r} does not compute in {precision}; allowed are "
            "float32 and bfloat16, and with the backend onednn int8"
        )
    if not onednn.is_available():
        raise SettingsError("this build of PyTorch has no oneDNN, which bfloat16 and int8 need")
    return Placement(chosen, "onednn", precision)


def _check_openvino(precision: Precision) -> None:
    if precision != "float32":
        raise SettingsError(
            f"the backend openvino does not compute in {precision}; allowed is float32"
        )
    if find_spec("openvino") is None:
        raise SettingsError("the backend openvino needs the package openvino: pip install openvino")
    if not onednn.is_available():
        raise SettingsError("this build of PyTorch has no oneDNN, which openvino is used beside")


def packing_precision(precision: Precision) -> onednn.Precision:
    """The precision for oneDNN, which has no float16 on the CPU."""
    assert precision != "float16"
    return precision
