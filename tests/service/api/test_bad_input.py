"""Everything a client can do wrong, against the real server: never a 5xx, always a reason."""

import base64
import itertools
import json
import re
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import httpx
import pillow_heif
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import BUNDLED, Server
from tests.service.images.test_decode import STORED_AS, encoded, exif, opened, png_of
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.e2e

OWL = (BUNDLED / "examples" / "owl.jpg").read_bytes()
ZEBRA = (BUNDLED / "examples" / "zebra.jpg").read_bytes()
PHOTO = opened(OWL)
OTHER = opened(ZEBRA)
pillow_heif.register_heif_opener()  # for writing
HEIC = encoded(OTHER, "HEIF")
BASE64 = base64.b64encode(OWL).decode()
MAX_BODY_BYTES = 32 * 1024 * 1024
Request = dict[str, Any]
"""keyword arguments of `httpx.Client.request`; POST /v1/classify unless they say otherwise."""


def raw(body: Any, content_type: str = "image/jpeg", **headers: str) -> Request:
    return {"content": body, "headers": {"content-type": content_type, **headers}}


def query(**values: object) -> Request:
    return {**raw(OWL), "params": values}


def as_json(text: str | bytes) -> Request:
    return raw(text, "application/json")


def members(**values: object) -> Request:
    return as_json(json.dumps({"image": BASE64, **values}))


def form(body: bytes, boundary: str = "; boundary=XX") -> Request:
    return raw(body, "multipart/form-data" + boundary)


def grey_16_bits() -> bytes:
    grey = PHOTO.convert("L")
    low_and_high = b"".join(bytes((0, value)) for value in grey.tobytes())
    return encoded(Image.frombytes("I;16", grey.size, low_and_high), "PNG")


def part(name: str, value: bytes, file_name: str = "") -> bytes:
    file_part = f'; filename="{file_name}"' if file_name else ""
    head = f'--XX\r\nContent-Disposition: form-data; name="{name}"{file_part}\r\n\r\n'
    return head.encode() + value + b"\r\n"


# name: (request, status, code, what the detail says)
REFUSED: dict[str, tuple[Request, int, str, str]] = {
    # the image
    "no body": (raw(b""), 400, "invalid_image", "the image is empty"),
    "text": (raw(b"hello, world"), 400, "invalid_image", "known are JPEG, PNG, WEBP, GIF"),
    "html": (raw(b"<html></html>", "image/png"), 400, "invalid_image", "known are JPEG"),
    "truncated jpeg": (raw(OWL[: len(OWL) // 2]), 400, "invalid_image", "is damaged"),
    "truncated head": (raw(OWL[:100]), 400, "invalid_image", "is damaged"),
    "base64": (raw(BASE64), 400, "invalid_image", "this is base64 text of a JPEG, .* send JSON"),
    "pdf": (raw(b"%PDF-1.7"), 400, "invalid_image", "this is a PDF document, .* render it"),
    "float tiff": (
        raw(encoded(Image.new("F", (9, 9)), "TIFF"), "image/tiff"),
        *(400, "invalid_image", "send 8 or 16 bits a channel"),
    ),
    "too many pixels": (
        raw(png_of(30_000, 30_000), "image/png"),
        *(413, "too_large", "30000 x 30000 pixels; allowed are 50000000"),
    ),
    "too thin": (raw(png_of(1, 100_000), "image/png"), 413, "too_large", "too long and thin"),
    "too many bytes": (
        raw(bytes(50_000_000)),
        *(413, "too_large", f"allowed are {MAX_BODY_BYTES} bytes"),
    ),
    "too many bytes, chunked": (
        raw(itertools.repeat(bytes(1_000_000), 50)),
        *(413, "too_large", f"allowed are {MAX_BODY_BYTES} bytes"),
    ),
    # parameters in the query
    "model": (query(model="gpt"), 404, "model_not_found", "there are: everyday-vit-s14"),
    "tier": (query(tier="ludicrous"), 422, "invalid_parameter", "'exact', 'high', 'balanced'"),
    "method": (query(method="magic"), 422, "invalid_parameter", "allowed: rapid, tome"),
    "parameter": (query(speed=9), 422, "invalid_parameter", "allowed: model, r, tier, "),
    "misspelt case": (query(Top_K=1), 422, "invalid_parameter", "Top_K is not a parameter"),
    "r = -1": (query(r=-1), 422, "invalid_parameter", "allowed for this model: 0 ... 128"),
    "r = 129": (query(r=129), 422, "invalid_parameter", "allowed for this model: 0 ... 128"),
    "r = 10^9": (query(r=10**9), 422, "invalid_parameter", "allowed for this model: 0 ... 128"),
    "r of 5000 digits": (query(r="9" * 5000), 422, "invalid_parameter", "r: "),
    "r = abc": (query(r="abc"), 422, "invalid_parameter", "r: Input should be a valid integer"),
    "r = 1.5": (query(r="1.5"), 422, "invalid_parameter", "r: Input should be a valid integer"),
    "r and tier": (query(r=8, tier="fast"), 422, "invalid_parameter", "give one of them"),
    "r twice": (
        {**raw(OWL), "url": "/v1/classify?r=1&r=2"},
        *(422, "invalid_parameter", "r is given twice"),
    ),
    "top_k = 0": (query(top_k=0), 422, "invalid_parameter", r"allowed .*: 1 \.\.\. 334"),
    "top_k = 335": (query(top_k=335), 422, "invalid_parameter", r"allowed .*: 1 \.\.\. 334"),
    "deadline 0": (query(deadline_ms=0), 422, "invalid_parameter", "deadline_ms: .* than 0"),
    "deadline nan": (query(deadline_ms="nan"), 422, "invalid_parameter", "deadline_ms: "),
    "deadline too long": (query(deadline_ms=1e12), 422, "invalid_parameter", "equal to 3600000"),
    # JSON
    "no object": (as_json("[1, 2]"), 400, "invalid_request", "must be an object"),
    "no json": (as_json("{image: owl}"), 400, "invalid_request", "no valid JSON"),
    "no json text": (as_json(b'{"image": "\xff"}'), 400, "invalid_request", "no valid JSON"),
    "empty json": (as_json(""), 400, "invalid_request", "no valid JSON"),
    "nested lists": (as_json("[" * 100_000), 400, "invalid_request", "no valid JSON"),
    "nested objects": (as_json('{"image":' * 100_000), 400, "invalid_request", "no valid JSON"),
    "nested r": (
        as_json(f'{{"image": "aaaa", "r": {"[" * 200}{"]" * 200}}}'),
        *(422, "invalid_parameter", "r: Input should be a valid integer"),
    ),
    "nested deeply": (
        as_json(f'{{"image": "aaaa", "r": {"[" * 500}{"]" * 500}}}'),
        *(400, "invalid_request", "more than 256 brackets"),
    ),
    "no image": (as_json('{"r": 8}'), 422, "invalid_parameter", "base64 text or a data URI"),
    "images": (
        as_json(json.dumps({"images": [BASE64], "r": 3})),
        *(422, "invalid_parameter", "a data URI is needed; 'images' is unknown, several images"),
    ),
    "image = 7": (members(image=7), 422, "invalid_parameter", "base64 text or a data URI"),
    "image = null": (members(image=None), 422, "invalid_parameter", "base64 text or a data URI"),
    "image = ''": (members(image=""), 400, "invalid_image", "the image is empty"),
    "no base64": (members(image="!owl!"), 400, "invalid_request", "no valid base64"),
    "cut base64": (members(image=BASE64[:-1]), 400, "invalid_request", "no valid base64"),
    "a url": (members(image="http://127.0.0.1/owl.jpg"), 400, "invalid_request", "not fetched"),
    "lone surrogate": (members(image="\ud800"), 400, "invalid_request", "no valid base64"),
    "r = '8'": (members(r="8"), 422, "invalid_parameter", "r: Input should be a valid integer"),
    "r = true": (members(r=True), 422, "invalid_parameter", "r: Input should be a valid integer"),
    "r = 1e30": (members(r=10**30), 422, "invalid_parameter", r"0 \.\.\. 128"),
    "tier = 3": (members(tier=3), 422, "invalid_parameter", "'exact', 'high', 'balanced'"),
    "model = surrogate": (members(model="\ud800"), 404, "model_not_found", "everyday-vit-s14"),
    "member": (members(speed=9), 422, "invalid_parameter", "speed is not a parameter"),
    "r here and there": (
        {**members(r=1), "params": {"r": 1}},
        *(422, "invalid_parameter", "r is given twice, in the query string and in the body"),
    ),
    # forms
    "no boundary": (form(b"", ""), 400, "invalid_request", "[Mm]issing boundary"),
    "empty boundary": (form(b"hello", "; boundary="), 400, "invalid_request", "cannot be read"),
    "no parts": (form(b"hello, world"), 400, "invalid_request", "cannot be read"),
    "bad part": (form(b"--XX\r\nhello\r\n\r\n"), 400, "invalid_request", "cannot be read"),
    "nameless part": (
        form(b"--XX\r\nX: y\r\n\r\nz\r\n--XX--\r\n"),
        *(400, "invalid_request", "cannot be read"),
    ),
    "form without image": (
        form(part("r", b"8") + b"--XX--\r\n"),
        *(422, "invalid_parameter", "send a file field 'image'"),
    ),
    "file field": (
        {"files": {"photo": OWL}},
        *(422, "invalid_parameter", "file fields named 'image'"),
    ),
    "image as text": (
        form(part("image", BASE64[:100].encode()) + b"--XX--\r\n"),
        *(422, "invalid_parameter", "file fields named 'image'"),
    ),
    "r as a file": (
        {"files": {"image": OWL, "r": b"8"}},
        *(422, "invalid_parameter", "only images are sent as files"),
    ),
    "form field": (
        {"files": {"image": OWL}, "data": {"speed": "9"}},
        *(422, "invalid_parameter", "speed is not a parameter"),
    ),
    "form r": (
        {"files": {"image": OWL}, "data": {"r": "many"}},
        *(422, "invalid_parameter", "r: Input should be a valid integer"),
    ),
    "form r twice": (
        {"files": {"image": OWL}, "data": {"r": ["1", "2"]}},
        *(422, "invalid_parameter", "r is given twice"),
    ),
    "long field": (
        {"files": {"image": OWL}, "data": {"model": "x" * 5000}},
        *(400, "invalid_request", "maximum size"),
    ),
    "one bad file": ({"files": {"image": b"x"}}, 400, "invalid_image", "known are JPEG"),
    "17 images": (
        {"files": [("image", OWL)] * 17},
        *(413, "too_large", "too many images in one request; allowed are 16"),
    ),
    # what the body is said to be
    "text/plain": (raw(OWL, "text/plain"), 415, "unsupported_media_type", "send image/jpeg"),
    "form-urlencoded": ({"data": {"r": 1}}, 415, "unsupported_media_type", "send image/jpeg"),
    "svg": (raw(b"<svg/>", "image/svg+xml"), 415, "unsupported_media_type", "send image/jpeg"),
    "video": (raw(OWL, "video/mp4"), 415, "unsupported_media_type", "send image/jpeg"),
    "no type": (raw(OWL, "jpeg"), 415, "unsupported_media_type", "send image/jpeg"),
    "gzip": (
        raw(OWL, **{"content-encoding": "gzip"}),
        *(415, "unsupported_media_type", "'gzip' is not supported; send the body as it is"),
    ),
    # where to
    "path": ({"url": "/v1/clasify"}, 404, "not_found", "/v1/clasify"),
    "root": ({"method": "GET", "url": "/"}, 404, "not_found", "GET /: Not Found; /docs lists"),
    "model page": (
        {"method": "GET", "url": "/v1/models/gpt"},
        *(404, "model_not_found", "there are: everyday-vit-s14"),
    ),
    "slash": ({"url": "/v1/classify/"}, 404, "not_found", r"did you mean /v1/classify\?"),
    "slashes": ({"url": "/v1//models/"}, 404, "not_found", r"did you mean /v1/models\?"),
    "post to root": ({"url": "/"}, 404, "not_found", "images go to POST /v1/classify"),
    "method of http": ({"method": "GET"}, 405, "method_not_allowed", "GET /v1/classify"),
    "put": ({**raw(OWL), "method": "PUT"}, 405, "method_not_allowed", "allowed: POST"),
    "preflight": (
        {"method": "OPTIONS", "headers": {"access-control-request-method": "POST"}},
        *(405, "method_not_allowed", "other origins may call if RAPID_CORS_ORIGINS says so"),
    ),
    "delete": ({"method": "DELETE", "url": "/v1/models"}, 405, "method_not_allowed", "DELETE"),
}

# name: (request, label); None where any label will do
ACCEPTED: dict[str, tuple[Request, str | None]] = {
    "1x1": (raw(encoded(Image.new("RGB", (1, 1)), "PNG"), "image/png"), None),
    "cmyk": (raw(encoded(PHOTO.convert("CMYK"), "JPEG")), "owl"),
    "16 bits": (raw(grey_16_bits(), "image/png"), "owl"),
    "animated gif": (
        raw(encoded(PHOTO, "GIF", save_all=True, append_images=[OTHER]), "image/gif"),
        "owl",
    ),
    "animated webp": (
        raw(encoded(PHOTO, "WEBP", save_all=True, append_images=[OTHER]), "image/webp"),
        "owl",
    ),
    "avif": (raw(encoded(OTHER, "AVIF"), "image/avif"), "zebra"),
    "heic": (raw(HEIC, "image/heic"), "zebra"),
    "heif": (raw(HEIC, "image/heif"), "zebra"),
    "heic called jpeg": (raw(HEIC), "zebra"),
    "heic as any bytes": (raw(HEIC, "application/octet-stream"), "zebra"),
    "heic in a form": ({"files": {"image": ("IMG_1.HEIC", HEIC)}}, "zebra"),
    "20 megapixels": (raw(encoded(OTHER.resize((5120, 3840)), "JPEG")), "zebra"),
    "png called jpeg": (raw(encoded(OTHER, "PNG")), "zebra"),
    "any bytes": (raw(ZEBRA, "application/octet-stream"), "zebra"),
    "type in capitals": (raw(ZEBRA, "IMAGE/JPEG; q=1"), "zebra"),
    "identity": (raw(ZEBRA, **{"content-encoding": "Identity"}), "zebra"),
    "chunked": (raw(iter([ZEBRA[:1000], ZEBRA[1000:]])), "zebra"),
    "r = 128": ({**raw(ZEBRA), "params": {"r": 128}}, None),
    "type of curl": (raw(ZEBRA, "application/x-www-form-urlencoded"), "zebra"),
    "empty type": (raw(ZEBRA, ""), "zebra"),
    "r = nothing": ({**raw(ZEBRA), "params": {"r": ""}}, "zebra"),
    "nulls": (members(r=None, priority=None, method=None), "owl"),
    "expected": (raw(ZEBRA, expect="100-continue"), "zebra"),
    "json of utf-16": (as_json(json.dumps({"image": BASE64}).encode("utf-16")), "owl"),
}


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client:
        yield client


def send(client: httpx.Client, request: Request) -> httpx.Response:
    return client.request(**{"method": "POST", "url": "/v1/classify", **request})


def top_1(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    label: str = response.json()["predictions"][0]["label"]
    return label


@pytest.mark.parametrize(
    ("request_", "status", "code", "detail"), REFUSED.values(), ids=REFUSED.keys()
)
def test_a_bad_request_gets_a_problem_document(
    client: httpx.Client, request_: Request, status: int, code: str, detail: str
) -> None:
    response = send(client, request_)
    problem = response.json()
    assert (response.status_code, problem["code"]) == (status, code), problem["detail"]
    assert response.headers["content-type"] == "application/problem+json"
    assert problem == {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": problem["detail"],
        "instance": response.request.url.path,
        "code": code,
        "request_id": response.headers["x-request-id"],
    }
    assert re.search(detail, problem["detail"])
    if status == 405:
        assert response.headers["allow"] in {"GET", "POST"}


@pytest.mark.parametrize(("request_", "label"), ACCEPTED.values(), ids=ACCEPTED.keys())
def test_an_unusual_but_good_request_is_answered(
    client: httpx.Client, request_: Request, label: str | None
) -> None:
    assert label in {top_1(send(client, request_)), None}


@pytest.mark.parametrize("orientation", STORED_AS)
def test_a_rotated_photo_gets_the_answer_of_the_upright_one(
    client: httpx.Client, orientation: int
) -> None:
    stored = encoded(PHOTO.transpose(STORED_AS[orientation]), "PNG", exif=exif(orientation))
    upright, rotated = (send(client, raw(body)).json() for body in (OWL, stored))
    assert rotated["predictions"][0]["label"] == "owl"
    for mine, wanted in zip(rotated["predictions"], upright["predictions"], strict=True):
        assert mine["probability"] == pytest.approx(wanted["probability"], abs=1e-4)


def test_after_all_this_the_server_is_well(client: httpx.Client) -> None:
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").status_code == 200
    assert top_1(send(client, raw(OWL))) == "owl"
    samples = [
        sample
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
    ]
    values = {sample.name: sample.value for sample in samples if not sample.labels}
    assert values["rapid_inflight_requests"] == values["rapid_queue_images"] == 0
    failed = [sample for sample in samples if sample.labels.get("code") in {"500", "502", "503"}]
    assert not [sample for sample in failed if sample.value]
