"""Body and query of a request -> images and parameters. A body has one of three forms."""

import base64
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple

from pydantic import ValidationError
from starlette.datastructures import Headers

from service.api import receiving
from service.api.parameters import ClassifyParameters
from service.api.v1 import multipart
from service.errors import (
    InvalidParameterError,
    InvalidRequestError,
    UnsupportedMediaError,
)

IMAGE_TYPES = (
    "image/jpeg",
    "image/jpg",
    "image/png",
    "image/webp",
    "image/gif",
    "image/bmp",
    "image/tiff",
    "image/avif",
    "image/heic",
    "image/heif",
    "application/octet-stream",
)
JSON_TYPE = "application/json"
MULTIPART_TYPE = "multipart/form-data"
IMAGE_FIELD = "image"
DATA_URI = re.compile(r"data:[\w.+/-]*(;[\w.+-]+=[\w.+-]*)*;base64,", re.ASCII)
LONGEST_DATA_URI_HEAD = 1024
MAX_JSON_MARKS = 256
"""most brackets, braces, commas and colons in a JSON body. The image has none of them, and the
parameters some dozens. Millions would keep the JSON parser busy, which blocks other threads."""


ImagesAndParameters = tuple[list[bytes], dict[str, object]]
"""the images and the parameters of a body"""
InAThread = Callable[[Callable[[], ImagesAndParameters]], Awaitable[ImagesAndParameters]]


class Upload(NamedTuple):
    """The images and parameters of a request."""

    images: list[bytes]
    """at least one."""
    parameters: ClassifyParameters


async def parse(
    body: bytes,
    headers: Headers,
    query: Iterable[tuple[str, str]],
    max_images: int,
    in_a_thread: InAThread,
) -> Upload:
    """Parse a request by its content type.

    Args:
        body: the whole body.
        headers: headers of the request, with the content type.
        query: names and values of the query string.
        max_images: most images in a multipart body.
        in_a_thread: runs the parsers of forms and JSON off the event loop.

    Raises:
        UnsupportedMediaError: the content type cannot hold an image.
        InvalidRequestError: the body is not what the content type says.
        InvalidParameterError: a parameter is unknown, given twice, or has a wrong value.
        TooLargeError: there are too many images.
    """
    if not receiving.is_plain(headers):
        raise UnsupportedMediaError(
            f"content encoding {headers['content-encoding']!r} is not supported; send the body as "
            "it is"
        )
    media_type = headers.get("content-type", IMAGE_TYPES[-1]).partition(";")[0].strip().lower()
    from_query = _parameters(_unique(query), "query string", strict=False)
    if media_type in IMAGE_TYPES:
        return Upload([body], _join(from_query))
    if media_type == MULTIPART_TYPE:
        take_apart = partial(_parse_multipart, body, headers["content-type"], max_images)
    elif media_type == JSON_TYPE:
        take_apart = partial(_parse_json, body)
    else:
        raise _unsupported(media_type)
    images, given = await in_a_thread(take_apart)
    return Upload(images, _join(from_query, given))


def _unsupported(media_type: str) -> UnsupportedMediaError:
    return UnsupportedMediaError(
        f"content type {media_type!r} cannot hold an image; send {', '.join(IMAGE_TYPES)}, "
        f"{MULTIPART_TYPE} with a file field {IMAGE_FIELD!r}, or {JSON_TYPE} with a base64 member "
        f"{IMAGE_FIELD!r}"
    )


def _unique(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    values: dict[str, str] = {}
    for name, value in pairs:
        if name in values:
            raise InvalidParameterError(f"{name} is given twice")
        values[name] = value
    return values


def _parameters(values: Mapping[str, object], where: str, *, strict: bool) -> dict[str, object]:
    """The given parameters, checked. With `strict`, a text is no number."""
    try:
        checked = ClassifyParameters.model_validate(values, strict=strict)
    except ValidationError as exc:
        raise InvalidParameterError("; ".join(_explain(exc, where))) from exc
    return checked.model_dump(exclude_unset=True)


def _explain(exc: ValidationError, where: str) -> Iterable[str]:
    for error in exc.errors():
        name = ".".join(map(str, error["loc"]))
        if error["type"] == "extra_forbidden":
            allowed = ", ".join(ClassifyParameters.model_fields)
            yield f"{name} is not a parameter ({where}); allowed: {allowed}"
        else:
            yield f"{name}: {error['msg']} ({where})"


def _join(
    first: dict[str, object], second: Mapping[str, object] | None = None
) -> ClassifyParameters:
    second = second or {}
    if twice := sorted(first.keys() & second.keys()):
        raise InvalidParameterError(
            f"{twice[0]} is given twice, in the query string and in the body"
        )
    return ClassifyParameters.model_validate({**first, **second})


def _parse_multipart(body: bytes, content_type: str, max_images: int) -> ImagesAndParameters:
    """The images of a form, in their order, and its parameters."""
    parts = multipart.read(body, content_type, max_images)
    for part in parts:
        if part.is_file != (part.name == IMAGE_FIELD):
            raise InvalidParameterError(
                f"form field {part.name!r}: images go into file fields named {IMAGE_FIELD!r}, and "
                "only images are sent as files"
            )
    images = [part.data for part in parts if part.is_file]
    if not images:
        raise InvalidParameterError(f"the form has no image; send a file field {IMAGE_FIELD!r}")
    fields = _unique((part.name, multipart.text_of(part)) for part in parts if not part.is_file)
    return images, _parameters(fields, "form fields", strict=False)


def _parse_json(body: bytes) -> ImagesAndParameters:
    """The image of a JSON body, and its parameters."""
    if sum(map(body.count, (b"[", b"{", b",", b":"))) > MAX_JSON_MARKS:
        raise InvalidRequestError(
            "the body is no valid JSON of an image and its parameters: it has more than "
            f"{MAX_JSON_MARKS} brackets, braces, commas and colons"
        )
    try:
        members = json.loads(body, object_pairs_hook=_members)
    except (ValueError, RecursionError) as exc:
        raise InvalidRequestError(f"the body is no valid JSON: {exc}") from exc
    if not isinstance(members, dict):
        raise InvalidRequestError('the JSON body must be an object: {"image": "<base64>", ...}')
    text = members.pop(IMAGE_FIELD, None)
    if not isinstance(text, str):
        strangers = sorted(members.keys() - ClassifyParameters.model_fields.keys())
        detail = f"{IMAGE_FIELD}: base64 text or a data URI is needed"
        if strangers:
            detail += f"; {strangers[0]!r} is unknown, several images go into a form"
        raise InvalidParameterError(detail)
    try:
        image = from_base64(text)
    except ValueError as exc:
        raise InvalidRequestError(f"{IMAGE_FIELD} is no valid base64: {exc}") from exc
    return [image], _parameters(members, "JSON members", strict=True)


def from_base64(text: str) -> bytes:
    """Decode base64, with line breaks or without, or a data URI.

    Raises:
        ValueError: it is neither.
    """
    digits = text.removeprefix(_data_uri_head(text)).encode("ascii")
    return base64.b64decode(digits.translate(None, b" \t\r\n"), validate=True)


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The members of a JSON object. A name that is given twice is an error."""
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a member is given twice")
    return members


def _data_uri_head(text: str) -> str:
    found = DATA_URI.match(text, 0, LONGEST_DATA_URI_HEAD)
    return found.group() if found else ""
