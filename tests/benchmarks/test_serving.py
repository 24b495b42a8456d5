"""The comparison with other servers: its plan, its client against a known server, its report."""

import asyncio
import itertools
import json
import math
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from benchmarks import serving, serving_client, serving_plan, serving_report
from benchmarks.load import Image
from benchmarks.load_report import OK, SHED, Outcome
from benchmarks.peers import servers, venvs
from benchmarks.peers.servers import Body, Target
from benchmarks.peers.venvs import PEERS
from benchmarks.serving_client import Ask, Sample
from benchmarks.serving_plan import DENSE, FULL_LOAD, MIXED, OURS, Load
from benchmarks.serving_rounds import PeerUnavailableError, Record, Run, check
from service.tiers import TIERS

PICTURE = Image("owl.jpg", b"jpeg", "image/jpeg")


def record(  # noqa: PLR0913 - a row of a table
    round_number: int,
    server: str,
    entry: str,
    per_s: int,
    *,
    load: str = FULL_LOAD,
    latency_s: float = 0.1,
    others: float = 0.0,
    overheads_ms: tuple[float, ...] = (),
) -> Record:
    """So many answers in one second, each after the same time."""
    outcomes = [Outcome(entry, 1 - latency_s, 1.0, OK)] * per_s
    sample = Sample(outcomes, 1.0, 0.25, 1.0, overheads_ms)
    return Record(round_number, server, entry, Load(load), None, sample, others)


def limit(ms: float) -> dict[str, Any]:
    """A round's limits: every variant takes that time per image, decoding a tenth of it."""
    forward_ms = {name: {"1": ms, "8": 8 * ms} for name in (DENSE, *TIERS)}
    return {"decode_ms": ms / 10, "forward_ms": forward_ms, "answers": []}


def run_of(*records: Record, limits: tuple[dict[str, Any], ...] = ()) -> Run:
    return Run(list(records), list(limits), {OURS: [{"rss": 700.0, "pss": 600.0}]}, {})


def test_the_capacity_is_measured_before_the_loads_that_need_it() -> None:
    for server in (OURS, "mosec"):
        steps = serving_plan.steps(server, quick=False)
        assert len(set(steps)) == len(steps)
        known = set()
        for entry, load in steps:
            if load.name == FULL_LOAD:
                known.add(entry)
            assert load.fraction is None or entry in known


def test_every_tier_and_the_mix_meet_the_full_load() -> None:
    full = [step.entry for step in serving_plan.steps(OURS, quick=False) if step.load.num_clients]
    assert {*full} == {*TIERS, MIXED}
    peer = serving_plan.steps("mosec", quick=False)
    assert [(step.entry, step.load.name) for step in peer] == [
        (DENSE, name) for name in (FULL_LOAD, "1 client", "4 clients", "50%", "80%", "150%")
    ]


def test_the_quick_run_has_no_open_loop_and_still_all_that_targets_need() -> None:
    steps = serving_plan.steps(OURS, quick=True)
    assert all(step.load.fraction is None for step in steps)
    assert {step.entry for step in steps} == set(serving_report.OVER_BEST_PEER)
    assert ("exact", "1 client") in [(step.entry, step.load.name) for step in steps]


def test_only_this_service_is_told_of_tiers_and_deadlines() -> None:
    assert serving_plan.queries("mosec", DENSE, 1000) == {DENSE: {}}
    assert serving_plan.queries(OURS, "turbo", None) == {"turbo": {"tier": "turbo"}}
    assert serving_plan.queries(OURS, "turbo", 1000.0)["turbo"]["deadline_ms"] == "1000"
    assert list(serving_plan.queries(OURS, MIXED, None)) == list(TIERS)


def test_in_several_rounds_nobody_is_always_first_or_last() -> None:
    orders = [serving_plan.in_turn("abcd", number) for number in range(8)]
    assert all(sorted(order) == list("abcd") for order in orders)
    assert Counter(order[0] for order in orders) == dict.fromkeys("abcd", 2)
    assert orders[1] == orders[0][::-1]


def test_requests_take_pictures_in_turn_and_entries_equally_often() -> None:
    queries = {"exact": {"tier": "exact"}, "fast": {"tier": "fast"}}
    asked = list(itertools.islice(serving_client.asks(queries, 3, seed=1), 12))
    assert [ask.picture for ask in asked] == [0, 1, 2] * 4
    assert Counter(ask.entry for ask in asked) == {"exact": 6, "fast": 6}
    assert all(ask.query == queries[ask.entry] for ask in asked)
    assert asked == list(itertools.islice(serving_client.asks(queries, 3, seed=1), 12))


def test_a_picture_is_the_body_or_the_one_file_of_a_form() -> None:
    assert servers.body_of(PICTURE, None) == Body(b"jpeg", {"Content-Type": "image/jpeg"})
    form = servers.body_of(PICTURE, "images")
    boundary = form.headers["Content-Type"].partition("boundary=")[2].encode()
    head, content = form.content.split(b"\r\n\r\n", 1)
    assert b'name="images"; filename="owl.jpg"' in head
    assert content == b"jpeg\r\n--" + boundary + b"--\r\n"


class Peer:
    """Answers like a peer, after some time; every `shed_every`th request with 429."""

    def __init__(self, *, latency_s: float = 0.0, shed_every: float = math.inf) -> None:
        """Nothing asked yet."""
        self.latency_s, self.shed_every = latency_s, shed_every
        self.bodies: list[bytes] = []
        self.queries: list[dict[str, str]] = []
        self.inside = self.most_inside = 0

    async def answer(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.read())
        self.queries.append(dict(request.query))
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        await asyncio.sleep(self.latency_s)
        self.inside -= 1
        shed = len(self.bodies) % self.shed_every == 0
        best = {"label": "owl", "index": 203, "probability": 0.9}
        return web.json_response({"predictions": [best]}, status=429 if shed else 200)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Target]:
        """On a free port of this machine."""
        app = web.Application()
        app.router.add_post("/predict", self.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            bodies = [Body(name, {"Content-Type": "image/jpeg"}) for name in (b"a", b"b")]
            yield Target(f"http://{host}:{port}/predict", bodies, 0)
        finally:
            await runner.cleanup()


def test_a_closed_loop_sends_every_request_once_with_so_many_at_a_time() -> None:
    peer = Peer(latency_s=0.01, shed_every=5)

    async def drive() -> Sample:
        async with peer.running() as target:
            requests = [Ask(number % 2, "exact", {"tier": "exact"}) for number in range(20)]
            return await serving_client.closed_loop(target, requests, 4)

    sample = asyncio.run(drive())
    assert Counter(peer.bodies) == {b"a": 10, b"b": 10}
    assert peer.queries == [{"tier": "exact"}] * 20
    assert peer.most_inside == 4
    assert Counter(outcome.kind for outcome in sample.outcomes) == {OK: 16, SHED: 4}
    assert sample.seconds >= 5 * 0.01
    assert all(outcome.latency_ms >= 10 for outcome in sample.outcomes)
    assert max(outcome.done_s for outcome in sample.outcomes) <= sample.seconds


def test_an_open_loop_does_not_wait_for_answers_and_counts_from_when_they_were_due() -> None:
    peer = Peer(latency_s=0.3)

    async def drive() -> Sample:
        async with peer.running() as target:
            requests = serving_client.asks({DENSE: {}}, 2, seed=0)
            return await serving_client.open_loop(
                target, requests, rate=100, duration_s=0.2, seed=0
            )

    sample = asyncio.run(drive())
    assert peer.most_inside == len(sample.outcomes) == len(peer.bodies) > 5
    assert sample.seconds == 0.2
    assert sample.elapsed_s >= 0.3
    assert all(0 <= outcome.due_s < 0.2 for outcome in sample.outcomes)
    assert all(outcome.latency_ms >= 300 for outcome in sample.outcomes)


def test_a_server_that_is_gone_gives_errors_and_no_exception() -> None:
    async def drive() -> Sample:
        async with Peer().running() as target:
            pass
        return await serving_client.closed_loop(target, [Ask(0, DENSE, {})] * 3, 2)

    kinds = [outcome.kind for outcome in asyncio.run(drive()).outcomes]
    assert kinds == ["error ClientConnectorError"] * 3


def test_a_server_that_answers_something_else_is_not_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def answers(_: Target, __: dict[str, str]) -> list[dict[str, Any]]:
        return [{"index": 203, "probability": 0.9}]

    monkeypatch.setattr(serving_client, "answers", answers)
    target = Target("", [], 0)
    check("mosec", target, [{"index": 203, "probability": 0.9000001}])
    with pytest.raises(PeerUnavailableError, match="mosec answers picture 0 with"):
        check("mosec", target, [{"index": 202, "probability": 0.9}])
    with pytest.raises(PeerUnavailableError, match="mosec answers picture 0 with"):
        check("mosec", target, [{"index": 203, "probability": 0.8}])


def test_the_best_label_of_each_picture_is_read() -> None:
    async def ask(peer: Peer) -> list[dict[str, Any]]:
        async with peer.running() as target:
            return await serving_client.answers(target, {})

    assert asyncio.run(ask(Peer())) == [{"index": 203, "probability": 0.9}] * 2
    with pytest.raises(ValueError, match="shed"):
        asyncio.run(ask(Peer(shed_every=2)))


def test_ratios_are_medians_of_the_rounds_ratios_to_the_best_peer() -> None:
    records = [
        *(record(number, OURS, "exact", [30, 20, 60][number]) for number in range(3)),
        *(record(number, "mosec", DENSE, [20, 10, 20][number]) for number in range(3)),
        *(record(number, "BentoML", DENSE, 10) for number in range(3)),
    ]
    found = serving_report.build(run_of(*records), 1000)
    assert found["best_peer"] == "mosec"
    assert found["ratios"]["exact"]["throughput"] == 2  # of 1.5, 2 and 3
    assert found["ratios"]["turbo"]["throughput"] is None
    rows = {row["server"]: row for row in found["rows"]}
    assert rows[OURS]["per_s"] == 30
    assert rows[OURS]["requests"] == 110
    assert rows[OURS]["goodput"] == 1
    assert rows[OURS]["client_cpu_share"] == 0.25


def test_p99_is_of_all_rounds_requests_together() -> None:
    records = [
        record(0, OURS, "exact", 60, latency_s=0.2),
        record(1, OURS, "exact", 60, latency_s=0.3),
        record(0, "mosec", DENSE, 100, latency_s=0.6),
        record(0, "LitServe", DENSE, 100, latency_s=0.25),
        record(1, "LitServe", DENSE, 50, latency_s=0.25),
    ]
    ratios = serving_report.build(run_of(*records), 250)["ratios"]["exact"]
    assert ratios["p99"] == pytest.approx(0.3 / 0.6)
    assert ratios["p99_over_lowest"] == pytest.approx(0.3 / 0.25)


def test_a_ratio_takes_only_rounds_that_both_have() -> None:
    assert serving_report.median_ratio({0: 10.0, 1: 90.0, 2: 30.0}, {0: 5.0, 2: 10.0}) == 2.5
    assert serving_report.median_ratio({0: 1.0}, {0: 0.0}) is None
    assert serving_report.median_ratio({}, {0: 1.0}) is None


def test_the_limits_are_those_of_the_same_round() -> None:
    records = [
        record(0, OURS, "exact", 95),
        record(1, OURS, "exact", 40),
    ]
    found = serving_report.build(run_of(*records, limits=(limit(10.0), limit(20.0))), 1000)
    assert found["over_bare_model"]["exact"] == pytest.approx((0.95 + 0.8) / 2)


def test_the_overhead_is_the_median_of_the_rounds_medians() -> None:
    records = [
        record(0, OURS, "exact", 9, load="1 client", overheads_ms=(1.0, 2.0, 9.0)),
        record(1, OURS, "exact", 9, load="1 client", overheads_ms=(5.0,)),
        record(2, OURS, "exact", 9, load="1 client"),
    ]
    assert serving_report.build(run_of(*records), 1000)["overhead_ms"] == pytest.approx(3.5)


def test_one_clients_overhead_is_what_its_answers_do_not_name() -> None:
    body = json.dumps({"timing_ms": {"decode": 3.0, "inference": 40.0, "total": 44.0}}).encode()
    client = serving_client.Client(None, None)  # type: ignore[arg-type]
    client.outcomes = [Outcome("exact", 0.0, 0.05, OK), Outcome("exact", 0.0, 0.05, "shed")]
    client.bodies = [body, b"busy"]
    assert serving_client.overheads_ms(client) == pytest.approx([7.0])
    client.outcomes, client.bodies = client.outcomes[:1], [b'[{"label": "a peer"}]']
    assert serving_client.overheads_ms(client) == []


def test_mixed_tiers_are_compared_with_the_same_requests_one_tier_after_the_other() -> None:
    speeds = dict(zip(TIERS, (10, 20, 20, 40, 40, 40), strict=True))
    records = [record(0, OURS, tier, speed) for tier, speed in speeds.items()]
    expected = 6 / (1 / 10 + 2 / 20 + 3 / 40)
    run = run_of(*records, record(0, OURS, MIXED, 18))
    assert serving_report.mixed_over_expected(run) == pytest.approx(18 / expected, abs=1e-3)
    assert serving_report.mixed_over_expected(run_of(*records[1:])) is None


def test_targets_say_what_was_met_missed_and_not_measured() -> None:
    records = [
        record(0, OURS, "exact", 120),
        record(0, OURS, "turbo", 220),
        record(0, "mosec", DENSE, 100, latency_s=0.2),
    ]
    found = serving_report.build(run_of(*records, limits=(limit(8.0),)), 1000)
    met = {target["name"]: target["met"] for target in found["targets"]}
    assert met["exact: throughput over mosec"] is True
    assert met["turbo: throughput over mosec"] is False
    assert met["balanced: throughput over mosec"] is None
    assert met["exact: p99 over mosec"] is True
    assert met["resident memory, MiB"] is True
    text = serving_report.text({**found, "unavailable": {"BentoML": "cannot be installed"}})
    assert "MISSED" in text
    assert "BentoML: cannot be installed" in text
    assert "WARNING" not in text


def test_a_busy_machine_is_said_plainly() -> None:
    found = serving_report.build(run_of(record(0, OURS, "exact", 10, others=0.5)), 1000)
    assert "WARNING: something else took up to 50% of a core" in serving_report.text(found)


def test_a_run_without_any_peer_still_reports(tmp_path: Path) -> None:
    file = tmp_path / "serving.png"
    found = serving_report.build(run_of(record(0, OURS, "exact", 10)), 1000)
    serving.serving_plot.draw(found, file, "deit")
    assert found["best_peer"] is None
    assert file.read_bytes().startswith(b"\x89PNG")
    assert json.loads(json.dumps(found))["ratios"] == {}
    assert serving_report.text(serving_report.build(Run([], [], {}, {}), 1000))


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


def test_the_command_line_has_sensible_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert serving.parse([]).rounds == 5
    assert serving.parse(["--quick"]).rounds == 2
    chosen = serving.parse(["--peers", "mosec", "--workers", "1", "2"])
    assert [peer.name for peer in serving.wanted(chosen)] == ["mosec"]
    found = serving.all_servers(chosen, {"mosec": Path("python")}, "model")
    ours = [OURS, *serving_plan.VARIANTS]
    assert [server.name for server in found] == [*ours, "mosec", "mosec, 2 workers"]
    for wrong in (["--peers", "triton"], ["--rounds", "0"], ["--out", "nowhere/a.json"]):
        with pytest.raises(SystemExit, match="2"):
            serving.parse(wrong)
    assert "there is no folder nowhere" in capsys.readouterr().err


def test_a_peer_that_cannot_be_installed_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(venvs.sys, "executable", "/nowhere/python")
    run = Run([], [], {}, {})
    assert serving.installed(serving.parse(["--venvs", str(tmp_path)]), run) == {}
    assert list(run.unavailable) == [peer.name for peer in PEERS]
    assert all("cannot be installed" in reason for reason in run.unavailable.values())


FAMILY = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", child])
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
