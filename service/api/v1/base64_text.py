"""Base64 text, as people send it -> bytes. Both APIs read it."""

import base64
import binascii
import re

BLANKS = b" \t\r\n"
BYTE_ORDER_MARK = "\ufeff"
LONGEST_DATA_URI_HEAD = 1024
DATA_URI_HEAD = re.compile(r"data:[^,]*;\s*base64\s*", re.IGNORECASE)
STANDARD = bytes.maketrans(b"-_", b"+/")
"""the alphabet for URLs -> the standard alphabet"""
MISTAKES = (
    (
        re.compile(r"data:,\s{0,9}$", re.IGNORECASE),
        "the data URI is empty, as that of a canvas without pixels",
    ),
    (
        re.compile(r"data:|[^,]{0,99};\s*base64", re.IGNORECASE),
        "a data URI of an image begins like 'data:image/jpeg;base64,'",
    ),
    (
        re.compile(r"[a-z][a-z0-9+.-]{1,40}:|//|www\.", re.IGNORECASE),
        "this is a URL, and URLs are not fetched; send the bytes of the file in base64",
    ),
    (
        re.compile(r"[a-z]:[\\/]|[~.\\]|[^\r\n+=]{1,300}\.\w{2,5}$", re.IGNORECASE),
        "this is the name of a file, and no files are read here; send the bytes of the file in "
        "base64",
    ),
    (
        re.compile(r"b['\"]"),
        "this is how Python prints bytes; make them text with .decode()",
    ),
)
"""how texts begin that people send instead of base64, and what is wrong with them"""


def from_base64(text: str) -> bytes:
    """Decode base64, or a data URI.

    The text may have blanks and line breaks, the alphabet for URLs, percent-encoding, and no
    padding.

    Raises:
        ValueError: it is neither; the message says what it is instead, if that is known.
    """
    begin = text.removeprefix(BYTE_ORDER_MARK).lstrip()
    data = begin.removeprefix(_data_uri_head(begin))
    try:
        return _decode(data)
    except ValueError as exc:
        raise ValueError(_mistake(data) or str(exc)) from exc


def _data_uri_head(text: str) -> str:
    """What stands before the data of a data URI in base64; empty if there is no such head."""
    comma = text.find(",", 0, LONGEST_DATA_URI_HEAD)
    return text[: comma + 1] if comma > 0 and DATA_URI_HEAD.fullmatch(text, 0, comma) else ""


def _decode(text: str) -> bytes:
    digits = text.encode("ascii").translate(STANDARD, BLANKS)
    if b"%" in digits:
        digits = _unescape(digits)
    if not digits.endswith(b"=") and " " not in text.strip():
        # With a blank inside, a '+' may have been lost on the way: then the length must be right.
        digits += b"=" * (-len(digits) % 4)
    return base64.b64decode(digits, validate=True)


def _unescape(digits: bytes) -> bytes:
    """Decode percent-encoding in one pass, and without the millions of objects of `unquote`.

    It is quoted-printable with another sign. So there must be no other '=' than the padding.
    """
    unpadded = digits.rstrip(b"=")
    if b"=" in unpadded:
        return digits
    return binascii.a2b_qp(unpadded.replace(b"%", b"=")).translate(STANDARD, BLANKS)


def _mistake(text: str) -> str:
    """What a text that is no base64 is instead; empty if that is unknown."""
    return next((message for begin, message in MISTAKES if begin.match(text)), "")
