"""A body by its content type: three forms, one meaning, and the edges of each."""

import base64
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.datastructures import Headers
from starlette.requests import Request

from service.api.parameters import ClassifyParameters
from service.api.problems import LONGEST_DETAIL
from service.api.receiving import announced_length, read_body
from service.api.v1.bodies import Upload, parse
from service.errors import (
    InvalidParameterError,
    InvalidRequestError,
    ServiceError,
    TooLargeError,
    UnsupportedMediaError,
)
from tests.service.api.forms import FORM, IMAGE, form, image_part, part, read
from tests.service.api.names import short
from tests.service.images.test_decode import encoded

pytestmark = pytest.mark.anyio

TEXT = base64.b64encode(IMAGE).decode()
JSON = "application/json"
URLENCODED = "application/x-www-form-urlencoded"


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
        *(
            "IMAGE/JPEG",
            "image/jpeg; q=0.8",
            "  image/png ;name=x.png",
            "image/jpeg; charset=binary",
        ),
        *("image/pjpeg", "image/x-png", "image/x-ms-bmp", "image/apng", "image/heic", "image/heif"),
        *("image/jxl", "image/jp2", "image/jpegs", "image/*", "image/jpeg, image/jpeg"),
        *(
            "binary/octet-stream",
            "application/x-octet-stream",
            "application/binary",
            "*/*",
            "",
            ";",
        ),
        *("application/x-www-form-urlencoded", "Application/X-WWW-Form-Urlencoded; charset=utf-8"),
        None,
    ],
)
async def test_a_raw_body_is_the_image(pool: ThreadPoolExecutor, content_type: str | None) -> None:
    assert await read(pool, IMAGE, content_type) == Upload([IMAGE], ClassifyParameters())


@pytest.mark.parametrize(
    "content_type",
    [
        *("jpeg", "image", "image/", "image/svg+xml", "Image/SVG", "video/mp4", "audio/mpeg"),
        *("text/plain", "text/json", "text/*x", "multipart/mixed", "application/pdf"),
    ],
)
async def test_other_content_types_are_refused(pool: ThreadPoolExecutor, content_type: str) -> None:
    with pytest.raises(UnsupportedMediaError, match="send image/jpeg, image/jpg, image/png"):
        await read(pool, IMAGE, content_type)


@pytest.mark.parametrize(
    ("body", "content_type", "hint"),
    [
        (b"<svg/>", "image/svg+xml", "save it as PNG"),
        (b"%PDF-1.7", "application/pdf", "save the page of the PDF file as PNG or JPEG"),
        (b"ftyp", "video/mp4", "send one frame"),
        (b"owl", "text/plain; charset=utf-8", "a text is no image"),
        (b'{"image": ""}', "text/plain", "needs the header 'Content-Type: application/json'"),
        (b"r=1&image=/9j/", URLENCODED, "-F image=@FILE or --data-binary @FILE"),
        (
            ' \n{"image": "é"}'.encode(),
            URLENCODED,
            "needs the header 'Content-Type: application/json'",
        ),
        (IMAGE, "x" * 5000, "'xxx"),
    ],
    ids=short,
)
async def test_a_refused_content_type_says_what_to_do(
    pool: ThreadPoolExecutor, body: bytes, content_type: str, hint: str
) -> None:
    with pytest.raises(UnsupportedMediaError, match=hint) as refused:
        await read(pool, body, content_type)
    assert re.search("base64 member 'image'$", str(refused.value))
    assert len(str(refused.value)) <= LONGEST_DETAIL


async def test_what_looks_like_an_image_is_no_form(
    pool: ThreadPoolExecutor, examples: list[Path]
) -> None:
    photo = Image.open(examples[0]).resize((40, 30))
    grey = photo.convert("L").convert(
        "P"
    )  # a GIF of few colours has hardly another byte than ASCII
    files = [encoded(photo, name) for name in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF")]
    for body in (*files, encoded(grey, "GIF"), encoded(grey, "BMP"), b""):
        assert (await read(pool, body, URLENCODED)).images == [body]


@pytest.mark.parametrize(
    ("encoding", "accepted"),
    [("identity", True), ("IDENTITY", True), ("", True), ("gzip", False)],
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
        ('{"r": 3, "r": 5}', InvalidRequestError, "a member is given twice: 'r'"),
        ("null", InvalidRequestError, "must be an object"),
        ('"owl"', InvalidRequestError, "must be an object"),
        (f'["{TEXT}"]', InvalidRequestError, "must be an object"),
        ("{}", InvalidParameterError, "image: base64 text or a data URI is needed"),
        ('{"image": null}', InvalidParameterError, "base64 text or a data URI is needed"),
        (f'{{"image": ["{TEXT}"]}}', InvalidParameterError, "not a list; several images go into"),
        (f'{{"image": {list(IMAGE) * 2}}}', InvalidRequestError, "base64 text, not numbers"),
        (f'{{"images": "{TEXT}"}}', InvalidParameterError, "base64 text or a data URI"),
    ],
    ids=short,
)
async def test_other_json_is_refused(
    pool: ThreadPoolExecutor, body: str, error: type[ServiceError], message: str
) -> None:
    with pytest.raises(error, match=message):
        await read(pool, body.encode(), JSON)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
async def test_json_may_be_in_any_unicode(pool: ThreadPoolExecutor, encoding: str) -> None:
    body = json.dumps(
        {"image": f"data:image/jpeg;name=é;base64,{TEXT}", "r": 3}, ensure_ascii=False
    )
    wanted = Upload([IMAGE], ClassifyParameters(r=3))
    assert await read(pool, body.encode(encoding), JSON) == wanted


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


NOTHING = dict.fromkeys(ClassifyParameters.model_fields)


@pytest.mark.parametrize(
    ("body", "content_type", "query"),
    [
        (IMAGE, "image/png", " ".join(f"{name}=" for name in NOTHING)),
        (IMAGE, "image/png", "r= r="),
        (json.dumps({"image": TEXT, **NOTHING}).encode(), JSON, "r="),
        (json.dumps({"image": TEXT, **dict.fromkeys(NOTHING, " ")}).encode(), JSON, ""),
        (form(*(part(name, b"") for name in NOTHING), image_part()), FORM, "r= tier="),
    ],
    ids=short,
)
async def test_an_empty_parameter_is_not_given(
    pool: ThreadPoolExecutor, body: bytes, content_type: str, query: str
) -> None:
    assert await read(pool, body, content_type, query) == Upload([IMAGE], ClassifyParameters())


@pytest.mark.parametrize(
    ("body", "content_type", "query"),
    [
        (IMAGE, None, "r=5.0 deadline_ms=1e3"),
        (f'{{"image": "{TEXT}", "r": 5.0, "deadline_ms": 1e3}}'.encode(), JSON, ""),
        (
            form(image_part(), part("r", b" 5\n"), part("deadline_ms", b"")),
            FORM,
            "r= deadline_ms=1e3",
        ),
    ],
    ids=short,
)
async def test_a_whole_number_may_be_written_with_a_fraction_or_blanks(
    pool: ThreadPoolExecutor, body: bytes, content_type: str | None, query: str
) -> None:
    wanted = ClassifyParameters(r=5, deadline_ms=1000)
    assert await read(pool, body, content_type, query) == Upload([IMAGE], wanted)


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
        (IMAGE, None, "r=x", r"r: .* valid integer.* \(query string\)"),
        (IMAGE, None, "speed=", r"speed is not a parameter \(query string\); allowed"),
        (IMAGE, None, "topK=1", r"topK is not a parameter \(query string\), did you mean top_k\?"),
        (IMAGE, None, "max-latency-ms=1", "did you mean max_latency_ms"),
        (IMAGE, None, "R=1", r"did you mean r\?"),
        (f'{{"image": "{TEXT}", "speed": null}}'.encode(), JSON, "", "speed is not a parameter"),
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
        (form(part("image[]", b"x", '; filename="a"')), FORM, "", "file fields named 'image'"),
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
