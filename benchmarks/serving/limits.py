"""The two limits of `benchmarks.serving`: the bare model in a loop, and decoding alone.

    python -m benchmarks.serving.limits everyday-vit-s14

A process of its own, so that the client of the benchmark stays small. Prints one JSON document:
median milliseconds of a batch by variant and batch size, of decoding one picture on one core, the
speed of a matrix product in each precision, and the dense model's best label of each picture.
`dense` is the model as PyTorch computes it by itself in float32; the tiers are as the service
places them in float32.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure.pictures import spec_of
from benchmarks.measure.timing import peak_flop_per_s
from service import tiers
from service.backends import cores, placement
from service.backends.malloc import keep_freed_memory
from service.images.decode import decode
from service.load.request import EXAMPLES, load_images
from service.models import catalog, timm_models
from service.models.served import ServedModel
from service.pipeline import ranking
from service.settings import Settings
from service.tiers import TIERS

BATCH_SIZES = (1, 8)
DTYPES = (torch.float32, torch.bfloat16)
FLOP_ROUNDS = 3
DENSE = "dense"


def main() -> int:
    """Print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="bundled, or a folder")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    keep_freed_memory()  # as the service does
    dense = timm_models.load(arguments.model).module
    settings = Settings.from_environment()
    placed = placement.choose("cpu", settings.backend, "float32")
    model = catalog.load(arguments.model, placed)
    spec = spec_of(model)
    files = [image.content for image in load_images([EXAMPLES])]
    torch.set_num_threads(1)
    decode_ms = [
        1000 * seconds(lambda file=file: decode(file, spec))
        for _ in range(arguments.repeats + 1)
        for file in files
    ][len(files) :]
    pixels = torch.stack([decode(file, spec) for file in files])
    torch.set_num_threads(cores.count())
    result = {
        "num_threads": torch.get_num_threads(),
        "flop_per_s": {str(dtype).partition(".")[2]: flop_per_s(dtype) for dtype in DTYPES},
        "decode_ms": statistics.median(decode_ms),
        "decode_per_s": 1000 / statistics.fmean(decode_ms),
        "forward_ms": forward_ms(modules(dense, model), pixels, arguments.repeats),
        "answers": best_labels(dense, pixels, model.labels),
    }
    print(json.dumps(result))
    return 0


def flop_per_s(dtype: torch.dtype) -> float:
    """What a product of two large matrices reaches on all cores."""
    return peak_flop_per_s(torch.empty(0, dtype=dtype), FLOP_ROUNDS)


def modules(dense: nn.Module, model: ServedModel) -> dict[str, nn.Module]:
    """The model as PyTorch computes it by itself, and what the service runs for each tier."""
    variants = {tier: model.variant(*tiers.of_tier(model.limits, tier)) for tier in TIERS}
    return {DENSE: dense, **{tier: variant.module for tier, variant in variants.items()}}


@torch.inference_mode()
def forward_ms(
    modules: dict[str, nn.Module], pixels: Tensor, repeats: int
) -> dict[str, dict[str, float]]:
    """Median milliseconds of a batch, by name and batch size; all take turns."""
    times: dict[str, dict[str, list[float]]] = {
        name: {str(size): [] for size in BATCH_SIZES} for name in modules
    }
    for repeat in range(repeats + 1):  # the first does not count
        for name, module in modules.items():
            for size in BATCH_SIZES:
                took_s = seconds(lambda module=module, size=size: module(pixels[:size]))
                if repeat > 0:
                    times[name][str(size)].append(1000 * took_s)
    return {
        name: {size: statistics.median(values) for size, values in by_size.items()}
        for name, by_size in times.items()
    }


def seconds(work: Callable[[], Any]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@torch.inference_mode()
def best_labels(module: nn.Module, pixels: Tensor, labels: Any) -> list[dict[str, Any]]:
    """The best label of each picture."""
    best = [ranking.rank(row, labels, 1)[0] for row in module(pixels)]
    return [{"index": label.index, "probability": label.probability} for label in best]


if __name__ == "__main__":
    sys.exit(main())
