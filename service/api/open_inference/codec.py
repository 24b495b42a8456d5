"""The Open Inference Protocol's `infer`: body -> request, answer -> body. No HTTP, no model."""

import json
from collections.abc import Mapping, Sequence
from reprlib import repr as short
from typing import NamedTuple

from service.api.open_inference.datatypes import (
    BYTES,
    check_length,
    from_binary,
    from_json,
    to_binary,
    to_json,
)
from service.api.open_inference.members import (
    Bounds,
    Parameter,
    read_count,
    read_datatype,
    read_flag,
    read_named,
    read_object,
    read_parameters,
    read_shape,
    read_text,
)
from service.errors import InvalidRequestError

LENGTH_HEADER = "Inference-Header-Content-Length"
MAX_DIGITS = 19
"""most digits of a length; more digits are no length of a body, and slow to convert."""


class InputTensor(NamedTuple):
    """An input of a request."""

    name: str
    datatype: str
    """one of `DATATYPES`."""
    shape: tuple[int, ...]
    data: Sequence[bytes] | bytes | memoryview
    """BYTES: one entry for each element; FP32: raw little-endian, row-major."""


class WantedOutput(NamedTuple):
    """An output that a client lists."""

    name: str
    binary: bool
    classification: int
    """0: the tensor itself; k: the k best classes as BYTES."""


class InferRequest(NamedTuple):
    """An infer request."""

    id: str | None
    parameters: Mapping[str, Parameter]
    """all parameters but binary_data_output."""
    inputs: tuple[InputTensor, ...]
    """at least one; no two have the same name."""
    outputs: tuple[WantedOutput, ...] | None
    """None: all of them; no two have the same name."""
    binary_output: bool
    """default of the outputs: whether they are binary data."""


class OutputTensor(NamedTuple):
    """An output of an answer."""

    name: str
    datatype: str
    """one of `DATATYPES`."""
    shape: tuple[int, ...]
    data: bytes | Sequence[bytes]
    """like `InputTensor.data`."""
    binary: bool


class RawInput(NamedTuple):
    """The input tensor that a body without JSON stands for."""

    name: str
    datatype: str
    shape: tuple[int, ...]


def parse(
    body: bytes, header_length: str | None, raw_input: RawInput, bounds: Bounds
) -> InferRequest:
    """Parse a request. Members that are null count as absent, unknown ones are ignored.

    Args:
        body: the whole body, decompressed; inputs may be views of it.
        header_length: the header Inference-Header-Content-Length; None if absent.
        raw_input: the input that the body is if that header is 0.
        bounds: limits of the request.

    Raises:
        InvalidRequestError: the request breaks the protocol.
        TooLargeError: the request is out of bounds.
    """
    json_bytes = _json_bytes(header_length, len(body))
    if json_bytes == 0:
        return _parse_raw(body, raw_input)
    view = memoryview(body)
    members = read_object(view[:json_bytes], bounds)
    where = "the request"
    request_id = None if members.get("id") is None else read_text(members, "id", where)
    parameters = read_parameters(members, where)
    binary_output = read_flag(parameters, "binary_data_output", where=where, default=False)
    return InferRequest(
        id=request_id,
        parameters={name: parameters[name] for name in parameters if name != "binary_data_output"},
        inputs=_parse_inputs(members, None if json_bytes is None else view[json_bytes:], bounds),
        outputs=_parse_outputs(members, binary_output),
        binary_output=binary_output,
    )


def _json_bytes(header_length: str | None, num_bytes: int) -> int | None:
    """Length of the JSON at the start of the body; None: the whole body is JSON."""
    if header_length is None:
        return None
    text = header_length.strip(" \t")
    is_number = text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS
    if not is_number or int(text) > num_bytes:
        raise InvalidRequestError(
            f"{LENGTH_HEADER} must be the length of the JSON, from 0 to the body's {num_bytes} "
            f"bytes, not {short(header_length)}"
        )
    return int(text)


def _parse_raw(body: bytes, raw_input: RawInput) -> InferRequest:
    """The request of a body that is one tensor; for BYTES, one element without a length prefix."""
    name, datatype, shape = raw_input
    where = f"input {short(name)}"
    data = (body,) if datatype == BYTES else body
    check_length(data, datatype, shape=shape, where=where)
    return InferRequest(None, {}, (InputTensor(name, datatype, shape, data),), None, True)


def _parse_inputs(
    members: Mapping[str, object], rest: memoryview | None, bounds: Bounds
) -> tuple[InputTensor, ...]:
    """The inputs in their order.

    Args:
        members: members of the request.
        rest: the bytes after the JSON; None if no header gives the length of the JSON.
        bounds: limits of the request.
    """
    inputs = []
    for name, entry in read_named(members, "input").items():
        where = f"input {short(name)}"
        datatype, shape = read_datatype(entry, where), read_shape(entry, where)
        raw, rest = _split(rest, entry, where)
        data: Sequence[bytes] | bytes | memoryview
        if raw is None:
            data = from_json(entry["data"], datatype, shape=shape, where=where)
        else:
            data = from_binary(
                raw, datatype, shape=shape, where=where, max_elements=bounds.max_elements
            )
        inputs.append(InputTensor(name, datatype, shape, data))
    if not inputs:
        raise InvalidRequestError("inputs are missing; the request needs at least one")
    if rest:
        raise InvalidRequestError(
            f"{len(rest)} bytes are left after the last input; binary_data_size must say how many "
            "bytes each input has"
        )
    return tuple(inputs)


def _split(
    rest: memoryview | None, entry: Mapping[str, object], where: str
) -> tuple[memoryview | None, memoryview | None]:
    """The binary data of one input (None if its data are JSON), and the bytes after them."""
    size = read_parameters(entry, where).get("binary_data_size")
    has_json = entry.get("data") is not None
    if has_json == (size is not None):
        which = "both" if has_json else "neither"
        raise InvalidRequestError(f"{where} needs data or binary_data_size; it has {which}")
    if size is None:
        return None, rest
    if rest is None:
        raise InvalidRequestError(
            f"{where}: binary_data_size needs the header {LENGTH_HEADER}, the length of the JSON"
        )
    if type(size) is not int or not 0 <= size <= len(rest):
        raise InvalidRequestError(
            f"{where}: binary_data_size must be a whole number from 0 to the {len(rest)} bytes "
            f"that are left in the body, not {short(size)}"
        )
    return rest[:size], rest[size:]


def _parse_outputs(
    members: Mapping[str, object], binary_output: bool
) -> tuple[WantedOutput, ...] | None:
    outputs = []
    for name, entry in read_named(members, "output").items():
        where = f"output {short(name)}"
        parameters = read_parameters(entry, where)
        binary = read_flag(parameters, "binary_data", where=where, default=binary_output)
        count = read_count(parameters, "classification", where=where)
        outputs.append(WantedOutput(name, binary, classification=count))
    return tuple(outputs) or None


def render(
    *,
    model_name: str,
    model_version: str,
    request_id: str | None,
    parameters: Mapping[str, Parameter],
    outputs: Sequence[OutputTensor],
) -> tuple[bytes, int | None]:
    """The body of an answer, and the length of its JSON; None if the whole body is JSON.

    Args:
        model_name: name of the model that answered.
        model_version: version of the model.
        request_id: id of the request; left out if None.
        parameters: parameters of the answer, with finite numbers; left out if empty.
        outputs: the outputs, in order.

    Raises:
        InferenceError: an output in JSON has numbers that are not finite.
        InvalidRequestError: an output in JSON has BYTES that are no UTF-8.
    """
    binary_data = [to_binary(output.data) for output in outputs if output.binary]
    sizes = map(len, binary_data)
    answer = {
        "model_name": model_name,
        "model_version": model_version,
        **({} if request_id is None else {"id": request_id}),
        **({"parameters": parameters} if parameters else {}),
        "outputs": [
            _describe(output, next(sizes) if output.binary else None) for output in outputs
        ],
    }
    text = json.dumps(answer, allow_nan=False, separators=(",", ":")).encode()
    return b"".join([text, *binary_data]), len(text) if binary_data else None


def _describe(output: OutputTensor, num_bytes: int | None) -> dict[str, object]:
    """An output's entry in the JSON.

    Args:
        output: the output.
        num_bytes: length of its binary data; None if the entry holds the data as JSON.
    """
    entry = {"name": output.name, "datatype": output.datatype, "shape": output.shape}
    if num_bytes is not None:
        return {**entry, "parameters": {"binary_data_size": num_bytes}}
    where = f"output {short(output.name)}"
    return {**entry, "data": to_json(output.data, where)}
