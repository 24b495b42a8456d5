"""The model gives the same answer to a picture and to the forms of it that people have."""

import struct
import zlib
from collections.abc import Callable

import pytest
import torch
from PIL import Image, ImageChops, ImageDraw
from torch import Tensor

from service.backends.placement import CPU
from service.images.decode import InputSpec, decode
from service.models import catalog
from service.models.served import ServedModel
from tests.conftest import BUNDLED
from tests.service.images.files import Pixels, chunk, encoded, packed, tiff_of, with_chunks

LOSSLESS, LOSSY = 0.02, 0.05
"""most total variation between two answers (0 same, 1 disjoint)"""


@pytest.fixture(scope="module", name="model")
def load() -> ServedModel:
    return catalog.load(BUNDLED.name, CPU)


def example(name: str) -> Image.Image:
    with Image.open(BUNDLED / "examples" / f"{name}.jpg") as image:
        return image.convert("RGB")


def cut_out(name: str) -> Image.Image:
    """What an ellipse covers, softly; the hidden pixels are black."""
    image = example(name)
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).ellipse((8, 8, image.width - 8, image.height - 8), fill=255)
    edge = Image.linear_gradient("L").resize(image.size)
    mask = ImageChops.multiply(mask, edge.point([min(255, 4 * v + 60) for v in range(256)]))
    image.paste((0, 0, 0), mask=mask.point([255 * (not v) for v in range(256)]))
    image.putalpha(mask)
    return image


def on_white(image: Image.Image) -> Image.Image:
    ground = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(ground, image).convert("RGB")


def hard(image: Image.Image) -> Image.Image:
    """Every pixel opaque or transparent."""
    image.putalpha(image.getchannel("A").point([255 * (v > 127) for v in range(256)]))
    return image


def answers(model: ServedModel, bodies: list[bytes]) -> Tensor:
    """Probabilities of all classes, (B, K)."""
    spec = InputSpec(model.transform, model.input_spec.resize_side)
    # Most forms have equal pixels, and equal pixels get one answer.
    pixels, number = torch.unique(
        torch.stack([decode(body, spec) for body in bodies]), dim=0, return_inverse=True
    )
    with torch.inference_mode():
        return model.variant("rapid", 0).module(pixels).softmax(dim=1)[number]


def check(
    model: ServedModel, pairs: dict[str, tuple[bytes, Image.Image]], most: float, best: str | None
) -> None:
    """Each file gives the answer of its picture, which is the class `best` if that is given."""
    bodies = [body for body, _ in pairs.values()]
    plain_bodies = [encoded(picture, "PNG") for _, picture in pairs.values()]
    seen, plain = answers(model, bodies + plain_bodies).split(len(pairs))
    variations = (plain - seen).abs().sum(dim=1) / 2
    assert {
        form: float(variation)
        for form, variation in zip(pairs, variations, strict=True)
        if variation > most
    } == {}
    if best:
        assert {model.labels[number] for number in seen.argmax(dim=1).tolist()} == {best}


def test_cut_outs(model: ServedModel) -> None:
    soft = cut_out("teapot")
    grey = soft.convert("LA")
    palette = Image.merge("RGB", hard(cut_out("teapot")).split()[:3]).quantize(255)
    numbers = Image.new("P", soft.size, 255)
    numbers.putpalette([*(palette.getpalette() or [])[: 3 * 255], 0, 0, 0])
    numbers.paste(palette, mask=hard(cut_out("teapot")).getchannel("A"))
    shown = numbers.convert("RGB")
    shown.paste("white", mask=numbers.point([255 * (v == 255) for v in range(256)], "L"))
    forms = {
        "RGBA PNG": (encoded(soft, "PNG"), on_white(soft)),
        "RGBA WebP": (encoded(soft, "WEBP", lossless=True, exact=True), on_white(soft)),
        "RGBA TIFF": (encoded(soft, "TIFF", compression="tiff_lzw"), on_white(soft)),
        "LA PNG": (encoded(grey, "PNG"), on_white(grey.convert("RGBA"))),
        "LA TIFF": (encoded(grey, "TIFF"), on_white(grey.convert("RGBA"))),
        "PNG8": (encoded(numbers, "PNG", transparency=255), shown),
        "GIF": (encoded(numbers, "GIF", transparency=255, optimize=False), shown),
    }
    check(model, forms, LOSSLESS, None)


def test_lossy_cut_outs(model: ServedModel) -> None:
    soft = cut_out("teapot")
    options = {"quality": 95, "subsampling": "4:4:4"}
    forms: dict[str, Callable[[], bytes]] = {
        "AVIF": lambda: encoded(soft, "AVIF", **options),
        "premultiplied AVIF": lambda: encoded(soft, "AVIF", alpha_premultiplied=True, **options),
        "WebP": lambda: encoded(soft, "WEBP", quality=95),
    }
    check(model, {form: (body(), on_white(soft)) for form, body in forms.items()}, LOSSY, None)


def grey_tiff(picture: Image.Image, bits: int, order: str, *, inverted: bool) -> bytes:
    """Grey with more bits than the picture has."""
    data = picture.convert("L").tobytes()
    top = (1 << bits) - 1
    values = [value * top // 255 for value in range(256)]
    rows: Pixels = [
        [(values[v] ^ (top if inverted else 0),) for v in data[at : at + picture.width]]
        for at in range(0, len(data), picture.width)
    ]
    strip = b"".join(packed([p[0] for p in row], bits, order) for row in rows)
    tags = {256: [picture.width], 257: [picture.height], 258: [bits], 259: [1], 277: [1]}
    tags |= {262: [0 if inverted else 1], 278: [picture.height]}
    return tiff_of(strip, order, dict(tags))


@pytest.mark.parametrize("name", ["teapot", "camera"])
def test_grey_tiffs(name: str, model: ServedModel) -> None:
    picture = example(name).resize((160, 120))
    shown = picture.convert("L").convert("RGB")
    forms = {
        f"{bits} bits, {order}, inverted {inverted}": (
            grey_tiff(picture, bits, order, inverted=inverted),
            shown,
        )
        for bits in (12, 16)
        for order in "<>"
        for inverted in (False, True)
    }
    check(model, forms, LOSSLESS, name)


def test_metadata_of_workflows_and_editors(model: ServedModel) -> None:
    picture = example("owl")
    plain = encoded(picture, "PNG")
    noise = zlib.compress(struct.pack(">500000I", *range(500_000)))
    texts = {
        "zTXt": chunk(b"zTXt", b"workflow\0\0" + noise),
        "iTXt": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + noise),
        "iCCP": chunk(b"iCCP", b"profile\0\0" + noise),
        "damaged tEXt": chunk(b"tEXt", b"Software\0nobody", damaged=True),
    }
    bodies = {form: (with_chunks(plain, text), picture) for form, text in texts.items()}
    check(model, bodies, LOSSLESS, "owl")
