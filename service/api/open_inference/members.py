"""Reads the JSON of the Open Inference Protocol strictly: each member must have its type."""

import math
from collections.abc import Mapping
from reprlib import repr as short
from typing import NamedTuple, TypeGuard

from service.api.open_inference import json_pieces
from service.api.open_inference.datatypes import DATATYPES
from service.errors import InvalidRequestError, TooLargeError

MAX_DIMS = 32
MAX_DIM = 2**63 - 1
MAX_MEMBERS = 4096
"""most values that are no lists, objects or numbers in lists: names, parameters, texts"""
MAX_UNICODE_BYTES = 1024 * 1024
"""most bytes of a JSON that is not ASCII: decoding it blocks all other threads, and one character
may make the text four times as large. Numbers and base64 are ASCII."""

Parameter = str | int | float | bool


class Bounds(NamedTuple):
    """Limits of a request, checked before its JSON is parsed: parsing blocks all other threads."""

    max_commas: int
    """most commas in the JSON, which limits the numbers."""
    max_brackets: int
    """most brackets in the JSON, which limits the lists and objects."""
    max_elements: int
    """most elements of BYTES in binary data."""


def read_object(part: memoryview, bounds: Bounds) -> dict[str, object]:
    """The members of the JSON object that `part` holds.

    Raises:
        InvalidRequestError: `part` is no UTF-8, no JSON or no object, or has a member twice.
        TooLargeError: `part` is out of bounds.
    """
    try:
        text = _decode(part)
        _check_bounds(text, bounds)
        members = json_pieces.read(text, bounds.max_brackets + MAX_MEMBERS)
    except ValueError as exc:
        raise InvalidRequestError(
            f"the body is no valid JSON: {exc}; if tensors follow the JSON, or the body is one "
            "bare tensor, send the header Inference-Header-Content-Length"
        ) from exc
    if not isinstance(members, dict):
        raise InvalidRequestError('the JSON must be an object: {"inputs": [...], ...}')
    return members


def _decode(part: memoryview) -> str:
    """The text of a JSON; raises ValueError if it is no UTF-8, or long and not ASCII."""
    if len(part) > MAX_UNICODE_BYTES and not bytes(part).isascii():
        raise ValueError(
            f"it has more than {MAX_UNICODE_BYTES} bytes, and some are not ASCII; write these as "
            "\\uXXXX"
        )
    return str(part, "utf-8")


def _check_bounds(text: str, bounds: Bounds) -> None:
    num_brackets = text.count("[") + text.count("{")
    if num_brackets > bounds.max_brackets or text.count(",") > bounds.max_commas:
        raise TooLargeError(
            f"the JSON has more than {bounds.max_commas} values or {bounds.max_brackets} lists "
            "and objects; send fewer images in one request"
        )


def read_named(members: Mapping[str, object], kind: str) -> dict[str, dict[str, object]]:
    """The objects in a list, by their names and in their order; empty if the list is absent.

    Args:
        members: members of the request.
        kind: "input" or "output"; the list is the member `inputs` or `outputs`.
    """
    entries = members.get(f"{kind}s")
    if entries is None:
        return {}
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InvalidRequestError(f"{kind}s must be a list of objects, not {short(entries)}")
    named: dict[str, dict[str, object]] = {}
    for index, entry in enumerate(entries):
        name = read_text(entry, "name", f"{kind}s[{index}]")
        if name in named:
            raise InvalidRequestError(f"{kind} {short(name)} is given twice")
        named[name] = entry
    return named


def read_text(members: Mapping[str, object], name: str, where: str) -> str:
    """A required member that is a text."""
    value = members.get(name)
    if value is None:
        raise InvalidRequestError(f"{where}: {name} is missing")
    if not isinstance(value, str):
        raise InvalidRequestError(f"{where}: {name} must be text, not {short(value)}")
    return value


def read_datatype(members: Mapping[str, object], where: str) -> str:
    """The required member `datatype`."""
    datatype = read_text(members, "datatype", where)
    if datatype not in DATATYPES:
        raise InvalidRequestError(
            f"{where}: datatype {short(datatype)} is not supported; needed is "
            f"{' or '.join(DATATYPES)}"
        )
    return datatype


def read_shape(members: Mapping[str, object], where: str) -> tuple[int, ...]:
    """The required member `shape`."""
    shape = members.get("shape")
    if shape is None:
        raise InvalidRequestError(f"{where}: shape is missing")
    # With both limits, multiplying the dimensions is cheap.
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_DIMS
        or not all(type(dim) is int and 0 <= dim <= MAX_DIM for dim in shape)
    ):
        raise InvalidRequestError(
            f"{where}: shape must be a list of at most {MAX_DIMS} whole numbers from 0 to "
            f"2**63 - 1, not {short(shape)}"
        )
    return tuple(shape)


def read_parameters(members: Mapping[str, object], where: str) -> dict[str, Parameter]:
    """The member `parameters`; empty if it is absent."""
    given = members.get("parameters")
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise InvalidRequestError(f"{where}: parameters must be an object, not {short(given)}")
    for name, value in given.items():
        if not _is_parameter(value):
            raise InvalidRequestError(
                f"{where}: parameter {short(name)} must be text, true, false or a number of at "
                f"most 64 bits, not {short(value)}"
            )
    if "shared_memory_region" in given:
        raise InvalidRequestError(f"{where}: shared memory is not supported; use the body")
    return given


def _is_parameter(value: object) -> TypeGuard[Parameter]:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):  # also true for a boolean
        return -(2**63) <= value < 2**64
    return isinstance(value, str)


def read_flag(parameters: Mapping[str, Parameter], name: str, *, where: str, default: bool) -> bool:
    """A parameter that is true or false."""
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidRequestError(f"{where}: {name} must be true or false, not {short(value)}")
    return value


def read_count(parameters: Mapping[str, Parameter], name: str, *, where: str) -> int:
    """A parameter that is a whole number, at least 1; 0 if it is absent."""
    value = parameters.get(name)
    if value is None:
        return 0
    if type(value) is not int or value < 1:
        raise InvalidRequestError(
            f"{where}: {name} must be a whole number from 1 on, not {short(value)}"
        )
    return value
