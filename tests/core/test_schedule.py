"""How many tokens are left, and what that costs: the published tables and their laws."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

import rapid_core
from rapid_core import InvalidScheduleError, UnsupportedModelError, token_counts
from rapid_core.schedule import BlockCost, parse_r, removable, removed_per_block
from service.models.timm_models import timm

from .tiny import tiny_vit

GMAC = {  # design tables: (model, r) -> multiply-adds of one image, to the printed digit
    "vit_base_patch16_224": {
        0: 17.56,
        8: 13.10,
        11: 11.46,
        13: 10.37,
        14: 9.82,
        16: 8.77,
        17: 8.30,
        20: 7.13,
    },
    "vit_small_patch16_224": {
        0: 4.60,
        8: 3.42,
        11: 2.99,
        13: 2.70,
        14: 2.56,
        16: 2.29,
        17: 2.17,
        20: 1.87,
    },
}
requests = st.fixed_dictionaries(
    {
        "num_tokens": st.integers(6, 300),
        "num_prefix_tokens": st.integers(0, 6),
        "r": st.lists(st.integers(0, 200), min_size=1, max_size=24),
    }
)


@pytest.mark.parametrize(
    ("num_tokens", "num_prefix_tokens", "left"),
    [
        (197, 1, {8: 101, 11: 65, 13: 41, 14: 29, 16: 11, 17: 8, 20: 4}),
        (198, 2, {11: 66, 14: 30, 17: 9, 20: 5}),
        (201, 5, {11: 69, 14: 33, 17: 12, 20: 8}),
    ],
)
def test_published_token_counts(
    num_tokens: int, num_prefix_tokens: int, left: dict[int, int]
) -> None:
    for r, expected in left.items():
        counts = token_counts(
            num_tokens=num_tokens, num_prefix_tokens=num_prefix_tokens, num_blocks=12, r=r
        )
        assert len(counts) == 12
        assert counts[-1] == expected


def test_published_counts_of_every_block() -> None:
    counts = token_counts(num_tokens=197, num_prefix_tokens=1, num_blocks=12, r=17)
    assert counts == [180, 163, 146, 129, 112, 95, 78, 61, 44, 27, 14, 8]


@pytest.mark.parametrize(
    ("num_tokens", "num_prefix_tokens", "expected"),
    [(1, 1, 0), (2, 1, 0), (3, 1, 1), (4, 1, 1), (5, 1, 2), (0, 0, 0), (2, 0, 1), (5, 5, 0)],
)
def test_at_most_half_of_the_patches_can_go(
    num_tokens: int, num_prefix_tokens: int, expected: int
) -> None:
    assert removable(num_tokens, num_prefix_tokens) == expected
    left = token_counts(
        num_tokens=num_tokens, num_prefix_tokens=num_prefix_tokens, num_blocks=1, r=99
    )
    assert left == [num_tokens - expected]


@given(request=requests)
def test_each_block_removes_what_it_is_asked_for_up_to_half(request: dict[str, Any]) -> None:
    schedule, before = request["r"], request["num_tokens"]
    counts = token_counts(**request, num_blocks=len(schedule))
    removed = removed_per_block(
        num_tokens=before,
        num_prefix_tokens=request["num_prefix_tokens"],
        schedule=schedule,
    )
    for asked, gone, after in zip(schedule, removed, counts, strict=True):
        num_patches = before - request["num_prefix_tokens"]
        assert gone == before - after == min(asked, num_patches // 2)
        before = after


@given(request=requests, block=st.integers(0, 23))
def test_asking_for_more_never_leaves_more(request: dict[str, Any], block: int) -> None:
    more = list(request["r"])
    more[block % len(more)] += 1
    left = token_counts(**request, num_blocks=len(more))
    left_by_more = token_counts(**request | {"r": more}, num_blocks=len(more))
    assert left_by_more[-1] <= left[-1]


@given(r=st.integers(0, 40), num_blocks=st.integers(1, 24))
def test_one_number_stands_for_every_block(r: int, num_blocks: int) -> None:
    assert parse_r(r, num_blocks) == parse_r([r] * num_blocks, num_blocks) == (r,) * num_blocks


@pytest.mark.parametrize("num_prefix_tokens", [-1, 6])
def test_impossible_prefix_is_refused(num_prefix_tokens: int) -> None:
    with pytest.raises(InvalidScheduleError):
        token_counts(num_tokens=5, num_prefix_tokens=num_prefix_tokens, num_blocks=1, r=1)


@pytest.mark.parametrize("r", [-1, True, 1.0, None, [1], [1, 2, 3], [1, -1], "12"])
def test_impossible_r_is_refused(r: Any) -> None:
    with pytest.raises(InvalidScheduleError):
        token_counts(num_tokens=9, num_prefix_tokens=1, num_blocks=2, r=r)


@pytest.mark.parametrize("name", GMAC)
def test_published_multiply_adds(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    assert round(rapid_core.macs(model) / 1e9, 2) == GMAC[name][0]
    for r, expected in GMAC[name].items():
        assert round(rapid_core.macs(rapid_core.patch(model, r=r)) / 1e9, 2) == expected


@pytest.mark.parametrize("method", ["rapid", "tome"])
@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("vit_small_patch16_224", {}),
        ("deit_tiny_distilled_patch16_224", {}),
        ("vit_small_patch14_reg4_dinov2", {"img_size": 224}),
        ("vit_tiny_patch16_224", {"mlp_ratio": 3, "num_heads": 2, "global_pool": "avg"}),
    ],
)
def test_multiply_adds_are_those_that_torch_counts(
    name: str, overrides: dict[str, Any], method: str
) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, **overrides).eval()
    assert rapid_core.macs(model) == counted_macs(model)
    reduced = rapid_core.patch(model, r=13, method=method)
    scoring_too = counted_macs(reduced)
    assert rapid_core.macs(reduced) <= scoring_too <= 1.02 * rapid_core.macs(reduced)


def test_an_embedding_that_is_more_than_one_convolution_is_not_miscounted() -> None:
    with torch.device("meta"):
        model = timm.create_model("vit_tiny_r_s16_p8_224")
    with pytest.raises(UnsupportedModelError, match="patch_embed"):
        rapid_core.macs(model)


def counted_macs(model: torch.nn.Module) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, 224, 224, device="meta"))
    return counter.get_total_flops() // 2


@given(r=st.lists(st.integers(0, 20), min_size=4, max_size=4))
def test_multiply_adds_follow_the_formula(r: list[int]) -> None:
    model = tiny_vit()
    C, N = 32, 26
    expected = 25 * 3 * 8 * 8 * C + C * 10
    for b in token_counts(num_tokens=N, num_prefix_tokens=1, num_blocks=4, r=r):
        expected += 4 * N * C**2 + 2 * N**2 * C + 8 * b * C**2
        N = b
    assert rapid_core.macs(rapid_core.patch(model, r=r)) == expected


def test_cost_of_a_block() -> None:
    cost = BlockCost(per_key=60, per_query=40, per_pair=10, mlp_per_token=1000)
    assert cost.macs(num_entering=5, num_queries=5, num_left=3) == 500 + 250 + 3000
    assert cost.macs(num_entering=5, num_queries=1, num_left=1) == 300 + 40 + 50 + 1000
