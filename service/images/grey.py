"""Grey of more than 8 bits becomes grey of 8 bits, as the file means it."""

from PIL import Image

NUM_VALUES = 1 << 16


def to_8_bits(
    image: Image.Image, *, bits: int, inverted: bool, key: int | None = None
) -> Image.Image:
    """Grey of 8 bits: the upper 8 of its `bits`.

    Args:
        image: of a mode of 16 bits.
        bits: how many of the 16 a sample has, at least 8; the values are below 2^bits.
        inverted: 0 is white.
        key: the value that is transparent: it becomes white.
    """
    table = [min(value >> (bits - 8), 255) for value in range(NUM_VALUES)]
    if inverted:
        table = [255 - value for value in table]
    if key is not None:
        table[key] = 255
    # Only a picture of 32 bits has a table of all values of 16 bits.
    return image.convert("I").point(table, "L")
