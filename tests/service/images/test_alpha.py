"""Transparent pixels look like on white ground, in every form that files know."""

import io
import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.images import rgb
from tests.service.images.files import Pixels, chunk, encoded, png, rows_of, tiff

SIDE = 8
WHITE = (255, 255, 255)
bounded = settings(max_examples=40, deadline=None, derandomize=True, database=None)


def read(body: bytes) -> Pixels:
    """Rows of RGB pixels."""
    return rows_of(rgb.read(body, SIDE))


def on_white(*colors_and_alpha: int) -> tuple[int, ...]:
    """The definition, rounded to the nearest integer: straight alpha."""
    *colors, alpha = colors_and_alpha
    colors = colors * 3 if len(colors) == 1 else colors
    return tuple((2 * (c * alpha + 255 * (255 - alpha)) + 255) // 510 for c in colors)


def picture(pixels: Pixels, mode: str) -> Image.Image:
    data = bytes(sample for row in pixels for pixel in row for sample in pixel)
    return Image.frombytes(mode, (len(pixels[0]), len(pixels)), data)


def grids(samples: int) -> st.SearchStrategy[Pixels]:
    """Pictures of 3 x 2 pixels; alpha comes last and is often 0 or 255."""
    color = st.integers(0, 255)
    alpha = st.sampled_from([0, 255]) | color
    pixel = st.tuples(*[color] * (samples - 1), alpha)
    return st.lists(st.lists(pixel, min_size=3, max_size=3), min_size=2, max_size=2)


RGBA_FILES: dict[str, Callable[[Pixels], bytes]] = {
    "png": lambda pixels: png(pixels, 6, 8),
    "png of 16 bits": lambda pixels: png([[(*s,) for s in _wide(row)] for row in pixels], 6, 16),
    "webp": lambda pixels: encoded(picture(pixels, "RGBA"), "WEBP", lossless=True, exact=True),
    "tiff": lambda pixels: tiff(pixels, 8, t338=[2]),
    "big-endian deflated tiff": lambda pixels: tiff(pixels, 8, ">", deflate=True, t338=[2]),
    "tiff of 16 bits": lambda pixels: tiff([_wide(row) for row in pixels], 16, t338=[2]),
}
LA_FILES: dict[str, Callable[[Pixels], bytes]] = {
    "png": lambda pixels: png(pixels, 4, 8),
    "png of 16 bits": lambda pixels: png([_wide(row) for row in pixels], 4, 16),
    "tiff": lambda pixels: tiff(pixels, 8, t338=[2]),
}


def _wide(row: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Samples of 16 bits, with something in the lower 8."""
    return [tuple(256 * sample + 77 for sample in pixel) for pixel in row]


@pytest.mark.parametrize("form", RGBA_FILES)
@bounded
@given(pixels=grids(4))
def test_colour_with_straight_alpha(form: str, pixels: Pixels) -> None:
    wanted = [[on_white(*pixel) for pixel in row] for row in pixels]
    assert read(RGBA_FILES[form](pixels)) == wanted


@pytest.mark.parametrize("form", LA_FILES)
@bounded
@given(pixels=grids(2))
def test_grey_with_straight_alpha(form: str, pixels: Pixels) -> None:
    wanted = [[on_white(*pixel) for pixel in row] for row in pixels]
    assert read(LA_FILES[form](pixels)) == wanted


@pytest.mark.parametrize("samples", [4, 2])
@bounded
@given(data=st.data())
def test_premultiplied_alpha_of_a_tiff(samples: int, data: st.DataObject) -> None:
    straight = data.draw(grids(samples))
    pixels = [
        [(*((c * pixel[-1] + 127) // 255 for c in pixel[:-1]), pixel[-1]) for pixel in row]
        for row in straight
    ]
    wanted = [[tuple(c + 255 - p[-1] for c in p[:-1]) for p in row] for row in pixels]
    seen = read(tiff(pixels, 8, t338=[1]))
    for row, wanted_row in zip(seen, wanted, strict=True):
        for color, wanted_color in zip(row, wanted_row, strict=True):
            sums = wanted_color * 3 if len(wanted_color) == 1 else wanted_color
            # Pillow divides colours by alpha while it reads them, and rounds.
            assert all(abs(a - b) <= 1 for a, b in zip(color, sums, strict=True))


@pytest.mark.parametrize("premultiplied", [False, True])
def test_alpha_of_an_avif(premultiplied: bool) -> None:
    image = Image.new("RGBA", (16, 16), (200, 100, 50, 128))
    image.paste((0, 0, 0, 0), (8, 0, 16, 16))
    options = {"quality": 100, "subsampling": "4:4:4", "alpha_premultiplied": premultiplied}
    seen = read(encoded(image, "AVIF", **options))
    assert all(
        abs(a - b) <= 3 for a, b in zip(seen[8][3], on_white(200, 100, 50, 128), strict=True)
    )
    assert min(seen[8][12]) >= 252


@bounded
@given(
    colors=st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=4, max_size=4),
    alphas=st.lists(st.sampled_from([0, 255]) | st.integers(0, 255), max_size=4),
    numbers=st.lists(st.integers(0, 3), min_size=6, max_size=6),
)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_png_palette(
    bits: int, colors: list[tuple[int, int, int]], alphas: list[int], numbers: list[int]
) -> None:
    between = [chunk(b"PLTE", bytes(sample for color in colors for sample in color))]
    if alphas:
        between.append(chunk(b"tRNS", bytes(alphas)))
    body = png([[(number,) for number in numbers]], 3, bits, *between)
    entries = [
        on_white(*color, alpha)
        for color, alpha in zip(colors, alphas + [255] * (4 - len(alphas)), strict=True)
    ]
    assert read(body) == [[entries[number] for number in numbers]]


def test_a_tiff_palette_with_alpha() -> None:
    ramp = [257 * number for number in range(256)]
    pixels = [[(7, 255), (7, 0), (200, 128)]]
    colors = (*ramp, *ramp[::-1], *ramp)
    wanted = [[(7, 248, 7), WHITE, on_white(200, 55, 200, 128)]]
    assert read(tiff(pixels, 8, t262=[3], t320=colors, t338=[2])) == wanted


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_grey_of_a_png(bits: int) -> None:
    top = (1 << bits) - 1
    values = sorted({0, 1, top // 3, top // 2, top - 1, top})
    for key in values:
        body = png([[(v,) for v in values]], 0, bits, chunk(b"tRNS", struct.pack(">H", key)))
        greys = [255 if v == key else v >> 8 if bits == 16 else v * 255 // top for v in values]
        assert read(body) == [[(grey,) * 3 for grey in greys]]


def test_a_transparent_grey_has_all_its_16_bits() -> None:
    body = png([[(0x4D80,), (0x4D81,)]], 0, 16, chunk(b"tRNS", b"\x4d\x81"))
    assert read(body) == [[(0x4D,) * 3, WHITE]]


def test_bits_of_a_transparent_colour_that_the_depth_lacks_do_not_count() -> None:
    assert read(png([[(1,), (0,)]], 0, 1, chunk(b"tRNS", b"\xff\x01"))) == [[WHITE, (0, 0, 0)]]


@pytest.mark.parametrize("bits", [8, 16])
def test_a_transparent_colour_of_a_png(bits: int) -> None:
    wide = 1 if bits == 8 else 0x101
    key = (10 * wide, 20 * wide, 30 * wide)
    pixels = [
        [key, (11 * wide, *key[1:]), (*key[:2], 31 * wide), (30 * wide, 20 * wide, 10 * wide)]
    ]
    body = png(pixels, 2, bits, chunk(b"tRNS", struct.pack(">3H", *key)))
    assert read(body) == [[WHITE, (11, 20, 30), (10, 20, 31), (30, 20, 10)]]


def test_a_transparent_colour_has_all_its_16_bits() -> None:
    key = (0x1011, 0x2022, 0x3033)
    near = [(*key[:at], key[at] ^ 1, *key[at + 1 :]) for at in range(3)]
    body = png([[key, *near]], 2, 16, chunk(b"tRNS", struct.pack(">3H", *key)))
    assert read(body) == [[WHITE] + [(0x10, 0x20, 0x30)] * 3]


def test_a_transparent_colour_of_the_wrong_length_is_none() -> None:
    assert read(png([[(1, 2, 3)]], 2, 8, chunk(b"tRNS", b"\0\1\0\2"))) == [[(1, 2, 3)]]


# animations


def gif(canvas: tuple[int, int], box: tuple[int, int, int, int], transparency: int | None) -> bytes:
    """A red GIF frame on a larger canvas; the first colour of the palette is black."""
    left, top, width, height = box
    red = Image.new("P", (width, height), 1)
    red.putpalette([0, 0, 0, 255, 0, 0])
    options = {} if transparency is None else {"transparency": transparency}
    body = encoded(red, "GIF", optimize=False, **options)
    at = body.index(struct.pack("<BHHHH", 0x2C, 0, 0, width, height))
    place = struct.pack("<BHHHH", 0x2C, left, top, width, height)
    body = body[:at] + place + body[at + len(place) :]
    return body[:6] + struct.pack("<HH", *canvas) + body[10:]


@pytest.mark.parametrize("transparency", [None, 0])
def test_a_gif_frame_on_a_larger_canvas(transparency: int | None) -> None:
    red = (255, 0, 0)
    seen = read(gif((4, 3), (1, 1, 2, 1), transparency))
    assert seen == [[WHITE] * 4, [WHITE, red, red, WHITE], [WHITE] * 4]


def test_the_transparent_colour_of_a_gif() -> None:
    image = Image.frombytes("P", (3, 1), bytes([0, 1, 2]))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    assert read(encoded(image, "GIF", transparency=1)) == [[(255, 0, 0), WHITE, (0, 0, 255)]]
    body = encoded(Image.frombytes("L", (256, 1), bytes(range(256))), "GIF", transparency=100)
    assert Image.open(io.BytesIO(body)).mode == "L"
    assert read(body) == [[WHITE if value == 100 else (value,) * 3 for value in range(256)]]


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_webp_frame_on_a_larger_canvas(mode: str) -> None:
    still = encoded(Image.new(mode, (2, 2), "red"), "WEBP", lossless=True)[12:]
    pixels = still[still.index(b"VP8L") :]
    int24 = [number.to_bytes(3, "little") for number in (1, 0, 1, 1, 100)]  # at 2, 0
    frame = b"".join(int24) + b"\2" + pixels
    chunks = [
        (b"VP8X", bytes([2 | (16 if mode == "RGBA" else 0), 0, 0, 0, 5, 0, 0, 1, 0, 0])),  # 6 x 2
        (b"ANIM", bytes(6)),
        (b"ANMF", frame),
    ]
    riff = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for kind, data in chunks
    )
    body = b"RIFF" + struct.pack("<I", len(riff)) + riff
    red = (255, 0, 0)
    assert read(body) == [[WHITE, WHITE, red, red, WHITE, WHITE]] * 2


# what looks like alpha, and is none


def bmp(pixels: Pixels) -> bytes:
    """A BMP file of 32 bits whose header says where alpha is (BITMAPV4HEADER)."""
    width, height = len(pixels[0]), len(pixels)
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, 0, 0, 0, 0, 0)
    header = (header + masks).ljust(108, b"\0")
    data = bytes(s for row in pixels[::-1] for r, g, b, a in row for s in (b, g, r, a))
    return b"BM" + struct.pack("<IHHI", 122 + len(data), 0, 0, 122) + header + data


def test_alpha_of_a_bmp_counts_only_if_it_is_not_0_everywhere() -> None:
    empty = [[(1, 2, 3, 0), (4, 5, 6, 0)]]
    assert Image.open(io.BytesIO(bmp(empty))).mode == "RGBA"
    assert read(bmp(empty)) == [[(1, 2, 3), (4, 5, 6)]]
    assert read(bmp([[(1, 2, 3, 0), (4, 5, 6, 128)]])) == [[WHITE, on_white(4, 5, 6, 128)]]


@pytest.mark.parametrize("samples", [4, 2])
def test_an_extra_channel_of_a_tiff_that_is_not_named_alpha_is_none(samples: int) -> None:
    pixels = [[(9, 90, 200, 7)[-samples:], (3, 4, 5, 0)[-samples:]]]
    wanted = [[p[:3] if samples == 4 else (p[0],) * 3 for p in pixels[0]]]
    assert read(tiff(pixels, 8, t338=[0])) == wanted


def test_a_fourth_channel_of_a_tiff_that_is_not_named_counts_unless_it_is_empty() -> None:
    assert read(tiff([[(1, 2, 3, 0), (4, 5, 6, 0)]], 8)) == [[(1, 2, 3), (4, 5, 6)]]
    assert read(tiff([[(1, 2, 3, 0), (4, 5, 6, 255)]], 8)) == [[WHITE, (4, 5, 6)]]


@pytest.mark.parametrize("form", RGBA_FILES)
def test_nothing_of_a_fully_transparent_picture_is_seen(form: str) -> None:
    assert read(RGBA_FILES[form]([[(1, 2, 3, 0), (200, 100, 0, 0)]])) == [[WHITE, WHITE]]


@pytest.mark.parametrize("form", RGBA_FILES)
def test_opaque_alpha_changes_no_bit(form: str) -> None:
    pixels: Pixels = [[(value, 255 - value, value // 2, 255) for value in range(256)]]
    wanted = [[pixel[:3] for pixel in row] for row in pixels]
    assert rows_of(rgb.read(RGBA_FILES[form](pixels), 1)) == wanted
