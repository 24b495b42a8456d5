"""Bytes -> an upright RGB picture, within limits. Read `read` first.

No PyTorch here: a process that only decodes stays small.
"""

from collections.abc import Callable

from PIL import Image, ImageFile, UnidentifiedImageError

from service.errors import ImageRejectedError, ServiceError, TooLargeError
from service.images import refusals
from service.images.colors import alpha, code_points, color_key, grey
from service.images.colors import color as colors
from service.images.formats import avif, heic, jpeg, orientation, parts, png, tiff, webp
from service.images.formats.source import Box, Source
from service.images.options import COLOR, MAX_PIXELS, Color

DRAFT_FORMATS = ("JPEG", "MPO")
DECODER_FORMATS = ("WEBP", "AVIF")
"""Their pictures hold the decoder and all that it has in memory."""

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
    """Decode an image: an RGB picture, the right way up, on white ground.

    Of an animation, the first frame is taken. EXIF rotation is applied. Colour becomes RGB; grey of
    more than 8 bits keeps its upper 8. Of all metadata, only what changes pixels is looked at. A
    large photo may come out smaller, but with at least twice the length that its sides will have
    after resizing.

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
    refusal = ""
    try:
        source = _source(body)
        refusal = source.refusal
        if source.size:
            _check_size(source.size, resize_side, max_pixels)
        with parts.opened(source.parts, heic.formats(body)) as image:
            _check_size(image.size, resize_side, max_pixels)
            code_points.note(image, body)
            before_pixels(image)
            return _to_rgb(image, source, resize_side, color)
    except ServiceError:
        raise
    except MemoryError as exc:
        raise TooLargeError(NO_MEMORY) from exc
    except UnidentifiedImageError as exc:
        raise ImageRejectedError(refusals.describe(body, refusal)) from exc
    except Exception as exc:  # damaged files make decoders raise almost anything
        raise ImageRejectedError(refusals.damaged(body, exc)) from exc


def _source(body: bytes) -> Source:
    """What the reader of the format tells about the file."""
    if body.startswith(jpeg.SIGNATURE):
        return jpeg.read(body)
    if body.startswith(png.SIGNATURE):
        return png.read(body)
    if body.startswith(tiff.SIGNATURES):
        try:
            return tiff.read(body)
        except ImageRejectedError as exc:
            raise ImageRejectedError(refusals.describe(body, str(exc))) from exc
    if webp.is_webp(body):
        return webp.read(body)
    if avif.is_iso_media(body):
        return avif.read(body)
    # Many writers of BMP files leave the fourth byte of their pixels at 0.
    return Source((body,), certain_alpha=not body.startswith(b"BM"))


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


def _to_rgb(
    image: ImageFile.ImageFile, source: Source, resize_side: int, color: Color
) -> Image.Image:
    if image.format in DRAFT_FORMATS:
        # libjpeg halves large photos while it decodes, as long as both sides keep at least twice
        # their length after resizing. That is several times faster, without a visible difference.
        image.draft(None, (2 * resize_side, 2 * resize_side))
    frame = source.frame or _first_frame(image)
    if source.raw_planes:
        tiff.name_planes(image, source.raw_planes)
    image.load()
    picture = colors.to_srgb(_with_8_bits(image, source), color)
    picture = alpha.on_white(picture, certain_alpha=source.certain_alpha)
    if frame and frame != (0, 0, *picture.size):
        picture = alpha.outside(picture, frame)
    if picture is image and image.format in DECODER_FORMATS:
        picture = picture.copy()
    turned = source.orientation or orientation.of(image.info.get("exif"), image.info.get("xmp"))
    return orientation.upright(picture, turned)


def _first_frame(image: ImageFile.ImageFile) -> Box | None:
    """What of the picture the first frame of a GIF file covers; None: this is another format."""
    if image.format != "GIF" or not image.tile:
        return None
    left, top, right, bottom = image.tile[0].extents or (0, 0, *image.size)
    return left, top, right, bottom


def _with_8_bits(image: Image.Image, source: Source) -> Image.Image:
    """The picture with 8 bits a channel; its transparent colour, if it has one, is white."""
    if image.mode.startswith("I;16"):
        key = source.key[0] if source.key else None
        return grey.to_8_bits(image, bits=source.bits, inverted=source.inverted, key=key)
    if image.mode in ("I", "F"):
        raise ImageRejectedError(refusals.no_range(image))
    return color_key.whiten(image, source) if source.key else image
