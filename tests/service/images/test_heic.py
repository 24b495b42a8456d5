"""HEIC is read upright and in sRGB, within the limits; without its package the refusal helps."""

import io
import struct
import sys
from typing import Any

import pillow_heif
import pytest
from PIL import Image, ImageChops, ImageCms, ImageStat

from service.errors import ImageRejectedError, TooLargeError
from service.images import rgb
from service.images.colors.profiles import DISPLAY_P3, matrix_profile
from service.images.formats import heic
from tests.conftest import BUNDLED

SIDE = 64
P3 = matrix_profile(DISPLAY_P3)
ORIENTATION = 0x0112


@pytest.fixture(scope="module", autouse=True)
def _opener() -> None:
    pillow_heif.register_heif_opener()  # for writing


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    with Image.open(BUNDLED / "examples" / "owl.jpg") as image:
        return image.resize((160, 120)).convert("RGB")


def heic_of(picture: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, "HEIF", quality=95, chroma=444, **options)
    return file.getvalue()


def read(body: bytes) -> Image.Image:
    return rgb.read(body, SIDE)


def mean_difference(one: Image.Image, other: Image.Image) -> float:
    return max(ImageStat.Stat(ImageChops.difference(one, other)).mean)


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1"])
def test_it_shows_what_was_saved(brand: bytes, photo: Image.Image) -> None:
    body = heic_of(photo)
    body = body[:8] + brand + body[12:]
    assert mean_difference(read(body), photo) < 3


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_rotation_is_applied_once(orientation: int, photo: Image.Image) -> None:
    """Phones write it twice: into the container, which counts, and into the EXIF block."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    turned = {3: 180, 6: 270, 8: 90}.get(orientation, 0)
    upright = photo.rotate(turned, expand=True)
    body = heic_of(photo, exif=exif.tobytes())
    assert b"Exif" in body
    answer = read(body)
    assert answer.size == upright.size
    assert mean_difference(answer, upright) < 3


def test_a_profile_is_converted(photo: Image.Image) -> None:
    body = heic_of(photo, icc_profile=P3)
    srgb = ImageCms.createProfile("sRGB")
    expected = ImageCms.profileToProfile(photo, ImageCms.ImageCmsProfile(io.BytesIO(P3)), srgb)
    assert expected is not None
    assert mean_difference(read(body), expected) < 3
    assert mean_difference(rgb.read(body, SIDE, color="ignore"), photo) < 3
    assert mean_difference(photo, expected) > 4


def test_p3_may_be_named_by_numbers(photo: Image.Image) -> None:
    body = heic_of(photo, color_primaries=12, transfer_characteristic=13)
    assert mean_difference(read(body), read(heic_of(photo, icc_profile=P3))) < 1
    assert mean_difference(rgb.read(body, SIDE, color="ignore"), photo) < 3


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_other_pixels_are_read(mode: str, photo: Image.Image) -> None:
    picture = photo.convert(mode)
    assert mean_difference(read(heic_of(picture)), picture.convert("RGB")) < 3


def with_size(body: bytes, width: int, height: int) -> bytes:
    """The file, with another size in its header (ispe)."""
    at = body.index(b"ispe") + 8
    return body[:at] + struct.pack(">II", width, height) + body[at + 8 :]


def test_the_header_limits_the_pixels(photo: Image.Image) -> None:
    with pytest.raises(TooLargeError, match="9000 x 9000 pixels; allowed are 50000000"):
        read(with_size(heic_of(photo), 9000, 9000))
    with pytest.raises(TooLargeError, match="allowed are 1000 in all"):
        rgb.read(heic_of(photo), SIDE, max_pixels=1000)


@pytest.mark.parametrize("size", [(32, 32), (159, 120), (320, 240), (7000, 7000), (0, 0)])
def test_a_header_that_lies_is_refused(size: tuple[int, int], photo: Image.Image) -> None:
    with pytest.raises(ImageRejectedError, match="the HEIC is damaged and cannot be decoded"):
        read(with_size(heic_of(photo), *size))


@pytest.mark.parametrize("share", [0.01, 0.3, 0.95])
def test_what_is_cut_off_is_refused(share: float, photo: Image.Image) -> None:
    body = heic_of(photo)
    cut = body[: int(share * len(body))]
    with pytest.raises(ImageRejectedError, match=rf"HEIC is damaged.*; {len(cut)} bytes came"):
        read(cut)


def test_avif_with_a_common_brand_stays_avif(photo: Image.Image) -> None:
    file = io.BytesIO()
    photo.save(file, "AVIF", quality=90)
    body = file.getvalue()
    assert heic.is_avif(body)
    body = body[:8] + b"mif1" + body[12:]
    assert heic.is_avif(body)
    assert not heic.is_heic(body)
    assert mean_difference(read(body), photo) < 4


def test_without_the_package_the_refusal_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, photo: Image.Image
) -> None:
    body = heic_of(photo)
    heic._register.cache_clear()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageRejectedError) as caught:
        read(body)
    for words in ("HEIC", "rapid-vit[heic]", "EXTRAS=heic", "send JPEG or PNG"):
        assert words in str(caught.value)
    monkeypatch.undo()
    assert mean_difference(read(body), photo) < 3
