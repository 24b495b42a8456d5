"""What several tests need: a small model in timm's folder format, the app, and the real server."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import httpx
import pytest
import torch

import service.runtime.build
from service.api.app import create_app
from service.backends.placement import CPU
from service.models.timm_models import BUNDLED_MODELS, timm
from service.settings import Settings

BUNDLED = BUNDLED_MODELS / "everyday-vit-s14"
READY_WITHIN_S = 60

NORMALIZING = CPU._replace(normalizes=True)
"""the CPU, given bytes as a GPU is"""

AppClient = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def examples() -> list[Path]:
    """The twelve example photos; a file's name says what is on it."""
    return sorted((BUNDLED / "examples").glob("*.jpg"))


@pytest.fixture(scope="session")
def owl() -> bytes:
    return (BUNDLED / "examples" / "owl.jpg").read_bytes()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT of 4 blocks and 16 patches that knows 10 classes, saved as timm saves models."""
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, num_classes=10, embed_dim=32, depth=4, num_heads=4
    )
    folder = tmp_path_factory.mktemp("models") / "tiny"
    timm.models.save_for_hf(
        model,
        folder,
        model_config={
            "model_args": {"img_size": 64, "embed_dim": 32, "depth": 4, "num_heads": 4},
            "pretrained_cfg": {"input_size": (3, 64, 64), "num_classes": 10},
            "label_names": [f"thing {index}" for index in range(10)],
        },
        safe_serialization=True,
    )
    return folder


@pytest.fixture
def app_client(tiny_model: Path) -> AppClient:
    """The whole app, in this process; its arguments are settings."""

    @asynccontextmanager
    async def start(**settings: object) -> AsyncIterator[httpx.AsyncClient]:
        app = create_app(Settings(**{"models": (str(tiny_model),), "num_threads": 1, **settings}))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as client,
        ):
            async with asyncio.timeout(READY_WITHIN_S):
                while (await client.get("/readyz")).status_code != 200:  # noqa: ASYNC110 - as a client
                    await asyncio.sleep(0.01)
            yield client

    return start


@pytest.fixture
def normalizing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The app's pictures come as bytes to what computes, as on a GPU."""
    monkeypatch.setattr(service.runtime.build, "choose", lambda *_: NORMALIZING)


class Server:
    """The real server, as a process of its own."""

    def __init__(self, *, stderr: int = subprocess.STDOUT, **environment: str) -> None:
        """Start it on a free port of this machine; `stderr` is a descriptor for its log."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        # Not a pipe: nobody reads it while the server runs, and once it is full, logging waits.
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        clean = {name: value for name, value in os.environ.items() if name[:6] != "RAPID_"}
        ours = {"RAPID_PORT": str(port), "RAPID_PROBE_INTERVAL_S": "0"}  # no work but the test's
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service"],
            env={**clean, **ours, **environment},
            stdout=self._output,
            stderr=stderr,
        )

    def wait(self) -> tuple[int, str]:
        """Wait for its end; returns its exit status and all that it printed."""
        self.process.wait(timeout=READY_WITHIN_S)
        with self._output:
            self._output.seek(0)
            return self.process.returncode, self._output.read()

    def wait_until_ready(self) -> None:
        """Raise with the server's output if it is not ready in time."""
        end = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if httpx.get(f"{self.url}/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass  # it does not listen yet
            time.sleep(0.1)
        self.process.kill()
        raise AssertionError(f"not ready within {READY_WITHIN_S} s: {self.wait()[1]}")

    def stop(self) -> tuple[int, str]:
        """Ask it to end; returns its exit status and all that it printed."""
        self.process.terminate()
        return self.wait()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The real server with the bundled model, and no setting but to leave out the probe."""
    server = Server()
    server.wait_until_ready()
    yield server
    server.stop()
