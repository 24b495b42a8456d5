"""A multipart form -> its parts, within limits. It takes a while: not for the event loop."""

from typing import NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import InvalidRequestError, TooLargeError

MAX_FIELDS = 32
"""that are no files; there are about ten parameters."""
LONGEST_FIELD_BYTES = 1024
LONGEST_HEAD_BYTES = 8192
"""all headers of one part."""


class Part(NamedTuple):
    """One part of a form."""

    name: str
    is_file: bool
    data: bytes


def read(body: bytes, content_type: str, max_images: int) -> list[Part]:
    """Take a form apart; of its files each counts as an image.

    Raises:
        InvalidRequestError: it is no whole multipart form, or its fields are too many or too long.
        TooLargeError: it has more than `max_images` files. Nothing behind them is looked at.
    """
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise _unreadable("missing boundary in its content type")
    form = _Form(max_images)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": form.begin,
                "on_header_field": form.add_header_name,
                "on_header_value": form.add_header_value,
                "on_header_end": form.end_header,
                "on_headers_finished": form.end_headers,
                "on_part_data": form.add_data,
                "on_part_end": form.end,
                "on_end": form.complete,
            },
        )
        parser.write(body)
    except FormParserError as exc:
        raise _unreadable(str(exc)) from exc
    # The parser by itself drops the last part of a form that was cut off.
    if not form.is_complete:
        raise _unreadable("its closing boundary is missing; was it cut off?")
    return form.parts


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


class _Form:
    """What has been read of a form; the parser calls it, and stops where a limit is passed."""

    def __init__(self, max_images: int) -> None:
        self.parts: list[Part] = []
        self.is_complete = False
        self._max_images = max_images
        self._num_files = self._num_fields = 0
        self.begin()

    def begin(self) -> None:
        self._num_head_bytes = 0
        self._header_name, self._header_value = bytearray(), bytearray()
        self._disposition = b""
        self._name, self._is_file = "", False
        self._data = bytearray()

    def add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._count_head(end - start)
        self._header_name += data[start:end]

    def add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._count_head(end - start)
        self._header_value += data[start:end]

    def _count_head(self, num_bytes: int) -> None:
        self._num_head_bytes += num_bytes
        if self._num_head_bytes > LONGEST_HEAD_BYTES:
            raise _unreadable(f"a part's headers exceed the maximum size, {LONGEST_HEAD_BYTES}")

    def end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)
        self._header_name, self._header_value = bytearray(), bytearray()

    def end_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise _unreadable("a part has no name in its Content-Disposition")
        self._name = _text(options[b"name"])
        self._is_file = b"filename" in options
        self._num_files += self._is_file
        self._num_fields += not self._is_file
        check_num_images(self._num_files, self._max_images)
        if self._num_fields > MAX_FIELDS:
            raise _unreadable(f"it has more than {MAX_FIELDS} fields that are no files")

    def add_data(self, data: bytes, start: int, end: int) -> None:
        # Not a list of pieces: data that resemble the boundary come in millions of them.
        self._data += memoryview(data)[start:end]
        if not self._is_file and len(self._data) > LONGEST_FIELD_BYTES:
            raise _unreadable(f"a field exceeds the maximum size, {LONGEST_FIELD_BYTES} bytes")

    def end(self) -> None:
        self.parts.append(Part(self._name, self._is_file, bytes(self._data)))

    def complete(self) -> None:
        self.is_complete = True


def _text(value: bytes) -> str:
    """The text of a name or a field, which is UTF-8 whatever the content type says."""
    try:
        return value.decode()
    except UnicodeDecodeError as exc:
        raise _unreadable("a name or a field is no UTF-8") from exc


def text_of(part: Part) -> str:
    """The value of a part that is no file.

    Raises:
        InvalidRequestError: it is no UTF-8.
    """
    return _text(part.data)
