"""A tensor's values: JSON or binary data <-> raw little-endian bytes, for every datatype."""

import itertools
import math
import struct
from collections.abc import Sequence
from reprlib import repr as short
from typing import Any

from service.errors import InferenceError, InvalidRequestError, TooLargeError

# struct's letters; after "<" they mean the same size and byte order on every machine
JSON_FORMATS = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP32": "f",
    "FP64": "d",
}
BINARY_ONLY = ("FP16", "BF16")
BYTES = "BYTES"
ITEM_BYTES = {
    **{datatype: struct.calcsize(f"<{letter}") for datatype, letter in JSON_FORMATS.items()},
    **dict.fromkeys(BINARY_ONLY, 2),
}
DATATYPES = (*ITEM_BYTES, BYTES)
PREFIX = struct.Struct("<I")
"""the length before each element of BYTES in binary data."""


def from_json(
    data: object, datatype: str, *, shape: tuple[int, ...], where: str
) -> bytes | list[bytes]:
    """JSON data as raw bytes, row-major; for BYTES, the UTF-8 bytes of each text.

    Args:
        data: flat, or nested as the shape says.
        datatype: one of `DATATYPES`.
        shape: of the whole tensor; () is one element.
        where: the tensor, as messages call it.

    Raises:
        InvalidRequestError: the data do not fit the datatype or the shape.
    """
    if datatype in BINARY_ONLY:
        raise InvalidRequestError(
            f"{where}: {datatype} has no JSON form; send it as binary data, or send FP32"
        )
    values = _flatten(data, shape, where)
    kinds, wanted = _kinds(datatype)
    if not kinds.issuperset(map(type, values)):
        wrong = next(value for value in values if type(value) not in kinds)
        raise InvalidRequestError(f"{where}: {datatype} needs {wanted}, not {short(wrong)}")
    try:
        if datatype == BYTES:
            return [text.encode() for text in values]
        packed = struct.pack(f"<{len(values)}{JSON_FORMATS[datatype]}", *values)
        in_range = all(map(math.isfinite, values))  # struct packs 1e999, which is infinite
    except UnicodeEncodeError as exc:  # half a surrogate pair, written as an escape
        raise InvalidRequestError(f"{where}: a text is no UTF-8: {exc.reason}") from exc
    except (struct.error, OverflowError):
        in_range = False
    if not in_range:
        raise InvalidRequestError(f"{where}: a number is outside the range of {datatype}")
    return packed


def _flatten(data: object, shape: tuple[int, ...], where: str) -> list[Any]:
    if not isinstance(data, list):
        raise InvalidRequestError(f"{where}: data must be a list, not {short(data)}")
    num_elements = math.prod(shape)
    mismatch = InvalidRequestError(
        f"{where}: data must be flat, with {short(num_elements)} elements, or nested exactly as "
        f"the shape {short(list(shape))} says"
    )
    values = data
    if list in set(map(type, data)):
        values = [data]
        for dim in shape:
            if not all(type(part) is list and len(part) == dim for part in values):
                raise mismatch
            values = list(itertools.chain.from_iterable(values))
    if len(values) != num_elements or list in set(map(type, values)):
        raise mismatch
    return values


def _kinds(datatype: str) -> tuple[set[type], str]:
    """The types that values in JSON may have, and how messages call them."""
    if datatype == "BOOL":
        return {bool}, "true or false"
    if datatype == BYTES:
        return {str}, "text"
    if datatype in ("FP32", "FP64"):
        return {int, float}, "numbers"
    return {int}, "whole numbers"


def to_json(data: bytes | Sequence[bytes], datatype: str, where: str) -> list[Any]:
    """The inverse of `from_json`; flat.

    Raises:
        InferenceError: a number is not finite.
        InvalidRequestError: an element of BYTES is no UTF-8.
    """
    if not isinstance(data, bytes):
        try:
            return [element.decode() for element in data]
        except UnicodeDecodeError as exc:
            raise InvalidRequestError(f"{where} is no UTF-8; ask for it as binary data") from exc
    num_elements = len(data) // ITEM_BYTES[datatype]
    values = list(struct.unpack(f"<{num_elements}{JSON_FORMATS[datatype]}", data))
    if not all(map(math.isfinite, values)):
        raise InferenceError(f"{where} has numbers that are not finite; JSON cannot hold them")
    return values


def from_binary(
    raw: memoryview, datatype: str, *, shape: tuple[int, ...], where: str, max_elements: int
) -> memoryview | list[bytes]:
    """Binary data as they are; BYTES cut into elements.

    Raises:
        InvalidRequestError: the data do not fit the datatype or the shape.
        TooLargeError: more than `max_elements` of BYTES; the others are not looked at.
    """
    if datatype != BYTES:
        check_size(len(raw), datatype, shape=shape, where=where)
        return raw
    elements = _cut(raw, where, max_elements)
    check_count(len(elements), shape, where)
    return elements


def _cut(raw: memoryview, where: str, max_elements: int) -> list[bytes]:
    elements: list[bytes] = []
    end = 0
    while end < len(raw):
        if len(elements) == max_elements:
            raise TooLargeError(
                f"{where}: more than {max_elements} elements of BYTES in one request"
            )
        start = end + PREFIX.size
        end = start + int.from_bytes(raw[end:start], "little")  # also if it is cut short
        if end > len(raw):
            raise InvalidRequestError(
                f"{where}: element {len(elements)} does not end inside its binary_data_size; "
                "before each element stands its length, 4 bytes little-endian, which count too"
            )
        elements.append(bytes(raw[start:end]))
    return elements


def to_binary(data: bytes | Sequence[bytes]) -> bytes:
    """The inverse of `from_binary`."""
    if isinstance(data, bytes):
        return data
    return b"".join(part for element in data for part in (PREFIX.pack(len(element)), element))


def check_size(num_bytes: int, datatype: str, *, shape: tuple[int, ...], where: str) -> None:
    """Raise InvalidRequestError if a tensor has not as many bytes as its shape says."""
    needed = math.prod(shape) * ITEM_BYTES[datatype]
    if num_bytes != needed:
        raise InvalidRequestError(
            f"{where}: {datatype} of shape {short(list(shape))} needs {short(needed)} bytes, not "
            f"{num_bytes}"
        )


def check_count(num_elements: int, shape: tuple[int, ...], where: str) -> None:
    """Raise InvalidRequestError if a tensor has not as many elements as its shape says."""
    needed = math.prod(shape)
    if num_elements != needed:
        raise InvalidRequestError(
            f"{where}: BYTES of shape {short(list(shape))} needs {short(needed)} elements, not "
            f"{num_elements}"
        )
