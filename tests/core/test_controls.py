"""The methods that others are compared with: random choice, and patch similarity's diversity."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import rapid_core
from rapid_core.contract import Evidence, TokenLayout
from rapid_core.methods.patch_similarity import drop_redundant, remember_positions, share_above
from rapid_core.plans import PrunePlan
from rapid_core.tokens import Tokens

from .tiny import random_images, tiny_vit


def dropped(model: nn.Module, images: Tensor, *, block: int = 0) -> list[list[int]]:
    """Patches that each image has lost after a block."""
    assignment = rapid_core.trace(model, images).assignment[block]
    return [(line < 0).nonzero().flatten().tolist() for line in assignment]


def test_random_is_the_same_each_time_and_for_each_image(model: nn.Module) -> None:
    images = random_images(model, 3)
    reduced = rapid_core.patch(model, r=3, method="random", seed=7)
    again = rapid_core.patch(model, r=3, method="random", seed=7)
    assert torch.equal(reduced(images), again(images))
    lost = dropped(reduced, images)
    assert lost[0] == lost[1] == lost[2]
    alone = torch.cat([reduced(image[None]) for image in images])
    torch.testing.assert_close(reduced(images), alone, rtol=0, atol=1e-12)


def test_random_differs_between_seeds_and_blocks(model: nn.Module, images: Tensor) -> None:
    seeds = range(20)
    first = {
        tuple(dropped(rapid_core.patch(model, r=3, method="random", seed=seed), images)[0])
        for seed in seeds
    }
    assert len(first) > 15
    _, *planned = rapid_core.patch(model, r=3, method="random").blocks.reduction.decisions
    assert len({decision.planner.keywords["seed"] for decision in planned}) == len(planned) == 4


def test_random_reaches_sources_and_destinations_alike(model: nn.Module, images: Tensor) -> None:
    lost = {
        patch
        for seed in range(60)
        for patch in dropped(rapid_core.patch(model, r=3, method="random", seed=seed), images)[0]
    }
    assert lost == set(range(25))


@pytest.mark.parametrize("seed", [1.5, "1", None])
def test_a_seed_is_an_integer(model: nn.Module, seed: object) -> None:
    with pytest.raises(rapid_core.InvalidScheduleError):
        rapid_core.patch(model, r=3, method="random", seed=seed)


# Diversity. A 4 x 4 grid; in each 2 x 2 window the upper two patches are twins.

GRID = TokenLayout(num_blocks=1, num_prefix_tokens=1, has_class_token=True, grid_size=(4, 4))
TWINS = [(0, 1), (2, 3), (8, 9), (10, 11)]


def patches_with_twins() -> Tensor:
    """A prefix token and 16 patches at right angles to each other, but for the twins."""
    x = torch.eye(17)
    for one, other in TWINS:
        x[1 + other] = x[1 + one]
    return x[None]


def lost_of(plan: PrunePlan) -> set[int]:
    return set(range(16)) - {position - 1 for position in plan.keep_idx[0].tolist()}


@pytest.mark.parametrize(
    ("diversity", "expected"), [(0.0, {0, 1, 2, 3}), (0.5, {0, 2, 8, 10}), (0.01, {0, 2, 8, 10})]
)
def test_one_of_each_pair_of_twins_survives_with_diversity(
    diversity: float, expected: set[int]
) -> None:
    tokens = Tokens(patches_with_twins())
    seen = Evidence(tokens._replace(memory=remember_positions(Evidence(tokens))))
    plan = drop_redundant(seen, 4, layout=GRID, diversity=diversity)
    assert lost_of(plan) == expected


@pytest.mark.parametrize("at_input", [False, True])
def test_much_diversity_spreads_what_is_lost_over_the_image(at_input: bool) -> None:
    model = tiny_vit(img_size=64)  # 8 x 8 patches, 16 windows
    images = random_images(model)
    request = {"r": 16 if not at_input else [16, 0, 0, 0], "at_input": at_input}
    reduced = rapid_core.patch(model, method="patch_similarity", diversity=1e3, **request)
    for lost in dropped(reduced, images):
        windows = [patch // 8 // 2 * 4 + patch % 8 // 2 for patch in lost]
        assert sorted(windows) == list(range(16))
    if not at_input:  # the second block takes the second patch of every window
        for lost in dropped(reduced, images, block=1):
            assert per_window(lost) == [2] * 16
        for lost in dropped(reduced, images, block=2):
            assert per_window(lost) == [3] * 16


def test_diversity_is_refused_where_the_grid_is_not_known() -> None:
    model = tiny_vit(img_size=32, dynamic_img_size=True)
    with pytest.raises(rapid_core.InvalidScheduleError, match="images of any size"):
        rapid_core.patch(model, r=1, method="patch_similarity", diversity=0.5)


def per_window(lost: Sequence[int]) -> list[int]:
    windows = [patch // 8 // 2 * 4 + patch % 8 // 2 for patch in lost]
    return [windows.count(window) for window in range(16)]


@pytest.mark.parametrize("diversity", [-0.1, float("nan"), float("inf"), "1"])
def test_diversity_is_a_weight(model: nn.Module, diversity: object) -> None:
    with pytest.raises(rapid_core.InvalidScheduleError):
        rapid_core.patch(model, r=3, method="patch_similarity", diversity=diversity)


def test_at_input_removes_at_once_what_r_would_in_all_blocks(
    model: nn.Module, images: Tensor
) -> None:
    for r, expected in ((2, 8), (3, 12), (99, 12)):
        reduced = rapid_core.patch(model, r=r, method="patch_similarity", at_input=True)
        assert all(len(lost) == expected for lost in dropped(reduced, images))


@pytest.mark.parametrize(
    ("prune_ratio", "expected"),
    [(0.0, (0, 0, 0, 0)), (0.2, (2, 1, 1, 1)), (0.5, (3, 3, 3, 3))],
)
def test_a_ratio_is_spread_over_the_blocks(
    model: nn.Module, prune_ratio: float, expected: tuple[int, ...]
) -> None:
    options = {"method": "patch_similarity", "prune_ratio": prune_ratio}
    assert rapid_core.patch(model, **options).blocks.reduction.schedule == expected
    at_input = rapid_core.patch(model, **options, at_input=True).blocks.reduction
    assert (at_input.schedule, at_input.decisions[0].num_removed) == ((0,) * 4, sum(expected))


@pytest.mark.parametrize(
    "request_", [{"prune_ratio": 0.6}, {"prune_ratio": -0.1}, {"prune_ratio": 0.2, "r": 1}], ids=str
)
def test_an_impossible_ratio_is_refused(model: nn.Module, request_: dict[str, float]) -> None:
    with pytest.raises(rapid_core.InvalidScheduleError):
        rapid_core.patch(model, method="patch_similarity", **request_)


def test_a_threshold_becomes_a_ratio() -> None:
    """Three equal patches of four resemble the others by 1/3, the odd one by -1."""
    x = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]])
    ratios = [share_above(x, threshold) for threshold in (-2.0, 0.0, 0.5)]
    assert ratios == [1.0, 0.75, 0.0]
