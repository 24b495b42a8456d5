"""Bytes -> pixels: timm's own values, every kind of file, and a clear no to all the rest."""

import io
import json
import logging
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torch import Tensor

from service.backends.placement import CPU
from service.errors import ImageRejectedError, TooLargeError
from service.images.decode import InputSpec, decode
from service.images.formats.jpeg import MAX_SCANS, MAX_SEGMENTS
from service.images.formats.parts import MAX_READS
from service.models import catalog, timm_models
from service.models.served import ServedModel
from service.models.timm_models import create_transform, timm
from tests.conftest import BUNDLED

Picture = Image.Image
SIDE = 224
IMAGENET_STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
ORIENTATION = 0x0112  # the EXIF tag

# What a camera did to the upright picture when it wrote this orientation (EXIF 2.32, 4.6.4.A).
STORED_AS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def encoded(picture: Picture, file_format: str, **options: Any) -> bytes:
    """The picture as a file."""
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()


def opened(body: bytes) -> Picture:
    """As timm's own data sets open a file."""
    return Image.open(io.BytesIO(body)).convert("RGB")


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims this size in its header and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


def raw_pixels(image: Picture) -> Tensor:
    """A stand-in for the transform: the decoded picture itself, (H, W, 3)."""
    values = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return values.reshape(image.height, image.width, 3)


def decoded(body: bytes) -> Tensor:
    return decode(body, InputSpec(raw_pixels, SIDE))


@pytest.fixture(scope="module")
def bundled() -> ServedModel:
    return catalog.load(BUNDLED.name, CPU)


@pytest.fixture(scope="module")
def spec(bundled: ServedModel) -> InputSpec:
    return InputSpec(bundled.transform, bundled.input_spec.resize_side)


@pytest.fixture(scope="module")
def photo(owl: bytes) -> Picture:
    return opened(owl)


@pytest.fixture(scope="module")
def thumbnail(photo: Picture) -> Picture:
    return photo.resize((96, 72))


def test_the_examples_have_the_pixels_of_timms_evaluation_transform(
    spec: InputSpec, examples: list[Path]
) -> None:
    config = json.loads((BUNDLED / "config.json").read_text())["pretrained_cfg"]
    names = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
    timms = create_transform(**{name: config[name] for name in names}, is_training=False)
    assert len(examples) == 12
    for path in examples:
        with Image.open(path) as image:
            assert torch.equal(decode(path.read_bytes(), spec), timms(image.convert("RGB"))), path


@pytest.mark.parametrize(
    ("config", "resize_side"),
    [
        ({"crop_pct": 1.0}, 64),
        ({"crop_pct": 0.875, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}, 73),
        ({"crop_pct": 0.9, "mean": (0.48, 0.46, 0.41), "interpolation": "bilinear"}, 71),
        ({"crop_pct": 0.95, "crop_mode": "squash"}, 67),
    ],
)
def test_a_models_own_configuration_counts(
    config: dict[str, object], resize_side: int, photo: Picture, tmp_path: Path
) -> None:
    size = {"img_size": 64, "embed_dim": 32, "depth": 1, "num_heads": 4}
    timm.models.save_for_hf(
        timm.create_model("vit_tiny_patch16_224", num_classes=2, **size),
        tmp_path,
        model_config={
            "model_args": size,
            "pretrained_cfg": {"input_size": (3, 64, 64), "num_classes": 2, **config},
        },
        safe_serialization=True,
    )
    loaded = timm_models.load(str(tmp_path))
    # What timm takes for a ViT that does not say otherwise.
    defaults = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "interpolation": "bicubic"}
    timms = create_transform((3, 64, 64), is_training=False, **{**defaults, **config})
    spec = InputSpec(loaded.transform, loaded.resize_side)
    assert torch.equal(decode(encoded(photo, "PNG"), spec), timms(photo))
    assert loaded.resize_side == resize_side


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "WEBP"])
def test_a_lossless_copy_gives_the_same_pixels(
    file_format: str, spec: InputSpec, photo: Picture, owl: bytes
) -> None:
    options = {"lossless": True} if file_format == "WEBP" else {}
    assert torch.equal(decode(encoded(photo, file_format, **options), spec), decode(owl, spec))


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "AVIF"])
def test_a_lossy_copy_gives_its_own_pixels(
    file_format: str, spec: InputSpec, photo: Picture
) -> None:
    body = encoded(photo, file_format)
    assert torch.equal(decode(body, spec), spec.transform(opened(body)))


@pytest.mark.parametrize(
    ("size", "resize_side", "decoded_size"),
    [
        ((640, 480), 224, (640, 480)),
        ((1194, 895), 224, (1194, 895)),
        ((1195, 896), 224, (598, 448)),
        ((896, 3000), 224, (448, 1500)),
        ((2400, 1791), 224, (1200, 896)),
        ((2400, 1792), 224, (600, 448)),
        ((4800, 3583), 224, (1200, 896)),
        ((4800, 3584), 224, (600, 448)),
        ((5120, 3840), 224, (640, 480)),
        ((7168, 4000), 224, (896, 500)),
        ((1300, 1023), 256, (1300, 1023)),
        ((1300, 1024), 256, (650, 512)),
        ((5120, 3840), 518, (2560, 1920)),
    ],
)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_reduced_jpeg_keeps_twice_the_target(
    size: tuple[int, int], resize_side: int, decoded_size: tuple[int, int], mode: str
) -> None:
    body = encoded(Image.new(mode, size), "JPEG")
    seen = decode(body, InputSpec(lambda image: torch.tensor(image.size), resize_side))
    assert tuple(seen.tolist()) == decoded_size


def test_other_formats_are_never_reduced() -> None:
    for file_format in ("PNG", "WEBP"):
        assert decoded(encoded(Image.new("L", (1200, 900)), file_format)).shape == (900, 1200, 3)


@pytest.mark.parametrize(
    ("factor", "names"),
    [
        (2, ["koala", "zebra"]),
        (4, ["elephant", "violin"]),
        (8, ["koala", "pineapple"]),
    ],
)
def test_a_reduced_jpeg_shows_the_same(
    factor: int, names: list[str], spec: InputSpec, bundled: ServedModel
) -> None:
    reduced, whole = [], []
    for name in names:
        with Image.open(BUNDLED / "examples" / f"{name}.jpg") as image:
            large = image.resize((factor * image.width, factor * image.height))
        body = encoded(large, "JPEG", quality=90)
        reduced.append(decode(body, spec))
        whole.append(spec.transform(opened(body)))
        difference = ((reduced[-1] - whole[-1]) * IMAGENET_STD).abs().mean()
        assert 0 < difference <= 1 / 255, name
    with torch.inference_mode():
        logits = bundled.variant("rapid", 0).module(torch.stack(reduced + whole))
    best = [bundled.labels[index] for index in logits.argmax(dim=1).tolist()]
    assert best == names + names


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF"])
def test_a_rotated_file_gives_the_upright_pixels(
    file_format: str, orientation: int, spec: InputSpec, thumbnail: Picture
) -> None:
    turn = STORED_AS.get(orientation)
    stored = thumbnail if turn is None else thumbnail.transpose(turn)
    options = {"lossless": True} if file_format == "WEBP" else {}
    body = encoded(stored, file_format, exif=exif(orientation), **options)
    assert torch.equal(decode(body, spec), decode(encoded(thumbnail, "PNG"), spec))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("factor", [1, 2])
def test_a_rotated_jpeg_equals_the_one_rotated_before_saving(
    orientation: int, factor: int, spec: InputSpec, photo: Picture
) -> None:
    large = photo.resize((factor * photo.width, factor * photo.height))
    body = encoded(large, "JPEG", exif=exif(orientation))
    with Image.open(io.BytesIO(body)) as image:
        if factor > 1:  # reduced as it is decoded: see above
            image.draft(None, (2 * SIDE, 2 * SIDE))
            assert image.size == photo.size
        upright = encoded(ImageOps.exif_transpose(image), "PNG")
    assert torch.equal(decode(body, spec), decode(upright, spec))


def test_a_cmyk_jpeg_shows_its_colours(thumbnail: Picture) -> None:
    body = encoded(thumbnail.convert("CMYK"), "JPEG", quality=95)
    assert Image.open(io.BytesIO(body)).mode == "CMYK"
    assert torch.equal(decoded(body), raw_pixels(opened(body)))
    difference = decoded(body).float() - raw_pixels(thumbnail).float()
    assert difference.abs().mean() < 8  # of 255; an inverted picture differs by 100


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_upper_8_bits(file_format: str) -> None:
    values = torch.arange(65536, dtype=torch.int32).to(torch.uint16)
    image = Image.frombytes("I;16", (256, 256), bytes(values.view(torch.uint8).tolist()))
    pixels = decoded(encoded(image, file_format))
    row = torch.arange(256, dtype=torch.uint8)  # line y holds 256 y ... 256 y + 255
    assert torch.equal(pixels, row[:, None, None].expand(256, 256, 3))


@pytest.mark.parametrize(
    ("mode", "colour", "rgb"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 77, (77, 77, 77)),
        ("LA", (77, 5), (252, 252, 252)),
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("I;16", 0x4D80, (0x4D, 0x4D, 0x4D)),
    ],
)
def test_one_pixel_fills_the_picture(
    mode: str, colour: Any, rgb: tuple[int, int, int], spec: InputSpec
) -> None:
    body = encoded(Image.new(mode, (1, 1), colour), "PNG")
    assert decoded(body).tolist() == [[list(rgb)]]
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    wanted = (torch.tensor(rgb)[:, None, None] / 255 - mean) / IMAGENET_STD
    torch.testing.assert_close(decode(body, spec), wanted.expand(3, SIDE, SIDE))


@pytest.mark.parametrize("transparency", [0, 2, bytes([0, 128, 255])])
@pytest.mark.parametrize("file_format", ["PNG", "GIF"])
def test_a_palette_with_transparency_is_laid_on_white(
    file_format: str, transparency: int | bytes
) -> None:
    if file_format == "GIF" and isinstance(transparency, bytes):
        transparency = 1
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    body = encoded(image, file_format, transparency=transparency)
    assert "transparency" in Image.open(io.BytesIO(body)).info
    colors = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    if isinstance(transparency, bytes):
        colors[:2] = [255, 255, 255], [127, 255, 127]
    else:
        colors[transparency] = [255, 255, 255]
    assert decoded(body).tolist() == [colors]


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_several_counts(file_format: str) -> None:
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    options = {"lossless": True} if file_format == "WEBP" else {}
    body = encoded(red, file_format, save_all=True, append_images=[blue], **options)
    assert getattr(Image.open(io.BytesIO(body)), "n_frames", 1) == 2
    assert torch.equal(decoded(body), raw_pixels(red))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((30_000, 30_000), "30000 x 30000 pixels; allowed are 50000000 in all"),
        ((2**31 - 1, 2**31 - 1), "allowed are 50000000 in all"),
        ((50_000_001, 1), "50000001 x 1 pixels; allowed are 50000000"),
        ((1, 100_000), "1 x 100000 pixels is too long and thin"),
        ((100_000, 1), "100000 x 1 pixels is too long and thin"),
    ],
)
def test_too_many_pixels_are_found_in_the_header(
    size: tuple[int, int], message: str, spec: InputSpec
) -> None:
    body = png_of(*size)
    assert len(body) < 100
    with pytest.raises(TooLargeError, match=message):
        decode(body, spec)


@pytest.mark.parametrize(
    ("size", "allowed"),
    [
        ((10, 10), True),
        ((10, 11), False),  # more pixels than 100
        ((1, 11), True),  # becomes 3 x 33
        ((12, 1), False),  # would become 36 x 3
    ],
)
def test_the_limit_counts_before_and_after_resizing(size: tuple[int, int], allowed: bool) -> None:
    spec = InputSpec(raw_pixels, resize_side=3)
    body = encoded(Image.new("RGB", size), "PNG")
    if allowed:
        assert decode(body, spec, max_pixels=100).shape == (size[1], size[0], 3)
    else:
        with pytest.raises(TooLargeError):
            decode(body, spec, max_pixels=100)


UNKNOWN = "not an image of a known format; known are JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the image is empty"),
        (b"\x00", UNKNOWN),
        (b"hello, world", UNKNOWN),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', UNKNOWN),
        (b"<!doctype html><title>404</title>", UNKNOWN),
        (b"%PDF-1.7\n", UNKNOWN),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", UNKNOWN),
        (random.Random(0).randbytes(5000), UNKNOWN),
        (b"\xff\xd8\xff\xe0", "the JPEG is damaged and cannot be decoded: .* 4 bytes came"),
        (png_of(64, 64), "damaged and cannot be decoded"),
        (encoded(Image.new("F", (8, 8), 0.5), "TIFF"), "mode 'F' .* send 8 or 16 bits a channel"),
        (encoded(Image.new("I", (8, 8), 70_000), "TIFF"), "mode 'I' .* send 8 or 16 bits"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_no_image_is_refused(body: bytes, message: str, spec: InputSpec) -> None:
    with pytest.raises(ImageRejectedError, match=message):
        decode(body, spec)


@pytest.mark.parametrize("share", [0.0005, 0.01, 0.1, 0.5, 0.9, 0.98])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_a_truncated_file_is_refused(
    file_format: str, share: float, spec: InputSpec, thumbnail: Picture
) -> None:
    body = encoded(thumbnail, file_format)
    with pytest.raises(ImageRejectedError, match=r"damaged|known format"):
        decode(body[: 1 + int(share * len(body))], spec)


bounded = settings(max_examples=60, deadline=None, derandomize=True, database=None)
SMALL = InputSpec(create_transform((3, 32, 32), is_training=False), 36)
HEADS = [b"", b"\xff\xd8\xff\xe0", png_of(8, 8)[:33], b"GIF89a", b"RIFF\x24\0\0\0WEBPVP8 ", b"BM"]


def shape_or_refusal(body: bytes) -> tuple[int, ...] | None:
    try:
        return tuple(decode(body, SMALL).shape)
    except (ImageRejectedError, TooLargeError):
        return None


@bounded
@given(head=st.sampled_from(HEADS), tail=st.binary(max_size=400))
def test_any_bytes_are_an_image_or_refused(head: bytes, tail: bytes) -> None:
    assert shape_or_refusal(head + tail) in {(3, 32, 32), None}


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
@bounded
@given(flips=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=8))
def test_flipped_bits_give_an_image_or_a_refusal(file_format: str, flips: list[float]) -> None:
    with Image.open(BUNDLED / "examples" / "owl.jpg") as image:
        body = bytearray(encoded(image.resize((48, 36)), file_format, exif=exif(6)))
    for flip in flips:
        bit = int(flip * 8 * len(body))
        body[bit // 8] ^= 1 << bit % 8
    assert shape_or_refusal(bytes(body)) in {(3, 32, 32), None}


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "JPEG"])
def test_a_damaged_exif_block_asks_for_no_rotation(file_format: str, spec: InputSpec) -> None:
    picture = Image.new("RGB", (64, 48), "red")
    options = {"lossless": True} if file_format == "WEBP" else {}
    damaged = encoded(picture, file_format, exif=b"Exif\x00\x00garbage", **options)
    assert torch.equal(
        decode(damaged, spec), decode(encoded(picture, file_format, **options), spec)
    )


# files that cost more than they seem to


def scans_of(jpeg: bytes) -> list[int]:
    """Where the scans of a plain JPEG begin; no metadata in it."""
    return [at for at in range(len(jpeg)) if jpeg.startswith(b"\xff\xda", at)]


def with_scans(num_scans: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    jpeg = encoded(Image.new("L", (64, 48), 99), "JPEG", progressive=True)
    starts, end = scans_of(jpeg), len(jpeg) - 2
    return jpeg[:end] + jpeg[starts[-1] : end] * (num_scans - len(starts)) + jpeg[end:]


def test_a_jpeg_of_many_scans_is_refused() -> None:
    assert len(scans_of(with_scans(MAX_SCANS))) == MAX_SCANS
    assert decoded(with_scans(MAX_SCANS)).shape == (48, 64, 3)
    for body in (with_scans(MAX_SCANS + 1), with_scans(1000), with_scans(1000)[:-100]):
        with pytest.raises(ImageRejectedError, match="too many scans"):
            decoded(body)


def test_what_is_no_scan_of_the_picture_does_not_count(thumbnail: Picture) -> None:
    like_scans = b"\xff\xda" * 1000
    comment = b"\xff\xfe" + struct.pack(">H", 2 + len(like_scans)) + like_scans
    for options in ({}, {"progressive": True}):
        jpeg = encoded(thumbnail, "JPEG", **options)
        # a preview in the metadata, filling, and a film behind the end of the picture
        body = jpeg[:2] + comment + b"\xff" * 3 + jpeg[2:] + like_scans
        assert torch.equal(decoded(body), decoded(jpeg))
    assert decoded(encoded(thumbnail, "PNG") + like_scans).shape == (72, 96, 3)


@pytest.mark.parametrize(
    "hidden",
    [
        b"\xff\x01\xff\xfe\x00\x02",  # a marker without a length, and an empty comment
        b"\xff\xd8",
        b"\xff\xfe\x00\x00",
        b"\xff\xff\xff",
        b"\x00junk\xff\x00",
        b"\xff\xd0\xff\xd7",
    ],
)
def test_scans_cannot_be_hidden(hidden: bytes) -> None:
    jpeg = encoded(Image.new("L", (64, 48), 99), "JPEG", progressive=True)
    first, end = scans_of(jpeg)[0], len(jpeg) - 2
    body = jpeg[:end] + (hidden + jpeg[first:end]) * MAX_SCANS + jpeg[end:]
    with pytest.raises(ImageRejectedError, match="too many scans"):
        decoded(body)


def test_scans_in_a_tiff_are_limited_too() -> None:
    """By libtiff itself: this shows that a check of our own is not needed."""
    for num_scans, fits in ((20, True), (120, False)):
        jpeg = with_scans(num_scans)
        tags = {256: 64, 257: 48, 258: 8, 259: 7, 262: 1, 273: 8 + 2 + 9 * 12 + 4, 277: 1}
        tags |= {278: 48, 279: len(jpeg)}
        entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
        body = b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(entries) + bytes(4) + jpeg
        if fits:
            assert decoded(body).shape == (48, 64, 3)
        else:
            with pytest.raises(ImageRejectedError, match="cannot be decoded"):
                decoded(body)


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xd8" + b"\xff" * (MAX_READS + 1),
        b"\xff\xd8" + b"\xff\xfe\x00\x02" * (MAX_READS // 2),
        b"\xff\xd8" + b"\xff\xfe\x00\x04\xff\xda" * (MAX_SEGMENTS + 1),
    ],
    ids=["filling", "comments", "comments like scans"],
)
def test_a_file_of_tiny_parts_is_refused(body: bytes) -> None:
    with pytest.raises(ImageRejectedError, match=r"tiny parts|too many scans or segments"):
        decoded(body)


def test_a_picture_for_which_there_is_no_memory_is_refused() -> None:
    def transform(_: Picture) -> Tensor:
        raise MemoryError

    with pytest.raises(TooLargeError, match="not enough memory to decode the image"):
        decode(encoded(Image.new("L", (8, 8)), "PNG"), InputSpec(transform, SIDE))


def test_a_damaged_exif_block_is_not_quoted_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "service.images")
    decoded(encoded(Image.new("RGB", (8, 8)), "PNG", exif=b"Exif\x00\x00secret"))
    assert [record.getMessage() for record in caplog.records if "EXIF" in record.msg] == [
        "unreadable EXIF block: SyntaxError"
    ]
