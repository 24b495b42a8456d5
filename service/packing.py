"""Linear layers with their weights laid out as the CPU's matrix library computes with them.

PyTorch hands the weights of a linear layer to oneDNN in their own order, at every call. Laid out
once, they save that time; the numbers are the same within rounding. On request the layers compute
in bfloat16, or in int8 with a scale for each output and one for each token, so that nobody's answer
depends on who shares the batch; all else stays float32. Source: docs/decisions/0009.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Precision = Literal["float32", "bfloat16", "int8"]
ONE_DNN: Any = torch.ops.mkldnn
QUANTIZED: Any = torch.ops.onednn
INT8_MAX, INT8_ZERO = 127, 128
SMALLEST = 1e-12
"""of a row of zeros"""
MOST_ROWS = 320
"""of one product; the tokens of one image usually fit"""
ROW_STEP = 8


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
        self._with_gelu = with_gelu
        weight = linear.weight.detach()
        if precision == "int8":
            self._scales = weight.abs().amax(dim=1).clamp(min=SMALLEST) / INT8_MAX
            self._zeros = torch.zeros(len(weight), dtype=torch.int32)
            quantized = (weight / self._scales[:, None]).round().to(torch.int8)
            self._packed = QUANTIZED.qlinear_prepack(quantized, None)
        else:
            self._dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
            self._packed = ONE_DNN._reorder_linear_weight(weight.to(self._dtype).contiguous())
            self._packed_bias = None if self.bias is None else self.bias.detach().to(self._dtype)
        self._precision = precision

    def forward(self, x: Tensor) -> Tensor:
        """Features (..., C_in) -> (..., C_out), float32."""
        return in_pieces(x, self.product, self.out_features)

    def product(self, rows: Tensor) -> Tensor:
        """Rows (M, C_in) -> (M, C_out), all at once; in bfloat16 if that is the precision."""
        return self._int8(rows) if self._precision == "int8" else self._float(rows)

    def _float(self, rows: Tensor) -> Tensor:
        name, algorithm = ("gelu", "none") if self._with_gelu else ("none", "")
        rows = rows.to(self._dtype)
        y: Tensor = ONE_DNN._linear_pointwise(
            rows, self._packed, self._packed_bias, name, [], algorithm
        )
        return y

    def _int8(self, rows: Tensor) -> Tensor:
        largest = torch.maximum(rows.amax(dim=1, keepdim=True), -rows.amin(dim=1, keepdim=True))
        scale = largest.clamp_(min=SMALLEST).div_(INT8_MAX)
        # By way of int8: PyTorch has no vector code for the conversion to uint8, which the product
        # wants. Adding the zero point turns one into the other, modulo 256.
        signed = (rows * (1 / scale)).round_().to(torch.int8)
        quantized = signed.view(torch.uint8).add_(INT8_ZERO)
        y: Tensor = QUANTIZED.qlinear_pointwise(
            *(quantized, 1.0, INT8_ZERO, self._packed, self._scales, self._zeros, None),
            *(1.0, 0, torch.float32, "none", [], ""),
        )
        y = y * scale if self.bias is None else torch.addcmul(self.bias, y, scale)
        return F.gelu(y) if self._with_gelu else y


class PackedMlp(nn.Module):
    """Both layers of a ViT's MLP; what lies between them stays in the cache."""

    def __init__(self, fc1: PackedLinear, fc2: PackedLinear) -> None:
        """Compute `fc2(fc1(x))`; the activation belongs to `fc1`."""
        super().__init__()
        self.fc1 = fc1
        self.fc2 = fc2

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, C) -> (B, N, C), float32."""
        return in_pieces(
            x, lambda rows: self.fc2.product(self.fc1.product(rows)), self.fc2.out_features
        )


def in_pieces(x: Tensor, product: Callable[[Tensor], Tensor], num_outputs: int) -> Tensor:
    """Apply a product to some hundred rows at a time: (..., C_in) -> (..., C_out), float32.

    For each number of rows that it meets, the library compiles code, about a megabyte for every
    layer, and never drops it. Every reduction in every batch size has its own numbers of tokens:
    that would become gigabytes, and each first time takes some milliseconds. So it meets few
    numbers: multiples of `ROW_STEP` up to `MOST_ROWS`; rows of zeros fill the last piece.
    """
    rows = x.flatten(end_dim=-2)
    num_rows = len(rows)
    size = _round_up(-(-num_rows // -(-num_rows // MOST_ROWS)))
    if num_rows <= size:
        found = product(_filled_up(rows))[:num_rows].to(x.dtype)
    else:
        found = x.new_empty(num_rows, num_outputs)
        for start in range(0, num_rows, size):
            piece = rows[start : start + size]
            found[start : start + size] = product(_filled_up(piece))[: len(piece)]
    return found.view(*x.shape[:-1], num_outputs)


def is_available() -> bool:
    """Whether this build of PyTorch has what is needed."""
    return (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(ONE_DNN, "_linear_pointwise")
        and hasattr(QUANTIZED, "qlinear_pointwise")
    )


def pack(model: Any, precision: Precision) -> None:
    """Replace the linear layers in the blocks of a ViT; they cannot be trained any more.

    Args:
        model: a timm `VisionTransformer` in evaluation mode, float32, on the CPU.
        precision: of the products in the blocks.
    """
    blocks = list(model.blocks)
    for block in blocks:
        if _is_plain_mlp(block.mlp):
            fc1 = PackedLinear(block.mlp.fc1, precision, with_gelu=True)
            block.mlp = PackedMlp(fc1, PackedLinear(block.mlp.fc2, precision, with_gelu=False))
        is_last = block is blocks[-1]
        for parent in list(block.modules()):
            for name, layer in list(parent.named_children()):
                # The last block computes queries for the prefix tokens only, from part of a weight.
                if type(layer) is nn.Linear and not (is_last and name == "qkv"):
                    setattr(parent, name, PackedLinear(layer, precision, with_gelu=False))


def _is_plain_mlp(mlp: Any) -> bool:
    """Whether this is timm's `Mlp` with the exact GELU and nothing else between its layers."""
    layers = [getattr(mlp, name, None) for name in ("fc1", "fc2")]
    act = getattr(mlp, "act", None)
    return (
        all(type(layer) is nn.Linear for layer in layers)
        and type(act) is nn.GELU
        and act.approximate == "none"
        and isinstance(getattr(mlp, "norm", None), nn.Identity)
    )


def _round_up(num_rows: int) -> int:
    return -(-num_rows // ROW_STEP) * ROW_STEP


def _filled_up(rows: Tensor) -> Tensor:
    num_rows = len(rows)
    if num_rows % ROW_STEP == 0:
        return rows
    filled_up = rows.new_empty(_round_up(num_rows), rows.shape[1])
    filled_up[:num_rows] = rows
    filled_up[num_rows:] = 0
    return filled_up
