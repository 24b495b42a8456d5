"""The process as its supervisor sees it: it starts, it drains, it says why it does not start."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from service.api.server import url_for_clients
from tests.conftest import ROOT, Server
from tests.service.api.test_disconnects import HeldServer
from tests.waiting import PATIENCE_S, eventually, free_port, get

pytestmark = pytest.mark.e2e

NEVER_LOADED = """
import time
from pathlib import Path

from service.models import timm_models


def load(spec):
    Path(__file__).with_name("loading").touch()
    time.sleep(600)


timm_models.load = load
"""


SLOW_IMPORT = """
import sys
import time
from pathlib import Path


class Slow:
    def find_spec(self, name, path, target=None):
        if name == "torch":
            Path(__file__).with_name("importing").touch()
            time.sleep(600)


sys.meta_path.insert(0, Slow())
"""


@contextmanager
def under_load(
    server: Server, image: bytes, *, keep_alive: bool = False
) -> Iterator[list[httpx.Response | str]]:
    """Four clients that ask until the listener is closed; all that they got."""
    answers: list[httpx.Response | str] = []

    def client() -> None:
        limits = httpx.Limits(max_keepalive_connections=1 if keep_alive else 0)
        with httpx.Client(base_url=server.url, timeout=PATIENCE_S, limits=limits) as http:
            while True:
                try:
                    answers.append(http.post("/v1/classify", files={"image": image}))
                except httpx.ConnectError:
                    return  # nothing of ours was accepted
                except httpx.TransportError as exc:
                    answers.append(repr(exc))

    clients = [threading.Thread(target=client) for _ in range(4)]
    for thread in clients:
        thread.start()
    try:
        eventually(lambda: len(answers) >= 20)
        yield answers
    finally:
        for thread in clients:
            thread.join(PATIENCE_S)


def start(model: Path, drain_delay_s: float) -> Server:
    server = Server(
        RAPID_MODELS=str(model), RAPID_NUM_THREADS="1", RAPID_DRAIN_DELAY_S=str(drain_delay_s)
    )
    server.wait_until_ready()
    return server


def expect_all_answered(answers: list[httpx.Response | str], output: str) -> None:
    """Every request that the server took in has reached its client, as a 200 or a 503.

    A connection on which it has read no request yet when it closes is no such request.
    """
    events = [json.loads(line) for line in output.splitlines()]
    taken_in = Counter(event["status"] for event in events if event["event"] == "request")
    got = Counter(answer.status_code for answer in answers if isinstance(answer, httpx.Response))
    assert got == taken_in
    assert set(got) <= {200, 503}


def test_a_person_who_watches_is_told_what_to_try(tiny_model: Path) -> None:
    """The command is run as it stands there. A log that is no terminal has JSON lines only."""
    ours, its = os.openpty()
    server = Server(stderr=its, RAPID_MODELS=str(tiny_model), RAPID_NUM_THREADS="1")
    os.close(its)
    shown = b""
    while b"curl" not in shown or not shown.endswith(b"\r\n"):
        shown += os.read(ours, 4096)
    (command,) = [line for line in shown.decode().splitlines() if "curl" in line]
    tried = subprocess.run(shlex.split(command), capture_output=True, check=True, cwd=ROOT)
    assert server.url in command
    assert json.loads(tried.stdout)["model"] == tiny_model.name
    server.process.kill()
    server.wait()
    os.close(ours)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("fe80::1", "http://[fe80::1]:80"),
        ("photos.example", "http://photos.example:80"),
    ],
)
def test_the_url_is_one_that_a_client_can_ask(host: str, url: str) -> None:
    assert url_for_clients(host, 80) == url


def wait_until_leaving(server: Server) -> httpx.Response:
    """What `/readyz` says once the signal has come."""
    while (response := get(f"{server.url}/readyz")).status_code == 200:
        time.sleep(0.01)
    return response


def test_sigterm_finishes_accepted_work_and_exits_with_0(tiny_model: Path, owl: bytes) -> None:
    server = start(tiny_model, drain_delay_s=0)
    with under_load(server, owl, keep_alive=True) as answers:
        status, output = server.stop()
    assert status == 0, output
    expect_all_answered(answers, output)
    assert "Traceback" not in output


@pytest.mark.slow
def test_sigterm_serves_on_until_load_balancers_have_noticed(tiny_model: Path, owl: bytes) -> None:
    drain_delay_s = 2.0
    server = start(tiny_model, drain_delay_s)
    with under_load(server, owl) as answers:
        signalled = time.monotonic()
        server.process.terminate()
        leaving = wait_until_leaving(server)
        assert (leaving.status_code, leaving.headers["connection"]) == (503, "close")
        assert leaving.json()["code"] == "not_ready"
        num_before = len(answers) + 4  # with those that are on their way
        eventually(lambda: len(answers) > num_before + 4)
        served = answers[num_before:]
        assert get(f"{server.url}/readyz").status_code == 503
        assert get(f"{server.url}/livez").status_code == 200
        status, output = server.wait()
        assert time.monotonic() - signalled >= drain_delay_s
    assert status == 0, output
    assert len(served) > 4
    for answer in served:
        assert isinstance(answer, httpx.Response), answer
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    expect_all_answered(answers, output)
    assert "Traceback" not in output


@pytest.mark.slow
@pytest.mark.parametrize(
    "signals", [[signal.SIGINT], [signal.SIGTERM, signal.SIGTERM], [signal.SIGTERM, signal.SIGINT]]
)
def test_sigint_or_a_second_signal_skips_the_delay(
    tiny_model: Path, owl: bytes, signals: list[signal.Signals]
) -> None:
    server = start(tiny_model, drain_delay_s=600)
    with under_load(server, owl) as answers:
        server.process.send_signal(signals[0])
        for number in signals[1:]:
            wait_until_leaving(server)
            server.process.send_signal(number)
        status, output = server.wait()  # it does not wait for 600 s
    assert status == 0, output
    expect_all_answered(answers, output)
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("environment", "message", "status"),
    [
        ({"RAPID_MAX_BATCHSIZE": "4"}, "did you mean RAPID_MAX_BATCH_SIZE?", 2),
        ({"WEB_CONCURRENCY": "4"}, "WEB_CONCURRENCY=4 asks for several workers", 2),
        ({"RAPID_PORT": "web"}, "RAPID_PORT", 2),
        ({"RAPID_MODELS": "vit_of_nowhere"}, "vit_of_nowhere", 1),
        ({"RAPID_MODELS": "./nowhere"}, "config.json", 1),
    ],
)
def test_it_says_why_it_does_not_start(
    environment: dict[str, str], message: str, status: int
) -> None:
    found, output = Server(**environment).wait()
    assert message in output
    assert found == status


@pytest.mark.parametrize("command", ["serve", "probe", "calibrate nowhere --images ."])
def test_without_a_folder_for_temporary_files_it_says_so(tmp_path: Path, command: str) -> None:
    """No file can be written, as on a root file system that is mounted for reading."""
    done = subprocess.run(
        ["bash", "-c", f'ulimit -f 0; exec "$0" -m service {command}', sys.executable],
        env={**os.environ, "TMPDIR": str(tmp_path / "nowhere"), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no folder for temporary files"), done.stderr
    assert "TMPDIR" in done.stderr
    assert done.stderr.count("\n") == 1


def test_it_serves_with_the_settings_of_its_flags(tiny_model: Path) -> None:
    port = str(free_port())
    flags = ["--port", port, "--models", f"by-flag={tiny_model}", "--num-threads", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "serve", *flags, "--drain-delay-s", "0"],
        env={**os.environ, "RAPID_PORT": "1", "RAPID_PROBE_INTERVAL_S": "0"},
        stderr=subprocess.DEVNULL,
    )

    def is_ready() -> bool:
        try:
            return get(f"http://127.0.0.1:{port}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    try:
        eventually(is_ready)
        models = get(f"http://127.0.0.1:{port}/v1/models").json()["models"]
        assert [model["name"] for model in models] == ["by-flag"]
    finally:
        process.terminate()
    assert process.wait(PATIENCE_S) == 0


def test_the_command_line_has_a_version_and_help() -> None:
    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "service", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert run("--version").strip() == "0.1.0"
    assert "serve" in run("--help")


@pytest.mark.parametrize(
    ("host", "says"), [("127.0.0.1", "in use"), ("no.such.host.invalid", "cannot listen on")]
)
def test_where_nobody_can_listen_is_said_before_anything_is_loaded(host: str, says: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "service"],
            env={
                **os.environ,
                "RAPID_HOST": host,
                "RAPID_PORT": port,
                "RAPID_MODELS": "a=/nowhere",
            },
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.startswith("error: cannot listen on")
    assert says in done.stderr
    assert f"RAPID_PORT={port}" in done.stderr


def test_a_signal_before_all_is_imported_ends_it_too(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SLOW_IMPORT)
    server = Server(RAPID_MODELS=str(tiny_model), PYTHONPATH=str(tmp_path))
    eventually(lambda: (tmp_path / "importing").exists())
    status, output = server.stop()
    assert (status, output) == (0, "")


@pytest.mark.slow
def test_a_device_that_is_stuck_when_the_signal_comes_keeps_nobody_waiting(
    tiny_model: Path, tmp_path: Path, owl: bytes
) -> None:
    server = HeldServer(tmp_path, tiny_model, RAPID_DRAIN_TIMEOUT_S="1")
    server.hold()
    with ThreadPoolExecutor(4) as clients:
        posts = [clients.submit(server.post, owl) for _ in range(4)]
        eventually(lambda: server.metric("rapid_inflight_requests") == 4)
        status, output = server.stop()  # the device is still held
        answers = [post.result() for post in posts]
    assert status == 0, output
    assert [answer.status_code for answer in answers] == [503] * 4
    assert {answer.json()["code"] for answer in answers} == {"not_ready"}


@pytest.mark.slow
def test_a_signal_ends_a_service_that_is_still_loading(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NEVER_LOADED)
    server = Server(RAPID_MODELS=str(tiny_model), PYTHONPATH=str(tmp_path))
    eventually(lambda: (tmp_path / "loading").exists())
    status, output = server.stop()
    assert status == 0, output
