"""The last block for the prefix tokens alone: the same logits for less work."""

from typing import Any

import pytest
import torch

import rapid_core
from rapid_core import InvalidScheduleError

from .test_named_schedules import shapes_of
from .tiny import ARCHITECTURES, random_images, tiny_vit

CLS_POOLED = {
    name: overrides
    for name, overrides in ARCHITECTURES.items()
    if overrides.get("global_pool", "token") == "token"
}
REDUCTIONS: list[dict[str, Any]] = [
    {"r": 0},
    {"r": 4},
    {"r": 99},
    {"r": 4, "method": "tome"},
    {"r": 4, "method": "tofu"},
    {"r": 3, "method": "evit", "fuse": True},
    {"r": 3, "method": "attention_rollout"},
]


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=str)
@pytest.mark.parametrize("name", CLS_POOLED)
def test_the_logits_are_the_same(name: str, reduction: dict[str, Any]) -> None:
    model = tiny_vit(**CLS_POOLED[name])
    images = random_images(model)
    whole = rapid_core.patch(model, **reduction)(images)
    short = rapid_core.patch(model, **reduction, prefix_only=True)(images)
    torch.testing.assert_close(short, whole, rtol=0, atol=1e-10)


@pytest.mark.parametrize("depth", [1, 2])
def test_models_that_consist_of_little_more_than_the_last_block(depth: int) -> None:
    model = tiny_vit(depth=depth)
    images = random_images(model)
    short = rapid_core.patch(model, r=3, prefix_only=True)(images)
    torch.testing.assert_close(short, rapid_core.patch(model, r=3)(images), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["plain", "registers", "distilled"])
def test_only_the_prefix_tokens_leave_the_last_block(name: str) -> None:
    model = tiny_vit(**ARCHITECTURES[name])
    features = rapid_core.patch(model, r=3, prefix_only=True).forward_features(random_images(model))
    assert features.shape == (2, model.num_prefix_tokens, 32)


@pytest.mark.parametrize(
    ("name", "r", "gmac"),
    [
        ("vit_base_patch16_224", 0, 16.35),
        ("vit_base_patch16_224", 11, 11.06),
        ("vit_base_patch16_224", 14, 9.64),
        ("vit_large_patch16_224", 0, 59.42),
    ],
)
def test_multiply_adds(name: str, r: int, gmac: float) -> None:
    reduced = rapid_core.patch(shapes_of(name), r=r, prefix_only=True)
    assert round(rapid_core.macs(reduced) / 1e9, 2) == gmac


@pytest.mark.parametrize("pooling", ["avg", "avgmax", "max", "map", ""])
def test_other_poolings_are_refused(pooling: str) -> None:
    with pytest.raises(InvalidScheduleError, match="prefix_only"):
        rapid_core.patch(tiny_vit(global_pool=pooling), r=3, prefix_only=True)
