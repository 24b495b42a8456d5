"""Bodies of the Open Inference Protocol: how the tests make them, and how they read one."""

import json
import struct
from functools import partial
from typing import Any

from service.api.open_inference.codec import InferRequest, OutputTensor, RawInput, render
from service.api.open_inference.codec import parse as parse_within
from service.api.open_inference.content_encoding import pieces
from service.api.open_inference.members import Bounds

RAW = RawInput("image", "BYTES", (1,))
AMPLE = Bounds(max_commas=10**6, max_brackets=10**6, max_elements=10**6)
parse = partial(parse_within, bounds=AMPLE)
PIXELS = {"name": "x", "datatype": "FP32", "shape": [2], "data": [0.5, 1]}
EMPTY = object()
"""a member that a test takes away."""


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


def inflate(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """The whole decompressed body."""
    return b"".join(pieces(body, encoding, max_bytes))


def texts(*elements: bytes) -> bytes:
    """Binary data of BYTES."""
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def answer(*outputs: OutputTensor, **members: Any) -> tuple[bytes, int | None]:
    given = {"model_name": "vit", "model_version": "1", "request_id": None, "parameters": {}}
    return render(**{**given, **members}, outputs=outputs)
