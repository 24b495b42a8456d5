"""Bytes -> an upright RGB picture, within limits.

No PyTorch here: a process that only decodes stays small.
"""

import io
import logging
import re
import struct
from collections.abc import Callable

from PIL import Image, ImageOps, UnidentifiedImageError

from service.errors import ImageRejectedError, ServiceError, TooLargeError
from service.images import code_points, heic, refusals
from service.images import color as colors
from service.images.options import COLOR, MAX_PIXELS, Color

logger = logging.getLogger(__name__)

DRAFT_FORMATS = ("JPEG", "MPO")

MAX_SCANS = 32
"""most scans of a JPEG. Encoders write about ten; even a short one is a pass over all pixels."""
MAX_SEGMENTS = 10_000
"""most segments of a JPEG, scans included; a photo has some dozens."""
MAX_READS = 500_000
"""most reads of one file by Pillow's parsers. They are Python: millions of small reads are slow."""
MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""start of a JPEG segment; FF 00 and restart markers are data of a scan, FF FF is padding."""
SCAN, END_OF_IMAGE = 0xDA, 0xD9
WITHOUT_LENGTH = (0x01, 0xD8)

NO_MEMORY = "there is not enough memory to decode the image; send a smaller one"

# Pillow's own limit only warns, and it holds for the whole process. `read` checks its limit from
# the header, before it decodes anything.
Image.MAX_IMAGE_PIXELS = None


def read(
    body: bytes,
    resize_side: int,
    max_pixels: int = MAX_PIXELS,
    *,
    color: Color = COLOR,
    before_pixels: Callable[[Image.Image], None] = lambda _: None,
) -> Image.Image:
    """Decode an image: an RGB picture, the right way up.

    Of an animation, the first frame is taken. EXIF rotation is applied. Colour becomes RGB; grey of
    16 bits keeps its upper 8. A large photo may come out smaller, but with at least twice the
    length that its sides will have after resizing.

    Args:
        body: the image file.
        resize_side: pixels that the shorter side will have after resizing.
        max_pixels: most pixels, before and after resizing.
        color: what becomes of a colour profile.
        before_pixels: called with the opened picture when its header is read and its size is
            allowed, before any pixel is decoded. It may raise a ServiceError.

    Raises:
        ImageRejectedError: empty, truncated, damaged, or not an image of a known format.
        TooLargeError: more pixels than allowed, or than there is memory for.
        ServiceError: what `before_pixels` raises.
    """
    if not body:
        raise ImageRejectedError("the image is empty (0 bytes)")
    try:
        _check_scans(body)
        with Image.open(_MeteredFile(body), formats=heic.formats(body)) as image:
            _check_size(image.size, resize_side, max_pixels)
            code_points.note(image, body)
            before_pixels(image)
            return _to_rgb(image, resize_side, color)
    except ServiceError:
        raise
    except MemoryError as exc:
        raise TooLargeError(NO_MEMORY) from exc
    except UnidentifiedImageError as exc:
        raise ImageRejectedError(refusals.describe(body)) from exc
    except Exception as exc:  # damaged files make decoders raise almost anything
        raise ImageRejectedError(refusals.damaged(body, exc)) from exc


class _MeteredFile(io.BytesIO):
    """A file that limits the number of reads to `MAX_READS`."""

    _num_reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self._num_reads += 1
        if self._num_reads > MAX_READS:
            raise ImageRejectedError("the image file consists of too many tiny parts")
        return super().read(size)


def _check_scans(body: bytes) -> None:
    """Refuse a JPEG that takes far more time than its pixels and bytes suggest.

    Other formats need no such check: in a TIFF, libtiff itself stops at 100 scans.
    """
    # Counting is quick and never finds too few. It finds too many if a preview or a film follows
    # the picture.
    if not body.startswith(b"\xff\xd8") or body.count(b"\xff\xda") <= MAX_SCANS:
        return
    num_scans = num_segments = 0
    at = 2
    while (found := MARKER.search(body, at)) and (marker := found[0][1]) != END_OF_IMAGE:
        at = found.end()
        if marker not in WITHOUT_LENGTH:
            at += max(2, int.from_bytes(body[at : at + 2]))
        num_segments += 1
        num_scans += marker == SCAN
        if num_scans > MAX_SCANS or num_segments > MAX_SEGMENTS:
            raise ImageRejectedError(
                f"the JPEG file has too many scans or segments; allowed are {MAX_SCANS} scans and "
                f"{MAX_SEGMENTS} segments, save it as a baseline JPEG"
            )


def _check_size(size: tuple[int, int], resize_side: int, max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise TooLargeError(
            f"the image has {width} x {height} pixels; allowed are {max_pixels} in all"
        )
    # The transform resizes before it crops: a long thin picture would become an enormous one.
    if resize_side**2 * max(size) > max_pixels * min(size):
        raise TooLargeError(
            f"the image of {width} x {height} pixels is too long and thin: resized so that its "
            f"shorter side has {resize_side} pixels, it would exceed {max_pixels} pixels"
        )


def _upright(image: Image.Image) -> Image.Image:
    """Apply the rotation that the EXIF block gives; a damaged block counts as no rotation."""
    try:
        return ImageOps.exif_transpose(image)
    except (SyntaxError, ValueError, KeyError, TypeError, struct.error) as exc:
        # The type only: the message may quote the block, and logs hold nothing of an image.
        logger.debug("unreadable EXIF block: %s", type(exc).__name__)
        image.info.pop("exif", None)
        return image


def _to_rgb(image: Image.Image, resize_side: int, color: Color) -> Image.Image:
    if image.format in DRAFT_FORMATS:
        # libjpeg halves large photos while it decodes, as long as both sides keep at least twice
        # their length after resizing. That is several times faster, without a visible difference.
        image.draft(None, (2 * resize_side, 2 * resize_side))
    image = _upright(image)
    if image.mode.startswith("I;16"):
        # convert("RGB") would clip at 255 and turn the picture white.
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if image.mode in ("I", "F"):
        raise ImageRejectedError(refusals.no_range(image))
    image = colors.to_srgb(image, color)
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
