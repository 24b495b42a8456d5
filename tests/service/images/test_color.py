"""Colour profiles: converted to sRGB as the formulas say, or ignored as timm does, bit for bit."""

import io
import struct
from collections.abc import Callable

import pytest
from PIL import Image, ImageCms

from service.images.colors import color
from service.images.colors.color import MAX_PROFILE_BYTES, SAME_LEVELS, Transforms
from service.images.colors.profiles import BT_709, DISPLAY_P3, matrix_profile
from tests.service.images.colours import (
    ADOBE_GAMMA,
    ADOBE_RGB,
    LOSSLESS,
    P3,
    PRO_PHOTO,
    colours,
    converted_slowly,
    far,
    file_of,
    pixels_of,
    read,
    srgb_decoded,
    srgb_encoded,
    timms,
)


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
