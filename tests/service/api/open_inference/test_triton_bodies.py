"""The bodies of Triton's own client, both ways, without a server."""

import gzip
import zlib
from typing import Any

import numpy as np
import pytest
from tritonclient.http import (
    InferenceServerClient,
    InferInput,
    InferRequestedOutput,
    InferResult,
)
from tritonclient.utils import triton_to_np_dtype

from service.api.open_inference.codec import InferRequest, InputTensor, OutputTensor, WantedOutput
from service.errors import InvalidRequestError
from tests.service.api.open_inference.bodies import RAW, answer, inflate, parse


def triton_input(name: str, array: Any, datatype: str, *, binary: bool) -> InferInput:
    found = InferInput(name, list(array.shape), datatype)
    return found.set_data_from_numpy(array, binary_data=binary)


def triton_request(*inputs: InferInput, **more: Any) -> InferRequest:
    body, json_bytes = InferenceServerClient.generate_request_body(inputs, **more)
    return parse(body, None if json_bytes is None else str(json_bytes), RAW)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("shape", [(), (3,), (2, 1, 3), (2, 0)])
def test_what_tritons_client_sends_is_understood(shape: tuple[int, ...], binary: bool) -> None:
    array = np.array(np.random.default_rng(0).uniform(-100, 100, shape), np.float32)
    found = triton_request(triton_input("x", array, "FP32", binary=binary))
    assert found.inputs == (InputTensor("x", "FP32", shape, array.tobytes()),)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("datatype", ["UINT8", "INT32", "FP64", "BOOL"])
def test_other_datatypes_of_tritons_client_are_refused(datatype: str, binary: bool) -> None:
    array = np.zeros(3, triton_to_np_dtype(datatype))
    message = f"input 'x': datatype '{datatype}' is not supported; needed is BYTES or FP32"
    with pytest.raises(InvalidRequestError, match=message):
        triton_request(triton_input("x", array, datatype, binary=binary))


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
