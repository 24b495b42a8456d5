"""Models for images of another size: their copies, devices, dtypes, and which are refused."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rapid_core
from rapid_core import InvalidScheduleError, UnsupportedModelError
from rapid_core.inputs.positions import ResampledPositions, resample
from service.models.timm_models import timm

from .test_input_size import OWN, pixels, timm_at
from .tiny import BASE, tiny_vit


@pytest.mark.parametrize("moved", ["model", "reduced", "other"])
def test_moving_one_of_the_models_moves_all(moved: str) -> None:
    model = copy.deepcopy(tiny_vit())
    reduced, other = (rapid_core.patch(model, r=2, input_size=size) for size in (24, 32))
    {"model": model, "reduced": reduced, "other": other}[moved].float()
    expected = copy.deepcopy(tiny_vit()).float()
    assert torch.equal(model(pixels(OWN).float()), expected(pixels(OWN).float()))
    for one, size in ((reduced, 24), (other, 32)):
        fresh = rapid_core.patch(expected, r=2, input_size=size)
        images = pixels(size).float()
        assert torch.equal(one(images), fresh(images))
    elsewhere = copy.deepcopy(reduced).to("meta")  # the only other device that is always there
    assert elsewhere(pixels(24).float().to("meta")).shape == (2, 10)


def test_weights_that_are_loaded_later_reach_it() -> None:
    model, images = copy.deepcopy(tiny_vit()), pixels(24)
    reduced = rapid_core.patch(model, r=3, input_size=24)
    twin = copy.deepcopy(reduced)
    reduced(images)
    for seed in (5, 6):
        expected = rapid_core.patch(tiny_vit(seed=seed), r=3, input_size=24)(images)
        for one in (model, twin):
            one.load_state_dict(tiny_vit(seed=seed).state_dict())
        torch.testing.assert_close(reduced(images), expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(twin(images), expected, rtol=0, atol=1e-12)


def test_a_deep_copy_stands_on_its_own() -> None:
    model, images = copy.deepcopy(tiny_vit()), pixels(24)
    reduced = rapid_core.patch(model, r=3, input_size=24)
    expected = reduced(images)
    twin = copy.deepcopy(reduced)
    for parameter in model.parameters():
        parameter.zero_()
    assert torch.equal(twin(images), expected)
    assert not torch.equal(reduced(images), expected)


def test_it_is_resampled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    own = ResampledPositions._resample

    def count(self: ResampledPositions, positions: Tensor) -> Tensor:
        calls.append(positions)
        return own(self, positions)

    monkeypatch.setattr(ResampledPositions, "_resample", count)
    reduced = rapid_core.patch(copy.deepcopy(tiny_vit()), r=3, input_size=24)
    assert len(calls) == 1
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            reduced(pixels(24))
    assert len(calls) == 1
    reduced.bfloat16()
    for _ in range(2):
        reduced(pixels(24).bfloat16())
    assert len(calls) == 2


def test_gradients_reach_the_position_embedding() -> None:
    model = copy.deepcopy(tiny_vit()).requires_grad_()
    with torch.no_grad():
        reduced = rapid_core.patch(model, r=3, input_size=24)
        reduced(pixels(24))  # what is kept from here has no gradients
    reduced(pixels(24)).sum().backward()
    ours, model.pos_embed.grad = model.pos_embed.grad, None
    theirs = timm_at(model, 24).requires_grad_()
    rapid_core.patch(theirs, r=3)(pixels(24)).sum().backward()
    resample(model.pos_embed, (5, 5), (3, 3), 1).backward(theirs.pos_embed.grad)
    torch.testing.assert_close(ours, model.pos_embed.grad)


def test_it_compiles_and_exports_in_one_piece() -> None:
    model, images = copy.deepcopy(tiny_vit()), pixels(24)
    reduced = rapid_core.patch(model, r=3, input_size=24)
    with torch.no_grad():
        compiled = torch.compile(reduced, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(images), reduced(images), rtol=0, atol=1e-10)
        model.load_state_dict(tiny_vit(seed=5).state_dict())
        torch.testing.assert_close(compiled(images), reduced(images), rtol=0, atol=1e-10)
        program = torch.export.export(reduced, (images,))
        torch.testing.assert_close(program.module()(images), reduced(images), rtol=0, atol=1e-10)
        assert "bicubic" not in str(program.graph)


# What is refused


class OwnPositions(timm.models.vision_transformer.VisionTransformer):
    """A model that adds its positions in a way of its own."""

    def _pos_embed(self, x: Tensor) -> Tensor:
        return 2 * super()._pos_embed(x)


def with_too_many_positions() -> nn.Module:
    model = copy.deepcopy(tiny_vit())
    model.pos_embed = nn.Parameter(torch.zeros(1, 27, 32, dtype=torch.float64))
    return model


UNSUPPORTED: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "stem": (
        lambda: timm.create_model("vit_tiny_r_s16_p8_224", depth=1),
        ["patch_embed", "HybridEmbed"],
    ),
    "own_positions": (lambda: OwnPositions(**BASE), ["OwnPositions", "_pos_embed"]),
    "too_many_positions": (with_too_many_positions, ["pos_embed", "26", "27"]),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_a_model_that_is_made_for_one_size_is_refused_by_name(name: str) -> None:
    make, words = UNSUPPORTED[name]
    model = make()
    with pytest.raises(UnsupportedModelError) as refusal:
        rapid_core.patch(model, r=1, input_size=OWN)
    for word in (*words, "leave input_size out"):
        assert word in str(refusal.value)
    rapid_core.patch(model, r=1)


@pytest.mark.parametrize(
    "size",
    [
        0,
        -8,
        7,
        41,
        24.0,
        True,
        "24",
        (24,),
        (24, 24, 24),
        (24, 25),
        (24, 0),
        [24, 24],
        float("nan"),
    ],
    ids=str,
)
def test_an_impossible_size_is_refused(size: Any) -> None:
    with pytest.raises(InvalidScheduleError, match="patch size 8 x 8"):
        rapid_core.patch(tiny_vit(), r=1, input_size=size)
