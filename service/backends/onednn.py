"""Linear layers whose weights are packed: stored in the memory layout that oneDNN computes with.

PyTorch passes the weights of a linear layer to oneDNN in PyTorch's layout, and oneDNN converts them
at every call. Packing converts them once; the results are the same within rounding. The layers can
also compute in bfloat16, or in int8 with one scale for each output and one for each token, so that
no answer depends on the other images of its batch. Patches are then embedded in bfloat16. In both,
attention is computed in bfloat16, except in the last block. All other layers stay float32.
Source: docs/decisions/0009.
"""

import copy
from collections.abc import Callable, Container
from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.backends.packable import is_of_patches, is_plain_attention, is_plain_mlp

Precision = Literal["float32", "bfloat16", "int8"]
ONE_DNN: Any = torch.ops.mkldnn
QUANTIZED: Any = torch.ops.onednn
INT8_MAX, INT8_ZERO = 127, 128
SMALLEST = 1e-12
"""lowest scale, for a row of zeros"""
MOST_ROWS = 320
"""most rows of one product; the tokens of one image usually fit"""
WHOLE_IMAGES = 8
"""most unreduced images that are computed as one product"""
ROW_STEP = 8


class PackedLinear(nn.Linear):
    """A linear layer with packed weights, and perhaps the GELU after it, in one call.

    It keeps the shape of the weight, because multiply-adds are counted from it, but no second copy.
    """

    def __init__(
        self,
        linear: nn.Linear,
        precision: Precision,
        *,
        with_gelu: bool = False,
        dtype: torch.dtype = torch.float32,
        at_once: Container[int] = (),
    ) -> None:
        """Take over a layer.

        Args:
            linear: the layer, float32, on the CPU.
            precision: precision of the product.
            with_gelu: apply the exact GELU to the result.
            dtype: of the result of `forward`.
            at_once: numbers of rows that are computed as one product, see `in_pieces`.
        """
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.bias = linear.bias
        self._with_gelu = with_gelu
        self._at_once = at_once
        self._result = dtype
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

    def unpacked(self) -> nn.Module:
        """The same as PyTorch's own layers, with a copy of the weights; float32 only."""
        linear = nn.Linear(self.in_features, self.out_features, device="meta")
        linear.weight = nn.Parameter(self._packed.to_dense(), requires_grad=False)
        linear.bias = self.bias
        return nn.Sequential(linear, nn.GELU()) if self._with_gelu else linear

    def forward(self, x: Tensor) -> Tensor:
        """Features (..., C_in) -> (..., C_out), in the dtype that was asked for."""
        return in_pieces(x, self.product, self.out_features, self._at_once, self._result)

    def product(self, rows: Tensor, into: Tensor | None = None) -> Tensor:
        """Rows (M, C_in) -> (M, C_out), all at once; in bfloat16 if that is the precision.

        Args:
            rows: (M, C_in).
            into: (L, C_out), of any floating dtype: takes the first L rows of the result.
        """
        if self._precision == "int8":
            return self._int8(rows, into)
        y = self._float(rows)
        return y if into is None else into.copy_(y[: len(into)])

    def _float(self, rows: Tensor) -> Tensor:
        name, algorithm = ("gelu", "none") if self._with_gelu else ("none", "")
        rows = rows.to(self._dtype)
        y: Tensor = ONE_DNN._linear_pointwise(
            rows, self._packed, self._packed_bias, name, [], algorithm
        )
        return y

    def _int8(self, rows: Tensor, into: Tensor | None) -> Tensor:
        largest = torch.maximum(rows.amax(dim=1, keepdim=True), -rows.amin(dim=1, keepdim=True))
        scale = largest.clamp_(min=SMALLEST).div_(INT8_MAX)
        # The product takes uint8, but PyTorch converts to uint8 without vector code. So convert to
        # int8 and add the zero point: modulo 256, that gives the uint8.
        signed = (rows * (1 / scale)).round_().to(torch.int8)
        quantized = signed.view(torch.uint8).add_(INT8_ZERO)
        y: Tensor = QUANTIZED.qlinear_pointwise(
            *(quantized, 1.0, INT8_ZERO, self._packed, self._scales, self._zeros, None),
            *(1.0, 0, torch.float32, "none", [], ""),
        )
        if into is not None:
            y, scale = y[: len(into)], scale[: len(into)]
        direct = into if into is not None and into.dtype == y.dtype else None
        if self.bias is None:
            y = torch.mul(y, scale, out=direct)
        else:
            y = torch.addcmul(self.bias, y, scale, out=direct)
        if self._with_gelu:
            y = F.gelu(y)
        return y if into is None or y is into else into.copy_(y)


class PackedMlp(nn.Module):
    """Both layers of a ViT's MLP; the values between them stay in the cache."""

    def __init__(self, fc1: PackedLinear, fc2: PackedLinear, at_once: Container[int] = ()) -> None:
        """Compute `fc2(fc1(x))`; the activation belongs to `fc1`."""
        super().__init__()
        self.fc1 = fc1
        self.fc2 = fc2
        self._at_once = at_once

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, C) -> (B, N, C), float32."""
        return in_pieces(x, self._product, self.fc2.out_features, self._at_once)

    def _product(self, rows: Tensor, into: Tensor | None) -> Tensor:
        return self.fc2.product(self.fc1.product(rows), into)


class PackedPatches(nn.Module):
    """The patch embedding: a convolution, computed as a matrix product over the patches."""

    def __init__(self, convolution: nn.Conv2d, precision: Precision) -> None:
        """Take over a convolution whose windows lie side by side, see `is_of_patches`."""
        super().__init__()
        weights = convolution.state_dict()
        weights["weight"] = weights["weight"].flatten(1)
        num_outputs, num_inputs = weights["weight"].shape
        linear = nn.Linear(num_inputs, num_outputs, bias="bias" in weights, device="meta")
        linear.load_state_dict(weights, assign=True)
        self.linear = PackedLinear(linear, precision)
        self._size = convolution.kernel_size

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> (B, C, H // h, W // w) of patches of h x w pixels."""
        B, channels, height, width = images.shape
        h, w = self._size
        rows, columns = height // h, width // w
        patches = images[:, :, : rows * h, : columns * w].reshape(B, channels, rows, h, columns, w)
        y: Tensor = self.linear(patches.permute(0, 2, 4, 1, 3, 5).flatten(3))
        return y.permute(0, 3, 1, 2)


Product = Callable[[Tensor, Tensor | None], Tensor]
"""(rows (M, C_in), tensor (L, C_out) or None) -> the tensor with L results, or all (M, C_out)."""


def in_pieces(
    x: Tensor,
    product: Product,
    num_outputs: int,
    at_once: Container[int] = (),
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Apply a product to some hundred rows at a time: (..., C_in) -> (..., C_out).

    For each new number of rows, oneDNN compiles code: some milliseconds, and about a megabyte for
    every layer, which is never freed. Each reduction in each batch size has its own number of
    tokens, so the code would take gigabytes. The pieces therefore have few numbers of rows:
    multiples of `ROW_STEP` up to `MOST_ROWS`. Rows of zeros fill up the last piece.

    Args:
        x: (..., C_in).
        product: the product to apply.
        num_outputs: C_out.
        at_once: a few frequent numbers of rows that are computed as one piece.
        dtype: of the result.
    """
    rows = x.flatten(end_dim=-2)
    num_rows = len(rows)
    if num_rows in at_once:
        return product(rows, None).to(dtype).view(*x.shape[:-1], num_outputs)
    size = _round_up(-(-num_rows // -(-num_rows // MOST_ROWS)))
    if num_rows <= size:
        found = product(_filled_up(rows), None)[:num_rows].to(dtype)
    else:
        found = x.new_empty(num_rows, num_outputs, dtype=dtype)
        for start in range(0, num_rows, size):
            end = start + size
            product(_filled_up(rows[start:end]), found[start:end])
    return found.view(*x.shape[:-1], num_outputs)


@cache
def is_available() -> bool:
    """Whether this build of PyTorch has oneDNN's private operators, and they compute as expected.

    The operators are private to PyTorch, so a later version may change what they do.
    """
    return (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(ONE_DNN, "_linear_pointwise")
        and hasattr(QUANTIZED, "qlinear_pointwise")
        and _computes_as_expected()
    )


def _computes_as_expected() -> bool:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # this may be a thread that should keep no others, see `Engine`
    try:
        return _computes_like_pytorch()
    finally:
        torch.set_num_threads(num_threads)


def _computes_like_pytorch() -> bool:
    rows = torch.linspace(-1, 1, 128).view(8, 16)
    linear = nn.Linear(16, 4).requires_grad_(requires_grad=False)
    try:
        found = PackedLinear(linear, "float32", with_gelu=True)(rows)
    except (RuntimeError, TypeError):  # the operators take other arguments in this version
        return False
    return torch.allclose(found, F.gelu(linear(rows)), atol=1e-5)


def pack(model: Any, precision: Precision) -> None:
    """Replace the linear layers in the blocks of a ViT. The model cannot be trained afterwards.

    Args:
        model: a timm `VisionTransformer` in evaluation mode, float32, on the CPU.
        precision: of the products in the blocks. If it is not float32, the patches are embedded
            in bfloat16; in float32, the model's own convolution is as fast.
    """
    if precision != "float32" and is_of_patches(getattr(model.patch_embed, "proj", None)):
        model.patch_embed.proj = PackedPatches(model.patch_embed.proj, "bfloat16")
    blocks = list(model.blocks)
    num_tokens = model.patch_embed.num_patches + model.num_prefix_tokens
    at_once = range(num_tokens, WHOLE_IMAGES * num_tokens + 1, num_tokens)
    for block in blocks:
        if is_plain_mlp(block.mlp):
            fc1 = PackedLinear(block.mlp.fc1, precision, with_gelu=True)
            block.mlp = PackedMlp(fc1, PackedLinear(block.mlp.fc2, precision), at_once)
        is_last = block is blocks[-1]
        if precision != "float32" and not is_last and is_plain_attention(block.attn):
            qkv = PackedLinear(block.attn.qkv, precision, dtype=torch.bfloat16, at_once=at_once)
            block.attn.qkv = qkv
            # PyTorch's fused attention is slower in bfloat16 on a CPU than two products.
            block.attn.fused_attn = False
        for parent in list(block.modules()):
            for name, layer in list(parent.named_children()):
                # The last block needs queries for the prefix tokens only, so it uses part of `qkv`.
                if type(layer) is nn.Linear and not (is_last and name == "qkv"):
                    setattr(parent, name, PackedLinear(layer, precision, at_once=at_once))


def unpacked(module: nn.Module) -> nn.Module:
    """A copy of a module with PyTorch's own layers in place of packed ones; float32 only."""
    layers = list(module.modules())
    plain = {id(layer): layer.unpacked() for layer in layers if isinstance(layer, PackedLinear)}
    mlps = {
        id(layer): nn.Sequential(plain[id(layer.fc1)], plain[id(layer.fc2)])
        for layer in layers
        if isinstance(layer, PackedMlp)
    }
    return copy.deepcopy(module, plain | mlps)  # layers in the memo count as copied


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
