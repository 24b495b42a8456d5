"""Plans carried out: values, sizes, and what must not get lost."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rapid_core.reduction import apply_plan
from rapid_core.selection import MergePlan, PrunePlan, plan_merge
from rapid_core.tokens import Tokens


def column(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype)[None, :, None]


def index(*values: int) -> Tensor:
    return torch.tensor([values])


# Tokens 2 and 3 go into token 1, which stands third after a prefix token and token 4.
TWO_INTO_ONE = MergePlan(keep_idx=index(0, 4, 1), src_idx=index(3, 2), dst_idx=index(2, 2))


def test_merging_is_the_size_weighted_mean_and_sizes_add_up() -> None:
    tokens = Tokens(column(7, 10, 20, 40, 5), column(1, 1, 2, 5, 3))
    merged = apply_plan(tokens, TWO_INTO_ONE)
    torch.testing.assert_close(merged.x, column(7, 5, (10 + 2 * 20 + 5 * 40) / 8))
    assert merged.size is not None
    assert torch.equal(merged.size, column(1, 3, 8))


def test_tokens_without_sizes_count_once() -> None:
    merged = apply_plan(Tokens(column(7, 10, 20, 40, 5)), TWO_INTO_ONE)
    torch.testing.assert_close(merged.x, column(7, 5, 70 / 3))
    assert merged.size is not None
    assert merged.size.flatten().tolist() == [1, 1, 3]


@pytest.mark.parametrize("size", [None, column(1, 1, 2, 5, 3)])
def test_pruning_takes_rows_and_gives_nothing_to_the_others(size: Tensor | None) -> None:
    left = apply_plan(Tokens(column(7, 10, 20, 40, 5), size), PrunePlan(index(0, 4, 1)))
    assert torch.equal(left.x, column(7, 5, 10))
    assert (left.size is None) == (size is None)
    if left.size is not None:
        assert torch.equal(left.size, column(1, 3, 1))


@st.composite
def merges(draw: st.DrawFn) -> dict[str, Any]:
    """Random tokens with sizes and prefix tokens, and a plan for them."""
    num_prefix_tokens, num_patches = draw(st.integers(0, 3)), draw(st.integers(2, 30))
    num_tokens, num_sources = num_prefix_tokens + num_patches, num_patches // 2
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    plan = plan_merge(
        torch.rand(2, num_sources, generator=generator),
        torch.randint(num_patches - num_sources, (2, num_sources), generator=generator),
        num_removed=draw(st.integers(1, num_sources)),
        num_tokens=num_tokens,
        num_prefix_tokens=num_prefix_tokens,
    )
    x = torch.randn(2, num_tokens, 3, generator=generator, dtype=torch.float64)
    size = torch.randint(1, 50, (2, num_tokens, 1), generator=generator).double()
    return {"tokens": Tokens(x, size), "plan": plan, "num_prefix_tokens": num_prefix_tokens}


@given(case=merges())
def test_merging_conserves_total_size_and_mass(case: dict[str, Any]) -> None:
    tokens, P = case["tokens"], case["num_prefix_tokens"]
    merged = apply_plan(tokens, case["plan"])
    assert torch.equal(merged.size.sum(dim=1), tokens.size.sum(dim=1))
    mass = [(one.x * one.size).sum(dim=1) for one in (merged, tokens)]
    torch.testing.assert_close(*mass)
    assert torch.equal(merged.x[:, :P], tokens.x[:, :P])
    assert torch.equal(merged.size[:, :P], tokens.size[:, :P])


@given(case=merges())
def test_tokens_that_receive_nothing_stay_as_they_are(case: dict[str, Any]) -> None:
    tokens, plan = case["tokens"], case["plan"]
    merged = apply_plan(tokens, plan)
    for image in range(2):
        alone = set(range(plan.keep_idx.shape[1])) - set(plan.dst_idx[image].tolist())
        for position in alone:
            old = plan.keep_idx[image, position]
            assert torch.equal(merged.x[image, position], tokens.x[image, old])
            assert merged.size[image, position] == tokens.size[image, old]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_neither_overflows_nor_miscounts(dtype: torch.dtype, sign: int) -> None:
    """Sums and differences of values beyond float16, and sizes beyond the integers of bfloat16."""
    tokens = Tokens(
        column(1, sign * 60000, 60000, 60000, 5, dtype=dtype),
        column(1, 1, 258, 1, 1, dtype=torch.float32),
    )
    merged = apply_plan(tokens, TWO_INTO_ONE)
    expected = (sign + 258 + 1) / 260 * 60000
    assert merged.x.dtype == dtype
    torch.testing.assert_close(merged.x.float(), column(1, 5, expected).float(), rtol=0.01, atol=0)
    assert merged.size is not None
    assert merged.size.flatten().tolist() == [1, 1, 260]


def test_merging_is_as_exact_under_autocast() -> None:
    tokens = Tokens(column(1, 1 / 3, 3, 4, 5).float(), column(1, 1, 301, 1, 1).float())
    with torch.autocast("cpu", torch.bfloat16):
        merged = apply_plan(tokens, TWO_INTO_ONE)
    torch.testing.assert_close(merged, apply_plan(tokens, TWO_INTO_ONE))
