"""What `benchmarks.serving` says of its rounds: rows, ratios, targets met and missed, a table."""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks.measure import tables
from benchmarks.measure.tables import shown
from benchmarks.serving.plan import (
    COMPARED,
    DENSE,
    FLOAT32,
    FULL_LOAD,
    MIXED,
    OURS,
    VARIANTS,
    Precision,
    precision_of,
)
from benchmarks.serving.rounds import Record, Run
from service.load import figures
from service.load.outcomes import OK
from service.tiers import TIERS

ONE_CLIENT = "1 client"
OVER_BEST_PEER = {"exact": 1.2, "balanced": 1.7, "turbo": 2.3, "extreme": 2.7}
"""in float32"""
OVER_BEST_BFLOAT16_PEER = {"exact": 1.2, "extreme": 2.2}
OVER_OWN_FLOAT32 = {"exact": 2.5, "extreme": 2.5}
HAS_BFLOAT16 = 2.0
"""a processor that multiplies in bfloat16 does it so many times as fast as in float32"""
OVER_BARE_MODEL = 0.95
MOST_OVERHEAD_MS = 3.0
MOST_OF_P99 = 0.999
MOST_MEMORY_MIB = 900
MOST_OTHERS_SHARE = 0.15
"""of a core; Linux itself takes some for the network"""
COLUMNS = ("server", "entry", "load", "per_s", "p50_ms", "p90_ms", "p99_ms", "goodput", "failed")


class Key(NamedTuple):
    """What is measured once a round."""

    server: str
    entry: str
    load: str


def build(run: Run, deadline_ms: float) -> dict[str, Any]:
    """All figures, ready for JSON."""
    rows = [row(key, records, deadline_ms) for key, records in by_key(run.records).items()]
    best = best_peer(rows, "float32")
    best_bfloat16 = best_peer(rows, "bfloat16")
    theirs = {} if best is None else per_s(run, best, DENSE)
    found: dict[str, Any] = {
        "rows": rows,
        "memory_mib": {
            server: {kind: max(each[kind] for each in seen) for kind in ("rss", "pss")}
            for server, seen in run.memory.items()
        },
        "limits": [{name: part[name] for name in part if name != "answers"} for part in run.limits],
        "best_peer": best,
        "best_bfloat16_peer": best_bfloat16,
        "ratios": {} if best is None else {tier: over(run, rows, tier, best) for tier in COMPARED},
        "over_bfloat16_peer": {
            tier: median_ratio(per_s(run, OURS, tier), per_s(run, best_bfloat16 or "", DENSE))
            for tier in COMPARED
        },
        "over_own_float32": {
            tier: median_ratio(per_s(run, OURS, tier), per_s(run, FLOAT32, tier))
            for tier in COMPARED
        },
        "bfloat16_over_float32_product": bfloat16_over_float32(run),
        "variants": {
            name: {tier: median_ratio(per_s(run, name, tier), theirs) for tier in COMPARED}
            for name in VARIANTS
        },
        "over_bare_model": {tier: over_bare(run, tier, tier) for tier in TIERS},
        "over_bare_dense_model": {tier: over_bare(run, tier, DENSE) for tier in TIERS},
        "overhead_ms": overhead_ms(run),
        "mixed_over_expected": mixed_over_expected(run),
        "unavailable": run.unavailable,
    }
    return {**found, "targets": targets(found), "warnings": warnings(rows)}


def by_key(records: Sequence[Record]) -> dict[Key, list[Record]]:
    """The rounds of each load."""
    found: dict[Key, list[Record]] = {}
    for record in records:
        found.setdefault(Key(record.server, record.entry, record.load.name), []).append(record)
    return found


def row(key: Key, records: Sequence[Record], deadline_ms: float) -> dict[str, Any]:
    """One load on one server: medians of the rounds, and percentiles of all their requests."""
    by_round = [
        figures.figures(record.sample.outcomes, record.window, deadline_ms) for record in records
    ]
    outcomes = [outcome for record in records for outcome in record.sample.outcomes]
    answered = [item for item in outcomes if item.kind == OK]
    latency_ms = figures.spread(item.latency_ms for item in answered)
    num_good = sum(item.latency_ms <= deadline_ms for item in answered)
    rates = [record.rate for record in records if record.rate is not None]
    return {
        **key._asdict(),
        "rounds": len(records),
        "requests": len(outcomes),
        "rate_per_s": round(statistics.median(rates), 3) if rates else None,
        "per_s": round(statistics.median(record.per_s for record in records), 3),
        "per_s_by_round": [round(record.per_s, 3) for record in records],
        **{f"{name}_ms": latency_ms[name] for name in ("p50", "p90", "p99")},
        "p50_ms_by_round": [each["latency_ms"]["p50"] for each in by_round],
        "goodput": figures.share(num_good, len(outcomes)),
        "goodput_per_s": statistics.median(each["goodput_per_s"] for each in by_round),
        "failed": len(outcomes) - len(answered),
        "outcomes": figures.tally(item.kind for item in outcomes),
        "client_cpu_share": round(
            statistics.median(
                record.sample.client_cpu_s / record.sample.elapsed_s for record in records
            ),
            3,
        ),
        "others_cpu_share": round(
            statistics.median(record.others_cpu_share for record in records), 3
        ),
    }


def bfloat16_over_float32(run: Run) -> float | None:
    """How many times as fast this processor multiplies matrices in bfloat16."""
    speeds = [limit["flop_per_s"] for limit in run.limits if "flop_per_s" in limit]
    ratios = [speed["bfloat16"] / speed["float32"] for speed in speeds]
    return round(statistics.median(ratios), 2) if ratios else None


def best_peer(rows: Sequence[dict[str, Any]], precision: Precision) -> str | None:
    """The peer that answers most under full load in a precision."""
    peers = [
        item
        for item in rows
        if (item["entry"], item["load"]) == (DENSE, FULL_LOAD)
        and precision_of(item["server"]) == precision
    ]
    return max(peers, key=lambda item: item["per_s"])["server"] if peers else None


def over(run: Run, rows: Sequence[dict[str, Any]], tier: str, peer: str) -> dict[str, Any]:
    """Under full load, a tier over a peer: throughput, p99, and p99 over the lowest of any peer."""
    ours, theirs = per_s(run, OURS, tier), per_s(run, peer, DENSE)
    p99 = {
        (item["server"], item["entry"]): item["p99_ms"]
        for item in rows
        if item["load"] == FULL_LOAD
    }
    peers = [value for (_, entry), value in p99.items() if entry == DENSE and value]
    own = p99.get((OURS, tier))
    return {
        "throughput": median_ratio(ours, theirs),
        "p99": divide(own, p99.get((peer, DENSE))),
        "p99_over_lowest": divide(own, min(peers, default=None)),
    }


def per_s(run: Run, server: str, entry: str) -> dict[int, float]:
    """Answers per second under full load, by round."""
    return {
        record.round_number: record.per_s
        for record in run.records
        if (record.server, record.entry, record.load.name) == (server, entry, FULL_LOAD)
    }


def over_bare(run: Run, tier: str, variant: str) -> float | None:
    """A tier in float32 under full load over a variant of the model in a loop of batches of 8."""
    bare = {
        number: 8000 / limit["forward_ms"][variant]["8"] for number, limit in enumerate(run.limits)
    }
    return median_ratio(per_s(run, FLOAT32, tier), bare)


def overhead_ms(run: Run) -> float | None:
    """What one client waits for beside the decoding and the computing that its answers name."""
    rounds = [
        statistics.median(record.sample.overheads_ms)
        for record in run.records
        if (record.server, record.entry, record.load.name) == (OURS, "exact", ONE_CLIENT)
        and record.sample.overheads_ms
    ]
    return round(statistics.median(rounds), 3) if rounds else None


def mixed_over_expected(run: Run) -> float | None:
    """Six tiers mixed, over what the same requests would take one tier after the other."""
    single = [per_s(run, OURS, tier) for tier in TIERS]
    expected = {
        number: len(TIERS) / sum(1 / tier[number] for tier in single)
        for number in single[0]
        if all(tier.get(number) for tier in single)
    }
    return median_ratio(per_s(run, OURS, MIXED), expected)


def median_ratio(ours: dict[int, float], theirs: dict[int, float]) -> float | None:
    """The median of the ratios of those rounds that have both."""
    ratios = [ours[number] / theirs[number] for number in ours if theirs.get(number)]
    return round(statistics.median(ratios), 3) if ratios else None


def divide(part: float | None, whole: float | None) -> float | None:
    """A ratio, where both are known."""
    return round(part / whole, 3) if part is not None and whole else None


def targets(found: dict[str, Any]) -> list[dict[str, Any]]:
    """What the service should reach, what it did, and whether that is enough; None: unknown."""
    best, ratios = found["best_peer"], found["ratios"]
    at_least = [
        (f"{tier}: throughput over {best}", ratios.get(tier, {}).get("throughput"), least)
        for tier, least in OVER_BEST_PEER.items()
    ]
    if (found["bfloat16_over_float32_product"] or 0.0) >= HAS_BFLOAT16:
        at_least += [
            (f"{tier}: throughput over {found['best_bfloat16_peer']}", ratio[tier], least)
            for ratio in [found["over_bfloat16_peer"]]
            for tier, least in OVER_BEST_BFLOAT16_PEER.items()
        ]
        at_least += [
            (f"{tier}: throughput over float32", found["over_own_float32"][tier], least)
            for tier, least in OVER_OWN_FLOAT32.items()
        ]
    bare = found["over_bare_model"]["exact"]
    at_least.append(("exact: throughput over bare model", bare, OVER_BARE_MODEL))
    at_most = [
        (f"exact: p99 over {best}", ratios.get("exact", {}).get("p99"), MOST_OF_P99),
        ("overhead with one client, ms", found["overhead_ms"], MOST_OVERHEAD_MS),
        ("resident memory, MiB", found["memory_mib"].get(OURS, {}).get("rss"), MOST_MEMORY_MIB),
    ]
    rows = [(*each, ">=") for each in at_least] + [(*each, "<=") for each in at_most]
    return [
        {
            "name": name,
            "value": value,
            "wanted": f"{sign} {bound}",
            "met": None if value is None else (value >= bound if sign == ">=" else value <= bound),
        }
        for name, value, bound, sign in rows
    ]


def warnings(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Where something else than the servers may have made the figures."""
    most = max((item["others_cpu_share"] for item in rows), default=0.0)
    if most <= MOST_OTHERS_SHARE:
        return []
    return [
        f"something else took up to {most:.0%} of a core meanwhile: these figures say nothing; "
        "run it again when the machine is idle"
    ]


def text(found: dict[str, Any]) -> str:
    """Two tables for people."""
    marks = {True: "met", False: "MISSED", None: "-"}
    goals = [
        [item["name"], shown(item["value"]), item["wanted"], marks[item["met"]]]
        for item in found["targets"]
    ]
    lines = [
        tables.of(found["rows"], COLUMNS),
        "",
        tables.table(["target", "value", "wanted", ""], goals, align_right=False),
    ]
    lines += [
        f"{title}: {shown(found[name])}"
        for title, name in (
            ("six tiers mixed over the same one after the other", "mixed_over_expected"),
            ("tiers over the bare dense model", "over_bare_dense_model"),
            ("with other settings, over the best peer", "variants"),
            ("over the best peer in bfloat16", "over_bfloat16_peer"),
            ("over the same in float32", "over_own_float32"),
            ("matrix product in bfloat16 over float32", "bfloat16_over_float32_product"),
            ("memory, MiB", "memory_mib"),
        )
    ]
    lines += [f"{name}: {reason}" for name, reason in found["unavailable"].items()]
    lines += [f"WARNING: {warning}" for warning in found["warnings"]]
    return "\n".join(lines)
