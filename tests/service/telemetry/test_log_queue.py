"""A log that nobody reads, that cannot be written, or that one picture floods."""

import contextlib
import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.telemetry import log_queue, logs
from service.telemetry.log_queue import LineQueue, QueuedText
from tests.conftest import Server
from tests.service.api.test_disconnects import JPEG, eventually

LINE = b"x" * 999 + b"\n"


class Pipe:
    """A pipe whose reader decides when it reads."""

    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe()

    def fill(self) -> None:
        """Leave no room for a further line."""
        os.set_blocking(self.write_fd, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(self.write_fd, LINE)
        os.set_blocking(self.write_fd, True)

    def read_all(self) -> list[bytes]:
        """All lines until the other end is closed."""
        with open(self.read_fd, "rb") as file:  # noqa: PTH123 - a descriptor has no path
            return file.read().splitlines(keepends=True)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for ten lines only."""
    monkeypatch.setattr(log_queue, "MAX_WAITING_BYTES", 10 * len(LINE))


def report(num_missing: int) -> bytes:
    return b"missing %d\n" % num_missing


def put_until_some_are_dropped(lines: LineQueue) -> int:
    """Put numbered lines; returns how many."""
    number = 0
    while lines.num_dropped < 5:
        lines.put(b"%05d" % number + LINE[5:])
        number += 1
    return number


@pytest.mark.usefixtures("small")
def test_lines_that_nobody_reads_are_dropped_and_reported_at_their_place() -> None:
    pipe = Pipe()
    pipe.fill()
    lines = LineQueue(pipe.write_fd, report)
    num_put = put_until_some_are_dropped(lines)
    assert not lines.flush(0.01)
    reader = threading.Thread(target=lambda: read.extend(pipe.read_all()))
    read: list[bytes] = []
    reader.start()
    assert lines.flush(60)
    lines.put(b"later\n")
    assert lines.flush(60)
    os.close(pipe.write_fd)
    reader.join()
    *written, missing, later = (line for line in read if line != LINE)
    assert [int(line[:5]) for line in written] == list(range(num_put - 5))
    assert (missing, later) == (b"missing 5\n", b"later\n")
    assert lines.num_dropped == 5


@pytest.mark.usefixtures("small")
def test_a_line_that_is_larger_than_all_room_is_dropped() -> None:
    pipe = Pipe()
    lines = LineQueue(pipe.write_fd, report)
    for line in (b"before\n", 11 * LINE, b"after\n"):
        lines.put(line)
        assert lines.flush(60)
    os.close(pipe.write_fd)
    assert pipe.read_all() == [b"before\n", b"missing 1\n", b"after\n"]


def test_a_pipe_that_others_have_made_non_blocking_loses_nothing() -> None:
    pipe = Pipe()
    os.set_blocking(pipe.write_fd, False)
    lines = LineQueue(pipe.write_fd, report)
    for _ in range(200):
        lines.put(LINE)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.extend(pipe.read_all()))
    reader.start()
    assert lines.flush(60)
    os.close(pipe.write_fd)
    reader.join()
    assert (read, lines.num_dropped) == ([LINE] * 200, 0)


@pytest.mark.parametrize("reader", ["gone", "full"])
def test_lines_that_cannot_be_written_are_counted_and_reported_when_they_can(
    tmp_path: Path, reader: str
) -> None:
    pipe = Pipe()
    os.close(pipe.read_fd)
    full = os.open("/dev/full", os.O_WRONLY) if reader == "full" else pipe.write_fd
    lines = LineQueue(full, report)
    for _ in range(3):
        lines.put(LINE)
    assert lines.flush(60)
    assert lines.num_dropped == 3
    file = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(file, full)  # there is room again
    lines.put(b"later\n")
    assert lines.flush(60)
    assert (tmp_path / "log").read_bytes() == b"missing 3\nlater\n"
    assert lines.num_dropped == 3


def test_without_a_standard_error_all_lines_are_dropped() -> None:
    lines = LineQueue(None, report)
    lines.put(LINE)
    assert lines.flush(60)
    assert lines.num_dropped == 1


def test_text_becomes_lines_once_they_are_complete(tmp_path: Path) -> None:
    file = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    lines = LineQueue(file, report)
    text = QueuedText(lines, file)
    print("one\ntwo", end="", file=text)
    print("\udc80", file=text)
    print("not yet", end="", file=text)
    assert lines.flush(60)
    assert (tmp_path / "log").read_text() == "one\ntwo\\udc80\n"
    assert (text.fileno(), text.isatty(), text.writable()) == (file, False, True)


# the handler


@contextmanager
def configured(monkeypatch: pytest.MonkeyPatch, file: IO[bytes]) -> Iterator[logs.QueueHandler]:
    """The log of this process goes to a file."""
    root = logging.getLogger()
    before = root.handlers[:]
    monkeypatch.setattr(sys, "__stderr__", file)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    root.handlers.clear()
    try:
        logs.configure("info")
        logs.take_over_stderr()
        (handler,) = root.handlers
        assert isinstance(handler, logs.QueueHandler)
        yield handler
    finally:
        root.handlers[:] = before


def events(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_flood_from_one_place_of_a_library_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    library = logging.getLogger("PIL.TiffImagePlugin")
    with (tmp_path / "log").open("wb") as file, configured(monkeypatch, file) as handler:
        for number in range(1000):
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                warnings.warn(f"corrupt EXIF data {number}", UserWarning, stacklevel=1)
            library.warning("a tag of %d bytes", number)
        logging.getLogger("service.x").info("one")
        logging.getLogger("service.x").info("two")
        handler.flush()
    found = events(tmp_path / "log")
    assert [event["logger"] for event in found] == ["py.warnings", library.name, *["service.x"] * 2]
    assert "UserWarning: corrupt EXIF data 0" in str(found[0]["event"])
    assert found[1]["event"] == "a tag of 0 bytes"
    assert logs.num_dropped() == 0


def test_a_place_that_was_silent_says_how_many_lines_it_left_out() -> None:
    now = 0.0
    repeats = logs.Repeats(lambda: now)
    record = logging.LogRecord("PIL.x", logging.WARNING, "x.py", 7, "again", (), None)
    assert [repeats(record) for _ in range(3)] == [True, False, False]
    now = logs.PAUSE_S
    assert repeats(record)
    assert vars(record)["num_left_out"] == 2


def test_a_record_that_cannot_be_formatted_is_replaced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with (tmp_path / "log").open("wb") as file, configured(monkeypatch, file) as handler:
        logging.getLogger("careless").warning("%d", "no number")
        handler.flush()
    (event,) = events(tmp_path / "log")
    assert (event["logger"], event["level"]) == ("careless", "WARNING")


def test_libraries_with_handlers_of_their_own_write_no_line_beside_the_queue(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    library = logging.getLogger("library")
    library.addHandler(logging.StreamHandler(sys.stderr))
    library.propagate = False
    with (tmp_path / "log").open("wb") as file, configured(monkeypatch, file) as handler:
        library.warning("hello")
        sys.stderr.write("printed\n")
        handler.flush()
    event, printed = (tmp_path / "log").read_text().splitlines()
    assert json.loads(event)["event"] == "hello"
    assert printed == "printed"


# the process


def counted(server: Server) -> float:
    """Lines that it has dropped."""
    (value,) = (
        sample.value
        for family in text_string_to_metric_families(httpx.get(f"{server.url}/metrics").text)
        for sample in family.samples
        if sample.name == "rapid_log_lines_dropped_total"
    )
    return value


@pytest.mark.e2e
@pytest.mark.slow
def test_a_service_whose_log_nobody_reads_serves_on_and_ends(tiny_model: Path, owl: bytes) -> None:
    pipe = Pipe()
    server = Server(stderr=pipe.write_fd, RAPID_MODELS=str(tiny_model), RAPID_DRAIN_DELAY_S="0")
    os.close(pipe.write_fd)
    server.wait_until_ready()
    long_id = {"x-request-id": "x" * 128}
    with httpx.Client(base_url=server.url, headers=long_id) as client:

        def is_dropping() -> bool:
            for _ in range(100):
                assert client.post("/v1/classify?r=-1", content=owl).status_code == 422
            return counted(server) > 0

        eventually(is_dropping)
        read = os.read(pipe.read_fd, 2**16)  # the reader wakes up, and dozes off again
        assert client.post("/v1/classify", content=owl).status_code == 200
    status, _ = server.stop()
    assert status == 0
    rest = b"".join(pipe.read_all())
    lines = (read + rest).splitlines()
    assert all(json.loads(line) for line in lines[:-1])  # the last one may be cut off


@pytest.mark.e2e
@pytest.mark.slow
def test_a_service_whose_log_has_lost_its_reader_serves_on_and_ends(
    tiny_model: Path, owl: bytes
) -> None:
    pipe = Pipe()
    server = Server(stderr=pipe.write_fd, RAPID_MODELS=str(tiny_model), RAPID_DRAIN_DELAY_S="0")
    os.close(pipe.read_fd)
    server.wait_until_ready()
    before = counted(server)
    answers = [httpx.post(f"{server.url}/v1/classify", content=owl, headers=JPEG) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    eventually(lambda: counted(server) >= before + 3)
    status, output = server.stop()
    assert (status, output) == (0, "")
