"""The process as its supervisor sees it: it starts, it drains, it says why it does not start."""

import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from tests.conftest import Server

pytestmark = pytest.mark.e2e


def test_sigterm_finishes_accepted_work_and_exits_with_0(tiny_model: Path, owl: bytes) -> None:
    server = Server(RAPID_MODELS=str(tiny_model), RAPID_NUM_THREADS="1")
    server.wait_until_ready()
    answers: list[int | str] = []
    under_load = threading.Event()

    def client() -> None:
        with httpx.Client(base_url=server.url, timeout=60) as http:
            while True:
                try:
                    status = http.post("/v1/classify", files={"image": owl}).status_code
                except httpx.ConnectError:
                    return  # the listener is closed: nothing of ours was accepted
                except httpx.TransportError as exc:
                    answers.append(repr(exc))
                    return
                answers.append(status)
                if len(answers) >= 20:
                    under_load.set()
                if status == 503:
                    return

    clients = [threading.Thread(target=client) for _ in range(4)]
    for thread in clients:
        thread.start()
    assert under_load.wait(60)
    status, output = server.stop()
    for thread in clients:
        thread.join(60)
    assert status == 0, output
    assert set(answers) <= {200, 503}
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("environment", "message", "status"),
    [
        ({"RAPID_MAX_BATCHSIZE": "4"}, "did you mean RAPID_MAX_BATCH_SIZE?", 2),
        ({"RAPID_PORT": "web"}, "RAPID_PORT", 2),
        ({"RAPID_MODELS": "vit_of_nowhere"}, "vit_of_nowhere", 1),
        ({"RAPID_MODELS": "./nowhere"}, "config.json", 1),
    ],
)
def test_it_says_why_it_does_not_start(
    environment: dict[str, str], message: str, status: int
) -> None:
    server = Server(**environment)
    output, _ = server.process.communicate(timeout=60)
    assert message in output
    assert server.process.returncode == status


def test_the_command_line_has_a_version_and_help() -> None:
    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "service", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert run("--version").strip() == "0.1.0"
    assert "serve" in run("--help")
