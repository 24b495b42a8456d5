"""Plans carried out: values, sizes, and what must not get lost."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rapid_core.matching.selection import plan_merge
from rapid_core.plans import FusePlan, MergePlan, PrunePlan
from rapid_core.reduction import apply_plan
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


# MLERP


def mlerp(keep: list[int], src: list[int], dst: list[int]) -> MergePlan:
    return MergePlan(index(*keep), index(*src), index(*dst), rule="mlerp")


def points(*values: list[float], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor([values], dtype=dtype)


def test_mlerp_of_the_paper_s_example_whatever_the_sizes() -> None:
    """The plain mean (1.5, 2) of (3, 0) and (0, 4), as long as the longer one."""
    tokens = Tokens(points([7, 7], [3, 0], [0, 4]), column(1, 1, 9))
    merged = apply_plan(tokens, mlerp([0, 1], [2], [1]))
    torch.testing.assert_close(merged.x, points([7, 7], [2.4, 3.2]))
    assert merged.size is not None
    assert merged.size.flatten().tolist() == [1, 10]


def test_mlerp_of_a_group_takes_the_longest_of_all_and_leaves_others_alone() -> None:
    """(6, 0), (0, 3) and (0, 0) have the mean (2, 1); (5, 5) receives nothing."""
    x = points([1, 1], [0, 3], [6, 0], [0, 0], [5, 5])
    merged = apply_plan(Tokens(x), mlerp([0, 4, 1], [2, 3], [2, 2]))
    length = 6 / 5**0.5
    torch.testing.assert_close(merged.x[0, 2], torch.tensor([2, 1]).double() * length)
    assert torch.equal(merged.x[0, :2], x[0, [0, 4]])
    assert merged.size is not None
    assert merged.size.flatten().tolist() == [1, 1, 3]


def test_mlerp_of_opposites_is_zero_and_finite() -> None:
    merged = apply_plan(Tokens(points([1, 1], [2, 0], [-2, 0])), mlerp([0, 1], [2], [1]))
    assert merged.x[0, 1].tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_mlerp_does_not_overflow_in_half_precision(dtype: torch.dtype) -> None:
    tokens = Tokens(points([1, 1], [40000, 0], [0, 40000], dtype=dtype))
    merged = apply_plan(tokens, mlerp([0, 1], [2], [1]))
    assert merged.x.dtype == dtype
    expected = torch.full((2,), 40000 / 2**0.5)
    torch.testing.assert_close(merged.x[0, 1].float(), expected, rtol=0.01, atol=0)


@given(case=merges())
def test_mlerp_keeps_the_length_of_the_longest(case: dict[str, Any]) -> None:
    tokens, plan = case["tokens"], case["plan"]._replace(rule="mlerp")
    merged = apply_plan(tokens, plan)
    length = tokens.x.norm(dim=-1)
    longest = length.gather(1, plan.keep_idx)
    longest = longest.scatter_reduce(1, plan.dst_idx, length.gather(1, plan.src_idx), "amax")
    torch.testing.assert_close(merged.x.norm(dim=-1), longest)
    assert torch.equal(merged.size.sum(dim=1), tokens.size.sum(dim=1))


# EViT's fusion


@pytest.mark.parametrize("size", [None, column(1, 2, 3, 4)])
def test_fusing_appends_the_weighted_sum_as_one_token(size: Tensor | None) -> None:
    plan = FusePlan(index(0, 2), index(3, 1), torch.tensor([[0.25, 0.5]]))
    memory = column(10, 11, 12, 13)
    fused = apply_plan(Tokens(column(1, 2, 3, 4), size, memory), plan)
    assert torch.equal(fused.x, column(1, 3, 0.25 * 4 + 0.5 * 2))
    assert (fused.size is None) == (size is None)
    if fused.size is not None:
        assert fused.size.flatten().tolist() == [1, 3, 1]
    assert fused.memory is not None
    assert fused.memory.flatten().tolist() == [10, 12, 13]


@pytest.mark.parametrize("plan", [PrunePlan(index(0, 4, 1)), TWO_INTO_ONE], ids=["prune", "merge"])
def test_memory_goes_where_the_kept_token_goes(plan: PrunePlan | MergePlan) -> None:
    tokens = Tokens(column(7, 10, 20, 40, 5), memory=column(0, 1, 2, 3, 4))
    left = apply_plan(tokens, plan)
    assert left.memory is not None
    assert left.memory.flatten().tolist() == [0, 4, 1]
