"""What each tier of a model costs and gives: tokens, GMAC, top-1 on the probe set, images/s.

    python -m benchmarks.tiers

All tiers are timed in turn, round by round, so that a change of the machine's speed hits them
alike; the speed-up is the median of the rounds' ratios to `exact`.
"""

import argparse
import csv
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import environment
from service import tiers
from service.backends.contract import Variant
from service.backends.placement import choose
from service.images.decode import InputSpec, decode
from service.models import catalog
from service.models.served import ServedModel
from service.models.timm_models import BUNDLED_MODELS, LoadedModel
from service.tiers import TIERS


def main() -> None:
    """Print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="everyday-vit-s14")
    parser.add_argument("--probe", type=Path, default=BUNDLED_MODELS / "everyday-vit-s14" / "probe")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()

    model = catalog.load(arguments.model, choose(arguments.device, "auto", "float32"))
    pixels, labels = load_probe(model, arguments.probe)
    variants = {tier: model.variant(*tiers.of_tier(model.limits, tier)) for tier in TIERS}
    answers = {tier: predict(variant.module, pixels, tier) for tier, variant in variants.items()}
    seconds = time_rounds(list(variants.values()), pixels[: arguments.batch_size], arguments.rounds)
    rows = []
    for number, (tier, variant) in enumerate(variants.items()):
        ratios = [times[0] / times[number] for times in seconds]
        rows.append(
            {
                "tier": tier,
                "r": variant.r,
                "tokens": variant.num_output_tokens,
                "gmacs": round(variant.macs / 1e9, 2),
                "macs_ratio": round(variant.macs / model.dense_macs, 3),
                "top1": round((answers[tier] == labels).float().mean().item(), 4),
                "agreement": round((answers[tier] == answers["exact"]).float().mean().item(), 4),
                "speed_up": round(statistics.median(ratios), 2),
                "images_per_s": round(
                    arguments.batch_size / statistics.median(times[number] for times in seconds), 1
                ),
            }
        )
    result = {
        "model": model.name,
        "device": arguments.device,
        "batch_size": arguments.batch_size,
        "num_pictures": len(labels),
        "tiers": rows,
        "environment": environment.describe(),
    }
    print(json.dumps(result, indent=1))


def load_probe(model: ServedModel | LoadedModel, folder: Path) -> tuple[Tensor, Tensor]:
    """Pixels (M, 3, H, W) and class indices (M,) of a folder with `labels.csv`."""
    with (folder / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    spec = InputSpec(model.transform, model.input_spec.resize_side)
    pixels = [decode((folder / row["file"]).read_bytes(), spec) for row in rows]
    return torch.stack(pixels), torch.tensor([int(row["index"]) for row in rows])


@torch.inference_mode()
def predict(module: nn.Module, pixels: Tensor, name: str) -> Tensor:
    """The most probable class of each picture: (M,); `name` is for the progress on stderr."""
    best = []
    device = next(module.parameters()).device
    for done, batch in enumerate(pixels.split(16)):
        best.append(module(batch.to(device)).argmax(dim=-1).cpu())
        print(
            f"\r{name}: {16 * done + len(batch)}/{len(pixels)} pictures",
            end="",
            file=sys.stderr,
        )
    print(file=sys.stderr)
    return torch.cat(best)


@torch.inference_mode()
def time_rounds(variants: list[Variant], batch: Tensor, rounds: int) -> list[list[float]]:
    """Seconds for one batch, per round and variant; a round before the first is not counted."""
    device = next(variants[0].module.parameters()).device
    batch = batch.to(device)
    seconds = []
    for number in range(rounds + 1):
        times = []
        for variant in variants:
            started = time.perf_counter()
            variant.module(batch)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - started)
        if number > 0:
            seconds.append(times)
    return seconds


if __name__ == "__main__":
    main()
