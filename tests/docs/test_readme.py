"""The README is short, and what it shows is what comes."""

import json
import re

import httpx
import pytest

from service.api.v1.schemas import ClassifyResponse
from tests.conftest import Server
from tests.docs.pages import README, ROOT, blocks, section
from tests.docs.test_library import run
from tests.waiting import PATIENCE_S

MAX_LINES = 150
TEXT = README.read_text()
HERE = "http://127.0.0.1:8000"
"""where the README's examples expect the service"""


def test_the_readme_is_short() -> None:
    assert len(TEXT.splitlines()) <= MAX_LINES


def test_the_lines_of_the_library_run() -> None:
    (lines,) = blocks(section(TEXT, "The library"), "python")
    assert len([line for line in lines.splitlines() if line]) == 5
    without_download = lines.replace("pretrained=True", "pretrained=False")
    assert without_download != lines
    run(without_download + "\nassert logits.shape == (1, 1000)")


@pytest.mark.e2e
def test_the_answers_are_those_that_curl_gets(server: Server) -> None:
    start = section(TEXT, "Start")
    calls = re.findall(rf"^curl -F image=@(\S+) \"{HERE}(\S+)\"$", start, re.MULTILINE)
    shown = [json.loads(block) for block in blocks(start, "json")]
    assert len(calls) == len(shown) == 2
    for (photo, path), expected in zip(calls, shown, strict=True):
        files = {"image": (ROOT / photo).read_bytes()}
        answer = httpx.post(server.url + path, files=files, timeout=PATIENCE_S).json()
        assert list(expected) == list(answer) == list(ClassifyResponse.model_fields)
        for member in ("model", "method", "tier", "r", "schedule", "tokens", "macs_ratio"):
            assert answer[member] == expected[member]
        assert answer["choice"]["reason"] == expected["choice"]["reason"]
        for given, wanted in zip(answer["predictions"], expected["predictions"], strict=True):
            assert given["label"] == wanted["label"]
            assert given["probability"] == pytest.approx(wanted["probability"], abs=1e-3)


@pytest.mark.e2e
def test_the_python_lines_get_an_answer(server: Server) -> None:
    (lines,) = blocks(section(TEXT, "Start"), "python")
    assert HERE in lines
    assert "'label': 'owl'" in run(lines.replace(HERE, server.url))
