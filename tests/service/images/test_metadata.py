"""Which way up a picture is; nothing else of its metadata is looked at, whatever it holds."""

import io
import logging
import re
import struct
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PIL import Image

from service.errors import ImageRejectedError
from service.images import rgb
from service.images.formats.jpeg import MAX_FILLING, MAX_SEGMENTS
from tests.service.images.files import chunk, encoded, with_chunks

SIDE = 8
ORIENTATION = 274
XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\0"
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
PICTURE = Image.new("RGB", (32, 16), "red")


def block(*entries: tuple[int, int, int, int], order: str = "<") -> bytes:
    """An EXIF block of tags (number, type, count, value)."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    table = b"".join(
        struct.pack(order + "HHI", tag, kind, count)
        + (struct.pack(order + "HH", value, 0) if kind == 3 else struct.pack(order + "I", value))
        for tag, kind, count, value in entries
    )
    return mark + struct.pack(order + "IH", 8, len(entries)) + table + bytes(4)


def jpeg_with(*segments: tuple[int, bytes]) -> bytes:
    """A JPEG with more segments behind its start."""
    plain = encoded(PICTURE, "JPEG")
    return (
        plain[:2]
        + b"".join(
            bytes([0xFF, marker]) + struct.pack(">H", 2 + len(data)) + data
            for marker, data in segments
        )
        + plain[2:]
    )


def webp_with(exif: bytes) -> bytes:
    return encoded(PICTURE, "WEBP", exif=exif)


FILES: dict[str, Callable[[bytes], bytes]] = {
    "jpeg": lambda exif: jpeg_with((0xE1, b"Exif\0\0" + exif)),
    "jpeg in two segments": lambda exif: jpeg_with(
        (0xE1, b"Exif\0\0" + exif[:9]), (0xE1, b"Exif\0\0" + exif[9:])
    ),
    "png": lambda exif: with_chunks(encoded(PICTURE, "PNG"), chunk(b"eXIf", exif)),
    "webp": webp_with,
}


def size(body: bytes) -> tuple[int, int]:
    return rgb.read(body, SIDE).size


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder) -> Iterator[None]:
    """No file in this module makes anybody write more than one line."""
    caplog.set_level(logging.DEBUG, "service")
    caplog.set_level(logging.INFO, "PIL")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        yield
    assert len(caplog.records) + len(recwarn) <= 1


@pytest.mark.parametrize("form", FILES)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [3, 4])
def test_the_orientation_counts(form: str, order: str, kind: int) -> None:
    others = [(number, 3, 1, 7) for number in (256, 271, 282, 305)]
    exif = block(*others, (ORIENTATION, kind, 1, 6), order=order)
    assert size(FILES[form](exif)) == (16, 32)


@pytest.mark.parametrize("form", FILES)
@pytest.mark.parametrize("value", [0, 1, 9, 77])
def test_a_value_that_means_nothing_asks_for_no_rotation(form: str, value: int) -> None:
    assert size(FILES[form](block((ORIENTATION, 3, 1, value)))) == (32, 16)


@pytest.mark.parametrize("form", FILES)
def test_tags_that_lie_about_themselves_do_not_matter(form: str) -> None:
    entries = [(256 + kind, kind, 0x7FFFFFFF, 8) for kind in range(17)]
    entries += [(34665, 4, 1, 8), (34853, 4, 1, 8), (40965, 4, 1, 8)]  # directories within
    exif = block(*entries[:12], (ORIENTATION, 3, 1, 6), *entries[12:])
    assert size(FILES[form](exif)) == (16, 32)


@pytest.mark.parametrize("form", ["png", "webp"])
def test_many_tags_of_many_values_do_not_matter(form: str) -> None:
    number = 5000
    entries = [(40_000 + index, 3, 1 << 19, 10 + 12 * number) for index in range(number - 1)]
    exif = block((ORIENTATION, 3, 1, 6), *entries) + bytes(1 << 20)
    assert size(FILES[form](exif)) == (16, 32)


@pytest.mark.parametrize("form", FILES)
@pytest.mark.parametrize("exif", [b"", b"garbage", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\1"])
def test_a_damaged_block_asks_for_no_rotation(form: str, exif: bytes) -> None:
    assert size(FILES[form](exif)) == (32, 16)


def test_xmp_counts_if_the_exif_block_does_not_say() -> None:
    exif = b"Exif\0\0" + block((ORIENTATION, 3, 1, 1))
    assert size(jpeg_with((0xE1, XMP_HEADER + XMP))) == (16, 32)
    assert size(jpeg_with((0xE1, exif), (0xE1, XMP_HEADER + XMP))) == (32, 16)
    assert size(encoded(PICTURE, "WEBP", xmp=XMP)) == (16, 32)
    text = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)
    assert size(with_chunks(encoded(PICTURE, "PNG"), text)) == (16, 32)
    assert size(encoded(PICTURE, "TIFF", tiffinfo={700: XMP})) == (16, 32)


def test_a_jpeg_keeps_what_its_colours_need() -> None:
    seen: list[dict[Any, Any]] = []
    segments = [
        (0xFE, b"a comment"),
        (0xE1, b"Exif\0\0" + block((ORIENTATION, 3, 1, 1), (282, 5, 1, 8))),
        (0xE2, b"MPF\0" + block((45057, 4, 1, 7))),
        (0xED, b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + struct.pack(">I", 1 << 31)),
        (0xE2, b"ICC_PROFILE\0\1\1a profile"),
        (0xEE, b"Adobe\0\x64\0\0\0\0\1"),
    ]
    body = jpeg_with(*segments)
    rgb.read(body, SIDE, before_pixels=lambda image: seen.append(dict(image.info)))
    assert seen[0]["icc_profile"] == b"a profile"
    assert seen[0]["adobe_transform"] == 1
    assert not {"exif", "comment", "mp", "photoshop"} & seen[0].keys()
    plain = rgb.read(encoded(PICTURE, "JPEG"), SIDE)
    assert rgb.read(body, SIDE).tobytes() == plain.tobytes()


@pytest.mark.parametrize("marker", [0xC8, 0xF0, 0xFD, 0x01, 0xD8, 0xFE])
def test_metadata_cannot_be_hidden_in_other_segments(marker: int) -> None:
    """The fixture of this module watches what Pillow says about the block."""
    exif = b"Exif\0\0" + block((271, 3, 9, 1 << 16 - 1), (272, 3, 9, 8)) + bytes(9)
    hidden = b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif
    plain = encoded(PICTURE, "JPEG")
    around = bytes([0xFF, marker]) + struct.pack(">H", 2 + len(hidden)) * (marker not in (1, 0xD8))
    assert size(plain[:2] + around + hidden + plain[2:]) == (32, 16)
    with pytest.raises(ImageRejectedError):
        size(plain[:2] + around + hidden)  # without a picture


def test_a_jpeg_of_too_many_segments_is_refused() -> None:
    assert size(jpeg_with(*[(0xFE, b"")] * (MAX_SEGMENTS - 100))) == (32, 16)
    with pytest.raises(ImageRejectedError, match="too many scans or segments"):
        size(jpeg_with(*[(0xFE, b"")] * MAX_SEGMENTS))


@pytest.mark.parametrize("filling", [b"\xff", b"\xff\0", b"\0"])
def test_a_jpeg_may_have_some_filling(filling: bytes) -> None:
    plain = encoded(PICTURE, "JPEG")
    assert size(plain[:2] + filling * 1000 + plain[2:]) == (32, 16)
    with pytest.raises(ImageRejectedError, match="too many tiny parts"):
        size(plain[:2] + filling * (MAX_FILLING + 1) + plain[2:])


def test_an_avif_of_too_many_blocks_is_refused() -> None:
    entry = b"infe\2\0\0\0\0\1\0\0Exif"
    for number, message in ((100, "its header cannot be read"), (101, "too many tiny parts")):
        with pytest.raises(ImageRejectedError, match=message):
            size(b"\0\0\0\x0cftypavif" + entry * number)


def test_an_avif_is_turned_as_its_container_says() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    exif[305] = "A" * 1000
    body = encoded(PICTURE, "AVIF", exif=exif)
    assert re.search(rb"infe.{8}Exif", body, re.DOTALL)  # the block is there,
    assert b"irot" in body  # and its rotation stands in the container
    seen: list[dict[Any, Any]] = []
    picture = rgb.read(body, SIDE, before_pixels=lambda image: seen.append(dict(image.info)))
    assert picture.size == (16, 32)
    assert len(seen[0]["exif"]) < 100
    with Image.open(io.BytesIO(body)) as image:
        assert b"AAAA" in image.info["exif"]
