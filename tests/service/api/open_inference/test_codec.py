"""Where the JSON of a body ends, bodies without JSON, and answers."""

import json
import math
import struct

import pytest

from service.api.open_inference.codec import InferRequest, InputTensor, OutputTensor, RawInput
from service.errors import InferenceError, InvalidRequestError
from tests.service.api.names import short
from tests.service.api.open_inference.bodies import (
    RAW,
    answer,
    parse,
    read,
    request,
    sized,
    texts,
)

# where the JSON ends


@pytest.mark.parametrize("header", ["{}", " {}", "{}\t", "0{}", "0000000{}"])
def test_the_header_says_where_the_json_ends(header: str) -> None:
    part = request(sized("FP32", [1], 4))
    (found,) = parse(part + b"{}{}", header.format(len(part)), RAW).inputs
    assert found.data == b"{}{}"
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
    part = request(sized("FP32", [1], 4))
    with pytest.raises(InvalidRequestError, match=message):
        parse(part + b"abcd", str(len(part) + cut), RAW)


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
