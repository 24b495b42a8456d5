"""Linear layers with their weights laid out as the CPU's matrix library computes with them.

PyTorch hands the weights of a linear layer to oneDNN in their own order, at every call. Laid out
once, they save that time; the numbers are the same within rounding. On request the layers compute
in bfloat16, or in int8 with weights of one scale per output and activations of one per batch; all
else stays float32. Source: docs/decisions/0009.
"""

import warnings
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Precision = Literal["float32", "bfloat16", "int8"]
ONE_DNN: Any = torch.ops.mkldnn
QUANTIZED: Any = torch.ops.quantized
INT8_MAX = 127
SMALLEST_SCALE = 1e-12
"""of a row of zeros"""


class PackedLinear(nn.Linear):
    """A linear layer, and perhaps the GELU that follows it, in one call.

    It knows the shape of its weight, for who counts, but keeps no second copy of it.
    """

    def __init__(self, linear: nn.Linear, precision: Precision, *, with_gelu: bool) -> None:
        """Take over a layer.

        Args:
            linear: the layer, float32, on the CPU.
            precision: to compute in.
            with_gelu: apply the exact GELU to the result.
        """
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.bias = linear.bias
        self._precision = precision
        self._with_gelu = with_gelu
        self._packed, self._packed_bias = _pack(linear, precision)

    def forward(self, x: Tensor) -> Tensor:
        """Features (..., C_in) -> (..., C_out), float32."""
        if self._precision == "int8":
            y: Tensor = QUANTIZED.linear_dynamic(x, self._packed, False)
            return F.gelu(y) if self._with_gelu else y
        x = x.to(self._dtype)
        name, algorithm = ("gelu", "none") if self._with_gelu else ("none", "")
        y = ONE_DNN._linear_pointwise(x, self._packed, self._packed_bias, name, [], algorithm)
        return y.float()

    @property
    def _dtype(self) -> torch.dtype:
        return torch.bfloat16 if self._precision == "bfloat16" else torch.float32


def is_available() -> bool:
    """Whether this build of PyTorch has what is needed."""
    return torch.backends.mkldnn.is_available() and hasattr(ONE_DNN, "_linear_pointwise")  # type: ignore[no-untyped-call]


def pack(model: Any, precision: Precision) -> None:
    """Replace the linear layers in the blocks of a ViT; they cannot be trained any more.

    Args:
        model: a timm `VisionTransformer` in evaluation mode, float32, on the CPU.
        precision: of the products in the blocks.
    """
    blocks = list(model.blocks)
    for block in blocks:
        is_last = block is blocks[-1]
        for parent in list(block.modules()):
            gelu = _gelu_behind_fc1(parent)
            for name, layer in list(parent.named_children()):
                # The last block computes queries for the prefix tokens only, from part of a weight.
                if type(layer) is nn.Linear and not (is_last and name == "qkv"):
                    with_gelu = name == "fc1" and gelu is not None
                    setattr(parent, name, PackedLinear(layer, precision, with_gelu=with_gelu))
            if gelu is not None:
                parent.act = nn.Identity()


def _gelu_behind_fc1(module: Any) -> nn.GELU | None:
    """The activation of a timm `Mlp`, if it is the exact GELU with nothing else before it."""
    act = getattr(module, "act", None)
    has_plain_fc1 = type(getattr(module, "fc1", None)) is nn.Linear
    is_exact = type(act) is nn.GELU and act.approximate == "none"
    return act if has_plain_fc1 and is_exact else None


def _pack(linear: nn.Linear, precision: Precision) -> tuple[Any, Tensor | None]:
    """The weight as the library wants it, and the bias that goes with it."""
    weight, bias = linear.weight.detach(), linear.bias
    if precision == "int8":
        torch.backends.quantized.engine = "onednn"
        scales = weight.abs().amax(dim=1).clamp(min=SMALLEST_SCALE).double() / INT8_MAX
        zeros = torch.zeros(len(weight), dtype=torch.long)
        with warnings.catch_warnings():
            # PyTorch announces that it will move these functions to another package.
            warnings.simplefilter("ignore", UserWarning)
            quantized = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
            return QUANTIZED.linear_prepack(quantized, bias), None
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    packed = ONE_DNN._reorder_linear_weight(weight.to(dtype).contiguous())
    return packed, None if bias is None else bias.detach().to(dtype)
