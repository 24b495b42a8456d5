"""Tensors of BYTES and FP32 in a request: as JSON, flat or nested, and as binary data."""

import math
import struct
from typing import Any

import pytest

from service.api.open_inference.codec import InputTensor
from service.api.open_inference.codec import parse as parse_within
from service.errors import InvalidRequestError, TooLargeError
from tests.service.api.names import short
from tests.service.api.open_inference.bodies import (
    AMPLE,
    EMPTY,
    PIXELS,
    RAW,
    changed,
    read,
    read_binary,
    request,
    sized,
    texts,
)

# data in JSON

SQUARE = struct.pack("<6f", *range(6))


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "raw"),
    [
        ("FP32", [2, 3], [0, 1, 2, 3, 4, 5], SQUARE),
        ("FP32", [2, 3], [[0, 1, 2], [3, 4, 5]], SQUARE),
        ("FP32", [1, 2, 1, 3], [[[[0, 1, 2]], [[3, 4, 5]]]], SQUARE),
        ("FP32", [6, 1], [[0], [1], [2], [3], [4], [5]], SQUARE),
        ("FP32", [1, 6], [0, 1, 2, 3, 4, 5], SQUARE),
        ("FP32", [], [258], struct.pack("<f", 258)),
        ("FP32", [1], [258], struct.pack("<f", 258)),
        ("FP32", [1] * 32, [258], struct.pack("<f", 258)),
        ("FP32", [1, 1], [[258]], struct.pack("<f", 258)),
        ("FP32", [0], [], b""),
        ("FP32", [0, 5], [], b""),
        ("FP32", [2, 0], [[], []], b""),
        ("FP32", [2**63 - 1, 0], [], b""),
        ("FP32", [4], [1, -0.0, 1e-60, 3.4028234e38], struct.pack("<4f", 1, -0.0, 0, 3.4028234e38)),
        ("FP32", [1], [2**100], struct.pack("<f", 2**100)),
        ("FP32", [1], [0.1], b"\xcd\xcc\xcc\x3d"),
        ("BYTES", [2], ["owl", "\u20ac\x00"], [b"owl", b"\xe2\x82\xac\x00"]),
        ("BYTES", [1, 2], [["", "\U0001f989"]], [b"", b"\xf0\x9f\xa6\x89"]),
        ("BYTES", [0], [], []),
    ],
    ids=short,
)
def test_json_data_are_flat_or_nested(
    datatype: str, shape: list[int], data: list[object], raw: bytes | list[bytes]
) -> None:
    (found,) = read(request(changed(datatype=datatype, shape=shape, data=data))).inputs
    assert found == InputTensor("x", datatype, tuple(shape), raw)


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        *(([2], [1]), ([2], [1, 2, 3]), ([2], []), ([0], [1]), ([], []), ([], [1, 2])),
        *(([2, 2], [1, 2, 3]), ([2, 2], [[1, 2], [3]]), ([2, 2], [[1, 2, 3], [4]])),
        *(([2, 2], [[1, 2], 3, 4]), ([2, 2], [1, 2, [3, 4]]), ([2, 2], [[1, 2, 3, 4]])),
        *(([2, 2], [[1, 2], [3, 4], []]), ([2, 2], [[[1, 2], [3, 4]]]), ([4], [[1, 2], [3, 4]])),
        *(([2, 2], [[1, 2], {"3": 4}]), ([2, 2], [[1, 2], "34"]), ([2, 1], [[1], [[2]]])),
        *(([2, 3], [[1, 2], [3, 4], [5, 6]]), ([1], [[1]]), ([], [[1]]), ([2, 0], [[], [1]])),
        *(([2, 0], [[]]), ([0], [[]]), ([0, 2], [[1, 2]]), ([2**62, 4], [1])),
        ([2**63 - 1] * 32, [1]),
    ],
    ids=short,
)
def test_json_data_of_another_shape_are_refused(shape: list[int], data: list[object]) -> None:
    with pytest.raises(
        InvalidRequestError,
        match=r"input 'x': data must be flat, with \S+ elements, or nested exactly as the shape \[",
    ):
        read(request(changed(shape=shape, data=data)))


@pytest.mark.parametrize(
    ("datatype", "data", "message"),
    [
        ("FP32", 1, "input 'x': data must be a list, not 1"),
        ("BYTES", "a", "input 'x': data must be a list, not 'a'"),
        ("FP32", {}, r"input 'x': data must be a list, not \{\}"),
        ("FP32", False, "input 'x': data must be a list, not False"),
        ("FP32", [True], "input 'x': FP32 needs numbers, not True"),
        ("FP32", ["1"], "input 'x': FP32 needs numbers, not '1'"),
        ("FP32", [None], "input 'x': FP32 needs numbers, not None"),
        ("FP32", [{}], r"input 'x': FP32 needs numbers, not \{\}"),
        ("BYTES", [1], "input 'x': BYTES needs text, not 1"),
        ("BYTES", [None], "input 'x': BYTES needs text, not None"),
        ("BYTES", ["\ud800"], "input 'x': a text is no UTF-8: surrogates not allowed"),
        ("FP32", [3.5e38], "input 'x': a number is outside the range of FP32"),
        ("FP32", [-3.5e38], "outside the range of FP32"),
        ("FP32", [10**400], "outside the range of FP32"),
    ],
    ids=short,
)
def test_other_json_data_are_refused(datatype: str, data: object, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        read(request(changed(datatype=datatype, shape=[1], data=data)))


@pytest.mark.parametrize("number", ["1e999", "-1e999"])
def test_json_data_are_finite(number: str) -> None:
    body = request().replace(b"0.5", number.encode())
    with pytest.raises(InvalidRequestError, match="outside the range of FP32"):
        read(body)


# binary data


@pytest.mark.parametrize("shape", [[], [0], [3], [2, 3], [2, 0, 4], [1, 1]])
def test_binary_data_stay_as_they_are(shape: list[int]) -> None:
    raw = bytes(range(200, 200 + math.prod(shape) * 4))
    (found,) = read_binary(request(sized("FP32", shape, len(raw))), raw).inputs
    assert found == InputTensor("x", "FP32", tuple(shape), raw)
    assert isinstance(found.data, memoryview)  # nothing was copied


@pytest.mark.parametrize(
    ("shape", "elements"),
    [
        *(([], [b"owl"]), ([1], [b""]), ([2], [b"", b"\xff\xd8\0"]), ([0], []), ([3, 0], [])),
        ([2, 2], [b"a", b"bc" * 300, b"", b"d"]),
    ],
)
def test_binary_bytes_have_their_length_before_them(
    shape: list[int], elements: list[bytes]
) -> None:
    raw = texts(*elements)
    (found,) = read_binary(request(sized("BYTES", shape, len(raw))), raw).inputs
    assert found == InputTensor("x", "BYTES", tuple(shape), elements)


def test_binary_data_follow_in_the_order_of_their_inputs() -> None:
    part = request(
        sized("FP32", [3], 12, name="c"),
        PIXELS,
        sized("BYTES", [1], 6, name="a"),
        sized("FP32", [0], 0, name="d"),
        sized("FP32", [1], 4, name="b"),
    )
    found = read_binary(part, b"abcdefghijkl" + texts(b"xy") + b"\4\3\2\1")
    assert [(tensor.name, tensor.data) for tensor in found.inputs] == [
        ("c", b"abcdefghijkl"),
        ("x", struct.pack("<2f", 0.5, 1)),
        ("a", [b"xy"]),
        ("d", b""),
        ("b", b"\4\3\2\1"),
    ]


@pytest.mark.parametrize(
    "size", [-1, 9, 2**40, 2**63, 2**64 - 1, -(2**63), 8.0, 1e300, True, False, "8", ""], ids=short
)
def test_other_binary_sizes_are_refused(size: object) -> None:
    with pytest.raises(
        InvalidRequestError,
        match="input 'x': binary_data_size must be a whole number from 0 to the 8 bytes that are "
        "left in the body, not ",
    ):
        read_binary(request(sized("FP32", [2], size)), bytes(8))


@pytest.mark.parametrize(
    ("inputs", "raw", "message"),
    [
        ([sized("FP32", [2], 4)], bytes(4), r"'x': FP32 of shape \[2\] needs 8 bytes, not 4"),
        ([sized("FP32", [2], 12)], bytes(12), "'x': FP32 .* needs 8 bytes, not 12"),
        ([sized("FP32", [], 0)], b"", r"'x': FP32 of shape \[\] needs 4 bytes, not 0"),
        ([sized("FP32", [2**62], 8)], bytes(8), "'x': FP32 .* needs 18446744073709551616 bytes"),
        ([sized("FP32", [2**63 - 1] * 32, 1)], bytes(1), "'x': FP32 .* needs .* bytes, not 1"),
        ([sized("FP32", [2], 8)], bytes(9), "1 bytes are left after the last input"),
        ([sized("FP32", [2], 8)], bytes(1), "from 0 to the 1 bytes that are left"),
        ([PIXELS], bytes(5), "5 bytes are left after the last input"),
        (
            [sized("FP32", [2], 8), sized("FP32", [2], 8, name="y")],
            *(bytes(9), "input 'y': binary_data_size .* from 0 to the 1 bytes that are left"),
        ),
        ([sized("BYTES", [1], 2**70)], texts(b"ab"), "'binary_data_size' must be .* 64 bits"),
        ([sized("BYTES", [2], 6)], texts(b"ab"), r"BYTES of shape \[2\] needs 2 elements, not 1"),
        ([sized("BYTES", [], 8)], texts(b"", b""), r"BYTES of shape \[\] needs 1 elements, not 2"),
        ([sized("BYTES", [1], 0)], b"", "BYTES .* needs 1 elements, not 0"),
        ([sized("BYTES", [0], 4)], texts(b""), "BYTES .* needs 0 elements, not 1"),
        ([sized("BYTES", [1], 2)], b"ab", "'x': element 0 does not end inside its binary_data_siz"),
        ([sized("BYTES", [1], 5)], texts(b"ab")[:5], "element 0 does not end inside"),
        ([sized("BYTES", [2], 9)], texts(b"ab") + bytes(3), "element 1 does not end inside"),
        ([sized("BYTES", [1], 4)], b"\xff\xff\xff\xff", "element 0 does not end inside"),
        ([sized("BYTES", [1], 6)], texts(b"ab")[::-1], "element 0 does not end inside"),
        ([sized("BYTES", [2], 8)], texts(b"ab", b"cd"), "element 1 does not end inside"),
        ([sized("BYTES", [2], 4)], texts(b"ab", b"cd"), "element 0 does not end inside"),
        # a length that reaches into the next input's data
        (
            [sized("BYTES", [1], 5), sized("FP32", [1], 4, name="y")],
            *(texts(b"abc12"), "'x': element 0 does not end inside"),
        ),
        ([changed(parameters={"binary_data_size": 8})], bytes(8), "it has both"),
        ([changed(data=EMPTY)], b"", "it has neither"),
    ],
    ids=short,
)
def test_other_binary_data_are_refused(
    inputs: list[dict[str, Any]], raw: bytes, message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        read_binary(request(*inputs), raw)


@pytest.mark.parametrize("size", [0, 8, -1])
def test_binary_data_need_the_header(size: int) -> None:
    part = request(sized("FP32", [0], size))
    with pytest.raises(InvalidRequestError, match="'x': binary_data_size needs the header Infer"):
        read(part)
    with pytest.raises(InvalidRequestError, match="no valid JSON"):
        read(part + bytes(8))


def test_elements_behind_the_last_that_is_allowed_are_not_looked_at() -> None:
    bounds = AMPLE._replace(max_elements=2)
    two, three = texts(b"a", b"b"), texts(b"a", b"b", b"c")
    for raw, num in ((two, 2), (three, 3), (two + b"\xff no element", 2)):
        part = request(sized("BYTES", [num], len(raw)))
        if raw == two:
            found = parse_within(part + raw, str(len(part)), RAW, bounds)
            assert found.inputs[0].data == [b"a", b"b"]
        else:
            with pytest.raises(TooLargeError, match="more than 2 elements"):
                parse_within(part + raw, str(len(part)), RAW, bounds)
