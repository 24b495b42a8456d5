"""A body by its content type: three forms, one meaning, and the edges of each."""

import asyncio
import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from starlette.datastructures import Headers
from starlette.requests import Request

from service.api.parameters import ClassifyParameters
from service.api.receiving import announced_length, read_body
from service.api.v1.bodies import Upload, parse
from service.errors import (
    InvalidParameterError,
    InvalidRequestError,
    ServiceError,
    TooLargeError,
    UnsupportedMediaError,
)

pytestmark = pytest.mark.anyio

IMAGE = bytes(range(256))
TEXT = base64.b64encode(IMAGE).decode()
FORM = "multipart/form-data; boundary=XX"
JSON = "application/json"


def short(value: object) -> str:
    """A readable name for a row of a table."""
    return repr(value)[:40]


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


async def read(
    pool: ThreadPoolExecutor, body: bytes, content_type: str | None, query: str = ""
) -> Upload:
    headers = Headers({} if content_type is None else {"Content-Type": content_type})
    pairs = [(name, value) for name, _, value in (pair.partition("=") for pair in query.split())]
    in_a_thread = partial(asyncio.get_running_loop().run_in_executor, pool)
    return await parse(body, headers, pairs, max_images=3, in_a_thread=in_a_thread)


def part(name: str, value: bytes, more: str = "") -> bytes:
    head = f'--XX\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'
    return head.encode() + value + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--XX--\r\n"


def image_part(image: bytes = IMAGE) -> bytes:
    return part("image", image, '; filename="owl.jpg"\r\nContent-Type: image/jpeg')


@pytest.mark.parametrize(
    ("header", "length"),
    [
        *(("0", 0), ("99", 99), ("100", 100)),
        *((None, 0), ("", 0), ("-1", 0), ("+5", 0), ("1e1", 0), ("many", 0)),
        *(("101", None), ("100000", None), ("9" * 5000, None)),
    ],
    ids=short,
)
def test_a_body_is_as_long_as_announced_or_of_unknown_length(
    header: str | None, length: int | None
) -> None:
    headers = Headers({} if header is None else {"content-length": header})
    if length is None:
        with pytest.raises(TooLargeError, match="allowed are 100 bytes"):
            announced_length(headers, 100)
    else:
        assert announced_length(headers, 100) == length


@pytest.mark.parametrize(
    "content_type",
    [
        *("image/jpeg", "image/jpg", "image/png", "image/webp", "image/gif", "image/bmp"),
        *("image/tiff", "image/avif", "application/octet-stream"),
        *("IMAGE/JPEG", "image/jpeg; q=0.8", "  image/png ;name=x.png"),
        None,
    ],
)
async def test_a_raw_body_is_the_image(pool: ThreadPoolExecutor, content_type: str | None) -> None:
    assert await read(pool, IMAGE, content_type) == Upload([IMAGE], ClassifyParameters())


@pytest.mark.parametrize(
    "content_type",
    [
        *("", ";", "jpeg", "image/*", "image/jpegs", "image/svg+xml", "image/heic", "video/mp4"),
        *("text/plain", "text/json", "application/x-www-form-urlencoded", "multipart/mixed"),
    ],
)
async def test_other_content_types_are_refused(pool: ThreadPoolExecutor, content_type: str) -> None:
    with pytest.raises(UnsupportedMediaError, match="send image/jpeg, image/jpg, image/png"):
        await read(pool, IMAGE, content_type)


@pytest.mark.parametrize(
    ("encoding", "accepted"), [("identity", True), ("IDENTITY", True), ("gzip", False)]
)
async def test_only_plain_bodies_are_understood(
    pool: ThreadPoolExecutor, encoding: str, accepted: bool
) -> None:
    headers = Headers({"content-encoding": encoding})
    if accepted:
        assert (await parse(IMAGE, headers, [], 1, pool)).images == [IMAGE]
    else:
        with pytest.raises(UnsupportedMediaError, match="'gzip' is not supported"):
            await parse(IMAGE, headers, [], 1, pool)


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        f"  {TEXT}\r\n",
        "\n".join(TEXT[i : i + 76] for i in range(0, len(TEXT), 76)),
        f"data:image/jpeg;base64,{TEXT}",
        f"data:;base64,{TEXT}",
        f"data:application/octet-stream;base64,{TEXT}",
        f"data:image/svg+xml;charset=utf-8;base64,{TEXT}",
        f"data:image/jpeg;name=owl.jpg;q=1;base64,{TEXT}",
        f"data:image/png;base64,\n {TEXT[:100]} \t{TEXT[100:]}",
    ],
    ids=short,
)
@pytest.mark.parametrize("content_type", [JSON, "Application/JSON; charset=utf-8"])
async def test_json_holds_base64_or_a_data_uri(
    pool: ThreadPoolExecutor, text: str, content_type: str
) -> None:
    body = json.dumps({"image": text, "r": 3}).encode()
    assert await read(pool, body, content_type) == Upload([IMAGE], ClassifyParameters(r=3))


@pytest.mark.parametrize(
    "text",
    [
        "owl!",
        TEXT[:-1],
        TEXT + "A",
        "=" + TEXT,
        TEXT.replace("+", "-").replace("/", "_"),
        f"data:image/jpeg,{TEXT}",
        f"data:image/jpeg;base64;{TEXT}",
        f"data:image/jpeg;base64,data:image/jpeg;base64,{TEXT}",
        f"https://example.com/{TEXT}.jpg",
        "ÄÖÜ=",
        "\ud800",
        "\x00",
    ],
    ids=short,
)
async def test_other_text_is_no_image(pool: ThreadPoolExecutor, text: str) -> None:
    body = json.dumps({"image": text}).encode()
    with pytest.raises(InvalidRequestError, match="image is no valid base64"):
        await read(pool, body, JSON)


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("", InvalidRequestError, "no valid JSON"),
        ("owl", InvalidRequestError, "no valid JSON"),
        ("{} {}", InvalidRequestError, "no valid JSON"),
        ('{"r": 1' + "0" * 5000 + "}", InvalidRequestError, "no valid JSON"),
        ("[" * 100_000, InvalidRequestError, "no valid JSON"),
        ('{"r": 3, "r": 5}', InvalidRequestError, "a member is given twice"),
        ("null", InvalidRequestError, "must be an object"),
        ('"owl"', InvalidRequestError, "must be an object"),
        (f'["{TEXT}"]', InvalidRequestError, "must be an object"),
        ("{}", InvalidParameterError, "image: base64 text or a data URI is needed"),
        ('{"image": null}', InvalidParameterError, "base64 text or a data URI is needed"),
        (f'{{"image": ["{TEXT}"]}}', InvalidParameterError, "base64 text or a data URI"),
        (f'{{"images": "{TEXT}"}}', InvalidParameterError, "base64 text or a data URI"),
    ],
    ids=short,
)
async def test_other_json_is_refused(
    pool: ThreadPoolExecutor, body: str, error: type[ServiceError], message: str
) -> None:
    with pytest.raises(error, match=message):
        await read(pool, body.encode(), JSON)


@pytest.mark.parametrize("mark", ["[", "{", ",", ":"])
async def test_json_that_would_keep_the_parser_busy_is_not_parsed(
    pool: ThreadPoolExecutor, mark: str
) -> None:
    for num_marks, message in ((250, "no valid JSON: "), (257, "more than 256 brackets")):
        body = f'{{"image": "{TEXT}", {mark * num_marks}'.encode()
        with pytest.raises(InvalidRequestError, match=message):
            await read(pool, body, JSON)


async def test_a_data_uri_is_looked_for_at_the_beginning_only(pool: ThreadPoolExecutor) -> None:
    for num_parameters, is_found in ((100, True), (1000, False)):
        uri = f"data:image/png{';a=' * num_parameters};base64,{TEXT}"
        body = json.dumps({"image": uri}).encode()
        if is_found:
            assert (await read(pool, body, JSON)).images == [IMAGE]
        else:
            with pytest.raises(InvalidRequestError, match="no valid base64"):
                await read(pool, body, JSON)


EVERYTHING = ClassifyParameters(model="m", tier="fast", method="tome", top_k=2, deadline_ms=1.5)


@pytest.mark.parametrize(
    ("body", "content_type", "query"),
    [
        (IMAGE, "image/png", "model=m tier=fast method=tome top_k=2 deadline_ms=1.5"),
        (
            json.dumps({"image": TEXT, **EVERYTHING.model_dump(exclude={"r"})}).encode(),
            *(JSON, ""),
        ),
        (
            json.dumps({"image": TEXT, "tier": "fast", "top_k": 2}).encode(),
            *(JSON, "model=m method=tome deadline_ms=1.5"),
        ),
        (
            form(part("model", b"m"), part("tier", b"fast"), image_part(), part("top_k", b"2")),
            *(FORM, "method=tome deadline_ms=1.5"),
        ),
    ],
    ids=short,
)
async def test_parameters_may_stand_anywhere(
    pool: ThreadPoolExecutor, body: bytes, content_type: str, query: str
) -> None:
    assert await read(pool, body, content_type, query) == Upload([IMAGE], EVERYTHING)


@pytest.mark.parametrize(
    ("body", "content_type", "query", "message"),
    [
        (IMAGE, None, "r=1 r=1", "r is given twice"),
        (IMAGE, None, "r=", r"r: .* valid integer.* \(query string\)"),
        (IMAGE, None, "r=1e2", r"r: .* valid integer"),
        (IMAGE, None, "top_k=x", "top_k: .* valid integer"),
        (IMAGE, None, "deadline_ms=inf", "deadline_ms: .* less than or equal to 3600000"),
        (IMAGE, None, "image=x", "image is not a parameter .*; allowed: model, r, tier"),
        (IMAGE, None, "tier=Fast", "tier: .* 'exact', 'high', 'balanced', 'fast'"),
        (f'{{"image": "{TEXT}", "r": 1}}'.encode(), JSON, "r=2", "r is given twice, in the query"),
        (f'{{"image": "{TEXT}", "r": "1"}}'.encode(), JSON, "", r"r: .* \(JSON members\)"),
        (f'{{"image": "{TEXT}", "r": 1.5}}'.encode(), JSON, "", "r: .* valid integer"),
        (f'{{"image": "{TEXT}", "top_k": true}}'.encode(), JSON, "", "top_k: .* valid integer"),
        (f'{{"image": "{TEXT}", "size": 1}}'.encode(), JSON, "", "size is not a parameter"),
        (form(image_part(), part("r", b"1"), part("r", b"2")), FORM, "", "r is given twice"),
        (form(image_part(), part("r", b"1")), FORM, "r=1", "r is given twice, in the query"),
        (form(image_part(), part("r", b"x")), FORM, "", r"r: .* \(form fields\)"),
        (form(part("r", b"1")), FORM, "", "the form has no image; send a file field 'image'"),
        (form(part("image", b"x")), FORM, "", "'image': images go into file fields"),
        (form(part("photo", b"x", '; filename="a"')), FORM, "", "file fields named 'image'"),
    ],
    ids=short,
)
async def test_parameters_out_of_order_are_refused(
    pool: ThreadPoolExecutor, body: bytes, content_type: str | None, query: str, message: str
) -> None:
    with pytest.raises(InvalidParameterError, match=message):
        await read(pool, body, content_type, query)


async def test_a_body_is_counted_as_it_arrives() -> None:
    chunks = [b"ab", b"", b"cde", b"f"]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

    arrived: list[int] = []
    request = Request({"type": "http", "headers": []}, receive)
    with pytest.raises(TooLargeError, match="allowed are 5 bytes"):
        await read_body(request, 5, arrived.append)
    assert [number for number in arrived if number] == [2, 3]
    chunks[:] = [b"ab", b"", b"cde", b"f"]
    request = Request({"type": "http", "headers": []}, receive)
    assert await read_body(request, 6, arrived.append) == b"abcdef"
    assert [number for number in arrived if number] == [2, 3, 2, 3, 1]


async def test_a_form_holds_several_images_in_order(pool: ThreadPoolExecutor) -> None:
    images = [IMAGE, b"", b"--XX is no boundary here"]
    body = form(*map(image_part, images), part("r", b"7"))
    assert await read(pool, body, FORM) == Upload(images, ClassifyParameters(r=7))
    with pytest.raises(TooLargeError, match="too many images in one request; allowed are 3"):
        await read(pool, form(*map(image_part, [*images, IMAGE])), FORM)


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("Multipart/Form-Data; Boundary=XX", True),
        ('multipart/form-data; boundary="XX"', True),
        ("multipart/form-data; charset=utf-8; boundary=XX", True),
        ("multipart/form-data; boundary=YY", False),
        ("multipart/form-data; boundary=XX; charset=punycode", False),
        ("multipart/form-data; boundary=", False),
        ("multipart/form-data", False),
    ],
)
async def test_a_form_needs_its_boundary(
    pool: ThreadPoolExecutor, content_type: str, boundary: bool
) -> None:
    if boundary:
        assert (await read(pool, form(image_part()), content_type)).images == [IMAGE]
    else:
        with pytest.raises(InvalidRequestError, match="the multipart body cannot be read"):
            await read(pool, form(image_part(), part("tier", b"f\xe4st")), content_type)


async def test_images_behind_the_last_that_is_allowed_are_not_looked_at(
    pool: ThreadPoolExecutor,
) -> None:
    for rest in (b"", b"\r\n--XX not a form", part("r", b"7") * 1000):
        with pytest.raises(TooLargeError, match="too many images in one request"):
            await read(pool, b"".join(map(image_part, [b""] * 4)) + rest, FORM)


class RefusingPool(ThreadPoolExecutor):
    """Shows what is done in the pool, which leaves the event loop free, by not doing it."""

    def submit(self, *_: Any, **__: Any) -> Any:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("body", "content_type"), [(form(image_part()), FORM), (b"{}", JSON), (IMAGE, "image/png")]
)
async def test_all_but_a_bare_image_is_taken_apart_off_the_event_loop(
    body: bytes, content_type: str
) -> None:
    with RefusingPool(1) as refusing:
        if content_type == "image/png":
            assert (await read(refusing, body, content_type)).images == [IMAGE]
        else:
            with pytest.raises(ZeroDivisionError):
                await read(refusing, body, content_type)


async def test_data_that_resemble_the_boundary_are_data(pool: ThreadPoolExecutor) -> None:
    images = [b"\r\n--" * 10_000, b"\r\n--X" * 10_000, b"\r" * 10_000 + b"\n"]
    assert (await read(pool, form(*map(image_part, images)), FORM)).images == images


async def test_text_in_a_form_is_utf_8_whatever_its_type_says(pool: ThreadPoolExecutor) -> None:
    for charset in ("utf-8", "latin-1", "punycode", "utf-7", "none"):
        content_type = f"{FORM}; charset={charset}"
        body = form(image_part(), part("model", "Käuzchen-".encode()))
        assert (await read(pool, body, content_type)).parameters.model == "Käuzchen-"


@pytest.mark.parametrize("cut", [4, 10, 30, 60])
async def test_a_form_that_was_cut_off_is_refused(pool: ThreadPoolExecutor, cut: int) -> None:
    with pytest.raises(InvalidRequestError, match="was it cut off"):
        await read(pool, form(image_part(), part("r", b"17"))[:-cut], FORM)


@pytest.mark.parametrize(
    "body",
    [
        b"hello, world",
        b"--XX\r\nhello\r\n\r\n",
        b"--XX\r\nContent-Disposition: form-data\r\n\r\nx\r\n--XX--\r\n",
        form(image_part(), part("model", b"x" * 1025)),
        form(image_part(), part("tier", b"f\xe4st")),
        form(part("x" * 9000, b"")),
        form(part("x", b"", "\r\nX-Long: " + 9000 * "y")),
        form(part("x", b"", 10 * ("\r\nX: " + 1000 * "y"))),
        form(*[part(f"field{i}", b"") for i in range(33)]),
    ],
    ids=short,
)
async def test_a_broken_form_is_refused(pool: ThreadPoolExecutor, body: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="the multipart body cannot be read"):
        await read(pool, body, FORM)
