"""How much memory decoding a picture takes, told from its header."""

from PIL import Image

from service.images.formats import webp
from service.images.rgb import DRAFT_FORMATS

MEBIBYTE = 2**20
NARROW = {"1": 1, "L": 1, "P": 1, "LA": 4, "PA": 4}
"""bytes of a pixel in Pillow's memory, by mode; 2 with 16 bits of grey, else 4"""
RESULT = 8
"""bytes of a pixel for the RGB picture and one copy, for example turned or on white"""
INSIDE = {"WEBP": 12, "AVIF": 8, "HEIF": 12, "TIFF": 4, "GIF": 4}
"""bytes of a pixel that a decoder holds itself: whole frames, colour planes, a strip"""
COEFFICIENTS = 2
"""bytes of a coefficient of a progressive JPEG, one for each value; all stay until the last scan"""
OVERHEAD = 4 * MEBIBYTE


def needed(image: Image.Image, resize_side: int, file_bytes: int) -> int:
    """Most bytes that decoding an opened picture takes, its file and its RGB pixels included.

    Args:
        image: the picture, of which only the header has been read.
        resize_side: pixels of the shorter side after resizing: a large JPEG is decoded smaller.
        file_bytes: length of its file.
    """
    width, height = image.size
    num_pixels = width * height
    each = 2 if image.mode.startswith("I;16") else NARROW.get(image.mode, 4)
    total = OVERHEAD + 2 * file_bytes
    if image.format in DRAFT_FORMATS:
        if image.info.get("progressive"):
            total += COEFFICIENTS * len(image.getbands()) * num_pixels
        num_pixels //= _draft_scale(image.size, resize_side) ** 2
    return total + num_pixels * (each + RESULT + INSIDE.get(image.format or "", 0))


def needed_to_open(body: bytes) -> int:
    """Most bytes that a file takes as soon as it is opened: a WebP gets its frames at once."""
    size = webp.canvas(body) if webp.is_webp(body) else None
    if size is None:
        return 0
    width, height = size
    return OVERHEAD + 2 * len(body) + width * height * (4 + RESULT + INSIDE["WEBP"])


def _draft_scale(size: tuple[int, int], resize_side: int) -> int:
    """How many times smaller a side of a JPEG comes out: libjpeg scales by 1, 2, 4 or 8."""
    most = min(size) // (2 * resize_side)
    return max(scale for scale in (1, 2, 4, 8) if scale <= max(1, most))
