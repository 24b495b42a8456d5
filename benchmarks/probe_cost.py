"""What the probe costs live traffic: latency with a probe that never rests, and without one.

    python -m benchmarks.probe_cost --rate 8 --rounds 4

Each round starts the service twice, with and without the probe, in changing order, and sends the
same Poisson arrivals to both. Quoted are medians over the rounds, and their ratio; beside them how
far the rounds without a probe lie apart, which is the noise that the ratio has to be seen in.
"""

import argparse
import asyncio
import json
import statistics
import sys
from typing import Any

import httpx
from tqdm import tqdm
from yarl import URL

from benchmarks.measure import environment
from benchmarks.measure.running import running
from service.load.measure import measure
from service.load.mix import parse_mix
from service.load.plan import Loop, Plan
from service.load.request import EXAMPLES, load_images

PROBES = {"off": "0", "on": "0.001"}
"""seconds from one probe to the next"""
QUANTILES = ("p50", "p90", "p99")
MIN_REQUESTS = 150
"""so that one of a hundred lies above the p99, although arrivals are random"""
WARMUP_S, DEADLINE_MS = 3.0, 5000.0
SAMPLES = "rapid_probe_samples_total"


def main() -> int:
    """Print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=8.0, help="arrivals per second")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--duration", type=float, default=20.0, help="seconds of each measurement")
    arguments = parser.parse_args()
    if arguments.rate * arguments.duration < MIN_REQUESTS:
        parser.error(f"a p99 needs {MIN_REQUESTS} requests; raise --rate or --duration")
    latency_ms: dict[str, list[dict[str, float]]] = {name: [] for name in PROBES}
    num_probed = 0
    for number in tqdm(range(arguments.rounds), unit=" rounds"):
        order = list(PROBES) if number % 2 == 0 else list(PROBES)[::-1]
        for name in order:
            with running(RAPID_PROBE_INTERVAL_S=PROBES[name]) as service:
                report = load(service.url, arguments.rate, arguments.duration, seed=number)
                num_probed += probed(service.url)
            latency_ms[name].append(report["all"]["latency_ms"])
    result = {
        "rate": arguments.rate,
        "rounds": arguments.rounds,
        "duration_s": arguments.duration,
        "num_pictures_probed": num_probed,
        "latency": {quantile: compare(latency_ms, quantile) for quantile in QUANTILES},
        "environment": environment.describe(),
    }
    print(json.dumps(result, indent=1))
    return 0


def compare(latency_ms: dict[str, list[dict[str, float]]], quantile: str) -> dict[str, Any]:
    """Medians over the rounds, their ratio, and the noise: largest over smallest without probe."""
    values = {name: [row[quantile] for row in rows] for name, rows in latency_ms.items()}
    off, on = (statistics.median(values[name]) for name in PROBES)
    return {
        "off_ms": round(off, 1),
        "on_ms": round(on, 1),
        "ratio": round(on / off, 3),
        "noise": round(max(values["off"]) / min(values["off"]), 3),
    }


def load(url: str, rate: float, duration_s: float, *, seed: int) -> dict[str, Any]:
    """Poisson arrivals at a service; the report of `rapid bench`."""
    plan = Plan(
        url=URL(url),
        loop=Loop(rate=rate, warmup_s=WARMUP_S, duration_s=duration_s, seed=seed),
        mix=parse_mix("balanced"),
        images=load_images([EXAMPLES]),
        deadline_ms=DEADLINE_MS,
    )
    return asyncio.run(measure(plan))


def probed(url: str) -> int:
    """Pictures that the service has run for its probe so far."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return int(sum(float(line.split()[-1]) for line in lines if line.startswith(SAMPLES)))


if __name__ == "__main__":
    sys.exit(main())
