"""What each tier of a model costs and gives: tokens, GMAC, top-1 on the probe set, images/s.

    python -m benchmarks.tiers

All tiers are timed in turn, round by round, so that a change of the machine's speed hits them
alike; the speed-up is the median of the rounds' ratios to `exact`.
"""

import argparse
import json
from pathlib import Path

import torch

from benchmarks.measure import environment
from benchmarks.measure.pictures import BUNDLED, PROBE, load_probe, predict, share_equal
from benchmarks.measure.timing import median_speed, time_rounds
from service import tiers
from service.backends.placement import choose
from service.models import catalog
from service.tiers import TIERS


def main() -> None:
    """Print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=BUNDLED)
    parser.add_argument("--probe", type=Path, default=PROBE)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()

    model = catalog.load(arguments.model, choose(arguments.device, "auto", "float32"))
    pixels, labels = load_probe(model, arguments.probe)
    variants = {tier: model.variant(*tiers.of_tier(model.limits, tier)) for tier in TIERS}
    answers = {tier: predict(variant.module, pixels, tier) for tier, variant in variants.items()}
    modules = [variant.module for variant in variants.values()]
    batch = pixels[: arguments.batch_size].to(next(modules[0].parameters()).device)
    timings = time_rounds(modules, batch, rounds=arguments.rounds)
    rows = []
    for (tier, variant), times in zip(variants.items(), timings, strict=True):
        images_per_s, speed_up = median_speed(times, len(batch))
        rows.append(
            {
                "tier": tier,
                "r": variant.r,
                "tokens": variant.num_output_tokens,
                "gmacs": round(variant.macs / 1e9, 2),
                "macs_ratio": round(variant.macs / model.dense_macs, 3),
                "top1": share_equal(answers[tier], labels),
                "agreement": share_equal(answers[tier], answers["exact"]),
                "speed_up": round(speed_up, 2),
                "images_per_s": round(images_per_s, 1),
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


if __name__ == "__main__":
    main()
