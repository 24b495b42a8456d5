"""Resizing by PyTorch gives Pillow's bits: here Pillow, and torchvision's crop, are the truth."""

import io
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize
from torchvision.transforms.functional import pil_to_tensor

from service.backends.placement import CPU
from service.images import resample
from service.images.cut import MAX_HEIGHT, MAX_PIXELS, MAX_SCALE, Columns, Cut
from service.images.processes import wire
from service.images.processes.process import _picture
from service.models import catalog, timm_models
from service.models.timm_models import create_transform

FILTERS = {
    Image.Resampling.BILINEAR: InterpolationMode.BILINEAR,
    Image.Resampling.BICUBIC: InterpolationMode.BICUBIC,
}
BICUBIC = Image.Resampling.BICUBIC


HARD = bytes(255 * (level > 127) for level in range(256))
"""makes black and white of levels: their sums overshoot"""


def noise(size: tuple[int, int], seed: int) -> Image.Image:
    """Levels of all kinds, or for every second seed only the two at the ends."""
    levels = Random(seed).randbytes(3 * size[0] * size[1])
    return Image.frombytes("RGB", size, levels.translate(HARD) if seed % 2 else levels)


def pillows(picture: Image.Image, cut: Cut) -> Tensor:
    steps = [Resize(cut.size, FILTERS[Image.Resampling(cut.resample)]), CenterCrop(cut.side)]
    return pil_to_tensor(Compose(steps)(picture))


def ours(picture: Image.Image, cut: Cut) -> Tensor:
    pixels = cut.columns(picture)
    assert pixels is not None
    return resample.resized(Columns(picture.size, bytearray(pixels)), cut)


cuts = st.builds(
    lambda size, dropped, resample: Cut(size, size - dropped, resample),
    st.sampled_from([32, 61, 224, 248]),
    st.integers(0, 31),
    st.sampled_from(sorted(FILTERS)),
)


@settings(max_examples=60, deadline=None)
@given(
    cut=cuts,
    scale=st.floats(1.01, 2.5),
    ratio=st.floats(1 / 3, MAX_HEIGHT - 0.05),
    seed=st.integers(0, 99),
)
@example(cut=Cut(32, 32, 3), scale=7.4, ratio=1.0, seed=1)
@example(cut=Cut(32, 25, 2), scale=7.4, ratio=1.7, seed=0)
def test_noise_of_any_size_becomes_what_pillow_makes_of_it(
    cut: Cut, scale: float, ratio: float, seed: int
) -> None:
    short = int(cut.size * scale) + 1
    size = (int(short / ratio), short) if ratio < 1 else (short, int(short * ratio))
    picture = noise(size, seed)
    assert torch.equal(ours(picture, cut), pillows(picture, cut).float())


def test_the_sums_are_exact_where_they_are_largest() -> None:
    cut = Cut(32, 32, BICUBIC)
    side = int(MAX_SCALE * 32)
    for color in ("white", "black", "#010203"):
        picture = Image.new("RGB", (side, side), color)
        assert torch.equal(ours(picture, cut), pillows(picture, cut).float())


@pytest.mark.parametrize(
    "size",
    [
        (224, 500),  # nothing to resize
        (300, 100),  # it becomes larger
        (300, 541),  # an order of the two passes that depends on the version of Pillow
        (2000, 1000),  # more pixels than are worth the way
        (9000, 1681),
    ],
)
def test_the_other_pictures_are_left_to_pillow(size: tuple[int, int]) -> None:
    cut = Cut(224, 224, BICUBIC)
    assert cut.box(size) is None
    assert cut.columns(Image.new("RGB", size)) is None


def test_no_more_is_kept_than_the_crop_depends_on() -> None:
    cut = Cut(224, 224, BICUBIC)
    assert cut.box((640, 480)) == (76, 0, 564, 480)
    for left, right in ((75, 76), (564, 565)):
        picture, changed = Image.new("RGB", (640, 480)), Image.new("RGB", (640, 480))
        changed.paste("white", (left, 0, right, 480))
        assert torch.equal(pillows(picture, cut), pillows(changed, cut))


def test_an_installed_pillow_that_computes_otherwise_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cut = Cut(224, 224, BICUBIC)
    assert resample.agrees(cut)
    monkeypatch.setattr(resample, "BITS", 14)
    resample.sums.cache_clear()
    resample.sums_of_planes.cache_clear()
    assert not resample.agrees(cut)
    resample.sums.cache_clear()
    resample.sums_of_planes.cache_clear()


def test_a_model_gets_the_values_of_its_transform(tiny_model: Path, owl: bytes) -> None:
    owl_picture = Image.open(io.BytesIO(owl)).convert("RGB")
    for placement in (CPU, CPU._replace(normalizes=True)):
        model = catalog.load(str(tiny_model), placement)
        spec = model.input_spec
        assert spec.cut == Cut(71, 64, BICUBIC)
        pixels = spec.cut.columns(owl_picture)
        assert pixels is not None
        found = spec.prepared(Columns(owl_picture.size, bytearray(pixels)))
        expected = spec.transform(owl_picture)
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
        assert found.is_contiguous()


def test_another_transform_needs_the_whole_picture(tiny_model: Path) -> None:
    spec = catalog.load(str(tiny_model), CPU).input_spec
    assert spec._replace(transform=pil_to_tensor).cut is None
    assert catalog.load(str(tiny_model), CPU, "torch").input_spec.cut is None


@pytest.mark.parametrize("crop_mode", ["squash", "border"])
def test_transforms_of_other_steps_have_no_cut(crop_mode: str) -> None:
    options = {"interpolation": "bicubic", "crop_pct": 0.9}
    transform = create_transform((3, 32, 32), is_training=False, **options)
    assert timm_models.cut_of(transform) == Cut(35, 32, BICUBIC)
    other = create_transform((3, 32, 32), is_training=False, crop_mode=crop_mode, **options)
    assert timm_models.cut_of(other) is None
    nearest = {**options, "interpolation": "nearest"}
    assert timm_models.cut_of(create_transform((3, 32, 32), is_training=False, **nearest)) is None
    assert timm_models.cut_of(Compose([Resize(8, max_size=10), CenterCrop(8)])) is None
    assert timm_models.cut_of(CenterCrop(8)) is None


@pytest.mark.parametrize("size", [[640, 480], [0, 0], [-1, 5], [MAX_PIXELS, 2], [10, 10], ["a", 1]])
def test_a_process_that_sends_another_number_of_pixels_is_not_believed(size: list[object]) -> None:
    cut = Cut(224, 224, BICUBIC)
    with pytest.raises(wire.SilenceError):
        _picture({"columns_of": size}, bytearray(300), cut)
    with pytest.raises(wire.SilenceError):
        _picture({"columns_of": size}, bytearray(490 * 480 * 3), None)
