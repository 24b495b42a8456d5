"""A tensor's values, JSON or binary data <-> bytes, for the two datatypes that the models take."""

import math
import struct
from collections.abc import Sequence, Sized
from reprlib import repr as short
from typing import Any, TypeGuard

from service.errors import InferenceError, InvalidRequestError, TooLargeError

BYTES, FP32 = "BYTES", "FP32"
DATATYPES = (BYTES, FP32)
FP32_BYTES = 4
PREFIX = struct.Struct("<I")
"""length prefix of each element of BYTES in binary data."""


class Numbers:
    """Many numbers of a JSON list, packed as FP32 as far as they fit."""

    def __init__(self) -> None:
        """No numbers yet."""
        self._packed: list[bytes] = []
        self._num = 0
        self._fault: str | None = None

    @classmethod
    def of(cls, values: list[Any]) -> "Numbers":
        """These numbers."""
        numbers = cls()
        numbers.extend(values)
        return numbers

    def extend(self, values: list[Any]) -> None:
        """Add numbers. One that does not fit is an error only for the tensor that has it."""
        self._num += len(values)
        try:
            self._packed.append(_pack(values))
        except ValueError as exc:
            self._fault = self._fault or str(exc)

    def pack(self) -> bytes:
        """All of them; raises ValueError if one is no number of FP32."""
        if self._fault is not None:
            raise ValueError(self._fault)
        return b"".join(self._packed)

    def __len__(self) -> int:
        return self._num

    def __repr__(self) -> str:
        return f"a list of {self._num} values"


Row = list[Any] | Numbers


def from_json(
    data: object, datatype: str, *, shape: tuple[int, ...], where: str
) -> bytes | list[bytes]:
    """JSON data as raw little-endian bytes, row-major; for BYTES, the UTF-8 bytes of each text.

    Args:
        data: flat, or nested as the shape says. A long list of numbers is `Numbers`.
        datatype: one of `DATATYPES`.
        shape: of the whole tensor; () is one element.
        where: name of the tensor in error messages.

    Raises:
        InvalidRequestError: the data do not fit the datatype or the shape.
    """
    rows = _rows(data, shape, where)
    try:
        if datatype == BYTES:
            return [text for row in rows for text in _texts(row)]
        return b"".join(row.pack() if isinstance(row, Numbers) else _pack(row) for row in rows)
    except ValueError as exc:
        raise InvalidRequestError(f"{where}: {exc}") from exc


def _rows(data: object, shape: tuple[int, ...], where: str) -> list[Row]:
    """The innermost lists of the data, with all elements of the tensor in their order."""
    if not _is_list(data):
        raise InvalidRequestError(f"{where}: data must be a list, not {short(data)}")
    num_elements = math.prod(shape)
    mismatch = InvalidRequestError(
        f"{where}: data must be flat, with {short(num_elements)} elements, or nested exactly as "
        f"the shape {short(list(shape))} says"
    )
    rows: list[Row] = [data]
    if _has_lists(data):
        for dim in shape[:-1]:
            if any(isinstance(row, Numbers) or len(row) != dim for row in rows):
                raise mismatch
            parts = [part for row in rows if isinstance(row, list) for part in row]
            rows = [part for part in parts if _is_list(part)]
            if len(rows) < len(parts):
                raise mismatch
        if not shape or any(len(row) != shape[-1] for row in rows):
            raise mismatch
    if sum(map(len, rows)) != num_elements or any(map(_has_lists, rows)):
        raise mismatch
    return rows


def _is_list(value: object) -> TypeGuard[Row]:
    return isinstance(value, list | Numbers)


def _has_lists(row: Row) -> bool:
    return isinstance(row, list) and any(map(_is_list, row))


def _texts(row: Row) -> list[bytes]:
    if isinstance(row, Numbers):
        raise ValueError("BYTES needs text, not numbers")
    _check_types(row, {str}, "BYTES needs text")
    try:
        return [text.encode() for text in row]
    except UnicodeEncodeError as exc:  # half a surrogate pair, written as an escape
        raise ValueError(f"a text is no UTF-8: {exc.reason}") from exc


def _pack(values: list[Any]) -> bytes:
    """Numbers as FP32; raises ValueError if one of them is none."""
    _check_types(values, {int, float}, "FP32 needs numbers")
    out_of_range = ValueError("a number is outside the range of FP32")
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
        raise ValueError(f"{needed}, not {short(wrong)}")


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
