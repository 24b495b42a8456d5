"""A request's body and query -> images and parameters, whichever of three forms it has."""

import asyncio
import base64
import json
import math
import re
from collections.abc import AsyncGenerator, Iterable, Mapping
from concurrent.futures import Executor
from typing import NamedTuple

from pydantic import ValidationError
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from service.errors import (
    InvalidParameterError,
    InvalidRequestError,
    TooLargeError,
    UnsupportedMediaError,
)
from service.schemas import ClassifyParameters

IMAGE_TYPES = (
    "image/jpeg",
    "image/jpg",
    "image/png",
    "image/webp",
    "image/gif",
    "image/bmp",
    "image/tiff",
    "image/avif",
    "application/octet-stream",
)
JSON_TYPE = "application/json"
MULTIPART_TYPE = "multipart/form-data"
IMAGE_FIELD = "image"
DATA_URI = re.compile(r"data:[\w.+/-]*(;[\w.+-]+=[\w.+-]*)*;base64,", re.ASCII)
LONGEST_FIELD_BYTES = 1024


class _WholeFormParser(MultiPartParser):
    """Starlette's parser, which by itself drops the last part of a form that was cut off."""

    complete = False

    def on_end(self) -> None:
        self.complete = True
        super().on_end()

    async def parse_whole(self) -> FormData:
        form = await self.parse()
        if not self.complete:
            for file in self._files_to_close_on_error:
                file.close()
            raise MultiPartException("its closing boundary is missing; was it cut off?")
        return form


class Upload(NamedTuple):
    """What a client sent."""

    images: list[bytes]
    """at least one."""
    parameters: ClassifyParameters


def expected_length(headers: Headers, max_bytes: int) -> int:
    """The most bytes that a body will have: what its header says, else what is allowed.

    A compressed one may become as large as is allowed.

    Raises:
        TooLargeError: the header announces more than `max_bytes`.
    """
    announced = headers.get("content-length", "")
    if not announced.isdecimal():
        return max_bytes
    if len(announced) > len(str(max_bytes)) or int(announced) > max_bytes:
        raise _too_large(max_bytes)
    is_plain = headers.get("content-encoding", "identity").lower() == "identity"
    return int(announced) if is_plain else max_bytes


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body.

    Raises:
        TooLargeError: it has more than `max_bytes`.
    """
    chunks, length = [], 0
    async for chunk in request.stream():
        length += len(chunk)
        if length > max_bytes:
            raise _too_large(max_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


def _too_large(max_bytes: int) -> TooLargeError:
    return TooLargeError(f"the body is too large; allowed are {max_bytes} bytes")


async def parse(
    body: bytes, headers: Headers, query: Iterable[tuple[str, str]], max_images: int, pool: Executor
) -> Upload:
    """Understand a request, by its content type.

    Args:
        body: all of it.
        headers: for the content type.
        query: names and values of the query string.
        max_images: most images in a multipart body.
        pool: where base64 and JSON are decoded, off the event loop.

    Raises:
        UnsupportedMediaError: a content type that cannot hold an image.
        InvalidRequestError: the body is not what the content type promises.
        InvalidParameterError: an unknown parameter, or one that is given twice or is no such value.
        TooLargeError: too many images.
    """
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaError(
            f"content encoding {headers['content-encoding']!r} is not supported; send the body as "
            "it is"
        )
    media_type = headers.get("content-type", IMAGE_TYPES[-1]).partition(";")[0].strip().lower()
    from_query = _parameters(_unique(query), "query string", strict=False)
    if media_type == MULTIPART_TYPE:
        images, fields = await _parse_multipart(body, headers, max_images)
        return Upload(images, _join(from_query, _parameters(fields, "form fields", strict=False)))
    if media_type == JSON_TYPE:
        loop = asyncio.get_running_loop()
        image, members = await loop.run_in_executor(pool, _parse_json, body)
        return Upload([image], _join(from_query, _parameters(members, "JSON members", strict=True)))
    if media_type in IMAGE_TYPES:
        return Upload([body], _join(from_query))
    raise UnsupportedMediaError(
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
    """The parameters that were given, checked; `strict` takes no text for a number."""
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


async def _parse_multipart(
    body: bytes, headers: Headers, max_images: int
) -> tuple[list[bytes], dict[str, str]]:
    async def whole() -> AsyncGenerator[bytes, None]:
        yield body

    parser = _WholeFormParser(
        headers, whole(), max_files=math.inf, max_part_size=LONGEST_FIELD_BYTES
    )
    parser.spool_max_size = len(body) + 1  # keep the files in memory, where the body already is
    try:
        form = await parser.parse_whole()
    except (MultiPartException, KeyError, UnicodeError) as exc:
        message = getattr(exc, "message", "its boundary or its text is not usable")
        raise InvalidRequestError(f"the multipart body cannot be read: {message}") from exc
    try:
        images, fields = await _read_form(form)
    finally:
        await form.close()
    if not images:
        raise InvalidParameterError(f"the form has no image; send a file field {IMAGE_FIELD!r}")
    check_num_images(len(images), max_images)
    return images, _unique(fields)


def check_num_images(num_images: int, max_images: int) -> None:
    """Bound the images of one request.

    Raises:
        TooLargeError: there are more than `max_images`.
    """
    if num_images > max_images:
        raise TooLargeError(
            f"{num_images} images in one request; allowed are {max_images}, send the others in "
            "another request"
        )


async def _read_form(form: FormData) -> tuple[list[bytes], list[tuple[str, str]]]:
    """The images and the other fields, each in their order."""
    images: list[bytes] = []
    fields: list[tuple[str, str]] = []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile) != (name == IMAGE_FIELD):
            raise InvalidParameterError(
                f"form field {name!r}: images go into file fields named {IMAGE_FIELD!r}, and only "
                "images are sent as files"
            )
        if isinstance(value, UploadFile):
            images.append(await value.read())
        else:
            fields.append((name, value))
    return images, fields


def _parse_json(body: bytes) -> tuple[bytes, dict[str, object]]:
    try:
        members = json.loads(body, object_pairs_hook=_members)
    except (ValueError, RecursionError) as exc:
        raise InvalidRequestError(f"the body is no valid JSON: {exc}") from exc
    if not isinstance(members, dict):
        raise InvalidRequestError('the JSON body must be an object: {"image": "<base64>", ...}')
    image = members.pop(IMAGE_FIELD, None)
    if not isinstance(image, str):
        raise InvalidParameterError(f"{IMAGE_FIELD}: base64 text or a data URI is needed")
    try:
        return from_base64(image), members
    except ValueError as exc:
        raise InvalidRequestError(f"{IMAGE_FIELD} is no valid base64: {exc}") from exc


def from_base64(text: str) -> bytes:
    """Decode base64, with line breaks or without, or a data URI.

    Raises:
        ValueError: it is neither.
    """
    return base64.b64decode("".join(text.removeprefix(_data_uri_head(text)).split()), validate=True)


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The members of a JSON object; the last of two alike does not silently win."""
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a member is given twice")
    return members


def _data_uri_head(text: str) -> str:
    found = DATA_URI.match(text)
    return found.group() if found else ""
