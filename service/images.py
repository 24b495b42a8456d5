"""Bytes -> pixels, within limits. It knows no model: the transform comes in."""

import io
import logging
import struct
from collections.abc import Callable
from typing import NamedTuple

from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from service.errors import ImageRejectedError, TooLargeError

logger = logging.getLogger(__name__)

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
DRAFT_FORMATS = ("JPEG", "MPO")

# Pillow's own limit only warns, and it counts for the whole process; ours is checked below, from
# the header, before anything is decoded.
Image.MAX_IMAGE_PIXELS = None


class InputSpec(NamedTuple):
    """What a model wants to see, and what an image may cost."""

    transform: Callable[[Image.Image], Tensor]
    """RGB image -> (3, H, W)."""
    resize_side: int
    """length that the transform gives the shorter side, in pixels."""
    max_pixels: int
    """most pixels, before and after resizing."""


def decode(body: bytes, spec: InputSpec) -> Tensor:
    """Decode an image and prepare it for a model: (3, H, W), float32.

    The first frame of an animation counts, EXIF rotation is applied, colour becomes RGB, grey of
    16 bits keeps its upper 8; then comes the model's own evaluation transform.

    Raises:
        ImageRejectedError: empty, truncated, damaged, or not an image of a known format.
        TooLargeError: more pixels than allowed.
    """
    if not body:
        raise ImageRejectedError("the image is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(body), formats=FORMATS) as image:
            _check_size(image.size, spec)
            return spec.transform(_to_rgb(image, spec.resize_side))
    except (ImageRejectedError, TooLargeError, MemoryError):
        raise
    except UnidentifiedImageError as exc:
        raise ImageRejectedError(
            f"this is not an image of a known format; known are {', '.join(FORMATS)}"
        ) from exc
    except Exception as exc:  # damaged files make decoders raise almost anything
        raise ImageRejectedError(f"the image is damaged and cannot be decoded: {exc}") from exc


def _check_size(size: tuple[int, int], spec: InputSpec) -> None:
    width, height = size
    if width * height > spec.max_pixels:
        raise TooLargeError(
            f"the image has {width} x {height} pixels; allowed are {spec.max_pixels} in all"
        )
    # The transform resizes before it crops: a long thin line would become an enormous picture.
    if spec.resize_side**2 * max(size) > spec.max_pixels * min(size):
        raise TooLargeError(
            f"the image of {width} x {height} pixels is too long and thin: resized so that its "
            f"shorter side has {spec.resize_side} pixels, it would exceed {spec.max_pixels} pixels"
        )


def _upright(image: Image.Image) -> Image.Image:
    """Apply the rotation that the EXIF block asks for; a block that is damaged asks for none."""
    try:
        return ImageOps.exif_transpose(image)
    except (SyntaxError, ValueError, KeyError, TypeError, struct.error) as exc:
        logger.debug("unreadable EXIF block: %s", exc)
        image.info.pop("exif", None)
        return image


def _to_rgb(image: Image.Image, resize_side: int) -> Image.Image:
    if image.format in DRAFT_FORMATS:
        # Let libjpeg halve large photos as it decodes, as long as both sides keep at least twice
        # the length that they are resized to: several times faster, and no visible difference.
        image.draft(None, (2 * resize_side, 2 * resize_side))
    image = _upright(image)
    if image.mode.startswith("I;16"):
        # convert("RGB") would clip at 255 and turn the picture white.
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if image.mode in ("I", "F"):
        raise ImageRejectedError(
            f"pixels of mode {image.mode!r} (32 bits a channel) have no known range; "
            "send 8 or 16 bits a channel"
        )
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
