"""One batch on all threads of the CPU, or several at a time with fewer threads each?

    python -m benchmarks.streams --rounds 9 --out benchmarks/results/streams-deit-small-cpu.json

All divisions of the threads take turns in every round; quoted are medians over the rounds of the
images per second, as a ratio to one batch on all threads in the same round. The model is as the
service places it; the weights are random: they do not change the time.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.measure import environment, tables
from benchmarks.measure.models import save_random
from service import tiers
from service.backends import cores
from service.backends.malloc import keep_freed_memory
from service.backends.placement import choose
from service.models import catalog
from service.tiers import TIERS

NUM_IMAGES = 48
"""in each measurement"""


class Division(NamedTuple):
    """Batches at a time, threads of each, images in each."""

    num_streams: int
    num_threads: int
    batch_size: int


def main() -> int:
    """Print a table, and write JSON where it is wanted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--architecture", default="deit_small_patch16_224")
    parser.add_argument(
        "--tiers", nargs="+", choices=TIERS, default=["exact", "balanced", "extreme"]
    )
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 4, 2, 1])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        save_random(arguments.architecture, Path(folder))
        model = catalog.load(f"model={folder}", choose("cpu", "auto", "float32"))
    rows = [
        {"tier": tier, **row}
        for tier in arguments.tiers
        for row in measure(
            model.variant(*tiers.of_tier(model.limits, tier)).module,
            divisions(cores.count(), arguments.batch_sizes),
            arguments.rounds,
        )
    ]
    publish(rows, arguments)
    return 0


def divisions(num_cores: int, batch_sizes: Sequence[int]) -> list[Division]:
    """One batch on all threads, and one per thread; the first is what others are compared with."""
    streams = [(1, num_cores)] if num_cores == 1 else [(1, num_cores), (num_cores, 1)]
    return [Division(*each, batch_size) for each in streams for batch_size in batch_sizes]


def measure(module: nn.Module, wanted: Sequence[Division], num_rounds: int) -> list[dict[str, Any]]:
    """Images per second of each division, and its ratio to the first one."""
    speeds: dict[Division, list[float]] = {division: [] for division in wanted}
    for number in tqdm(range(num_rounds + 1), unit=" rounds", disable=None):
        for division in wanted:
            speed = images_per_s(module, division)
            if number > 0:  # the first does not count
                speeds[division].append(speed)
    return [
        {
            **division._asdict(),
            "images_per_s": round(statistics.median(found), 2),
            "ratio": round(
                statistics.median(
                    mine / base for mine, base in zip(found, speeds[wanted[0]], strict=True)
                ),
                3,
            ),
        }
        for division, found in speeds.items()
    ]


def images_per_s(module: nn.Module, division: Division) -> float:
    """All streams compute their share of the images."""
    images = torch.randn(division.batch_size, 3, 224, 224)
    num_batches = max(1, NUM_IMAGES // division.num_streams // division.batch_size)
    with ThreadPoolExecutor(
        division.num_streams, initializer=torch.set_num_threads, initargs=(division.num_threads,)
    ) as streams:
        started = time.perf_counter()
        done = [
            streams.submit(compute, module, images, num_batches)
            for _ in range(division.num_streams)
        ]
        for each in done:
            each.result()
        seconds = time.perf_counter() - started
    return division.num_streams * num_batches * division.batch_size / seconds


@torch.inference_mode()
def compute(module: nn.Module, images: Tensor, num_batches: int) -> None:
    """What one stream does."""
    for _ in range(num_batches):
        module(images)


def publish(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """Table to stdout, JSON to the file."""
    print(tables.of(rows, ("tier", *Division._fields, "images_per_s", "ratio")))
    result = {"architecture": arguments.architecture, "rounds": arguments.rounds, "rows": rows}
    environment.write(arguments.out, result)


if __name__ == "__main__":
    sys.exit(main())
