"""CORS, as browsers ask for it: a preflight, then the request, and what its page may read."""

import asyncio
from pathlib import Path

import httpx
import pytest

from service.api import cross_origin
from service.api.app import create_app
from service.errors import SettingsError
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.conftest import AppClient
from tests.service.api.test_problems import fail

pytestmark = pytest.mark.anyio

PAGE = "http://localhost:3000"
OTHER = "https://example.com"
KEY = "0123456789abcdef"
PATHS = ("/v1/classify", "/v1/models", "/v2/models/tiny/infer", "/livez", "/metrics", "/nowhere")
SENT = "authorization,content-type,traceparent,x-api-key,x-request-id"
READ = {"x-request-id", "server-timing", "retry-after", "www-authenticate", "traceparent"}


def preflight(origin: str, method: str = "POST", headers: str | None = SENT) -> dict[str, str]:
    asked = {"origin": origin, "access-control-request-method": method}
    return asked if headers is None else {**asked, "access-control-request-headers": headers}


def words(header: str) -> set[str]:
    return {word.strip().lower() for word in header.split(",")}


@pytest.fixture
def keys(tmp_path: Path) -> str:
    path = tmp_path / "keys"
    path.write_text(f"page {KEY}\n")
    return str(path)


async def test_without_the_setting_no_page_may_call(app_client: AppClient) -> None:
    async with app_client() as client:
        asked = await client.options("/v1/classify", headers=preflight(PAGE))
        answer = await client.get("/v1/models", headers={"origin": PAGE})
    assert (asked.status_code, asked.headers["allow"]) == (405, "POST")
    assert "RAPID_CORS_ORIGINS" in asked.json()["detail"]
    for response in (asked, answer):
        assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("allowed", "page"), [(f"{OTHER},{PAGE}", PAGE), ("*", OTHER), ("null", "null")]
)
async def test_a_page_may_ask_send_and_read(
    app_client: AppClient, owl: bytes, keys: str, allowed: str, page: str
) -> None:
    answered = "*" if allowed == "*" else page
    async with app_client(cors_origins=allowed, api_keys_file=keys) as client:
        for path in PATHS:
            asked = await client.options(path, headers=preflight(page))
            assert asked.status_code == 200, path
            assert asked.headers["access-control-allow-origin"] == answered
            assert words(SENT) <= words(asked.headers["access-control-allow-headers"])
            assert words(asked.headers["access-control-allow-methods"]) == {"get", "head", "post"}
            assert int(asked.headers["access-control-max-age"]) > 60
            assert "origin" in words(asked.headers["vary"])
            assert asked.headers["x-request-id"]
        send = {"origin": page, "authorization": f"Bearer {KEY}", "content-type": "image/jpeg"}
        answer = await client.post("/v1/classify", content=owl, headers=send)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == answered
    assert words(answer.headers["access-control-expose-headers"]) >= READ
    assert "access-control-allow-credentials" not in answer.headers
    assert answered == "*" or "origin" in words(answer.headers["vary"])


async def test_what_is_not_allowed_is_named_in_a_problem(app_client: AppClient) -> None:
    async with app_client(cors_origins=(PAGE,)) as client:
        for asks, refused in (
            (preflight("https://evil.example"), "origin"),
            (preflight(f"{PAGE}.evil.example"), "origin"),
            (preflight("https://localhost:3000"), "origin"),
            (preflight(PAGE, "DELETE"), "method"),
            (preflight(PAGE, headers="content-type,x-evil"), "headers"),
        ):
            for path in ("/v1/classify", "/v2/models/tiny/infer"):
                answer = await client.options(path, headers=asks)
                problem = answer.json()
                assert (answer.status_code, problem["code"]) == (400, "invalid_request")
                assert f"not allowed here: {refused}. Allowed are the" in problem["detail"]
                assert problem["request_id"] == answer.headers["x-request-id"]
                assert "access-control-allow-origin" not in answer.headers
                assert "origin" in words(answer.headers["vary"])
                assert ("error" in problem) == path.startswith("/v2")
        for headers in ("", None, "Content-Type, X-Requested-With,Cache-Control"):
            asked = await client.options("/v1/classify", headers=preflight(PAGE, "GET", headers))
            assert asked.status_code == 200
        refused_page = await client.get("/v1/models", headers={"origin": OTHER})
        assert refused_page.status_code == 200
        assert "access-control-allow-origin" not in refused_page.headers


async def test_every_error_can_be_read_by_the_page(
    app_client: AppClient, keys: str, owl: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A browser shows "network error" instead of an answer without these headers."""
    monkeypatch.setattr(Metrics, "render", fail)
    limits = {"max_body_bytes": 2000, "max_requests_per_key": 1}
    origin, key = {"origin": PAGE}, {"x-api-key": KEY}
    async with app_client(cors_origins=(PAGE,), api_keys_file=keys, **limits) as client:
        statuses = []
        for method, path, body, headers in (
            ("POST", "/v1/classify", b"x", {}),
            ("GET", "/v2/models", b"", {}),
            ("POST", "/v1/classify", b"x", key),
            ("POST", "/v1/classify", owl, key),
            ("POST", "/v1/classify", b"x", {**key, "content-type": "text/plain"}),
            ("POST", "/v1/classify?speed=9", b"x", key),
            ("PUT", "/v1/classify", b"x", key),
            ("OPTIONS", "/v1/classify", b"", key),
            ("GET", "/nowhere", b"", key),
            ("GET", "/metrics", b"", key),
        ):
            answer = await client.request(method, path, content=body, headers=origin | headers)
            assert answer.headers.get("access-control-allow-origin") == PAGE, (method, path)
            assert answer.headers.get_list("x-request-id") == [answer.json()["request_id"]]
            statuses.append(answer.status_code)
        posts = [client.post("/v1/classify", content=b"x", headers=origin | key) for _ in "12"]
        for answer in await asyncio.gather(*posts):
            assert answer.headers["access-control-allow-origin"] == PAGE
            statuses.append(answer.status_code)
    assert statuses == [401, 401, 400, 413, 415, 422, 405, 405, 404, 500, 400, 429]


async def test_a_service_that_is_not_ready_says_so_to_the_page(tiny_model: Path) -> None:
    settings = Settings(models=(str(tiny_model),), num_threads=1, cors_origins=(PAGE,))
    app = create_app(settings)  # and nobody starts it
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        asked = await client.options("/v1/classify", headers=preflight(PAGE))
        answer = await client.post("/v1/classify", content=b"x", headers={"origin": PAGE})
    assert asked.status_code == 200
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (503, PAGE)
    assert {"retry-after", "x-request-id"} <= set(answer.headers)


@pytest.mark.parametrize(
    "origin",
    [
        *("*", "null", "http://localhost", "http://localhost:3000", "https://a-b.example.co.uk"),
        *("http://127.0.0.1:8000", "http://[::1]:3000", "https://xn--kuzchen-5wa.example"),
        *("http://example.com:443", "chrome-extension://abc", "capacitor://localhost"),
    ],
)
async def test_an_origin_as_browsers_send_it_is_accepted(origin: str) -> None:
    cross_origin.check((origin,))


@pytest.mark.parametrize(
    ("origins", "message"),
    [
        (("https://example.com/",), r"did you mean https://example.com\?"),
        (("https://example.com/app",), r"did you mean https://example.com\?"),
        (("https://example.com?x",), r"did you mean https://example.com\?"),
        (("https://Example.COM",), r"did you mean https://example.com\?"),
        (("HTTP://localhost:3000",), r"did you mean http://localhost:3000\?"),
        (("https://example.com:443",), r"did you mean https://example.com\?"),
        (("http://localhost:080",), r"did you mean http://localhost\?"),
        (("http://me@localhost",), r"did you mean http://localhost\?"),
        (("https://käuzchen.example",), r"did you mean https://xn--kuzchen-5wa.example\?"),
        ((PAGE, "example.com"), "'example.com' is not .* needed is scheme://host"),
        (("localhost:3000",), "needed is scheme://host or scheme://host:port"),
        (("//example.com",), "needed is scheme://host"),
        (("file://",), "needed is scheme://host"),
        (("https://*.example.com",), "needed is scheme://host"),
        (("http://a b",), "needed is scheme://host"),
        (("http://localhost:99999",), "needed is scheme://host"),
        (("http://localhost:x",), "needed is scheme://host"),
        (("Null",), "needed is scheme://host"),
        (("*", PAGE), "leave out the others"),
    ],
)
async def test_an_origin_that_no_browser_sends_stops_the_start(
    origins: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SettingsError, match=f"RAPID_CORS_ORIGINS: .*{message}"):
        create_app(Settings(cors_origins=origins))
