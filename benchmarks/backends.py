"""What the CPU's backends and precisions give: images per second beside plain PyTorch, per tier.

    python -m benchmarks.backends --rounds 9 --out benchmarks/results/backends-deit-small-cpu.json

With `--runtimes`, other runtimes compile each tier for each batch size, in float32 unless they say
otherwise. With `--threads 1`, a batch has one core, as in the service, which computes several
beside each other. All variants and timm's own dense model take turns in every round; quoted are
medians over the rounds of the ratio to the dense model's time in the same round.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.measure import environment, runtimes, tables
from benchmarks.measure.models import save_random
from benchmarks.measure.runtimes import RUNTIMES, Run
from benchmarks.measure.timing import MATRIX, peak_flop_per_s
from service import tiers
from service.backends.malloc import keep_freed_memory
from service.backends.placement import choose
from service.models import catalog, timm_models
from service.tiers import TIERS, Tier

KINDS = {
    "torch": ("torch", "float32"),
    "onednn": ("onednn", "float32"),
    "onednn bfloat16": ("onednn", "bfloat16"),
    "onednn int8": ("onednn", "int8"),
}
DENSE = "dense"
COLUMNS = ("backend", "tier", "batch_size", "macs_ratio", "images_per_s", "speed_up")
ERROR = 1e-3
"""between logits: more than rounding makes, less than a wrong answer does"""


def main() -> int:
    """Print a table, and write JSON where it is wanted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architecture", default="deit_small_patch16_224")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--tiers", nargs="+", choices=TIERS, default=TIERS)
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=())
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        runs, macs = load(arguments.architecture, Path(folder), arguments.tiers)
    rows: list[dict[str, Any]] = []
    for batch_size in arguments.batch_sizes:
        images = torch.randn(batch_size, 3, 224, 224)
        compiled = {
            (name, tier): run
            for name in arguments.runtimes
            for tier in arguments.tiers
            if (run := convert(name, runs["torch", tier], images)) is not None
        }
        seconds = take_turns({**runs, **compiled}, images, arguments.rounds)
        for (kind, tier), times in seconds.items():
            ratios = [dense / mine for dense, mine in zip(seconds[DENSE, ""], times, strict=True)]
            rows.append(
                {
                    "backend": kind,
                    "tier": tier,
                    "batch_size": batch_size,
                    "images_per_s": round(batch_size / statistics.median(times), 2),
                    "speed_up": round(statistics.median(ratios), 3),
                    "macs_ratio": macs["torch" if kind in RUNTIMES else kind, tier],
                }
            )
    peak = peak_flop_per_s(torch.empty(0), arguments.rounds, packed=True)
    publish(rows, peak / 1e9, arguments)
    return 0


def load(
    architecture: str, folder: Path, wanted: list[Tier]
) -> tuple[dict[tuple[str, str], Run], dict[tuple[str, str], float]]:
    """The dense model and every variant, all of the same random weights; and their work."""
    save_random(architecture, folder)
    runs: dict[tuple[str, str], Run] = {(DENSE, ""): timm_models.load(str(folder)).module}
    macs = {(DENSE, ""): 1.0}
    for kind, (backend, precision) in KINDS.items():
        model = catalog.load(f"model={folder}", choose("cpu", backend, precision))
        for tier in wanted:
            variant = model.variant(*tiers.of_tier(model.limits, tier))
            runs[kind, tier] = variant.module
            macs[kind, tier] = variant.macs_ratio
    return runs, macs


@torch.inference_mode()
def convert(name: str, module: Run, images: Tensor) -> Run | None:
    """The same by another runtime; None if that cannot, or gives other answers in float32."""
    try:
        run = RUNTIMES[name](cast(nn.Module, module), images)
        error = float((run(images) - module(images)).abs().max())
    except (RuntimeError, torch.onnx.OnnxExporterError) as exc:
        cause: BaseException = exc
        while cause.__cause__ is not None:
            cause = cause.__cause__
        print(f"{name} cannot convert this: {str(cause).splitlines()[0]}", file=sys.stderr)
        return None
    if error > ERROR and name not in runtimes.INEXACT:
        print(f"{name} gives other answers: logits differ by {error:.1e}", file=sys.stderr)
        return None
    return run


@torch.inference_mode()
def take_turns(
    runs: dict[tuple[str, str], Run], images: Tensor, num_rounds: int
) -> dict[tuple[str, str], list[float]]:
    """Seconds of each run in every round; a round before the first is not counted."""
    seconds: dict[tuple[str, str], list[float]] = {name: [] for name in runs}
    for number in tqdm(range(num_rounds + 1), desc=f"batch {len(images)}", unit=" rounds"):
        for name, run in runs.items():
            started = time.perf_counter()
            run(images)
            if number > 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def publish(
    rows: list[dict[str, Any]], matrix_gflop_per_s: float, arguments: argparse.Namespace
) -> None:
    """Table to stdout, JSON to the file."""
    print(tables.of(rows, COLUMNS))
    size = MATRIX["cpu"]
    print(f"a product of {size} x {size} matrices, float32: {matrix_gflop_per_s:.0f} GFLOP/s")
    result = {
        "architecture": arguments.architecture,
        "matrix_gflop_per_s": round(matrix_gflop_per_s, 1),
        "num_threads": torch.get_num_threads(),
        "rounds": arguments.rounds,
        "rows": rows,
    }
    environment.write(arguments.out, result)


if __name__ == "__main__":
    sys.exit(main())
