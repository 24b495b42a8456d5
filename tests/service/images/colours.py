"""Colours as the formulas say: published matrices, curves, and files with profiles."""

import io
from collections.abc import Callable
from typing import Any

from PIL import Image, ImageChops

from service.images import rgb
from service.images.colors.profiles import D65, DISPLAY_P3, Primaries, matrix_profile
from service.images.options import Color

Picture = Image.Image
SIDE = 8
ADOBE_GAMMA = 563 / 256
P3 = matrix_profile(DISPLAY_P3)
ADOBE_RGB = matrix_profile(
    Primaries(D65, (0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), gamma=ADOBE_GAMMA
)
PRO_PHOTO = matrix_profile(
    Primaries((0.3457, 0.3585), (0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)), gamma=1.8
)
# Linear values of the space -> linear values of sRGB: published, not computed by our own code.
TO_SRGB = {
    "P3": (
        (1.2249401, -0.2249404, 0),
        (-0.0420569, 1.0420571, 0),
        (-0.0196376, -0.0786361, 1.0982735),
    ),
    "Adobe RGB": ((1.3983557, -0.3983557, 0), (0, 1, 0), (0, -0.0429290, 1.0429290)),
    "ProPhoto": (
        (2.0343676, -0.7275741, -0.3067618),
        (-0.2288118, 1.2317304, -0.0029184),
        (-0.0085649, -0.1532726, 1.1618374),
    ),
}
LOSSLESS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "TIFF": {},
    "WEBP": {"lossless": True, "exact": True},
}


def file_of(picture: Picture, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()


def read(body: bytes, how: Color = "srgb") -> Picture:
    return rgb.read(body, SIDE, color=how)


def timms(body: bytes) -> Picture:
    """As timm's own data sets open a file."""
    return Image.open(io.BytesIO(body)).convert("RGB")


def far(one: Picture, other: Picture) -> int:
    """The largest difference of two RGB pictures, of 255."""
    return max(high for _, high in ImageChops.difference(one, other).getextrema())  # type: ignore[misc]


def colours() -> Picture:
    """Colours all over the cube, and in the darks."""
    levels = (0, 1, 5, 20, 60, 128, 200, 254, 255)
    pixels = ((red, green, blue) for red in levels for green in levels for blue in levels)
    return Image.frombytes("RGB", (27, 27), bytes(value for pixel in pixels for value in pixel))


def srgb_decoded(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else float(((value + 0.055) / 1.055) ** 2.4)


def srgb_encoded(value: float) -> float:
    value = min(1.0, max(0.0, value))
    return value * 12.92 if value <= 0.0031308 else float(1.055 * value ** (1 / 2.4) - 0.055)


def converted_slowly(picture: Picture, space: str, decode: Callable[[float], float]) -> Picture:
    """By the definition: decode, multiply by the published matrix, encode."""
    linear = [decode(value / 255) for value in range(256)]
    values = [
        round(255 * srgb_encoded(sum(a * linear[v] for a, v in zip(row, pixel, strict=True))))
        for pixel in pixels_of(picture)
        for row in TO_SRGB[space]
    ]
    return Image.frombytes("RGB", picture.size, bytes(values))


def pixels_of(picture: Picture) -> list[tuple[int, ...]]:
    """The pixels of an RGB picture, row by row."""
    values = iter(picture.tobytes())
    return list(zip(values, values, values, strict=True))
