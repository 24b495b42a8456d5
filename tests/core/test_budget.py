"""A share of the multiply-adds instead of r."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import rapid_core
from rapid_core import InvalidScheduleError, removed_per_block

from .test_named_schedules import shapes_of
from .tiny import random_images, tiny_vit

MODEL = "vit_base_patch16_224"


def macs_with(schedule: tuple[int, ...], *, prefix_only: bool = False) -> int:
    model = shapes_of(MODEL)
    return rapid_core.macs(rapid_core.patch(model, r=list(schedule), prefix_only=prefix_only))


@given(macs_ratio=st.floats(0.15, 1.0), prefix_only=st.booleans())
def test_the_budget_is_kept_and_no_block_of_the_higher_number_could_do_less(
    macs_ratio: float, prefix_only: bool
) -> None:
    model = shapes_of(MODEL)
    budget = macs_ratio * rapid_core.macs(model)
    reduced = rapid_core.patch(model, macs_ratio=macs_ratio, prefix_only=prefix_only)
    schedule = reduced.blocks.reduction.schedule
    assert rapid_core.macs(reduced) <= budget
    assert macs_with(schedule, prefix_only=prefix_only) == rapid_core.macs(reduced)
    assert set(schedule) <= {max(schedule), max(max(schedule) - 1, 0)}
    removed = removed_per_block(num_tokens=197, num_prefix_tokens=1, schedule=schedule)
    for block, number in enumerate(schedule):
        computed = block < 11 or not prefix_only  # the last block of a prefix removes nothing
        if number == max(schedule) and number == removed[block] > 0 and computed:
            less = (*schedule[:block], number - 1, *schedule[block + 1 :])
            assert macs_with(less, prefix_only=prefix_only) > budget


@given(macs_ratio=st.floats(0.2, 0.99))
def test_a_budget_is_met_within_half_a_percent(macs_ratio: float) -> None:
    model = shapes_of(MODEL)
    got = rapid_core.macs(rapid_core.patch(model, macs_ratio=macs_ratio)) / rapid_core.macs(model)
    assert macs_ratio - 0.006 < got <= macs_ratio


@pytest.mark.parametrize("method", ["rapid", "tome", "tofu", "patch_similarity", "random"])
def test_every_method_keeps_the_same_budget(method: str) -> None:
    model = shapes_of(MODEL)
    schedules = [
        rapid_core.patch(model, macs_ratio=0.5, method=name).blocks.reduction.schedule
        for name in (method, "rapid")
    ]
    assert schedules[0] == schedules[1]


@pytest.mark.parametrize("macs_ratio", [0.5, 0.6, 0.8])
def test_evit_keeps_its_three_blocks_within_a_budget(macs_ratio: float) -> None:
    model = shapes_of(MODEL)
    reduced = rapid_core.patch(model, macs_ratio=macs_ratio, method="evit")
    schedule = reduced.blocks.reduction.schedule
    assert [block for block, number in enumerate(schedule) if number] == [3, 6, 9]
    share = rapid_core.macs(reduced) / rapid_core.macs(model)
    assert macs_ratio - 0.02 < share <= macs_ratio


def test_patches_dropped_before_the_first_block_count() -> None:
    model = shapes_of(MODEL)
    reduced = rapid_core.patch(model, macs_ratio=0.6, method="patch_similarity", at_input=True)
    assert reduced.blocks.reduction.decisions[0].num_removed > 0
    share = rapid_core.macs(reduced) / rapid_core.macs(model)
    assert 0.55 < share <= 0.6


@pytest.mark.parametrize("whole", [1, 1.0])
def test_the_whole_budget_is_the_model_itself(whole: float) -> None:
    model = tiny_vit()
    images = random_images(model)
    assert torch.equal(rapid_core.patch(model, macs_ratio=whole)(images), model(images))


def test_a_schedule_from_a_budget_runs() -> None:
    model = tiny_vit()
    images = random_images(model)
    reduced = rapid_core.patch(model, macs_ratio=0.7)
    listed = rapid_core.patch(model, r=list(reduced.blocks.reduction.schedule))
    assert torch.equal(reduced(images), listed(images))
    assert not torch.equal(reduced(images), model(images))


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"r": None},
        {"r": 3, "macs_ratio": 0.5},
        {"r": 0, "macs_ratio": 1.0},
        {"macs_ratio": 0.0},
        {"macs_ratio": -0.5},
        {"macs_ratio": 1.01},
        {"macs_ratio": float("nan")},
        {"macs_ratio": float("inf")},
        {"macs_ratio": "0.5"},
        {"macs_ratio": 0.01},
        {"macs_ratio": 0.05, "method": "tome"},
        {"macs_ratio": 0.3, "method": "patch_similarity", "at_input": True},
        {"macs_ratio": 0.5, "schedule": "decreasing"},
        {"macs_ratio": 0.5, "schedule": "paper"},
        {"macs_ratio": 0.5, "schedule": "nonsense"},
    ],
    ids=str,
)
def test_impossible_budgets_are_refused(request_: dict[str, Any]) -> None:
    with pytest.raises(InvalidScheduleError):
        rapid_core.patch(shapes_of(MODEL), **request_)
