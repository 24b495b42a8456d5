"""What calibrated tiers keep at the same cost: against constant r with RAPID, ToMe and ToFu.

    python -m benchmarks.calibration --png docs/images/calibration.png

Every row stays below the same shares of the unreduced model's multiply-adds, by exact counts. JSON
goes to stdout, progress to stderr.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import rapid_core
from benchmarks.measure import environment
from benchmarks.measure.pictures import BUNDLED, PROBE, load_probe, predict, share_equal
from service.backends.placement import choose
from service.models import catalog
from service.models.served import ServedModel
from service.tiers import TIER_MACS, TIERS, Tier

METHODS = ("rapid", "tome", "tofu")
CALIBRATED = "calibrated"


class Row(NamedTuple):
    """One method at one cost; shares are in 0 ... 1."""

    method: str
    tier: Tier
    macs_ratio: float
    top1: float
    agreement: float
    """with the unreduced model, on all pictures."""
    held_out_agreement: float | None
    """on those that the calibration has not seen, as `tiers.json` says."""


def main() -> None:
    """Print one JSON document; draw a plot where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=BUNDLED, help="with a tiers.json beside it")
    parser.add_argument("--probe", type=Path, default=PROBE)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--png", type=Path, help="plot of top-1 against multiply-adds")
    arguments = parser.parse_args()

    model = catalog.load(arguments.model, choose(arguments.device, "auto", "float32"))
    pixels, labels = load_probe(model, arguments.probe)
    dense = predict(model.variant("rapid", 0).module, pixels, "dense")
    rows = [
        measure(model, method, tier, pixels, (dense, labels))
        for tier in TIERS[1:]
        for method in (CALIBRATED, *METHODS)
    ]
    dense_top1 = share_equal(dense, labels)
    if arguments.png:
        plot(rows, dense_top1, arguments.png)
    result = {
        "model": model.name,
        "device": arguments.device,
        "num_pictures": len(labels),
        "dense_top1": dense_top1,
        "rows": [row._asdict() for row in rows],
        "environment": environment.describe(),
    }
    print(json.dumps(result, indent=1))


def measure(
    model: ServedModel, method: str, tier: Tier, pixels: Tensor, truth: tuple[Tensor, Tensor]
) -> Row:
    """Run one method at the cost of one tier.

    Args:
        model: with calibrated tiers.
        method: a method at constant r, or "calibrated".
        tier: says how many multiply-adds are allowed.
        pixels: (M, 3, H, W).
        truth: classes (M,) of the unreduced model, and of the labels.
    """
    if method == CALIBRATED:
        module = model.variant("rapid", None, tier).module
    else:
        dense = model.variant("rapid", 0).module  # patching replaces its reduction, not the weights
        module = rapid_core.patch(
            dense,
            macs_ratio=model.dense_macs / rapid_core.macs(dense) * TIER_MACS[tier],
            method=method,
            prefix_only=True,
        )
    found = predict(module, pixels, f"{tier} {method}")
    return Row(
        method=method,
        tier=tier,
        macs_ratio=round(rapid_core.macs(module) / model.dense_macs, 4),
        top1=share_equal(found, truth[1]),
        agreement=share_equal(found, truth[0]),
        held_out_agreement=model.agreement(tier) if method == CALIBRATED else None,
    )


def plot(rows: list[Row], dense_top1: float, path: Path) -> None:
    """Top-1 against the share of the multiply-adds, one line a method."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for method in (CALIBRATED, *METHODS):
        points = [(100 * row.macs_ratio, 100 * row.top1) for row in rows if row.method == method]
        label = "RAPID, calibrated tiers" if method == CALIBRATED else f"{method}, constant r"
        axes.plot(*zip(*points, strict=True), marker="o", label=label)
    axes.axhline(100 * dense_top1, color="grey", linestyle=":", label="unreduced")
    axes.set_xlabel("multiply-adds, % of the unreduced model")
    axes.set_ylabel("top-1, %")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
