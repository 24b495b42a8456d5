"""A client that leaves is noticed in whatever phase it is, and costs nobody else an answer."""

import contextlib
import os
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.telemetry.events import PHASES
from tests.conftest import Server
from tests.waiting import PATIENCE_S, eventually, get

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

JPEG = {"content-type": "image/jpeg"}

# Python runs a file of this name when it starts. Here it lets a test hold or break the device.
SITECUSTOMIZE = """
import itertools
import time
from pathlib import Path

from service.backends.engine import Engine

FOLDER = Path(__file__).parent
NUMBERS = itertools.count()
forward = Engine._forward


def is_held(number):
    try:
        text = (FOLDER / "hold").read_text()
    except FileNotFoundError:  # one call, because the test may remove the file at any time
        return False
    return number >= int(text or 0)


def held(self, variant, images, num_threads):
    number = next(NUMBERS)
    with (FOLDER / "batches").open("a") as file:
        file.write(f"{len(images)}\\n")
    if (FOLDER / "broken").exists():
        raise RuntimeError("secret of the model")
    while is_held(number):
        time.sleep(0.002)
    return forward(self, variant, images, num_threads)


Engine._forward = held
"""


class HeldServer(Server):
    """The real server; a test decides when and whether its device computes."""

    def __init__(self, folder: Path, model: Path, **environment: str) -> None:
        """Start it with a model and wait until it is ready."""
        (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
        self._folder = folder
        super().__init__(
            PYTHONPATH=os.pathsep.join((str(folder), str(Path.cwd()))),
            RAPID_MODELS=str(model),
            RAPID_NUM_THREADS="1",
            RAPID_DRAIN_DELAY_S="0",
            **environment,
        )
        self.wait_until_ready()
        self._num_warm_up_batches = len(self._batches())

    def hold(self, num_passing: int = 0) -> None:
        """Let so many batches pass, counted from when it was ready, and hold those behind them."""
        (self._folder / "hold").write_text(str(self._num_warm_up_batches + num_passing))

    def release(self) -> None:
        """Let all batches pass."""
        (self._folder / "hold").unlink(missing_ok=True)

    def break_batches(self) -> None:
        """Let every batch fail that starts from now on."""
        (self._folder / "broken").touch()

    def mend(self) -> None:
        """Let no further batch fail."""
        (self._folder / "broken").unlink()

    @property
    def batches(self) -> list[int]:
        """Images in every batch that was started since it was ready."""
        return self._batches()[self._num_warm_up_batches :]

    def _batches(self) -> list[int]:
        return [int(line) for line in (self._folder / "batches").read_text().splitlines()]

    def post(self, body: bytes) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/classify", content=body, headers=JPEG, timeout=PATIENCE_S)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name that have these labels."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(get(f"{self.url}/metrics").text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


def connect(server: Server) -> socket.socket:
    address = urlsplit(server.url)
    assert address.hostname is not None
    return socket.create_connection((address.hostname, address.port), timeout=PATIENCE_S)


def head(num_bytes: int) -> bytes:
    return (
        "POST /v1/classify HTTP/1.1\r\nHost: test\r\nContent-Type: image/jpeg\r\n"
        f"Content-Length: {num_bytes}\r\n\r\n"
    ).encode()


def leave_politely(client: socket.socket) -> None:
    client.close()


def leave_abruptly(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


Leave = Callable[[socket.socket], None]
LEAVING = [leave_politely, leave_abruptly]


@pytest.fixture(scope="module")
def held(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HeldServer]:
    server = HeldServer(
        tmp_path_factory.mktemp("held"),
        tiny_model,
        RAPID_LOG_LEVEL="warning",
        RAPID_MAX_BATCH_SIZE="4",
    )
    yield server
    server.release()
    status, output = server.stop()
    assert status == 0, output
    assert "Traceback" not in output


@pytest.fixture
def neighbours() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


class Counts:
    """What the server counts, since now."""

    def __init__(self, server: HeldServer) -> None:
        """Remember where the counters stand."""
        self._server = server
        self._before = self._cancelled()
        self._num_batches = len(server.batches)

    @property
    def cancelled(self) -> dict[str, float]:
        """Requests that were given up, by phase; without the phases of which there are none."""
        now = self._cancelled()
        return {
            phase: now[phase] - self._before[phase]
            for phase in PHASES
            if now[phase] != self._before[phase]
        }

    @property
    def batches(self) -> list[int]:
        """Images in every batch that was started."""
        return self._server.batches[self._num_batches :]

    def hold(self, num_passing: int = 0) -> None:
        """Let so many more batches pass."""
        self._server.hold(self._num_batches + num_passing)

    def _cancelled(self) -> dict[str, float]:
        return {
            phase: self._server.metric("rapid_cancelled_total", phase=phase) for phase in PHASES
        }


def expect_quiet(server: HeldServer) -> None:
    """Nothing is left inside, and a good request is answered."""
    eventually(lambda: server.metric("rapid_inflight_requests") == 0)
    assert server.metric("rapid_queue_images") == 0
    assert server.metric("rapid_saturation_ratio") == 0


@pytest.mark.parametrize("leave", LEAVING)
@pytest.mark.parametrize("num_sent", [0, 500])
def test_a_client_that_leaves_while_it_sends(
    held: HeldServer, owl: bytes, leave: Leave, num_sent: int
) -> None:
    counts = Counts(held)
    client = connect(held)
    client.sendall(head(1000) + owl[:num_sent])
    eventually(lambda: held.metric("rapid_inflight_requests") == 1)
    leave(client)
    eventually(lambda: counts.cancelled == {"reading": 1})
    expect_quiet(held)
    assert counts.batches == []
    assert held.post(owl).status_code == 200
    assert counts.cancelled == {"reading": 1}


@pytest.mark.parametrize("leave", LEAVING)
def test_a_client_that_leaves_the_queue_is_never_computed(
    held: HeldServer, neighbours: ThreadPoolExecutor, owl: bytes, leave: Leave
) -> None:
    counts = Counts(held)
    counts.hold()
    first = neighbours.submit(held.post, owl)
    eventually(lambda: counts.batches == [1])
    client = connect(held)
    client.sendall(head(len(owl)) + owl)
    eventually(lambda: held.metric("rapid_queue_images") == 1)
    last = neighbours.submit(held.post, owl)
    eventually(lambda: held.metric("rapid_queue_images") == 2)
    leave(client)
    eventually(lambda: counts.cancelled == {"queued": 1})
    assert held.metric("rapid_queue_images") == 1
    assert held.metric("rapid_inflight_requests") == 2
    held.release()
    assert [answer.result().status_code for answer in (first, last)] == [200, 200]
    expect_quiet(held)
    assert counts.batches == [1, 1]
    assert counts.cancelled == {"queued": 1}


@pytest.mark.parametrize("leave", LEAVING)
def test_a_client_that_leaves_during_its_batch_takes_nothing_from_it(
    held: HeldServer, neighbours: ThreadPoolExecutor, owl: bytes, leave: Leave
) -> None:
    alone = held.post(owl).json()["predictions"]
    counts = Counts(held)
    counts.hold()
    answers: list[Future[httpx.Response]] = [neighbours.submit(held.post, owl)]
    eventually(lambda: counts.batches == [1])
    client = connect(held)
    client.sendall(head(len(owl)) + owl)
    answers += [neighbours.submit(held.post, owl) for _ in range(2)]
    eventually(lambda: held.metric("rapid_queue_images") == 3)
    counts.hold(num_passing=1)
    eventually(lambda: counts.batches == [1, 3])
    leave(client)
    eventually(lambda: counts.cancelled == {"batch": 1})
    held.release()
    documents = [answer.result().json() for answer in answers]
    assert [document["batch_size"] for document in documents] == [1, 3, 3]
    for document in documents:
        for mine, wanted in zip(document["predictions"], alone, strict=True):
            assert mine["index"] == wanted["index"]
            assert mine["probability"] == pytest.approx(wanted["probability"], abs=1e-4)
    expect_quiet(held)
    assert counts.cancelled == {"batch": 1}


def test_many_clients_that_leave_are_counted_once_each(held: HeldServer, owl: bytes) -> None:
    counts = Counts(held)
    counts.hold()
    with contextlib.ExitStack() as open_clients:
        clients = [open_clients.enter_context(connect(held)) for _ in range(30)]
        for client in clients:
            client.sendall(head(len(owl)) + owl)
        eventually(lambda: held.metric("rapid_inflight_requests") == 30)
        eventually(lambda: held.metric("rapid_queue_images") == 30 - sum(counts.batches))
        num_computing = sum(counts.batches)
    eventually(lambda: held.metric("rapid_inflight_requests") == 0)
    held.release()
    assert held.post(owl).status_code == 200
    assert counts.cancelled == {"queued": 30 - num_computing, "batch": num_computing}
    assert counts.batches == [num_computing, 1]
    expect_quiet(held)


def test_an_answered_client_that_leaves_is_not_counted(held: HeldServer, owl: bytes) -> None:
    counts = Counts(held)
    with connect(held) as client:
        client.sendall(head(len(owl)) + owl)
        assert client.recv(12) == b"HTTP/1.1 200"
    assert held.post(owl).status_code == 200
    assert counts.cancelled == {}
    expect_quiet(held)
