"""Reads JSON with very many numbers in pieces: each call of the parser blocks all other threads.

Its result is that of `json.loads`, but for one kind of value: a long list of numbers is `Numbers`.
"""

import json
import re
from reprlib import repr as short
from typing import NoReturn

from service.api.open_inference.datatypes import Numbers
from service.errors import InvalidRequestError

PIECE_CHARS = 64 * 1024
"""about so many characters of a list are parsed at a time: 5,000 to 30,000 numbers, 1 to 3 ms"""
LONGEST_LIST = 32
"""a longer list of numbers becomes `Numbers`; it is no shape, whose limit this is"""
MAX_DEPTH = 64
"""of lists and objects in each other; a tensor has at most 32 dimensions"""
BLANKS = re.compile(r"[ \t\n\r]*")
BYTE_ORDER_MARK = "\ufeff"
NO_LIST_OF_NUMBERS = ("[", "{", '"')


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def read(text: str, max_values: int) -> object:
    """The value of a JSON text.

    Args:
        text: the text.
        max_values: most values outside lists of numbers.

    Raises:
        ValueError: it is no JSON, is nested too deeply, or has a member twice.
        InvalidRequestError: there are more than `max_values`.
    """
    if text.startswith(BYTE_ORDER_MARK):
        raise json.JSONDecodeError("Unexpected BOM", text, 0)
    reader = _Reader(text, max_values)
    value, end = reader.value(_skip(text, 0), depth=0)
    if (end := _skip(text, end)) != len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    return value


class _Reader:
    """Walks through one text. Each method takes a position, and gives a value and its end."""

    def __init__(self, text: str, max_values: int) -> None:
        self._text = text
        self._max_values = max_values
        self._num_values = 0

    def value(self, start: int, *, depth: int) -> tuple[object, int]:
        """The value that begins at `start`; `depth` lists and objects are around it."""
        self._num_values += 1
        if self._num_values > self._max_values:
            raise InvalidRequestError(
                f"the JSON has more than {self._max_values} values outside lists of numbers; FP32 "
                "needs numbers, not texts"
            )
        if depth > MAX_DEPTH:
            raise ValueError(f"more than {MAX_DEPTH} levels of recursion in lists and objects")
        opening = self._text[start : start + 1]
        if opening == "{":
            return self._object(start + 1, depth + 1)
        if opening == "[":
            return self._list(start + 1, depth + 1)
        return DECODER.raw_decode(self._text, start)

    def _object(self, start: int, depth: int) -> tuple[dict[str, object], int]:
        text, members = self._text, dict[str, object]()
        at = _skip(text, start)
        if text[at : at + 1] == "}":
            return members, at + 1
        while True:
            if text[at : at + 1] != '"':
                raise json.JSONDecodeError("Expecting a member's name in double quotes", text, at)
            name, at = DECODER.raw_decode(text, at)
            if name in members:
                raise ValueError(f"member {short(name)} is given twice")
            at = self._expect(":", at)
            members[name], at = self.value(at, depth=depth)
            at = _skip(text, at)
            if text[at : at + 1] == "}":
                return members, at + 1
            at = self._expect(",", at)

    def _list(self, start: int, depth: int) -> tuple[object, int]:
        text = self._text
        end = text.find("]", start)
        stop = len(text) if end < 0 else end
        if all(text.find(mark, start, stop) < 0 for mark in NO_LIST_OF_NUMBERS):
            if end < 0:
                raise json.JSONDecodeError("Expecting the end of a list", text, start)
            return self._numbers(start, end), end + 1
        values, at = list[object](), start
        while True:
            value, at = self.value(_skip(text, at), depth=depth)
            values.append(value)
            at = _skip(text, at)
            if text[at : at + 1] == "]":
                return values, at + 1
            at = self._expect(",", at)

    def _numbers(self, start: int, end: int) -> "list[object] | Numbers":
        """The values of a list without texts, lists and objects; most likely numbers."""
        if end - start <= PIECE_CHARS:
            values, _ = DECODER.raw_decode(self._text, start - 1)
            return values if len(values) <= LONGEST_LIST else Numbers.of(values)
        found = Numbers()
        while start <= end:
            stop = self._text.find(",", start + PIECE_CHARS, end)
            stop = end if stop < 0 else stop
            found.extend(self._piece(start, stop))
            start = stop + 1
        return found

    def _piece(self, start: int, stop: int) -> list[object]:
        """The values between two commas."""
        if stop - start > 2 * PIECE_CHARS:
            raise ValueError(f"a number has more than {PIECE_CHARS} characters")
        try:
            values: list[object] = DECODER.decode(f"[{self._text[start:stop]}]")
        except json.JSONDecodeError as exc:
            raise json.JSONDecodeError(exc.msg, self._text, start + exc.pos - 1) from exc
        if not values:
            raise json.JSONDecodeError("Expecting value", self._text, stop)
        return values

    def _expect(self, mark: str, at: int) -> int:
        """The position of what follows a mark."""
        at = _skip(self._text, at)
        if self._text[at : at + 1] != mark:
            raise json.JSONDecodeError(f"Expecting {mark!r}", self._text, at)
        return _skip(self._text, at + 1)


def _skip(text: str, at: int) -> int:
    """The next position that is not blank."""
    found = BLANKS.match(text, at)
    return found.end() if found else at
