"""An image at half its size, through the same embedding."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rapid_core.contract import HalfSize
from rapid_core.errors import UnsupportedModelError
from rapid_core.inputs.resize import (
    check_resizable,
    embed_positions,
    num_embedded_prefix,
    positions_of,
    resized_embed,
)
from rapid_core.vit import PatchEmbed, VisionTransformer

_HALF_SIZE_EMBED = "_rapid_half_size_embed"
"""Attribute of a model that holds its patch embedding for images of half the size."""


def prepare_half_size(model: VisionTransformer) -> None:
    """Make a model ready for `at_half_size`; it keeps its parts, weights and state dict.

    Args:
        model: of an even number of rows and columns of patches.

    Raises:
        UnsupportedModelError: it has a part that is made for one size.
    """
    check_resizable(model, "flat_cells")
    if not isinstance(model.patch_drop, nn.Identity):
        raise UnsupportedModelError(
            "patch_drop: flat_cells needs every patch in its place; set patch_drop = nn.Identity()"
        )
    height, width = model.patch_embed.img_size
    half = resized_embed(model.patch_embed, (height // 2, width // 2))
    vars(model)[_HALF_SIZE_EMBED] = half  # not a child: its weights are those of `patch_embed`


def at_half_size(model: VisionTransformer, images: Tensor) -> HalfSize:
    """The tokens that cells of 2 x 2 patches would be, and what each of them would lose.

    A cell's token is the patch embedding of the half-size image there, with the mean of the four
    position embeddings.

    Args:
        model: made ready by `prepare_half_size`.
        images: (B, 3, S, S).
    """
    # In float32 at least: rounded to 16 bits, many cells would be equally flat.
    wide = images.to(torch.promote_types(images.dtype, torch.float32))
    half = F.avg_pool2d(wide, 2)
    embed: PatchEmbed = vars(model)[_HALF_SIZE_EMBED]
    positions = positions_of(model)
    if positions is not None:
        positions = _mean_of_cells(positions, model.patch_embed.grid_size, model)
    x = model.norm_pre(embed_positions(model, embed(half.to(images.dtype)), positions, embed))
    return HalfSize(x[:, model.num_prefix_tokens :], _detail(wide, half, embed.patch_size))


def _mean_of_cells(positions: Tensor, grid: tuple[int, int], model: VisionTransformer) -> Tensor:
    """A position embedding for half as many rows and columns; the prefix stays."""
    num_prefix = num_embedded_prefix(model)
    prefix, patches = positions[:, :num_prefix], positions[:, num_prefix:]
    cells = patches.reshape(1, grid[0] // 2, 2, grid[1] // 2, 2, -1).mean(dim=(2, 4))
    return torch.cat([prefix, cells.flatten(1, 2)], dim=1)


def _detail(images: Tensor, half: Tensor, patch_size: tuple[int, int]) -> Tensor:
    """Mean squared difference of each cell's pixels from the means of 2 x 2: (B, cells)."""
    lost = images - F.interpolate(half, scale_factor=2, mode="nearest")
    cell = 2 * patch_size[0], 2 * patch_size[1]
    return F.avg_pool2d(lost.square().mean(dim=1, keepdim=True), cell).flatten(1)
