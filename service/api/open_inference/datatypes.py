"""A tensor's values, JSON or binary data <-> bytes, for the two datatypes that the models take."""

import itertools
import math
import struct
from collections.abc import Sequence, Sized
from reprlib import repr as short
from typing import Any

from service.errors import InferenceError, InvalidRequestError, TooLargeError

BYTES, FP32 = "BYTES", "FP32"
DATATYPES = (BYTES, FP32)
FP32_BYTES = 4
PREFIX = struct.Struct("<I")
"""length prefix of each element of BYTES in binary data."""


def from_json(
    data: object, datatype: str, *, shape: tuple[int, ...], where: str
) -> bytes | list[bytes]:
    """JSON data as raw little-endian bytes, row-major; for BYTES, the UTF-8 bytes of each text.

    Args:
        data: flat, or nested as the shape says.
        datatype: one of `DATATYPES`.
        shape: of the whole tensor; () is one element.
        where: name of the tensor in error messages.

    Raises:
        InvalidRequestError: the data do not fit the datatype or the shape.
    """
    values = _flatten(data, shape, where)
    return _texts(values, where) if datatype == BYTES else _floats(values, where)


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


def _texts(values: list[Any], where: str) -> list[bytes]:
    _check_types(values, {str}, f"{where}: BYTES needs text")
    try:
        return [text.encode() for text in values]
    except UnicodeEncodeError as exc:  # half a surrogate pair, written as an escape
        raise InvalidRequestError(f"{where}: a text is no UTF-8: {exc.reason}") from exc


def _floats(values: list[Any], where: str) -> bytes:
    _check_types(values, {int, float}, f"{where}: FP32 needs numbers")
    out_of_range = InvalidRequestError(f"{where}: a number is outside the range of FP32")
    try:
        packed = struct.pack(f"<{len(values)}f", *values)
    except (struct.error, OverflowError) as exc:
        # struct.error comes from whole numbers, OverflowError from floats.
        raise out_of_range from exc
    if not all(map(math.isfinite, values)):  # struct packs 1e999, which is infinite
        raise out_of_range
    return packed


def _check_types(values: list[Any], types: set[type], needed: str) -> None:
    if not types.issuperset(map(type, values)):
        wrong = next(value for value in values if type(value) not in types)
        raise InvalidRequestError(f"{needed}, not {short(wrong)}")


def to_json(data: bytes | Sequence[bytes], where: str) -> list[Any]:
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
    values = list(struct.unpack(f"<{len(data) // FP32_BYTES}f", data))
    if not all(map(math.isfinite, values)):
        raise InferenceError(f"{where} has numbers that are not finite; JSON cannot hold them")
    return values


def from_binary(
    raw: memoryview, datatype: str, *, shape: tuple[int, ...], where: str, max_elements: int
) -> memoryview | list[bytes]:
    """Binary data, unchanged for FP32, and cut into elements for BYTES.

    Raises:
        InvalidRequestError: the data do not fit the datatype or the shape.
        TooLargeError: BYTES has more than `max_elements`. Further ones are not parsed.
    """
    data = _cut(raw, where, max_elements) if datatype == BYTES else raw
    check_length(data, datatype, shape=shape, where=where)
    return data


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


def check_length(data: Sized, datatype: str, *, shape: tuple[int, ...], where: str) -> None:
    """Raise InvalidRequestError if a tensor is not as long as its shape says.

    Args:
        data: elements of BYTES, or the bytes of FP32.
        datatype: one of `DATATYPES`.
        shape: of the whole tensor; () is one element.
        where: name of the tensor in error messages.
    """
    needed, unit = math.prod(shape), "elements"
    if datatype == FP32:
        needed, unit = needed * FP32_BYTES, "bytes"
    if len(data) != needed:
        raise InvalidRequestError(
            f"{where}: {datatype} of shape {short(list(shape))} needs {short(needed)} {unit}, not "
            f"{len(data)}"
        )
