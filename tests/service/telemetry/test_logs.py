"""What the process prints is for machines: one JSON object a line, and nothing private in it."""

import base64
import datetime
import json
import logging
import re
import socket
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from service.telemetry import logs
from tests.conftest import AppClient, Server
from tests.waiting import PATIENCE_S

KEY = "alice-key-0123456789"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACE = f"00-{TRACE_ID}-b7ad6b7169203331-01"
SERVER_TIMING = re.compile(r"\w+;dur=\d+\.\d{3}(, \w+;dur=\d+\.\d{3})*")
TIMINGS = ("decode", "queue", "inference", "total")


@pytest.mark.e2e
@pytest.mark.slow
def test_every_line_of_the_process_is_an_event(
    tiny_model: Path, tmp_path: Path, owl: bytes
) -> None:
    (tmp_path / "keys").write_text(f"alice {KEY}\n")
    server = Server(
        RAPID_MODELS=f"tiny={tiny_model}",
        RAPID_API_KEYS_FILE=str(tmp_path / "keys"),
        RAPID_DRAIN_DELAY_S="0.2",
        RAPID_LOG_LEVEL="debug",
    )
    server.wait_until_ready()
    encoded = base64.b64encode(owl).decode()
    with httpx.Client(
        base_url=server.url, headers={"x-api-key": KEY}, timeout=PATIENCE_S
    ) as client:
        answers = [
            client.post("/v1/classify", content=owl, headers={"traceparent": TRACE}),
            client.post("/v1/classify?tier=fast", json={"image": encoded}),
            client.post("/v1/classify", files={"image": owl}, headers={"x-request-id": "mine"}),
            client.post("/v1/classify", content=owl[:5000]),
            client.post("/v1/classify", content=owl, headers={"x-api-key": KEY[:-1]}),
            client.post("/v1/classify?r=-1", content=owl),
        ]
    leave_after_half(server, owl)
    statuses = [answer.status_code for answer in answers]
    assert statuses == [200, 200, 200, 400, 401, 422]
    status, output = server.stop()
    assert status == 0, output
    expect_nothing_private(output, owl)
    events = [json.loads(line) for line in output.splitlines()]
    for event in events:
        expect_event(event)
    requests = [event for event in events if event["event"] == "request"]
    assert [event["status"] for event in requests] == [*statuses, 499]
    for event, answer in zip(requests, answers, strict=False):
        assert event["request_id"] == answer.headers["x-request-id"]
        assert event["path"] == "/v1/classify"
        assert event["api_key"] == (None if answer.status_code == 401 else "alice")
    for event, tier in zip(requests[:3], ("balanced", "fast", "balanced"), strict=True):
        assert (event["model"], event["tier"], event["num_images"]) == ("tiny", tier, 1)
        assert (event["level"], event["phase"]) == ("INFO", "batch")
        assert all(event[f"{name}_ms"] >= 0 for name in TIMINGS)
    assert requests[0]["trace_id"] == TRACE_ID
    assert not any("trace_id" in event for event in requests[1:])
    assert requests[2]["request_id"] == "mine"
    assert requests[-1]["phase"] == "reading"
    assert {"ready", "model ready"} <= {event["event"] for event in events}


def leave_after_half(server: Server, body: bytes) -> None:
    """Send half of a request and go."""
    address = urlsplit(server.url)
    assert address.hostname is not None
    with socket.create_connection((address.hostname, address.port)) as client:
        head = f"Host: test\r\nX-API-Key: {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(b"POST /v1/classify HTTP/1.1\r\n" + head.encode() + body[:100])


def expect_event(event: dict[str, Any]) -> None:
    assert datetime.datetime.fromisoformat(event["time"])
    assert event["level"] in {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}
    assert isinstance(event["event"], str)
    assert event["event"]
    assert "message" not in event


def expect_nothing_private(output: str, image: bytes) -> None:
    assert KEY not in output
    assert KEY[:-1] not in output
    encoded = base64.b64encode(image).decode()
    assert encoded[:40] not in output
    assert encoded[1000:1040] not in output
    assert "JFIF" not in output
    assert repr(image[100:110])[2:-1] not in output
    assert max(map(len, output.splitlines())) < 2000


@pytest.mark.e2e
@pytest.mark.slow
def test_what_ends_the_process_is_an_event_too(tmp_path: Path) -> None:
    status, output = Server(RAPID_MODELS=str(tmp_path)).wait()
    assert status == 1
    events = [json.loads(line) for line in output.splitlines()]
    for event in events:
        expect_event(event)
    (reason,) = (event for event in events if event["level"] == "CRITICAL")
    assert "exc_info" not in reason  # what is wrong with a model is said in words


@pytest.mark.parametrize("level", ["debug", "error"])
def test_libraries_that_print_what_they_parse_stay_quiet(
    monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    loggers = [logging.getLogger(), *map(logging.getLogger, logs.TALKATIVE)]
    before = [(logger.level, logger.handlers[:]) for logger in loggers]
    logging.getLogger().handlers.clear()
    try:
        logs.configure(level)
        for name in ("PIL.TiffImagePlugin", "PIL.PngImagePlugin"):
            assert not logging.getLogger(name).isEnabledFor(logging.INFO)
        assert logging.getLogger("service.images.rgb").isEnabledFor(logging.DEBUG) == (
            level == "debug"
        )
    finally:
        for logger, (number, handlers) in zip(loggers, before, strict=True):
            logger.setLevel(number)
            logger.handlers[:] = handlers


# headers


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/v1/classify", "/livez", "/nowhere"])
async def test_ids_come_back(app_client: AppClient, owl: bytes, path: str) -> None:
    headers = {"traceparent": TRACE, "x-request-id": "a:b-c.1_2"}
    async with app_client() as client:
        for method in ("POST", "GET"):
            answer = await client.request(method, path, content=owl, headers=headers)
            assert answer.headers["traceparent"] == TRACE
            assert answer.headers.get_list("x-request-id") == ["a:b-c.1_2"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "bad", ["", "two words", "x" * 129, "semi;colon", '"', "caf\xe9", "{}", "a\tb"]
)
async def test_an_id_that_could_do_harm_is_replaced(app_client: AppClient, bad: str) -> None:
    async with app_client() as client:
        headers = [(b"x-request-id", bad.encode("latin-1"))]
        answers = [await client.get("/livez", headers=headers) for _ in range(2)]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in ids)
    assert ids[0] != ids[1]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "bad", ["", TRACE.upper(), TRACE[:-1], f"{TRACE}-more", TRACE_ID, TRACE.replace("-", "_")]
)
async def test_a_trace_that_is_none_is_left_out(
    app_client: AppClient, owl: bytes, caplog: pytest.LogCaptureFixture, bad: str
) -> None:
    caplog.set_level(logging.INFO)
    async with app_client() as client:
        answer = await client.post("/v1/classify", content=owl, headers={"traceparent": bad})
    assert answer.status_code == 200
    assert "traceparent" not in answer.headers


@pytest.mark.anyio
async def test_an_answer_says_what_took_how_long(app_client: AppClient, owl: bytes) -> None:
    async with app_client() as client:
        good = await client.post("/v1/classify", content=owl)
        bad = await client.post("/v1/classify", content=b"no picture")
    names = {}
    for answer in (good, bad):
        header = answer.headers["server-timing"]
        assert SERVER_TIMING.fullmatch(header), header
        parts = [part.partition(";dur=") for part in header.split(", ")]
        names[answer.status_code] = {name: float(value) for name, _, value in parts}
    assert set(names[200]) == set(TIMINGS)
    assert set(names[400]) == {"total"}
    assert sum(names[200][name] for name in TIMINGS[:3]) <= names[200]["total"] + 0.01
    said = good.json()["timing_ms"]
    assert all(names[200][name] == pytest.approx(said[name], abs=0.01) for name in TIMINGS[:3])
