"""A multipart form -> its parts, within limits. Too slow for the event loop: use a thread."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from multipart import MultipartError, MultipartSegment, PushMultipartParser

from service.errors import InvalidRequestError, TooLargeError

MAX_FIELDS = 32
"""most fields that are no files; there are about ten parameters."""
LONGEST_FIELD_BYTES = 1024
LONGEST_HEAD_BYTES = 8192
"""most bytes in the names and values of all headers of one part."""
LONGEST_BOUNDARY = 256
"""most characters of a boundary; RFC 2046 allows 70."""
BOUNDARY = re.compile(r';\s*boundary\s*=\s*(?:"([^"]+)"|([^";]+))', re.IGNORECASE)
"""the boundary in a content type. Some clients do not quote characters that need quotes."""


class FormPart(NamedTuple):
    """One part of a form."""

    name: str
    is_file: bool
    data: bytes


def read(body: bytes, content_type: str, max_images: int) -> list[FormPart]:
    """Parse a form. Each of its files counts as an image.

    Raises:
        InvalidRequestError: the form is damaged or incomplete, or has too many or too long fields.
        TooLargeError: the form has more than `max_images` files. The rest of it is not parsed.
    """
    boundary = BOUNDARY.search(content_type)
    if not boundary:
        raise _unreadable("missing boundary in its content type")
    delimiter = boundary[1] or boundary[2].strip()
    if len(delimiter) > LONGEST_BOUNDARY:
        raise _unreadable(
            f"its boundary has {len(delimiter)} characters; allowed are {LONGEST_BOUNDARY}"
        )
    try:
        # Headers in Latin-1, which keeps every byte: a file's name may be in any encoding.
        parser = PushMultipartParser(
            delimiter.encode("latin-1"),
            header_charset="latin-1",
            max_header_size=LONGEST_HEAD_BYTES + len(": "),
            strict=True,
        )
        parts = list(_parts(parser.parse(body), max_images))
    except MultipartError as exc:
        raise _unreadable(str(exc)) from exc
    try:
        parser.close()
    except MultipartError as exc:
        raise _unreadable("its closing boundary is missing; was it cut off?") from exc
    return parts


def _parts(
    events: Iterator[MultipartSegment | bytes | None], max_images: int
) -> Iterator[FormPart]:
    """Yield each part when it is complete. The parser is lazy, so a limit also saves work.

    Args:
        events: events of the parser: for each part its headers, the pieces of its data, and None.
        max_images: most files.
    """
    num_files = num_fields = 0
    name, is_file, data = "", False, b""
    for event in events:
        if event is None:
            yield FormPart(name, is_file, data)
        elif isinstance(event, bytes):
            data += event
            if not is_file and len(data) > LONGEST_FIELD_BYTES:
                raise _unreadable(f"a field exceeds the maximum size, {LONGEST_FIELD_BYTES} bytes")
        else:
            _check_head(event)
            name, is_file = _text(event.name.encode("latin-1")), event.filename is not None
            data = b""
            num_files += is_file
            num_fields += not is_file
            check_num_images(num_files, max_images)
            if num_fields > MAX_FIELDS:
                raise _unreadable(f"it has more than {MAX_FIELDS} fields that are no files")


def _check_head(part: MultipartSegment) -> None:
    # The headers are Latin-1, so a character is a byte.
    if sum(len(name) + len(value) for name, value in part.headerlist) > LONGEST_HEAD_BYTES:
        raise _unreadable(f"a part's headers exceed the maximum size, {LONGEST_HEAD_BYTES}")


def check_num_images(num_images: int, max_images: int) -> None:
    """Bound the images of one request.

    Raises:
        TooLargeError: there are more than `max_images`.
    """
    if num_images > max_images:
        raise TooLargeError(
            f"too many images in one request; allowed are {max_images}, send the others in "
            "another request"
        )


def _unreadable(reason: str) -> InvalidRequestError:
    return InvalidRequestError(f"the multipart body cannot be read: {reason}")


def _text(value: bytes) -> str:
    """The text of a name or a field. It is UTF-8 whatever the content type says."""
    try:
        return value.decode()
    except UnicodeDecodeError as exc:
        raise _unreadable("a name or a field is no UTF-8") from exc


def text_of(part: FormPart) -> str:
    """The value of a part that is no file.

    Raises:
        InvalidRequestError: the value is no UTF-8.
    """
    return _text(part.data)
