"""The peers: what they are sent, what they are made of, and how they are ended."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from benchmarks.serving.peers import classifier, servers, venvs
from benchmarks.serving.peers.servers import Body
from benchmarks.serving.peers.venvs import PEERS
from service.load.request import Image

PICTURE = Image("owl.jpg", b"jpeg", "image/jpeg")


def test_a_picture_is_the_body_or_the_one_file_of_a_form() -> None:
    assert servers.body_of(PICTURE, None) == Body(b"jpeg", {"Content-Type": "image/jpeg"})
    form = servers.body_of(PICTURE, "images")
    boundary = form.headers["Content-Type"].partition("boundary=")[2].encode()
    head, content = form.content.split(b"\r\n\r\n", 1)
    assert b'name="images"; filename="owl.jpg"' in head
    assert content == b"jpeg\r\n--" + boundary + b"--\r\n"


def test_every_peer_has_an_app_and_exact_requirements() -> None:
    constraints = (servers.ROOT / "constraints.txt").read_text().splitlines()
    for peer in PEERS:
        folder = venvs.FOLDER / peer.folder
        assert len((folder / "app.py").read_text().splitlines()) <= 60
        lines = (folder / "requirements.txt").read_text().splitlines()
        assert all("==" in line for line in lines)
        names = [line.partition("==")[0].lower() for line in lines]
        assert peer.package in names
        for name in ("torch", "torchvision", "timm", "pillow"):
            assert lines[names.index(name)] in constraints, f"{peer.name}: {name}"


FAMILY = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", child])
while time.process_time() < 0.1:  # enough for clocks that count in hundredths of a second
    pass
print("ready", flush=True)
time.sleep(60)
"""


def test_a_server_is_ended_with_all_that_it_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "STOP_WITHIN_S", 0.5)
    process = subprocess.Popen(
        [sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()
    family = servers.processes(process.pid)
    assert len(family) == 2
    assert servers.memory_mib(process.pid)["rss"] > 1
    assert servers.cpu_s(process.pid) > 0
    impatient = threading.Timer(0.2, signal.raise_signal, [signal.SIGINT])
    impatient.start()
    started = time.monotonic()
    servers.end(process)
    impatient.join()
    assert time.monotonic() - started < 30
    assert not any(map(servers.works, family))
    assert process.returncode is not None


def test_a_peer_computes_in_bfloat16_where_it_is_asked_to(
    tiny_model: Path, owl: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEER_MODEL", str(tiny_model))
    monkeypatch.setattr(classifier, "DTYPE", torch.bfloat16)
    found = classifier.Classifier()
    with found.threads:
        (answer,) = found.predict(found.decode_all([owl]))
    assert {parameter.dtype for parameter in found.module.parameters()} == {torch.bfloat16}
    assert len(answer["predictions"]) == classifier.TOP_K


def test_every_peer_answers_with_the_labels_of_the_model(
    tiny_model: Path, owl: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEER_MODEL", str(tiny_model))
    found = classifier.Classifier()
    with found.threads:
        (answer,) = found.predict(found.decode_all([owl]))
    labels = answer["predictions"]
    assert len(labels) == classifier.TOP_K
    assert labels[0]["label"] == f"thing {labels[0]['index']}"
    assert labels[0]["probability"] >= labels[1]["probability"] > 0
    assert json.loads(json.dumps(answer)) == answer
