"""What several tests need: a small model in timm's folder format, the app, and the real server."""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import ClassVar

import httpx
import psutil
import pytest
import torch

import service.runtime.build
from service.api.app import create_app
from service.backends.placement import CPU
from service.models.timm_models import BUNDLED_MODELS, timm
from service.settings import Settings
from tests.waiting import PATIENCE_S, eventually, free_port, get

ROOT = Path(__file__).parents[1]
BUNDLED = BUNDLED_MODELS / "everyday-vit-s14"

PATIENT = {
    "RAPID_DEADLINE_MS": str(1000 * PATIENCE_S),
    "RAPID_BATCH_TIMEOUT_S": str(PATIENCE_S),
    "RAPID_RECEIVE_TIMEOUT_S": str(PATIENCE_S),
    "RAPID_DECODE_TIMEOUT_S": str(PATIENCE_S),
}
"""so that a machine that is busy with other things gets its answers, too"""
UNCACHED = {"RAPID_CACHE_DIR": "off"}
"""so that no test sees what an earlier run has measured"""
os.environ.update(UNCACHED)
NORMALIZING = CPU._replace(normalizes=True)
"""the CPU, given bytes as a GPU is"""

EXACT = {"RAPID_PRECISION": "float32"}
"""so that a service answers bit for bit as its references, and does not try other precisions first;
`tests/service/runtime/test_trial.py` lets it try"""
os.environ.setdefault("RAPID_PRECISION", EXACT["RAPID_PRECISION"])

LEFT = pytest.StashKey[list[str]]()
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
        ours = {"models": (str(tiny_model),), "num_threads": 1, "deadline_ms": 1000 * PATIENCE_S}
        app = create_app(Settings(**{**ours, "batch_timeout_s": PATIENCE_S, **settings}))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(
                transport=transport, base_url="http://test", timeout=PATIENCE_S
            ) as client,
        ):
            async with asyncio.timeout(PATIENCE_S):
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

    STARTED: ClassVar[list[subprocess.Popen[bytes]]] = []
    """all that were started, those of tests that failed before they ended them among them"""

    def __init__(self, *, stderr: int = subprocess.STDOUT, **environment: str) -> None:
        """Start it on a free port of this machine; `stderr` is a descriptor for its log."""
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        # Not a pipe: nobody reads it while the server runs, and once it is full, logging waits.
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        clean = {name: value for name, value in os.environ.items() if name[:6] != "RAPID_"}
        ours = {"RAPID_PORT": str(port), "RAPID_PROBE_INTERVAL_S": "0"}
        ours |= {**PATIENT, **UNCACHED, **EXACT}
        # A sitecustomize.py that a test puts on the path imports the code of this folder, too.
        path = os.pathsep.join([environment.pop("PYTHONPATH", ""), str(ROOT)]).lstrip(os.pathsep)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service"],
            env={**clean, **ours, **environment, "PYTHONPATH": path},
            stdout=self._output,
            stderr=stderr,
        )
        self.STARTED.append(self.process)

    def wait(self) -> tuple[int, str]:
        """Wait for its end; returns its exit status and all that it printed."""
        self.process.wait(timeout=PATIENCE_S)
        with self._output:
            self._output.seek(0)
            return self.process.returncode, self._output.read()

    def wait_until_ready(self) -> None:
        """Raise with the server's output if it ends before."""
        eventually(lambda: self.process.poll() is not None or self._is_ready(), pause_s=0.1)
        assert self.process.poll() is None, self.wait()[1]

    def _is_ready(self) -> bool:
        try:
            return get(f"{self.url}/readyz").status_code == 200
        except httpx.TransportError:
            return False  # it does not listen yet

    def stop(self) -> tuple[int, str]:
        """Ask it to end; returns its exit status and all that it printed."""
        self.process.terminate()
        return self.wait()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The real server with the bundled model and no settings but float32 and no probe."""
    server = Server()
    server.wait_until_ready()
    yield server
    server.stop()


@pytest.fixture(scope="session", autouse=True)
def no_server_goes_on() -> Iterator[None]:
    """End the servers of tests that failed before they did so."""
    yield
    for process in Server.STARTED:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that leaves processes behind."""
    if not session.config.pluginmanager.has_plugin("dsession"):  # whose children are its workers
        left = leftovers()
        session.config.stash[LEFT] = left
        if left and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left behind."""
    for name in terminalreporter.config.stash.get(LEFT, []):
        terminalreporter.write_line(f"LEFT BEHIND {name}", red=True)


def leftovers() -> list[str]:
    """The processes that this one has started and that still run."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            command = " ".join(process.cmdline())
            if "multiprocessing." not in command:  # its helpers end with this process
                found.append(f"process {process.pid}: {process.status()} {command}")
    return found
