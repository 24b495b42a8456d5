"""The load generator: its arithmetic by hand; all of it against a server with a known pattern."""

import asyncio
import itertools
import json
import signal
import statistics
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import load, load_report
from benchmarks.load_report import NOT_SENT, OK, SHED, Answer, Outcome, Window

FAST_ANSWER = Answer("fast", batch_size=2, queue_ms=1.5, inference_ms=20.0, reason="fits")


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("balanced", [("balanced", {"tier": "balanced"}, 1.0)]),
        (
            " exact = 1, turbo=0.5 ",
            [("exact", {"tier": "exact"}, 1.0), ("turbo", {"tier": "turbo"}, 0.5)],
        ),
        (
            "r:0,budget:12.5=3",
            [("r:0", {"r": "0"}, 1.0), ("budget:12.5", {"max_latency_ms": "12.5"}, 3.0)],
        ),
    ],
)
def test_a_mix_is_names_with_weights(
    text: str, entries: list[tuple[str, dict[str, str], float]]
) -> None:
    assert load.parse_mix(text) == entries


def test_the_lowest_tier_goes_with_tiers_only() -> None:
    queries = [entry.query for entry in load.parse_mix("exact,r:3,budget:9", "fast")]
    assert queries == [{"tier": "exact", "min_tier": "fast"}, {"r": "3"}, {"max_latency_ms": "9"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fastest", "'fastest' is no entry; allowed: exact, high"),
        ("", "'' is no entry"),
        ("exact,,fast", "'' is no entry"),
        ("exact=", "the weight of exact must be a number above 0, not ''"),
        ("exact=0", "the weight of exact must be a number above 0, not '0'"),
        ("exact=nan", "not 'nan'"),
        ("exact=inf", "not 'inf'"),
        ("exact=1=2", "not '1=2'"),
        ("exact,fast,exact=2", "exact is in the mix twice"),
        ("r:-1", "r:-1: r is a number of tokens"),
        ("r:1.5", "r:1.5: r is a number of tokens"),
        ("r", "'r' is no entry"),
        ("budget:soon", "budget:soon: the budget in ms must be a number above 0, not 'soon'"),
        ("budget:0", "above 0, not '0'"),
    ],
)
def test_a_wrong_mix_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load.parse_mix(text)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://127.9.9.9:1/", "http://127.9.9.9:1"),
        ("http://localhost:8000/docs?a=b", "http://localhost:8000"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_a_url_of_this_machine_is_accepted(text: str, url: str) -> None:
    assert str(load.parse_url(text)) == url


@pytest.mark.parametrize(
    "text",
    [
        "http://example.com",
        "http://127.0.0.1@example.com",
        "http://127.0.0.1.example.com",
        "http://localhost.example.com",
        "http://127.0.0.1\\@example.com",
        "http://0.0.0.0:8000",
        "http://10.0.0.1:8000",
        "http://2130706433:8000",
        "https://127.0.0.1",
        "127.0.0.1:8000",
        "",
    ],
)
def test_any_other_url_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not this machine|not a URL|Invalid URL"):
        load.parse_url(text)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "one of the arguments --concurrency --rate is required"),
        (["--rate", "1", "--concurrency", "1"], "not allowed with argument"),
        (["--rate", "0"], "'0' is not within 0.01 ... 10000"),
        (["--rate", "nan"], "'nan' is not within"),
        (["--concurrency", "1.5"], "'1.5' is not within 1 ... 1024"),
        (["--rate", "1", "--duration", "601"], "'601' is not within 0.1 ... 600"),
        (["--rate", "1", "--requests", "many"], "'many' is not within"),
        (["--rate", "1", "--url", "http://example.com"], "so that it can hurt nobody else"),
        (["--rate", "1", "--mix", "best"], "'best' is no entry"),
        (["--rate", "1", "--images", "nowhere"], "nowhere does not exist"),
        (["--rate", "1", "--images", __file__], "no image in"),
        (["--rate", "1", "--out", "nowhere/a.json"], "there is no folder nowhere"),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        load.parse(argv)
    assert message in capsys.readouterr().err


def test_the_example_photos_are_sent_unless_others_are_named(
    examples: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").touch()
    (tmp_path / "b.png").write_bytes(b"png")
    default, _ = load.parse(["--rate", "1"])
    named, _ = load.parse(["--rate", "1", "--images", str(tmp_path), str(examples[0])])
    assert [image.name for image in default.images] == [path.name for path in examples]
    assert [(image.name, image.media_type) for image in named.images] == [
        ("b.png", "image/png"),
        (examples[0].name, "image/jpeg"),
    ]
    assert named.images[1].content == examples[0].read_bytes()


def test_arrivals_are_a_poisson_process() -> None:
    rate, number = 50.0, 20_000
    moments = list(itertools.islice(load.arrivals(rate, Random(1)), number))
    gaps = [later - sooner for sooner, later in itertools.pairwise([0.0, *moments])]
    per_second = list(Counter(int(moment) for moment in moments[: number - 100]).values())
    assert statistics.fmean(gaps) == pytest.approx(1 / rate, rel=0.03)
    assert statistics.stdev(gaps) == pytest.approx(1 / rate, rel=0.03)
    dispersion = statistics.variance(per_second[:-1]) / statistics.fmean(per_second[:-1])
    assert dispersion == pytest.approx(1.0, abs=0.2)


@given(rate=st.floats(0.01, 10_000), seed=st.integers(0, 2**32))
def test_arrivals_follow_from_the_seed_and_scale_with_the_rate(rate: float, seed: int) -> None:
    moments = list(itertools.islice(load.arrivals(rate, Random(seed)), 20))
    again = list(itertools.islice(load.arrivals(rate, Random(seed)), 20))
    at_one_per_s = list(itertools.islice(load.arrivals(1.0, Random(seed)), 20))
    assert moments == again == sorted(moments)
    assert [moment * rate for moment in moments] == pytest.approx(at_one_per_s)


@given(values=st.lists(st.floats(0, 1e6), min_size=1), permille=st.integers(1, 1000))
def test_a_percentile_is_the_nearest_rank(values: list[float], permille: int) -> None:
    reached = [
        value
        for value in values
        if sum(other <= value for other in values) * 1000 >= permille * len(values)
    ]
    assert load_report.percentile(sorted(values), permille) == min(reached)


@pytest.mark.parametrize(
    ("number", "known"),
    [
        (0, {}),
        (1, {"max": 0}),
        (2, {"p50": 0, "max": 1}),
        (9, {"p50": 4, "max": 8}),
        (10, {"p50": 4, "p90": 8, "max": 9}),
        (99, {"p50": 49, "p90": 89, "max": 98}),
        (100, {"p50": 49, "p90": 89, "p99": 98, "max": 99}),
        (999, {"p50": 499, "p90": 899, "p99": 989, "max": 998}),
        (1000, {"p50": 499, "p90": 899, "p99": 989, "p99.9": 998, "max": 999}),
    ],
)
def test_a_percentile_is_known_once_a_value_lies_above_it(
    number: int, known: dict[str, float]
) -> None:
    nothing = dict.fromkeys(["p50", "p90", "p99", "p99.9", "max"])
    values = list(range(number))
    Random(0).shuffle(values)
    assert load_report.spread(values) == {**nothing, **known}


def outcome(due_s: float, done_s: float, kind: str = OK, entry: str = "fast") -> Outcome:
    return Outcome(entry, due_s, done_s, kind, FAST_ANSWER if kind == OK else None)


def test_figures_by_hand() -> None:
    outcomes = [
        outcome(0.5, 0.9),  # in the warm-up: counts for nothing
        outcome(0.8, 1.1),  # due in the warm-up, answered in the measured time: rates only
        outcome(0.9, 1.2),
        outcome(1.0, 1.25),
        outcome(1.5, 2.5),  # just in time
        outcome(1.6, 2.7),  # too late
        outcome(4.5, 5.25),  # answered after the measured time: no rate
        outcome(2.0, 2.01, SHED),
        outcome(2.5, 2.53, SHED),
        outcome(3.0, 4.0, "deadline"),
        outcome(3.0, 3.0, NOT_SENT),
    ]
    found = load_report.figures(outcomes, Window(1.0, 5.0), deadline_ms=1000)
    assert found["offered"] == 8
    assert found["offered_per_s"] == 8 / 4
    assert found["outcomes"] == {OK: 4, SHED: 2, "deadline": 1, NOT_SENT: 1}
    assert found["ok_per_s"] == 5 / 4
    assert found["good"] == 3
    assert found["goodput"] == 3 / 8
    assert found["goodput_per_s"] == 4 / 4
    assert found["shed_ratio"] == 2 / 8
    assert found["latency_ms"] == pytest.approx(
        {"p50": 750, "p90": None, "p99": None, "p99.9": None, "max": 1100}
    )
    assert found["shed_latency_ms"]["p50"] == pytest.approx(10)
    assert found["shed_latency_ms"]["max"] == pytest.approx(30)
    assert found["mean_batch_size"] == 2
    assert found["mean_queue_ms"] == 1.5
    assert found["mean_inference_ms"] == 20
    assert found["answered_by"] == {"fast": 4}
    assert found["reasons"] == {"fits": 4}


def test_figures_of_nothing() -> None:
    found = load_report.figures([], Window(1.0, 1.0), deadline_ms=1000)
    assert found["offered"] == found["ok_per_s"] == 0
    assert found["goodput"] is found["shed_ratio"] is found["mean_batch_size"] is None


def test_each_entry_has_its_own_figures() -> None:
    outcomes = [outcome(0, 1), outcome(0, 1, SHED, "exact"), outcome(0, 1, entry="exact")]
    found = load_report.by_entry(outcomes, ["exact", "fast", "r:3"], Window(0, 1), 1000)
    assert {name: item["outcomes"] for name, item in found.items()} == {
        "exact": {SHED: 1, OK: 1},
        "fast": {OK: 1},
        "r:3": {},
    }


@pytest.mark.parametrize(
    ("client", "p50_ms", "num_not_sent", "messages"),
    [
        ({}, 100.0, 0, []),
        ({"loop_late_ms": [5.0] * 100, "send_late_ms": [5.0] * 100}, 50.0, 0, []),
        ({"loop_late_ms": [0.0] * 99 + [90.0]}, 100.0, 0, []),
        ({"loop_late_ms": [0.0] * 98 + [6.0] * 2}, 100.0, 0, ["event loop woke up late, p99 6.0"]),
        ({"loop_late_ms": [2.0]}, 10.0, 0, ["(allowed: 1.0 ms)"]),
        ({"loop_late_ms": [2.0]}, None, 0, []),
        ({"send_late_ms": [7.0]}, None, 0, ["sent later than scheduled, p99 7.0 ms"]),
        ({"cpu_share": 0.8}, 100.0, 0, []),
        ({"cpu_share": 0.81}, 100.0, 0, ["81% of a core"]),
        ({}, 100.0, 3, ["3 of 9 requests were NOT SENT"]),
        ({"send_late_ms": [7.0], "cpu_share": 1.0}, 100.0, 1, ["sent later", "core", "NOT SENT"]),
    ],
)
def test_it_warns_when_the_client_is_the_bottleneck(
    client: dict[str, Any], p50_ms: float | None, num_not_sent: int, messages: list[str]
) -> None:
    totals = {
        "offered": 9,
        "latency_ms": {"p50": p50_ms},
        "outcomes": {NOT_SENT: num_not_sent} if num_not_sent else {},
    }
    idle: dict[str, Any] = {"loop_late_ms": [], "send_late_ms": [], "cpu_share": 0.1}
    found = load_report.warnings(**{**idle, **client}, totals=totals)
    assert len(found) == len(messages)
    assert all(message in warning for message, warning in zip(messages, found, strict=True))


DROP = 0
"""instead of a status: the connection is closed without an answer."""
GARBLED = -1
"""instead of a status: 200, and no JSON of ours."""


class PatternServer:
    """Answers with these statuses, in turn, and counts what it did for each kind of request."""

    def __init__(self, *statuses: int, ready: int = 200) -> None:
        """The pattern starts again at its end."""
        self.statuses = itertools.cycle(statuses)
        self.ready = ready
        self.sent: dict[str, Counter[int]] = {}
        self.queries: list[dict[str, str]] = []
        self.bodies: set[bytes] = set()
        self.media_types: set[str] = set()
        self.interrupt_at: int | None = None
        self.hold_from: int | None = None
        self.release = asyncio.Event()

    async def classify(self, request: web.Request) -> web.Response:
        query = dict(request.query)
        self.queries.append(query)
        self.bodies.add(await request.read())
        self.media_types.add(request.content_type)
        if len(self.queries) == self.interrupt_at:
            signal.raise_signal(signal.SIGINT)
        if self.hold_from is not None and len(self.queries) >= self.hold_from:
            await self.release.wait()
        status = next(self.statuses)
        self.sent.setdefault(entry_of(query), Counter())[status] += 1
        if status == DROP:
            assert request.transport is not None
            request.transport.abort()
        if status == GARBLED:
            return web.Response(text="[1, 2]")
        if status != 200:
            headers = {"Location": "/v1/classify"} if status == 307 else {}
            problem = {"detail": "as planned"}
            return web.json_response(problem, status=max(status, 200), headers=headers)
        return web.json_response(
            {
                "tier": query.get("tier", None if "r" in query else "turbo"),
                "timing_ms": {"queue": 1.5, "inference": 20},
                "batch_size": 3,
                "choice": {"reason": "fits"} if "max_latency_ms" in query else None,
            }
        )

    async def readyz(self, _: web.Request) -> web.Response:
        return web.json_response({"detail": "still loading"}, status=self.ready)

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"models": [{"name": "tiny", "max_r": 8}]})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """On a free port of this machine; gives its URL."""
        app = web.Application()
        app.add_routes(
            [
                web.post("/v1/classify", self.classify),
                web.get("/readyz", self.readyz),
                web.get("/v1/models", self.models),
            ]
        )
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            yield f"http://{host}:{port}"
        finally:
            self.release.set()
            await runner.cleanup()


def entry_of(query: dict[str, str]) -> str:
    """The entry of the mix that asks so."""
    if "r" in query:
        return f"r:{query['r']}"
    return query.get("tier") or f"budget:{query['max_latency_ms']}"


def drive(server: PatternServer, out: Path, *argv: str) -> tuple[int, dict[str, Any]]:
    """The whole command against this server: its exit status, and its JSON."""

    async def run() -> dict[str, Any]:
        async with server.running() as url:
            plan, _ = load.parse(["--url", url, "--warmup", "0", "--out", str(out), *argv])
            return await load.measure(plan)

    status = load.publish(asyncio.run(run()), out)
    return status, json.loads(out.read_text())


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


def test_arrivals_beyond_max_outstanding_are_counted_and_not_sent() -> None:
    server = PatternServer(200)
    server.hold_from = 1

    async def run() -> Counter[str]:
        async with server.running() as url, aiohttp.ClientSession() as session:
            limits = ["--rate", "1000", "--max-outstanding", "2", "--requests", "10"]
            plan, _ = load.parse(["--url", url, "--warmup", "0", *limits])
            client = load.Client(session, plan)
            async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
                tasks.create_task(load.open_loop(client, plan))
                while client.tally[NOT_SENT] < 8:  # noqa: ASYNC110 - until the schedule is over
                    await asyncio.sleep(0.001)
                server.release.set()
            return client.tally

    assert asyncio.run(run()) == {NOT_SENT: 8, OK: 2}
    assert len(server.queries) == 2


def test_latency_counts_from_the_moment_a_request_was_due() -> None:
    async def run() -> Outcome:
        async with PatternServer(200).running() as url, aiohttp.ClientSession() as session:
            plan, _ = load.parse(["--url", url, "--warmup", "0", "--rate", "1"])
            client = load.Client(session, plan)
            await client.send(client.now() - 5)
            return client.outcomes[0]

    late = asyncio.run(run())
    assert late.kind == OK
    assert late.latency_ms >= 5000


@pytest.mark.parametrize(
    ("server", "mix", "message"),
    [
        (PatternServer(200, ready=503), "fast", "is not ready: 503 still loading"),
        (PatternServer(200), "fast,r:8,r:9", "r:9: r of tiny is at most 8"),
    ],
)
def test_an_unfit_service_gets_no_load(
    server: PatternServer, mix: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(load.UnfitServiceError, match=message):
        drive(server, tmp_path / "load.json", "--rate", "1", "--mix", mix)
    assert server.queries == []


def test_no_service_is_said_plainly(capsys: pytest.CaptureFixture[str]) -> None:
    async def free_url() -> str:
        async with PatternServer(200).running() as url:
            return url

    assert load.main(["--url", asyncio.run(free_url()), "--rate", "1"]) == 1
    assert "nobody answers at http://127.0.0.1:" in capsys.readouterr().err
