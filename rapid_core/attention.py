"""An attention pass that also returns queries and keys, and the importance computed from them."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rapid_core.precision import without_autocast
from rapid_core.vit import Attention


class AttentionPass(NamedTuple):
    """The output of one attention layer, and the parts that it was computed from."""

    output: Tensor
    """(B, N, C), after the output projection."""
    queries: Tensor
    """(B, H, N, D), after `q_norm`."""
    keys: Tensor
    """(B, H, N, D), after `k_norm`."""
    size_bias: Tensor | None
    """(B, 1, 1, N), added to the attention logits; None: nothing was added."""
    scale: float
    """factor of the logits, 1 / sqrt(D)."""


Weigh = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor]
"""queries (B, H, Q, D), keys (B, H, N, D), values (B, H, N, D), bias (B, 1, 1, N) or None, scale of
the logits -> the values weighted by attention (B, H, Q, D)"""


def weigh_of(attn: Attention) -> Weigh | None:
    """The way to weigh values that the owner of a layer has put there as `weigh`, for inference."""
    found: Weigh | None = getattr(attn, "weigh", None)
    return found


def size_bias(size: Tensor) -> Tensor:
    """Attention bias that gives a token standing for s patches s votes.

    Args:
        size: (B, N, 1), >= 1.

    Returns:
        (B, 1, 1, N), to be added to (B, H, N, N) attention logits.

    Source: Bolya et al. 2023 (Token Merging), Eq. 1, the ``+ log s`` term.
    """
    return size.log().transpose(1, 2)[:, None]


def attend(attn: Attention, x: Tensor, size: Tensor | None) -> AttentionPass:
    """Run a timm `Attention` layer with proportional attention.

    Args:
        attn: the layer; all its own parts are used.
        x: (B, N, C), normalised tokens.
        size: (B, N, 1), number of patches that each token stands for; None: one each, and no bias.
    """
    B, N, _ = x.shape
    qkv = attn.qkv(x).reshape(B, N, 3, attn.num_heads, attn.head_dim)
    queries, keys, values = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    return _mix(attn, queries, keys, values, size)


def attend_from_prefix(
    attn: Attention, x: Tensor, size: Tensor | None, num_prefix_tokens: int
) -> AttentionPass:
    """As `attend`, for the output of the first P tokens alone: (B, P, C).

    All tokens are keys and values; only the P prefix tokens are queries.
    """
    B, N, _ = x.shape
    P, H, D = num_prefix_tokens, attn.num_heads, attn.head_dim
    weight, bias = attn.qkv.weight, attn.qkv.bias
    q_bias, kv_bias = (None, None) if bias is None else (bias[: H * D], bias[H * D :])
    queries = F.linear(x[:, :P], weight[: H * D], q_bias).reshape(B, P, H, D).transpose(1, 2)
    kv = F.linear(x, weight[H * D :], kv_bias).reshape(B, N, 2, H, D)
    keys, values = kv.permute(2, 0, 3, 1, 4).unbind(0)
    return _mix(attn, queries, keys, values, size)


def _mix(
    attn: Attention, queries: Tensor, keys: Tensor, values: Tensor, size: Tensor | None
) -> AttentionPass:
    """Attention and output projection of queries (B, H, Q, D) over keys and values (B, H, N, D)."""
    queries, keys = attn.q_norm(queries), attn.k_norm(keys)
    bias = None if size is None else size_bias(size).to(queries.dtype)
    mixed = _weighted(attn, (queries, keys, values), bias).transpose(1, 2).flatten(2)
    output = attn.proj_drop(attn.proj(attn.norm(mixed)))
    return AttentionPass(output, queries, keys, bias, attn.scale)


def _weighted(attn: Attention, parts: tuple[Tensor, Tensor, Tensor], bias: Tensor | None) -> Tensor:
    """The values, weighted by attention: (B, H, Q, D).

    Args:
        attn: where it has a `Weigh` of its own, that; where it is not `fused_attn`, two products
            with a softmax between them, as in timm.
        parts: queries (B, H, Q, D), keys and values (B, H, N, D).
        bias: (B, 1, 1, N), added to the logits; None: nothing is added.
    """
    if (weigh := weigh_of(attn)) is not None:
        return weigh(*parts, bias, attn.scale)
    if attn.fused_attn:
        return F.scaled_dot_product_attention(
            *parts,
            attn_mask=bias,
            dropout_p=attn.attn_drop.p if attn.training else 0.0,
            scale=attn.scale,
        )
    queries, keys, values = parts
    logits = (queries * attn.scale) @ keys.mT
    if bias is not None:
        logits += bias  # in place: this is the largest tensor of the block
    weights = logits.softmax(dim=-1)
    weighted: Tensor = attn.attn_drop(weights) @ values
    return weighted


def mean_attention(attention: AttentionPass) -> Tensor:
    """The attention matrix, averaged over heads: (B, N, N), rows are queries and sum to 1."""
    return _probabilities(attention, attention.queries).mean(dim=1)


def cls_attention(attention: AttentionPass) -> Tensor:
    """Attention that the CLS token pays to every token, averaged over heads: (B, N).

    Softmax probabilities, size bias included. Only the CLS row is computed, one query, so the
    (B, H, N, N) matrix is never built.
    """
    return _probabilities(attention, attention.queries[:, :, :1]).mean(dim=1)[:, 0]


def attention_received(attention: AttentionPass) -> Tensor:
    """Attention that every token receives, averaged over heads and queries: (B, N).

    Models without a CLS token use it in place of the CLS attention.
    """
    return _probabilities(attention, attention.queries).mean(dim=(1, 2))


def importance(attention: AttentionPass, *, has_class_token: bool) -> Tensor:
    """Importance of every token, (B, N): the attention of the CLS token, or else of all tokens."""
    return cls_attention(attention) if has_class_token else attention_received(attention)


def _probabilities(attention: AttentionPass, queries: Tensor) -> Tensor:
    """Softmax probabilities (B, H, Q, N) of some queries (B, H, Q, D) over all keys.

    Computed in float32 at least: rounded to 16 bits, many tokens would be equally important.
    """
    dtype = torch.promote_types(queries.dtype, torch.float32)
    with without_autocast(queries.device):
        logits = (queries.to(dtype) * attention.scale) @ attention.keys.to(dtype).mT
        if attention.size_bias is not None:
            logits = logits + attention.size_bias
        return logits.softmax(dim=-1)
