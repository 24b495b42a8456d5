"""A file that is put together from parts of others, without a copy of them."""

import io
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import IO, cast

from PIL import Image, ImageFile

from service.errors import ImageRejectedError

MAX_READS = 500_000
"""most reads of one file by Pillow's parsers. They are Python: millions of small reads are slow."""

Part = bytes | memoryview


class PartsFile(io.RawIOBase):
    """Parts of files, one after the other, to be read as one. Reads are limited to `MAX_READS`."""

    def __init__(self, parts: Iterable[Part]) -> None:
        self._parts = list(parts)
        self._starts = list(accumulate((len(part) for part in self._parts), initial=0))
        self._size = self._starts.pop()
        self._at = 0
        self._num_reads = 0
        self._last: tuple[int, Part] = (0, b"")  # where the part of the last read starts

    def read(self, size: int | None = -1, /) -> bytes:
        """At most `size` bytes from the present place; all the rest if it is negative or None."""
        self._num_reads += 1
        if self._num_reads > MAX_READS:
            raise ImageRejectedError("the image file consists of too many tiny parts")
        start = self._at
        end = self._size if size is None or size < 0 else min(start + size, self._size)
        self._at = max(start, end)
        first, last = self._last
        if not first <= start <= end <= first + len(last):
            return self._joined(start, end)
        return bytes(last[start - first : end - first])

    def _joined(self, start: int, end: int) -> bytes:
        pieces = []
        for first, part in zip(self._starts, self._parts, strict=True):
            if first < end and start < first + len(part):
                pieces.append(part[max(0, start - first) : end - first])
                self._last = (first, part)
        return b"".join(pieces)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to another place; see `io.IOBase.seek`."""
        origins = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}
        if origins[whence] + offset < 0:
            raise ValueError("a file has no place before its first byte")
        self._at = origins[whence] + offset
        return self._at

    def tell(self) -> int:
        """The present place, in bytes from the start."""
        return self._at

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """It can be read in any order."""
        return True


def opened(parts: Iterable[Part], formats: Sequence[str]) -> ImageFile.ImageFile:
    """The picture in this file, its header read and nothing else."""
    return Image.open(cast(IO[bytes], PartsFile(parts)), formats=list(formats))
