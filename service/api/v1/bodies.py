"""Body and query of a request -> images and parameters. A body has one of three forms."""

import difflib
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from functools import partial
from reprlib import repr as short
from typing import NamedTuple

from pydantic import ValidationError
from starlette.datastructures import Headers

from service.api import receiving
from service.api.parameters import ClassifyParameters
from service.api.v1 import media_types, multipart
from service.api.v1.base64_text import from_base64
from service.api.v1.media_types import IMAGE_FIELD, JSON_TYPE, MULTIPART_TYPE
from service.errors import (
    InvalidParameterError,
    InvalidRequestError,
    UnsupportedMediaError,
)

MAX_EXPLAINED = 5
"""most wrong parameters that one answer explains"""
LONGEST_NAME = 64
"""most characters of an unknown parameter that are compared with the known ones"""
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
    media_type = media_types.of(headers.get("content-type", ""))
    from_query = _parameters(_unique(query), "query string", strict=False)
    if media_types.may_be_image(media_type, body):
        return Upload([body], _join(from_query))
    if media_type == MULTIPART_TYPE:
        take_apart = partial(_parse_multipart, body, headers["content-type"], max_images)
    elif media_type == JSON_TYPE:
        take_apart = partial(_parse_json, body)
    else:
        raise media_types.refusal(media_type, body)
    images, given = await in_a_thread(take_apart)
    return Upload(images, _join(from_query, given))


def _unique(pairs: Iterable[tuple[str, str]]) -> dict[str, object]:
    values: dict[str, object] = {}
    for name, value in _given(pairs):
        if name in values:
            raise InvalidParameterError(f"{name} is given twice")
        values[name] = value
    return values


def _given(pairs: Iterable[tuple[str, object]]) -> Iterator[tuple[str, object]]:
    """Leave out parameters that are empty or null: HTML forms send each field, even an empty one.

    Blanks around a text are removed. A name that is not a parameter stays, because it is an error.
    """
    for name, value in pairs:
        chosen = value.strip() if isinstance(value, str) else value
        if name not in ClassifyParameters.model_fields or chosen not in (None, ""):
            yield name, chosen


def _parameters(values: Mapping[str, object], where: str, *, strict: bool) -> dict[str, object]:
    """The given parameters, checked. With `strict`, a text is no number."""
    try:
        checked = ClassifyParameters.model_validate(values, strict=strict)
    except ValidationError as exc:
        raise InvalidParameterError("; ".join(_explain(exc, where))) from exc
    return checked.model_dump(exclude_unset=True)


def _explain(exc: ValidationError, where: str) -> Iterable[str]:
    for error in exc.errors()[:MAX_EXPLAINED]:
        name = ".".join(map(str, error["loc"]))
        if error["type"] == "extra_forbidden":
            allowed = ", ".join(ClassifyParameters.model_fields)
            yield f"{name} is not a parameter ({where}){_alike(name)}; allowed: {allowed}"
        else:
            yield f"{name}: {error['msg']} ({where})"


def _alike(name: str) -> str:
    """A question for the parameter that was perhaps meant."""
    known = ClassifyParameters.model_fields
    like = name[:LONGEST_NAME].lower().replace("-", "_")
    nearest = difflib.get_close_matches(like, known, n=1)
    return f", did you mean {nearest[0]}?" if nearest else ""


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
    images: list[bytes] = []
    fields: list[tuple[str, str]] = []
    for part in multipart.read(body, content_type, max_images):
        if part.is_file and part.name == IMAGE_FIELD:
            images.append(part.data)
        elif part.is_file or (part.name == IMAGE_FIELD and part.data):
            raise multipart.misplaced(part.name)
        elif part.name != IMAGE_FIELD:  # otherwise it is a file field in which nothing was chosen
            fields.append((part.name, multipart.text_of(part)))
    if not images:
        raise InvalidParameterError(
            f"the form has no image; send a file field {IMAGE_FIELD!r} that is not empty"
        )
    return images, _parameters(_unique(fields), "form fields", strict=False)


def _parse_json(body: bytes) -> ImagesAndParameters:
    """The image of a JSON body, and its parameters."""
    if sum(map(body.count, (b"[", b"{", b",", b":"))) > MAX_JSON_MARKS:
        raise InvalidRequestError(
            "the body is no valid JSON of an image and its parameters: it has more than "
            f"{MAX_JSON_MARKS} brackets, braces, commas and colons. An image is base64 text, not "
            "numbers"
        )
    try:
        members = json.loads(body, object_pairs_hook=_members, parse_float=_number)
    except (ValueError, RecursionError) as exc:
        raise InvalidRequestError(f"the body is no valid JSON: {exc}") from exc
    if not isinstance(members, dict):
        raise InvalidRequestError('the JSON body must be an object: {"image": "<base64>", ...}')
    text = members.pop(IMAGE_FIELD, None)
    if not isinstance(text, str):
        raise _no_text(text, members)
    try:
        image = from_base64(text)
    except ValueError as exc:
        raise InvalidRequestError(f"{IMAGE_FIELD} is no valid base64: {exc}") from exc
    given = dict(_given(members.items()))
    return [image], _parameters(given, "JSON members", strict=True)


def _no_text(image: object, members: Mapping[str, object]) -> InvalidParameterError:
    """The error for a JSON body whose image is missing or is no text."""
    strangers = sorted(members.keys() - ClassifyParameters.model_fields.keys())
    detail = f"{IMAGE_FIELD}: base64 text or a data URI is needed"
    if strangers:
        detail += f"; {strangers[0]!r} is unknown, several images go into a form"
    elif isinstance(image, list):
        detail += ", not a list; several images go into a form"
    return InvalidParameterError(detail)


def _number(digits: str) -> int | float:
    """A number with a fraction or an exponent: 5.0 is a whole number in JSON."""
    value = float(digits)
    return int(value) if value.is_integer() else value


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The members of a JSON object. A name that is given twice is an error."""
    members: dict[str, object] = {}
    for name, value in pairs:
        if name in members:
            raise ValueError(f"a member is given twice: {short(name)}")
        members[name] = value
    return members
