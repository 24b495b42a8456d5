"""Reads and writes one directory of TIFF tags, as TIFF 6.0 and BigTIFF define it.

The directory of a picture and an EXIF block have the same form. A value is unpacked only when it
is asked for, and never more of it than is asked for: a tag may claim millions of values.
"""

import struct
from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

SHORT, LONG, RATIONAL, UNDEFINED = 3, 4, 5, 7
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
SIZES |= {16: 8, 17: 8, 18: 8}
"""bytes of one value, by type"""
CODES = {1: ("B", 1), 3: ("H", 1), 4: ("I", 1), 5: ("I", 2), 6: ("b", 1), 7: ("B", 1)}
CODES |= {8: ("h", 1), 9: ("i", 1), 13: ("I", 1), 16: ("Q", 1), 17: ("q", 1), 18: ("Q", 1)}
"""types that hold integers, as `struct` names them, and how many are in one value"""
ORDERS = {b"II": "<", b"MM": ">"}
VERSION, BIG_VERSION = 42, 43
RATIONALS = (529, 532)
"""YCbCrCoefficients and ReferenceBlackWhite"""
MAX_TAGS = 65_535
"""most tags that are looked at: what a classic TIFF can have"""


class Entry(NamedTuple):
    """One tag."""

    kind: int
    """its type, a key of `SIZES`"""
    number: int
    """how many values it claims"""
    data: memoryview
    """the values that are in the file"""


class Tags:
    """The tags of a directory, by number."""

    def __init__(self, order: str, entries: Mapping[int, Entry], *, complete: bool) -> None:
        """`order`: of the bytes, as `struct` writes it; `complete`: the file holds them all."""
        self.order = order
        self.complete = complete
        self._entries = entries

    def __contains__(self, tag: int) -> bool:
        return tag in self._entries

    def count(self, tag: int) -> int:
        """How many values a tag claims; 0: it is not there."""
        return self._entries[tag].number if tag in self._entries else 0

    def kind(self, tag: int) -> int:
        """The type of a tag that is there."""
        return self._entries[tag].kind

    def data(self, tag: int) -> bytes:
        """The bytes of a tag; none: it is not there."""
        return bytes(self._entries[tag].data) if tag in self._entries else b""

    def numbers(self, tag: int, most: int) -> tuple[int, ...]:
        """At most the first `most` values of a tag; none: it is not there or holds no integers.

        A rational gives two numbers.

        Raises:
            SyntaxError: they lie outside of the file.
        """
        entry = self._entries.get(tag)
        if entry is None or entry.kind not in CODES:
            return ()
        code, in_one = CODES[entry.kind]
        number = min(entry.number, most)
        size = number * SIZES[entry.kind]
        if len(entry.data) < size:
            raise SyntaxError(f"the values of TIFF tag {tag} lie outside of the file")
        return struct.unpack(f"{self.order}{number * in_one}{code}", entry.data[:size])


def read(file: bytes, wanted: Container[int]) -> Tags:
    """Tags of the first directory of a TIFF file or an EXIF block. The first of equals counts.

    Args:
        file: all of it.
        wanted: numbers of the tags to look at; there may be tens of thousands of others.

    Raises:
        SyntaxError: it has no TIFF header.
        struct.error: it ends too early.
    """
    view = memoryview(file)
    order = ORDERS.get(file[:2])
    # Some writers have the version in the other byte order.
    version = sum(file[2:4]) if file[2:4].count(0) == 1 else 0
    if order is None or version not in (VERSION, BIG_VERSION):
        raise SyntaxError("no TIFF header")
    big = version == BIG_VERSION
    (first,) = struct.unpack_from(order + ("Q" if big else "I"), view, 8 if big else 4)
    if first >= len(view):
        raise SyntaxError("the directory of TIFF tags lies outside of the file")
    (number,) = struct.unpack_from(order + ("Q" if big else "H"), view, first)
    form = struct.Struct(order + ("HHQ8s" if big else "HHI4s"))
    start = first + (8 if big else 2)
    room = (len(view) - start) // form.size
    table = view[start : start + min(number, room, MAX_TAGS) * form.size]
    entries: dict[int, Entry] = {}
    for tag, kind, count, value in form.iter_unpack(table):
        if tag not in wanted or tag in entries or not (size := count * SIZES.get(kind, 0)):
            continue
        if size <= len(value):
            data = memoryview(value)[:size]
        else:
            (at,) = struct.unpack(order + ("Q" if big else "I"), value)
            data = view[at : at + size]
        entries[tag] = Entry(kind, count, data)
    return Tags(order, entries, complete=number <= room)


def _kind_for(tag: int, values: Sequence[int] | bytes) -> int:
    if isinstance(values, bytes):
        return UNDEFINED
    if tag in RATIONALS:
        return RATIONAL
    return SHORT if max(values, default=0) < 1 << 16 else LONG


def write(order: str, tags: Mapping[int, Sequence[int] | bytes], at: int) -> bytes:
    """A classic directory without a next one, to stand at byte `at` of a file.

    Args:
        order: of the bytes, as `struct` writes it.
        tags: integers below 2^32, of rationals both, or bytes.
        at: an even number.
    """
    table, outside = b"", b""
    behind = at + 2 + 12 * len(tags) + 4
    for tag, values in sorted(tags.items()):
        kind = _kind_for(tag, values)
        number = len(values) // 2 if kind == RATIONAL else len(values)
        data = (
            values
            if isinstance(values, bytes)
            else struct.pack(f"{order}{len(values)}{'H' if kind == SHORT else 'I'}", *values)
        )
        if len(data) > 4:
            inline = struct.pack(order + "I", behind + len(outside))
            outside += data + bytes(len(data) % 2)
        else:
            inline = data.ljust(4, b"\0")
        table += struct.pack(order + "HHI", tag, kind, number) + inline
    return struct.pack(order + "H", len(tags)) + table + bytes(4) + outside
