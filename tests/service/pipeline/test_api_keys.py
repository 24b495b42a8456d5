"""Who may send work: the file of keys, the two headers, and one key's share of the places."""

import asyncio
import logging
from pathlib import Path

import httpx
import pytest

from service.errors import (
    InvalidParameterError,
    SettingsError,
    TooManyRequestsError,
    UnauthorizedError,
)
from service.pipeline import api_keys
from service.pipeline.api_keys import ApiKeys
from tests.conftest import AppClient

ALICE = "alice-key-0123456789"
BOB = "bob-key-0123456789-0123456789"
FILE = f"# who may come\nalice {ALICE}\n\n  bob\t{BOB}   # the other one\n"
WORK = [("POST", "/v1/classify"), ("POST", "/v2/models/tiny/infer")]
READING = [
    *("/v1/models", "/v1/models/tiny", "/v2/models", "/v2/models/stats", "/v2/models/tiny"),
    *("/v2/models/tiny/ready", "/v2/models/tiny/config", "/v2/models/tiny/versions/1/stats"),
]
OPEN = [
    *("/livez", "/readyz", "/healthz", "/metrics", "/openapi.json"),
    *("/v2", "/v2/health/live", "/v2/health/ready"),
]


def written(folder: Path, text: str) -> Path:
    path = folder / "keys"
    path.write_text(text)
    return path


def test_a_file_of_keys(tmp_path: Path) -> None:
    assert api_keys.read(written(tmp_path, FILE)) == {"alice": ALICE, "bob": BOB}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no key"),
        ("# nobody yet\n", "holds no key"),
        (f"{ALICE}\n", "line 1: `NAME KEY` is needed"),
        (f"alice {ALICE} today\n", "line 1: `NAME KEY` is needed"),
        ("alice sixteen--letters0\n\nbob 123456789012345\n", "line 3: .* 16 ASCII characters"),
        (f"alice {ALICE}é\n", "line 1: .* 16 ASCII characters"),
        (f"alice {ALICE}\nalice {BOB}\n", "line 2: a name or key comes twice"),
        (f"alice {ALICE}\nbob {ALICE}\n", "line 2: a name or key comes twice"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        api_keys.read(written(tmp_path, text))
    assert not any(word in str(caught.value) for word in (ALICE, BOB, "123456789012345"))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="RAPID_API_KEYS_FILE cannot be read"):
        api_keys.read(tmp_path / "nowhere")
    (tmp_path / "binary").write_bytes(b"alice \xff\xfe" + ALICE.encode())
    with pytest.raises(SettingsError, match="RAPID_API_KEYS_FILE cannot be read") as caught:
        api_keys.read(tmp_path / "binary")
    assert ALICE not in str(caught.value)


def test_a_key_says_who_comes() -> None:
    keys = ApiKeys({"alice": ALICE, "bob": BOB})
    assert keys.identify(ALICE) == "alice"
    assert keys.identify(BOB) == "bob"


@pytest.mark.parametrize("presented", [None, "", "alice", ALICE[:-1], ALICE + "x", ALICE.upper()])
def test_anything_else_is_no_key(presented: str | None) -> None:
    with pytest.raises(UnauthorizedError, match="X-API-Key") as caught:
        ApiKeys({"alice": ALICE}).identify(presented)
    assert ALICE[:-1] not in str(caught.value)


@pytest.mark.parametrize("presented", [None, "", ALICE])
def test_without_keys_everybody_may_come(presented: str | None) -> None:
    assert ApiKeys({}, max_requests_per_key=1).identify(presented) is None
    with ApiKeys({}, max_requests_per_key=1).enter(presented) as name:
        assert name is None


def test_keys_are_not_kept() -> None:
    keys = ApiKeys({"alice": ALICE})
    assert ALICE not in repr(vars(keys))


def test_a_key_has_so_many_places_and_gets_them_back() -> None:
    keys = ApiKeys({"alice": ALICE, "bob": BOB}, max_requests_per_key=2)

    def fill() -> None:
        with keys.enter(ALICE), keys.enter(ALICE) as name, keys.enter(BOB) as other:
            assert (name, other) == ("alice", "bob")
            with pytest.raises(TooManyRequestsError, match="2 requests inside"), keys.enter(ALICE):
                raise AssertionError("there was a third place")
            raise InvalidParameterError("r")  # a request that fails gives its place back, too

    for _ in range(2):
        with pytest.raises(InvalidParameterError, match="r"):
            fill()


def test_any_number_of_places_unless_they_are_limited() -> None:
    keys = ApiKeys({"alice": ALICE})
    with keys.enter(ALICE), keys.enter(ALICE), keys.enter(ALICE) as name:
        assert name == "alice"


# through the app


@pytest.mark.anyio
async def test_work_needs_a_key_and_watching_does_not(
    app_client: AppClient, tmp_path: Path, owl: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with app_client(api_keys_file=str(written(tmp_path, FILE))) as client:
        refused = [await client.request(*route, content=owl) for route in WORK]
        refused += [await client.get(path) for path in READING]
        for response in refused:
            assert response.status_code == 401, response.request.url
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.json()["code"] == "unauthorized"
        for path in OPEN:
            assert (await client.get(path)).status_code == 200, path
        counted = (await client.get("/metrics")).text
        assert f'rapid_rejected_total{{reason="unauthorized"}} {len(refused)}.0' in counted
        lines = [vars(record) for record in caplog.records if record.msg == "request"]
        assert [(line["status"], line["code"]) for line in lines] == (
            [(401, "unauthorized")] * len(refused)
        )
        assert {"/v1/models", "/v1/models/{name:path}"} < {line["path"] for line in lines}
        for path in READING:
            response = await client.get(path, headers={"x-api-key": BOB})
            assert response.status_code == 200, path


@pytest.mark.anyio
async def test_a_key_in_either_header(app_client: AppClient, tmp_path: Path, owl: bytes) -> None:
    statuses = {}
    async with app_client(api_keys_file=str(written(tmp_path, FILE))) as client:
        for name, value in [
            ("authorization", f"Bearer {ALICE}"),
            ("authorization", f"bearer  {BOB}"),
            ("x-api-key", ALICE),
            ("X-API-KEY", BOB),
            ("authorization", f"Basic {ALICE}"),
            ("authorization", ALICE),
            ("authorization", "Bearer"),
            ("authorization", "Bearer \xff\xfe"),
            ("x-api-key", "mallory-key-0123456789"),
            ("api-key", ALICE),
        ]:
            headers = [(name.encode(), value.encode("latin-1"))]
            response = await client.post("/v1/classify", content=owl, headers=headers)
            statuses[f"{name}: {value}"] = response.status_code
    assert list(statuses.values()) == [200] * 4 + [401] * 6, statuses


@pytest.mark.anyio
async def test_one_key_that_asks_for_too_much_takes_nothing_from_another(
    app_client: AppClient, tmp_path: Path, owl: bytes
) -> None:
    path = str(written(tmp_path, FILE))
    async with app_client(api_keys_file=path, max_requests_per_key=2, max_wait_ms=300) as client:

        async def post(key: str) -> httpx.Response:
            return await client.post("/v1/classify", content=owl, headers={"x-api-key": key})

        answers = await asyncio.gather(*[post(ALICE) for _ in range(6)], post(BOB), post(BOB))
        assert sorted(answer.status_code for answer in answers[:6]) == [200] * 2 + [429] * 4
        assert [answer.status_code for answer in answers[6:]] == [200, 200]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert {answer.json()["code"] for answer in refused} == {"too_many_requests"}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        again = await asyncio.gather(post(ALICE), post(ALICE))
        assert [answer.status_code for answer in again] == [200, 200]


@pytest.mark.anyio
async def test_a_key_comes_back_nowhere(
    app_client: AppClient, tmp_path: Path, owl: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    unknown = "mallory-key-0123456789"
    said = []
    async with app_client(api_keys_file=str(written(tmp_path, FILE))) as client:
        for key in (ALICE, unknown):
            for headers in ({"x-api-key": key}, {"authorization": f"Bearer {key}"}):
                for body in (owl, b"no picture"):
                    answer = await client.post("/v1/classify", content=body, headers=headers)
                    said += [answer.text, str(answer.headers)]
        said.append((await client.get("/metrics")).text)
    said += [f"{record.getMessage()} {vars(record)}" for record in caplog.records]
    assert not [text for text in said if ALICE in text or unknown in text]
    names = {getattr(record, "api_key", None) for record in caplog.records}
    assert "alice" in names
