"""`rapid bench`: all of it against a server with a known pattern, and against the real one."""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
import typer.main

from service.cli.bench import bench
from service.load.outcomes import OK, SHED
from tests.conftest import Server
from tests.service.load.pattern_server import DROP, GARBLED, PatternServer

APP = typer.Typer()
APP.command()(bench)
COMMAND = typer.main.get_command(APP)


class Done(NamedTuple):
    """How the command has ended."""

    status: int
    report: dict[str, Any]


def run(*argv: str) -> int:
    """The exit status; a wrong command line raises."""
    return COMMAND.main([*argv], standalone_mode=False) or 0


def drive(server: PatternServer, out: Path, *argv: str) -> Done:
    """The whole command against this server."""
    with server.in_a_thread() as url:
        status = run(url, "--warmup", "0", "--out", str(out), *argv)
    return Done(status, json.loads(out.read_text()) if out.exists() else {})


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--rate", "1", "--concurrency", "1"], "a loop is either closed"),
        (["--rate", "0"], "'0' is not within 0.01 ... 10000"),
        (["--rate", "nan"], "'nan' is not within"),
        (["--concurrency", "1.5"], "'1.5' is not within 1 ... 1024"),
        (["--rate", "1", "--duration", "601"], "'601' is not within 0.1 ... 600"),
        (["--rate", "1", "--requests", "many"], "'many' is not within"),
        (["--rate", "1", "http://example.com"], "so that it can hurt nobody else"),
        (["--rate", "1", "--mix", "best"], "'best' is no entry"),
        (["--rate", "1", "--images", "nowhere"], "nowhere does not exist"),
        (["--rate", "1", "--images", __file__], "no image in"),
        (["--rate", "1", "--out", "nowhere/a.json"], "there is no folder 'nowhere'"),
        (["--min-tier", "best"], "'best' is not one of"),
        (["--deadline-ms", "0"], "'0' is not within 0.001 ... 600000"),
        (["--warmup", "61"], "'61' is not within 0 ... 60"),
        (["--max-outstanding", "0"], "'0' is not within 1 ... 16384"),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong(argv: list[str], message: str) -> None:
    with pytest.raises(typer.TyperException) as refused:
        run(*argv)
    assert message in refused.value.format_message()


def test_the_example_photos_are_sent_unless_others_are_named(
    examples: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").touch()
    (tmp_path / "b.png").write_bytes(b"png")
    out = tmp_path / "load.json"
    one = ["--concurrency", "1", "--requests", "20"]
    default = drive(PatternServer(200), out, *one)
    server = PatternServer(200)
    named = drive(server, out, *one, "--images", str(tmp_path), "--images", str(examples[0]))
    assert default.report["settings"]["images"] == [path.name for path in examples]
    assert named.report["settings"]["images"] == ["b.png", examples[0].name]
    assert server.media_types == {"image/png", "image/jpeg"}
    assert server.bodies == {b"png", examples[0].read_bytes()}


PATTERN = (200, 200, 429, 504, 200, 503, 307, DROP, GARBLED)
PATTERN_KINDS = {
    200: "ok",
    429: "shed",
    503: "unready",
    504: "deadline",
    307: "status 307",
    DROP: "error ServerDisconnectedError",
    GARBLED: "error UnreadableAnswer",
}
MIX = "exact,balanced=4,r:4=2,budget:150=2"


@pytest.mark.parametrize("loop", [["--concurrency", "3"], ["--rate", "400"]])
def test_the_report_counts_what_the_server_sent(
    loop: list[str], tmp_path: Path, examples: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    server = PatternServer(*PATTERN)
    argv = [*loop, "--requests", "90", "--mix", MIX, "--min-tier", "turbo"]
    status, report = drive(server, tmp_path / "load.json", *argv, "--deadline-ms", "60000")
    assert status == 0
    sent = {
        entry: {PATTERN_KINDS[status]: count for status, count in counts.items()}
        for entry, counts in server.sent.items()
    }
    assert {name: item["outcomes"] for name, item in report["entries"].items()} == sent
    totals = report["all"]
    assert totals["outcomes"] == {
        kind: 10 * PATTERN.count(status) for status, kind in PATTERN_KINDS.items()
    }
    assert totals["offered"] == len(server.queries) == 90
    assert report["entries"]["balanced"]["offered"] == pytest.approx(90 * 4 / 9, abs=10)
    assert totals["good"] == 30
    assert totals["goodput"] == pytest.approx(1 / 3, abs=1e-5)
    assert totals["shed_ratio"] == pytest.approx(1 / 9, abs=1e-5)
    assert totals["mean_batch_size"] == 3
    assert totals["mean_queue_ms"] == 1.5
    assert totals["mean_inference_ms"] == 20
    budget = report["entries"]["budget:150"]
    assert budget["answered_by"] == {"turbo": budget["outcomes"]["ok"]}
    assert budget["reasons"] == {"fits": budget["outcomes"]["ok"]}
    assert report["samples"]["status 307"] == "as planned"
    assert report["environment"]["commit"]
    for query in server.queries:
        assert query.pop("deadline_ms") == "60000.0"
        assert query.get("min_tier") == ("turbo" if "tier" in query else None)
    assert server.bodies <= {path.read_bytes() for path in examples}
    assert server.media_types == {"image/jpeg"}
    table = capsys.readouterr().out
    assert "offered" in table
    assert f"budget:150  turbo {budget['outcomes']['ok']}" in table


def test_without_a_rate_four_clients_send(tmp_path: Path) -> None:
    _, report = drive(PatternServer(200), tmp_path / "load.json", "--requests", "8")
    assert report["settings"]["loop"] == "closed"
    assert report["settings"]["concurrency"] == report["settings"]["max_outstanding"] == 4
    assert report["settings"]["rate"] is None


def test_without_an_answer_the_exit_status_is_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--concurrency", "2", "--requests", "6", "--mix", "budget:9"]
    status, report = drive(PatternServer(429), tmp_path / "load.json", *argv)
    assert status == 1
    assert report["all"]["outcomes"] == {SHED: 6}
    assert "a 429 came after p50" in capsys.readouterr().out


def test_an_answer_after_the_deadline_is_ok_and_not_good(tmp_path: Path) -> None:
    argv = ["--concurrency", "1", "--requests", "5", "--deadline-ms", "0.001"]
    status, report = drive(PatternServer(200), tmp_path / "load.json", *argv)
    assert status == 0
    assert report["all"]["outcomes"] == {OK: 5}
    assert report["all"]["good"] == report["all"]["goodput"] == report["all"]["goodput_per_s"] == 0


def test_ctrl_c_ends_the_load_and_reports_what_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = PatternServer(200)
    server.interrupt_at = server.hold_from = 5
    status, report = drive(server, tmp_path / "load.json", "--concurrency", "1")
    assert status == 0
    assert report["all"]["outcomes"] == {OK: 4}
    assert report["warnings"][-1] == "stopped by Ctrl-C; 1 requests in flight left out"
    assert "WARNING: stopped by Ctrl-C" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("server", "mix", "message"),
    [
        (PatternServer(200, ready=503), "fast", "is not ready: 503 still loading"),
        (PatternServer(200), "fast,r:8,r:9", "r:9: r of tiny is at most 8"),
    ],
)
def test_an_unfit_service_gets_no_load(
    server: PatternServer,
    mix: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    done = drive(server, tmp_path / "load.json", "--rate", "1", "--mix", mix)
    assert done == (1, {})
    assert message in capsys.readouterr().err
    assert server.queries == []


def test_no_service_is_said_plainly(capsys: pytest.CaptureFixture[str]) -> None:
    with PatternServer(200).in_a_thread() as url:
        pass
    assert run(url, "--rate", "1") == 1
    assert "nobody answers at http://127.0.0.1:" in capsys.readouterr().err


def test_without_aiohttp_one_line_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    assert run() == 2
    assert capsys.readouterr().err == "error: rapid bench needs aiohttp: pip install aiohttp\n"


@pytest.mark.e2e
def test_the_real_service_answers(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "load.json"
    argv = ["--mix", "extreme=2,budget:9000,r:2", "--requests", "16", "--warmup", "0"]
    assert run(server.url, *argv, "--deadline-ms", "60000", "--out", str(out)) == 0
    report = json.loads(out.read_text())
    assert report["all"]["outcomes"] == {OK: 16}
    assert report["model"] == "everyday-vit-s14"
    assert set(report["entries"]["extreme"]["answered_by"]) <= {"extreme"}
    assert report["all"]["mean_inference_ms"] > 0
