"""The reference of flat cells: 2 x 2 patches of least detail are one token from the start.

Plain floats and loops; the model's own patch embedding is called for one patch at a time.
"""

import torch
from torch import Tensor, nn

from .reference_tokens import Matrix, Token, Vector, mean, row, united

Image = list[Matrix]  # [channel][row][column]


def merge_flat_cells(
    model: nn.Module, image: Tensor, tokens: list[Token], num_cells: int
) -> list[Token]:
    """The tokens before the first block; a cell stands where its first patch stood."""
    num_prefix, side = model.num_prefix_tokens, model.patch_embed.patch_size
    columns = model.patch_embed.grid_size[1]
    half = halved(image.tolist())
    cells = [
        (top, left)
        for top in range(0, model.patch_embed.grid_size[0], 2)
        for left in range(0, columns, 2)
    ]
    detail = {
        (top, left): lost(image.tolist(), half, top * side[0], left * side[1], side)
        for top, left in cells
    }
    flat = sorted(cells, key=lambda cell: (detail[cell], cell))[:num_cells]
    left_out: set[int] = set()
    instead: dict[int, Token] = {}
    for top, left in flat:
        members = [top * columns + left + step for step in (0, 1, columns, columns + 1)]
        patch = crop(half, top // 2 * side[0], left // 2 * side[1], side)
        x = embedded(model, patch, [position(model, member) for member in members])
        four = [tokens[num_prefix + member] for member in members]
        instead[members[0]] = Token(x, 4.0, united(four), num_prefix + members[0])
        left_out |= set(members[1:])
    stay = [patch for patch in range(len(tokens) - num_prefix) if patch not in left_out]
    return tokens[:num_prefix] + [instead.get(patch, tokens[num_prefix + patch]) for patch in stay]


def halved(image: Image) -> Image:
    """Each pixel the mean of 2 x 2."""
    return [
        [
            [
                (above[j] + above[j + 1] + below[j] + below[j + 1]) / 4
                for j in range(0, len(above), 2)
            ]
            for above, below in zip(channel[::2], channel[1::2], strict=True)
        ]
        for channel in image
    ]


def lost(image: Image, half: Image, top: int, left: int, side: tuple[int, int]) -> float:
    """Mean squared difference of a cell's pixels from the half-size image."""
    squares = [
        (channel[i][j] - small[i // 2][j // 2]) ** 2
        for channel, small in zip(image, half, strict=True)
        for i in range(top, top + 2 * side[0])
        for j in range(left, left + 2 * side[1])
    ]
    return sum(squares) / len(squares)


def crop(image: Image, top: int, left: int, side: tuple[int, int]) -> Image:
    """The pixels of one patch."""
    return [
        [line[left : left + side[1]] for line in channel[top : top + side[0]]] for channel in image
    ]


def position(model: nn.Module, patch: int) -> Vector:
    """What the model adds to one patch."""
    if model.pos_embed is None:
        return [0.0] * model.embed_dim
    first = 0 if model.no_embed_class else model.num_prefix_tokens
    return model.pos_embed[0, first + patch].tolist()


def embedded(model: nn.Module, patch: Image, positions: Matrix) -> Vector:
    """A patch with the mean of some positions, as it enters the blocks."""
    embed = model.patch_embed
    value = embed.norm(embed.proj(torch.tensor([patch], dtype=torch.float64)).flatten(1))[0]
    x = [a + b for a, b in zip(value.tolist(), mean(positions), strict=True)]
    return row(model.norm_pre, x)
