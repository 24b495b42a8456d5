"""Which bodies may hold an image: by their media type, and by how they begin."""

import re

from service.errors import UnsupportedMediaError

IMAGE_FIELD = "image"
"""the field of a form, or the member of a JSON object, that holds an image"""
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
"""the media types that are documented. `may_be_image` accepts others, because the bytes decide."""
JSON_TYPE = "application/json"
MULTIPART_TYPE = "multipart/form-data"
URLENCODED_TYPE = "application/x-www-form-urlencoded"
SILENT_SUBTYPES = frozenset({"octet-stream", "binary", "*"})
"""subtypes that say nothing about the bytes"""
CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
BEGINNING_BYTES = 64
"""Each format of images has a control character in its first bytes: in its signature, in a length
or in the size of the picture. A text has none."""
HINTS = (
    ("image/svg", "an SVG file is a drawing, not pixels: save it as PNG"),
    ("application/pdf", "save the page of the PDF file as PNG or JPEG"),
    ("video/", "send one frame of the video as an image"),
    ("text/", "a text is no image"),
    (URLENCODED_TYPE, "with curl: -F image=@FILE or --data-binary @FILE"),
)
"""beginnings of media types, and what their senders may do"""
LONGEST_QUOTE = 80
"""most characters of a media type that a message quotes"""


def of(content_type: str) -> str:
    """The media type in a Content-Type header, in lower case and without parameters."""
    return content_type.partition(";")[0].strip().lower()


def may_be_image(media_type: str, body: bytes) -> bool:
    """Whether to take a body for an image file. Its decoder knows whether it is one.

    That holds for each type of images but SVG, for types that say nothing, and for no type at all.
    `curl --data-binary` says by default that it sends a form, so a form that does not begin as text
    is taken for an image, too.
    """
    if media_type == URLENCODED_TYPE:
        return not begins_as_text(body)
    kind, _, subtype = media_type.partition("/")
    if kind == "image":
        return bool(subtype) and not subtype.startswith("svg")
    return not media_type or subtype.removeprefix("x-") in SILENT_SUBTYPES


def begins_as_text(body: bytes) -> bool:
    """Whether a body begins as a text, and as no image file does; False for an empty body."""
    return bool(body) and not CONTROL.search(body, 0, BEGINNING_BYTES)


def refusal(media_type: str, body: bytes) -> UnsupportedMediaError:
    """The error for a body that cannot hold an image, with what to send instead."""
    hint = next((hint for beginning, hint in HINTS if media_type.startswith(beginning)), "")
    if body[:BEGINNING_BYTES].lstrip().startswith(b"{"):
        hint = f"a JSON body needs the header 'Content-Type: {JSON_TYPE}'"
    return UnsupportedMediaError(
        f"content type {media_type[:LONGEST_QUOTE]!r} cannot hold an image"
        f"{hint and f' ({hint})'}; send {', '.join(IMAGE_TYPES)}, {MULTIPART_TYPE} with a file "
        f"field {IMAGE_FIELD!r}, or {JSON_TYPE} with a base64 member {IMAGE_FIELD!r}"
    )
