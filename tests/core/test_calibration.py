"""The search keeps to its budget, does not depend on luck, and goes on where it stopped."""

import pytest
import torch

import rapid_core
from rapid_core import InvalidScheduleError

from .tiny import random_images, tiny_vit


def search(macs_ratio: float = 0.6, **options: object) -> rapid_core.Calibration:
    model = tiny_vit()
    return rapid_core.calibrate(model, random_images(model, 20), macs_ratio=macs_ratio, **options)


@pytest.mark.parametrize("macs_ratio", [0.75, 0.6, 0.45])
def test_what_is_found_stays_below_the_budget_and_close_to_it(macs_ratio: float) -> None:
    found = search(macs_ratio)
    reduced = found.candidate.patch(tiny_vit(), prefix_only=True)
    assert found.macs_ratio == rapid_core.macs(reduced) / rapid_core.macs(tiny_vit())
    assert macs_ratio - 0.03 < found.macs_ratio <= macs_ratio


def test_the_agreement_is_that_of_pictures_not_searched_on() -> None:
    found = search()
    assert found.num_held_out == 8
    assert found.agreement * 8 == pytest.approx(round(found.agreement * 8))


def test_nothing_that_was_tried_on_all_searched_pictures_is_better() -> None:
    memo: rapid_core.calibration.Memo = {}
    found = search(memo=memo)
    tried = {key: overlap for key, (overlap, _) in memo.items() if key.endswith("range(0, 12)")}
    best = max(tried, key=lambda key: tried[key])
    assert best.startswith(str(found.candidate))
    assert len(tried) > 10


def test_an_interrupted_search_goes_on_and_finds_the_same() -> None:
    memo: rapid_core.calibration.Memo = {}
    steps: list[str] = []

    def stop_after_ten(line: str) -> None:
        steps.append(line)
        if len(steps) == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(memo=memo, on_step=stop_after_ten)
    more: list[str] = []
    resumed = search(memo=memo, on_step=more.append)
    everything: list[str] = []
    assert resumed == search(on_step=everything.append)
    assert len(steps) + len(more) == len(everything)


@pytest.mark.parametrize(("num_images", "macs_ratio"), [(9, 0.6), (20, 0.05), (20, 0.0)])
def test_what_cannot_be_searched_is_refused(num_images: int, macs_ratio: float) -> None:
    model = tiny_vit()
    with pytest.raises(InvalidScheduleError):
        rapid_core.calibrate(model, random_images(model, num_images), macs_ratio=macs_ratio)


def test_average_pooling_can_be_calibrated() -> None:
    model = tiny_vit(global_pool="avg")
    found = rapid_core.calibrate(model, random_images(model, 20), macs_ratio=0.7)
    images = random_images(model)
    assert torch.isfinite(found.candidate.patch(model, prefix_only=False)(images)).all()
