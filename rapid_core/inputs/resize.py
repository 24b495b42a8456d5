"""A model for images of another size, with the same weights."""

import math
from types import MethodType
from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from rapid_core.errors import InvalidScheduleError, UnsupportedModelError
from rapid_core.inputs.positions import ResampledPositions
from rapid_core.inputs.sharing import shallow_copy
from rapid_core.vit import PatchEmbed, VisionTransformer

InputSize = int | tuple[int, int]
"""Side of a square image, or (height, width), in pixels."""

_RESIZED = "_rapid_resized"
"""Attribute of a resized model that holds its `_Resized`."""


class _Resized(NamedTuple):
    """What a resized model remembers."""

    own_patch_embed: PatchEmbed
    """of the model at its own size"""
    positions: ResampledPositions | None
    """None: the model has no position embedding."""


def resized(vit: VisionTransformer, input_size: InputSize) -> VisionTransformer:
    """The same model for images of one other size: a shallow copy that shares all weights.

    The position embedding is resampled once; it stays in the state dict as it is. A model that
    takes images of any size takes those of this size only.

    Args:
        vit: a model at its own size.
        input_size: of the images; each side a multiple of the patch size.

    Raises:
        UnsupportedModelError: it has a part that is made for one size.
        InvalidScheduleError: the size is not possible for this model.
    """
    _check_parts(vit)
    size = _checked(input_size, vit.patch_embed.patch_size)
    grid = (size[0] // vit.patch_embed.patch_size[0], size[1] // vit.patch_embed.patch_size[1])
    embed = cast(PatchEmbed, shallow_copy(cast(nn.Module, vit.patch_embed)))
    embed.img_size, embed.grid_size, embed.num_patches = size, grid, math.prod(grid)
    embed.strict_img_size = True
    twin = cast(VisionTransformer, shallow_copy(cast(nn.Module, vit)))
    twin.patch_embed = embed
    positions = None
    if vit.pos_embed is not None:
        positions = ResampledPositions(vit.patch_embed.grid_size, grid, _num_embedded_prefix(vit))
        positions.of(vit.pos_embed.detach())  # now, not in the first forward
        vars(twin)["_pos_embed"] = MethodType(_pos_embed, twin)
    vars(twin)[_RESIZED] = _Resized(vit.patch_embed, positions)
    return twin


def at_own_size(vit: VisionTransformer) -> VisionTransformer:
    """The model at its own size: itself, or a shallow copy of one that `resized` has made."""
    if _RESIZED not in vars(vit):
        return vit
    twin = cast(VisionTransformer, shallow_copy(cast(nn.Module, vit)))
    twin.patch_embed = vars(twin).pop(_RESIZED).own_patch_embed
    vars(twin).pop("_pos_embed", None)
    return twin


class _WithPositions:
    """A model with another position embedding, for as long as one call of a method takes."""

    def __init__(self, model: VisionTransformer, pos_embed: Tensor) -> None:
        self._model = model
        self.pos_embed = pos_embed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def _pos_embed(model: VisionTransformer, x: Tensor) -> Tensor:
    """The model's own `_pos_embed`, with the resampled embedding: (B, n, C) -> (B, N, C).

    Where the prefix tokens go, and whether they have a position, is the model's own affair.
    """
    assert model.pos_embed is not None
    positions = vars(model)[_RESIZED].positions.of(model.pos_embed)
    embedded: Tensor = type(model)._pos_embed(
        cast(VisionTransformer, _WithPositions(model, positions)), x
    )
    return embedded


def _num_embedded_prefix(vit: VisionTransformer) -> int:
    return 0 if vit.no_embed_class else vit.num_prefix_tokens


def _check_parts(vit: VisionTransformer) -> None:
    """Refuse a model with a part that is made for one size.

    Raises:
        UnsupportedModelError: it names the part, and says what is supported.
    """
    kind, embed = type(vit).__name__, vit.patch_embed
    if type(embed).__name__ != "PatchEmbed":
        raise UnsupportedModelError(
            f"patch_embed: input_size needs timm's PatchEmbed, and the size of a "
            f"{type(embed).__name__} cannot be changed; leave input_size out"
        )
    for cls in type(vit).__mro__:
        if "_pos_embed" in vars(cls):
            if cls.__name__ not in ("VisionTransformer", "VisionTransformerDistilled"):
                raise UnsupportedModelError(
                    f"{kind}: input_size cannot resample the positions of its own _pos_embed(); "
                    "leave input_size out"
                )
            break
    expected = math.prod(embed.grid_size) + _num_embedded_prefix(vit)
    if vit.pos_embed is not None and vit.pos_embed.shape[1] != expected:
        raise UnsupportedModelError(
            f"pos_embed: input_size needs one position for each of {expected} tokens, and this "
            f"model has {vit.pos_embed.shape[1]}; leave input_size out"
        )


def _checked(input_size: object, patch_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) in pixels, >= 1 patch each."""
    sides = input_size if isinstance(input_size, tuple) else (input_size, input_size)
    if len(sides) == 2:
        pairs = list(zip(sides, patch_size, strict=True))
        if all(type(side) is int and side > 0 and side % patch == 0 for side, patch in pairs):
            return sides
    raise InvalidScheduleError(
        f"input_size = {input_size!r} is not possible: it is the side of the images in pixels, or "
        f"(height, width), in multiples of the patch size {patch_size[0]} x {patch_size[1]}"
    )
