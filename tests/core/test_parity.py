"""The patched model against the reference, and laws that hold without one."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import rapid_core

from .reference import forward
from .reference_tokens import Options
from .tiny import ARCHITECTURES, random_images, tiny_vit

METHODS = [name for name in rapid_core.METHODS if name != "random"]
"""All that the reference knows; a new method is written there, too."""
REDUCTIONS: dict[str, dict[str, Any]] = {
    "tome": {"r": 3, "method": "tome"},
    "rapid": {"r": 3},
    "rapid_clamped": {"r": 4, "clamp_importance": True, "importance_weight": 8.0},
    "rapid_merging_only": {"r": 2, "num_prune_blocks": 0},
    "rapid_on_tokens": {"r": 3, "match_on": "token"},
    "tome_on_tokens": {"r": 3, "method": "tome", "match_on": "token"},
    "to_the_last_patch": {"r": 99},
    "tofu": {"r": 3, "method": "tofu"},
    "tofu_merging_only": {"r": 99, "method": "tofu", "num_prune_blocks": 0},
    "evit": {"r": 2, "method": "evit"},
    "evit_fused": {"r": 3, "method": "evit", "fuse": True},
    "patch_similarity": {"r": 3, "method": "patch_similarity"},
    "attention_rollout": {"r": 3, "method": "attention_rollout"},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "no_weight": {"importance_weight": 0.0},
    "little_weight": {"importance_weight": 2.0},
    "weight_of_the_wrong_sign": {"importance_weight": -5.0},
    "all_prune": {"num_prune_blocks": 3},
    "on_tokens": {"match_on": "token", "importance_weight": 2.0, "clamp_importance": True},
    "all_prune_on_tokens": {"match_on": "token", "num_prune_blocks": 3},
    "on_keys": {"match_on": "key"},
    "low_threshold": {"similarity_threshold": 0.2},
    "every_similarity_counts": {"similarity_threshold": -1.0},
    "no_similarity_counts": {"similarity_threshold": 1.0},
    "clamped_at_most": {"clamp_importance": True, "importance_top": 0.01},
    "clamped_at_some": {"clamp_importance": True, "importance_top": 0.5, "importance_weight": 3.0},
    "clamped_at_least": {"clamp_importance": True, "importance_top": 1.0},
}
PLACES: dict[str, dict[str, Any]] = {  # a model of every kind of importance and parity
    "class_token": {"depth": 3},
    "even_grid": {"depth": 3, "img_size": 32},
    "registers": {"depth": 3, "reg_tokens": 3},
    "no_class_token": {"depth": 3, "global_pool": "avg", "class_token": False},
}


def assert_equals_reference(model: nn.Module, images: Tensor, **reduction: Any) -> None:
    logits = rapid_core.patch(model, **reduction)(images)
    expected = forward(model, images, Options(**reduction))
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture(name: str, reduction: str) -> None:
    model = tiny_vit(**ARCHITECTURES[name])
    assert_equals_reference(model, random_images(model), **REDUCTIONS[reduction])


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("place", PLACES)
def test_every_option(place: str, options: str) -> None:
    model = tiny_vit(**PLACES[place])
    assert_equals_reference(model, random_images(model), r=4, **OPTIONS[options])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "r",
    [1, 2, 5, 6, 7, 8, 12, 13, [0, 0, 0, 1], [12, 0, 3, 0], [0, 9, 0, 9], (1, 2, 3, 4)],
    ids=str,
)
def test_every_amount(model: nn.Module, images: Tensor, r: int | list[int], method: str) -> None:
    assert_equals_reference(model, images, r=r, method=method)


# Of two patches, neither is more like the others: Patch Similarity has nothing to go by.
@pytest.mark.parametrize("method", [name for name in METHODS if name != "patch_similarity"])
@pytest.mark.parametrize("num_patches", [1, 2, 3, 4])
def test_hardly_any_patches(num_patches: int, method: str) -> None:
    model = tiny_vit(img_size=(8, 8 * num_patches))
    assert_equals_reference(model, random_images(model, 3), r=2, method=method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_other_depths(depth: int, method: str) -> None:
    model = tiny_vit(depth=depth)
    assert_equals_reference(model, random_images(model), r=3, method=method)


def test_another_image_size_than_the_model_was_made_for() -> None:
    model = tiny_vit(img_size=32, dynamic_img_size=True, global_pool="avg")
    images = random_images(tiny_vit(img_size=(40, 24)))
    assert_equals_reference(model, images, r=3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_removing_nothing_is_the_model_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    model = copy.deepcopy(tiny_vit(**ARCHITECTURES[name])).to(dtype)
    images = random_images(model).to(dtype)
    for method in [*METHODS, "random"]:
        if method == "attention_rollout":
            continue  # see below
        for r in (0, [0] * len(model.blocks)):
            assert torch.equal(rapid_core.patch(model, r=r, method=method)(images), model(images))


@pytest.mark.parametrize(
    "options",
    [{"method": "attention_rollout"}, {"method": "patch_similarity", "diversity": 0.5}],
    ids=str,
)
def test_removing_nothing_with_a_memory_is_the_model_bit_for_bit(
    model: nn.Module, images: Tensor, options: dict[str, Any]
) -> None:
    assert torch.equal(rapid_core.patch(model, r=0, **options)(images), model(images))


@pytest.mark.parametrize("name", ["plain", "even_grid", "dinov2", "no_class_but_registers"])
def test_rapid_without_importance_and_pruning_is_tome(name: str) -> None:
    model = tiny_vit(**ARCHITECTURES[name])
    images = random_images(model)
    rapid = rapid_core.patch(model, r=3, num_prune_blocks=0, importance_weight=0.0)
    assert torch.equal(rapid(images), rapid_core.patch(model, r=3, method="tome")(images))


@given(
    top=st.floats(0.001, 1.0),
    weight=st.floats(-100, 100),
    r=st.integers(1, 12),
    num_prune_blocks=st.integers(0, 4),
)
def test_importance_top_has_no_effect_as_printed(
    top: float, weight: float, r: int, num_prune_blocks: int
) -> None:
    model = tiny_vit()
    images = random_images(model)
    options: dict[str, Any] = {
        "r": r,
        "importance_weight": weight,
        "num_prune_blocks": num_prune_blocks,
    }
    with_top = rapid_core.patch(model, importance_top=top, **options)
    assert torch.equal(with_top(images), rapid_core.patch(model, **options)(images))


def test_importance_top_has_an_effect_once_clamped(model: nn.Module, images: Tensor) -> None:
    first, second = (
        rapid_core.patch(model, r=4, importance_top=top, clamp_importance=True)(images)
        for top in (0.1, 0.6)
    )
    assert (first - second).abs().max() > 0.01


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", ["plain", "dinov2", "average_all", "no_class_token"])
def test_an_image_does_not_depend_on_its_neighbours(name: str, reduction: str) -> None:
    model = tiny_vit(**ARCHITECTURES[name])
    images = random_images(model, 5)
    reduced = rapid_core.patch(model, **REDUCTIONS[reduction])
    alone = torch.cat([reduced(image[None]) for image in images])
    torch.testing.assert_close(reduced(images), alone, rtol=0, atol=1e-12)
    torch.testing.assert_close(reduced(images.flip(0)).flip(0), alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_an_image_without_meaning_harms_only_itself(
    model: nn.Module, images: Tensor, method: str
) -> None:
    reduced = rapid_core.patch(model, r=3, method=method)
    broken = images.clone()
    broken[0] = float("nan")
    logits = reduced(broken)
    assert logits[0].isnan().all()
    torch.testing.assert_close(logits[1], reduced(images)[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("r", [1, 5, 99])
@pytest.mark.parametrize("pooling", ["token", "avg", "avgmax"])
def test_merging_equal_patches_loses_nothing(pooling: str, r: int) -> None:
    """A flat image without positions: all patches equal, all similarities tied at 1."""
    model = tiny_vit(pos_embed="none", global_pool=pooling)
    images = torch.full((2, 3, 40, 40), 0.5, dtype=torch.float64)
    reduced = rapid_core.patch(model, r=r, num_prune_blocks=0)
    torch.testing.assert_close(reduced(images), model(images), rtol=0, atol=1e-9)


@pytest.mark.parametrize("value", [0.0, 1.0, -1e4])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("positions", ["none", "learn"])
def test_flat_images_give_the_same_finite_logits_each_time(
    positions: str, method: str, value: float
) -> None:
    model = tiny_vit(pos_embed=positions)
    images = torch.full((2, 3, 40, 40), value, dtype=torch.float64)
    reduced = rapid_core.patch(model, r=4, method=method)
    logits = reduced(images)
    assert logits.isfinite().all()
    assert torch.equal(logits, reduced(images))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_half_precision(name: str, dtype: torch.dtype, method: str) -> None:
    model = copy.deepcopy(tiny_vit(**ARCHITECTURES[name])).to(dtype)
    logits = rapid_core.patch(model, r=3, method=method)(random_images(model).to(dtype))
    assert logits.dtype == dtype
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", ["plain", "qk_norm", "dinov2", "average", "no_class_token"])
@pytest.mark.parametrize("method", METHODS)
def test_autocast(method: str, name: str) -> None:
    model = copy.deepcopy(tiny_vit(**ARCHITECTURES[name])).float()
    images = random_images(model).float()
    reduced = rapid_core.patch(model, r=3, method=method)
    with torch.autocast("cpu", torch.bfloat16):
        logits = reduced(images)
    assert logits.isfinite().all()


def test_compiles_into_one_graph(model: nn.Module, images: Tensor) -> None:
    reduced = rapid_core.patch(model, r=[3, 0, 4, 99])
    compiled = torch.compile(reduced, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images), reduced(images))
