"""The Open Inference Protocol's bodies: every rule, every refusal, and Triton's own client."""

import contextlib
import gzip
import json
import math
import struct
import zlib
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.http import (
    InferenceServerClient,
    InferInput,
    InferRequestedOutput,
    InferResult,
)

from service.api.open_inference.codec import (
    InferRequest,
    InputTensor,
    OutputTensor,
    RawInput,
    WantedOutput,
    inflate,
    render,
)
from service.api.open_inference.codec import parse as parse_within
from service.api.open_inference.members import Bounds
from service.errors import InferenceError, InvalidRequestError, TooLargeError, UnsupportedMediaError

RAW = RawInput("image", "BYTES", (1,))
AMPLE = Bounds(max_commas=10**6, max_brackets=10**6, max_elements=10**6)
parse = partial(parse_within, bounds=AMPLE)
INTEGERS = ("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64")
LETTERS = dict(zip((*INTEGERS, "BOOL", "FP32", "FP64"), "BHIQbhiq?fd", strict=True))
SIZES = {
    **dict(zip(INTEGERS, (1, 2, 4, 8) * 2, strict=True)),
    **dict(zip(("BOOL", "FP16", "BF16", "FP32", "FP64"), (1, 2, 2, 4, 8), strict=True)),
}
PIXELS = {"name": "x", "datatype": "FP32", "shape": [2], "data": [0.5, 1]}
EMPTY = object()
"""a member that a test takes away."""


def short(value: object) -> str:
    """A readable name for a row of a table."""
    return repr(value)[:40]


def request(*inputs: dict[str, Any], **members: object) -> bytes:
    return json.dumps({"inputs": inputs or [PIXELS], **members}).encode()


def changed(**members: object) -> dict[str, Any]:
    """The input `PIXELS`, other than it should be."""
    return {name: value for name, value in {**PIXELS, **members}.items() if value is not EMPTY}


def sized(datatype: str, shape: list[int], size: object, name: str = "x") -> dict[str, Any]:
    """An input with binary data."""
    parameters = {"binary_data_size": size}
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": parameters}


def read(body: bytes) -> InferRequest:
    return parse(body, None, RAW)


def read_binary(part: bytes, raw: bytes, raw_input: RawInput = RAW) -> InferRequest:
    return parse(part + raw, str(len(part)), raw_input)


def texts(*elements: bytes) -> bytes:
    """Binary data of BYTES."""
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def answer(*outputs: OutputTensor, **members: Any) -> tuple[bytes, int | None]:
    given = {"model_name": "vit", "model_version": "1", "request_id": None, "parameters": {}}
    return render(**{**given, **members}, outputs=outputs)


# Content-Encoding


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        *(("identity", bytes), ("Identity", bytes)),
        *(("gzip", gzip.compress), ("GZIP", gzip.compress), (" gzip ", gzip.compress)),
        *(("deflate", zlib.compress), ("Deflate", zlib.compress)),
    ],
    ids=short,
)
@pytest.mark.parametrize("plain", [b"", b"x", bytes(range(256)) * 40])
def test_an_encoding_is_undone_up_to_the_limit(encoding: str, pack: Any, plain: bytes) -> None:
    body = pack(plain)
    assert inflate(body, encoding, len(plain)) == plain
    assert inflate(body, encoding, len(plain) + 1) == plain
    if plain:
        with pytest.raises(TooLargeError, match=f"allowed are {len(plain) - 1} bytes"):
            inflate(body, encoding, len(plain) - 1)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_is_not_inflated(encoding: str) -> None:
    bomb = {"gzip": gzip.compress, "deflate": zlib.compress}[encoding](bytes(10_000_000))
    with pytest.raises(TooLargeError, match="allowed are 1000 bytes, inflated"):
        inflate(bomb, encoding, 1000)
    with pytest.raises(TooLargeError):  # its end is never looked at
        inflate(bomb[:500] + b"no end", encoding, 1000)


@pytest.mark.parametrize(
    ("encoding", "body", "message"),
    [
        ("gzip", b"", "no valid gzip data: was it cut off"),
        ("gzip", b"{}", "no valid gzip data: .*incorrect header"),
        ("gzip", gzip.compress(b"{}")[:-1], "was it cut off"),
        ("gzip", gzip.compress(b"{}")[:-8] + bytes(8), "no valid gzip data: .*incorrect data"),
        ("gzip", gzip.compress(b"{}") + b"abc", "the body has 3 bytes after its gzip"),
        ("gzip", gzip.compress(b"{}") * 2, "bytes after its gzip"),
        ("gzip", zlib.compress(b"{}"), "no valid gzip data: .*incorrect header"),
        ("deflate", b"", "no valid deflate data: was it cut off"),
        ("deflate", zlib.compress(b"{}")[:-1], "was it cut off"),
        ("deflate", zlib.compress(b"{}")[:-4] + bytes(4), "incorrect data check"),
        ("deflate", zlib.compress(b"{}") + b"a", "the body has 1 bytes after its deflate"),
        ("deflate", gzip.compress(b"{}"), "no valid deflate data: .*incorrect header"),
        ("deflate", zlib.compress(b"{}")[2:-4], "no valid deflate data"),  # without its container
    ],
    ids=short,
)
def test_damaged_compressed_data_are_refused(encoding: str, body: bytes, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        inflate(body, encoding, 1000)


@pytest.mark.parametrize("encoding", ["br", "zstd", "", "gzip, deflate", "x" * 5000, "g\u017fip"])
def test_other_encodings_are_refused(encoding: str) -> None:
    with pytest.raises(UnsupportedMediaError, match=r"allowed: identity, gzip, deflate") as caught:
        inflate(b"", encoding, 1000)
    assert len(str(caught.value)) < 200


# a request


def test_a_request_says_what_it_wants() -> None:
    body = request(
        id="42",
        model_name="ignored",
        parameters={"tier": "fast", "r": 8, "deadline_ms": 1.5, "x": True},
        outputs=[{"name": "logits"}, {"name": "label", "parameters": {"classification": 3}}],
    )
    assert read(body) == InferRequest(
        id="42",
        parameters={"tier": "fast", "r": 8, "deadline_ms": 1.5, "x": True},
        inputs=(InputTensor("x", "FP32", (2,), struct.pack("<2f", 0.5, 1)),),
        outputs=(WantedOutput("logits", False, 0), WantedOutput("label", False, 3)),
        binary_output=False,
    )


@pytest.mark.parametrize("nothing", [{}, {"id": None, "parameters": None, "outputs": None}])
def test_only_inputs_are_needed(nothing: dict[str, None]) -> None:
    inputs = (InputTensor("x", "FP32", (2,), struct.pack("<2f", 0.5, 1)),)
    body = request({**PIXELS, "parameters": None} if nothing else PIXELS, **nothing)
    assert read(body) == InferRequest(None, {}, inputs, None, False)


@pytest.mark.parametrize(
    ("parameters", "outputs", "wanted"),
    [
        ({}, [], None),
        ({}, [{"name": "a"}], [WantedOutput("a", False, 0)]),
        ({}, [{"name": "a", "parameters": {}}], [WantedOutput("a", False, 0)]),
        ({}, [{"name": "a", "parameters": {"binary_data": True}}], [WantedOutput("a", True, 0)]),
        ({}, [{"name": "a", "parameters": {"later": "x"}}], [WantedOutput("a", False, 0)]),
        ({"binary_data_output": True}, [], None),
        ({"binary_data_output": True}, [{"name": "a"}], [WantedOutput("a", True, 0)]),
        (
            {"binary_data_output": True},
            [{"name": "b", "parameters": {"binary_data": False, "classification": 1}}],
            [WantedOutput("b", False, 1)],
        ),
        (
            {"binary_data_output": False},
            [{"name": "b", "parameters": {"binary_data": True}}, {"name": "a"}],
            [WantedOutput("b", True, 0), WantedOutput("a", False, 0)],
        ),
    ],
    ids=short,
)
def test_each_output_may_be_binary(
    parameters: dict[str, bool], outputs: list[object], wanted: list[WantedOutput] | None
) -> None:
    found = read(request(parameters={**parameters, "r": 1}, outputs=outputs))
    assert found.outputs == (wanted if wanted is None else tuple(wanted))
    assert found.binary_output is parameters.get("binary_data_output", False)
    assert found.parameters == {"r": 1}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        *((b"", "no valid JSON"), (b"owl", "no valid JSON"), (b"{} {}", "no valid JSON")),
        (b"\xff\xd8\xff\xe0", "no valid JSON: .*utf-8.* send the header Inference-Header-Content-"),
        (request().decode().encode("utf-16"), "no valid JSON"),
        (b"\xef\xbb\xbf" + request(), "no valid JSON: .*BOM"),
        (b'{"id": "\xe4"}', "no valid JSON: .*utf-8"),
        (b"[" * 100_000, "no valid JSON: .*recursion"),
        (b'{"a":' * 100_000, "no valid JSON: .*recursion"),
        (b'{"id": 1' + b"0" * 5000 + b"}", "no valid JSON: .*4300"),
        (b'{"r": NaN}', "no valid JSON: NaN is no JSON number"),
        (b'{"r": [Infinity]}', "Infinity is no JSON number"),
        (b'{"r": -Infinity}', "-Infinity is no JSON number"),
        (b'{"id": "1", "inputs": [], "id": "1"}', "member 'id' is given twice"),
        (b'{"inputs": [{"a": {"b": 1, "c": 2, "c": 2}}]}', "member 'c' is given twice"),
        *((b"null", "must be an object"), (b"[]", "must be an object"), (b"1", "be an object")),
        (b"{}", "inputs are missing"),
        (b'{"inputs": null}', "inputs are missing"),
        (b'{"inputs": []}', "inputs are missing"),
        (b'{"inputs": {"name": "x"}}', "inputs must be a list of objects"),
        (b'{"inputs": [1]}', r"inputs must be a list of objects, not \[1\]"),
        (b'{"inputs": [{}]}', r"inputs\[0\]: name is missing"),
        (request(PIXELS, changed(name=EMPTY)), r"inputs\[1\]: name is missing"),
        (request(changed(name=None)), r"inputs\[0\]: name is missing"),
        (request(changed(name=7)), r"inputs\[0\]: name must be text, not 7"),
        (request(PIXELS, changed(name="y"), PIXELS), "input 'x' is given twice"),
        (request(id=7), "id must be text, not 7"),
        (request(id=False), "id must be text, not False"),
        (request(parameters=[]), r"the request: parameters must be an object, not \[\]"),
        (request(parameters={"r": None}), "the request: parameter 'r' must be text, true, .* None"),
        (request(parameters={"r": [1]}), r"parameter 'r' must be .*, not \[1\]"),
        (request(parameters={"r": {}}), r"parameter 'r' must be .*, not \{\}"),
        (request(parameters={"r": 2**64}), "parameter 'r' must be .* at most 64 bits"),
        (request(parameters={"r": -(2**63) - 1}), "parameter 'r' must be .* at most 64 bits"),
        (b'{"parameters": {"r": 1e999}}', "parameter 'r' must be .*, not inf"),
        (request(parameters={"binary_data_output": 1}), "binary_data_output must be true or false"),
        (request(parameters={"binary_data_output": "true"}), "must be true or false, not 'true'"),
        (request(outputs={}), r"outputs must be a list of objects, not \{\}"),
        (request(outputs=["y"]), r"outputs must be a list of objects, not \['y'\]"),
        (request(outputs=[{"name": "y"}, {}]), r"outputs\[1\]: name is missing"),
        (request(outputs=[{"name": []}]), r"outputs\[0\]: name must be text, not \[\]"),
        (request(outputs=[{"name": "y"}, {"name": "y"}]), "output 'y' is given twice"),
    ],
    ids=short,
)
def test_other_requests_are_refused(body: bytes, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        read(body)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("all", "output 'y': parameters must be an object, not 'all'"),
        ({"binary_data": 1}, "output 'y': binary_data must be true or false, not 1"),
        ({"binary_data": "no"}, "output 'y': binary_data must be true or false, not 'no'"),
        ({"classification": 0}, "output 'y': classification must be a whole number from 1 on"),
        ({"classification": -1}, "classification must be a whole number from 1 on, not -1"),
        ({"classification": True}, "classification must be a whole number from 1 on, not True"),
        ({"classification": 1.0}, "classification must be a whole number from 1 on, not 1.0"),
        ({"classification": "5"}, "classification must be a whole number from 1 on, not '5'"),
        ({"classification": 2**64}, "output 'y': parameter 'classification' must be .* 64 bits"),
        ({"shared_memory_region": "r"}, "output 'y': shared memory is not supported"),
    ],
    ids=short,
)
def test_other_outputs_are_refused(parameters: object, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        read(request(outputs=[{"name": "y", "parameters": parameters}]))


@pytest.mark.parametrize("value", [2**64 - 1, -(2**63), 1e308, -0.5, "", True, False])
def test_parameters_have_any_simple_value(value: object) -> None:
    (found,) = read(request(parameters={"p": value})).parameters.values()
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"shape": EMPTY}, "input 'x': shape is missing"),
        ({"shape": None}, "input 'x': shape is missing"),
        ({"datatype": EMPTY}, "input 'x': datatype is missing"),
        ({"datatype": 32}, "input 'x': datatype must be text, not 32"),
        ({"datatype": "fp32"}, "input 'x': datatype 'fp32' is unknown; allowed: BOOL, UINT8, .*"),
        ({"datatype": "STRING"}, "allowed: .*, FP32, FP64, FP16, BF16, BYTES"),
        ({"data": EMPTY}, "input 'x' needs data or binary_data_size; it has neither"),
        ({"data": None}, "input 'x' needs data or binary_data_size; it has neither"),
        ({"parameters": {"binary_data_size": 8}}, "needs data or binary_data_size; it has both"),
        ({"parameters": 7}, "input 'x': parameters must be an object, not 7"),
        ({"parameters": {"p": []}}, "input 'x': parameter 'p' must be text"),
        ({"parameters": {"shared_memory_region": "r"}}, "input 'x': shared memory is not supp"),
        ({"parameters": {"binary_data_size": None}}, "parameter 'binary_data_size' must be"),
    ],
    ids=short,
)
def test_other_inputs_are_refused(members: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        read(request(changed(**members)))


@pytest.mark.parametrize(
    "shape",
    [
        *(2, "2", {}, {"2": 2}, True, [-1], [2.0], [True], ["2"], [None], [[2]], [2, -1]),
        *([2**63], [10**4000], [1] * 33, [2**62] * 100_000),
    ],
    ids=short,
)
def test_other_shapes_are_refused(shape: object) -> None:
    message = r"input 'x': shape must be a list of at most 32 whole numbers from 0 to 2\*\*63 - 1"
    with pytest.raises(InvalidRequestError, match=message) as caught:
        read(request(changed(shape=shape)))
    assert len(str(caught.value)) < 500


def test_messages_stay_short() -> None:
    long = "x" * 100_000
    for broken in (
        request(changed(name=long, shape=[3])),
        request(changed(name=[long])),
        request(changed(datatype=long)),
        request(changed(data=long)),
        request(changed(data=[long] * 2)),
        request(changed(shape=[long])),
        request(changed(parameters={long: [long]})),
        request(id=[long] * 100),
        request(parameters={"binary_data_output": long}),
        request(changed(shape=[2**63 - 1] * 32)),
        f'{{"{long}": 1, "{long}": 1}}'.encode(),
    ):
        with pytest.raises(InvalidRequestError) as caught:
            read(broken)
        assert len(str(caught.value)) < 500
    with pytest.raises(InvalidRequestError) as caught:
        parse(b"{}", long, RAW)
    assert len(str(caught.value)) < 500


# data in JSON

LIMITS = {
    **{name: (0, 2 ** (8 * SIZES[name]) - 1) for name in INTEGERS[:4]},
    **{
        name: (-(2 ** (8 * SIZES[name] - 1)), 2 ** (8 * SIZES[name] - 1) - 1)
        for name in INTEGERS[4:]
    },
}
SQUARE = struct.pack("<6h", *range(6))


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "raw"),
    [
        ("INT16", [2, 3], [0, 1, 2, 3, 4, 5], SQUARE),
        ("INT16", [2, 3], [[0, 1, 2], [3, 4, 5]], SQUARE),
        ("INT16", [1, 2, 1, 3], [[[[0, 1, 2]], [[3, 4, 5]]]], SQUARE),
        ("INT16", [6, 1], [[0], [1], [2], [3], [4], [5]], SQUARE),
        ("INT16", [1, 6], [0, 1, 2, 3, 4, 5], SQUARE),
        ("INT16", [], [258], b"\x02\x01"),
        ("INT16", [1], [258], b"\x02\x01"),
        ("INT16", [1] * 32, [258], b"\x02\x01"),
        ("INT16", [1, 1], [[258]], b"\x02\x01"),
        ("INT16", [0], [], b""),
        ("INT16", [0, 5], [], b""),
        ("INT16", [2, 0], [[], []], b""),
        ("INT16", [2**63 - 1, 0], [], b""),
        ("BOOL", [3], [True, False, True], b"\1\0\1"),
        ("FP32", [4], [1, -0.0, 1e-60, 3.4028234e38], struct.pack("<4f", 1, -0.0, 0, 3.4028234e38)),
        ("FP32", [1], [2**100], struct.pack("<f", 2**100)),
        ("FP32", [1], [0.1], b"\xcd\xcc\xcc\x3d"),
        ("FP64", [2], [0.1, 1], struct.pack("<2d", 0.1, 1)),
        ("BYTES", [2], ["owl", "\u20ac\x00"], [b"owl", b"\xe2\x82\xac\x00"]),
        ("BYTES", [1, 2], [["", "\U0001f989"]], [b"", b"\xf0\x9f\xa6\x89"]),
        ("BYTES", [0], [], []),
        *((name, [2], list(limits), struct.pack(f"<2{LETTERS[name]}", *limits))
          for name, limits in LIMITS.items()),
    ],
    ids=short,
)  # fmt: skip
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
        read(request(changed(datatype="INT64", shape=shape, data=data)))


@pytest.mark.parametrize(
    ("datatype", "data", "message"),
    [
        ("FP32", 1, "input 'x': data must be a list, not 1"),
        ("BYTES", "a", "input 'x': data must be a list, not 'a'"),
        ("FP32", {}, r"input 'x': data must be a list, not \{\}"),
        ("FP32", False, "input 'x': data must be a list, not False"),
        ("FP16", [1.0], "input 'x': FP16 has no JSON form; send it as binary data, or send FP32"),
        ("BF16", [1.0], "input 'x': BF16 has no JSON form"),
        ("BOOL", [1], "input 'x': BOOL needs true or false, not 1"),
        ("BOOL", ["true"], "input 'x': BOOL needs true or false, not 'true'"),
        ("BOOL", [None], "input 'x': BOOL needs true or false, not None"),
        ("INT32", [1.0], "input 'x': INT32 needs whole numbers, not 1.0"),
        ("INT32", [True], "input 'x': INT32 needs whole numbers, not True"),
        ("INT32", ["1"], "input 'x': INT32 needs whole numbers, not '1'"),
        ("FP32", [True], "input 'x': FP32 needs numbers, not True"),
        ("FP32", ["1"], "input 'x': FP32 needs numbers, not '1'"),
        ("FP64", [None], "input 'x': FP64 needs numbers, not None"),
        ("FP32", [{}], r"input 'x': FP32 needs numbers, not \{\}"),
        ("BYTES", [1], "input 'x': BYTES needs text, not 1"),
        ("BYTES", [None], "input 'x': BYTES needs text, not None"),
        ("BYTES", ["\ud800"], "input 'x': a text is no UTF-8: surrogates not allowed"),
        ("FP32", [3.5e38], "input 'x': a number is outside the range of FP32"),
        ("FP32", [-3.5e38], "outside the range of FP32"),
        ("FP32", [10**400], "outside the range of FP32"),
        ("FP64", [10**400], "outside the range of FP64"),
        *(
            (name, [limit], f"input 'x': a number is outside the range of {name}")
            for name, (low, high) in LIMITS.items()
            for limit in (low - 1, high + 1, 10**400)
        ),
    ],
    ids=short,
)
def test_other_json_data_are_refused(datatype: str, data: object, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        read(request(changed(datatype=datatype, shape=[1], data=data)))


@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
@pytest.mark.parametrize("number", ["1e999", "-1e999"])
def test_json_data_are_finite(datatype: str, number: str) -> None:
    body = request(changed(datatype=datatype)).replace(b"0.5", number.encode())
    with pytest.raises(InvalidRequestError, match=f"outside the range of {datatype}"):
        read(body)


# binary data


@pytest.mark.parametrize("datatype", SIZES)
@pytest.mark.parametrize("shape", [[], [0], [3], [2, 3], [2, 0, 4], [1, 1]])
def test_binary_data_stay_as_they_are(datatype: str, shape: list[int]) -> None:
    raw = bytes(range(200, 200 + math.prod(shape) * SIZES[datatype]))
    (found,) = read_binary(request(sized(datatype, shape, len(raw))), raw).inputs
    assert found == InputTensor("x", datatype, tuple(shape), raw)
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
        sized("INT8", [3], 3, name="c"),
        PIXELS,
        sized("BYTES", [1], 6, name="a"),
        sized("INT8", [0], 0, name="d"),
        sized("INT16", [1], 2, name="b"),
    )
    found = read_binary(part, b"abc" + texts(b"xy") + b"\x02\x01")
    assert [(tensor.name, tensor.data) for tensor in found.inputs] == [
        ("c", b"abc"),
        ("x", struct.pack("<2f", 0.5, 1)),
        ("a", [b"xy"]),
        ("d", b""),
        ("b", b"\x02\x01"),
    ]


@pytest.mark.parametrize("header", ["{}", " {}", "{}\t", "0{}", "0000000{}"])
def test_the_header_says_where_the_json_ends(header: str) -> None:
    part = request(sized("INT8", [2], 2))
    (found,) = parse(part + b"{}", header.format(len(part)), RAW).inputs
    assert found.data == b"{}"
    assert parse(request(), header.format(len(request())), RAW) == read(request())


@pytest.mark.parametrize(
    "header",
    [
        *("", " ", "-1", "+1", "1.0", "1e1", "0x10", "1_0", "10, 10", "1 0", "many", "\u0661"),
        *("\u00b2", "10\n", "10\x00", "101", "9" * 19, "9" * 20, "9" * 100_000, "0" * 100_000),
    ],
    ids=short,
)
def test_other_headers_are_refused(header: str) -> None:
    with pytest.raises(
        InvalidRequestError,
        match="Content-Length must be the length of the JSON, from 0 to the body's 100 bytes, not",
    ):
        parse(b"{}".ljust(100), header, RAW)


@pytest.mark.parametrize(("cut", "message"), [(1, "no valid JSON"), (-1, "no valid JSON")])
def test_a_header_that_is_wrong_is_noticed(cut: int, message: str) -> None:
    part = request(sized("INT8", [2], 2))
    with pytest.raises(InvalidRequestError, match=message):
        parse(part + b"ab", str(len(part) + cut), RAW)


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
        ([sized("FP16", [2], 8)], bytes(8), "'x': FP16 .* needs 4 bytes, not 8"),
        ([sized("INT8", [], 0)], b"", r"'x': INT8 of shape \[\] needs 1 bytes, not 0"),
        ([sized("FP64", [2**62], 8)], bytes(8), "'x': FP64 .* needs 36893488147419103232 bytes"),
        ([sized("INT8", [2**63 - 1] * 32, 1)], bytes(1), "'x': INT8 .* needs .* bytes, not 1"),
        ([sized("INT8", [2], 2)], bytes(3), "1 bytes are left after the last input"),
        ([sized("INT8", [2], 2)], bytes(1), "from 0 to the 1 bytes that are left"),
        ([PIXELS], bytes(5), "5 bytes are left after the last input"),
        (
            [sized("INT8", [2], 2), sized("INT8", [2], 2, name="y")],
            *(bytes(3), "input 'y': binary_data_size .* from 0 to the 1 bytes that are left"),
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
            [sized("BYTES", [1], 5), sized("INT8", [4], 4, name="y")],
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


# a body without JSON


@pytest.mark.parametrize("header", ["0", "00", " 0"])
@pytest.mark.parametrize("body", [b"", b"\xff\xd8\xff", b"{}", texts(b"a", b"b")], ids=short)
def test_a_bare_body_is_one_element_of_bytes(body: bytes, header: str) -> None:
    found = parse(body, header, RAW)
    assert found == InferRequest(
        None, {}, (InputTensor("image", "BYTES", (1,), (body,)),), None, binary_output=True
    )
    assert found.inputs[0].data[0] is body  # nothing was copied


def test_a_bare_body_is_the_whole_tensor() -> None:
    body, raw_input = bytes(range(12)), RawInput("pixels", "FP32", (1, 3))
    inputs = (InputTensor("pixels", "FP32", (1, 3), body),)
    assert parse(body, "0", raw_input) == InferRequest(None, {}, inputs, None, True)
    for wrong in (b"", body[:-1], body + b"x", body * 2):
        with pytest.raises(InvalidRequestError, match=r"'pixels': FP32 .* needs 12 bytes, not"):
            parse(wrong, "0", raw_input)
    with pytest.raises(InvalidRequestError, match=r"'pixels': BYTES .* needs 3 elements, not 1"):
        parse(body, "0", raw_input._replace(datatype="BYTES"))


# an answer

LOGITS = OutputTensor("logits", "FP32", (1, 3), struct.pack("<3f", 0.1, -2, 1e30), binary=False)
LABELS = OutputTensor("label", "BYTES", (2,), ["\u20ac:1".encode(), b""], binary=False)


def test_an_answer_in_json() -> None:
    body, json_bytes = answer(
        LOGITS, LABELS, request_id="\ud800\u20ac", parameters={"tier": "fast", "r": 8, "x": True}
    )
    assert json_bytes is None
    assert json.loads(body) == {
        "model_name": "vit",
        "model_version": "1",
        "id": "\ud800\u20ac",
        "parameters": {"tier": "fast", "r": 8, "x": True},
        "outputs": [
            {
                "name": "logits",
                "datatype": "FP32",
                "shape": [1, 3],
                "data": list(struct.unpack("<3f", LOGITS.data)),
            },
            {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["\u20ac:1", ""]},
        ],
    }


def test_an_answer_with_binary_data() -> None:
    body, json_bytes = answer(LABELS._replace(binary=True), LOGITS._replace(binary=True))
    assert json.loads(body[:json_bytes]) == {
        "model_name": "vit",
        "model_version": "1",
        "outputs": [
            {
                "name": "label",
                "datatype": "BYTES",
                "shape": [2],
                "parameters": {"binary_data_size": 13},
            },
            {
                "name": "logits",
                "datatype": "FP32",
                "shape": [1, 3],
                "parameters": {"binary_data_size": 12},
            },
        ],
    }
    assert body[json_bytes:] == b"\5\0\0\0\xe2\x82\xac:1\0\0\0\0" + LOGITS.data


def test_an_answer_may_have_both_kinds_and_an_empty_id() -> None:
    empty = OutputTensor("empty", "FP32", (0,), b"", binary=True)
    body, json_bytes = answer(LOGITS._replace(binary=True), LABELS, empty, request_id="")
    told = json.loads(body[:json_bytes])
    assert told["id"] == ""
    assert [sorted(output) for output in told["outputs"]] == [
        ["datatype", "name", "parameters", "shape"],
        ["data", "datatype", "name", "shape"],
        ["datatype", "name", "parameters", "shape"],
    ]
    assert body[json_bytes:] == LOGITS.data
    assert answer(empty)[1] == len(answer(empty)[0])  # no bytes, but they are binary


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_holds_finite_numbers_only(value: float) -> None:
    logits = LOGITS._replace(data=struct.pack("<3f", 0, value, 0))
    with pytest.raises(InferenceError, match="output 'logits' has numbers that are not finite"):
        answer(logits)
    body, json_bytes = answer(logits._replace(binary=True))
    assert body[json_bytes:] == logits.data


def test_json_holds_text_only() -> None:
    labels = LABELS._replace(data=[b"owl", b"\xff"])
    with pytest.raises(InvalidRequestError, match="output 'label' is no UTF-8; ask for it as bin"):
        answer(labels)
    body, json_bytes = answer(labels._replace(binary=True))
    assert body[json_bytes:] == texts(b"owl", b"\xff")


# laws

bounded = settings(max_examples=200, deadline=None, derandomize=True, database=None)
shapes = st.lists(st.integers(0, 3), max_size=4)
numbers = {
    "BOOL": st.booleans(),
    "FP32": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "FP64": st.floats(allow_nan=False, allow_infinity=False),
    **{name: st.integers(*limits) for name, limits in LIMITS.items()},
}


def nest(values: list[Any], shape: list[int]) -> Any:
    """The values as deep as the shape; slow and obvious."""
    if not shape:
        return values[0]
    step = len(values) // shape[0] if shape[0] else 0
    return [nest(values[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, list[int], list[Any]]:
    """A datatype, a shape, and values in row-major order."""
    datatype, shape = draw(st.sampled_from(list(numbers))), draw(shapes)
    count = math.prod(shape)
    return datatype, shape, draw(st.lists(numbers[datatype], min_size=count, max_size=count))


@bounded
@given(tensors())
def test_flat_nested_and_binary_data_mean_the_same(
    tensor: tuple[str, list[int], list[Any]],
) -> None:
    datatype, shape, values = tensor
    raw = struct.pack(f"<{len(values)}{LETTERS[datatype]}", *values)
    same = InputTensor("x", datatype, tuple(shape), raw)
    forms = [values, nest(values, shape)] if shape else [values]
    for data in forms:
        assert read(request(changed(datatype=datatype, shape=shape, data=data))).inputs == (same,)
    assert read_binary(request(sized(datatype, shape, len(raw))), raw).inputs == (same,)
    output = OutputTensor("y", datatype, tuple(shape), raw, binary=False)
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
            assert len(tensor.data) == count * SIZES.get(tensor.datatype, 1)


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
        "datatype": st.sampled_from([*SIZES, "BYTES"]) | json_values,
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


@bounded
@given(st.binary(max_size=100), st.sampled_from(["gzip", "deflate"]), st.integers(0, 100))
def test_any_compressed_bytes_are_inflated_or_refused(
    body: bytes, encoding: str, max_bytes: int
) -> None:
    pack = {"gzip": gzip.compress, "deflate": zlib.compress}[encoding]
    packed = pack(body)
    for damaged in (body, packed[:-1] + body, packed[: len(body)], body + packed):
        with contextlib.suppress(InvalidRequestError, TooLargeError):
            assert len(inflate(damaged, encoding, max_bytes)) <= max_bytes
    assert inflate(packed, encoding, len(body)) == body


# Triton's client

FLOATS = {"FP16": np.float16, "BF16": ml_dtypes.bfloat16, "FP32": np.float32, "FP64": np.float64}
DTYPES = {**{name: np.dtype(name.lower()) for name in INTEGERS}, "BOOL": np.bool_, **FLOATS}


def triton_input(name: str, array: Any, datatype: str, *, binary: bool) -> InferInput:
    found = InferInput(name, list(array.shape), datatype)
    return found.set_data_from_numpy(array, binary_data=binary)


def triton_request(*inputs: InferInput, **more: Any) -> InferRequest:
    body, json_bytes = InferenceServerClient.generate_request_body(inputs, **more)
    return parse(body, None if json_bytes is None else str(json_bytes), RAW)


@pytest.mark.parametrize(
    ("datatype", "binary"),
    [*((name, True) for name in DTYPES), *((name, False) for name in LETTERS)],
)
@pytest.mark.parametrize("shape", [(), (3,), (2, 1, 3), (2, 0)])
def test_what_tritons_client_sends_is_understood(
    datatype: str, binary: bool, shape: tuple[int, ...]
) -> None:
    random = np.random.default_rng(0)
    low = 0 if datatype[0] == "U" else -100
    array = np.array(random.uniform(low, 100, shape), DTYPES[datatype])
    found = triton_request(triton_input("x", array, datatype, binary=binary))
    assert found.inputs == (InputTensor("x", datatype, shape, array.tobytes()),)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(
    ("shape", "elements"),
    [
        *(((), [b"owl"]), ((2,), [b"", "\u20ac".encode()]), ((0,), []), ((0, 2), [])),
        ((2, 2), [b"a", b"b", b"", b"d"]),
    ],
)
def test_bytes_that_tritons_client_sends_are_understood(
    shape: tuple[int, ...], elements: list[bytes], binary: bool
) -> None:
    array = np.empty(len(elements), np.object_)
    array[:] = elements
    found = triton_request(triton_input("x", array.reshape(shape), "BYTES", binary=binary))
    assert found.inputs == (InputTensor("x", "BYTES", shape, elements),)


def test_a_photo_from_tritons_client_is_the_photo(owl: bytes) -> None:
    found = triton_request(triton_input("image", np.array([owl], np.object_), "BYTES", binary=True))
    assert found.inputs == (InputTensor("image", "BYTES", (1,), [owl]),)


def test_everything_else_that_tritons_client_says_is_understood() -> None:
    image = np.array([b"\xff\xd8", b""], np.object_)
    pixels = np.arange(6, dtype=np.float32).reshape(1, 6)
    inputs = (
        triton_input("flat", pixels, "FP32", binary=False),
        triton_input("image", image, "BYTES", binary=True),
        triton_input("pixels", pixels, "FP32", binary=True),
    )
    assert triton_request(*inputs) == InferRequest(
        id=None,
        parameters={},
        inputs=(
            InputTensor("flat", "FP32", (1, 6), pixels.tobytes()),
            InputTensor("image", "BYTES", (2,), [b"\xff\xd8", b""]),
            InputTensor("pixels", "FP32", (1, 6), pixels.tobytes()),
        ),
        outputs=None,
        binary_output=True,
    )
    ours = {"tier": "fast", "share": 0.5, "keep": True}
    found = triton_request(
        *inputs,
        outputs=[
            InferRequestedOutput("logits"),
            InferRequestedOutput("label", binary_data=False, class_count=5),
        ],
        request_id="\u20ac",
        sequence_id=7,
        priority=1,
        timeout=2000,
        parameters=ours,
    )
    assert found.id == "\u20ac"
    assert found.outputs == (WantedOutput("logits", True, 0), WantedOutput("label", False, 5))
    sequence = {"sequence_id": 7, "sequence_start": False, "sequence_end": False}
    assert found.parameters == {**sequence, "priority": 1, "timeout": 2000, **ours}
    assert found.binary_output is False


def test_shared_memory_of_tritons_client_is_refused() -> None:
    shared = InferInput("x", [1], "FP32")
    shared.set_shared_memory("region", 4)
    with pytest.raises(InvalidRequestError, match="input 'x': shared memory is not supported"):
        triton_request(shared)
    output = InferRequestedOutput("y")
    output.set_shared_memory("region", 4)
    plain = triton_input("x", np.zeros(1, np.float32), "FP32", binary=True)
    with pytest.raises(InvalidRequestError, match="output 'y': shared memory is not supported"):
        triton_request(plain, outputs=[output])


@pytest.mark.parametrize("encoding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [(True, True), (False, False), (True, False), (False, True)])
def test_tritons_client_understands_answers(
    binary: tuple[bool, bool], encoding: str | None
) -> None:
    logits = np.random.default_rng(0).standard_normal((2, 5)).astype(np.float32)
    labels = [f"{score:f}:{index}:\u20ac {index}".encode() for index, score in enumerate(logits[0])]
    body, json_bytes = answer(
        OutputTensor("logits", "FP32", (2, 5), logits.tobytes(), binary[0]),
        OutputTensor("label", "BYTES", (1, 5), labels, binary[1]),
        OutputTensor("none", "BYTES", (0, 5), [], binary[1]),
        request_id="42",
        parameters={"tier": "fast"},
    )
    pack = {None: bytes, "gzip": gzip.compress, "deflate": zlib.compress}[encoding]
    result = InferResult.from_response_body(
        pack(body), header_length=json_bytes, content_encoding=encoding
    )
    assert result.get_response()["id"] == "42"
    assert result.get_response()["model_name"] == "vit"
    assert result.get_response()["parameters"] == {"tier": "fast"}
    assert result.as_numpy("logits").tobytes() == logits.tobytes()
    assert result.as_numpy("logits").shape == (2, 5)
    found = result.as_numpy("label")
    assert found.shape == (1, 5)
    assert [x if isinstance(x, bytes) else x.encode() for x in found.flatten()] == labels
    assert result.as_numpy("none").shape == (0, 5)


@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
def test_what_tritons_client_compresses_is_understood(encoding: str, pack: Any) -> None:
    array = np.arange(50, dtype=np.float32)
    inputs = [triton_input("x", array, "FP32", binary=True)]
    body, json_bytes = InferenceServerClient.generate_request_body(inputs)
    found = parse(inflate(pack(body), encoding, len(body)), str(json_bytes), RAW)
    assert found.inputs[0].data == array.tobytes()


# bounds


@pytest.mark.parametrize(
    ("bounds", "fits"),
    [
        (Bounds(max_commas=4, max_brackets=5, max_elements=0), True),
        (Bounds(max_commas=3, max_brackets=5, max_elements=0), False),
        (Bounds(max_commas=4, max_brackets=4, max_elements=0), False),
    ],
)
def test_json_out_of_bounds_is_not_parsed(bounds: Bounds, fits: bool) -> None:
    body = json.dumps({"inputs": [{**PIXELS, "shape": [1], "data": [7]}]}, indent=1).encode()
    body = body.replace(b'"shape"', b'"u": "v", "shape"')
    if fits:
        assert len(parse_within(body, None, RAW, bounds).inputs) == 1
    for text in (body, body.replace(b"}", b"")):  # out of bounds is said even of broken JSON
        if not fits:
            with pytest.raises(TooLargeError, match=f"more than {bounds.max_commas} values"):
                parse_within(text, None, RAW, bounds)


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
