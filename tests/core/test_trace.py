"""Where every input patch goes, against the reference."""

from typing import Any

import pytest
import torch
from torch import Tensor

import rapid_core

from .reference import run
from .reference_tokens import Options
from .tiny import random_images, tiny_vit

REDUCTIONS: list[dict[str, Any]] = [
    {"r": 0},
    {"r": 3},
    {"r": 99},
    {"r": 3, "method": "tome"},
    {"r": 3, "method": "tofu"},
    {"r": 3, "match_on": "token"},
    {"r": [0, 5, 0, 2], "num_prune_blocks": 2},
    {"r": [4, 0, 5, 2], "method": "tofu", "num_prune_blocks": 1},
    {"r": [4, 0, 5, 2], "method": "evit"},
    {"r": [4, 0, 5, 99], "method": "evit", "fuse": True},
    {"r": 3, "method": "patch_similarity"},
    {"r": 3, "method": "attention_rollout"},
]
ARCHITECTURES: list[dict[str, Any]] = [{}, {"reg_tokens": 3}, {"distilled": True}]
POOLED_BY_SIZE: list[dict[str, Any]] = [
    {"global_pool": "avg", "class_token": False},
    {"global_pool": "avgmax"},
    {"global_pool": "map", "class_token": False},
]


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=str)
@pytest.mark.parametrize("overrides", ARCHITECTURES, ids=str)
def test_every_patch_is_where_the_reference_puts_it(
    overrides: dict[str, Any], reduction: dict[str, Any]
) -> None:
    assert_follows_reference(overrides, reduction)


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=str)
@pytest.mark.parametrize("overrides", POOLED_BY_SIZE, ids=str)
def test_also_where_the_pooling_needs_sizes(
    overrides: dict[str, Any], reduction: dict[str, Any]
) -> None:
    assert_follows_reference(overrides, reduction)


def assert_follows_reference(overrides: dict[str, Any], reduction: dict[str, Any]) -> None:
    model = tiny_vit(**overrides)
    images = random_images(model)
    reduced = rapid_core.patch(model, **reduction)
    trace = rapid_core.trace(reduced, images)
    assert torch.equal(trace.logits, reduced(images))
    answers = [run(model, image, Options(**reduction)) for image in images]
    assert len(trace.assignment) == len(model.blocks)
    for layer, assignment in enumerate(trace.assignment):
        assert assignment.dtype == torch.int64
        assert assignment.tolist() == [answer.assignments[layer] for answer in answers]


@pytest.mark.parametrize(
    "reduction",
    [{"r": 4, "method": "tome"}, {"r": 4}, {"r": 4, "method": "tofu"}],
    ids=str,
)
def test_a_token_holds_as_many_patches_as_its_size_says(reduction: dict[str, Any]) -> None:
    model = tiny_vit(reg_tokens=1)
    images = random_images(model)
    trace = rapid_core.trace(rapid_core.patch(model, **reduction), images)
    for image, assignments in zip(images, zip(*trace.assignment, strict=True), strict=True):
        sizes = run(model, image, Options(**reduction)).sizes
        for assignment, expected in zip(assignments, sizes, strict=True):
            assert held(assignment, len(expected))[2:] == expected[2:]
            assert held(assignment, len(expected))[:2] == [0, 0]


def held(assignment: Tensor, num_tokens: int) -> list[int]:
    """How many patches each token holds."""
    return assignment[assignment >= 0].bincount(minlength=num_tokens).tolist()


@pytest.mark.parametrize("method", ["rapid", "tome"])
def test_the_prefix_only_last_block_is_followed_as_if_it_computed_all(method: str) -> None:
    model = tiny_vit()
    images = random_images(model)
    whole, short = (
        rapid_core.trace(
            rapid_core.patch(model, r=4, method=method, prefix_only=prefix_only), images
        )
        for prefix_only in (False, True)
    )
    torch.testing.assert_close(short, whole, rtol=0, atol=1e-10)


def test_patches_dropped_before_the_first_block_are_gone_from_the_start() -> None:
    model = tiny_vit()
    images = random_images(model)
    reduced = rapid_core.patch(model, r=2, method="patch_similarity", at_input=True)
    trace = rapid_core.trace(reduced, images)
    assert torch.equal(trace.logits, reduced(images))
    for assignment in trace.assignment:
        assert torch.equal(assignment, trace.assignment[0])
        assert ((assignment == -1).sum(dim=1) == 4 * 2).all()
        kept = [sorted(line) for line in assignment.tolist()]
        assert kept == [[-1] * 8 + list(range(1, 18))] * 2


def test_tracing_leaves_the_model_as_it_was() -> None:
    model = tiny_vit()
    images = random_images(model)
    reduced = rapid_core.patch(model, r=3)
    before = reduced(images)
    blocks = reduced.blocks
    rapid_core.trace(reduced, images)
    assert reduced.blocks is blocks
    assert torch.equal(reduced(images), before)


def test_an_unpatched_model_has_nothing_to_trace() -> None:
    model = tiny_vit()
    with pytest.raises(rapid_core.UnsupportedModelError, match="patch it first"):
        rapid_core.trace(model, random_images(model))
