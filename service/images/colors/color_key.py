"""The one colour of a picture that stands for transparent (the chunk tRNS of a PNG file)."""

from PIL import Image, ImageChops

from service.images.formats import parts
from service.images.formats.source import Source

WHITE = (255, 255, 255)


def whiten(image: Image.Image, source: Source) -> Image.Image:
    """Pixels of exactly the transparent colour become white. Grey -> L, RGB -> RGB.

    Args:
        image: grey of at most 8 bits, or RGB.
        source: the file of it; its key has one sample or three.
    """
    if len(source.key) == 1:
        table = list(range(256))
        table[source.key[0] * 255 // ((1 << source.bits) - 1)] = WHITE[0]
        return image.convert("L").point(table)
    if source.bits == 16:
        upper, lower = zip(*(divmod(sample, 256) for sample in source.key), strict=True)
        mask = ImageChops.darker(_equal(image, upper), _equal(_lower_bytes(source), lower))
    else:
        mask = _equal(image, source.key)
    image.paste(WHITE, mask=mask)
    return image


def _equal(image: Image.Image, color: tuple[int, ...]) -> Image.Image:
    """Where an RGB picture has this colour: 255, elsewhere 0 (mode L)."""
    mask = Image.new("L", image.size, 255)
    for channel, sample in enumerate(color):  # one after the other: pictures may be large
        table = [255 * (value == sample) for value in range(256)]
        mask = ImageChops.darker(mask, image.getchannel(channel).point(table))
    return mask


def _lower_bytes(source: Source) -> Image.Image:
    """The lower bytes of the 16 bits of an RGB picture; Pillow takes the upper ones."""
    with parts.opened(source.parts, ["PNG"]) as image:
        # In the other byte order, the upper byte is the lower one.
        image.tile = [piece._replace(args="RGB;16L") for piece in image.tile]
        image.load()
    return image
