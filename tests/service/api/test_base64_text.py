"""Base64 as people send it, and what else they send in its place."""

import base64
import tracemalloc
from urllib.parse import quote

import pytest

from service.api.v1.base64_text import from_base64
from tests.service.api.forms import IMAGE
from tests.service.api.names import short

TEXT = base64.b64encode(IMAGE).decode()
URL_SAFE = base64.urlsafe_b64encode(IMAGE).decode()
MIME = base64.encodebytes(IMAGE).decode()


@pytest.mark.parametrize(
    "text",
    [
        *(TEXT, TEXT.rstrip("="), URL_SAFE, URL_SAFE.rstrip("=")),
        *(MIME, MIME.replace("\n", "\r\n"), MIME.rstrip("=\n"), f"\n\t {TEXT} \n", f"\ufeff{TEXT}"),
        *(quote(TEXT), quote(TEXT, safe="")),
        *(f"data:image/jpeg;BASE64,{TEXT}", f"DATA:Image/JPEG;Base64,{TEXT}"),
        *(f"\n data:image/jpeg;base64,{TEXT}", f"\ufeffdata:;base64,{TEXT}"),
        *(f"data:;base64,{URL_SAFE.rstrip('=')}", f"data:image/jpeg; base64 ,{TEXT}"),
        *(f"data:image/jpeg;base64,{quote(TEXT, safe='')}", f"data:image/jpeg;base64,\n{MIME}"),
        f"data:image/jpeg;base64,{quote(MIME, safe='').replace('%2B', '%2b')}",
    ],
    ids=short,
)
def test_base64_is_read_in_every_usual_form(text: str) -> None:
    assert from_base64(text) == IMAGE


@pytest.mark.parametrize("text", ["", " \n", "data:;base64,", "data:image/png;base64,\n"])
def test_nothing_is_no_bytes(text: str) -> None:
    assert from_base64(text) == b""


URL = "URLs are not fetched; send the bytes of the file"
FILE = "no files are read here; send the bytes of the file"
DATA_URI = "a data URI of an image begins like 'data:image/jpeg;base64,'"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *((f"{scheme}://example.com/owl.jpg", URL) for scheme in ("http", "HTTPS", "ftp", "file")),
        *((f"{scheme}://bucket/owl", URL) for scheme in ("s3", "gs", "az", "file:")),
        *(
            (text, URL)
            for text in ("blob:http://x/1-2", "blob:null/1", "cid:1@x", " https://x.y/z")
        ),
        *((text, URL) for text in ("//cdn.example/owl.jpg", "www.example.com", "localhost:80/x")),
        *((text, FILE) for text in ("/mnt/x.jpg", "C:\\x.jpg", "c:/x", "\\\\pc\\x", "./x", "~/x")),
        *((text, FILE) for text in ("owl.jpg", "../owl.heic", "my photos/the owl.jpeg\n")),
        ("data:,", "the data URI is empty, as that of a canvas"),
        ("data:image/svg+xml,%3Csvg/%3E", DATA_URI),
        (f"data:image/jpeg,{TEXT}", DATA_URI),
        (f"data:image/jpeg;base64;{TEXT}", DATA_URI),
        (f"image/jpeg;base64,{TEXT}", DATA_URI),
        (str(TEXT.encode()), r"how Python prints bytes; make them text with .decode\(\)"),
        (f"data:image/png;base64,data:image/png;base64,{TEXT}", DATA_URI),
        (f"data:image/png;base64,{TEXT[:-2]}!=", "Only base64 data is allowed"),
        ("[object File]", "Only base64 data is allowed"),
        ("AAAAA", "number of data characters"),
        (TEXT + "A", "Excess data after padding"),
        (TEXT[:-1], "Incorrect padding"),
        ("ÄÖÜ=", "'ascii' codec"),
        ("\ud800", "'ascii' codec"),
    ],
    ids=short,
)
def test_what_is_no_base64_is_said_to_be_what_it_is(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_base64(text)


def test_a_plus_that_became_a_blank_is_not_taken_for_missing_padding() -> None:
    text = base64.b64encode(b"\xfb\xef\xbe" * 20).decode()
    assert text == "++++" * 20
    assert from_base64(text.rstrip("=")) == b"\xfb\xef\xbe" * 20
    for num_lost in (1, 2, 3):
        with pytest.raises(ValueError, match=r"Incorrect padding|number of data"):
            from_base64(text[:40] + " " * num_lost + text[40 + num_lost :])


def test_percent_encoding_takes_a_few_times_the_memory_of_the_text() -> None:
    text = "data:;base64," + "%2B" * 1_000_000
    tracemalloc.start()
    try:
        assert from_base64(text) == b"\xfb\xef\xbe" * 250_000
        assert tracemalloc.get_traced_memory()[1] < 5 * len(text)
    finally:
        tracemalloc.stop()
