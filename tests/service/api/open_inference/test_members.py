"""The JSON of a request, member by member: what is understood, and what each refusal says."""

import json
import struct

import pytest

from service.api.open_inference.codec import InferRequest, InputTensor, WantedOutput
from service.api.open_inference.codec import parse as parse_within
from service.api.open_inference.members import Bounds
from service.errors import InvalidRequestError, TooLargeError
from tests.service.api.names import short
from tests.service.api.open_inference.bodies import (
    EMPTY,
    PIXELS,
    RAW,
    changed,
    parse,
    read,
    request,
)


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
        *(
            (
                {"datatype": datatype},
                f"input 'x': datatype '{datatype}' is not supported; needed is BYTES or FP32",
            )
            for datatype in ("FP64", "FP16", "BF16", "INT64", "UINT8", "BOOL", "STRING", "fp32")
        ),
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


def test_a_large_json_is_ascii() -> None:
    for name, fits in (("\u00e9", True), ("\u00e9" * 600_000, False)):
        body = json.dumps({"inputs": [PIXELS], "unknown": name}, ensure_ascii=False).encode()
        if fits:
            assert len(read(body).inputs) == 1
        else:
            with pytest.raises(InvalidRequestError, match=r"not ASCII; write these as \\uXXXX"):
                read(body)
        assert len(read(request(unknown=name)).inputs) == 1
