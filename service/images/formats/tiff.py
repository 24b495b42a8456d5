"""TIFF files: only the tags that make up the picture reach Pillow.

Pillow unpacks every tag of a file into Python objects, which takes seconds if there are millions of
values, and it takes the range of grey from its own mode instead of from the file. So this module
reads the tags itself, and gives Pillow the same file with a short directory at its end.
"""

import ctypes
import struct

from PIL import ImageFile, _imaging

from service.errors import ImageRejectedError
from service.images.formats import orientation, tiff_tags
from service.images.formats.source import Source
from service.images.formats.tiff_layout import (
    BITS,
    COLOR_MAP,
    COMPRESSION,
    EXTRA_SAMPLES,
    HEIGHT,
    MIN_IS_BLACK,
    PHOTOMETRIC,
    PLANAR,
    SAMPLE_FORMAT,
    SAMPLES,
    UNDEFINED,
    UNSIGNED,
    WIDTH,
    Layout,
)
from service.images.formats.tiff_tags import Tags

SIGNATURES = (b"II*\0", b"MM\0*", b"MM*\0", b"II\0*", b"II+\0", b"MM\0+")
MAX_STRIPS = 50_000
"""most strips or tiles; a scan may have one for each of its rows"""
MAX_LIST = 16
"""most values of a tag that has one value for each sample of a pixel"""
MAX_NUMBER = (1 << 32) - 1

FILL_ORDER, ROWS_PER_STRIP, T4_OPTIONS, T6_OPTIONS, PREDICTOR = 266, 278, 292, 293, 317
TILE_WIDTH, TILE_HEIGHT, INK_SET, JPEG_TABLES, XMP, PROFILE = 322, 323, 332, 347, 700, 34675
STRIP_OFFSETS, STRIP_SIZES, TILE_OFFSETS, TILE_SIZES = 273, 279, 324, 325
OLD_JPEG, OLD_JPEG_TABLES = (512, 513, 514, 515), (519, 520, 521)
YCBCR_POSITION, YCBCR_LISTS = 531, (529, 530, 532)

NUMBERS: tuple[int, ...] = (
    WIDTH,
    HEIGHT,
    COMPRESSION,
    PHOTOMETRIC,
    FILL_ORDER,
    SAMPLES,
    ROWS_PER_STRIP,
    PLANAR,
)
NUMBERS += (T4_OPTIONS, T6_OPTIONS, PREDICTOR, TILE_WIDTH, TILE_HEIGHT, INK_SET, *OLD_JPEG)
NUMBERS += (YCBCR_POSITION,)
LISTS = (BITS, EXTRA_SAMPLES, SAMPLE_FORMAT, *OLD_JPEG_TABLES, *YCBCR_LISTS)
BLOCKS = (STRIP_OFFSETS, STRIP_SIZES, TILE_OFFSETS, TILE_SIZES)
WANTED = {*NUMBERS, *LISTS, *BLOCKS, COLOR_MAP, JPEG_TABLES, XMP, PROFILE, orientation.TAG}
DAMAGED = "the TIFF file is damaged and cannot be decoded: "

Numbers = dict[int, tuple[int, ...]]


def read(body: bytes) -> Source:
    """The file with the tags that matter for pixels, and what Pillow does not tell about them.

    Raises:
        ImageRejectedError: its tags are damaged, have more values than a picture needs, or say that
            its pixels are of a kind that cannot be read.
    """
    try:
        tags = tiff_tags.read(body, WANTED)
        numbers = _numbers(tags)
        turned = orientation.in_tags(tags) or orientation.of(None, tags.data(XMP))
    except (SyntaxError, struct.error) as exc:
        raise ImageRejectedError(f"{DAMAGED}{exc}") from exc
    layout = Layout(numbers)
    layout.check()
    certain_alpha = EXTRA_SAMPLES in numbers
    numbers[PHOTOMETRIC] = (MIN_IS_BLACK if layout.inverted else layout.photometric,)
    if layout.formats <= {UNSIGNED, UNDEFINED}:
        numbers.pop(SAMPLE_FORMAT, None)
    blocks = {tag: tags.data(tag) for tag in (JPEG_TABLES, PROFILE) if tag in tags}
    return Source(
        _rewritten(body, "<" if layout.packed else tags.order, numbers | blocks),
        refusal=layout.refusal,
        orientation=turned,
        bits=layout.bits[0],
        inverted=layout.inverted,
        raw_planes=f";16{'L' if tags.order == '<' else 'B'}" if layout.has_raw_planes else "",
        certain_alpha=certain_alpha,
    )


def name_planes(image: ImageFile.ImageFile, raw_planes: str) -> None:
    """Tell Pillow what the samples of separate planes are; see `Source.raw_planes`."""
    image.tile = [
        piece._replace(args=(f"{piece.args[0]}{raw_planes}", *piece.args[1:]))
        for piece in image.tile
        if isinstance(piece.args, tuple)
    ]


def _silence_libtiff() -> None:
    """Libtiff prints a line for each place where a file is damaged, and what it found there."""
    # Looks in the libraries that Pillow has loaded, too; some builds have no libtiff of their own.
    library = ctypes.CDLL(_imaging.__file__)
    for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
        if set_handler := getattr(library, name, None):
            set_handler(None)


_silence_libtiff()


def _rewritten(
    body: bytes, order: str, tags: dict[int, tuple[int, ...] | bytes]
) -> tuple[bytes | memoryview, ...]:
    """The file with another directory, which stands at its end."""
    at = len(body) + len(body) % 2
    mark = b"II" if order == "<" else b"MM"
    header = struct.pack(order + "2sHI", mark, tiff_tags.VERSION, at)
    padding = bytes(at - len(body))
    return header, memoryview(body)[len(header) :], padding, tiff_tags.write(order, tags, at)


def _numbers(tags: Tags) -> Numbers:
    """The tags of integers that matter for pixels.

    Raises:
        SyntaxError: they are damaged.
        ImageRejectedError: they have too many values.
    """
    if not tags.complete:
        raise SyntaxError("it ends within its tags")
    found = {tag: tags.numbers(tag, 1) for tag in NUMBERS}
    found |= {tag: tags.numbers(tag, MAX_LIST) for tag in LISTS}
    if tags.count(COLOR_MAP) > 3 << 16:
        raise ImageRejectedError(f"{DAMAGED}its palette has {tags.count(COLOR_MAP)} values")
    found[COLOR_MAP] = tags.numbers(COLOR_MAP, 3 << 16)
    for tag in (WIDTH, HEIGHT):
        if found[tag] < (1,):
            raise SyntaxError("it has no width or no height")
    for offsets, sizes in ((STRIP_OFFSETS, STRIP_SIZES), (TILE_OFFSETS, TILE_SIZES)):
        number = _num_pieces(found, tiled=offsets == TILE_OFFSETS) if offsets in tags else 0
        if number > MAX_STRIPS:
            raise ImageRejectedError(
                f"the TIFF file has {number} strips or tiles; allowed are {MAX_STRIPS}"
            )
        found |= {tag: tags.numbers(tag, number) for tag in (offsets, sizes)}
    if any(not 0 <= value <= MAX_NUMBER for values in found.values() for value in values):
        raise SyntaxError("a number in its tags is negative or too large")
    return {tag: values for tag, values in found.items() if values}


def _num_pieces(found: Numbers, *, tiled: bool) -> int:
    """How many strips or tiles the picture has; a file may list more."""
    (width,), (height,) = found[WIDTH], found[HEIGHT]
    if tiled:
        if found[TILE_WIDTH] < (1,) or found[TILE_HEIGHT] < (1,):
            raise SyntaxError("its tiles have no width or no height")
        number = -(-width // found[TILE_WIDTH][0]) * -(-height // found[TILE_HEIGHT][0])
    else:
        (rows,) = found[ROWS_PER_STRIP] or (height,)
        number = -(-height // max(1, rows))
    layout = Layout({tag: values for tag, values in found.items() if values})
    return number * (layout.samples if layout.separate else 1)
