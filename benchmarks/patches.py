"""Which patches of a photo each method keeps: one picture per method.

    python -m benchmarks.patches

Writes docs/images/method-<name>.png: the photo as the model sees it, after the last block, every
method with the smallest r that costs at most 60 % of the multiply-adds. Pruned patches are dark;
patches that were merged into one token share their mean colour; lines separate the tokens.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from tqdm import tqdm

import rapid_core
from service.models import timm_models
from service.models.timm_models import BUNDLED_MODELS, LoadedModel

MODEL = "everyday-vit-s14"
PHOTO = BUNDLED_MODELS / MODEL / "examples" / "owl.jpg"
IMAGES = Path(__file__).parents[1] / "docs" / "images"
ZOOM = 2
"""pixels of the picture for one of the model's."""
PRUNED_BRIGHTNESS = 0.15
LINE = (255, 214, 10)


def main() -> None:
    """Write one PNG per method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photo", type=Path, default=PHOTO)
    parser.add_argument("--macs-ratio", type=float, default=0.6)
    parser.add_argument("--folder", type=Path, default=IMAGES)
    arguments = parser.parse_args()
    loaded = timm_models.load(MODEL)
    photo = Image.open(arguments.photo).convert("RGB")
    pixels, view = loaded.transform(photo)[None], crop(photo, loaded)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for method in tqdm(rapid_core.METHODS, desc="pictures", unit="method"):
        fast = reduced(loaded.module, method, arguments.macs_ratio)
        picture = draw(view, holders(fast, pixels))
        # A palette makes the files a third of the size.
        picture.quantize(192).save(arguments.folder / f"method-{method}.png", optimize=True)


def reduced(model: Any, method: str, macs_ratio: float) -> Any:
    """The model with the smallest r that costs at most a share of its multiply-adds.

    A single number r, not a list: EViT then spreads it over its three blocks.
    """
    most = macs_ratio * rapid_core.macs(model)
    candidates = (
        rapid_core.patch(model, r=r, method=method)
        for r in range(model.patch_embed.num_patches // 2)
    )
    return next(fast for fast in candidates if rapid_core.macs(fast) <= most)


def crop(photo: Image.Image, loaded: LoadedModel) -> Image.Image:
    """The part of a photo that the model's transform leaves, `ZOOM` times as large."""
    scale = ZOOM * loaded.resize_side / min(photo.size)
    photo = photo.resize((round(photo.width * scale), round(photo.height * scale)))
    height, width = (ZOOM * side for side in loaded.input_size[1:])
    left, top = (photo.width - width) // 2, (photo.height - height) // 2
    return photo.crop((left, top, left + width, top + height))


@torch.inference_mode()
def holders(fast: Any, pixels: Tensor) -> list[list[int]]:
    """The token that holds each patch after the last block, -1 for none: [row][column]."""
    assignment = rapid_core.trace(fast, pixels).assignment[-1][0]
    held: list[list[int]] = assignment.reshape(fast.patch_embed.grid_size).tolist()
    return held


def draw(view: Image.Image, held: list[list[int]]) -> Image.Image:
    """The photo with pruned patches darkened and merged ones in their mean colour."""
    picture = view.copy()
    side = view.width // len(held[0])
    for token, places in groups(held).items():
        parts = [view.crop(box(place, side)) for place in places]
        if token == -1:
            parts = [part.point(lambda value: value * PRUNED_BRIGHTNESS) for part in parts]
        elif len(parts) > 1:
            parts = [Image.new("RGB", (side, side), mean_colour(parts))] * len(parts)
        for place, part in zip(places, parts, strict=True):
            picture.paste(part, box(place, side))
    _separate(picture, held, side)
    return picture


def groups(held: list[list[int]]) -> dict[int, list[tuple[int, int]]]:
    """The places (row, column) of the patches that each token holds."""
    found: dict[int, list[tuple[int, int]]] = {}
    for row, tokens in enumerate(held):
        for column, token in enumerate(tokens):
            found.setdefault(token, []).append((row, column))
    return found


def box(place: tuple[int, int], side: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a patch in pixels."""
    row, column = place
    return column * side, row * side, (column + 1) * side, (row + 1) * side


def mean_colour(parts: list[Image.Image]) -> tuple[int, ...]:
    """Mean colour of equally large parts."""
    means = [part.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0)) for part in parts]
    return tuple(round(sum(channel) / len(parts)) for channel in zip(*means, strict=True))


def _separate(picture: Image.Image, held: list[list[int]], side: int) -> None:
    """Draw a line between neighbouring patches of different tokens."""
    lines = ImageDraw.Draw(picture)
    for row, tokens in enumerate(held):
        for column, token in enumerate(tokens):
            left, top, right, bottom = box((row, column), side)
            if column + 1 < len(tokens) and tokens[column + 1] != token:
                lines.line((right, top, right, bottom), fill=LINE)
            if row + 1 < len(held) and held[row + 1][column] != token:
                lines.line((left, bottom, right, bottom), fill=LINE)


if __name__ == "__main__":
    main()
