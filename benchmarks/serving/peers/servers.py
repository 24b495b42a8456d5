"""The servers as processes: start, ready, memory, end. Only what was started here is ended."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil

from benchmarks.measure.running import READY_WITHIN_S, running
from benchmarks.serving.peers.venvs import FOLDER, Peer, PeerUnavailableError
from service.load.request import Image

ROOT = Path(__file__).parents[3]
STOP_WITHIN_S = 10
KILLED_WITHIN_S = 10
OUR_PATH = "/v1/classify"
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "BENTOML_DO_NOT_TRACK": "True"}
BOUNDARY = "rapid-vit-benchmark"


class Body(NamedTuple):
    """A picture as one server takes it."""

    content: bytes
    headers: dict[str, str]


class Target(NamedTuple):
    """A server that is ready, and what to send there."""

    url: str
    bodies: list[Body]
    pid: int


class PeerSetup(NamedTuple):
    """How a peer computes."""

    workers: int
    """copies of the model, which share the cores"""
    precision: str
    """float32 or bfloat16"""


@contextmanager
def our_service(model: str, pictures: Sequence[Image], **settings: str) -> Iterator[Target]:
    """This project's service on the CPU, else as it is set by default or by `settings`."""
    with running(RAPID_MODELS=model, RAPID_DEVICE="cpu", **settings) as service:
        bodies = [body_of(picture, None) for picture in pictures]
        yield Target(service.url + OUR_PATH, bodies, service.pid)


@contextmanager
def peer_server(
    peer: Peer, python: Path, model: str, setup: PeerSetup, pictures: Sequence[Image]
) -> Iterator[Target]:
    """A peer with so many copies of the model.

    Raises:
        PeerUnavailableError: it ended, or was not ready in time.
    """
    port = _free_port()
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    num_threads = str(max(1, num_cores // setup.workers))
    environment = {
        **{name: text for name, text in os.environ.items() if name != "PIP_CONSTRAINT"},
        **QUIET,
        "PYTHONPATH": str(ROOT),
        "PEER_MODEL": model,
        "PEER_PORT": str(port),
        "PEER_WORKERS": str(setup.workers),
        "PEER_PRECISION": setup.precision,
        "PEER_THREADS": num_threads,
        "OMP_NUM_THREADS": num_threads,
        "MOSEC_ADDRESS": "127.0.0.1",
        "MOSEC_PORT": str(port),
        "MOSEC_TIMEOUT": "60000",
    }
    process = subprocess.Popen(
        [str(python), "app.py"],
        cwd=FOLDER / peer.folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        bodies = [body_of(picture, peer.form_field) for picture in pictures]
        target = Target(f"http://127.0.0.1:{port}{peer.path}", bodies, process.pid)
        _wait_until_ready(peer, target, process)
        yield target
    finally:
        end(process)


def body_of(picture: Image, form_field: str | None) -> Body:
    """The picture as it is, or in a form with one file."""
    if form_field is None:
        return Body(picture.content, {"Content-Type": picture.media_type})
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{form_field}"; '
        f'filename="{picture.name}"\r\nContent-Type: {picture.media_type}\r\n\r\n'
    )
    content = head.encode() + picture.content + f"\r\n--{BOUNDARY}--\r\n".encode()
    return Body(content, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})


def processes(pid: int) -> list[psutil.Process]:
    """A process with its descendants, and whatever else is left in the session that it leads."""
    found = {}
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == pid:
                found[process.pid] = process
        except OSError:
            continue
    if psutil.pid_exists(pid):
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        found |= {process.pid: process for process in family}
    return list(found.values())


def memory_mib(pid: int) -> dict[str, float]:
    """Resident memory of the process and all that it started.

    Returns:
        `rss` adds up what each process has, and so counts shared pages several times; `pss`
        shares them out.
    """
    rss = pss = 0
    for process in processes(pid):
        try:
            rss += process.memory_info().rss
            pss += getattr(process.memory_full_info(), "pss", 0)
        except psutil.Error:
            continue
    return {"rss": round(rss / 2**20, 1), "pss": round(pss / 2**20, 1)}


def cpu_s(pid: int) -> float:
    """Seconds of work that the process and all that it started have done so far."""
    total = 0.0
    for process in processes(pid):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


def machine_cpu_s() -> float:
    """Seconds of work that all cores have done so far, for whomever."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    return float(sum(times) - idle - getattr(times, "guest", 0.0))  # guest is in user as well


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the process; later SIGKILL to all that it started and that is still there."""
    with _undisturbed():
        started = processes(process.pid)
        process.terminate()
        _wait_until_idle(process, started, STOP_WITHIN_S)
        left = [each for each in {*started, *processes(process.pid)} if works(each)]
        for each in left:
            each.kill()
        _wait_until_idle(process, left, KILLED_WITHIN_S)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """An impatient second Ctrl-C would leave processes behind."""
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(each, signal.SIG_IGN) for each in signals]
    try:
        yield
    finally:
        for each, handler in zip(signals, before, strict=True):
            signal.signal(each, handler)


def _wait_until_idle(
    process: subprocess.Popen[bytes], others: Sequence[psutil.Process], within_s: float
) -> None:
    patience_s = time.monotonic() + within_s
    while process.poll() is None or any(map(works, others)):
        if time.monotonic() > patience_s:
            return
        time.sleep(0.05)


def works(process: psutil.Process) -> bool:
    """Whether it still does something: not gone, and not a zombie that nobody has waited for."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def _wait_until_ready(peer: Peer, target: Target, process: subprocess.Popen[bytes]) -> None:
    end_s = time.monotonic() + READY_WITHIN_S
    body = target.bodies[0]
    while time.monotonic() < end_s:
        if process.poll() is not None:
            raise PeerUnavailableError(f"{peer.name} ended with status {process.returncode}")
        try:
            answer = httpx.post(
                target.url, content=body.content, headers=body.headers, timeout=READY_WITHIN_S
            )
        except httpx.TransportError:
            pass  # it does not listen yet
        else:
            if answer.status_code == 200:
                return
        time.sleep(0.2)
    raise PeerUnavailableError(f"{peer.name} was not ready within {READY_WITHIN_S} s")
