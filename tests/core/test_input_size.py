"""A model for images of another size: against the reference, against timm, and by its own laws."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import rapid_core
from rapid_core import InvalidScheduleError
from rapid_core.inputs.positions import resample
from service.models.timm_models import timm

from .reference import run
from .reference_positions import resampled as by_loops
from .reference_tokens import Options
from .tiny import ARCHITECTURES, tiny_vit

Size = int | tuple[int, int]

OWN = 40
SIZES: list[Size] = [16, 24, 32, 40, 48, 64, (24, 48), (56, 16)]
POSITIONED = {
    name: overrides
    for name, overrides in ARCHITECTURES.items()
    if overrides.get("pos_embed") != "none"
} | {"any_size": {"dynamic_img_size": True}, "padded": {"dynamic_img_pad": True}}
"""Of every architecture; and models that take images of any size."""


def pixels(size: Size, num_images: int = 2, *, seed: int = 1) -> Tensor:
    height, width = size if isinstance(size, tuple) else (size, size)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_images, 3, height, width, generator=generator, dtype=torch.float64)


def timm_at(model: nn.Module, size: Size) -> nn.Module:
    """The model as timm itself changes its size."""
    twin = copy.deepcopy(model)
    twin.set_input_size(size if isinstance(size, tuple) else (size, size))
    return twin.requires_grad_(requires_grad=False)


# Against the reference


@pytest.mark.parametrize("reduction", [{"r": 3}, {"r": [0, 2, 99, 1], "method": "tome"}], ids=str)
@pytest.mark.parametrize("name", ["plain", "registers", "average"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_reference_gives_the_same_logits_and_places(
    size: Size, name: str, reduction: dict[str, Any]
) -> None:
    model, images = tiny_vit(**ARCHITECTURES[name]), pixels(size)
    reduced = rapid_core.patch(model, input_size=size, **reduction)
    logits, assignment = rapid_core.trace(reduced, images)
    assert torch.equal(logits, reduced(images))
    for image, line, places in zip(images, logits, zip(*assignment, strict=True), strict=True):
        answer = run(timm_at(model, size), image, Options(**reduction))
        torch.testing.assert_close(line, answer.logits, rtol=0, atol=1e-10)
        assert [place.tolist() for place in places] == answer.assignments


@pytest.mark.parametrize("new", [(1, 1), (2, 3), (5, 4), (5, 5), (9, 7)], ids=str)
@pytest.mark.parametrize("num_prefix", [0, 2])
def test_resampling_is_bicubic_with_antialiasing(num_prefix: int, new: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    positions = torch.randn(1, num_prefix + 4 * 5, 3, generator=generator)
    found = resample(positions, (4, 5), new, num_prefix)
    assert torch.equal(found[:, :num_prefix], positions[:, :num_prefix])
    image = positions[0, num_prefix:].reshape(4, 5, 3).double()
    expected = [by_loops(image[..., channel].tolist(), *new) for channel in range(3)]
    loops = torch.tensor(expected, dtype=torch.float64).flatten(1).T
    torch.testing.assert_close(found[0, num_prefix:].double(), loops, rtol=0, atol=2e-6)


# Against timm


@given(st.data())
def test_resampling_is_timms_bit_for_bit(data: st.DataObject) -> None:
    old, new = (data.draw(st.tuples(st.integers(1, 17), st.integers(1, 17))) for _ in range(2))
    num_prefix = data.draw(st.sampled_from([0, 1, 2, 5]))
    dtype = data.draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    shape = (1, num_prefix + old[0] * old[1], data.draw(st.sampled_from([1, 8, 12])))
    positions = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    ours = resample(positions, old, new, num_prefix)
    theirs = timm.layers.resample_abs_pos_embed(positions, list(new), list(old), num_prefix)
    assert ours.dtype == dtype
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", POSITIONED)
@pytest.mark.parametrize("size", [24, (48, 32)], ids=str)
def test_removing_nothing_is_the_model_that_timm_resizes(size: Size, name: str) -> None:
    model, images = tiny_vit(**POSITIONED[name]), pixels(size)
    ours = rapid_core.patch(model, r=0, input_size=size)
    theirs = timm_at(model, size)
    torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=1e-12)
    ours, theirs = ours.forward_features(images), theirs.forward_features(images)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_without_positions_there_is_nothing_to_resample() -> None:
    model, images = tiny_vit(pos_embed="none"), pixels(24)
    ours = rapid_core.patch(model, r=0, input_size=24)
    assert torch.equal(ours(images), timm_at(model, 24)(images))


@pytest.mark.parametrize(
    "name", ["deit_tiny_distilled_patch16_224", "vit_small_patch14_reg4_dinov2"]
)
def test_it_is_the_model_that_timm_makes_for_that_size(name: str) -> None:
    """From the same checkpoint, which timm then fits to the size."""
    small: dict[str, Any] = {"depth": 2, "embed_dim": 64, "num_heads": 2, "num_classes": 7}
    own = timm.create_model(name, img_size=224, **small).eval()
    size = own.patch_embed.patch_size[0] * 9
    theirs = timm.create_model(name, img_size=size, **small).eval()
    state = {key: value.clone() for key, value in own.state_dict().items()}
    theirs.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(state, theirs))
    images = pixels(size).float()
    with torch.inference_mode():
        ours = rapid_core.patch(own, r=0, input_size=size)(images)
        torch.testing.assert_close(ours, theirs(images), rtol=1e-5, atol=1e-6)
        for method in ("rapid", "tome"):
            reduced = rapid_core.patch(own, r=9, method=method, input_size=size)(images)
            expected = rapid_core.patch(theirs, r=9, method=method)(images)
            torch.testing.assert_close(reduced, expected, rtol=1e-5, atol=1e-6)


# Laws


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_its_own_size_is_the_model_itself_bit_for_bit(name: str) -> None:
    model = tiny_vit(**ARCHITECTURES[name])
    size = model.patch_embed.img_size
    images = pixels(size)
    for r, expected in ((0, model), (3, rapid_core.patch(model, r=3))):
        assert torch.equal(rapid_core.patch(model, r=r, input_size=size)(images), expected(images))


@pytest.mark.parametrize("name", ["plain", "dinov2", "distilled", "no_class_token", "any_size"])
def test_all_weights_are_shared_and_the_given_model_stays(name: str) -> None:
    model = copy.deepcopy(tiny_vit(**POSITIONED[name]))
    images, before = pixels(OWN), model.state_dict()
    logits, attributes = model(images), {id(m): dict(vars(m)) for m in model.modules()}
    reduced = rapid_core.patch(model, r=2, input_size=24)
    reduced(pixels(24))
    shared = reduced.state_dict()
    assert list(shared) == list(before)
    assert all(shared[key].data_ptr() == before[key].data_ptr() for key in before)
    assert {id(m): dict(vars(m)) for m in model.modules()} == attributes
    assert torch.equal(model(images), logits)


@given(size=st.sampled_from(SIZES), share=st.floats(0.15, 1.0))
def test_a_share_of_the_multiply_adds_is_one_of_the_models_own_size(
    size: Size, share: float
) -> None:
    model = tiny_vit()
    own = rapid_core.macs(model)
    try:
        reduced = rapid_core.patch(model, macs_ratio=share, input_size=size)
    except InvalidScheduleError:
        fewest = rapid_core.patch(model, r=99, input_size=size)
        assert rapid_core.macs(fewest) > share * own
    else:
        assert rapid_core.macs(reduced) <= share * own


@given(share=st.floats(0.5, 1.0), size=st.sampled_from([None, 24]))
def test_a_share_of_a_patched_model_is_one_of_the_model_before(
    size: Size | None, share: float
) -> None:
    small = rapid_core.patch(tiny_vit(), r=5, input_size=24)
    again, once = (
        rapid_core.patch(model, macs_ratio=share, input_size=size) for model in (small, tiny_vit())
    )
    assert again.blocks.reduction.num_removed == once.blocks.reduction.num_removed


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_multiply_adds_are_those_of_a_model_made_for_the_size(size: Size) -> None:
    for options in ({}, {"prefix_only": True}):
        ours = rapid_core.patch(tiny_vit(), r=3, input_size=size, **options)
        theirs = rapid_core.patch(timm_at(tiny_vit(), size), r=3, **options)
        assert rapid_core.macs(ours) == rapid_core.macs(theirs)


@pytest.mark.parametrize("name", ["plain", "dinov2", "distilled"])
def test_the_prefix_alone_gives_the_same_logits(name: str) -> None:
    model, images = tiny_vit(**ARCHITECTURES[name]), pixels((24, 48))
    whole, short = (
        rapid_core.patch(model, r=4, input_size=(24, 48), prefix_only=on)(images)
        for on in (False, True)
    )
    torch.testing.assert_close(short, whole, rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", rapid_core.METHODS)
@pytest.mark.parametrize("name", ["plain", "any_size"])
def test_every_method_reduces_the_smaller_grid(name: str, method: str) -> None:
    options = {"diversity": 0.5} if method == "patch_similarity" else {}
    model = tiny_vit(**POSITIONED[name])
    ours = rapid_core.patch(model, r=2, method=method, input_size=(32, 24), **options)
    theirs = timm_at(tiny_vit(), (32, 24))
    expected = rapid_core.patch(theirs, r=2, method=method, **options)
    images = pixels((32, 24))
    torch.testing.assert_close(ours(images), expected(images), rtol=0, atol=1e-12)


def test_patching_again_starts_from_the_models_own_size() -> None:
    model = tiny_vit()
    small = rapid_core.patch(model, r=3, input_size=24)
    for size in (16, 56):
        again = rapid_core.patch(small, r=1, input_size=size)
        expected = rapid_core.patch(model, r=1, input_size=size)
        assert torch.equal(again(pixels(size)), expected(pixels(size)))
    assert torch.equal(rapid_core.patch(small, r=0)(pixels(OWN)), model(pixels(OWN)))


@pytest.mark.parametrize("name", ["plain", "any_size"])
def test_images_of_another_size_are_refused(name: str) -> None:
    reduced = rapid_core.patch(tiny_vit(**POSITIONED[name]), r=3, input_size=24)
    for size in (OWN, 32, (24, 16)):
        with pytest.raises(AssertionError, match=r"doesn't match model \(24\)"):
            reduced(pixels(size))
