"""One attention pass: the model's own result, and a token of size s with s votes."""

import pytest
import torch
from torch import Tensor, nn

from rapid_core.attention import attend, attention_received, cls_attention, size_bias

from .tiny import tiny_vit


@pytest.fixture(params=[{}, {"qk_norm": True}], ids=["plain", "qk_norm"])
def attn(request: pytest.FixtureRequest) -> nn.Module:
    """One attention layer of a tiny model."""
    return tiny_vit(**request.param).blocks[1].attn


@pytest.fixture
def x() -> Tensor:
    """Input of an attention layer, (B, N, C)."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, 6, 32, generator=generator, dtype=torch.float64)


SIZE = torch.tensor([1, 1, 3, 2, 1, 4])


def column(size: Tensor) -> Tensor:
    return size.double().expand(2, -1)[..., None]


def test_size_bias_is_the_logarithm_for_each_key() -> None:
    bias = size_bias(torch.tensor([[[1.0], [2.0]], [[4.0], [1.0]]]))
    assert bias.shape == (2, 1, 1, 2)
    torch.testing.assert_close(bias.exp().flatten(), torch.tensor([1.0, 2.0, 4.0, 1.0]))


def test_without_sizes_it_is_timm_s_attention(attn: nn.Module, x: Tensor) -> None:
    torch.testing.assert_close(attend(attn, x, None).output, attn(x))
    torch.testing.assert_close(attend(attn, x, torch.ones_like(column(SIZE))).output, attn(x))


def test_a_token_of_size_s_counts_like_s_equal_tokens(attn: nn.Module, x: Tensor) -> None:
    first = SIZE.cumsum(0) - SIZE  # where each token's copies start
    copies = attend(attn, x.repeat_interleave(SIZE, dim=1), None)
    sized = attend(attn, x, column(SIZE))
    torch.testing.assert_close(sized.output, copies.output[:, first])
    share = cls_attention(copies)[:, first] * SIZE
    torch.testing.assert_close(cls_attention(sized), share)


def test_importance_is_taken_from_the_probabilities_of_all_heads(
    attn: nn.Module, x: Tensor
) -> None:
    attention = attend(attn, x, column(SIZE))
    logits = attention.queries @ attention.keys.mT * attn.head_dim**-0.5 + SIZE.log()
    probabilities = logits.softmax(dim=-1).mean(dim=1)
    torch.testing.assert_close(cls_attention(attention), probabilities[:, 0])
    torch.testing.assert_close(attention_received(attention), probabilities.mean(dim=1))


def test_two_products_are_the_fused_attention(attn: nn.Module, x: Tensor) -> None:
    for size in (None, column(SIZE)):
        attn.fused_attn = True
        fused = attend(attn, x, size).output
        attn.fused_attn = False
        torch.testing.assert_close(attend(attn, x, size).output, fused)
