"""Grey of more than 8 bits becomes grey of 8 bits, as the file means it."""

from PIL import Image, ImageChops

WHITE = 255


def to_8_bits(
    image: Image.Image, *, bits: int, inverted: bool, key: int | None = None
) -> Image.Image:
    """Grey of 8 bits: the upper 8 of its `bits`. What `info` says stays.

    Args:
        image: of a mode of 16 bits.
        bits: how many of the 16 a sample has, at least 8; the values are below 2^bits.
        inverted: 0 is white.
        key: the value that is transparent: it becomes white.
    """
    if bits == 16 and key is None:
        # These modes of raw data take the upper byte of two.
        raw = "L;16B" if image.mode == "I;16B" else "L;16"
        grey = Image.frombytes("L", image.size, image.tobytes(), "raw", raw)
    else:
        table = [min(value >> (bits - 8), 255) for value in range(1 << 16)]
        if key is not None:
            table[key] = 255 - WHITE if inverted else WHITE
        # Only a picture of 32 bits can be looked up in a table of all values of 16 bits.
        grey = image.convert("I").point(table, "L")
    grey = ImageChops.invert(grey) if inverted else grey
    grey.info = image.info.copy()
    return grey
