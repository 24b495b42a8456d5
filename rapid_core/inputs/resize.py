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
    check_resizable(vit, "input_size")
    embed = resized_embed(vit.patch_embed, _checked(input_size, vit.patch_embed.patch_size))
    twin = cast(VisionTransformer, shallow_copy(cast(nn.Module, vit)))
    twin.patch_embed = embed
    positions = None
    if vit.pos_embed is not None:
        positions = ResampledPositions(
            vit.patch_embed.grid_size, embed.grid_size, num_embedded_prefix(vit)
        )
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


def resized_embed(embed: PatchEmbed, size: tuple[int, int]) -> PatchEmbed:
    """A patch embedding for images of one other size: a shallow copy that shares its weights.

    Args:
        embed: timm's `PatchEmbed`.
        size: (height, width), multiples of the patch size.
    """
    twin = cast(PatchEmbed, shallow_copy(cast(nn.Module, embed)))
    grid = (size[0] // embed.patch_size[0], size[1] // embed.patch_size[1])
    twin.img_size, twin.grid_size, twin.num_patches = size, grid, math.prod(grid)
    twin.strict_img_size = True
    return twin


class _WithParts:
    """A model with some other parts, for as long as one call of a method takes."""

    def __init__(self, model: VisionTransformer, **parts: object) -> None:
        self._model = model
        vars(self).update(parts)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def embed_positions(
    model: VisionTransformer, x: Tensor, positions: Tensor | None, embed: PatchEmbed
) -> Tensor:
    """The model's own `_pos_embed` with another position embedding: (B, n, C) -> (B, N, C).

    Where the prefix tokens go, and whether they have a position, is the model's own affair.
    """
    other = _WithParts(model, pos_embed=positions, patch_embed=embed)
    embedded: Tensor = type(model)._pos_embed(cast(VisionTransformer, other), x)
    return embedded


def positions_of(model: VisionTransformer) -> Tensor | None:
    """The position embedding of a model for the size of its images; None where it has none."""
    if model.pos_embed is None or _RESIZED not in vars(model):
        return model.pos_embed
    resampled: Tensor = vars(model)[_RESIZED].positions.of(model.pos_embed)
    return resampled


def _pos_embed(model: VisionTransformer, x: Tensor) -> Tensor:
    return embed_positions(model, x, positions_of(model), model.patch_embed)


def num_embedded_prefix(vit: VisionTransformer) -> int:
    """Number of prefix tokens that have a position of their own."""
    return 0 if vit.no_embed_class else vit.num_prefix_tokens


def check_resizable(vit: VisionTransformer, wish: str) -> None:
    """Refuse a model with a part that is made for one size.

    Args:
        vit: a model, resized or not.
        wish: the argument that needs another size.

    Raises:
        UnsupportedModelError: it names the part, and says what is supported.
    """
    kind, embed = type(vit).__name__, vit.patch_embed
    if type(embed).__name__ != "PatchEmbed":
        raise UnsupportedModelError(
            f"patch_embed: {wish} needs timm's PatchEmbed, and the size of a "
            f"{type(embed).__name__} cannot be changed; leave {wish} out"
        )
    for cls in type(vit).__mro__:
        if "_pos_embed" in vars(cls):
            if cls.__name__ not in ("VisionTransformer", "VisionTransformerDistilled"):
                raise UnsupportedModelError(
                    f"{kind}: {wish} cannot change the positions of its own _pos_embed(); "
                    f"leave {wish} out"
                )
            break
    expected = math.prod(embed.grid_size) + num_embedded_prefix(vit)
    positions = positions_of(vit)
    if positions is not None and positions.shape[1] != expected:
        raise UnsupportedModelError(
            f"pos_embed: {wish} needs one position for each of {expected} tokens, and this "
            f"model has {positions.shape[1]}; leave {wish} out"
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
