"""PNG files: only chunks that pixels need matter, and of the others only their number."""

import random
import struct
import zlib
from typing import Any

import pytest

from service.errors import ImageRejectedError
from service.images import rgb
from service.images.formats import png as png_files
from service.images.formats.png import MAX_CHUNKS, MAX_PROFILE
from tests.service.images.files import Pixels, chunk, png, rows_of, with_chunks

SIDE = 8
PIXELS: Pixels = [[(1, 2, 3), (200, 100, 50)], [(0, 0, 0), (255, 255, 255)]]
PLAIN = png(PIXELS, 2, 8)
MEGABYTES = zlib.compress(b"A" * (2 << 20))


def read(body: bytes) -> Pixels:
    """Rows of RGB pixels."""
    return rows_of(rgb.read(body, SIDE))


def infos(body: bytes) -> dict[Any, Any]:
    """What Pillow knows about the file before its pixels."""
    seen: list[dict[Any, Any]] = []
    rgb.read(body, SIDE, before_pixels=lambda image: seen.append(dict(image.info)))
    return seen[0]


TEXTS = {
    "zTXt": chunk(b"zTXt", b"workflow\0\0" + MEGABYTES),
    "iTXt": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + MEGABYTES),
    "iCCP": chunk(b"iCCP", b"profile\0\0" + MEGABYTES),
    "tEXt": chunk(b"tEXt", b"workflow\0" + b"A" * (2 << 20)),
    "200 x zTXt": chunk(b"zTXt", b"k\0\0" + MEGABYTES) * 200,
    "of an unknown method": chunk(b"zTXt", b"k\0\7" + MEGABYTES),
    "iCCP of an unknown method": chunk(b"iCCP", b"k\0\7" + MEGABYTES),
    "iCCP without a name": chunk(b"iCCP", b"\0\0"),
    "iCCP of noise": chunk(b"iCCP", b"name\0\0" + random.Random(0).randbytes(100)),
    "empty": b"".join(chunk(kind, b"") for kind in (b"zTXt", b"iTXt", b"iCCP", b"tEXt")),
    "too short": b"".join(chunk(kind, b"\0") for kind in (b"gAMA", b"cHRM", b"pHYs", b"tRNS")),
    "private": chunk(b"prVt", bytes(1000)) * 100,
    "broken animation": chunk(b"acTL", bytes(8)) + chunk(b"fcTL", bytes(26)),
}


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("where", ["before the pixels", "behind them"])
def test_metadata_are_not_looked_into(kind: str, where: str) -> None:
    body = with_chunks(PLAIN, TEXTS[kind])
    if where == "behind them":
        body = PLAIN[:-12] + TEXTS[kind] + PLAIN[-12:]
    assert read(body) == PIXELS
    assert infos(body) == infos(PLAIN)


@pytest.mark.parametrize(
    "data",
    [
        (b"tEXt", b"key\0text"),
        (b"zTXt", b"key\0\0" + zlib.compress(b"text")),
        (b"gAMA", struct.pack(">I", 45455)),
        (b"cHRM", bytes(32)),
        (b"sRGB", b"\0"),
        (b"pHYs", bytes(9)),
        (b"tIME", bytes(7)),
        (b"bKGD", bytes(6)),
        (b"iCCP", b"name\0\0" + zlib.compress(b"profile")),
        (b"eXIf", b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 274, 3, 1, 6) + bytes(4)),
        (b"tRNS", struct.pack(">3H", 1, 2, 3)),
    ],
    ids=lambda data: data[0].decode(),
)
def test_a_damaged_optional_chunk_counts_as_absent(data: tuple[bytes, bytes]) -> None:
    body = with_chunks(PLAIN, chunk(*data, damaged=True))
    assert read(body) == PIXELS
    assert infos(body) == infos(PLAIN)


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE", b"IDAT"])
def test_a_damaged_chunk_that_pixels_need_is_refused(kind: bytes) -> None:
    body = png([[(0,), (1,)]], 3, 8, chunk(b"PLTE", bytes([1, 2, 3, 4, 5, 6])))
    assert read(body) == [[(1, 2, 3), (4, 5, 6)]]
    at = body.index(kind)
    (length,) = struct.unpack_from(">I", body, at - 4)
    checksum = at + 4 + length
    body = body[:checksum] + bytes([body[checksum] ^ 1]) + body[checksum + 1 :]
    with pytest.raises(ImageRejectedError, match=r"the image is damaged .* PNG file"):
        read(body)


def test_chunks_that_say_what_colours_mean_are_kept() -> None:
    chunks = [
        chunk(b"gAMA", struct.pack(">I", 45455)),
        chunk(b"sRGB", b"\0"),
        chunk(b"iCCP", b"name\0\0" + zlib.compress(b"profile")),
        chunk(b"iCCP", b"name\0\0" + zlib.compress(b"another")),
    ]
    wanted = {"gamma": 0.45455, "srgb": 0, "icc_profile": b"profile"}
    assert infos(with_chunks(PLAIN, *chunks)) == infos(PLAIN) | wanted


def test_only_the_first_profile_is_inflated(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bytes] = []
    is_profile = png_files._is_profile

    def counted(data: bytes) -> bool:
        calls.append(data)
        return is_profile(data)

    monkeypatch.setattr(png_files, "_is_profile", counted)
    assert read(with_chunks(PLAIN, TEXTS["iCCP"] * 100)) == PIXELS
    assert len(calls) == 1


@pytest.mark.parametrize(("size", "kept"), [(MAX_PROFILE, True), (MAX_PROFILE + 1, False)])
def test_a_profile_is_as_large_as_profiles_are(size: int, kept: bool) -> None:
    profile = chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(size)))
    assert ("icc_profile" in infos(with_chunks(PLAIN, profile))) == kept


def test_what_colours_mean_is_said_before_the_pixels() -> None:
    late = [chunk(b"tRNS", struct.pack(">3H", *PIXELS[0][0])), chunk(b"gAMA", bytes(4))]
    body = PLAIN[:-12] + b"".join(late) + PLAIN[-12:]
    assert read(body) == PIXELS
    assert infos(body) == infos(PLAIN)


def test_chunks_of_pixels_may_be_many_and_empty() -> None:
    data = zlib.compress(b"".join(b"\0" + bytes(s for p in row for s in p) for row in PIXELS))
    pieces = b"".join(chunk(b"IDAT", data[at : at + 1]) + chunk(b"IDAT", b"") for at in range(99))
    start, end = PLAIN.index(b"IDAT") - 4, len(PLAIN) - 12
    body = PLAIN[:start] + pieces + PLAIN[end:]
    assert read(body) == PIXELS
    assert read(body[:-12]) == PIXELS  # without its end
    for length in (start + 30, start, start - 5, 20, 9):
        with pytest.raises(ImageRejectedError, match="damaged"):
            read(body[:length])


def test_too_many_chunks_are_refused() -> None:
    assert read(with_chunks(PLAIN, chunk(b"teSt", b"") * (MAX_CHUNKS - 2))) == PIXELS
    with pytest.raises(ImageRejectedError, match=f"too many tiny parts.* {MAX_CHUNKS} chunks"):
        read(with_chunks(PLAIN, chunk(b"teSt", b"") * MAX_CHUNKS))


def test_what_does_not_begin_with_a_header_is_refused() -> None:
    """As the files that Apple's tools make for their own devices; browsers do not show them."""
    body = PLAIN[:8] + chunk(b"CgBI", bytes(4)) + PLAIN[8:]
    with pytest.raises(ImageRejectedError, match=r"damaged .* does not begin with its header"):
        read(body)


@pytest.mark.parametrize(
    ("color_type", "bits", "message"), [(1, 8, "no known kind"), (3, 8, "no palette")]
)
def test_a_header_of_no_known_kind_is_refused(color_type: int, bits: int, message: str) -> None:
    with pytest.raises(ImageRejectedError, match=f"damaged .* PNG file .*{message}"):
        read(png([[(1,)]], color_type, bits))


def test_an_animation_shows_what_viewers_without_animations_show() -> None:
    """Even if its first frame is smaller than the picture, which the definition forbids."""
    frame = struct.pack(">IIIIIHHBB", 0, 1, 1, 0, 0, 1, 10, 0, 0)
    body = with_chunks(PLAIN, chunk(b"acTL", struct.pack(">II", 2, 0)), chunk(b"fcTL", frame))
    assert read(body) == PIXELS


def test_an_interlaced_file_is_read_like_others() -> None:
    """Adam7 sends the first pixel of 2 x 2, then the second, then the second row."""
    passes = [PIXELS[0][:1], PIXELS[0][1:], PIXELS[1]]
    data = b"".join(b"\0" + bytes(s for pixel in row for s in pixel) for row in passes)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 2, 0, 0, 1))
    body = header + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    assert read(PLAIN[:8] + TEXTS["zTXt"].join([body[:25], body[25:]])) == PIXELS


@pytest.mark.parametrize("behind", [False, True])
def test_the_orientation_may_stand_before_or_behind_the_pixels(behind: bool) -> None:
    exif = b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 274, 3, 1, 3) + bytes(4)
    turned = chunk(b"eXIf", exif)
    body = PLAIN[:-12] + turned + PLAIN[-12:] if behind else with_chunks(PLAIN, turned)
    assert read(body) == [row[::-1] for row in PIXELS[::-1]]
