"""Schedules that are no single number: ToMe's falling one, RAPID's own, and what is refused."""

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import rapid_core
from rapid_core import InvalidScheduleError, removed_per_block, token_counts
from rapid_core.plans import MergePlan, PrunePlan
from rapid_core.schedule import inflected, named_schedule, parse_r
from service.models.timm_models import timm

from .tiny import random_images, tiny_vit

DECREASING = {  # research table: r -> per block of 12, and the tokens left of 197
    8: ([16, 14, 13, 11, 10, 8, 7, 5, 4, 2, 1, 0], 106),
    11: ([22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0], 65),
    14: ([28, 25, 22, 20, 17, 15, 12, 10, 7, 5, 2, 0], 34),
    16: ([32, 29, 26, 23, 20, 17, 14, 11, 8, 5, 2, 0], 10),
    17: ([34, 30, 27, 24, 21, 18, 15, 12, 9, 6, 3, 0], 3),
    20: ([40, 36, 32, 29, 25, 21, 18, 14, 10, 7, 3, 0], 2),
}


@cache
def shapes_of(name: str) -> nn.Module:
    """A full-size model without weights."""
    with torch.device("meta"):
        return timm.create_model(name)


@pytest.mark.parametrize("r", DECREASING)
def test_published_decreasing_schedules(r: int) -> None:
    per_block, left = DECREASING[r]
    assert list(parse_r((r, -1.0), 12)) == per_block
    assert named_schedule("decreasing", r, 12) == tuple(per_block)
    counts = token_counts(num_tokens=197, num_prefix_tokens=1, num_blocks=12, r=(r, -1.0))
    assert counts[-1] == left


@pytest.mark.parametrize("r", [3, 11])
def test_the_name_and_the_pair_are_the_same_model(r: int) -> None:
    model = tiny_vit(depth=6)
    images = random_images(model)
    logits = rapid_core.patch(model, r=r, schedule="decreasing")(images)
    assert torch.equal(logits, rapid_core.patch(model, r=(r, -1))(images))
    listed = list(parse_r((r, -1), 6))
    assert torch.equal(logits, rapid_core.patch(model, r=listed)(images))


@given(r=st.integers(0, 60), num_blocks=st.integers(1, 40))
def test_no_inflection_is_constant(r: int, num_blocks: int) -> None:
    assert inflected(r, 0.0, num_blocks) == (r,) * num_blocks
    assert parse_r((r, 0.0), num_blocks) == (r,) * num_blocks


@given(
    r=st.integers(0, 60),
    inflection=st.floats(-1, 1, allow_nan=False),
    num_blocks=st.integers(2, 40),
)
def test_an_inflected_schedule_is_monotone_around_its_mean(
    r: int, inflection: float, num_blocks: int
) -> None:
    schedule = inflected(r, inflection, num_blocks)
    assert len(schedule) == num_blocks
    assert list(schedule) == sorted(schedule, reverse=inflection < 0)
    assert schedule[0] == int(r * (1 - inflection))
    assert 0 <= min(schedule) <= max(schedule) <= 2 * r
    # Each number is rounded down: by less than one, and never up.
    assert r * num_blocks - num_blocks < sum(schedule) <= r * num_blocks + 1e-6


@pytest.mark.parametrize(
    ("r", "num_blocks", "expected"),
    [
        ((3, 0), 2, (3, 0)),  # one number for each of two blocks
        ((3, 1), 2, (3, 1)),
        ((3, -1), 2, (6, 0)),
        ((3, 0.0), 2, (3, 3)),
        ((5, -1), 1, (5,)),
        ([3, 0], 2, (3, 0)),
    ],
)
def test_pairs_in_small_models(r: Any, num_blocks: int, expected: tuple[int, ...]) -> None:
    assert parse_r(r, num_blocks) == expected


def test_the_papers_schedule_prunes_4_merges_8_and_leaves_the_rest() -> None:
    model = shapes_of("vit_large_patch16_224")
    reduction = rapid_core.patch(model, r=11, schedule="paper").blocks.reduction
    assert reduction.schedule == (11,) * 12 + (0,) * 12
    counts = token_counts(num_tokens=197, num_prefix_tokens=1, num_blocks=24, r=reduction.schedule)
    assert counts[11:] == [65] * 13


@pytest.mark.parametrize(
    ("depth", "expected"), [(14, "PPPPMMMMMMMM.."), (12, "PPPPMMMMMMMM"), (5, "PPPPM"), (3, "PPP")]
)
def test_kinds_of_the_papers_blocks(depth: int, expected: str) -> None:
    model = tiny_vit(depth=depth, img_size=64)
    plans: list[Any] = []
    images = random_images(model)
    reduced = rapid_core.patch(model, r=1, schedule="paper")
    x = model.norm_pre(model._pos_embed(model.patch_embed(images)))
    reduced.blocks.run(x, plans.append)
    kinds = {PrunePlan: "P", MergePlan: "M", type(None): "."}
    assert "".join(kinds[type(plan)] for plan in plans[1:]) == expected


@pytest.mark.parametrize(
    ("r", "gmac"), [(0, 61.55), (11, 30.07), (14, 21.68), (17, 15.81), (20, 13.13)]
)
def test_published_multiply_adds_of_the_papers_schedule(r: int, gmac: float) -> None:
    reduced = rapid_core.patch(shapes_of("vit_large_patch16_224"), r=r, schedule="paper")
    assert rapid_core.macs(reduced) / 1e9 == pytest.approx(gmac, abs=0.006)


def test_an_option_overrules_the_papers_schedule() -> None:
    model = tiny_vit(depth=6)
    images = random_images(model)
    overruled = rapid_core.patch(model, r=2, schedule="paper", num_prune_blocks=1)
    expected = rapid_core.patch(model, r=2, num_prune_blocks=1)
    assert torch.equal(overruled(images), expected(images))


@pytest.mark.parametrize("method", ["tome", "tofu", "random"])
def test_the_papers_schedule_bounds_any_method_to_12_blocks(method: str) -> None:
    reduced = rapid_core.patch(tiny_vit(depth=14), r=1, schedule="paper", method=method)
    assert reduced.blocks.reduction.schedule == (1,) * 12 + (0, 0)


REFUSED: dict[str, dict[str, Any]] = {
    "unknown_name": {"r": 3, "schedule": "linear"},
    "no_name": {"r": 3, "schedule": None},
    "list_for_decreasing": {"r": [1, 2, 3, 4], "schedule": "decreasing"},
    "list_for_paper": {"r": [1, 2, 3, 4], "schedule": "paper"},
    "pair_for_decreasing": {"r": (3, -1), "schedule": "decreasing"},
    "negative_for_decreasing": {"r": -3, "schedule": "decreasing"},
    "fraction_for_decreasing": {"r": 2.5, "schedule": "decreasing"},
    "bool_for_paper": {"r": True, "schedule": "paper"},
    "inflection_too_high": {"r": (3, 1.01)},
    "inflection_too_low": {"r": (3, -1.01)},
    "inflection_nan": {"r": (3, float("nan"))},
    "negative_mean": {"r": (-3, -1)},
    "mean_no_integer": {"r": (3.0, -1)},
    "mean_bool": {"r": (True, -1)},
}


@pytest.mark.parametrize("name", REFUSED)
def test_impossible_schedules_are_refused(model: nn.Module, images: Tensor, name: str) -> None:
    del images
    with pytest.raises(InvalidScheduleError):
        rapid_core.patch(model, **REFUSED[name])


# EViT's own: three blocks, and a share of what is left


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        ({"keep_rate": 0.7, "fuse": True}, [140, 100, 72]),
        ({"keep_rate": 0.7}, [139, 98, 69]),
        ({"keep_rate": 0.5}, [99, 50, 26]),
        ({"keep_rate": 1.0}, [197, 197, 197]),
        ({"keep_rate": 1.0, "fuse": True}, [197, 197, 197]),
    ],
    ids=str,
)
def test_published_token_counts_of_evit(options: dict[str, Any], counts: list[int]) -> None:
    model = shapes_of("deit_small_patch16_224")
    schedule = rapid_core.patch(model, method="evit", **options).blocks.reduction.schedule
    left = token_counts(num_tokens=197, num_prefix_tokens=1, num_blocks=12, r=schedule)
    assert left == [197] * 3 + [counts[0]] * 3 + [counts[1]] * 3 + [counts[2]] * 3


def test_an_integer_r_gives_evit_s_three_blocks_what_all_would_remove() -> None:
    model = shapes_of("deit_small_patch16_224")
    schedule = rapid_core.patch(model, r=8, method="evit").blocks.reduction.schedule
    assert schedule == (0, 0, 0, 32, 0, 0, 32, 0, 0, 32, 0, 0)
    removed = removed_per_block(num_tokens=197, num_prefix_tokens=1, schedule=schedule)
    assert sum(removed) == 8 * 12


@pytest.mark.parametrize(
    "request_",
    [
        {"r": [1, 2, 3, 4], "keep_rate": 0.7},
        {"keep_rate": 0.4},
        {"keep_rate": 1.1},
        {"keep_rate": float("nan")},
        {"keep_rate": "0.7"},
        {},
    ],
    ids=str,
)
def test_impossible_requests_to_evit_are_refused(request_: dict[str, Any]) -> None:
    with pytest.raises(InvalidScheduleError):
        rapid_core.patch(tiny_vit(), method="evit", **request_)
