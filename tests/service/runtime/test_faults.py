"""What may break, breaks here: the device, the memory, the network, the clients' patience."""

import asyncio
import io
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import aiohttp
import httpx
import psutil
import pytest
import torch
from timm.models import VisionTransformer
from torch import Tensor, nn

from tests.conftest import AppClient
from tests.service.api.test_disconnects import JPEG, HeldServer, connect, head
from tests.service.images.test_decode import png_of
from tests.waiting import PATIENCE_S, eventually, get

RECEIVE_TIMEOUT_S = 1.0
NUM_WARM_UP = 2_000
NUM_CHAOS = 10_000
NUM_CLIENTS = 8
PATIENT_FOR = 3
"""times what as many answers as there are clients take one by one: some clients wait long enough"""


@contextmanager
def held_server(folder: Path, model: Path, **environment: str) -> Iterator[HeldServer]:
    limits = {"RAPID_LOG_LEVEL": "error", "RAPID_MAX_BODY_BYTES": "1000000"}
    server = HeldServer(folder, model, **limits, **environment)
    yield server
    server.release()
    status, output = server.stop()
    assert status == 0, output


@pytest.fixture(scope="module", name="held")
def start_held(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HeldServer]:
    timeout_s = str(RECEIVE_TIMEOUT_S)
    folder = tmp_path_factory.mktemp("faults")
    with held_server(folder, tiny_model, RAPID_RECEIVE_TIMEOUT_S=timeout_s) as server:
        yield server


# the device


@pytest.mark.e2e
@pytest.mark.slow
def test_a_stuck_device_ends_the_process_and_keeps_nobody_waiting(
    tiny_model: Path, tmp_path: Path, owl: bytes
) -> None:
    server = HeldServer(tmp_path, tiny_model, RAPID_BATCH_TIMEOUT_S="3")
    alive: list[int] = []

    def watch() -> None:
        with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as http:
            while True:
                try:
                    alive.append(http.get("/livez").status_code)
                except httpx.TransportError:
                    return

    server.hold()
    watcher = Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(12) as clients:
        answers = list(clients.map(lambda _: server.post(owl), range(12)))
    assert {answer.status_code for answer in answers} == {503}
    assert {answer.json()["code"] for answer in answers} == {"not_ready"}
    assert all("retry-after" in answer.headers for answer in answers)
    status, output = server.wait()  # the device is still held
    watcher.join()
    assert status == 1
    assert "the service cannot go on" in output
    assert alive == sorted(alive), alive
    assert set(alive) <= {200, 503}


@pytest.mark.e2e
@pytest.mark.slow
def test_a_process_that_was_stopped_goes_on(tiny_model: Path, tmp_path: Path, owl: bytes) -> None:
    timeout_s = 2.0
    server = HeldServer(tmp_path, tiny_model, RAPID_BATCH_TIMEOUT_S=str(timeout_s))
    server.hold()
    with ThreadPoolExecutor(1) as client:
        answer = client.submit(server.post, owl)
        eventually(lambda: server.batches == [1])
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(2 * timeout_s)
        server.release()
        server.process.send_signal(signal.SIGCONT)
        assert answer.result().status_code == 200
    time.sleep(timeout_s / 5)  # the watcher looks twice in this time
    assert httpx.get(f"{server.url}/readyz").status_code == 200
    assert server.post(owl).status_code == 200
    status, output = server.stop()
    assert status == 0, output


@pytest.mark.e2e
@pytest.mark.slow
def test_a_batch_that_fails_takes_no_other_with_it(held: HeldServer, owl: bytes) -> None:
    num_before = len(held.batches)
    held.hold(num_passing=num_before)
    with ThreadPoolExecutor(8) as clients:
        first = clients.submit(held.post, owl)
        eventually(lambda: held.batches[num_before:] == [1])
        held.break_batches()
        second = [clients.submit(held.post, owl) for _ in range(3)]
        eventually(lambda: held.metric("rapid_queue_images") == 3)
        held.release()
        failed = [answer.result() for answer in second]
        held.mend()
        assert first.result().status_code == 200
    assert held.batches[num_before:] == [1, 3]
    assert {answer.status_code for answer in failed} == {500}
    assert {answer.json()["code"] for answer in failed} == {"inference_failed"}
    assert not any("secret" in answer.text for answer in failed)
    assert held.post(owl).status_code == 200
    assert get(f"{held.url}/readyz").status_code == 200


@pytest.fixture
def memory_for() -> Iterator[list[int]]:
    """How many images fit into the memory of the device; empty for any number."""
    limit: list[int] = []

    def check(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, VisionTransformer) and limit and len(inputs[0]) > limit[0]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nand so on")

    hook = nn.modules.module.register_module_forward_pre_hook(check)
    yield limit
    hook.remove()


@pytest.mark.anyio
async def test_a_batch_that_does_not_fit_is_split_until_it_does(
    app_client: AppClient, owl: bytes, memory_for: list[int]
) -> None:
    async with app_client(max_wait_ms=500) as client:
        alone = (await client.post("/v1/classify", content=owl)).json()["predictions"]
        memory_for.append(2)
        posts = [client.post("/v1/classify", content=owl) for _ in range(16)]
        answers = await asyncio.gather(*posts)
    assert [answer.status_code for answer in answers] == [200] * 16
    assert {answer.json()["batch_size"] for answer in answers} <= {1, 2}
    for answer in answers:
        for mine, wanted in zip(answer.json()["predictions"], alone, strict=True):
            assert mine["index"] == wanted["index"]
            assert mine["probability"] == pytest.approx(wanted["probability"], abs=1e-4)


@pytest.mark.anyio
async def test_a_batch_that_does_not_fit_at_start_does_not_keep_the_service_from_starting(
    app_client: AppClient, owl: bytes, memory_for: list[int]
) -> None:
    memory_for.append(3)
    async with app_client(max_wait_ms=500) as client:
        answers = await asyncio.gather(*(client.post("/v1/classify", content=owl) for _ in "1234"))
    assert [answer.status_code for answer in answers] == [200] * 4
    assert {answer.json()["batch_size"] for answer in answers} <= {1, 2, 3}


@pytest.mark.anyio
async def test_an_image_that_does_not_fit_at_all_is_told_so(
    app_client: AppClient, owl: bytes, memory_for: list[int]
) -> None:
    async with app_client() as client:
        memory_for.append(0)
        refused = await client.post("/v1/classify", content=owl)
        assert (refused.status_code, refused.json()["code"]) == (500, "out_of_device_memory")
        memory_for.clear()
        assert (await client.post("/v1/classify", content=owl)).status_code == 200


@pytest.mark.anyio
async def test_an_error_that_stays_in_the_device_turns_the_service_red(
    app_client: AppClient, owl: bytes
) -> None:
    def break_down(module: nn.Module, _: tuple[Tensor, ...]) -> None:
        if isinstance(module, VisionTransformer):
            raise torch.AcceleratorError("CUDA error: an illegal memory access\nand so on")

    async with app_client() as client:
        hook = nn.modules.module.register_module_forward_pre_hook(break_down)
        answer = await client.post("/v1/classify", content=owl)
        hook.remove()
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        assert (await client.get("/livez")).status_code == 503
        assert (await client.post("/v1/classify", content=owl)).status_code == 503


# slow clients


def drip(held: HeldServer, whole: bytes, slow: bytes) -> bytes:
    """Send one part at once, the other byte by byte; all that comes back until it is closed."""
    received = b""
    with connect(held) as client:
        client.sendall(whole)
        client.settimeout(0.05)
        for byte in slow:
            try:
                client.sendall(bytes((byte,)))
                if not (chunk := client.recv(65536)):
                    break
                received += chunk
            except TimeoutError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                break
        else:
            raise AssertionError(f"everything could be sent: {received!r}")
    return received


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_that_drips_gets_408(held: HeldServer, owl: bytes, is_chunked: bool) -> None:
    start = head(len(owl))
    if is_chunked:
        start = start.partition(b"Content-Length")[0] + b"Transfer-Encoding: chunked\r\n\r\nfff\r\n"
    answer = drip(held, start, owl[:1000])
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"slow_client"' in answer
    assert b"connection: close" in answer.lower()
    expect_well(held)


@pytest.mark.e2e
@pytest.mark.slow
def test_a_head_that_drips_loses_its_connection(held: HeldServer) -> None:
    assert drip(held, b"", b"GET /livez HTTP/1.1\r\nX-Slow: " + b"x" * 1000) == b""
    expect_well(held)


@pytest.mark.e2e
@pytest.mark.slow
def test_a_second_head_that_drips_loses_its_connection(held: HeldServer) -> None:
    answer = drip(held, b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n", b"GET /livez HTTP/1.1" * 99)
    assert answer.startswith(b"HTTP/1.1 200 ")
    expect_well(held)


@pytest.mark.e2e
@pytest.mark.slow
def test_a_body_that_drips_after_its_refusal_loses_its_connection(held: HeldServer) -> None:
    answer = drip(held, head(50_000_000), b"x" * 1000)
    assert answer.startswith(b"HTTP/1.1 413 ")
    expect_well(held)


def expect_well(held: HeldServer) -> None:
    assert get(f"{held.url}/readyz").status_code == 200
    assert held.metric("rapid_inflight_requests") == 0


# chaos


class Crowd:
    """Clients of whom some send nonsense and most have little patience."""

    def __init__(
        self, http: aiohttp.ClientSession, url: str, owl: bytes, patience_s: float
    ) -> None:
        """Know where to send what, and how long the most patient one waits."""
        self._http = http
        self._patience_s = patience_s
        self._url = f"{url}/v1/classify"
        self._dice = random.Random(0)
        self._good = owl
        self._bad = [owl[: len(owl) // 2], b"", b"hello", png_of(30_000, 30_000), bytes(2_000_000)]
        self.outcomes: Counter[int | str] = Counter()

    async def send(self, num_requests: int) -> None:
        """Send so many, from several clients at a time."""
        turns = iter(range(num_requests))
        async with asyncio.TaskGroup() as group:
            for _ in range(NUM_CLIENTS):
                group.create_task(self._client(turns))

    async def _client(self, turns: Iterator[int]) -> None:
        for _ in turns:
            is_good = self._dice.random() < 0.7
            body = self._good if is_good else self._dice.choice(self._bad)
            patience = aiohttp.ClientTimeout(self._dice.uniform(0.001, self._patience_s))
            try:
                async with self._http.post(
                    self._url, data=io.BytesIO(body), headers=JPEG, timeout=patience
                ) as response:
                    await response.read()
                    self.outcomes[response.status] += 1
                    assert (response.status in {200, 429}) == is_good, response.status
            except TimeoutError:
                self.outcomes["timeout"] += 1
            except aiohttp.ClientConnectionError:
                assert not is_good  # refused before it was sent
                self.outcomes["closed"] += 1


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.anyio
async def test_chaos_leaves_nothing_behind(
    tiny_model: Path, tmp_path: Path, http: aiohttp.ClientSession, owl: bytes
) -> None:
    with held_server(tmp_path, tiny_model) as held:
        await chaos(held, http, owl)


async def chaos(held: HeldServer, http: aiohttp.ClientSession, owl: bytes) -> None:
    wanted = held.post(owl).json()["predictions"]
    started = time.monotonic()
    for _ in range(NUM_CLIENTS):
        held.post(owl)
    crowd = Crowd(http, held.url, owl, patience_s=PATIENT_FOR * (time.monotonic() - started))
    process = psutil.Process(held.process.pid)
    await crowd.send(NUM_WARM_UP)
    num_bytes = process.memory_info().rss
    await crowd.send(NUM_CHAOS)
    eventually(lambda: held.metric("rapid_inflight_requests") == 0)
    assert held.metric("rapid_queue_images") == 0
    assert held.metric("rapid_saturation_ratio") == 0
    async with http.get(f"{held.url}/readyz") as ready:
        assert ready.status == 200
    answer = held.post(owl)
    assert answer.status_code == 200
    assert [item["index"] for item in answer.json()["predictions"]] == [
        item["index"] for item in wanted
    ]
    assert crowd.outcomes.total() == NUM_WARM_UP + NUM_CHAOS
    assert {200, 400, 413} <= set(crowd.outcomes)
    assert process.memory_info().rss < 1.05 * num_bytes, crowd.outcomes
