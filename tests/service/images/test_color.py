"""Colour profiles: converted to sRGB as the formulas say, or ignored as timm does, bit for bit."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageCms

from service.images import rgb
from service.images.colors import color
from service.images.colors.color import MAX_PROFILE_BYTES, SAME_LEVELS, Transforms
from service.images.colors.profiles import BT_709, D65, DISPLAY_P3, Primaries, matrix_profile
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


@pytest.mark.parametrize(
    ("space", "profile", "decode"),
    [
        ("P3", P3, srgb_decoded),
        ("Adobe RGB", ADOBE_RGB, lambda value: value**ADOBE_GAMMA),
        ("ProPhoto", PRO_PHOTO, lambda value: value**1.8),
    ],
)
def test_colours_are_what_the_formulas_say(
    space: str, profile: bytes, decode: Callable[[float], float]
) -> None:
    body = file_of(colours(), "PNG", icc_profile=profile)
    expected = converted_slowly(colours(), space, decode)
    assert far(read(body), expected) <= 1
    assert far(colours(), expected) > 30


@pytest.mark.parametrize("file_format", LOSSLESS)
def test_every_container_brings_its_profile(file_format: str) -> None:
    body = file_of(colours(), file_format, icc_profile=P3, **LOSSLESS[file_format])
    assert far(read(body), converted_slowly(colours(), "P3", srgb_decoded)) <= 1


@pytest.mark.parametrize("file_format", ["JPEG", "AVIF"])
def test_lossy_files_are_converted_after_decoding(file_format: str) -> None:
    picture = Image.effect_mandelbrot((30, 20), (-2, -1, 1, 1), 60).convert("RGB")
    body = file_of(Image.blend(picture, Image.new("RGB", (30, 20), "red"), 0.6), file_format)
    with_profile = file_of(timms(body), file_format, icc_profile=P3, quality=90)
    decoded = timms(with_profile)
    assert far(read(with_profile), converted_slowly(decoded, "P3", srgb_decoded)) <= 1


def test_alpha_stays_as_it_is() -> None:
    picture = colours().convert("RGBA")
    picture.putalpha(77)
    picture.info["icc_profile"] = P3
    converted = color.to_srgb(picture, "srgb")
    assert converted.getchannel("A").getextrema() == (77, 77)
    assert far(converted.convert("RGB"), converted_slowly(colours(), "P3", srgb_decoded)) <= 1


def test_a_palette_is_converted_instead_of_the_pixels() -> None:
    picture = colours().quantize(64)
    body = file_of(picture, "PNG", icc_profile=P3)
    assert Image.open(io.BytesIO(body)).mode == "P"
    assert far(read(body), converted_slowly(picture.convert("RGB"), "P3", srgb_decoded)) <= 1
    assert read(body, "ignore").tobytes() == timms(body).tobytes()


def grey_profile(gamma: float) -> bytes:
    """A profile of grey with one exponent, as Gray Gamma 2.2."""
    profile = bytearray(matrix_profile(BT_709, gamma))
    profile[16:20] = b"GRAY"
    return bytes(profile.replace(b"rTRC", b"kTRC"))


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_grey_has_profiles_of_its_own(mode: str) -> None:
    ramp = Image.frombytes("L", (256, 1), bytes(range(256)))
    body = file_of(ramp.convert(mode), "PNG", icc_profile=grey_profile(1.8))
    expected = [round(255 * srgb_encoded((value / 255) ** 1.8)) for value in range(256)]
    answer = pixels_of(read(body))
    assert max(map(far_apart, answer, expected)) == 0
    assert read(body, "ignore").tobytes() == timms(body).tobytes()


def far_apart(pixel: tuple[int, ...], grey: int) -> int:
    """How far a pixel is from a grey, less the one level that rounding may take."""
    return max(0, *(abs(value - grey) - 1 for value in pixel))


def test_grey_pixels_may_have_a_profile_of_colours() -> None:
    ramp = Image.frombytes("L", (256, 1), bytes(range(256)))
    answer = read(file_of(ramp, "JPEG", icc_profile=ADOBE_RGB, quality=100))
    expected = round(255 * srgb_encoded((20 / 255) ** ADOBE_GAMMA))
    assert far_apart(answer.getpixel((20, 0)), expected) <= 1  # type: ignore[arg-type]
    assert expected < 17


def cmyk_profile() -> bytes:
    """CMYK -> CIELAB by a table of the 16 corners: paper, inks at their full, and black."""
    inks = {(0, 0, 0): (255, 128, 128), (1, 0, 0): (140, 90, 80), (0, 1, 0): (120, 200, 120)}
    nodes = b""
    for corner in range(16):  # the first ink changes slowest
        cyan, magenta, yellow, black = (corner >> shift & 1 for shift in (3, 2, 1, 0))
        lightness, a, b = inks.get((cyan, magenta, yellow), (100, 128, 128))
        nodes += bytes((0, 128, 128) if black else (lightness, a, b))
    unit = [65536, 0, 0, 0, 65536, 0, 0, 0, 65536]
    table = struct.pack(">4s4xBBBx9i", b"mft1", 4, 3, 2, *unit)
    table += bytes(range(256)) * 4 + nodes + bytes(range(256)) * 3
    white = struct.pack(">4s4x3i", b"XYZ ", 63190, 65536, 54061)
    header = bytearray(matrix_profile(BT_709)[:128])
    header[8:24] = struct.pack(">I4s4s4s", 0x02400000, b"prtr", b"CMYK", b"Lab ")
    tags = struct.pack(">I4sII4sII", 2, b"A2B0", 156, len(table), b"wtpt", 156 + len(table), 20)
    header[:4] = struct.pack(">I", 156 + len(table) + 20)
    return bytes(header) + tags + table + white


@pytest.mark.parametrize("file_format", ["JPEG", "TIFF"])
def test_inks_are_what_their_profile_says(file_format: str) -> None:
    picture = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    picture.paste((0, 0, 0, 0), (0, 0, 16, 8))
    options = {"quality": 100} if file_format == "JPEG" else {}
    plain = file_of(picture, file_format, **options)
    answer = read(file_of(picture, file_format, icc_profile=cmyk_profile(), **options))
    paper, cyan = answer.getpixel((3, 3)), answer.getpixel((3, 13))
    assert min(paper) >= 253  # type: ignore[arg-type, type-var]
    # CIELAB 54.9, -38, -48, by the formulas of CIELAB and sRGB
    assert max(abs(x - y) for x, y in zip(cyan, (0, 150, 216), strict=True)) <= 8  # type: ignore[arg-type]
    assert read(plain).tobytes() == timms(plain).tobytes()


def test_cielab_needs_no_profile() -> None:
    picture = Image.new("LAB", (16, 16), (137, 128, 128))  # L 53.7: middle grey
    answer = read(file_of(picture, "TIFF")).getpixel((3, 3))
    assert max(abs(value - 128) for value in answer) <= 2  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "profile",
    [
        matrix_profile(BT_709),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        b"",
        b"no profile at all",
        P3[:200],
        P3[:60] + b"\xff" * 200 + P3[260:],
        P3.replace(b"RGB ", b"CMYK"),
        P3.replace(b"mntr", b"link"),
        grey_profile(1.8),
        P3 + bytes(MAX_PROFILE_BYTES),
    ],
    ids=lambda profile: f"{len(profile)} bytes",
)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_srgb_and_what_cannot_be_used_change_no_bit(profile: bytes, mode: str) -> None:
    picture = colours().quantize(200) if mode == "P" else colours().convert(mode)
    body = file_of(picture, "TIFF", **({"icc_profile": profile} if profile else {}))
    assert read(body).tobytes() == timms(body).tobytes()


def test_a_tag_that_is_no_profile_is_ignored() -> None:
    picture = colours()
    for nonsense in ("text", (1, 2), 7, None):
        picture.info["icc_profile"] = nonsense
        assert color.to_srgb(picture, "srgb") is picture
    assert picture.tobytes() == colours().tobytes()


@pytest.mark.parametrize("profile", [P3, ADOBE_RGB, PRO_PHOTO])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_ignored_profiles_give_timms_own_pixels(file_format: str, profile: bytes) -> None:
    body = file_of(colours(), file_format, icc_profile=profile)
    assert read(body, "ignore").tobytes() == timms(body).tobytes()
    assert far(read(body), timms(body)) > 20


def test_ways_of_writing_srgb_are_closer_than_any_other_space() -> None:
    """The tolerance lies between rounding and the nearest space that is another one."""
    samples = colours()
    for profile, largest in ((matrix_profile(BT_709), SAME_LEVELS), (P3, 255)):
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        answer = ImageCms.ImageCmsTransform(source, srgb, "RGB", "RGB").apply(samples)
        assert far(answer, samples) <= largest
    assert Transforms().find(matrix_profile(BT_709, gamma=2.2), "RGB") is not None


def test_few_transforms_are_kept_and_each_is_built_once() -> None:
    transforms = Transforms(most=3)
    profiles = [matrix_profile(DISPLAY_P3, gamma=1 + number / 10) for number in range(5)]
    first = [transforms.find(profile, "RGB") for profile in profiles]
    assert len(transforms) == 3
    assert [transforms.find(profile, "RGB") for profile in profiles[2:]] == first[2:]
    assert transforms.find(profiles[0], "RGB") is not first[0]


# colours that a file names by numbers


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_with(*chunks: bytes) -> bytes:
    plain = file_of(colours(), "PNG")
    return plain[:33] + b"".join(chunks) + plain[33:]


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
