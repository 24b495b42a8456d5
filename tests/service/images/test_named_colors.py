"""Colours that a PNG names by numbers: gAMA, cHRM, sRGB, cICP and their order."""

import struct
import zlib

import pytest

from tests.service.images.colours import (
    P3,
    colours,
    converted_slowly,
    far,
    file_of,
    read,
    srgb_decoded,
    srgb_encoded,
    timms,
)
from tests.service.images.files import chunk, with_chunks


def png_with(*chunks: bytes) -> bytes:
    return with_chunks(file_of(colours(), "PNG"), *chunks)


GAMMA = {value: chunk(b"gAMA", struct.pack(">I", value)) for value in (0, 1, 45455, 55556, 100_000)}
SRGB_CHRM = chunk(
    b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
)
P3_CHRM = chunk(b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000))


@pytest.mark.parametrize(
    "body",
    [
        png_with(chunk(b"cICP", bytes((12, 13, 0, 1)))),
        png_with(GAMMA[45455], P3_CHRM),
        png_with(P3_CHRM, GAMMA[45455], chunk(b"sRGB", b"\0"))[:33]
        + chunk(b"iCCP", b"P3\0\0" + zlib.compress(P3))
        + png_with(chunk(b"gAMA", b"\0\0\0\1"))[33:],
    ],
    ids=["cICP", "gAMA and cHRM", "iCCP before gAMA"],
)
def test_a_png_may_name_p3_in_several_ways(body: bytes) -> None:
    assert far(read(body), converted_slowly(colours(), "P3", srgb_decoded)) <= 1
    assert read(body, "ignore").tobytes() == timms(body).tobytes()


def test_a_gamma_of_its_own_counts_with_primaries_only() -> None:
    linear = read(png_with(GAMMA[100_000], SRGB_CHRM)).getpixel((0, 26))
    assert linear == tuple(
        round(255 * srgb_encoded(value / 255))
        for value in colours().getpixel((0, 26))  # type: ignore[union-attr]
    )
    assert read(png_with(GAMMA[100_000])).tobytes() == colours().tobytes()


@pytest.mark.parametrize(
    "chunks",
    [
        (GAMMA[45455], SRGB_CHRM),
        (P3_CHRM,),
        (GAMMA[100_000], P3_CHRM, chunk(b"sRGB", b"\0")),
        (GAMMA[0], P3_CHRM),
        (GAMMA[1], P3_CHRM),
        (GAMMA[55556], chunk(b"cHRM", bytes(32))),
        (GAMMA[55556], chunk(b"cHRM", struct.pack(">8I", *[30000] * 8))),
        (chunk(b"cICP", bytes((1, 13, 0, 1))),),
        (chunk(b"cICP", bytes((12, 16, 0, 1))),),
        (chunk(b"cICP", bytes((77, 77, 0, 1))),),
        (chunk(b"cICP", b""),),
    ],
)
def test_numbers_that_mean_srgb_or_nothing_change_no_bit(chunks: tuple[bytes, ...]) -> None:
    assert read(png_with(*chunks)).tobytes() == colours().tobytes()
