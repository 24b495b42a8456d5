"""The blocks know their numbers before the first forward, and refuse a plan that does not fit."""

import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import pytest
import torch
from torch import nn

import rapid_core
from rapid_core import schedule
from rapid_core.blocks import ReducedBlocks
from rapid_core.contract import NOTHING, Decision, ReductionPlan

from .tiny import random_images, tiny_vit


def calls_of_the_schedule(run: Callable[[], object]) -> Counter[str]:
    """How often each function of `schedule.py` is called meanwhile."""
    calls: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code.co_filename == schedule.__file__:
            calls[frame.f_code.co_name] += 1

    sys.setprofile(count)
    try:
        run()
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("method", rapid_core.METHODS)
def test_a_forward_of_the_models_own_size_reads_no_schedule(method: str) -> None:
    model = tiny_vit()
    images = random_images(model)
    reduced = rapid_core.patch(model, r=3, method=method)
    assert calls_of_the_schedule(lambda: rapid_core.patch(model, r=3, method=method))
    assert not calls_of_the_schedule(lambda: reduced(images))


def test_a_forward_of_another_size_caps_the_numbers_again_and_parses_nothing() -> None:
    model = tiny_vit(img_size=32, dynamic_img_size=True)
    images = random_images(tiny_vit(img_size=(40, 24)))
    reduced = rapid_core.patch(model, r=3)
    assert calls_of_the_schedule(lambda: reduced(images)) == {"capped": 1, "removable": 5}


def test_images_of_several_sizes_at_once_do_not_disturb_each_other() -> None:
    model = tiny_vit(img_size=32, dynamic_img_size=True)
    sizes = [(32, 32), (40, 24), (16, 16), (64, 64)]
    batches = [random_images(tiny_vit(img_size=size)) for size in sizes]
    expected = [rapid_core.patch(model, r=7)(images) for images in batches]
    reduced = rapid_core.patch(model, r=7)
    with ThreadPoolExecutor(len(batches)) as pool:
        for _ in range(5):
            for logits, alone in zip(pool.map(reduced, batches), expected, strict=True):
                torch.testing.assert_close(logits, alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("decisions", "words"),
    [
        ((NOTHING,) * 4, "4 decisions; this model needs 5"),
        ((NOTHING,) * 6, "6 decisions; this model needs 5"),
        ((*(NOTHING,) * 3, Decision(num_removed=2), NOTHING), "no planner at place 3"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(
    model: nn.Module, decisions: tuple[Decision, ...], words: str
) -> None:
    with pytest.raises(rapid_core.InvalidScheduleError, match=words):
        ReducedBlocks(model.blocks, ReductionPlan(decisions), num_tokens=26, num_prefix_tokens=1)
