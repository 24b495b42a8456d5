"""Laws of the codec: forms that mean the same; any bytes are understood or refused."""

import contextlib
import json
import math
import struct
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from service.api.open_inference.codec import InferRequest, InputTensor, OutputTensor, RawInput
from service.errors import InvalidRequestError
from tests.service.api.open_inference.bodies import (
    PIXELS,
    RAW,
    answer,
    changed,
    parse,
    read,
    read_binary,
    request,
    sized,
    texts,
)

bounded = settings(max_examples=200, deadline=None, derandomize=True, database=None)
shapes = st.lists(st.integers(0, 3), max_size=4)
numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)


def nest(values: list[Any], shape: list[int]) -> Any:
    """The values as deep as the shape; slow and obvious."""
    if not shape:
        return values[0]
    step = len(values) // shape[0] if shape[0] else 0
    return [nest(values[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]


@st.composite
def tensors(draw: st.DrawFn) -> tuple[list[int], list[Any]]:
    """A shape, and values in row-major order."""
    shape = draw(shapes)
    count = math.prod(shape)
    return shape, draw(st.lists(numbers, min_size=count, max_size=count))


@bounded
@given(tensors())
def test_flat_nested_and_binary_data_mean_the_same(tensor: tuple[list[int], list[Any]]) -> None:
    shape, values = tensor
    raw = struct.pack(f"<{len(values)}f", *values)
    same = InputTensor("x", "FP32", tuple(shape), raw)
    forms = [values, nest(values, shape)] if shape else [values]
    for data in forms:
        assert read(request(changed(shape=shape, data=data))).inputs == (same,)
    assert read_binary(request(sized("FP32", shape, len(raw))), raw).inputs == (same,)
    output = OutputTensor("y", "FP32", tuple(shape), raw, binary=False)
    (told,) = json.loads(answer(output)[0])["outputs"]
    (back,) = read(request(told)).inputs
    assert back == same._replace(name="y")


@bounded
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5))
def test_texts_come_through_in_json_and_as_binary_data(elements: list[str]) -> None:
    shape, encoded = [len(elements)], [element.encode() for element in elements]
    given_ = changed(datatype="BYTES", shape=shape, data=elements)
    assert read(request(given_)).inputs[0].data == encoded
    output = OutputTensor("x", "BYTES", tuple(shape), encoded, binary=True)
    body, json_bytes = answer(output)
    assert parse(body.replace(b'"outputs"', b'"inputs"'), str((json_bytes or 0) - 1), RAW) == (
        InferRequest(None, {}, (InputTensor("x", "BYTES", tuple(shape), encoded),), None, False)
    )


VALID = [
    (request(id="1", parameters={"r": 1}, outputs=[{"name": "y"}]), None),
    (request(changed(shape=[1, 2], data=[[1.5, -2]])), None),
    (request(changed(datatype="BYTES", data=["a", "\u20ac"])), None),
    *(
        (part + raw, str(len(part)))
        for part, raw in [
            (request(sized("FP32", [2], 8), parameters={"binary_data_output": True}), bytes(8)),
            (request(sized("BYTES", [2], 11), PIXELS | {"name": "y"}), texts(b"owl", b"")),
        ]
    ),
    (b"\xff\xd8", "0"),
]
PIECES = [
    *(b"[", b"]", b"{", b"}", b",", b'"', b"0", b"-1", b"1e999", b"true", b"null", b"NaN", b"\xff"),
    *(b'"inputs":', b'"shape":[2]', b'"\\ud800"', b"9" * 30, b"[" * 2000, b"\xff\xff\xff\xff"),
]


def understood_or_refused(body: bytes, header: str | None, raw_input: RawInput = RAW) -> None:
    with contextlib.suppress(InvalidRequestError):
        found = parse(body, header, raw_input)
        assert isinstance(found, InferRequest)
        for tensor in found.inputs:
            count = math.prod(tensor.shape)
            assert len(tensor.data) == count * (4 if tensor.datatype == "FP32" else 1)


headers = st.none() | st.integers(-1, 300).map(str) | st.text(max_size=5)


@bounded
@given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode), headers)
def test_any_bytes_are_understood_or_refused(body: bytes, header: str | None) -> None:
    understood_or_refused(body, header)
    understood_or_refused(body, header, RawInput("pixels", "FP32", (1, 3)))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
params = json_values | st.fixed_dictionaries(
    {},
    optional={
        "binary_data_size": st.integers(-1, 20) | json_values,
        "binary_data": st.booleans() | json_values,
        "binary_data_output": st.booleans() | json_values,
        "classification": st.integers(-1, 5) | json_values,
    },
)
entries = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "y"]) | json_values,
        "datatype": st.sampled_from(["FP32", "BYTES", "INT64"]) | json_values,
        "shape": shapes | json_values,
        "data": st.lists(st.integers(-1, 300) | st.floats(), max_size=4) | json_values,
        "parameters": params,
    },
)
almost = st.fixed_dictionaries(
    {"inputs": st.lists(entries, max_size=3) | json_values},
    optional={"id": json_values, "parameters": params, "outputs": st.lists(entries, max_size=2)},
)


@bounded
@given(almost, st.binary(max_size=20), st.booleans())
def test_any_members_are_understood_or_refused(
    members: dict[str, object], raw: bytes, header: bool
) -> None:
    part = json.dumps(members).encode()
    understood_or_refused(part + raw, str(len(part)) if header else None)


@bounded
@given(
    st.sampled_from(VALID),
    st.integers(0, 300),
    st.integers(0, 8),
    st.sampled_from(PIECES) | st.binary(max_size=4),
    st.integers(-2, 2),
)
def test_a_request_with_a_fault_is_understood_or_refused(
    valid: tuple[bytes, str | None], start: int, cut: int, piece: bytes, shift: int
) -> None:
    body, header = valid
    start %= len(body) + 1
    moved = header and str(int(header) + shift)
    understood_or_refused(body[:start] + piece + body[start + cut :], moved)
