"""Every model that timm calls a vision transformer: reproduced exactly, or refused with a reason.

"Nothing silently wrong" is tested without any reduction: all tokens get the size 1, which makes
the library run every block, and the weighted poolings, by its own code instead of the model's.
"""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rapid_core
from rapid_core import UnsupportedModelError
from rapid_core.blocks import OnPlan, ReducedBlocks, run_block
from rapid_core.contract import NOTHING
from rapid_core.tokens import Tokens, ones_like_size
from service.models.timm_models import timm

from .tiny import fill

pytestmark = pytest.mark.slow

PLAIN = ("vision_transformer", "deit")  # the families of which every model is walked
SMALL: dict[str, Any] = {"depth": 2, "embed_dim": 96, "num_heads": 4, "num_classes": 7}
RELATIVES = [
    "beit", "cait", "coat", "convit", "crossvit", "davit", "deepseek_vit", "efficientformer",
    "efficientvit_msra", "eva", "gcvit", "gemma4_vit", "hiera", "levit", "maxxvit",
    "metaformer", "mlp_mixer", "mobilevit", "mvitv2", "naflexvit", "nest", "pit", "pvt_v2",
    "qwen3_vit", "swin_transformer", "swin_transformer_v2", "swin_transformer_v2_cr",
    "tiny_vit", "tnt", "twins", "vision_transformer_relpos", "vision_transformer_sam",
    "visformer", "volo", "xcit",
]  # fmt: skip


@cache
def families() -> dict[str, list[str]]:
    """Names of timm's models by the module that makes them."""
    found: dict[str, list[str]] = {}
    for name in timm.list_models():
        module = timm.model_entrypoint(name).__module__.rpartition(".")[2]
        found.setdefault(module, []).append(name)
    return found


def plain_models() -> list[str]:
    return [name for family in PLAIN for name in families()[family]]


class SizedBlocks(ReducedBlocks):
    """Blocks that are told that every token stands for one patch, and so use none of timm's."""

    def run(self, x: Tensor, on_plan: OnPlan = lambda _: None) -> Tokens:
        on_plan(None)
        tokens = Tokens(x, ones_like_size(x))
        for block in self:
            tokens = run_block(block, tokens, NOTHING, on_plan)
        return tokens


def small(name: str) -> nn.Module:
    """A model of this kind with few blocks, channels and patches."""
    with torch.device("meta"):
        patch_size = timm.create_model(name, depth=1).patch_embed.patch_size
    img_size = tuple(4 * side for side in patch_size)
    return randomized(timm.create_model(name, img_size=img_size, **SMALL))


def randomized(model: nn.Module) -> nn.Module:
    """The model in float64 and for evaluation, with weights none of which is negligible."""
    model = model.double().eval().requires_grad_(requires_grad=False)
    generator = torch.Generator().manual_seed(0)
    for key, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        parameter.copy_(fill(key, noise))
    return model


def by_our_own_code(model: nn.Module, images: Tensor) -> Tensor:
    """Logits of a model that removes nothing, none of it computed by timm's blocks or pooling."""
    ours = rapid_core.patch(model, r=0)
    blocks = ours.blocks
    ours.blocks = SizedBlocks(
        blocks,
        blocks.reduction,
        num_tokens=blocks.num_tokens,
        num_prefix_tokens=blocks.num_prefix_tokens,
    )
    return ours(images)


REFUSED = {  # the plain models that are not, and the part that is in the way
    "vit_base_patch16_18x2_224": "blocks.0: cannot reproduce ParallelThingsBlock",
    "vit_base_patch16_rpn_224": "blocks.0: cannot reproduce ResPostBlock",
    "vit_base_patch16_xp_224": "blocks.0: cannot reproduce ParallelScalingBlock",
    "vit_dlittle_patch16_reg1_gap_256": "blocks.0.attn: cannot reproduce DiffAttention",
    "vit_dpwee_patch16_reg1_gap_256": "blocks.0: cannot reproduce DiffParallelScalingBlock",
    "vit_dwee_patch16_reg1_gap_256": "blocks.0.attn: cannot reproduce DiffAttention",
    "vit_huge_patch14_xp_224": "blocks.0: cannot reproduce ParallelScalingBlock",
    "vit_large_patch14_xp_224": "blocks.0: cannot reproduce ParallelScalingBlock",
    "vit_pwee_patch16_reg1_gap_256": "blocks.0: cannot reproduce ParallelScalingBlock",
    "vit_small_patch16_18x2_224": "blocks.0: cannot reproduce ParallelThingsBlock",
}


def random_pixels(model: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (2, 3, *model.patch_embed.img_size)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def assert_exact(model: nn.Module) -> None:
    images = random_pixels(model)
    expected = model(images)
    torch.testing.assert_close(by_our_own_code(model, images), expected, rtol=1e-9, atol=1e-9)
    reduced = rapid_core.patch(model, r=3)(images)
    assert reduced.isfinite().all()
    assert reduced.shape == expected.shape
    assert not torch.allclose(reduced, expected)


@pytest.mark.parametrize("name", plain_models())
def test_every_plain_model_is_exact_or_refused(name: str) -> None:
    model = small(name)
    if name in REFUSED:
        with pytest.raises(UnsupportedModelError, match=REFUSED[name]):
            rapid_core.patch(model, r=1)
    else:
        assert_exact(model)


@pytest.mark.parametrize("name", [name for name in plain_models() if name not in REFUSED])
def test_every_plain_model_takes_images_of_another_size_as_timm_resizes_it(name: str) -> None:
    model = small(name)
    side, other_side = model.patch_embed.patch_size
    size = (6 * side, 2 * other_side)
    images = torch.randn(1, 3, *size, dtype=torch.float64, generator=torch.Generator())
    with torch.no_grad():
        logits = rapid_core.patch(model, r=0, input_size=size)(images)
        model.set_input_size(size)
        assert torch.equal(logits, model(images))


def test_hardly_any_plain_model_is_refused() -> None:
    names = set(plain_models())
    assert set(REFUSED) <= names
    assert len(REFUSED) < 0.06 * len(names)


@pytest.mark.parametrize("name", ["vit_tiny_r_s16_p8_224", "vit_base_mci_224", "vitamin_small_224"])
def test_a_convolutional_stem_is_exact(name: str) -> None:
    """The tokens come from a network of their own; what follows is a plain transformer."""
    assert_exact(randomized(timm.create_model(name, depth=2, num_classes=7)))


@pytest.mark.parametrize("name", [*families()["vision_transformer_hybrid"], *families()["vitamin"]])
def test_every_convolutional_stem_is_accepted(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, depth=1)
    rapid_core.patch(model, r=1)


@pytest.mark.parametrize("family", RELATIVES)
def test_relatives_are_refused_with_a_reason(family: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(families()[family][0])
    for refuse in (lambda: rapid_core.patch(model, r=1), lambda: rapid_core.macs(model)):
        with pytest.raises(UnsupportedModelError, match=type(model).__name__):
            refuse()
