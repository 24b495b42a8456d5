"""What is said of the rounds: ratios, targets, warnings."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.serving import plot, report
from benchmarks.serving.loads import Sample
from benchmarks.serving.plan import DENSE, FLOAT32, FULL_LOAD, MIXED, OURS, Load
from benchmarks.serving.rounds import Record, Run
from service.load.outcomes import OK, Outcome
from service.tiers import TIERS


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


def limit(ms: float, bfloat16: float = 1.0) -> dict[str, Any]:
    """A round's limits: every variant takes that time per image, decoding a tenth of it.

    Products in bfloat16 are so many times as fast as those in float32.
    """
    forward_ms = {name: {"1": ms, "8": 8 * ms} for name in (DENSE, *TIERS)}
    flop_per_s = {"float32": 1e11, "bfloat16": bfloat16 * 1e11}
    return {
        "decode_ms": ms / 10,
        "forward_ms": forward_ms,
        "flop_per_s": flop_per_s,
        "answers": [],
    }


def run_of(*records: Record, limits: tuple[dict[str, Any], ...] = ()) -> Run:
    return Run(list(records), list(limits), {OURS: [{"rss": 700.0, "pss": 600.0}]}, {})


def test_ratios_are_medians_of_the_rounds_ratios_to_the_best_peer() -> None:
    records = [
        *(record(number, OURS, "exact", [30, 20, 60][number]) for number in range(3)),
        *(record(number, "mosec", DENSE, [20, 10, 20][number]) for number in range(3)),
        *(record(number, "BentoML", DENSE, 10) for number in range(3)),
    ]
    found = report.build(run_of(*records), 1000)
    assert found["best_peer"] == "mosec"
    assert found["ratios"]["exact"]["throughput"] == 2  # of 1.5, 2 and 3
    assert found["ratios"]["turbo"]["throughput"] is None
    rows = {row["server"]: row for row in found["rows"]}
    assert rows[OURS]["per_s"] == 30
    assert rows[OURS]["requests"] == 110
    assert rows[OURS]["goodput"] == 1
    assert rows[OURS]["client_cpu_share"] == 0.25


def test_on_a_processor_with_bfloat16_its_peers_count_as_well() -> None:
    records = [
        record(0, OURS, "exact", 130),
        record(0, FLOAT32, "exact", 50),
        record(0, "mosec", DENSE, 40),
        record(0, "mosec bfloat16, 2 workers", DENSE, 100),
        record(0, "BentoML bfloat16", DENSE, 90),
    ]
    found = report.build(run_of(*records, limits=(limit(10.0, bfloat16=4.5),)), 1000)
    assert (found["best_peer"], found["best_bfloat16_peer"]) == (
        "mosec",
        "mosec bfloat16, 2 workers",
    )
    met = {target["name"]: (target["value"], target["met"]) for target in found["targets"]}
    assert met["exact: throughput over mosec"] == (3.25, True)
    assert met["exact: throughput over mosec bfloat16, 2 workers"] == (1.3, True)
    assert met["exact: throughput over float32"] == (2.6, True)
    without = report.build(run_of(*records, limits=(limit(10.0),)), 1000)
    assert not [each for each in without["targets"] if "bfloat16" in each["name"]]


def test_p99_is_of_all_rounds_requests_together() -> None:
    records = [
        record(0, OURS, "exact", 60, latency_s=0.2),
        record(1, OURS, "exact", 60, latency_s=0.3),
        record(0, "mosec", DENSE, 100, latency_s=0.6),
        record(0, "LitServe", DENSE, 100, latency_s=0.25),
        record(1, "LitServe", DENSE, 50, latency_s=0.25),
    ]
    ratios = report.build(run_of(*records), 250)["ratios"]["exact"]
    assert ratios["p99"] == pytest.approx(0.3 / 0.6)
    assert ratios["p99_over_lowest"] == pytest.approx(0.3 / 0.25)


def test_a_ratio_takes_only_rounds_that_both_have() -> None:
    assert report.median_ratio({0: 10.0, 1: 90.0, 2: 30.0}, {0: 5.0, 2: 10.0}) == 2.5
    assert report.median_ratio({0: 1.0}, {0: 0.0}) is None
    assert report.median_ratio({}, {0: 1.0}) is None


def test_the_limits_are_those_of_the_same_round() -> None:
    records = [
        record(0, FLOAT32, "exact", 95),
        record(1, FLOAT32, "exact", 40),
    ]
    found = report.build(run_of(*records, limits=(limit(10.0), limit(20.0))), 1000)
    assert found["over_bare_model"]["exact"] == pytest.approx((0.95 + 0.8) / 2)


def test_the_overhead_is_the_median_of_the_rounds_medians() -> None:
    records = [
        record(0, OURS, "exact", 9, load="1 client", overheads_ms=(1.0, 2.0, 9.0)),
        record(1, OURS, "exact", 9, load="1 client", overheads_ms=(5.0,)),
        record(2, OURS, "exact", 9, load="1 client"),
    ]
    assert report.build(run_of(*records), 1000)["overhead_ms"] == pytest.approx(3.5)


def test_mixed_tiers_are_compared_with_the_same_requests_one_tier_after_the_other() -> None:
    speeds = dict(zip(TIERS, (10, 20, 20, 40, 40, 40), strict=True))
    records = [record(0, OURS, tier, speed) for tier, speed in speeds.items()]
    expected = 6 / (1 / 10 + 2 / 20 + 3 / 40)
    run = run_of(*records, record(0, OURS, MIXED, 18))
    assert report.mixed_over_expected(run) == pytest.approx(18 / expected, abs=1e-3)
    assert report.mixed_over_expected(run_of(*records[1:])) is None


def test_targets_say_what_was_met_missed_and_not_measured() -> None:
    records = [
        record(0, OURS, "exact", 120),
        record(0, OURS, "turbo", 220),
        record(0, "mosec", DENSE, 100, latency_s=0.2),
    ]
    found = report.build(run_of(*records, limits=(limit(8.0),)), 1000)
    met = {target["name"]: target["met"] for target in found["targets"]}
    assert met["exact: throughput over mosec"] is True
    assert met["turbo: throughput over mosec"] is False
    assert met["balanced: throughput over mosec"] is None
    assert met["exact: p99 over mosec"] is True
    assert met["resident memory, MiB"] is True
    text = report.text({**found, "unavailable": {"BentoML": "cannot be installed"}})
    assert "MISSED" in text
    assert "BentoML: cannot be installed" in text
    assert "WARNING" not in text


def test_a_busy_machine_is_said_plainly() -> None:
    found = report.build(run_of(record(0, OURS, "exact", 10, others=0.5)), 1000)
    assert "WARNING: something else took up to 50% of a core" in report.text(found)


def test_a_run_without_any_peer_still_reports(tmp_path: Path) -> None:
    file = tmp_path / "serving.png"
    found = report.build(run_of(record(0, OURS, "exact", 10)), 1000)
    plot.draw(found, file, "deit")
    assert found["best_peer"] is None
    assert file.read_bytes().startswith(b"\x89PNG")
    assert json.loads(json.dumps(found))["ratios"] == {}
    assert report.text(report.build(Run([], [], {}, {}), 1000))
