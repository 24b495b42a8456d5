"""Quick resizing gives Pillow's pictures: here Pillow, through torchvision, is the truth."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from service.backends.placement import CPU
from service.models import catalog
from service.models.timm_models import QuickResize, create_transform, resizing_quickly

LARGEST_DIFFERENCE = 2
"""of 255"""


def noise(width: int, height: int, seed: int) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    )


def difference(first: Image.Image, second: Image.Image) -> np.ndarray:
    assert first.size == second.size
    assert first.mode == second.mode == "RGB"
    return np.abs(np.asarray(first, dtype=int) - np.asarray(second, dtype=int))


@settings(max_examples=300, deadline=None)
@given(
    width=st.integers(1, 700),
    ratio=st.floats(1 / 6, 1.9),
    side=st.sampled_from([32, 224, 248, 256]),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
    seed=st.integers(0, 99),
)
def test_noise_of_any_size_becomes_what_pillow_makes_of_it(
    width: int, ratio: float, side: int, interpolation: str, seed: int
) -> None:
    # Pictures more than twice as high as wide: Pillow >= 13 begins with the other axis, and cuts
    # what overshoots 0 ... 255 in between. They follow below, with less of it.
    picture = noise(width, max(1, round(ratio * width)), seed)
    pillow = Resize(side, InterpolationMode(interpolation))(picture)
    quick = QuickResize(side, InterpolationMode(interpolation))(picture)
    assert difference(quick, pillow).max() <= LARGEST_DIFFERENCE


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("side", "interpolation"), [(224, "bilinear"), (248, "bicubic")])
def test_photos_become_what_pillow_makes_of_them(
    examples: list[Path], side: int, interpolation: str, turned: bool
) -> None:
    for path in examples:
        photo = Image.open(path).convert("RGB")
        photo = photo.crop((100, 0, 100 + photo.height // 3, photo.height)) if turned else photo
        pillow = Resize(side, InterpolationMode(interpolation))(photo)
        quick = QuickResize(side, InterpolationMode(interpolation))(photo)
        differs = difference(quick, pillow)
        assert np.percentile(differs, 99.9) <= LARGEST_DIFFERENCE
        assert (differs > 0).mean() < 0.1


@settings(deadline=None)
@given(width=st.integers(1, 3000), height=st.integers(1, 3000), side=st.integers(1, 600))
def test_the_size_is_torchvisions(width: int, height: int, side: int) -> None:
    if side**2 * max(width, height) > 10**7 * min(width, height):
        return  # nobody resizes to that
    picture = Image.new("RGB", (width, height))
    expected = Resize(side, InterpolationMode.NEAREST)(picture).size
    assert QuickResize(side, InterpolationMode.BICUBIC)(picture).size == expected


def test_both_sides_can_be_given() -> None:
    picture = noise(90, 60, 0)
    pillow = Resize((48, 32), InterpolationMode.BICUBIC)(picture)
    quick = QuickResize((48, 32), InterpolationMode.BICUBIC)(picture)
    assert difference(quick, pillow).max() <= LARGEST_DIFFERENCE


def test_a_picture_that_has_its_size_stays_as_it_is() -> None:
    picture = noise(48, 32, 0)
    assert QuickResize(32, InterpolationMode.BICUBIC)(picture) is picture


def test_only_on_request(tiny_model: Path) -> None:
    assert type(catalog.load(str(tiny_model), CPU).transform.transforms[0]) is Resize
    quick = catalog.load(str(tiny_model), CPU, "torch")
    assert type(quick.transform.transforms[0]) is QuickResize


def resize_of(**options: object) -> Callable[[Image.Image], torch.Tensor]:
    return create_transform((3, 32, 32), is_training=False, **options)


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_what_it_cannot_do_it_leaves_alone(crop_mode: str, interpolation: str) -> None:
    options = {"crop_mode": crop_mode, "interpolation": interpolation, "crop_pct": 0.9}
    timms = resize_of(**options)
    quick = resizing_quickly(timms)
    replaced = isinstance(quick.transforms[0], QuickResize)
    assert replaced == (crop_mode != "border" and interpolation != "nearest")
    assert quick.transforms[1:] == timms.transforms[1:]
    picture = noise(70, 50, 0)
    allowed = LARGEST_DIFFERENCE / 255 / 0.22 if replaced else 0.0
    assert (quick(picture) - timms(picture)).abs().max() <= allowed + 1e-6


def test_other_transforms_stay_the_same_objects() -> None:
    crop, largest = CenterCrop(8), Resize(8, InterpolationMode.BICUBIC, max_size=10)
    found = resizing_quickly(Compose([largest, crop])).transforms
    assert found[0] is largest
    assert found[1] is crop
    assert resizing_quickly(crop) is crop
