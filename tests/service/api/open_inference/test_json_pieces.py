"""JSON in pieces means what the standard parser says, and no piece is long."""

import json
import math
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.api.open_inference import json_pieces
from service.api.open_inference.datatypes import Numbers
from service.errors import InvalidRequestError

MANY = 10**6
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=8)
SMALL = st.floats(-1000, 1000, width=32) | st.integers(-9, 9)
LISTS = st.lists(SMALL, max_size=80)
VALUES = st.recursive(
    SCALARS | SMALL | LISTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)
LAYOUTS = st.sampled_from([{}, {"indent": 1}, {"separators": (",", ":")}, {"ensure_ascii": False}])


def plain(value: Any) -> Any:
    """A value with the numbers of `Numbers` in lists again."""
    if isinstance(value, Numbers):
        packed = value.pack()
        return list(struct.unpack(f"<{len(packed) // 4}f", packed))
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return value


@pytest.fixture
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_pieces, "PIECE_CHARS", 20)
    monkeypatch.setattr(json_pieces, "LONGEST_LIST", 3)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(value=VALUES, layout=LAYOUTS)
def test_it_means_what_the_standard_parser_says(value: object, layout: dict[str, Any]) -> None:
    text = json.dumps(value, **layout)
    assert plain(json_pieces.read(text, MANY)) == json.loads(text)


@pytest.mark.usefixtures("short_pieces")
@pytest.mark.parametrize("layout", [{}, {"indent": 1}, {"separators": (",", ":")}])
def test_pieces_join_without_a_gap(layout: dict[str, Any]) -> None:
    for length in range(40):
        numbers = [number / 4 for number in range(length)]
        value = {"a": numbers, "b": [numbers, [numbers, []]], "c": [[], "]", numbers]}
        assert plain(json_pieces.read(json.dumps(value, **layout), MANY)) == value


@pytest.mark.usefixtures("short_pieces")
@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "[", "{", "]", "{]", "[1", '{"a"', '{"a":', '{"a":1', '{"a":1,', '{"a":1,}'),
        *("{1:2}", "{a:1}", "[1,]", "[,1]", "[1,,2]", "[1 2]", '["a" 1]', "[] []", "1 x", "[]x"),
        *("[NaN]", "-Infinity", '{"a":1 "b":2}', "[[1],]", '["a",]', "'a'", "\ufeff[]", "01"),
        *("[" + mark.join(["1234567"] * 9) + "]" for mark in (",,", ", ,", ";", ",x", ",NaN,")),
        *(
            "[" + "1," * 40 + "]",
            "[" + "," * 40 + "]",
            "[" + "1," * 40 + "1",
            "[" + "1" * 200 + "]",
            *("[" + "1," * number + "]" for number in range(10, 36)),
        ),
        "[" * 500 + "]" * 500,
        '{"a":1,"b":[],"a":2}',
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - its text is the parser's
        json_pieces.read(text, MANY)


@pytest.mark.usefixtures("short_pieces")
def test_an_error_says_where_it_is() -> None:
    text = "[" + "1, " * 30 + "x" + ", 1" * 30 + "]"
    with pytest.raises(ValueError, match=rf"Expecting value: .*\(char {text.index('x')}\)"):
        json_pieces.read(text, MANY)


def test_values_outside_lists_of_numbers_are_counted() -> None:
    text = json.dumps({"a": [["b", 1, None]], "c": [1] * 1000, "d": [[0] * 9] * 2})
    assert json_pieces.read(text, 10)
    with pytest.raises(InvalidRequestError, match="more than 9 values outside lists of numbers"):
        json_pieces.read(text, 9)


@pytest.mark.parametrize("nested", [True, False])
def test_the_interpreter_is_given_up_between_pieces(
    monkeypatch: pytest.MonkeyPatch, nested: bool
) -> None:
    lengths: list[int] = []
    extend = Numbers.extend
    monkeypatch.setattr(
        Numbers, "extend", lambda self, values: (lengths.append(len(values)), extend(self, values))
    )
    row = [0] * 300
    text = json.dumps([row] * 1000 if nested else row * 1000, separators=(",", ":"))
    found = json_pieces.read(text, MANY)
    rows = found if isinstance(found, list) else [found]
    assert sum(map(len, rows)) == sum(lengths) == 300_000
    assert max(lengths) <= json_pieces.PIECE_CHARS // 2 + 1


@pytest.mark.parametrize("strange", [1e39, 10**400, None, True, math.pi])
def test_a_number_that_does_not_fit_is_an_error_for_its_tensor_only(strange: object) -> None:
    found = json_pieces.read(json.dumps({"unknown": [0, strange] * 50}), MANY)
    assert isinstance(found, dict)
    assert len(found["unknown"]) == 100
    if strange == math.pi:
        assert len(found["unknown"].pack()) == 400
    else:
        with pytest.raises(ValueError, match="FP32"):
            found["unknown"].pack()
