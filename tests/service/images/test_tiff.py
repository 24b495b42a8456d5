"""TIFF files mean what their tags say, and tags that no picture needs cost nothing."""

import io
import random
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import pytest
from PIL import Image

from service.errors import ImageRejectedError
from service.images import rgb
from service.images.formats.tiff import MAX_STRIPS
from tests.service.images.files import Pixels, encoded, flat, packed, rows_of, tiff, tiff_of

SIDE = 8
WHITE_IS_0, BLACK_IS_0 = 0, 1
SIGNED, FLOAT, UNDEFINED = 2, 3, 4


def read(body: bytes) -> Pixels:
    """Rows of RGB pixels."""
    return rows_of(rgb.read(body, SIDE))


def noise(bits: int, samples: int) -> Pixels:
    """5 x 3 pixels, black and white among them."""
    values = random.Random(bits)
    rows = [
        [tuple(values.randrange(1 << bits) for _ in range(samples)) for _ in range(5)]
        for _ in range(3)
    ]
    rows[0][:2] = [(0,) * samples, ((1 << bits) - 1,) * samples]
    return rows


def grey(value: int, bits: int, photometric: int) -> tuple[int, int, int]:
    """The upper 8 bits, or the part of 255 that corresponds to fewer."""
    shown = value >> (bits - 8) if bits > 8 else value * 255 // ((1 << bits) - 1)
    return (255 - shown if photometric == WHITE_IS_0 else shown,) * 3


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
@pytest.mark.parametrize("photometric", [WHITE_IS_0, BLACK_IS_0])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflate", [False, True])
def test_grey_has_the_range_and_the_polarity_of_its_tags(
    bits: int, photometric: int, order: str, deflate: bool
) -> None:
    pixels = noise(bits, 1)
    wanted = [[grey(pixel[0], bits, photometric) for pixel in row] for row in pixels]
    assert read(tiff(pixels, bits, order, deflate=deflate, t262=[photometric])) == wanted


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("separate", [False, True])
def test_colour_keeps_its_upper_8_bits(
    bits: int, order: str, deflate: bool, separate: bool
) -> None:
    pixels = noise(bits, 3)
    body = tiff(pixels, bits, order, deflate=deflate)
    if separate:
        body = tiff_of_planes(pixels, bits, order, deflate)
    wanted = [[tuple(sample >> (bits - 8) for sample in pixel) for pixel in row] for row in pixels]
    assert read(body) == wanted


def tiff_of_planes(pixels: Pixels, bits: int, order: str, deflate: bool) -> bytes:
    """Each sample of all pixels in a strip of its own."""
    strips = [
        b"".join(packed([pixel[at] for pixel in row], bits, order) for row in pixels)
        for at in range(3)
    ]
    if deflate:
        strips = [zlib.compress(strip) for strip in strips]
    offsets = [8, 8 + len(strips[0]), 8 + len(strips[0]) + len(strips[1])]
    tags = {256: [5], 257: [3], 258: [bits] * 3, 259: [8 if deflate else 1], 262: [2], 277: [3]}
    tags |= {278: [3], 273: offsets, 279: [len(strip) for strip in strips], 284: [2]}
    return tiff_of(b"".join(strips), order, dict(tags))


@pytest.mark.parametrize(
    ("bits", "samples", "sample_format", "message"),
    [
        (10, 1, 1, "1 x 10-bit unsigned"),
        (14, 1, 1, "1 x 14-bit unsigned"),
        (12, 3, 1, "3 x 12-bit unsigned"),
        (8, 1, SIGNED, "1 x 8-bit signed"),
        (16, 1, SIGNED, "1 x 16-bit signed"),
        (16, 1, FLOAT, "1 x 16-bit floating-point"),
        (32, 3, FLOAT, "3 x 32-bit floating-point"),
        (64, 1, FLOAT, "1 x 64-bit floating-point"),
        (8, 9, 1, "9 x 8-bit unsigned"),
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_what_cannot_be_shown_is_named(
    bits: int, samples: int, sample_format: int, message: str, order: str
) -> None:
    tags = {256: [2], 257: [2], 258: [bits] * samples, 262: [2 if samples > 2 else 1]}
    tags |= {277: [samples], 278: [2], 339: [sample_format] * samples}
    body = tiff_of(bytes(samples * bits), order, dict(tags))
    with pytest.raises(ImageRejectedError, match=rf"TIFF file of {message} .* send unsigned"):
        read(body)


def test_samples_of_an_undefined_format_are_unsigned() -> None:
    assert read(tiff([[(5,)]], 8, t339=[UNDEFINED])) == [[(5, 5, 5)]]


def test_a_file_that_does_not_say_what_its_samples_are() -> None:
    """As libtiff takes them: three are RGB, one is grey whose 0 is black."""
    for pixels in (noise(8, 1), noise(8, 3)):
        # A tag of a type that does not exist counts as absent.
        body = tiff(pixels, 8).replace(struct.pack("<HH", 262, 4), struct.pack("<HH", 262, 99))
        assert read(body) == [[pixel * (3 // len(pixel)) for pixel in row] for row in pixels]


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"t259": [34712]}, "compressed by JPEG 2000"),
        ({"t256": [0]}, "no width"),
        ({"t322": [0], "t323": [0], "t324": [8]}, "tiles have no width"),
        ({"t262": [3], "t320": [0] * 9}, "palette has 3 colours for pixels of 8 bits"),
    ],
)
def test_tags_that_make_no_picture_are_refused(tags: Any, message: str) -> None:
    with pytest.raises(ImageRejectedError, match=rf"TIFF .*{message}"):
        read(tiff([[(5,)]], 8, **tags))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_directory_is_refused(share: float) -> None:
    body = tiff(noise(8, 3), 8, ">")
    with pytest.raises(ImageRejectedError, match="damaged"):
        read(body[: int(share * len(body))])


def test_a_big_tiff_is_one() -> None:
    image = Image.new("RGB", (4, 3), (200, 100, 50))
    body = encoded(image, "TIFF", big_tiff=True)
    assert body[:4] == b"II+\0"
    assert read(body) == rows_of(image)


def test_the_version_may_stand_in_the_other_byte_order() -> None:
    pixels = noise(8, 3)
    for order, mark in (("<", b"II\0*"), (">", b"MM*\0")):
        assert read(mark + tiff(pixels, 8, order)[4:]) == pixels


def test_what_libtiff_says_about_a_damaged_file_is_not_printed(
    capfd: pytest.CaptureFixture[str],
) -> None:
    for compression in (5, 7):  # LZW, JPEG
        body = tiff([[(5,)] * 9], 8, t259=[compression])
        with pytest.raises(ImageRejectedError, match="damaged"):
            read(body)
    assert capfd.readouterr() == ("", "")


# tags that cost more than they seem to


def reads_of_pillow(body: bytes, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many bytes Pillow reads of a file until it has its header."""
    sizes: list[int] = []
    original = rgb.parts.PartsFile.read

    def counted(file: rgb.parts.PartsFile, size: int | None = -1, /) -> bytes:
        data = original(file, size)
        sizes.append(len(data))
        return data

    monkeypatch.setattr(rgb.parts.PartsFile, "read", counted)
    rgb.read(body, SIDE, before_pixels=lambda _: sizes.append(-1))
    return sum(sizes[: sizes.index(-1)])


def with_values(tag: int, kind: int, number: int, *, photometric: int = BLACK_IS_0) -> bytes:
    """A TIFF file of 1 x 1 pixel, in which one tag claims many values that are there."""
    body = bytearray(tiff([[(5,)]], 8, t262=[photometric], **{f"t{tag}": b"123456789"}))
    at = body.index(struct.pack("<HHI", tag, 1, 9))
    body[at : at + 12] = struct.pack("<HHII", tag, kind, number, len(body))
    return bytes(body) + bytes(8) * number


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 5, 7, 10, 12, 16])
@pytest.mark.parametrize("tag", [279, 700, 34665, 34853, 37724, 40000])
def test_values_that_no_picture_needs_are_not_read(
    tag: int, kind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = with_values(tag, kind, 300_000)
    assert len(body) > 2_000_000
    assert reads_of_pillow(body, monkeypatch) < 2000
    assert rows_of(rgb.read(body, SIDE)) == [[(5, 5, 5)]]


@pytest.mark.parametrize("kind", [1, 3, 4])
def test_strips_beyond_the_picture_are_not_looked_at(kind: int) -> None:
    body = bytearray(with_values(273, kind, 300_000))
    (offsets,) = struct.unpack_from(
        "<I", body, body.index(struct.pack("<HHI", 273, kind, 300_000)) + 8
    )
    body[offsets] = 8
    assert read(bytes(body)) == [[(5, 5, 5)]]


@pytest.mark.parametrize("tag", [258, 320, 338, 339])
def test_lists_are_as_long_as_a_pixel_may_need(tag: int) -> None:
    photometric = 3 if tag == 320 else BLACK_IS_0
    with pytest.raises(ImageRejectedError, match="TIFF file"):
        read(with_values(tag, 3, 300_000, photometric=photometric))


def test_a_scan_may_have_a_strip_for_each_row_but_not_without_end() -> None:
    def of_rows(height: int) -> bytes:
        tags: dict[int, Sequence[int] | bytes] = {256: [2], 257: [height], 258: [8], 262: [1]}
        tags |= {277: [1], 278: [1], 273: range(8, 8 + 2 * height, 2), 279: [2] * height}
        return tiff_of(bytes(index % 256 for index in range(2 * height)), "<", tags)

    seen = read(of_rows(1000))
    assert [row[1][0] for row in seen] == [(2 * y + 1) % 256 for y in range(1000)]
    with pytest.raises(
        ImageRejectedError, match=f"{MAX_STRIPS + 1} strips or tiles; allowed are {MAX_STRIPS}"
    ):
        read(of_rows(MAX_STRIPS + 1))


def test_thousands_of_tags_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = noise(8, 3)
    tags = {f"t{tag}": b"values" for tag in range(40_000, 50_000)}
    assert reads_of_pillow(tiff(pixels, 8, **tags), monkeypatch) < 2000
    assert read(tiff(pixels, 8, **tags)) == pixels


def test_a_profile_is_kept_for_whoever_converts_colours() -> None:
    seen: list[Any] = []
    body = tiff([[(1, 2, 3)]], 8, t34675=b"a profile")
    rgb.read(body, SIDE, before_pixels=lambda image: seen.append(image.info["icc_profile"]))
    assert seen == [b"a profile"]


def test_the_second_page_is_not_looked_at() -> None:
    pages = [Image.new("RGB", (2, 2), color) for color in ("red", "blue")]
    body = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert getattr(Image.open(io.BytesIO(body)), "n_frames", 1) == 2
    frames: list[int] = []
    rgb.read(body, SIDE, before_pixels=lambda image: frames.append(getattr(image, "n_frames", 1)))
    assert frames == [1]
    assert flat(read(body)[0])[:3] == [255, 0, 0]
