"""The command line, and what becomes of a peer that cannot be installed."""

from pathlib import Path

import pytest

from benchmarks.serving import command, plan
from benchmarks.serving.peers import venvs
from benchmarks.serving.peers.venvs import PEERS
from benchmarks.serving.plan import OURS, PRECISIONS, VARIANTS
from benchmarks.serving.rounds import Run


def test_the_command_line_has_sensible_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.parse([]).rounds == 5
    assert command.parse(["--quick"]).rounds == 2
    chosen = command.parse(["--peers", "mosec", "--workers", "1", "2"])
    assert [peer.name for peer in command.wanted(chosen)] == ["mosec"]
    found = command.all_servers(chosen, {"mosec": Path("python")}, "model")
    ours = [OURS, *VARIANTS]
    names = [plan.peer_name("mosec", each, n) for each in PRECISIONS for n in (1, 2)]
    assert names[:2] == ["mosec", "mosec, 2 workers"]
    assert [plan.precision_of(name) for name in names] == [
        *2 * PRECISIONS[:1],
        *2 * PRECISIONS[1:],
    ]
    assert [server.name for server in found] == [*ours, *names]
    for wrong in (["--peers", "triton"], ["--rounds", "0"], ["--out", "nowhere/a.json"]):
        with pytest.raises(SystemExit, match="2"):
            command.parse(wrong)
    assert "there is no folder nowhere" in capsys.readouterr().err


def test_a_peer_that_cannot_be_installed_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(venvs.sys, "executable", "/nowhere/python")
    run = Run([], [], {}, {})
    assert command.installed(command.parse(["--venvs", str(tmp_path)]), run) == {}
    assert list(run.unavailable) == [peer.name for peer in PEERS]
    assert all("cannot be installed" in reason for reason in run.unavailable.values())
