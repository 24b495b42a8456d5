"""What the pixels of a TIFF file are, and whether they can be shown."""

from collections.abc import Mapping, Sequence
from typing import Final

from PIL.TiffImagePlugin import COMPRESSION_INFO

from service.errors import ImageRejectedError

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
SAMPLES, PLANAR, COLOR_MAP, EXTRA_SAMPLES, SAMPLE_FORMAT = 277, 284, 320, 338, 339

MIN_IS_WHITE, MIN_IS_BLACK, RGB = 0, 1, 2
PLAIN, FAX = 1, (2, 3, 4)
OLD_JPEG = 6
FORMATS: Final = {1: "unsigned", 2: "signed", 3: "floating-point", 4: "undefined"}
UNSIGNED, SIGNED, UNDEFINED = 1, 2, 4
SEPARATE = 2
ASSOCIATED = 1
MAX_SAMPLES = 6
"""most samples of a pixel that Pillow reads"""


class Layout:
    """How a TIFF file lays out the samples of its pixels."""

    def __init__(self, fields: Mapping[int, Sequence[int]]) -> None:
        """`fields`: the integers of the tags that are named above, as far as they are there."""
        self.compression = fields.get(COMPRESSION, (PLAIN,))[0]
        self.samples = fields.get(SAMPLES, (3 if self.compression == OLD_JPEG else 1,))[0]
        bits = tuple(fields.get(BITS, (1,)))
        self.bits = bits[: self.samples] if len(bits) > 1 else bits
        """of each sample, or one number for all"""
        self.photometric = fields.get(PHOTOMETRIC, (self._likely_photometric(),))[0]
        self.formats = set(fields.get(SAMPLE_FORMAT, (UNSIGNED,)))
        self.separate = fields.get(PLANAR, (1,))[0] == SEPARATE
        self._premultiplied = fields.get(EXTRA_SAMPLES, (0,))[0] == ASSOCIATED
        self._num_colors = len(fields.get(COLOR_MAP, ())) // 3

    def _likely_photometric(self) -> int:
        """What libtiff takes if the file does not say it."""
        if self.samples >= 3:
            return RGB
        return MIN_IS_WHITE if self.compression in FAX else MIN_IS_BLACK

    @property
    def packed(self) -> bool:
        """Samples of 12 bits cross the borders of bytes, in the same way in both byte orders."""
        return self.bits == (12,)

    @property
    def inverted(self) -> bool:
        """Grey of more than 8 bits whose 0 is white. Pillow inverts only what has fewer."""
        return (
            self.photometric == MIN_IS_WHITE and self.samples == 1 and self.bits in ((12,), (16,))
        )

    @property
    def has_raw_planes(self) -> bool:
        """Planes of 16 bits each, not compressed."""
        return self.separate and self.compression == PLAIN and set(self.bits) == {16}

    def check(self) -> None:
        """Refuse what Pillow would show wrongly, or would end at without a word.

        Raises:
            ImageRejectedError: the message says what the file holds, and what to send.
        """
        if (
            self.compression not in COMPRESSION_INFO
            or not 1 <= self.samples <= MAX_SAMPLES
            or (SIGNED in self.formats and max(self.bits) < 32)
            or (self.separate and self.compression == PLAIN and self._premultiplied)
        ):
            raise ImageRejectedError(self.refusal)
        if self._num_colors and self._num_colors != 1 << self.bits[0]:
            raise ImageRejectedError(
                f"the TIFF file is damaged and cannot be decoded: its palette has "
                f"{self._num_colors} colours for pixels of {self.bits[0]} bits"
            )

    @property
    def refusal(self) -> str:
        """Says what the file holds, and what to send instead."""
        formats = "/".join(FORMATS.get(value, "unknown") for value in sorted(self.formats))
        bits = "/".join(map(str, sorted(set(self.bits))))
        planes = ", in separate planes" if self.separate else ""
        return (
            f"this is a TIFF file of {self.samples} x {bits}-bit {formats} samples a pixel{planes} "
            f"(photometric interpretation {self.photometric}, compression {self.compression}), "
            "which cannot be read; send unsigned integers of 8 or 16 bits a channel, best as PNG"
        )
