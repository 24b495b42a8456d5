"""Flat cells: four patches without detail are one token from the start."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import rapid_core
from rapid_core import InvalidScheduleError, UnsupportedModelError
from service.models.timm_models import timm

from .reference import run
from .reference_tokens import Options
from .tiny import ARCHITECTURES, BASE, random_images, tiny_vit

EVEN: dict[str, dict[str, Any]] = {
    name: {**overrides, "img_size": (48, 64)}
    for name, overrides in ARCHITECTURES.items()
    if name != "trained_with_dropout"
}
"""Every architecture with 6 x 8 patches: 12 cells, of which 8 may be flat."""


def pictures(model: nn.Module, num_images: int = 2) -> Tensor:
    """Noise whose contrast differs from cell to cell, so that no two cells are equally flat."""
    noise = random_images(model, num_images)
    contrast = torch.rand(
        num_images, 1, *noise.shape[2:], generator=torch.Generator().manual_seed(7)
    )
    smooth = nn.functional.avg_pool2d(contrast, 16)
    return noise * smooth.repeat_interleave(16, 2).repeat_interleave(16, 3)


# Against the reference


@pytest.mark.parametrize(
    "options",
    [{"r": 0}, {"r": 3, "match_on": "token"}, {"r": [9, 0, 99, 1], "num_prune_blocks": 1}],
    ids=str,
)
@pytest.mark.parametrize("name", EVEN)
def test_the_reference_gives_the_same_logits_and_places(name: str, options: dict[str, Any]) -> None:
    if name in ("deep", "oblong"):
        options = options | {"r": 2}
    model = tiny_vit(**EVEN[name])
    reduced = rapid_core.patch(model, flat_cells=5, **options)
    images = pictures(model)
    logits, assignment = rapid_core.trace(reduced, images)
    assert torch.equal(logits, reduced(images))
    for image, line, places in zip(images, logits, zip(*assignment, strict=True), strict=True):
        answer = run(model, image, Options(flat_cells=5, **options))
        torch.testing.assert_close(line, answer.logits, rtol=0, atol=1e-10)
        assert [place.tolist() for place in places] == answer.assignments


@pytest.mark.parametrize("num_cells", [1, 4, 8])
@pytest.mark.parametrize("size", [(32, 96), (64, 48)], ids=str)
@pytest.mark.parametrize("name", ["plain", "dinov2", "average"])
def test_at_another_input_size(name: str, size: tuple[int, int], num_cells: int) -> None:
    model = tiny_vit(**ARCHITECTURES[name])
    other = copy.deepcopy(model)
    other.set_input_size(size)
    reduced = rapid_core.patch(model, r=2, input_size=size, flat_cells=num_cells)
    images = pictures(other)
    for image, line in zip(images, reduced(images), strict=True):
        expected = run(other, image, Options(2, flat_cells=num_cells)).logits
        torch.testing.assert_close(line, expected, rtol=0, atol=1e-10)


def test_where_every_cell_is_flat_the_image_at_half_its_size_decides() -> None:
    """Of pixels that come in fours nothing is lost: all cells tie, and the first ones go."""
    model = tiny_vit(img_size=(48, 64))
    small = torch.randn(1, 3, 24, 32, generator=torch.Generator().manual_seed(3)).double()
    images = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    _, (first, *_) = rapid_core.trace(rapid_core.patch(model, r=0, flat_cells=2), images)
    rows = first[0].reshape(6, 8).tolist()
    assert rows[0] == [1, 1, 2, 2, 3, 4, 5, 6]
    assert rows[1] == [1, 1, 2, 2, 7, 8, 9, 10]


# Laws


def test_none_is_the_default_bit_for_bit() -> None:
    model = tiny_vit(img_size=32)
    images = random_images(model)
    for r in (0, 3):
        none = rapid_core.patch(model, r=r, flat_cells=0)
        assert torch.equal(none(images), rapid_core.patch(model, r=r)(images))


@pytest.mark.parametrize("name", ["plain", "dinov2", "average", "attention_pool"])
def test_an_image_alone_equals_it_in_a_batch(name: str) -> None:
    model = tiny_vit(**EVEN[name])
    images = pictures(model, 5)
    reduced = rapid_core.patch(model, r=3, flat_cells=5)
    alone = torch.cat([reduced(image[None]) for image in images])
    torch.testing.assert_close(reduced(images), alone, rtol=0, atol=1e-12)


@given(num_cells=st.integers(1, 8), r=st.integers(0, 30))
def test_multiply_adds_count_the_second_embedding(num_cells: int, r: int) -> None:
    model, C = tiny_vit(img_size=(48, 64)), BASE["embed_dim"]
    reduced = rapid_core.patch(model, r=r, flat_cells=num_cells)
    expected = (48 + 12) * 3 * 8 * 8 * C + C * BASE["num_classes"]
    left = 48 - 3 * num_cells
    for _ in range(BASE["depth"]):
        entering, left = left, left - min(r, left // 2)
        a, b = entering + 1, left + 1
        expected += 4 * a * C**2 + 2 * a**2 * C + 8 * b * C**2
    assert rapid_core.macs(reduced) == expected


def test_a_share_of_the_multiply_adds_is_kept_to() -> None:
    model = tiny_vit(img_size=(48, 64))
    for share in (0.5, 0.7, 1.0):
        reduced = rapid_core.patch(model, macs_ratio=share, flat_cells=5)
        assert rapid_core.macs(reduced) / rapid_core.macs(model) <= share


@pytest.mark.parametrize("name", ["plain", "dinov2", "distilled"])
def test_the_prefix_alone_gives_the_same_logits(name: str) -> None:
    model = tiny_vit(**EVEN[name])
    images = pictures(model)
    whole, short = (
        rapid_core.patch(model, r=3, flat_cells=5, prefix_only=on)(images) for on in (False, True)
    )
    torch.testing.assert_close(short, whole, rtol=0, atol=1e-10)


def test_features_are_those_of_the_logits() -> None:
    model = tiny_vit(img_size=(48, 64))
    images = pictures(model)
    reduced = rapid_core.patch(model, r=3, flat_cells=5)
    features = reduced.forward_features(images)
    assert features.shape == (2, 1 + 48 - 15 - 12, BASE["embed_dim"])
    assert torch.equal(model.forward_head(features), reduced(images))
    again = rapid_core.patch(reduced, r=3)
    expected = rapid_core.patch(model, r=3)
    assert torch.equal(again.forward_features(images), expected.forward_features(images))


def test_weights_are_shared_and_the_given_model_stays() -> None:
    model = copy.deepcopy(tiny_vit(img_size=(48, 64)))
    images, before = pictures(model), model.state_dict()
    attributes = {id(m): dict(vars(m)) for m in model.modules()}
    reduced = rapid_core.patch(model, r=2, flat_cells=3)
    expected = reduced(images)
    shared, twin = reduced.state_dict(), copy.deepcopy(reduced)
    assert list(shared) == list(before)
    assert all(shared[key].data_ptr() == before[key].data_ptr() for key in before)
    assert {id(m): dict(vars(m)) for m in model.modules()} == attributes
    for parameter in model.parameters():
        parameter.zero_()
    assert torch.equal(twin(images), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_other_dtypes_and_devices(dtype: torch.dtype) -> None:
    model = copy.deepcopy(tiny_vit(**EVEN["dinov2"]))
    reduced = rapid_core.patch(model, r=3, flat_cells=5)
    expected, images = reduced(pictures(model)), pictures(model)
    model.to(dtype)
    logits = reduced(images.to(dtype))
    assert logits.dtype == dtype
    assert logits.isfinite().all()
    if dtype == torch.float32:
        torch.testing.assert_close(logits.double(), expected, rtol=1e-3, atol=1e-3)
    elsewhere = copy.deepcopy(reduced).to("meta")
    assert elsewhere(images.to("meta", dtype)).shape == (2, BASE["num_classes"])


def test_it_compiles_and_exports_in_one_piece() -> None:
    model = tiny_vit()
    reduced = rapid_core.patch(model, r=3, input_size=32, flat_cells=2)
    images = random_images(tiny_vit(img_size=32))
    with torch.no_grad():
        compiled = torch.compile(reduced, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(images), reduced(images), rtol=0, atol=1e-10)
        program = torch.export.export(reduced, (images,))
        torch.testing.assert_close(program.module()(images), reduced(images), rtol=0, atol=1e-10)


# What is refused


@pytest.mark.parametrize("num_cells", [-1, 9, True, 2.0, "3", None])
def test_an_impossible_number_is_refused(num_cells: Any) -> None:
    with pytest.raises(InvalidScheduleError, match="flat_cells"):
        rapid_core.patch(tiny_vit(img_size=(48, 64)), r=1, flat_cells=num_cells)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [({}, "5 x 5"), ({"img_size": (48, 40)}, "6 x 5"), ({"dynamic_img_size": True}, "takes any")],
    ids=str,
)
def test_a_grid_that_is_not_even_is_refused(overrides: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidScheduleError, match=words):
        rapid_core.patch(tiny_vit(**overrides), r=1, flat_cells=1)


def test_models_of_any_size_take_them_at_one_size() -> None:
    model, images = tiny_vit(dynamic_img_size=True), pictures(tiny_vit(img_size=(48, 64)))
    ours = rapid_core.patch(model, r=1, input_size=(48, 64), flat_cells=3)
    fixed = rapid_core.patch(tiny_vit(), r=1, input_size=(48, 64), flat_cells=3)
    torch.testing.assert_close(ours(images), fixed(images), rtol=0, atol=1e-12)


def test_a_model_that_is_made_for_one_size_is_refused_by_name() -> None:
    stem = timm.create_model("vit_tiny_r_s16_p8_224", img_size=256, depth=1)
    dropping = tiny_vit(img_size=32, patch_drop_rate=0.5)
    for model, word in ((stem, "HybridEmbed"), (dropping, "patch_drop")):
        with pytest.raises(UnsupportedModelError, match=word):
            rapid_core.patch(model, r=1, flat_cells=1)
