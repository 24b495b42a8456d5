"""Attention in bfloat16 on the CPU: for each image, two products with a softmax between them.

PyTorch's fused attention is slower in bfloat16 on a CPU. One image at a time, because oneDNN
compiles code for each new shape and keeps it: the shapes are then those of the numbers of tokens,
and not also those of all batch sizes.
Source: docs/decisions/0009.
"""

from torch import Tensor


def by_image(
    queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, scale: float
) -> Tensor:
    """The values, weighted by attention, as `rapid_core.attention.Weigh` says; for inference."""
    B, H, Q, D = queries.shape
    weighted = queries.new_empty(B, Q, H, D)
    queries = queries * scale
    for image in range(B):
        logits = queries[image] @ keys[image].mT
        if bias is not None:
            logits += bias[image]  # in place: this is the largest tensor of the block
        weighted[image] = (logits.softmax(dim=-1) @ values[image]).transpose(0, 1)
    return weighted.transpose(1, 2)
