"""What came instead of a readable picture, and the way out, in one sentence.

Only the first bytes are looked at, and nothing of them is quoted.
"""

import codecs
import re

from PIL import Image, features

from service.images.formats import heic
from service.images.options import FORMATS
from service.images.signatures import (
    AS_JSON,
    AS_PICTURE,
    BINARY,
    BINARY_FILES,
    FILM,
    FILMS,
    FORM,
    HTML,
    IN_A_ZIP,
    IN_BASE64,
    MANGLED,
    NO_PICTURE,
    PICTURES,
    RENDERED,
    TEXTS,
    THE_BYTES,
    Signature,
)
from service.images.unread import What, jpeg_kind, tiff_kind

HEAD = 1024
"""bytes to look at"""
LONGEST_REASON = 200
"""characters of a decoder's own message"""
MANY_BYTES = 4096
"""A picture of so many bytes has newline bytes among them."""
MIN_BASE64 = 64
"""characters; a shorter text is too likely to be a word"""
URL = re.compile(rb"[a-z][a-z0-9+.-]{1,20}://[^\s]+\s*", re.IGNORECASE)
URL_ENCODED = re.compile(rb"[\w.%+\[\]-]{1,100}=[\w.%+*/=&-]*", re.ASCII)
HEXADECIMAL = re.compile(rb"(0x)?[0-9a-fA-F\s]{64,}")
BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{4}[A-Za-z0-9+/_\s-]*={0,2}\s*")

BOM = b"\xef\xbb\xbf"
REPLACED = b"\xef\xbf\xbd"
"""U+FFFD"""
MANY_REPLACED = 8
NO_WORDS = tuple(
    signature
    for signature in BINARY_FILES
    if len(signature.start) > 3 or not signature.start.isalnum()
)
"""what does not look like the beginning of a word"""


def describe(body: bytes, reason: str = "") -> str:
    """Why bytes that no decoder recognises are refused.

    Args:
        body: not empty.
        reason: what the reader of the format says; the name of a kind tells more.
    """
    head = body[:HEAD].removeprefix(BOM)
    if kind := _unread_kind(body):
        return _unread(kind)
    if reason:
        return reason
    known = f"not an image of a known format; known are {', '.join(_known())}"
    if found := _by(MANGLED, head) or _container(head) or _text(head) or _zeros(body):
        return f"this is {found[0]}, {known}; {found[1]}"
    name = name_of(body)
    if name:
        return _damaged(name, "its header cannot be read", body)
    return f"this is {known}{_lost(body)}"


def damaged(body: bytes, error: Exception) -> str:
    """Why a picture is refused whose decoding has failed."""
    if name_of(body) == "JPEG" and (kind := jpeg_kind(body)):
        return _unread(kind)
    reason = "".join(c if c.isprintable() else " " for c in str(error)[:LONGEST_REASON])
    return _damaged(name_of(body) or "image", reason.strip() or type(error).__name__, body)


def no_range(image: Image.Image) -> str:
    """Why a picture with 32 bits a channel is refused: of what is read, only TIFF has them."""
    kind = "floats" if image.mode == "F" else "whole numbers"
    what = f"this is a TIFF of 32-bit {kind}"
    range_ = f"pixels of mode {image.mode!r} (32 bits a channel) have no known range"
    return f"{what}; {range_}; send 8 or 16 bits a channel"


def name_of(body: bytes) -> str:
    """The format that a file seems to have, if it is one that is read; else nothing."""
    if body[4:8] == b"ftyp":
        return "AVIF" if heic.is_avif(body) else "HEIC" if heic.is_heic(body) else ""
    found = _by(PICTURES, body)
    return found[0] if found else ""


def _unread(kind: What) -> str:
    return f"this is {kind[0]}, which cannot be read; {kind[1]}"


def _known() -> tuple[str, ...]:
    return (*FORMATS, "HEIC") if heic.is_installed() else FORMATS


def _damaged(name: str, reason: str, body: bytes) -> str:
    came = f"the {name} is damaged and cannot be decoded: {reason}; {len(body)} bytes came"
    return came + _lost(body)


def _lost(body: bytes) -> str:
    """What a file seems to have lost on its way, to be added to a refusal."""
    if _was_text(body[:HEAD]):
        return f"; it was read as text; {BINARY}"
    if len(body) >= MANY_BYTES and b"\n" not in body and b"\r" not in body:
        return f"; its newline bytes are gone; {BINARY}"
    return ""


def _was_text(head: bytes) -> bool:
    """Whether something has taken binary data for text: what is no UTF-8 has become U+FFFD."""
    return head.count(REPLACED) >= MANY_REPLACED


def _by(signatures: tuple[Signature, ...], head: bytes) -> What | None:
    for signature in signatures:
        if head.startswith(signature.start, signature.at):
            return signature.what, signature.way_out
    return None


def _unread_kind(body: bytes) -> What | None:
    """A kind of JPEG, TIFF or AVIF that is not read."""
    match name_of(body):
        case "JPEG":
            return jpeg_kind(body)
        case "TIFF":
            return tiff_kind(body)
        case "AVIF" if not features.check("avif"):
            return (
                "an AVIF picture, for which Pillow was installed without a decoder",
                AS_PICTURE,
            )
    return None


def _container(head: bytes) -> What | None:
    if name_of(head):
        return None
    if _was_text(head):
        return "binary data that was read as text", BINARY
    if head[4:8] == b"ftyp":
        return FILMS.get(head[8:12], FILM)
    if head.startswith(b"PK\3\4"):
        for name, what in IN_A_ZIP.items():
            if name in head:
                return what
    return _by(NO_WORDS if _is_text(head) else BINARY_FILES, head)


def _text(head: bytes) -> What | None:
    text = head.strip().strip(b"\"'").lstrip()
    small = text.lower()
    if small.startswith(b"--") and b"content-disposition" in small:
        return FORM
    if not text or not _is_text(head):
        return None
    if b"<svg" in small:
        return "an SVG drawing", RENDERED
    if small.startswith(b"<") and b"<html" in small:
        return HTML
    if URL.fullmatch(text):
        return "a URL", f"URLs are not fetched; {THE_BYTES}"
    for start, what, way_out in TEXTS:
        if small.startswith(start):
            return what, way_out
    return _encoded(text) or ("plain text", NO_PICTURE)


def _encoded(text: bytes) -> What | None:
    if HEXADECIMAL.fullmatch(text):
        return "hexadecimal text", THE_BYTES
    if BASE64.fullmatch(text):
        for start, what in IN_BASE64.items():
            if text.startswith(start) and len(text) > len(start) + 8:
                return f"base64 text of {what}", AS_JSON
        if len(text) >= MIN_BASE64 and b" " not in text:
            return "base64 text", AS_JSON
    if URL_ENCODED.fullmatch(text):
        return "a URL-encoded form", f"send multipart/form-data, or {THE_BYTES}"
    return None


def _is_text(head: bytes) -> bool:
    """Whether bytes are printable text in UTF-8; in a full head, the last may be cut off."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        text = decoder.decode(head, final=len(head) < HEAD - 8)
    except UnicodeDecodeError:
        return False
    return all(c.isprintable() or c.isspace() for c in text)


def _zeros(body: bytes) -> What | None:
    if body.startswith(bytes(min(len(body), HEAD))) and body.count(0) == len(body):
        return "nothing but zero bytes", f"the file was not written whole; {THE_BYTES}"
    return None
