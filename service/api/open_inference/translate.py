"""An infer request -> pictures and choices; outcomes -> tensors of the answer."""

from collections.abc import Mapping, Sequence
from reprlib import repr as short
from typing import NamedTuple, cast

import torch
from pydantic import ValidationError
from starlette.datastructures import Headers
from torch import Tensor

from service.api.open_inference.codec import (
    LENGTH_HEADER,
    InferRequest,
    InputTensor,
    OutputTensor,
    RawInput,
    WantedOutput,
    parse,
    render,
)
from service.api.open_inference.datatypes import BYTES, FP32
from service.api.open_inference.documents import IMAGE, LOGITS, OUTPUTS, PIXELS, VERSION
from service.api.open_inference.members import Bounds
from service.api.parameters import LONGEST_MS, ClassifyParameters
from service.api.v1.base64_text import from_base64
from service.api.v1.multipart import check_num_images
from service.errors import InvalidParameterError, InvalidRequestError
from service.models.served import ServedModel
from service.pipeline.ranking import rank
from service.pipeline.request import Outcome, Wanted

BARE_BODY = RawInput(IMAGE, BYTES, (1,))
PASSED_ON = frozenset({"r", "tier", "min_tier", "max_latency_ms", "late", "method"})
RESERVED = frozenset({"timeout", "priority"})
"""parameters of the schedule-policy extension"""
HIGHEST_PRIORITY = 1
SLACK = 1024
"""more commas and brackets than the numbers need: for names, parameters and shapes"""


class Understood(NamedTuple):
    """An infer request, and its pictures and choices."""

    request: InferRequest
    pictures: list[bytes | Tensor]
    """files, or pixels (3, H, W)"""
    wanted: Wanted
    outputs: tuple[WantedOutput, ...]
    ignored: tuple[str, ...]
    """names of parameters that this service does not use"""


def understand(body: bytes, headers: Headers, model: ServedModel, max_images: int) -> Understood:
    """Read an infer request for one model. Too slow for the event loop: use a thread.

    Args:
        body: the whole body, decompressed.
        headers: headers of the request.
        model: the model.
        max_images: most images in the request.

    Raises:
        InvalidRequestError: the request breaks the protocol, or names an unknown input or output.
        InvalidParameterError: a parameter is out of range.
        TooLargeError: the request has more bytes or images than allowed.
    """
    bounds = _bounds(model, max_images)
    request = parse(body, headers.get(LENGTH_HEADER), BARE_BODY, bounds)
    pictures = _pictures(request.inputs, model, max_images)
    return Understood(
        request=request,
        pictures=pictures,
        wanted=_wanted(request.parameters, model),
        outputs=_outputs(request, model),
        ignored=tuple(sorted(request.parameters.keys() - PASSED_ON - RESERVED)),
    )


def respond(
    model: ServedModel, understood: Understood, outcomes: Sequence[Outcome]
) -> tuple[bytes, int | None]:
    """The body of the answer, and the length of its JSON; None if the whole body is JSON."""
    logits = torch.stack([outcome.logits for outcome in outcomes])
    choice, variant = outcomes[0].plan.choice, outcomes[0].plan.variant
    parameters: dict[str, str | int | float | bool] = {
        "method": choice.reduction.method,
        "reason": choice.reason,
        "macs_ratio": variant.macs_ratio,
    }
    if choice.reduction.tier is not None:
        parameters["tier"] = choice.reduction.tier
    if choice.reduction.r is not None:
        parameters["r"] = choice.reduction.r
    if understood.ignored:
        parameters["ignored"] = ",".join(understood.ignored)
    return render(
        model_name=model.name,
        model_version=VERSION,
        request_id=understood.request.id,
        parameters=parameters,
        outputs=[_output(wanted, logits, model.labels) for wanted in understood.outputs],
    )


def _bounds(model: ServedModel, max_images: int) -> Bounds:
    """Bounds of the largest allowed request: all its pixels in JSON, nested as the shape says."""
    C, H, W = model.input_size
    return Bounds(
        max_commas=max_images * C * H * W + SLACK,
        max_brackets=max_images * (C * H + C + 1) + SLACK,
        max_elements=max_images,
    )


def _pictures(
    inputs: Sequence[InputTensor], model: ServedModel, max_images: int
) -> list[bytes | Tensor]:
    names = [tensor.name for tensor in inputs]
    if len(inputs) != 1 or names[0] not in (IMAGE, PIXELS):
        raise InvalidRequestError(
            f"inputs {', '.join(map(short, names[:5]))}: one is needed, either {IMAGE!r} (BYTES) "
            f"or {PIXELS!r} (FP32)"
        )
    _check_shape(inputs[0], model)
    check_num_images(inputs[0].shape[0] if inputs[0].shape else 1, max_images)
    pictures = _files(inputs[0]) if names[0] == IMAGE else _pixels(inputs[0])
    if not pictures:
        raise InvalidRequestError(f"input {names[0]!r} holds no image; send one or more")
    return pictures


def _check_shape(tensor: InputTensor, model: ServedModel) -> None:
    is_image = tensor.name == IMAGE
    allowed = ((), (1,)) if is_image else (tuple(model.input_size),)
    if tensor.datatype == (BYTES if is_image else FP32) and tensor.shape[1:] in allowed:
        return
    needed = (
        "BYTES and [N], one image file in each element"
        if is_image
        else f"FP32 and {[-1, *model.input_size]}, normalised as the model wants it"
    )
    raise InvalidRequestError(
        f"input {tensor.name!r} has datatype {tensor.datatype} and shape {list(tensor.shape)}; "
        f"needed are {needed}"
    )


def _files(tensor: InputTensor) -> list[bytes | Tensor]:
    elements = cast("Sequence[bytes]", tensor.data)  # the codec returns these for BYTES
    return [_file(element) for element in elements]


def _file(element: bytes) -> bytes:
    """An element of BYTES, decoded if it is base64, which JSON requires for image files.

    No image file is valid base64: the headers of all formats have bytes that base64 does not use.
    """
    if not element.isascii():
        return element
    try:
        return from_base64(element.decode("ascii"))
    except ValueError:
        return element


def _pixels(tensor: InputTensor) -> list[bytes | Tensor]:
    if not tensor.data:
        return []
    # A copy: PyTorch does not support tensors over read-only memory.
    data = bytearray(cast("bytes", tensor.data))
    values = torch.frombuffer(data, dtype=torch.float32)
    if not values.isfinite().all():
        raise InvalidRequestError(f"input {PIXELS!r} has numbers that are not finite")
    return list(values.reshape(tensor.shape))


def _wanted(parameters: Mapping[str, str | int | float | bool], model: ServedModel) -> Wanted:
    values: dict[str, object] = {
        name: value for name, value in parameters.items() if name in PASSED_ON
    }
    if timeout_us := _whole(parameters, "timeout"):
        values["deadline_ms"] = min(timeout_us / 1000, LONGEST_MS)
    values["priority"] = int(_whole(parameters, "priority") == HIGHEST_PRIORITY)
    try:
        given = ClassifyParameters.model_validate({**values, "model": model.name}, strict=True)
    except ValidationError as exc:
        raise InvalidParameterError(
            "; ".join(f"parameter {error['loc'][0]}: {error['msg']}" for error in exc.errors())
        ) from exc
    return given.wanted()


def _whole(parameters: Mapping[str, str | int | float | bool], name: str) -> int:
    """A parameter that is a whole number, at least 0; 0 if it is not given."""
    value = parameters.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidParameterError(f"parameter {name}: a whole number from 0 is needed")
    return value


def _outputs(request: InferRequest, model: ServedModel) -> tuple[WantedOutput, ...]:
    if request.outputs is None:
        return tuple(WantedOutput(name, request.binary_output, 0) for name in OUTPUTS)
    for output in request.outputs:
        if output.name not in OUTPUTS:
            raise InvalidRequestError(
                f"no output {short(output.name)} here; there are: {', '.join(OUTPUTS)}"
            )
        if output.classification > len(model.labels):
            raise InvalidParameterError(
                f"output {output.name!r}: classification = {output.classification} is out of "
                f"range; allowed for this model: 1 ... {len(model.labels)}"
            )
    return request.outputs


def _output(wanted: WantedOutput, logits: Tensor, labels: Sequence[str]) -> OutputTensor:
    """Logits (B, K) as one output: (B, K) numbers, or the best classes (B, k)."""
    if not wanted.classification:
        values = logits if wanted.name == LOGITS else logits.softmax(dim=-1)
        data = values.contiguous().numpy().tobytes()
        return OutputTensor(wanted.name, FP32, tuple(values.shape), data, wanted.binary)
    entries = []
    for row in logits:
        for best in rank(row, labels, wanted.classification):
            value = row[best.index].item() if wanted.name == LOGITS else best.probability
            entries.append(f"{value:f}:{best.index}:{best.label}".encode())
    shape = (len(logits), wanted.classification)
    return OutputTensor(wanted.name, BYTES, shape, entries, wanted.binary)
