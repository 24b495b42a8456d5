"""A multipart form -> its parts, within limits. Too slow for the event loop: use a thread."""

import re
from collections.abc import Iterator
from reprlib import repr as short
from typing import NamedTuple

from multipart import MultipartError, MultipartSegment, PushMultipartParser

from service.api.parameters import ClassifyParameters
from service.api.v1.base64_text import from_base64
from service.api.v1.media_types import IMAGE_FIELD, begins_as_text
from service.errors import InvalidParameterError, InvalidRequestError, TooLargeError

MAX_FIELDS = 32
"""most fields that are no files; there are about ten parameters."""
LONGEST_FIELD_BYTES = 1024
LONGEST_HEAD_BYTES = 8192
"""most bytes in the names and values of all headers of one part."""
LONGEST_BOUNDARY = 256
"""most characters of a boundary; RFC 2046 allows 70."""
BOUNDARY = re.compile(r';\s*boundary\s*=\s*(?:"([^"]+)"|([^";]+))', re.IGNORECASE)
"""the boundary in a content type. Some clients do not quote characters that need quotes."""
EXTENDED_FILE_NAME = re.compile(r";\s*filename\*\s*=", re.IGNORECASE)
"""a file's name in the form of RFC 5987, which some clients send alone"""
AS_IT_IS = frozenset({"", "binary", "8bit", "7bit"})
"""transfer encodings that change nothing"""


class FormPart(NamedTuple):
    """One part of a form."""

    name: str
    is_file: bool
    data: bytes


def read(body: bytes, content_type: str, max_images: int) -> list[FormPart]:
    """Parse a form. Each of its files counts as an image.

    A part is a file if it has a file's name. The part for images is also a file if it does not
    begin as text. A browser sends a file field in which nothing was chosen as an empty file without
    a name; such a part comes out as a field.

    Raises:
        InvalidRequestError: the form is damaged or incomplete, or has too many or too long fields.
        InvalidParameterError: a long text stands where only a parameter can be.
        TooLargeError: the form has more than `max_images` files. The rest of it is not parsed.
    """
    boundary = BOUNDARY.search(content_type)
    if not boundary:
        raise _unreadable(
            "missing boundary in its content type; let the HTTP library write this header"
        )
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
        parts = list(_Parts(max_images).collect(parser.parse(body)))
    except MultipartError as exc:
        raise _unreadable(str(exc)) from exc
    try:
        parser.close()
    except MultipartError as exc:
        raise _unreadable("its closing boundary is missing; was it cut off?") from exc
    return parts


class _Parts:
    """Collects the parts from the events of the parser, within limits."""

    def __init__(self, max_images: int) -> None:
        self._max_images = max_images
        self._num_files = self._num_fields = 0

    def collect(self, events: Iterator[MultipartSegment | bytes | None]) -> Iterator[FormPart]:
        """Yield each part when it is complete. The parser is lazy, so a limit also saves work.

        Args:
            events: for each part its headers, the pieces of its data, and None.
        """
        for event in events:
            if event is None:
                yield self._end()
            elif isinstance(event, bytes):
                self._add(event)
            else:
                self._begin(event)

    def _begin(self, head: MultipartSegment) -> None:
        _check_head(head)
        self._name = _text(head.name.encode("latin-1"))
        self._transfer_encoding = head.header("Content-Transfer-Encoding", "").strip().lower()
        self._data = b""
        self._num_fields += 1
        self._is_file = self._is_unnamed_file = False
        if head.filename or EXTENDED_FILE_NAME.search(head["Content-Disposition"]):
            self._becomes_file()
        elif self._num_fields > MAX_FIELDS:
            raise _unreadable(f"it has more than {MAX_FIELDS} fields that are no files")
        else:
            self._is_unnamed_file = head.filename is not None

    def _add(self, piece: bytes) -> None:
        self._data += piece
        if self._is_file or len(self._data) <= LONGEST_FIELD_BYTES:
            return
        if self._holds_image():
            self._becomes_file()
        elif self._name in ClassifyParameters.model_fields:
            raise _unreadable(f"a field exceeds the maximum size, {LONGEST_FIELD_BYTES} bytes")
        else:
            raise misplaced(self._name)

    def _end(self) -> FormPart:
        if not self._is_file and self._holds_image():
            self._becomes_file()
        return FormPart(self._name, self._is_file, _decoded(self._data, self._transfer_encoding))

    def _holds_image(self) -> bool:
        """Whether a part without a file's name is a file."""
        if self._is_unnamed_file:
            return bool(self._data)
        return self._name == IMAGE_FIELD and bool(self._data) and not begins_as_text(self._data)

    def _becomes_file(self) -> None:
        self._is_file = True
        self._num_fields -= 1
        self._num_files += 1
        check_num_images(self._num_files, self._max_images)


def _check_head(part: MultipartSegment) -> None:
    # The headers are Latin-1, so a character is a byte.
    if sum(len(name) + len(value) for name, value in part.headerlist) > LONGEST_HEAD_BYTES:
        raise _unreadable(f"a part's headers exceed the maximum size, {LONGEST_HEAD_BYTES}")


def _decoded(data: bytes, transfer_encoding: str) -> bytes:
    """The data of a part. Forms need no transfer encoding, but libraries for mail write one."""
    if transfer_encoding in AS_IT_IS:
        return data
    if transfer_encoding != "base64":
        raise _unreadable(
            f"a part has the transfer encoding {short(transfer_encoding)}; send its bytes as they "
            "are"
        )
    try:
        return from_base64(data.decode("latin-1"))
    except ValueError as exc:
        raise _unreadable(
            f"a part is no valid base64, as its transfer encoding says: {exc}"
        ) from exc


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


def misplaced(name: str) -> InvalidParameterError:
    """The error for a file in a field of another name, and for an image that is not a file."""
    return InvalidParameterError(
        f"form field {short(name)}: images go into file fields named {IMAGE_FIELD!r}, one for each "
        "image, and only images are sent as files"
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
