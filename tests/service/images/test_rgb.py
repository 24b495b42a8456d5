"""The walk from a file to an RGB picture: its steps, and the order of them."""

import io

import pytest
from PIL import Image

from service.errors import OverloadedError, TooLargeError
from service.images import rgb

SIDE = 8


def png(size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, "PNG")
    return file.getvalue()


def test_the_caller_is_asked_between_the_header_and_the_pixels() -> None:
    seen: list[tuple[str | None, tuple[int, int]]] = []
    whole = png((600, 500))
    without_pixels = whole[: whole.index(b"IDAT") + 4]

    def refuse(image: Image.Image) -> None:
        seen.append((image.format, image.size))
        raise OverloadedError("no room for the pixels", 3)

    with pytest.raises(OverloadedError, match="no room for the pixels"):
        rgb.read(without_pixels, SIDE, before_pixels=refuse)
    assert seen == [("PNG", (600, 500))]
    with pytest.raises(TooLargeError):
        rgb.read(whole, SIDE, 1000, before_pixels=refuse)
    assert len(seen) == 1  # a picture that is too large never comes so far


def test_a_caller_that_agrees_changes_nothing() -> None:
    seen: list[str] = []
    picture = rgb.read(png((3, 2)), SIDE, before_pixels=lambda image: seen.append(image.mode))
    assert (seen, picture.size, picture.getpixel((2, 1))) == (["RGB"], (3, 2), (255, 0, 0))
